"""Figure of noise scales along training: a panel a batch size of a group, or a probed task, against the step."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.analyse import Analysis
from analysis.figures.histories import COLUMNS, GAP, LEFT, PANEL, ROWS, caption_of, lay_out_grid, thin
from analysis.figures.style import FAINT, INK, PALETTE, SCREEN, Style, set_ticks, short_number, use_round_numbers
from analysis.groups import label_group, select_group
from analysis.noise_scales import Checkpoint, Scales, has_scales, read_checkpoints, read_scales
from analysis.objectives import OBJECTIVE
from analysis.one_step import keys_of, label_checkpoint

UPDATES = "B_simple of updates"
COLOURS = {"B_simple": PALETTE[0], "B_noise": PALETTE[1], UPDATES: PALETTE[2]}
MARKS = {"B_simple": "o", "B_noise": "s"}
RIGHT = 2.15  # inches for the legend


@dataclass(frozen=True)
class Panel:
    """What one panel shows; `batch_size` is that of the training."""

    heading: str
    batch_size: int
    scales: Sequence[Scales]
    checkpoints: Sequence[Checkpoint] = ()


def has_noise_scales(analysis: Analysis) -> bool:
    """Whether some run was trained with metrics.noise_scale=true and was long enough to measure."""
    return has_scales(analysis.runs.frame)


def draw_noise_scales(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A panel a group and batch size, at the learning rate that was best; more than a page shows are thinned out."""
    frame = analysis.runs.frame
    names = list(analysis.runs.groups)
    groups = [dict(zip(names, row, strict=True)) for row in frame[names].drop_duplicates().itertuples(index=False)]
    found = [panels_of(select_group(frame, group), label_group(group)) for group in (groups if names else [{}])]
    found = [panels for panels in found if panels]
    shown = [found[i] for i in thin(range(len(found)), ROWS)]
    most = COLUMNS * ROWS if len(shown) == 1 else COLUMNS
    sizes = max(len(panels) for panels in found)
    panels = [row[i] for row in shown for i in thin(range(len(row)), most)]
    below = f"Noise scales along training, {analysis.runs.protocol}"
    caption = caption_of(analysis, min(most, sizes), sizes, len(shown))
    return draw_panels(panels, (analysis.question, below), caption, style)


def panels_of(rows: pd.DataFrame, label: str) -> list[Panel]:
    """A panel a batch size, of the learning rate with the best mean over its seeds."""
    panels: list[Panel] = []
    for size, cell in rows[rows["status"] == "done"].groupby("batch_size"):
        means = cell.groupby("optimizer.lr")[OBJECTIVE].mean()
        lr = means.idxmin() if np.isfinite(means).any() else means.index[0]
        if scales := read_scales(cell[cell["optimizer.lr"] == lr]):
            heading = textwrap.fill(label, 40) + "\n" if label and not panels else ""
            panels.append(Panel(f"{heading}batch size {size:g}, lr {lr:.3g}", int(str(size)), scales))
    return panels


def draw_probed(rows: pd.DataFrame, histories: pd.DataFrame, title: str, style: Style = SCREEN) -> Figure:
    """A panel a task of probed checkpoints, over the noise scales of their own training where the records have them.

    Args:
        rows: of analyse_probes.
        histories: records of the same runs, or a table that has no histories.
    """
    keys = [key for key in keys_of(rows) if key != "num_steps"]
    panels = []
    for values, group in rows.groupby(keys, sort=False, dropna=False) if keys else [((), rows)]:
        label = label_checkpoint(dict(zip(keys, values, strict=True)))
        longest = group.sort_values("num_steps")["run_id"].iloc[-1]  # its curve holds those of shorter runs
        own = histories[histories["run_id"] == longest]
        scales = read_scales(own) if has_scales(own) else []
        panels.append(Panel(label, int(group["batch_size"].iloc[0]), scales, read_checkpoints(group)))
    caption = f"protocol one_step · {rows['run_id'].nunique()} checkpoints"
    return draw_panels(panels, (title, "Noise scales of probed checkpoints"), caption, style)


