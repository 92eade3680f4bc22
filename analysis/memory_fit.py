"""Fits of measured memory by position in the run: an amplitude, and the rate at which batches are forgotten.

Shapes: J bins of a run.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from analysis.laws.memory import batch_weights

Array = NDArray[np.float64]
SHRINKS = 0.9  # most that a step may shrink weights by where rates are looked for


@dataclass(frozen=True)
class Cell:
    """Memory under one schedule and weight decay, a mean over seeds.

    Attributes:
        measured_J: loss on unseen samples less that on a bin's own.
        noise: standard deviation of that, from the scatter of bins of unseen samples.
        curve: which amplitude it has: cells of one curve share it.
    """

    lr_T: Array
    decay_T: Array
    beta1: float
    measured_J: Array
    noise: float
    curve: str = ""

    def weights(self, decay_T: Array) -> Array:
        """Mean of batch_weights over the steps of every bin, with another weight decay."""
        count = len(self.measured_J)
        edges = [round(i * len(self.lr_T) / count) for i in range(count)]
        sums_J = np.add.reduceat(batch_weights(self.lr_T, decay_T, self.beta1, corrected=True), edges)
        return np.asarray(sums_J / np.diff([*edges, len(self.lr_T)]))


@dataclass(frozen=True)
class Shape:
    """The least chi^2 of some cells with a free amplitude a curve.

    Attributes:
        worst: least probability, over cells, of chi^2 as large as the cell's, times the number of cells.
    """

    amplitudes: dict[str, float]
    chi2: float
    dof: int
    worst: float


@dataclass(frozen=True)
class Rate:
    """A rate with its 95 % interval, and the fit there."""

    value: float
    low: float
    high: float
    shape: Shape


def whiten(values_J: Array, noise: float) -> Array:
    """Values in units of independent noise: a cell's bins share the error of the mean over as many unseen samples.

    C = noise^2 (1 + 1 1^T / J)
    """
    return np.asarray((values_J - values_J.mean() * (1 - 0.5**0.5)) / noise)


def fit_shape(cells: Sequence[Cell], decays: Sequence[Array]) -> Shape:
    """Memory = amplitude w_j, by least squares through the origin, for given weight decays of every cell."""
    pairs = [
        (cell.curve, whiten(cell.measured_J, cell.noise), whiten(cell.weights(decay_T), cell.noise))
        for cell, decay_T in zip(cells, decays, strict=True)
    ]
    amplitudes = {}
    for curve in dict.fromkeys(cell.curve for cell in cells):
        own = [(y, w) for name, y, w in pairs if name == curve]
        amplitudes[curve] = sum(float(y @ w) for y, w in own) / sum(float(w @ w) for _, w in own)
    each = [float(np.sum((y - amplitudes[name] * w) ** 2)) for name, y, w in pairs]
    dof = sum(len(y) for _, y, _ in pairs) - len(amplitudes)
    worst = min(float(stats.chi2.sf(chi2, len(y))) for chi2, (_, y, _) in zip(each, pairs, strict=True))
    return Shape(amplitudes, sum(each), dof, min(1.0, worst * len(cells)))


def fit_multiple(cells: Sequence[Cell]) -> Rate:
    """The multiple of weight decay that memory falls by, which the law has at 1."""
    most = min(SHRINKS / float((cell.lr_T * cell.decay_T).max()) for cell in cells)
    return fit_rate(cells, lambda rate: [rate * cell.decay_T for cell in cells], scale=1.0, most=most)


def fit_extra(cells: Sequence[Cell]) -> Rate:
    """What comes on top of weight decay, one number rho for all cells, which the law has at 0.

        w_j = lr_j exp(sum_(i > j) lr_i (weight_decay_i + rho))^-1

    Valid when: curvature over root of Adam's second moment is alike in all directions and times; an approximation.
    Source: derived for this project.
    """
    scale = float(np.median([cell.decay_T.mean() for cell in cells]))
    most = min(float((SHRINKS / cell.lr_T - cell.decay_T).min()) for cell in cells)
    return fit_rate(cells, lambda rate: [rate + cell.decay_T for cell in cells], scale=scale, most=most)


def fit_rate(cells: Sequence[Cell], decays: Callable[[float], list[Array]], scale: float, most: float) -> Rate:
    """Least chi^2 over a rate; interval where it has risen by 3.84, times chi^2 a degree of freedom where that is > 1.

    Args:
        decays: rate -> weight decays of every cell.
        scale: of rates, > 0: sought evenly in asinh(rate / scale), from -scale on.
        most: largest that is looked for; the interval is open where it would lie beyond.
    """

    def rate_of(x: float) -> float:
        return scale * float(np.sinh(x))

    def chi2_at(x: float) -> float:
        return fit_shape(cells, decays(rate_of(x))).chi2

    least, last = -float(np.arcsinh(1.0)), float(np.arcsinh(most / scale))
    grid = np.linspace(least, last, 25)
    start = int(np.argmin([chi2_at(x) for x in grid]))
    around = (grid[max(start - 1, 0)], grid[min(start + 1, len(grid) - 1)])
    best = float(optimize.minimize_scalar(chi2_at, bounds=around, method="bounded", options={"xatol": 1e-4}).x)
    shape = fit_shape(cells, decays(rate_of(best)))
    limit = shape.chi2 + stats.chi2.ppf(0.95, 1) * max(1.0, shape.chi2 / (shape.dof - 1))

    def excess(x: float) -> float:
        return chi2_at(x) - limit

    low = rate_of(optimize.brentq(excess, least, best, xtol=1e-3)) if excess(least) > 0 else -np.inf
    high = rate_of(optimize.brentq(excess, best, last, xtol=1e-3)) if excess(last) > 0 else np.inf
    return Rate(rate_of(best), low, high, shape)
