"""Figure of a sweep over learning rates: loss curves with optima, and the optimum against batch size with its laws."""

import textwrap
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from analysis.analyse import Analysis, GroupAnswer
from analysis.figures.style import (
    INK,
    MARKERS,
    PALETTE,
    SCREEN,
    Style,
    lay_out,
    name_loss_unit,
    place_legend,
    shade,
    use_exponential,
    use_log_batch_size,
    use_log_lr,
    use_round_numbers,
)
from analysis.fit import Fit
from analysis.groups import select_group
from analysis.laws import LAWS
from analysis.objectives import OBJECTIVE, TARGET, is_steps, name_objective
from analysis.optimum import Optimum

MAX_ROWS = 4
RUNG = 0.028  # height of a batch size in the strips above and below the curves, as a share of the panel
WIDTH = 13.9
PANEL_LEFTS = (0.95, 7.05)  # inches; the gaps hold the legends
MAX_COLOURS = len(PALETTE)
FAR_APART = 3.0  # ratio of losses from which on their axis is logarithmic
SIDE_BY_SIDE = 1.04  # ratio by which the points of groups at one batch size stand apart


def draw_optimum(analysis: Analysis, style: Style = SCREEN) -> Figure:
    """Up to 4 groups: a row each, loss curves left, optimum and laws right. More: a colour each, best law only."""
    answers = analysis.groups
    shown = answers if len(answers) <= MAX_ROWS else answers[:MAX_COLOURS]
    more = f" · {len(answers) - len(shown)} more groups are in {analysis.sweep}.json" * (len(shown) < len(answers))
    num_rows = len(answers) if len(answers) <= MAX_ROWS else 1
    bars = " · bars: 95 % intervals" * any(np.isfinite(o.low) for answer in shown for o in answer.optima)
    caption = analysis.caption + bars + more
    fig, panels = lay_out(num_rows, analysis.question, caption, PANEL_LEFTS, style, WIDTH)
    if len(answers) > MAX_ROWS:
        draw_groups(panels[0][0], panels[0][1], shown, analysis.runs.frame)
        return fig
    for (left, right), answer in zip(panels, answers, strict=True):
        heading = f"{answer.label}: " if answer.label else ""
        rows = select_group(analysis.runs.frame, answer.group)
        draw_losses(left, rows, answer.optima)
        left.set_title(f"{heading}{name_objective(rows, 'loss')} against learning rate")
        draw_laws(right, answer)
        right.set_title(f"{heading}best learning rate against batch size")
    return fig


def draw_losses(ax: Axes, frame: pd.DataFrame, optima: Sequence[Optimum]) -> None:
    """Loss against learning rate: a line through the seed means of every batch size, a faint point for every run."""
    batch_sizes = sorted(int(size) for size in frame["batch_size"].unique())
    colours = dict(zip(batch_sizes, shade(len(batch_sizes)), strict=True))
    finite = frame[np.isfinite(frame[OBJECTIVE])]
    lowest, top = choose_range(finite, steps=is_steps(frame))
    fitted = [o.loss for o in optima if np.isfinite(o.loss)]  # a curve's minimum may lie below every run
    lowest, top = min([lowest, *fitted]), max([top, *fitted])
    pad = 0.05 * (top - lowest) or 0.05
    # crosses of diverged runs stand in a strip above the curves, every batch size at its own height
    late = frame["censored"]
    strip = RUNG * len(batch_sizes) if late.any() or (frame["status"] == "diverged").any() else 0.0
    foot = RUNG * (len(batch_sizes) + 1) if any(np.isfinite(o.low) for o in optima) else 0.0
    below_strip = Rectangle((0, 0), 1, 1 - strip, transform=ax.transAxes)
    for size in batch_sizes:
        rows = frame[frame["batch_size"] == size]
        done = rows[np.isfinite(rows[OBJECTIVE])]
        colour = colours[size]
        (points,) = ax.plot(done["optimizer.lr"], done[OBJECTIVE], "o", ms=2.4, color=colour, alpha=0.4, mew=0)
        means = rows.groupby("optimizer.lr")[OBJECTIVE].mean()
        means = means[np.isfinite(means)]
        (line,) = ax.plot(means.index, means.to_numpy(), "-", color=colour, label=str(size))
        for artist in (points, line):
            artist.set_clip_path(below_strip)
        height = 0.986 - RUNG * batch_sizes.index(size)
        for ended, marker in ((rows["status"] == "diverged", "x"), (late[rows.index], 6)):  # 6: a caret upwards
            lrs = rows[ended]["optimizer.lr"]
            ax.plot(
                lrs, np.full(len(lrs), height), ls="", marker=marker, ms=3.5, color=colour,
                transform=ax.get_xaxis_transform(), zorder=4,
            )  # fmt: skip
    for o in optima:
        if o.status == "interior":
            if np.isfinite(o.low):
                # intervals stand in a strip below the curves, where those of near minima lie apart
                at = RUNG * (batch_sizes.index(o.batch_size) + 1)
                ax.plot(
                    [o.low, o.high], [at, at], "-", color=colours[o.batch_size], lw=1.8,
                    transform=ax.get_xaxis_transform(), zorder=5,
                )  # fmt: skip
                ax.plot([o.lr], [at], "o", ms=2.6, color=INK, transform=ax.get_xaxis_transform(), zorder=6)
            ax.plot(o.lr, o.loss, "o", ms=5, mfc=colours[o.batch_size], mec=INK, mew=1, zorder=6)
        elif np.isfinite(o.loss):
            ax.plot(o.lr, o.loss, "o", ms=5, mfc="white", mec=colours[o.batch_size], mew=1.2, zorder=6)
    height = (top + 2 * pad - lowest) / (1 - strip - foot)
    ax.set_ylim(lowest - pad - foot * height, lowest - pad + (1 - foot) * height)
    ax.yaxis.set_visible(not finite.empty)
    use_log_lr(ax.xaxis, float(frame["optimizer.lr"].min()), float(frame["optimizer.lr"].max()))
    ax.set_xlabel("learning rate")
    ax.set_ylabel(name_objective(frame, "final held-out loss" + name_loss_unit(frame)))
    if is_steps(frame):
        use_exponential(ax)
    marks = ["× diverged"] * bool((frame["status"] == "diverged").any()) + ["▴ censored"] * bool(late.any())
    place_legend(ax, "\n".join(["batch size", *(f"({text})" for text in marks)]))


