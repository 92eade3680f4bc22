"""Figure of a sweep over epsilon: how it raises the best learning rate, outside the root and inside, with both laws."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.analyse import Analysis
from analysis.epsilon import SHARPNESS, TOLERANCE, EpsilonAnswer
from analysis.figures.style import (
    FAINT,
    INK,
    MARKERS,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    place_legend,
    use_round_numbers,
)
from analysis.groups import label_group
from analysis.laws.epsilon import epsilon_ratio

PLACES = {False: ("outside", "1 + x", PALETTE[0], "-"), True: ("inside", "√(1 + x²)", PALETTE[1], "--")}
APART = 1.03  # ratio by which the two places' points at one x stand apart
MAX_ROWS = 4


def has_epsilon(analysis: Analysis) -> bool:
    """Whether groups that differ in epsilon alone have ratios to draw."""
    return any(np.isfinite(answer.sigma.value) for answer in analysis.epsilon)


def draw_epsilon(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A row for every task or other group: left the ratio against x, right the ratio over the law of its place."""
    rows: dict[str, list[EpsilonAnswer]] = {}
    for answer in analysis.epsilon:
        if np.isfinite(answer.sigma.value):
            rows.setdefault(repr(answer.group), []).append(answer)
    shown = list(rows.values())[:MAX_ROWS]
    marks = "hollow: step-limited, no part in the verdict" * any_limited(shown)
    rest = f"{len(rows) - len(shown)} more groups are in {analysis.sweep}.json" * (len(rows) > len(shown))
    caption = " · ".join(
        text for text in (analysis.caption, "x = ε√B/σ", "bars: 95 % intervals", "band: 5 %", marks, rest) if text
    )
    title = textwrap.fill(analysis.question, 110)
    fig, panels = lay_out(len(shown), title, caption, (0.75, 5.95), style, width=12.8)
    for (left, right), answers in zip(panels, shown, strict=True):
        heading = f"{label}: " if (label := label_group(answers[0].group)) else ""
        left.set_title(f"{heading}best learning rate over that without ε")
        right.set_title(f"{heading}that ratio over the law of its place")
        draw_row(left, right, answers)
    return fig


def any_limited(rows: Sequence[Sequence[EpsilonAnswer]]) -> bool:
    """Whether any point is drawn hollow."""
    return any(ratio.limited for answers in rows for answer in answers for ratio in answer.ratios)


def draw_row(left: Axes, right: Axes, answers: Sequence[EpsilonAnswer]) -> None:
    """Both places of epsilon, a colour each and a marker a batch size."""
    sizes = sorted({ratio.batch_size for answer in answers for ratio in answer.ratios})
    markers = dict(zip(sizes, MARKERS * (1 + len(sizes) // len(MARKERS)), strict=False))
    xs, tops, offs, handles = [], [1.0], [1 - 1.5 * TOLERANCE, 1 + 1.5 * TOLERANCE], []
    for answer in answers:
        _, law, colour, dashes = PLACES[answer.inside]
        apart = APART ** (0.5 if answer.inside else -0.5)
        for ratio in answer.ratios:
            x = ratio.eps * ratio.batch_size**0.5 / answer.sigma.value
            predicted = answer.predict(ratio.batch_size, ratio.eps)
            face = "white" if ratio.limited else colour
            for ax, scale in ((left, 1.0), (right, predicted)):
                ax.plot([apart * x] * 2, [ratio.low / scale, ratio.high / scale], "-", color=colour, lw=1.2, zorder=4)
                ax.plot(
                    apart * x, ratio.value / scale, ls="", marker=markers[ratio.batch_size], ms=5, mfc=face,
                    mec=colour, zorder=5,
                )  # fmt: skip
            xs.append(x)
            tops += [ratio.low, ratio.high]
            offs += [ratio.low / predicted, ratio.high / predicted]
        handles.append(Line2D([], [], color=colour, ls=dashes, label=describe_place(answer, law)))
    grid = np.geomspace(min(xs) / 1.3, max(xs) * 1.3, 200)
    for answer in answers:
        _, _, colour, dashes = PLACES[answer.inside]
        curve = epsilon_ratio(grid, sigma=1.0, sharpness=SHARPNESS[answer.inside])
        left.plot(grid, curve, ls=dashes, color=colour, lw=1.2, zorder=3)
    right.axhspan(1 - TOLERANCE, 1 + TOLERANCE, color=FAINT, alpha=0.15, lw=0, zorder=1)
    right.axhline(1.0, color=INK, lw=0.9, zorder=2)
    handles += [
        Line2D([], [], ls="", marker=markers[s], mfc=INK, mec=INK, ms=4, label=f"batch size {s}") for s in sizes
    ]
    for ax, values in ((left, tops), (right, offs)):
        pad = (max(values) / min(values)) ** 0.04
        low, high = min(values) / pad, max(values) * pad
        use_round_numbers(ax.xaxis, grid[0], grid[-1], most=8)
        use_round_numbers(ax.yaxis, low, high, most=8)
        ax.set_xlim(grid[0], grid[-1])
        ax.set_ylim(low, high)
        ax.set_xlabel("x = ε√B/σ")
    left.set_ylabel("η*(ε) / η*(0)")
    right.set_ylabel("measured / law")
    place_legend(right, "place of ε, law, verdict", handles)


def describe_place(answer: EpsilonAnswer, law: str) -> str:
    """Place and law, sigma, and verdict, a line each."""
    sigma = f"σ = {answer.sigma.value:.3g}"
    if not answer.known:
        sigma += f" [{answer.sigma.low:.3g}, {answer.sigma.high:.3g}]"
    return f"{PLACES[answer.inside][0]}: {law}\n{sigma}{', known' * answer.known}\n{answer.verdict.verdict}"
