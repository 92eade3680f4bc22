"""Figure of the size of weights under Amos: a panel a damping, and a column for each case."""

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.grid import lay_out_grid, share_legend
from analysis.figures.style import FAINT, INK, PALETTE, SCREEN, Style

MOST = 6  # cases


def draw_amos(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS over that at first against step: on pure noise a panel a damping, then a panel a matrix of a network.

    Args:
        table: of analysis/amos.py.
    """
    walk, text = table[table["walk"]], table[~table["walk"]]
    panels = [(f"pure noise, {damping}", rows, False) for damping, rows in walk.groupby("damping", sort=False)]
    for case in list(text["case"].unique())[:MOST]:
        rows = text[text["case"] == case]
        panels.append((case, rows[rows["lr"] == rows["lr"].max()], True))
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs of Amos · circles measured (momentum .9 where "
        "there are two), lines the recursion with Amos's own lr and weight decay, no free parameter · of a "
        "network the largest lr · dashed: constant"
    )
    fig, grid = lay_out_grid(len(panels), 3, title, caption, style)
    left = list(panels)
    for row in grid:
        colours: dict[str, str] = {}
        for ax in row:
            name, rows, by_damping = left.pop(0)
            draw_panel(ax, rows[rows["momentum"] == rows["momentum"].max()], by_damping, colours)
            ax.set_title(name)
        row[0].set_ylabel("RMS / at first", color=INK)
        handles: list[Artist] = [
            Line2D([], [], color=colour, marker="o", ms=3, mfc="none", label=label) for label, colour in colours.items()
        ]
        share_legend(row, [*handles, Line2D([], [], color=FAINT, ls="--", label="constant")])
    for ax in grid[-1]:
        ax.set_xlabel("step")
    return fig


def draw_panel(ax: Axes, rows: pd.DataFrame, by_damping: bool, colours: dict[str, str]) -> None:
    """Curves of a panel; colours: label -> colour, of the whole row, added to."""
    for _, own in rows.groupby("run_id", sort=False):
        own, first = own.sort_values("step"), own.iloc[0]
        aligned = "" if pd.isna(first["alignment"]) else f", p = {first['alignment']:g}"
        label = str(first["damping"]) if by_damping else f"lr = {first['lr']:g}{aligned}"
        colour = colours.setdefault(label, PALETTE[len(colours) % len(PALETTE)])
        ax.plot(own["step"], own["predicted"], "-", lw=1.2, color=colour)
        ax.plot(own["step"], own["measured"], "o", ms=2, mew=0.6, color=colour, mfc="none", markevery=2)
    ax.axhline(1, ls="--", lw=1, color=FAINT)
    ax.set_ylim(bottom=0)
