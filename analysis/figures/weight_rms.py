"""Figures of the size that weights settle at: against sqrt(lr / (2 weight_decay)), and under a drift."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import (
    FAINT,
    INK,
    MARKERS,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    place_legend,
    short_number,
    use_round_numbers,
)

LIVE = ", live rows"
PANELS = 4


def draw_weight_rms(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """A panel a case: RMS against sqrt(lr / (2 weight_decay)), a colour an optimizer on walks and a tensor in networks.

    Args:
        table: of analysis/weight_rms.py.
    """
    shown = table[table["settled"] & ~(table["signal"] > 0)]
    cases = list(shown["case"].unique())[: 2 * PANELS]
    caption = (
        f"protocol fixed_steps · {shown['run_id'].nunique()} runs that have forgotten their start · dotted: the law, "
        "bars: on walks, with the optimizer's own factor · hollow: rows that ever had a gradient"
    )
    lines = -(-len(cases) // 2)
    fig, grid = lay_out(lines, title, caption, (0.8, 7.5), style, width=14.0)
    for ax, case in zip([ax for row in grid for ax in row], cases, strict=False):
        draw_case(ax, shown[shown["case"] == case], case)
    for ax in [ax for row in grid for ax in row][len(cases) :]:
        ax.set_visible(False)
    return fig


def draw_case(ax: Axes, rows: pd.DataFrame, case: str) -> None:
    """Points and the line y = x of one case."""
    walk = bool(rows["walk"].iloc[0])
    key = "optimizer" if walk else "tensor"
    names = list(rows[key].unique())
    x = np.sqrt(rows["lr"] / (2 * rows["weight_decay"]))
    handles = []
    for name, colour, marker in zip(names, PALETTE, MARKERS, strict=False):
        own = rows[key] == name
        look = {"ms": 6, "mfc": "none"} if str(name).endswith(LIVE) else {"ms": 4}
        ax.plot(x[own], rows["measured"][own], marker, color=colour, ls="", **look)
        if walk:
            ax.plot(x[own], rows["equilibrium"][own], "_", ms=13, mew=1, color=colour)
        handles.append(Line2D([], [], color=colour, marker=marker, ls="", label=textwrap.fill(str(name), 24), **look))
    ends = np.array([x.min() / 1.2, x.max() * 1.2])
    if not walk:
        ax.plot(ends, ends, ":", lw=1.2, color=INK)
    ax.set_xscale("log")
    ax.set_yscale("log")
    use_round_numbers(ax.xaxis, *ends, most=5, label=short_number)
    low, high = ax.get_ylim()
    use_round_numbers(ax.yaxis, low, high, most=6, label=short_number)
    ax.set_title(case)
    ax.set_xlabel("√(lr / (2 weight_decay))")
    ax.set_ylabel("RMS of the weights")
    place_legend(ax, key, handles)


def draw_drift(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS over sqrt(lr / (2 weight_decay)) against s over lr weight_decay / 2, where the walk's noise gives way."""
    rows = table[(table["signal"] > 0) & table["settled"] & (table["optimizer"] == "adamw")]
    caption = f"protocol fixed_steps · {len(rows)} runs of AdamW on random_walk with a drift · line: the law at small s"
    fig, [[ax, *_]] = lay_out(1, title, caption, (0.85,), style, width=7.5)
    x = 2 * rows["signal"] / (rows["lr"] * rows["weight_decay"])
    for (signal, own), colour, marker in zip(rows.groupby("signal"), PALETTE, MARKERS, strict=False):
        ax.plot(
            x[own.index],
            own["measured"] / own["equilibrium"],
            marker,
            ms=4.5,
            color=colour,
            ls="",
            label=f"{signal:.2g}",
        )
        ax.plot(x[own.index], own["static"] / own["equilibrium"], "_", ms=11, color=colour)
    grid = np.geomspace(x.min() / 1.5, x.max() * 1.5, 100)
    ax.plot(grid, np.sqrt(1 + grid), "-", lw=1, color=FAINT)
    ax.set_xscale("log")
    ax.set_yscale("log")
    use_round_numbers(ax.xaxis, float(grid[0]), float(grid[-1]), most=6, label=short_number)
    use_round_numbers(ax.yaxis, *ax.get_ylim(), most=6, label=short_number)
    ax.set_xlabel("signal s over lr weight_decay / 2")
    ax.set_ylabel("RMS over √(lr / (2 weight_decay))")
    place_legend(ax, "s = B / B_simple\n(bar: predicted)")
    return fig