def choose_range(finite: pd.DataFrame, *, steps: bool) -> tuple[float, float]:
    """Lowest and highest objective to show; 0 and 1 where no run has one and only the strip of crosses is drawn."""
    if finite.empty:
        return 0.0, 1.0
    lowest, largest = float(finite[OBJECTIVE].min()), float(finite[OBJECTIVE].max())
    if steps:  # these are logarithms already
        return lowest, largest
    # losses of much too high learning rates would flatten everything else
    highest = float(finite.groupby("batch_size")[OBJECTIVE].min().max())
    half, most = (float(q) for q in finite[OBJECTIVE].quantile([0.5, 0.8]))
    return lowest, max(min(most, max(half, highest + 1.5 * (highest - lowest))), highest + 0.3 * (highest - lowest))


def draw_laws(ax: Axes, answer: GroupAnswer) -> None:
    """Optimum against batch size with intervals, and every fitted law, the best one thick."""
    optima = answer.optima
    batch_sizes = [o.batch_size for o in optima]
    grid = np.geomspace(min(batch_sizes) / 1.3, max(batch_sizes) * 1.3, 200)
    fits = sorted((fit for fit in answer.fits if not fit.refused), key=lambda fit: fit.aicc)
    names, handles = list(LAWS), []
    for fit in fits:
        best, colour = fit.law == answer.comparison.best, PALETTE[names.index(fit.law) % MAX_COLOURS]
        ax.plot(
            grid, predict(fit, grid), ls=choose_dashes(fit.law, answer), color=colour, lw=3.0 if best else 1.1,
            alpha=0.75 if best else 0.9, zorder=2,
        )  # fmt: skip
        near = "~ " if fit.law in answer.comparison.not_separable else ""
        handles.append(
            Line2D([], [], ls="-" if best else "--", color=colour, lw=3.0 if best else 1.3, label=near + label_fit(fit))
        )
    mark_optima(ax, optima, INK, "o")
    lrs = [value for o in optima for value in (o.lr, o.low, o.high) if np.isfinite(value)]
    low, high = min(lrs) / 1.4, max(lrs) * 1.4
    ax.set_ylim(low, high)
    use_log_lr(ax.yaxis, low, high)
    use_log_batch_size(ax.xaxis, batch_sizes)
    ax.set_xlim(grid[0], grid[-1])
    ax.set_xlabel("batch size")
    ax.set_ylabel("best learning rate η*")
    if fits:
        near = "\n(~ not told apart from the best)" if answer.comparison.not_separable else ""
        place_legend(ax, f"law, AICc (less is better){near}", handles)


