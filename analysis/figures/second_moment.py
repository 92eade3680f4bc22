"""Figures of second moments when the noise changes, a panel an optimizer and change of it."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import PALETTE, SCREEN, Style, lay_out, place_legend, short_number, use_round_numbers

NAMES = {"adam": "beta2", "adafactor": "c", "adax": "beta2"}
AROUND = 0.4  # share of the run before the change that is left out: nothing happens there


def draw_moments(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS of v against step.

    Args:
        table: of analysis/second_moment.py.
    """
    what = "lines: the root of Σ wᵢ stdᵢ², no free parameter"
    return draw_panels(table, title, ("measured", "predicted", "√(mean v)"), what, style)


def draw_updates(table: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """RMS of the direction against step."""
    what = "lines: the exact integral for g/√v, clipped at 1 by Adafactor, no free parameter"
    return draw_panels(table, title, ("update", "update_predicted", "RMS of the direction"), what, style)


def draw_panels(table: pd.DataFrame, title: str, columns: tuple[str, str, str], what: str, style: Style) -> Figure:
    optimizers, changes = list(table["optimizer"].unique()), sorted(table["std_after"].unique())[:2]
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs on random_walk · the standard deviation of gradients "
        f"changes at the dotted line · circles measured, {what}"
    )
    lefts = (0.8, 7.5)[: max(1, len(changes))]
    fig, grid = lay_out(len(optimizers), title, caption, lefts, style, width=14.0)
    for row, optimizer in zip(grid, optimizers, strict=True):
        for ax, after in zip(row, changes, strict=True):
            own = table[table["std_after"] == after]
            values = own[[*columns[:2]]].to_numpy(float)
            draw_panel(ax, own[own["optimizer"] == optimizer], columns, (values.min() / 1.2, values.max() * 1.2))
            before = table["std_before"].iloc[0]
            ax.set_title(f"{optimizer}, noise from {before:g} to {after:g}")
    return fig


def draw_panel(ax: Axes, rows: pd.DataFrame, columns: tuple[str, str, str], limits: tuple[float, float]) -> None:
    """Points and lines of one optimizer, on the axis that all optimizers share."""
    measured, predicted, label = columns
    rows = rows[rows["step"] >= AROUND * rows["step"].max()]
    handles = []
    for (value, own), colour in zip(rows.groupby("value"), PALETTE, strict=False):
        own = own.sort_values("step")
        ax.plot(own["step"], own[predicted], "-", lw=1.2, color=colour)
        ax.plot(own["step"], own[measured], "o", ms=3, mew=0.8, color=colour, mfc="none")
        name = NAMES[own["optimizer"].iloc[0]]
        handles.append(Line2D([], [], color=colour, marker="o", ms=3, mfc="none", label=f"{name} = {value:g}"))
    if rows.empty:
        return
    ax.axvline(rows["change"].iloc[0], ls=":", lw=1, color="#888888")
    ax.set_yscale("log")
    ax.set_ylim(*limits)
    use_round_numbers(ax.yaxis, *limits, most=6, label=short_number)
    ax.set_xlabel("step")
    ax.set_ylabel(label)
    place_legend(ax, "", handles)
