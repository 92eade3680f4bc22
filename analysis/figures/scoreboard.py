"""Figure of the scoreboard: one row a verdict, what was measured over what was predicted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis.claims import Verdict, read_measured
from analysis.figures.style import (
    INK,
    NARROW,
    SCREEN,
    Style,
    measure_caption,
    measure_heading,
    write_caption,
    write_heading,
)
from analysis.groups import label_group

LOOKS = {"confirmed": ("#009E73", "o"), "refuted": ("#D55E00", "X"), "inconclusive": ("#888888", "s")}
ROW, BELOW, LEFT, RIGHT, WIDTH = 0.3, 0.65, 5.2, 0.3, 11.0  # inches before the style's scale
TITLE = "Do the claims hold?"
SPREAD = 16.0  # ratios beyond are cut off with an arrow


def draw_scoreboard(judged: Sequence[tuple[str, Verdict]], style: Style = SCREEN) -> Figure:
    """(sweep, verdict) of each row, in order; a verdict whose number no interval bounds says so."""
    protocols = ", ".join(sorted({verdict.protocol for _, verdict in judged}))
    sweeps = len({sweep for sweep, _ in judged})
    caption = f"{sweeps} committed sweeps · protocols {protocols} · the line: exactly as predicted"
    width = NARROW if style.narrow else WIDTH
    below = BELOW + measure_caption(caption, width, style)
    height = measure_heading(TITLE, style) + ROW * len(judged) + below
    fig = Figure(figsize=(style.scale * width, style.scale * height))
    write_heading(fig, TITLE, style)
    write_caption(fig, caption, style)
    ax = fig.add_axes((LEFT / width, below / height, (width - LEFT - RIGHT) / width, ROW * len(judged) / height))
    ax.axvline(1, color=INK, lw=1.0, zorder=1)
    for row, (_, verdict) in enumerate(judged):
        colour, marker = LOOKS[verdict.verdict]
        predicted, measured = verdict.numbers["predicted"], read_measured(verdict)
        if not np.isfinite(measured).all() or predicted == 0:
            bounded = "measured {:.2g} [{:.2g}, {:.2g}]".format(*measured)  # over zero it is no ratio
            text = bounded if np.isfinite(measured).all() else "no bounded number"
            patch = {"facecolor": ax.get_facecolor(), "edgecolor": "none", "pad": 1.0}  # the line at 1 passes beneath
            ax.text(1 / SPREAD, row, text, va="center", fontsize="small", color=colour, bbox=patch, zorder=5)
            continue
        ratio, low, high = (value / predicted for value in measured)
        ends = [float(np.clip(value, 1 / SPREAD, SPREAD)) for value in (low, high)]
        ax.plot(ends, [row, row], ":" if verdict.spread == "range" else "-", color=colour, lw=2.0, zorder=2)
        for end, value, arrow in ((ends[0], low, "<"), (ends[1], high, ">")):
            if end != value:
                ax.plot(end, row, arrow, ms=4, color=colour, zorder=3)
        ax.plot(np.clip(ratio, 1 / SPREAD, SPREAD), row, marker, ms=5.5, color=colour, zorder=4)
    ax.set_xscale("log")
    ax.set_xlim(1 / SPREAD / 1.1, SPREAD * 1.1)
    ax.xaxis.set_major_locator(FixedLocator([4.0**k for k in range(-2, 3)]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}"))
    ax.set_ylim(len(judged) - 0.5, -0.5)
    ax.set_yticks(range(len(judged)), [name_row(sweep, verdict) for sweep, verdict in judged])
    ax.grid(visible=False, axis="y")
    ax.set_xlabel("measured over predicted, with 95 % interval; dotted: worst, and range", loc="right")
    handles = [
        Line2D([], [], color=colour, marker=marker, ms=5, label=f"{name}, {sum(v.verdict == name for _, v in judged)}")
        for name, (colour, marker) in LOOKS.items()
    ]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3, borderpad=0, columnspacing=1)
    return fig


def name_row(sweep: str, verdict: Verdict) -> str:
    """Claim, sweep and group of a row, and the number that was predicted."""
    group = label_group(verdict.group)
    return f"{verdict.claim} = {verdict.numbers['predicted']:g}, {sweep}" + (f": {group}" if group else "")
