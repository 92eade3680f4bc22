"""Figure of the best weight decay: loss against weight decay, and the best one against lr times steps."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import INK, PALETTE, SCREEN, Style, lay_out, place_legend, short_number, use_round_numbers

MARKERS = "osD^vP"


def draw_weight_decay(
    rows: pd.DataFrame,
    table: pd.DataFrame,
    slopes: dict[str, tuple[float, float, float]],
    title: str,
    style: Style = SCREEN,
) -> Figure:
    """Curves of every cell, a colour an lr, a marker a number of steps; the law's line has its own constant fitted.

    Args:
        rows, table, slopes: of analysis/weight_decay.py.
    """
    caption = (
        f"protocol fixed_steps · {len(rows)} runs of AdamW · left: mean over seeds less the least, × the best weight "
        "decay · right: with 95 % intervals, hollow where it lies at an edge of the grid or beyond; line: lr × weight "
        "decay × steps = κ"
    )
    fig, ((left, right),) = lay_out(1, title, caption, (0.85, 6.6), style, width=12.6)
    colours = dict(zip(sorted(table["lr"].unique()), PALETTE, strict=False))
    marks = dict(zip(sorted(table["num_steps"].unique()), MARKERS, strict=False))
    draw_curves(left, rows, table, colours, marks)
    for _, cell in table.iterrows():
        located = cell["status"] == "interior"
        error = [[cell["weight_decay"] - cell["low"]], [cell["high"] - cell["weight_decay"]]] if located else None
        colour = colours[cell["lr"]]
        right.errorbar(
            cell["lr"] * cell["num_steps"], cell["weight_decay"], yerr=error, fmt=marks[cell["num_steps"]], ms=5,
            color=colour, mfc=colour if located else "none",
        )  # fmt: skip
    across = np.array([table["lr"].min() * table["num_steps"].min(), table["lr"].max() * table["num_steps"].max()])
    if "constant" in slopes:
        right.plot(across, slopes["constant"][0] / across, "-", lw=1.2, color=INK)
    right.set_title("best weight decay")
    right.set_xlabel("lr × steps")
    right.set_ylabel("weight decay")
    use_round_numbers(right.xaxis, across[0] / 1.3, across[1] * 1.3, most=6, label=short_number)
    right.set_xlim(across[0] / 1.3, across[1] * 1.3)
    low, high = right.get_ylim()
    use_round_numbers(right.yaxis, max(low, table["weight_decay"].min() / 3), high, most=6)
    handles = [Line2D([], [], color=colour, lw=2, label=f"lr {rate:.3g}") for rate, colour in colours.items()]
    handles += [Line2D([], [], color=INK, marker=mark, ls="", label=f"{steps} steps") for steps, mark in marks.items()]
    if "constant" in slopes:
        handles.append(Line2D([], [], color=INK, label=f"κ = {slopes['constant'][0]:.2g}"))
    place_legend(right, "", handles)
    return fig


def draw_curves(
    ax: Axes, rows: pd.DataFrame, table: pd.DataFrame, colours: dict[float, str], marks: dict[int, str]
) -> None:
    done = rows[rows["status"] == "done"]
    top = 0.0
    for (rate, steps), own in done.groupby(["optimizer.lr", "num_steps"]):
        colour, mark = colours[float(str(rate))], marks[int(str(steps))]
        curve = own.groupby("optimizer.weight_decay")["loss"].mean()
        excess = curve - curve.min()
        top = max(top, float(excess.quantile(0.6)))
        ax.plot(curve.index, excess, "-", lw=1, marker=mark, ms=4, mfc="none", color=colour)
    for _, cell in table[table["status"] == "interior"].iterrows():
        ax.plot(cell["weight_decay"], -0.04 * top, "x", ms=6, color=colours[cell["lr"]])
    ax.set_ylim(-0.08 * top, top)
    ax.set_title("loss by weight decay")
    ax.set_xlabel("weight decay")
    ax.set_ylabel("loss less the cell's least")
    decays = done["optimizer.weight_decay"]
    use_round_numbers(ax.xaxis, float(decays.min()), float(decays.max()), most=6)