def draw_panels(panels: Sequence[Panel], titles: Sequence[str], caption: str, style: Style) -> Figure:
    """All panels on one axis of noise scales, so that they can be compared, with one legend; a line or more a title."""
    columns = min(COLUMNS // 2 if style.narrow else COLUMNS, len(panels))
    caption += " · B_simple = tr Σ / g·g, B_noise = tr(ΣH) / g·Hg"
    if any(scales.quantity == UPDATES for panel in panels for scales in panel.scales):
        caption += f" · {UPDATES}: from the RMS of Adam's, where that tells"
    if any(panel.checkpoints for panel in panels):
        caption += " · marks: probed checkpoints, bars 95 %, cut at the panel's edge where g·g or g·Hg may be 0"
    if any(len(scales.seeds) > 1 for panel in panels for scales in panel.scales):
        caption += " · thick: seeds pooled, thin: each seed's own"
    width = int(8 * (LEFT + columns * (PANEL[0] + GAP[0]) + RIGHT))  # letters
    title = "\n".join(textwrap.fill(text, width) for text in titles)
    fig, axes = lay_out_grid(-(-len(panels) // columns), columns, title, caption, style, RIGHT)
    low, high = limits(panels)
    for i, (ax, panel) in enumerate(zip(axes, panels, strict=False)):
        draw_panel(ax, panel)
        ax.set_ylim(low, high)
        use_round_numbers(ax.yaxis, low, high, most=6, label=short_number)
        ax.tick_params(axis="y", labelleft=i % columns == 0)
        ax.set_ylabel("noise scale, samples" if i % columns == 0 else "")
        ax.set_xlabel("training step" if i + columns >= len(panels) else "")
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    add_legend(fig, axes[columns - 1], panels)
    return fig


def draw_panel(ax: Axes, panel: Panel) -> None:
    """Lines of what the runs' own steps measured, marks of checkpoints, dotted the batch size of the training."""
    ax.set_title(panel.heading)
    ax.axhline(panel.batch_size, color=FAINT, lw=0.9, ls=":", zorder=1)
    ends = [each.step for each in panel.checkpoints]
    for scales in panel.scales:
        colour = COLOURS[scales.quantity]
        look = {"lw": 0.7, "alpha": 0.45} if len(scales.step_P) else {"lw": 1.2, "ls": "--"}
        for step_P, value_P in scales.seeds:
            told = np.isfinite(value_P)
            ax.plot(step_P[told], value_P[told], color=colour, zorder=2, **look)
            ends += [*step_P[told]]
        # marks, since a single point is no line, and gaps where a point tells nothing
        ax.plot(scales.step_P, scales.pooled_P, "-o", ms=2.2, color=colour, lw=1.8, zorder=3)
    for each in panel.checkpoints:
        colour = COLOURS[each.quantity]
        shifted = each.step * (1.03 if each.quantity == "B_noise" else 0.97)  # or the bars would hide one another
        ax.plot([shifted] * 2, [max(each.low, 1e-9), min(each.high, 1e12)], "-", color=colour, lw=1.1, zorder=4)
        ax.plot(shifted, each.value, MARKS[each.quantity], ms=5, mfc=colour, mec=INK, mew=0.5, zorder=5)
    low, high = min(ends) / 1.25, max(ends) * 1.25
    if panel.checkpoints:
        set_ticks(ax.xaxis, sorted({each.step for each in panel.checkpoints}), lambda value, _: f"{value:g}")
    else:
        use_round_numbers(ax.xaxis, low, high, most=5, label=short_number)
    ax.set_xlim(low, high)


def limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """Of the noise axis: all that is told, and the batch sizes; one seed's wildest points and bars may leave it."""
    values = [float(panel.batch_size) for panel in panels]
    for panel in panels:
        values += [each.value for each in panel.checkpoints]
        for scales in panel.scales:
            own = (
                scales.pooled_P if np.isfinite(scales.pooled_P).any() else np.concatenate([v for _, v in scales.seeds])
            )
            values += [*own[np.isfinite(own)]]
    return min(values) / 2, max(values) * 2


def add_legend(fig: Figure, ax: Axes, panels: Sequence[Panel]) -> None:
    """One legend beside the first row, of what some panel shows."""
    drawn = {scales.quantity for panel in panels for scales in panel.scales}
    marked = {each.quantity for panel in panels for each in panel.checkpoints}
    handles = [
        Line2D([], [], color=colour, lw=1.5, ls="--" if name == UPDATES else "-", label=name)
        for name, colour in COLOURS.items() if name in drawn
    ]  # fmt: skip
    handles += [
        Line2D([], [], color=COLOURS[name], marker=mark, ls="", ms=5, mec=INK, mew=0.5, label=f"{name}, probed")
        for name, mark in MARKS.items() if name in marked
    ]  # fmt: skip
    handles.append(Line2D([], [], color=FAINT, ls=":", lw=0.9, label="batch size"))
    box = ax.get_position()
    width = float(fig.get_figwidth())
    legend = fig.legend(handles=handles, loc="upper left", bbox_to_anchor=(box.x1 + 0.12 / width, box.y1 + 0.02))
    legend.set_alignment("left")
