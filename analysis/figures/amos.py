"""Figure of the size of weights under Amos: a panel a damping, and a column for each case."""

import textwrap

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import FAINT, INK, PALETTE, SCREEN, Style, lay_out, place_legend

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
        panels.append((f"{case}, lr = {rows['lr'].max():g}", rows[rows["lr"] == rows["lr"].max()], True))
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs of Amos · circles measured (momentum .9 where "
        "there are two), lines the recursion with Amos's own lr and weight decay, no free parameter · dashed: constant"
    )
    fig, grid = lay_out(-(-len(panels) // 2), textwrap.fill(title, 120), caption, (0.75, 7.3), style, width=14.0)
    axes = [ax for row in grid for ax in row]
    for ax, (name, rows, by_damping) in zip(axes, panels, strict=False):
        draw_panel(ax, rows[rows["momentum"] == rows["momentum"].max()], by_damping)
        ax.set_title(name)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    return fig


def draw_panel(ax: Axes, rows: pd.DataFrame, by_damping: bool) -> None:
    handles = []
    for (_, own), colour in zip(rows.groupby("run_id", sort=False), PALETTE, strict=False):
        own, first = own.sort_values("step"), own.iloc[0]
        ax.plot(own["step"], own["predicted"], "-", lw=1.2, color=colour)
        ax.plot(own["step"], own["measured"], "o", ms=3, mew=0.8, color=colour, mfc="none")
        aligned = "" if pd.isna(first["alignment"]) else f", p = {first['alignment']:g}"
        label = str(first["damping"]) if by_damping else f"lr = {first['lr']:g}{aligned}"
        handles.append(Line2D([], [], color=colour, marker="o", ms=3, mfc="none", label=label))
    ax.axhline(1, ls="--", lw=1, color=FAINT)
    handles.append(Line2D([], [], color=FAINT, ls="--", label="constant"))
    ax.set_xlabel("step")
    ax.set_ylabel("RMS of the weights / at first", color=INK)
    ax.set_ylim(bottom=0)
    place_legend(ax, "", handles)
