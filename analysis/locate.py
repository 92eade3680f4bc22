"""Where in a cell's grid the optimum lies: between learning rates, with local fits, or at an edge, with advice."""

from dataclasses import dataclass

import numpy as np

from analysis.cells import MIN_LRS, Cell
from analysis.local_fit import Minimum, fit_minimum

# Octaves from the lowest point that fits take in: five and three points .75 octave apart, as calibrated on lr_vs_bs
CUBIC_REACH, PARABOLA_REACH = 1.5, 0.75
MISFIT = 5.0  # ratio of variances
WALL, DIP = 2.0, 1 / 3  # see meets_wall


@dataclass(frozen=True)
class Located:
    """A cell with its local fits; parabola is the cross-check of a cubic and None where there is no cubic."""

    cell: Cell
    best: Minimum | None
    parabola: Minimum | None
    edge: str
    argmin: int
    note: str


def locate(cell: Cell) -> Located:
    """Local fits around the lowest seed-mean loss, or the edge that prevents them."""
    mean_L = cell.loss_LS.mean(axis=1)
    finite = np.isfinite(mean_L)
    if not finite.any() and cell.censored:
        note = "no learning rate brought every seed to the target: raise max_steps or target_loss"
        return Located(cell, None, None, "", min(cell.censored), note)
    if not finite.any():
        note = "a seed diverged at every learning rate: extend the grid downward"
        return Located(cell, None, None, "edge_low", 0, note)
    i = int(np.argmin(mean_L))
    if len(finite) < MIN_LRS:
        note = f"{len(finite)} learning rates do not locate an optimum: it needs at least {MIN_LRS}"
        return Located(cell, None, None, "", i, note)
    start, stop = i, i
    while start > 0 and finite[start - 1]:
        start -= 1
    while stop < len(finite) - 1 and finite[stop + 1]:
        stop += 1
    below, above = i - start, stop - i
    # a side closed by divergence needs one finite point, a side closed by the end of the grid two (one under
    # 5 points)
    needed = 2 if len(finite) >= 5 else 1
    needed_below = needed if start == 0 else 1
    needed_above = needed if stop == len(finite) - 1 else 1
    if below < needed_below or above < needed_above:
        high = above < needed_above
        return Located(cell, None, None, "edge_high" if high else "edge_low", i, advise(cell, i, high, start, stop))
    cubic, parabola, last = fit_near(cell, i, start, stop)
    while meets_wall(mean_L, i, start, last, cubic or parabola):
        stop = last - 1
        cubic, parabola, last = fit_near(cell, i, start, stop)
    if cubic is not None:
        return Located(cell, cubic, parabola, "", i, "")
    if parabola is not None:
        note = "3-point parabola: its own error is taken to be as on lr_vs_bs, 5 learning rates would measure it"
        return Located(cell, parabola, None, "", i, note)
    return Located(cell, None, None, "", i, "the loss curve has no minimum near its lowest point")


def fit_near(cell: Cell, i: int, start: int, stop: int) -> tuple[Minimum | None, Minimum | None, int]:
    """The cubic and the parabola around point i, from points between start and stop, and the last point taken in."""
    near = choose_window(cell.x_L, i, start, stop, PARABOLA_REACH, 3)
    parabola = fit_minimum(cell.x_L[near], cell.loss_LS[near], degree=2)
    if stop - start < 4:
        return None, parabola, near.stop - 1
    near = choose_window(cell.x_L, i, start, stop, CUBIC_REACH, 5)
    reach = CUBIC_REACH
    while misfits(cell.x_L[near], cell.loss_LS[near]):
        reach /= 2
        near = choose_window(cell.x_L, i, start, stop, reach, 5)
    return fit_minimum(cell.x_L[near], cell.loss_LS[near], degree=3), parabola, near.stop - 1


def meets_wall(mean_L: np.ndarray, i: int, start: int, last: int, fitted: Minimum | None) -> bool:
    """Whether a fit went through runs that broke though their loss is finite: no polynomial follows such a wall.

    The last point is WALL times as bad as the worst of the lower learning rates, which lead towards an untrained model,
    and the fit has no minimum or one that lies lower by more than DIP of the fall from there.
    """
    if last <= i + 1 or start >= i:
        return False
    worst = float(mean_L[start:i].max())
    dips = fitted is None or mean_L[i] - fitted.loss > DIP * (worst - mean_L[i])
    return dips and bool(mean_L[last] > WALL * abs(worst))


def misfits(x_L: np.ndarray, loss_LS: np.ndarray) -> bool:
    """Whether a cubic leaves more of the seed means than the seeds' scatter about it explains: near a wall of
    divergence the curve is steeper than any cubic of that width, and few points lie nearer to it.

    Where the means' misfit is more than MISFIT times what follows from that of the seeds' deviations; less is borne,
    since few points are all noise. Never with 5 points or one seed.
    """
    count, seeds = loss_LS.shape
    if count <= 5 or seeds < 2:
        return False
    powers = np.vander(x_L - x_L.mean(), 4)
    mean_L = loss_LS.mean(axis=1)
    both = np.column_stack((mean_L, loss_LS - mean_L[:, None]))
    left = both - powers @ np.linalg.lstsq(powers, both, rcond=None)[0]
    misfit = np.sum(left[:, 0] ** 2) / (count - 4)
    noise = np.sum(left[:, 1:] ** 2) / ((count - 4) * (seeds - 1)) / seeds
    return bool(misfit > MISFIT * noise)


def choose_window(x_L: np.ndarray, i: int, start: int, stop: int, reach: float, least: int) -> slice:
    """The points within `reach` octaves of point i, at least so many, all of them between start and stop.

    By octaves and not by number: on a fine grid a few points are all noise and no curve.
    """
    near = start + np.flatnonzero(np.abs(x_L[start : stop + 1] - x_L[i]) <= reach + 1e-6)
    if len(near) >= least:
        return slice(int(near[0]), int(near[-1]) + 1)
    first = min(max(i - least // 2, start), stop - least + 1)
    return slice(first, first + least)


def advise(cell: Cell, i: int, high: bool, start: int, stop: int) -> str:
    """Which way to extend the grid and how far, so that two values would lie beyond the lowest loss."""
    spacing = float(np.median(np.diff(cell.x_L)))
    lr = 2.0**cell.x_L
    if high and stop < len(lr) - 1:
        wall = lr[stop + 1]
        cure = "raise max_steps, or " if stop + 1 in cell.censored else ""
        text = f"a seed {cell.end_of(stop + 1)} at lr {wall:.3g}"
        return f"{text}: {cure}add learning rates between {lr[i]:.3g} and {wall:.3g}"
    if not high and start > 0:
        wall = lr[start - 1]
        cure = "raise max_steps, or " if start - 1 in cell.censored else ""
        text = f"a seed {cell.end_of(start - 1)} at lr {wall:.3g}"
        return f"{text}: {cure}add learning rates between {wall:.3g} and {lr[i]:.3g}"
    inside = (stop - i) if high else (i - start)
    steps = 3 - inside
    end = lr[-1] * 2 ** (steps * spacing) if high else lr[0] / 2 ** (steps * spacing)
    side, best = ("up", "highest") if high else ("down", "lowest")
    place = "the" if inside == 0 else "one step from the"
    return f"the best lr is {place} {best} of the grid: extend it {side} to {end:.2g} ({steps} more values)"
