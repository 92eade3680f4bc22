"""Figure of the scoreboard: a row a claim, a mark a verdict, what was measured over what was predicted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.claims import Verdict, read_measured
from analysis.figures.finding import write_finding
from analysis.figures.style import (
    FAINT,
    INK,
    NARROW,
    SCREEN,
    Style,
    measure_caption,
    measure_heading,
    write_caption,
    write_heading,
)

LOOKS = {"confirmed": ("#009E73", "o"), "refuted": ("#D55E00", "X"), "inconclusive": ("#888888", "s")}
ROW, BELOW, LEFT, RIGHT, WIDTH = 0.27, 0.65, 1.9, 3.1, 11.0  # inches before the style's scale
TITLE = "Do the claims hold?"
SPREAD = 16.0  # ratios beyond are cut off with an arrow
RAISED = 0.5  # of a row, over which the verdicts of a claim are spread
MOST_BARS = 8  # verdicts of a claim, beyond which intervals would hide one another


def draw_scoreboard(judged: Sequence[tuple[str, Verdict]], style: Style = SCREEN) -> Figure:
    """A row a claim, in the order of (sweep, verdict); beside it how many of its verdicts are which, and of how many
    sweeps."""
    claims = group_by_claim(judged)
    protocols = ", ".join(sorted({verdict.protocol for _, verdict in judged}))
    sweeps = len({sweep for sweep, _ in judged})
    caption = (
        f"{sweeps} committed sweeps · protocols {protocols} · the line: exactly as predicted · bars: 95 % intervals, "
        f"of claims with up to {MOST_BARS} verdicts, dotted: worst and range · a claim of 0 or with no bounded number, "
        "is counted and has no mark · every verdict is in scoreboard.md"
    )
    width = NARROW if style.narrow else WIDTH
    right = RIGHT * width / WIDTH
    below = BELOW + measure_caption(caption, width, style)
    rows = ROW * len(claims)
    height = measure_heading(TITLE, style) + rows + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, TITLE, style)
    counts = ", ".join(f"{sum(v.verdict == name for _, v in judged)} {name}" for name in LOOKS)
    write_finding(fig, [f"{len(judged)} verdicts on {len(claims)} claims: {counts}"], style)
    write_caption(fig, caption, style)
    ax = fig.add_axes((LEFT / width, below / height, (width - LEFT - right) / width, rows / height))
    ax.axvline(1, color=INK, lw=1.0, zorder=1)
    for row, own in enumerate(claims.values()):
        places = row + (np.linspace(-RAISED, RAISED, len(own)) / 2 if len(own) > 1 else np.zeros(1))
        for y, (_, verdict) in zip(places, own, strict=True):
            draw_verdict(ax, verdict, float(y), bar=len(own) <= MOST_BARS)
        write_counts(ax, row, own)
    ax.set_xscale("log")
    ax.set_xlim(1 / SPREAD / 1.1, SPREAD * 1.1)
    ax.xaxis.set_major_locator(FixedLocator([4.0**k for k in range(-2, 3)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    ax.set_ylim(len(claims) - 0.5, -0.5)
    ax.set_yticks(range(len(claims)), list(claims))
    ax.set_xlabel("measured over predicted")
    handles = [
        Line2D([], [], color=colour, marker=marker, ls="", ms=5,
               label=f"{name}, {sum(v.verdict == name for _, v in judged)}")
        for name, (colour, marker) in LOOKS.items()
    ]  # fmt: skip
    ax.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderpad=0, columnspacing=1)
    return fig


def group_by_claim(judged: Sequence[tuple[str, Verdict]]) -> dict[str, list[tuple[str, Verdict]]]:
    """(sweep, verdict) of every claim, in the order in which claims come first."""
    claims: dict[str, list[tuple[str, Verdict]]] = {}
    for sweep, verdict in judged:
        claims.setdefault(verdict.claim, []).append((sweep, verdict))
    return claims


def draw_verdict(ax: Axes, verdict: Verdict, y: float, *, bar: bool) -> None:
    """One mark, with its interval where asked; nothing where no ratio is known."""
    colour, marker = LOOKS[verdict.verdict]
    predicted, measured = verdict.numbers["predicted"], read_measured(verdict)
    if not np.isfinite(measured).all() or predicted == 0:
        return
    ratio, low, high = (value / predicted for value in measured)
    ends = [float(np.clip(value, 1 / SPREAD, SPREAD)) for value in sorted((low, high))]
    if bar:
        ax.plot(ends, [y, y], ":" if verdict.spread == "range" else "-", color=colour, lw=1.3, zorder=2)
        for end, value, arrow in ((ends[0], min(low, high), "<"), (ends[1], max(low, high), ">")):
            if end != value:
                ax.plot(end, y, arrow, ms=3.5, color=colour, zorder=3)
    ax.plot(np.clip(ratio, 1 / SPREAD, SPREAD), y, marker, ms=4.5, color=colour, mec="white", mew=0.4, zorder=4)


def write_counts(ax: Axes, row: int, own: Sequence[tuple[str, Verdict]]) -> None:
    """How many verdicts of a claim are which, each at its own place right of the panel, then the sweeps."""
    for place, (name, (colour, _)) in zip((1.03, 1.09, 1.15), LOOKS.items(), strict=True):
        if count := sum(verdict.verdict == name for _, verdict in own):
            ax.text(place, row, str(count), transform=ax.get_yaxis_transform(), va="center", ha="center",
                    fontsize="small", color=colour, weight="bold")  # fmt: skip
    ax.text(1.2, row, name_sweeps([sweep for sweep, _ in own]), transform=ax.get_yaxis_transform(), va="center",
            fontsize="small", color=FAINT)  # fmt: skip


def name_sweeps(sweeps: Sequence[str]) -> str:
    """The sweep, or how many there are."""
    names = list(dict.fromkeys(sweeps))
    return names[0] if len(names) == 1 else f"{len(names)} sweeps"
