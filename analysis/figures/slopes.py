"""Figure of a sweep over protocols: the optimum of each against batch size, and how steeply it moves there."""

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.analyse import Analysis, GroupAnswer, caption_groups
from analysis.figures.optimum import SIDE_BY_SIDE, mark_optima
from analysis.figures.style import (
    FAINT,
    MARKERS,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    place_legend,
    use_log_batch_size,
    use_log_lr,
)
from analysis.slopes import SPAN, measure_slopes

REFERENCES = (0.0, 0.5, 1.0)  # a constant, the root, proportion


def has_protocols(analysis: Analysis) -> bool:
    """Whether the runs compare protocols, and two groups or more have a slope."""
    protocols = analysis.runs.frame["protocol"].nunique()
    return protocols > 1 and sum(bool(measure_slopes(answer.optima)) for answer in analysis.groups) > 1


def draw_slopes(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """Left the optima with intervals, a colour a group; right the slope between batch sizes a factor apart."""
    answers = analysis.groups[: len(PALETTE)]
    caption = f"{caption_groups(analysis, answers)} · bars: 95 % intervals · dotted: slopes 0, 1/2 and 1"
    fig, [[left, right]] = lay_out(1, analysis.question, caption, (0.75, 5.95), style, width=12.8)
    handles, sizes, lrs = [], set(), []
    for index, (answer, colour, marker) in enumerate(zip(answers, PALETTE, MARKERS, strict=False)):
        apart = SIDE_BY_SIDE ** (index - (len(answers) - 1) / 2)
        sizes |= {o.batch_size for o in answer.optima}
        lrs += [value for o in answer.optima for value in (o.lr, o.low, o.high) if np.isfinite(value)]
        located = [o for o in answer.optima if o.status == "interior"]
        left.plot([apart * o.batch_size for o in located], [o.lr for o in located], "-", color=colour, lw=0.8, zorder=2)
        mark_optima(left, answer.optima, colour, marker, apart=apart)
        slopes = measure_slopes(answer.optima)
        xs = [apart * (slope.low_size * slope.high_size) ** 0.5 for slope in slopes]
        right.plot(xs, [slope.value for slope in slopes], "-", color=colour, marker=marker, ms=4.5, lw=0.8)
        for x, slope in zip(xs, slopes, strict=True):
            right.plot([x, x], [slope.low, slope.high], "-", color=colour, lw=1.3)
        label = textwrap.fill(answer.label, 26) + describe_power(answer)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4, label=label))
    for value in REFERENCES:
        right.axhline(value, color=FAINT, lw=0.9, ls=":", zorder=1)
    for ax in (left, right):
        use_log_batch_size(ax.xaxis, sorted(sizes))
        ax.set_xlim(min(sizes) / 1.25, max(sizes) * 1.25)
        ax.set_xlabel("batch size")
    use_log_lr(left.yaxis, min(lrs) / 1.4, max(lrs) * 1.4)
    left.set_ylabel("best learning rate η*")
    left.set_title("best learning rate against batch size")
    right.set_ylabel("d log η* / d log B")
    right.set_title(f"slope between batch sizes {SPAN:g} times apart")
    place_legend(right, "group\nslope over all batch sizes", handles)
    return fig


def describe_power(answer: GroupAnswer) -> str:
    """The exponent of the power law of a group, on a line of its own."""
    exponent = next((fit.params["exponent"] for fit in answer.fits if fit.law == "power" and not fit.refused), None)
    return f"\n{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}]" if exponent else ""
