"""Figure of what a final model remembers of its run: a row a task and batch size, a panel a schedule."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.style import FAINT, INK, PALETTE, SCREEN, Style, lay_out, place_legend
from analysis.memory_fit import fit_extra, fit_shape

POINTS = 16  # most a curve


def draw_memory(table: pd.DataFrame, cells: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """Memory against position in the run, a colour a kappa; lines: the law, one amplitude a panel; dashes: with rho.

    Args:
        table, cells: of analysis/memory.py.
    """
    caption = (
        f"protocol fixed_steps · {table['run_id'].nunique()} runs of AdamW · points: loss on unseen samples less that "
        "on the run's own, final model, mean over seeds ± s.e. · lines: the law lr e^κ, one amplitude a panel, dashed "
        "with a rate ρ beside weight decay, one for all schedules of a task and batch size"
    )
    groups = list(cells.groupby(["task.name", "batch_size"], sort=False))
    schedules = list(cells["schedule"].unique())
    lefts = [0.85, 7.35][: len(schedules)]
    rows = -(-len(schedules) // len(lefts))
    fig, grid = lay_out(rows * len(groups), textwrap.fill(title, 120), caption, lefts, style, width=14.0)
    axes = [ax for row in grid for ax in row]
    for k, ((task, size), own) in enumerate(groups):
        extra = fit_extra(list(own["cell"]))
        panels = axes[k * rows * len(lefts) : (k + 1) * rows * len(lefts)]
        for ax, schedule in zip(panels, schedules, strict=False):
            some = own[own["schedule"] == schedule]
            draw_panel(ax, some, extra.value)
            ax.set_title(f"{task}, batch {size}: {schedule}")
        for ax in panels[len(schedules) :]:
            ax.set_visible(False)
    return fig


def draw_panel(ax, some: pd.DataFrame, rho: float) -> None:  # type: ignore[no-untyped-def]
    cells = list(some["cell"])
    if not cells:
        return
    law = fit_shape(cells, [cell.decay_T for cell in cells]).amplitudes
    with_rho = fit_shape(cells, [cell.decay_T + rho for cell in cells]).amplitudes
    handles = []
    ax.axhline(0, color=FAINT, lw=0.8)
    for (_, row), colour in zip(some.iterrows(), PALETTE, strict=False):
        cell = row["cell"]
        joined = max(1, len(cell.measured_J) // POINTS)
        shares, measured = (join(values, joined) for values in (row["shares"], cell.measured_J))
        ax.errorbar(
            shares, measured, cell.noise / joined**0.5, fmt="o", ms=3.5, lw=0.8, color=colour, mfc="none", zorder=2
        )
        ax.plot(row["shares"], law[cell.curve] * cell.weights(cell.decay_T), "-", lw=1.3, color=colour, zorder=3)
        ax.plot(
            row["shares"], with_rho[cell.curve] * cell.weights(cell.decay_T + rho), "--", lw=1.1, color=colour, zorder=3
        )
        handles.append(Line2D([], [], color=colour, marker="o", ms=3.5, mfc="none", label=f"κ = {row['kappa']:.2g}"))
    handles.append(Line2D([], [], color=INK, ls="--", label=f"ρ = {rho:.2g}"))
    place_legend(ax, "", handles)
    ax.set_xlabel("position in the run")
    ax.set_ylabel("memory (loss)")
    ax.set_xlim(0, 1)


def join(values: np.ndarray, count: int) -> np.ndarray:
    """Means of neighbours."""
    whole = len(values) // count * count
    return np.asarray(values[:whole].reshape(-1, count).mean(1))
