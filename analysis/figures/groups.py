"""Figure of groups at one batch size: loss curves, and each group's loss at its best learning rate."""

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.analyse import Analysis, GroupAnswer
from analysis.figures.optimum import MAX_COLOURS, PANEL_LEFTS, WIDTH
from analysis.figures.style import (
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    name_loss_unit,
    place_legend,
    use_exponential,
    use_log_lr,
)
from analysis.groups import select_group
from analysis.objectives import OBJECTIVE, is_steps, name_objective


def draw_groups(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A colour a group; where there are more groups than colours those of lowest loss."""
    best = sorted(analysis.groups, key=lambda answer: answer.optima[0].loss)[:MAX_COLOURS]
    shown = [answer for answer in analysis.groups if answer in best]
    rest = len(analysis.groups) - len(shown)
    more = f" · {rest} more groups are in {analysis.sweep}.json" * bool(rest)
    fig, [[left, right]] = lay_out(1, analysis.question, analysis.caption + more, PANEL_LEFTS, style, WIDTH)
    frame = analysis.runs.frame
    finite = frame[np.isfinite(frame[OBJECTIVE])]
    for answer, colour in zip(shown, PALETTE, strict=False):
        rows, o = select_group(finite, answer.group), answer.optima[0]
        left.plot(rows["optimizer.lr"], rows[OBJECTIVE], "o", ms=2.4, color=colour, alpha=0.4, mew=0)
        means = rows.groupby("optimizer.lr")[OBJECTIVE].mean()
        left.plot(means.index, means.to_numpy(), "-", color=colour, label=textwrap.fill(answer.label, 28))
        left.plot(o.lr, o.loss, "o", ms=5, mfc=colour if o.status == "interior" else "white", mec=colour)
    low, top = (float(q) for q in finite[OBJECTIVE].quantile([0.0, 0.8]))
    marked = [answer.optima[0].loss for answer in shown]  # these stand inside, wherever the runs lie
    low, top = min([low, *marked]), max([top, *marked])
    left.set_ylim(low - 0.05 * (top - low or 1.0), top + 0.05 * (top - low or 1.0))  # what diverges flattens the rest
    use_log_lr(left.xaxis, float(frame["optimizer.lr"].min()), float(frame["optimizer.lr"].max()))
    left.set_xlabel("learning rate")
    left.set_title(f"{name_objective(frame, 'loss')} against learning rate")
    draw_lowest(right, shown, finite)
    place_legend(right, "group", left.get_legend_handles_labels()[0])
    right.set_title(f"{name_objective(frame, 'loss')} at the best learning rate")
    for ax in (left, right):
        ax.set_ylabel(name_objective(frame, "final held-out loss" + name_loss_unit(frame)))
        if is_steps(frame):
            use_exponential(ax)
    return fig


def draw_lowest(ax: Axes, answers: list[GroupAnswer], runs: pd.DataFrame) -> None:
    """Loss at the best learning rate, a point a group, hollow where that is not located; small: each seed's lowest."""
    for x, (answer, colour) in enumerate(zip(answers, PALETTE, strict=False)):
        o = answer.optima[0]
        each = select_group(runs, answer.group).groupby("seed")[OBJECTIVE].min()
        if len(each) > 1:
            ax.plot([x + 0.12] * len(each), each, "o", ms=2.4, color=colour, alpha=0.5, mew=0)
        ax.plot(x, o.loss, "o", ms=5, mfc=colour if o.status == "interior" else "white", mec=colour)
    if len(answers[0].group) == 1:  # its name stands below, once
        ax.set_xlabel(next(iter(answers[0].group)))
        labels = [answer.label.rpartition("=")[2] for answer in answers]
    else:
        labels = [answer.label.replace(", ", "\n").replace("=", "\n") for answer in answers]
    ax.set_xticks(range(len(answers)), labels, fontsize="x-small" if len(answers) > 3 else None)
    ax.set_xlim(-0.5, len(answers) - 0.5)
