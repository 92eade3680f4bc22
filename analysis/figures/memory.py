"""Figure of what a final model remembers of its run: a row a task and batch size, a panel a schedule."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.grid import lay_out_grid, share_legend
from analysis.figures.style import FAINT, INK, PALETTE, SCREEN, Style
from analysis.memory_fit import find_extra, fit_shape

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
    fig, grid = lay_out_grid(len(groups) * len(schedules), len(schedules), title, caption, style)
    axes = [(ax, row) for row in grid for ax in row]
    handles: dict[int, list[Artist]] = {}
    for k, ((task, size), own) in enumerate(groups):
        rho = find_extra(list(own["cell"]))
        for i, schedule in enumerate(schedules):
            ax, row = axes[k * len(schedules) + i]
            drawn = draw_panel(ax, own[own["schedule"] == schedule], rho)
            ax.set_title(schedule)
            if ax is row[0]:
                ax.set_ylabel(f"{task}, batch {size}\nmemory (loss)", fontsize="small")
            if k == len(groups) - 1:
                ax.set_xlabel("position in the run")
            handles.setdefault(id(row), []).extend(drawn)
    for row in grid:
        share_legend(row, sorted(handles[id(row)], key=lambda handle: str(handle.get_label()).startswith("ρ")))
    return fig


def draw_panel(ax: Axes, some: pd.DataFrame, rho: float) -> list[Artist]:
    cells = list(some["cell"])
    if not cells:
        return []
    law = fit_shape(cells, [cell.decay_T for cell in cells]).amplitudes
    with_rho = fit_shape(cells, [cell.decay_T + rho for cell in cells]).amplitudes
    handles: list[Artist] = []
    ax.axhline(0, color=FAINT, lw=0.8)
    for (_, row), colour in zip(some.iterrows(), PALETTE, strict=False):
        cell = row["cell"]
        joined = max(1, len(cell.measured_J) // POINTS)
        shares, measured = (join(values, joined) for values in (row["shares"], cell.measured_J))
        ax.errorbar(
            shares, measured, cell.error / joined**0.5, fmt="o", ms=2.5, lw=0.7, color=colour, mfc="none", zorder=2
        )
        ax.plot(row["shares"], law[cell.curve] * cell.weights(cell.decay_T), "-", lw=1.3, color=colour, zorder=3)
        ax.plot(
            row["shares"], with_rho[cell.curve] * cell.weights(cell.decay_T + rho), "--", lw=1.1, color=colour, zorder=3
        )
        handles.append(Line2D([], [], color=colour, marker="o", ms=3.5, mfc="none", label=f"κ = {row['kappa']:.2g}"))
    handles.append(Line2D([], [], color=INK, ls="--", label=f"ρ = {rho:.2g}"))
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1])
    return handles


def join(values: np.ndarray, count: int) -> np.ndarray:
    """Means of neighbours."""
    whole = len(values) // count * count
    return np.asarray(values[:whole].reshape(-1, count).mean(1))
