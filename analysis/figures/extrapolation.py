"""Figure of what the smaller batch sizes alone would have said about the larger ones."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.analyse import Analysis, GroupAnswer, caption_groups
from analysis.figures.optimum import mark_optima, predict
from analysis.figures.style import (
    FAINT,
    INK,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    place_legend,
    use_log_batch_size,
    use_log_lr,
)
from analysis.fit import Fit, compare, fit_laws
from analysis.groups import select_group
from analysis.laws import LAWS
from analysis.next_runs import expect_half, read_cells
from analysis.optimum import Optimum

MAX_PANELS = 4
LEAST = 6  # located batch sizes: three bear a law of one parameter, three are left to predict


def has_extrapolation(analysis: Analysis) -> bool:
    """Whether some group has batch sizes enough that half of them bear a law."""
    return any(split(answer.optima) is not None for answer in analysis.groups)


def split(optima: tuple[Optimum, ...]) -> tuple[list[Optimum], list[Optimum]] | None:
    """The smaller and the larger half of the located batch sizes, as score.py parts them; None where they are few."""
    located = [o for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    half = len(located) // 2
    return (located[:-half], located[-half:]) if len(located) >= LEAST else None


def draw_extrapolation(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A panel a group: laws fitted to the smaller half run on through the larger half, which they never saw."""
    answers = [answer for answer in analysis.groups if split(answer.optima) is not None][:MAX_PANELS]
    columns = min(2, len(answers))
    more = sum(split(answer.optima) is not None for answer in analysis.groups) - len(answers)
    told = "laws fitted to the filled points only; band: 95 % interval of the best of them"
    caption = f"{caption_groups(analysis, answers)} · {told}"
    fig, rows = lay_out(
        -(-len(answers) // columns), analysis.question,
        caption + (f" · {more} more groups not shown" if more else ""), (0.8, 7.8)[:columns], style,
        width=(7.5, 14.3)[columns - 1],
    )  # fmt: skip
    panels = [ax for row in rows for ax in row]
    for ax, answer in zip(panels, answers, strict=False):
        draw_panel(ax, answer, select_group(analysis.runs.frame, answer.group))
    for ax in panels[len(answers) :]:
        ax.set_visible(False)
    return fig


def draw_panel(ax: Axes, answer: GroupAnswer, rows: pd.DataFrame) -> None:
    """Points, laws and the band of one group."""
    halves = split(answer.optima)
    assert halves is not None, "groups that have too few batch sizes have no panel"
    smaller, larger = halves
    fits = [fit for fit in fit_laws(smaller) if not fit.refused]
    chosen = compare(fits)
    sizes = [o.batch_size for o in (*smaller, *larger)]
    grid = np.geomspace(sizes[0] / 1.2, sizes[-1] * 1.2, 60)
    best = next(fit for fit in fits if fit.law == chosen.best)
    half = np.array([band(best, smaller, rows, float(size)) for size in grid[::4]])
    half = np.interp(np.log(grid), np.log(grid[::4]), half)
    colours = dict(zip(LAWS, [*PALETTE, *PALETTE], strict=False))
    ax.fill_between(
        grid, predict(best, grid) * 2**-half, predict(best, grid) * 2**half, color=colours[best.law], alpha=0.15, lw=0
    )
    for fit in sorted(fits, key=lambda fit: (fit is not best, miss(fit, larger))):
        first = fit is best
        ax.plot(
            grid, predict(fit, grid), "-" if first else "--", color=colours[fit.law], lw=2.0 if first else 1.1,
            label=f"{fit.law}, {miss(fit, larger):.2f}",
        )  # fmt: skip
    mark_optima(ax, smaller, INK, "o")
    mark_optima(ax, larger, INK, "o", hollow=True)
    ax.axvline((smaller[-1].batch_size * larger[0].batch_size) ** 0.5, color=FAINT, lw=0.9, ls=":")
    seen = [value for o in (*smaller, *larger) for value in (o.low, o.high, o.lr)]
    low, high = min(seen) / 1.6, max(seen) * 1.6
    ax.set_ylim(low, high)
    use_log_lr(ax.yaxis, low, high)
    use_log_batch_size(ax.xaxis, sizes)
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel("batch size")
    ax.set_ylabel("best learning rate η*")
    heading = f"{answer.label}: " if answer.label else ""
    ax.set_title(f"{heading}smaller half fitted, larger half predicted")
    place_legend(ax, "law, rms error of ln η*\nover the larger half")


def band(fit: Fit, optima: list[Optimum], rows: pd.DataFrame, batch_size: float) -> float:
    """Half-width of the law's own 95 % interval at a batch size, octaves (next_runs.py says how)."""
    return expect_half([fit], read_cells(optima, rows), batch_size)


def miss(fit: Fit, optima: list[Optimum]) -> float:
    """Root mean square of ln(optimum / law)."""
    predicted = predict(fit, np.array([float(o.batch_size) for o in optima]))
    return float(np.sqrt(np.mean(np.log(np.array([o.lr for o in optima]) / predicted) ** 2)))
