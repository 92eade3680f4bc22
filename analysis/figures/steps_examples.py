"""Figure of runs to a target: steps and samples at the best learning rate, and what each costs of the other."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis.analyse import Analysis, GroupAnswer, caption_groups
from analysis.critical_batch import gather_points
from analysis.figures.style import (
    FAINT,
    INK,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    place_legend,
    short_number,
    use_log_batch_size,
    use_round_numbers,
)
from analysis.fit_points import PointFit, Points
from analysis.fit_points import predict as predict_points
from analysis.greedy import Greedy

MAX_ROWS = 4
GREEDY = "s-."  # look of the greedy arm


def has_steps(analysis: Analysis) -> bool:
    """Whether some group is compared by steps to a target and has two located batch sizes or more."""
    return any(count(answer) > 1 for answer in analysis.groups)


def count(answer: GroupAnswer) -> int:
    return len(gather_points(answer.optima).y) if answer.critical_batch else 0


def draw_steps_examples(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """A row a group: steps against batch size with their laws, and the plane of steps and samples."""
    answers = [answer for answer in analysis.groups if count(answer) > 1][:MAX_ROWS]
    title, caption = (
        analysis.question,
        f"{caption_groups(analysis, answers)} · bars: 95 % intervals",
    )
    fig, rows = lay_out(len(answers), title, caption, (0.85, 5.95), style, width=12.8)
    for (left, right), answer in zip(rows, answers, strict=True):
        assert answer.critical_batch is not None, "only groups with a target are drawn"
        points = gather_points(answer.optima)
        fits = [fit for fit in answer.critical_batch.fits if not fit.refused]
        draw_steps(left, points, fits, answer.greedy)
        draw_plane(right, points, fits, answer.greedy)
        left.set_title(answer.label or "steps at the best learning rate")
        right.set_title("few steps cost samples, few samples cost steps")
    return fig


def halves_of(points: Points) -> np.ndarray:
    """Half-widths of the 95 % intervals of ln steps; zero where no error is known."""
    known = not np.isnan(points.dof)
    half: np.ndarray = stats.t.ppf(0.975, points.dof) * points.sd if known else np.zeros(len(points.sd))
    return half


def sweep_sizes(points: Points) -> np.ndarray:
    sizes = points.x[0]
    grid: np.ndarray = np.geomspace(sizes.min() / 1.5, sizes.max() * 1.5, 120)
    return grid


def draw_steps(ax: Axes, points: Points, fits: list[PointFit], greedy: Greedy | None) -> None:
    """Steps against batch size, with a bar an interval and a line a law."""
    sizes, half, grid = points.x[0], halves_of(points), sweep_sizes(points)
    for fit, colour in zip(fits, PALETTE, strict=False):
        ax.plot(grid, predict_points(fit.law, fit.moved, grid[None, :]), "-", color=colour, lw=1.2, zorder=2)
    ax.vlines(sizes, points.y * np.exp(-half), points.y * np.exp(half), color=INK, lw=1.5, zorder=3)
    ax.plot(sizes, points.y, "o", ms=4.5, color=INK, zorder=4)
    ends = [*(points.y * np.exp(-half)), *(points.y * np.exp(half))]
    if greedy:
        ax.plot(greedy.batch_sizes, greedy.steps, GREEDY, color=PALETTE[2], ms=4, lw=1.2, zorder=3)
        ends += [*greedy.steps]
    low, high = float(min(ends)), float(max(ends))
    ax.set_ylim(low / 1.2, high * 1.2)
    use_round_numbers(ax.yaxis, low / 1.2, high * 1.2, most=7, label=short_number)
    use_log_batch_size(ax.xaxis, [int(size) for size in sizes])
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel("batch size")
    ax.set_ylabel("steps to the target")


def draw_plane(ax: Axes, points: Points, fits: list[PointFit], greedy: Greedy | None) -> None:
    """Samples against steps, a point a batch size with its number; dotted the hyperbola's S_min and E_min."""
    half, grid = halves_of(points), sweep_sizes(points)
    for fit, colour in zip(fits, PALETTE, strict=False):
        steps = predict_points(fit.law, fit.moved, grid[None, :])
        ax.plot(steps, steps * grid, "-", color=colour, lw=1.2, zorder=2, label=describe(fit))
    samples = points.y * points.x[0]
    for size, steps, cost, h in zip(points.x[0], points.y, samples, half, strict=True):
        # an error in steps moves samples with it
        ax.plot([steps * np.exp(-h), steps * np.exp(h)], [cost * np.exp(-h), cost * np.exp(h)], "-", color=INK, lw=1.2)
        # below its point, where no bar is, and before the lines
        number = ax.annotate(f"{size:g}", (steps, cost), xytext=(4, -9), textcoords="offset points", fontsize="small")
        number.set(zorder=5, bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4})
    ax.plot(points.y, samples, "o", ms=4.5, color=INK, zorder=4)
    corner: list[tuple[float, float]] = []  # S_min and E_min, where the points bound them
    for fit in fits[:1]:
        steps_min, critical = (fit.params[name] for name in ("steps_min", "critical_batch_size"))
        ax.axvline(steps_min.value, color=FAINT, lw=0.9, ls=":")
        ax.axhline(steps_min.value * critical.value, color=FAINT, lw=0.9, ls=":")
        if np.isfinite([steps_min.low, critical.low]).all():
            corner = [(steps_min.value, steps_min.value * critical.value)]
    shown = [points.y, samples]
    if greedy:
        cost = greedy.steps * greedy.batch_sizes
        ax.plot(greedy.steps, cost, GREEDY, color=PALETTE[2], ms=4, lw=1.2, zorder=3, label=label_greedy(greedy))
        shown = [np.append(points.y, greedy.steps), np.append(samples, cost)]
    for i, (axis, values) in enumerate(zip((ax.xaxis, ax.yaxis), shown, strict=True)):
        low, high = min([float(values.min()), *(at[i] for at in corner)]) / 1.5, float(values.max()) * 1.5
        use_round_numbers(axis, low, high, most=6, label=short_number)
        (ax.set_xlim if axis is ax.xaxis else ax.set_ylim)(low, high)
    ax.set_xlabel("steps to the target")
    ax.set_ylabel("samples to the target")
    if fits:
        place_legend(ax, "law, rms error of ln steps\n(numbers: batch size)")


def label_greedy(greedy: Greedy) -> str:
    """What the greedy arm's corner is, and the noise scale that the law says it is."""
    plain, free = greedy.fits
    return (
        f"greedy lr at every step, exact\nB_crit {plain.params['critical_batch_size'].value:.3g}, "
        f"sharpness {free.params['sharpness'].value:.3g}\nmean B_noise over steps {greedy.noise_scale:.3g}"
    )


def describe(fit: PointFit) -> str:
    """Name, misfit and corner of a law."""
    e = fit.params["critical_batch_size"]
    interval = f" [{e.low:.3g}, {e.high:.3g}]" if np.isfinite([e.low, e.high]).all() else " (unbounded)"
    return f"{fit.law.name}, {fit.rmse_log:.3f}\nB_crit {e.value:.3g}{interval}"
