"""Figure of the root mean square of Adam's updates: on pure noise against beta2, and against the signal in a batch."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import INK, MARKERS, PALETTE, SCREEN, Style, lay_out, place_legend, use_round_numbers
from analysis.laws.update_rms import update_rms, update_rms_noise


def draw_update_rms(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """Left pure noise, right a drift and networks; a colour a beta1, lines the laws.

    Args:
        table: of analysis/update_rms.py.
    """
    still, moving = table[table["exact"].notna()], table[table["exact"].isna()]
    caption = (
        f"protocol fixed_steps · {len(table)} runs · RMS of the direction, learning rate divided out, at the last step"
    )
    fig, [[left, right]] = lay_out(1, title, caption, (0.75, 5.95), style, width=12.8)
    colours = dict(zip(sorted(table["beta1"].unique()), PALETTE, strict=False))
    draw_noise(left, still, colours)
    draw_signal(right, moving, colours)
    for ax in (left, right):
        ax.set_yscale("log")
        use_round_numbers(ax.yaxis, *ax.get_ylim(), most=7)
        ax.set_ylabel("RMS of Adam's update")
    handles = [Line2D([], [], color=colour, marker="o", ms=4, label=f"β₁ = {b:g}") for b, colour in colours.items()]
    handles += [
        Line2D([], [], color=INK, ls="", marker=marker, ms=4, mfc="none", label=textwrap.fill(str(case), 22))
        for case, marker in zip(moving["case"].unique(), MARKERS, strict=False)
    ]
    handles += [Line2D([], [], color=INK, ls="--", label="√((s+r)/(s+1))")]
    handles += [Line2D([], [], color=INK, ls="-", label="exact, finite\nmemory of v")] if len(still) else []
    place_legend(right, "", handles)
    return fig


def draw_noise(ax: Axes, rows: pd.DataFrame, colours: dict[float, str]) -> None:
    """RMS against 1 / (1 - beta2), the memory of v in steps."""
    ax.set_title("pure noise")
    ax.set_xscale("log")
    ax.set_xlabel("memory of the second moment 1/(1 − β₂), steps")
    if rows.empty:
        return
    memory = 1 / (1 - rows["beta2"].to_numpy(float))
    steps = float(rows["steps"].max())
    for beta1, colour in colours.items():
        own = (rows["beta1"] == beta1).to_numpy()
        ax.plot(memory[own], rows["measured"].to_numpy()[own], "o", ms=4, color=colour, mfc="none")
        grid = np.geomspace(memory.min() / 1.3, memory.max() * 1.3, 30)
        exact = [update_rms_noise(beta1, 1 - 1 / m, steps) for m in grid]
        ax.plot(grid, exact, "-", color=colour, lw=1)
        ax.axhline(float(update_rms(0.0, beta1)), color=colour, lw=1, ls="--")
    use_round_numbers(ax.xaxis, memory.min() / 1.3, memory.max() * 1.3, most=6)


def draw_signal(ax: Axes, rows: pd.DataFrame, colours: dict[float, str]) -> None:
    """RMS against s = B / B_simple."""
    ax.set_title("with a signal")
    ax.set_xscale("log")
    ax.set_xlabel("signal s = B / B_simple")
    seen = rows[(rows["signal"] > 0) & np.isfinite(rows["signal"])]
    if seen.empty:
        return
    low, high = float(seen["signal"].min()) / 1.5, float(seen["signal"].max()) * 1.5
    grid = np.geomspace(low, high, 100)
    for beta1, colour in colours.items():
        ax.plot(grid, update_rms(grid, beta1), "--", color=colour, lw=1)
        for case, marker in zip(seen["case"].unique(), MARKERS, strict=False):
            own = seen[(seen["beta1"] == beta1) & (seen["case"] == case)]
            ax.plot(own["signal"], own["measured"], marker, ms=4, color=colour, mfc="none")
    use_round_numbers(ax.xaxis, low, high, most=6)
