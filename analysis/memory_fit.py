"""Fits of measured memory by position in the run: an amplitude, and the rate at which batches are forgotten.

Intervals are over seeds: runs of one seed share their samples, across schedules, weight decays and batch sizes.

Shapes: S seeds, J bins of a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.laws.memory import batch_weights

Array = NDArray[np.float64]
SHRINKS = 0.9  # most that a step may shrink weights by where rates are looked for


@dataclass(frozen=True)
class Cell:
    """Memory under one schedule and weight decay.

    Attributes:
        seeds: of the rows of measured_SJ.
        measured_SJ: loss on unseen samples less that on a bin's own.
        noise: standard deviation of one seed's, from the scatter of bins of unseen samples: weighs cells against each
            other, and no interval has it.
        curve: which amplitude it has: cells of one curve share it.
    """

    lr_T: Array
    decay_T: Array
    beta1: float
    seeds: tuple[int, ...]
    measured_SJ: Array
    noise: float
    curve: str = ""

    @property
    def measured_J(self) -> Array:
        """Mean over seeds."""
        return np.asarray(self.measured_SJ.mean(0))

    @property
    def error(self) -> float:
        """Standard deviation of measured_J by `noise`."""
        return float(self.noise / len(self.seeds) ** 0.5)

    def weights(self, decay_T: Array) -> Array:
        """Mean of batch_weights over the steps of every bin, with another weight decay."""
        count = self.measured_SJ.shape[1]
        edges = [round(i * len(self.lr_T) / count) for i in range(count)]
        sums_J = np.add.reduceat(batch_weights(self.lr_T, decay_T, self.beta1, corrected=True), edges)
        return np.asarray(sums_J / np.diff([*edges, len(self.lr_T)]))


@dataclass(frozen=True)
class Shape:
    """The least chi^2 of some cells with a free amplitude a curve."""

    amplitudes: dict[str, float]
    chi2: float


@dataclass(frozen=True)
class Rate:
    """A number with its 95 % interval over seeds; NaN where the data do not bound it, or of one seed."""

    value: float
    low: float
    high: float


def select_seeds(cells: Sequence[Cell], keep: Callable[[int], bool]) -> list[Cell]:
    """The cells with some of their seeds; those that have none of them are left out."""
    chosen = []
    for cell in cells:
        rows = [i for i, seed in enumerate(cell.seeds) if keep(seed)]
        if rows:
            seeds = tuple(cell.seeds[i] for i in rows)
            chosen.append(replace(cell, seeds=seeds, measured_SJ=cell.measured_SJ[rows]))
    return chosen


def seeds_of(cells: Sequence[Cell]) -> list[int]:
    return sorted({seed for cell in cells for seed in cell.seeds})


def whiten(values_J: Array, noise: float) -> Array:
    """Values in units of independent noise: a cell's bins share the error of the mean over as many unseen samples.

    C = noise^2 (1 + 1 1^T / J)
    """
    return np.asarray((values_J - values_J.mean(-1, keepdims=True) * (1 - 0.5**0.5)) / noise)


def fit_shape(cells: Sequence[Cell], decays: Sequence[Array]) -> Shape:
    """Memory = amplitude w_j, by least squares through the origin, for given weight decays of every cell."""
    pairs = [
        (cell.curve, whiten(cell.measured_J, cell.error), whiten(cell.weights(decay_T), cell.error))
        for cell, decay_T in zip(cells, decays, strict=True)
    ]
    amplitudes = {}
    for curve in dict.fromkeys(cell.curve for cell in cells):
        own = [(y, w) for name, y, w in pairs if name == curve]
        amplitudes[curve] = sum(float(y @ w) for y, w in own) / sum(float(w @ w) for _, w in own)
    return Shape(amplitudes, sum(float(np.sum((y - amplitudes[name] * w) ** 2)) for name, y, w in pairs))


def compare_shape(cells: Sequence[Cell]) -> float:
    """How likely the means over seeds miss the law's shape by so much, by the scatter of seeds about their mean.

        F = (S / J) sum_j (y_j - A w_j)^2 / (sum_sj (y_sj - y_j)^2 / ((S - 1) J))    of J and (S - 1) J degrees

    Returns: the least probability over cells, times their number, at most 1; NaN of one seed.
    Valid when: bins scatter alike; cautious by the amplitude A, which is fitted.
    Source: analysis of variance; whitened as in `whiten`.
    """
    amplitudes = fit_shape(cells, [cell.decay_T for cell in cells]).amplitudes
    found = []
    for cell in cells:
        count, bins = cell.measured_SJ.shape
        if count < 2:
            return np.nan
        y_SJ = whiten(cell.measured_SJ, 1.0)
        w_J = whiten(cell.weights(cell.decay_T), 1.0)
        mean_J = y_SJ.mean(0)
        between = count * float(np.mean((mean_J - amplitudes[cell.curve] * w_J) ** 2))
        within = float(np.sum((y_SJ - mean_J) ** 2)) / ((count - 1) * bins)
        found.append(float(stats.f.sf(between / within, bins, (count - 1) * bins)))
    return min(1.0, min(found) * len(cells))


def fit_multiple(cells: Sequence[Cell]) -> Rate:
    """The multiple of weight decay that memory falls by, which the law has at 1."""
    return over_seeds(cells, find_multiple, np.arcsinh, np.sinh)


def find_multiple(cells: Sequence[Cell]) -> float:
    most = min(SHRINKS / float((cell.lr_T * cell.decay_T).max()) for cell in cells)
    return find_rate(cells, lambda rate: [rate * cell.decay_T for cell in cells], scale=1.0, most=most)


def fit_extra(cells: Sequence[Cell]) -> Rate:
    """What comes on top of weight decay, one number rho for all cells, which the law has at 0.

        w_j = lr_j exp(sum_(i > j) lr_i (weight_decay_i + rho))^-1

    Valid when: curvature over root of Adam's second moment is alike in all directions and times; an approximation.
    Source: derived for this project.
    """
    scale = scale_of(cells)
    return over_seeds(cells, find_extra, lambda rate: np.arcsinh(rate / scale), lambda x: scale * np.sinh(x))


def find_extra(cells: Sequence[Cell]) -> float:
    most = min(float((SHRINKS / cell.lr_T - cell.decay_T).min()) for cell in cells)
    return find_rate(cells, lambda rate: [rate + cell.decay_T for cell in cells], scale=scale_of(cells), most=most)


def scale_of(cells: Sequence[Cell]) -> float:
    return float(np.median([cell.decay_T.mean() for cell in cells]))


def over_seeds(
    cells: Sequence[Cell], find: Callable[[Sequence[Cell]], float],
    straighten: Callable[[float], float], back: Callable[[float], float],
) -> Rate:  # fmt: skip
    """A number found from all seeds, with an interval from what it is without each of them (the jackknife).

        x +- t(.975, S - 1) sqrt((S - 1) / S sum_s (x_(-s) - mean)^2)

    Fits to one seed alone would be pulled from the truth by their noise, which those to all but one hardly are.

    Args:
        find: cells -> the number, infinite where it lies beyond what is looked for.
        straighten, back: number -> x, in which errors are even, and its inverse.
    Returns: NaN as interval of one seed, and where the number is infinite with or without some seed.
    Valid when: seeds are independent of each other; what they share, such as batches, does not count twice.
    Source: Tukey, Annals of Mathematical Statistics 29 (1958) 614.
    """
    value, seeds = find(cells), seeds_of(cells)
    if len(seeds) < 2 or not np.isfinite(value):
        return Rate(value, np.nan, np.nan)
    others = np.array([find(select_seeds(cells, lambda seed, out=out: seed != out)) for out in seeds])  # type: ignore[misc]
    if not np.isfinite(others).all():
        return Rate(value, np.nan, np.nan)
    x_S, count = np.array([straighten(other) for other in others]), len(seeds)
    half = stats.t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * np.sum((x_S - x_S.mean()) ** 2))
    x = straighten(value)
    return Rate(value, float(back(x - half)), float(back(x + half)))


def find_rate(cells: Sequence[Cell], decays: Callable[[float], list[Array]], scale: float, most: float) -> float:
    """The rate of least chi^2; infinite where that falls up to the largest, -infinite where it does down to -scale.

    Args:
        decays: rate -> weight decays of every cell.
        scale: of rates, > 0: sought evenly in asinh(rate / scale), from -scale on.
        most: largest that is looked for.
    """

    def chi2_at(x: float) -> float:
        return fit_shape(cells, decays(scale * float(np.sinh(x)))).chi2

    grid = np.linspace(-float(np.arcsinh(1.0)), float(np.arcsinh(most / scale)), 25)
    start = int(np.argmin([chi2_at(x) for x in grid]))
    around = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    best = float(optimize.minimize_scalar(chi2_at, bounds=around, method="bounded", options={"xatol": 1e-4}).x)
    if best > grid[-1] - 1e-3:
        return np.inf
    return -np.inf if best < grid[0] + 1e-3 else scale * float(np.sinh(best))
