"""Learning curves of a sweep: held-out loss against samples, a panel a batch size, a colour a learning rate."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure

from analysis.analyse import Analysis
from analysis.figures.style import (
    FAINT,
    INK,
    SCREEN,
    Style,
    hide_labels,
    measure_caption,
    measure_heading,
    name_loss_unit,
    short_number,
    use_log_lr,
    use_round_numbers,
    write_caption,
    write_heading,
)
from analysis.groups import label_group, select_group
from analysis.objectives import TARGET

COLUMNS, ROWS = 4, 3  # most panels that a page shows
PANEL, GAP = (2.55, 2.0), (0.3, 0.95)  # inches before the style's scale
LEFT, RIGHT, BELOW = 0.8, 1.2, 0.7
SAMPLES, LOSS = "history.num_samples", "history.loss"
COLOURS = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.92, 128)))  # the yellow end is faint on white
Curve = tuple[float, np.ndarray, np.ndarray, bool]  # learning rate, samples, loss, whether it diverged


def has_histories(analysis: Analysis) -> bool:
    """Whether runs over learning rates bring their learning curves: records do, a committed csv does not."""
    frame = analysis.runs.frame
    if analysis.figure == "curves":
        return False  # there they are the figure of the sweep itself
    return {SAMPLES, LOSS} <= set(frame.columns) and bool(frame[SAMPLES].map(lambda points: np.size(points) > 1).any())


def draw_histories(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A panel a batch size, a row a group where there are several; every learning rate's mean over seeds.

    The learning rate nearest the optimum is thick; a run that diverged ends with a cross. More groups or batch sizes
    than a page shows are thinned out evenly, and the caption says so.
    """
    frame = analysis.runs.frame
    sizes = sorted(int(size) for size in frame["batch_size"].unique())
    across = COLUMNS // 2 if style.narrow else COLUMNS
    shown_sizes = thin(sizes, COLUMNS * ROWS if len(analysis.groups) == 1 else COLUMNS)
    answers = [analysis.groups[i] for i in thin(range(len(analysis.groups)), ROWS)]
    columns = min(across, len(shown_sizes))
    num_rows = -(-len(answers) * len(shown_sizes) // columns)
    title = textwrap.fill(analysis.question, 30 + 30 * columns) + f"\nLearning curves, {analysis.runs.protocol}"
    caption = caption_of(analysis, len(shown_sizes), len(sizes), len(answers))
    fig, axes = lay_out_grid(num_rows, columns, title, caption, style)
    lrs = sorted(float(lr) for lr in frame["optimizer.lr"].unique())
    norm = LogNorm(lrs[0], max(lrs[-1], 1.001 * lrs[0]))
    panels = iter(axes)
    for answer in answers:
        rows = select_group(frame, answer.group)
        cells = {size: read_curves(rows[rows["batch_size"] == size]) for size in shown_sizes}
        low, high = span([curve for curves in cells.values() for curve in curves])
        best = {o.batch_size: o.lr for o in answer.optima}
        first = next((size for size, curves in cells.items() if curves), None)
        for index, (size, curves) in enumerate(cells.items()):
            ax = next(panels)
            if not curves:  # a batch size of other groups only
                ax.set_visible(False)
                continue
            heading = label_group(answer.group) if size == first else ""
            ax.set_title("\n".join(text for text in (textwrap.fill(heading, 40), f"batch size {size}") if text))
            draw_curves(ax, curves, norm, best.get(size), (low, high))
            use_round_numbers(ax.yaxis, low, high, most=5)
            if index % columns and size != first:
                hide_labels(ax.yaxis)
            else:
                ax.set_ylabel("held-out loss" + name_loss_unit(frame))
            if (rows["protocol"] == TARGET).all():
                ax.axhline(float(rows["target_loss"].iloc[0]), color=INK, lw=0.8, ls=":", zorder=1)
            ax.set_xlabel("training samples" if index + columns >= len(shown_sizes) else "")
    for ax in panels:
        ax.set_visible(False)
    add_colour_bar(fig, axes[0], norm, style)
    return fig


def read_curves(cell: pd.DataFrame) -> list[Curve]:
    """The curves of one cell: the seeds of a learning rate as their mean where they have the same points."""
    curves: list[Curve] = []
    for lr, rows in cell.groupby("optimizer.lr"):
        whole: list[Curve] = []
        for samples, loss, status in zip(rows[SAMPLES], rows[LOSS], rows["status"], strict=True):
            x, y = (np.asarray([] if np.ndim(points) == 0 else points, dtype=float) for points in (samples, loss))
            seen = (x > 0) & np.isfinite(y)
            whole.append((float(str(lr)), x[seen], y[seen], status == "diverged"))
        done = [curve for curve in whole if not curve[3]]
        if len({tuple(curve[1]) for curve in done}) == 1:
            done = [(done[0][0], done[0][1], np.mean([curve[2] for curve in done], axis=0), False)]
        curves += [*done, *(curve for curve in whole if curve[3])]
    return curves


def span(curves: Sequence[Curve]) -> tuple[float, float]:
    """Lowest and highest loss of a row's panels: curves of much too high learning rates, and their beginnings, would
    flatten all others."""
    losses = np.concatenate([curve[2][len(curve[2]) // 4 :] for curve in curves if not curve[3]] or [np.array([1.0])])
    low, high = (float(x) for x in np.quantile(losses, (0.0, 0.9))) if len(losses) else (1.0, 2.0)
    return (low / 1.03, high * 1.05) if low > 0 else (low - 0.05 * (high - low), high + 0.05 * (high - low) or 1.0)


def draw_curves(
    ax: Axes, curves: Sequence[Curve], norm: LogNorm, best: float | None, limits: tuple[float, float]
) -> None:
    """All curves of one panel as one collection of lines, which is quick."""
    colours = {lr: COLOURS(float(norm(lr))) for lr in {curve[0] for curve in curves}}
    done = {curve[0] for curve in curves if not curve[3]}
    nearest = min(done, key=lambda lr: abs(np.log(lr / best))) if best and done else None
    lines = [np.column_stack(curve[1:3]) for curve in curves]
    widths = [2.8 if curve[0] == nearest else 0.9 for curve in curves]
    ax.add_collection(LineCollection(lines, colors=[colours[curve[0]] for curve in curves], linewidths=widths))
    for lr, x, y, broken in curves:
        if broken and len(x):
            height = min(float(y[-1]), limits[1])
            ax.plot(x[-1], height, "x", ms=4.5, mew=1.2, color=colours[lr], zorder=4, clip_on=False)
    if early := sum(curve[3] and not len(curve[1]) for curve in curves):
        text = f"× {early} diverged before the first point"
        ax.text(0.98, 0.97, text, transform=ax.transAxes, ha="right", va="top", fontsize="small", color=FAINT)
    xs = np.concatenate([curve[1] for curve in curves])
    if len(xs):
        low, high = float(xs.min()), float(xs.max())
        ax.set_xlim(low / 1.1, max(high, 1.01 * low) * 1.1)
        use_round_numbers(ax.xaxis, low / 1.1, max(high, 1.01 * low) * 1.1, most=5, label=short_number)
    ax.set_ylim(*limits)


def lay_out_grid(
    num_rows: int, num_columns: int, title: str, caption: str, style: Style, right: float = RIGHT
) -> tuple[Figure, list[Axes]]:
    """Panels of one size, row by row, a title above and room for the caption below and a colour bar or legend right."""
    above = 0.1 + measure_heading(title, style)
    width = LEFT + num_columns * PANEL[0] + (num_columns - 1) * GAP[0] + right
    below = BELOW + measure_caption(caption, width, style)
    height = above + num_rows * PANEL[1] + (num_rows - 1) * GAP[1] + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, title, style)
    write_caption(fig, caption, style)
    places = [
        (LEFT + column * (PANEL[0] + GAP[0]), height - above - PANEL[1] - row * (PANEL[1] + GAP[1]))
        for row in range(num_rows) for column in range(num_columns)
    ]  # fmt: skip
    return fig, [fig.add_axes((x / width, y / height, PANEL[0] / width, PANEL[1] / height)) for x, y in places]


def add_colour_bar(fig: Figure, first: Axes, norm: LogNorm, style: Style) -> None:
    """The colours of the learning rates, at the height of the first panel."""
    width = float(fig.get_figwidth()) / style.scale
    place = first.get_position()
    ax = fig.add_axes(((width - 1.05) / width, place.y0, 0.14 / width, place.height))
    bar = fig.colorbar(ScalarMappable(norm, COLOURS), cax=ax)
    bar.outline.set_visible(False)
    use_log_lr(ax.yaxis, float(norm.vmin or 1.0), float(norm.vmax or 1.0))
    ax.set_title("learning rate\n(thick: best)", fontsize=style.caption)


def thin(values: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly spread, both ends among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(i * (len(values) - 1) / (most - 1))] for i in range(most)]


def caption_of(analysis: Analysis, shown_sizes: int, sizes: int, shown_groups: int) -> str:
    """The caption of the sweep, with what is not shown."""
    parts = [analysis.caption]
    if shown_sizes < sizes:
        parts.append(f"{shown_sizes} of {sizes} batch sizes shown")
    if shown_groups < len(analysis.groups):
        parts.append(f"{shown_groups} of {len(analysis.groups)} groups shown")
    if (analysis.runs.frame["status"] == "diverged").any():
        parts.append("× a run that diverged, where its curve ends")
    return " · ".join(parts)