def choose_dashes(law: str, answer: GroupAnswer) -> str | tuple[float, tuple[float, float]]:
    """Whole for the best law; those that cannot be told from it take turns, since they lie on one another."""
    near = answer.comparison.not_separable
    if law == answer.comparison.best:
        return "-"
    return (4.0 * near.index(law), (4.0, 4.0 * max(1, len(near) - 1))) if law in near else "--"


def draw_groups(left: Axes, right: Axes, answers: Sequence[GroupAnswer], frame: pd.DataFrame) -> None:
    """A colour for each group: loss, or steps to a target, at the optimum on the left, the optimum with its best law
    on the right."""
    handles = []
    for index, (answer, colour, marker) in enumerate(zip(answers, PALETTE, MARKERS, strict=False)):
        apart = SIDE_BY_SIDE ** (index - (len(answers) - 1) / 2)
        sizes = [o.batch_size for o in answer.optima]
        left.plot([apart * s for s in sizes], [o.loss for o in answer.optima], "-", color=colour, marker=marker, ms=4)
        mark_optima(right, answer.optima, colour, marker, apart=apart)
        best = next((fit for fit in answer.fits if fit.law == answer.comparison.best and not fit.refused), None)
        # the legend stands right of the panel, where a long line would be cut off
        label = textwrap.fill(answer.label, 24) + (f"\n{best.law}, {best.aicc:.1f}" if best else "")
        grid = np.geomspace(min(sizes), max(sizes), 100)
        curve = predict(best, grid) if best else np.full(len(grid), np.nan)
        right.plot(grid, curve, "-", color=colour, zorder=2)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=4, label=label))
    every = [o for answer in answers for o in answer.optima]
    lrs = [value for o in every for value in (o.lr, o.low, o.high) if np.isfinite(value)]
    for ax in (left, right):
        use_log_batch_size(ax.xaxis, [o.batch_size for o in every])
        ax.set_xlabel("batch size")
    use_log_lr(right.yaxis, min(lrs) / 1.4, max(lrs) * 1.4)
    mixed = not is_steps(frame) and (frame["protocol"] == TARGET).any()
    left.set_ylabel("final held-out loss, or ln steps to the target" if mixed else name_objective(frame))
    losses = [o.loss for o in every if np.isfinite(o.loss)]
    if is_steps(frame):
        use_exponential(left)
    elif not mixed and max(losses) > FAR_APART * min(losses) > 0:  # of several tasks, which would flatten one another
        low, high = min(losses) / 1.15, max(losses) * 1.15
        use_round_numbers(left.yaxis, low, high, most=7)
        left.set_ylim(low, high)
    right.set_ylabel("best learning rate η*")
    left.set_title(f"{name_objective(frame, 'loss')} at the best learning rate")
    right.set_title("best learning rate against batch size")
    place_legend(right, "group\nbest law, AICc", handles)


def mark_optima(
    ax: Axes, optima: Sequence[Optimum], colour: str, marker: str, *, hollow: bool = False, apart: float = 1.0
) -> None:
    """Optima with interval bars; an edge is an arrow towards where the optimum lies, a flat cell is hollow.

    Args:
        hollow: all are.
        apart: factor that moves them sideways, so that those of several groups lie beside one another.
    """
    for o in optima:
        x = apart * o.batch_size
        if o.status in ("edge_low", "edge_high"):
            tip = o.lr * (1.35 if o.status == "edge_high" else 1 / 1.35)
            ax.annotate(
                "", xy=(x, tip), xytext=(x, o.lr), zorder=5,
                arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 1.4},
            )  # fmt: skip
            ax.plot(x, o.lr, marker="_", ms=8, color=colour, zorder=5)
            continue
        if np.isfinite(o.low):
            ax.plot([x] * 2, [o.low, o.high], "-", color=colour, lw=1.5, zorder=4)
        face = colour if o.status == "interior" and not hollow else "white"
        ax.plot(x, o.lr, marker=marker, ms=5, mfc=face, mec=colour, zorder=5)


def predict(fit: Fit, batch_size: np.ndarray) -> np.ndarray:
    """A fitted law's learning rates."""
    return LAWS[fit.law].predict(batch_size, **{name: e.value for name, e in fit.params.items()})


def label_fit(fit: Fit) -> str:
    """Name of a law with its AICc, and its equation, with the exponent if that was fitted, on a second line."""
    equation = LAWS[fit.law].equation
    if "exponent" in fit.params:
        equation = equation.replace("^p", f"^{fit.params['exponent'].value:.2f}")
    return f"{fit.law}, {fit.aicc:.1f}\n{equation}"
