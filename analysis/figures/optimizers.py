"""Figure of a sweep over optimizers: what each reaches at its best learning rate, and that rate, by batch size."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from analysis.analyse import Analysis, GroupAnswer
from analysis.figures.style import (
    MARKERS,
    SCREEN,
    Style,
    lay_out,
    name_loss_unit,
    place_legend,
    shade,
    use_log_lr,
    use_round_numbers,
)
from analysis.minima import pool_errors
from analysis.objectives import is_steps
from analysis.optimum import Optimum

FEWEST = 3  # optimizers
ROW = 0.36  # inches of an optimizer
RAISED = 0.18  # of a row, by which batch sizes stand above one another
CLEAR = 1.35  # losses over this times the lowest at their batch size flatten the rest


def has_optimizers(analysis: Analysis) -> bool:
    """Whether the runs compare optimizers, and nothing beside."""
    alike = analysis.runs.groups == ("optimizer.name",) and not is_steps(analysis.runs.frame)
    return alike and len(analysis.groups) >= FEWEST and analysis.figure == "optimum"


def draw_optimizers(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A row an optimizer, the lowest loss at the top, a colour a batch size: left the loss, right the learning rate."""
    answers = sorted(analysis.groups, key=rank)
    caption = (
        f"{analysis.caption} · bars: 95 % intervals, of losses without what seeds do to all optimizers alike · "
        "hollow: best learning rate not located"
    )
    fig, [[left, right]] = lay_out(
        1, analysis.question, caption, (1.45, 6.35), style,
        width=12.6, panel_height=max(3.1, ROW * len(answers)),
    )  # fmt: skip
    sizes = sorted({o.batch_size for answer in answers for o in answer.optima})
    colours = shade(len(sizes))
    losses, lrs, handles = [], [], []
    for index, (size, colour) in enumerate(zip(sizes, colours, strict=True)):
        marker = MARKERS[index % len(MARKERS)]
        rows = [(row, o) for row, answer in enumerate(answers) for o in answer.optima if o.batch_size == size]
        halves = measure_losses([o for _, o in rows])
        lowest = min(o.loss for _, o in rows)
        for (row, o), half in zip(rows, halves, strict=True):
            y = row + RAISED * (index - (len(sizes) - 1) / 2)
            face = colour if o.status == "interior" else "white"
            for ax, value, low, high in (
                (left, o.loss, o.loss - half, o.loss + half),
                (right, o.lr, o.low, o.high),
            ):
                ax.plot([low, high], [y, y], "-", color=colour, lw=1.1, zorder=3)
                ax.plot(value, y, ls="", marker=marker, ms=4, mfc=face, mec=colour, zorder=4)
            lrs += [value for value in (o.lr, o.low, o.high) if np.isfinite(value)]
            if o.loss < CLEAR * lowest:
                losses += [value for value in (o.loss, o.loss - half, o.loss + half) if np.isfinite(value)]
        handles.append(Line2D([], [], ls="", marker=marker, color=colour, ms=4, label=str(size)))
    pad = (max(losses) / min(losses)) ** 0.05
    use_round_numbers(left.xaxis, min(losses) / pad, max(losses) * pad, most=8)
    left.set_xlim(min(losses) / pad, max(losses) * pad)
    use_log_lr(right.xaxis, min(lrs) / 1.4, max(lrs) * 1.4)
    right.set_xlim(min(lrs) / 1.4, max(lrs) * 1.4)
    name_rows((left, right), answers, everywhere=style.narrow)
    left.set_xlabel("final held-out loss" + name_loss_unit(analysis.runs.frame))
    left.set_title("loss at the best learning rate")
    right.set_xlabel("best learning rate η*")
    right.set_title("best learning rate")
    place_legend(right, "batch size", handles)
    return fig


def rank(answer: GroupAnswer) -> float:
    """Mean of the losses' logarithms over the batch sizes."""
    return float(np.mean([np.log(o.loss) for o in answer.optima]))


def measure_losses(optima: Sequence[Optimum]) -> list[float]:
    """Half-widths of the losses' 95 % intervals at one batch size, NaN where they are not known.

    What a seed adds to all optimizers alike says nothing of which is better, and is taken out.
    """
    known = [o for o in optima if len(o.lifts) > 1]
    if len(known) < FEWEST:
        return [np.nan] * len(optima)
    alike: dict[int, list[float]] = {}
    for o in known:
        for seed, lift in zip(o.seeds, o.lifts, strict=True):
            alike.setdefault(seed, []).append(lift / o.loss)
    common = {seed: float(np.median(shares)) for seed, shares in alike.items()}
    moves = [
        tuple(lift / o.loss - common[seed] for seed, lift in zip(o.seeds, o.lifts, strict=True)) for o in known
    ]  # fmt: skip
    sd, _, dof = pool_errors([o.seeds for o in known], moves)
    half = dict(zip(map(id, known), float(stats.t.ppf(0.975, dof)) * sd, strict=True))
    return [float(half.get(id(o), np.nan)) * o.loss for o in optima]


def name_rows(panels: Sequence[Axes], answers: Sequence[GroupAnswer], *, everywhere: bool) -> None:
    """The optimizers' names beside the first panel, and beside others only where these stand below it."""
    for index, ax in enumerate(panels):
        ax.set_yticks(range(len(answers)), [answer.label if everywhere or index == 0 else "" for answer in answers])
        ax.set_ylim(len(answers) - 0.5, -0.5)
