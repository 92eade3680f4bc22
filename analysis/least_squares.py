"""The arithmetic of a fit: least squares from many starts, bounds as residuals, errors with covariance."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from analysis.laws import Law
from analysis.optimum import Optimum

LN2 = np.log(2)
SIDES = {"edge_low": -1, "edge_high": 1}  # of the bound on which the optimum lies


@dataclass(frozen=True)
class Minimum:
    """Where a law misses the cells least, in its parameters' order.

    Attributes:
        at: the parameters as the fit moves them, logarithms of those that are positive.
        low, high: their bounds.
    """

    at: np.ndarray
    low: np.ndarray
    high: np.ndarray


def to_value(log: bool, fitted: float) -> float:
    """A parameter from the number that the fit moves; infinite where a float cannot hold it."""
    if not log:
        return float(fitted)
    return float(np.exp(fitted)) if fitted < 700 else np.inf


def describe_bound(o: Optimum) -> str:
    return f"{'above' if SIDES[o.status] > 0 else 'below'} {o.bound:.3g}"


def miss_bounds(law: Law, values: Mapping[str, float], bounds: Sequence[Optimum]) -> np.ndarray:
    """Residual of each bound: 0 far on its right side, as (ln law - ln bound) / sd far on the wrong one."""
    batch_size, lr, sd, side = (
        np.array(column, dtype=float)
        for column in zip(*((o.batch_size, o.bound, o.sd_log2 * LN2, SIDES[o.status]) for o in bounds), strict=True)
    )
    z = side * (np.log(law.predict(batch_size, **values)) - np.log(lr)) / sd
    missed: np.ndarray = np.sqrt(-2 * special.log_ndtr(z))
    return missed


def errors_of(used: Sequence[Optimum]) -> np.ndarray:
    """Standard errors of the cells' ln lr; all 1 where not every one is known."""
    sd = np.array([o.sd_log2 for o in used]) * LN2
    return sd if np.isfinite(sd).all() else np.ones_like(sd)


def to_values(law: Law, moved: np.ndarray) -> dict[str, float]:
    """A law's parameters by name."""
    return {p.name: to_value(p.log, value) for p, value in zip(law.parameters, moved, strict=True)}


def spread_of(
    law: Law, at: np.ndarray, used: Sequence[Optimum], bounds: Sequence[Optimum], robust: bool = False
) -> np.ndarray:
    """Standard error of every parameter as the fit moves it, with the covariance between cells; robust: a cell counts
    with the weight (1 + z^2)^(-1/2) that the fit gave it, z its residual in standard errors. NaN: the cells do not
    bound it.

    Source: the sandwich estimator, e.g. Wooldridge, Econometric Analysis, chapter 7.
    """
    batch_size, sd = np.array([o.batch_size for o in used], dtype=float), errors_of(used)

    def residual(moved: np.ndarray) -> np.ndarray:
        values = to_values(law, moved)
        cells = np.log(law.predict(batch_size, **values)) / sd
        return np.concatenate([cells, miss_bounds(law, values, bounds)]) if bounds else cells

    steps = 1e-5 * np.maximum(1.0, np.abs(at))
    jacobian = np.stack(
        [
            (residual(at + row) - residual(at - row)) / (2 * step)
            for step, row in zip(steps, np.diag(steps), strict=True)
        ],
        axis=1,
    )
    correlation = np.eye(len(jacobian))
    for (i, one), (j, other) in itertools.permutations(enumerate(used), 2):
        correlation[i, j] = one.covariance.get(other.batch_size, 0.0) * LN2**2 / (sd[i] * sd[j])
    weights = np.ones(len(jacobian))
    if robust:
        z = residual(at)
        z[: len(used)] -= np.log([o.lr for o in used]) / sd
        weights = (1 + z**2) ** -0.25  # root of the weight
    jacobian = jacobian * weights[:, None]
    correlation = correlation * np.outer(weights, weights)
    # A direction that the residuals hardly feel bounds none of the parameters in it; a generalised inverse would
    # leave it out and call them sure
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    unfelt = directions[singular < 1e-4 * singular[0]]
    unbounded = (np.abs(unfelt) > 1e-3).any(axis=0)
    bread = np.linalg.pinv(jacobian, rcond=1e-4)
    spread: np.ndarray = np.sqrt(np.where(unbounded, np.nan, np.diag(bread @ correlation @ bread.T)))
    return spread


def sum_squares(z: np.ndarray, robust: bool) -> float:
    """chi^2 of residuals in standard errors; robust: 2 sum (sqrt(1 + z^2) - 1), in which one cell counts as |z|."""
    return float(np.sum(2 * (np.sqrt(1 + z**2) - 1))) if robust else float(z @ z)


def descend(
    residual: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    *,
    robust: bool,
    tolerance: float = 1e-8,
) -> np.ndarray:
    """Where least squares end from a start within bounds; robust: with scipy's soft_l1 loss.

    MINPACK's Levenberg-Marquardt knows neither bounds nor that loss, and takes a fifth of the time: an end of it within
    the bounds is as good as one of the method that keeps to them.
    """
    how = {"xtol": tolerance, "ftol": tolerance}
    with np.errstate(all="ignore"):  # it may step to where a law overflows, and comes back or is done anew
        if not robust:
            with suppress(OverflowError):
                free = optimize.least_squares(residual, start, method="lm", x_scale="jac", **how)
                if free.success and (low < free.x).all() and (free.x < high).all():
                    return np.asarray(free.x)
        loss = "soft_l1" if robust else "linear"
        found = optimize.least_squares(residual, start, bounds=(low, high), x_scale="jac", loss=loss, **how)
    return np.asarray(found.x)


def minimize_residuals(
    law: Law, used: Sequence[Optimum], bounds: Sequence[Optimum] = (), robust: bool = False
) -> Minimum:
    """The best of the least-squares fits from every combination of start values; robust: with scipy's soft_l1 loss."""
    batch_size, lr = (np.array([getattr(o, name) for o in used], dtype=float) for name in ("batch_size", "lr"))
    sd, log_lr = errors_of(used), np.log(lr)
    moves = [np.log if p.log else float for p in law.parameters]
    low, high = (
        np.array([move(getattr(p, side)(batch_size, lr)) for p, move in zip(law.parameters, moves, strict=True)])
        for side in ("low", "high")
    )

    def residual(moved: np.ndarray) -> np.ndarray:
        values = to_values(law, moved)
        cells = (np.log(law.predict(batch_size, **values)) - log_lr) / sd
        return np.concatenate([cells, miss_bounds(law, values, bounds)]) if bounds else cells

    starts = itertools.product(*(p.starts(batch_size, lr) for p in law.parameters))
    begun = (np.array([move(value) for move, value in zip(moves, start, strict=True)]) for start in starts)
    ends = [descend(residual, np.clip(start, low, high), low, high, robust=robust) for start in begun]
    misses = [sum_squares(residual(end), robust) for end in ends]
    return Minimum(ends[int(np.argmin(np.nan_to_num(misses, nan=np.inf)))], low, high)
