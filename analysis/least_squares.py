"""The arithmetic of a fit: least squares from many starts, bounds as residuals, errors with covariance."""

import itertools
import warnings
from collections.abc import Mapping, Sequence

import lmfit
import numpy as np
from scipy import stats

from analysis.laws import Law
from analysis.optimum import Optimum

SIDES = {"edge_low": -1, "edge_high": 1}  # of the bound on which the optimum lies


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
        for column in zip(
            *((o.batch_size, o.bound, o.sd_log2 * np.log(2), SIDES[o.status]) for o in bounds), strict=True
        )
    )
    z = side * (np.log(law.predict(batch_size, **values)) - np.log(lr)) / sd
    missed: np.ndarray = np.sqrt(-2 * stats.norm.logcdf(z))
    return missed


def spread_of(
    law: Law,
    result: lmfit.minimizer.MinimizerResult,
    used: Sequence[Optimum],
    bounds: Sequence[Optimum],
    robust: bool = False,
) -> dict[str, float]:
    """Standard error of every parameter as the fit moves it, with the covariance between cells; robust: a cell counts
    with the weight (1 + z^2)^(-1/2) that the fit gave it, z its residual in standard errors.

    Source: the sandwich estimator, e.g. Wooldridge, Econometric Analysis, chapter 7.
    """
    batch_size, sd = (np.array([getattr(o, name) for o in used], dtype=float) for name in ("batch_size", "sd_log2"))
    at = np.array([result.params[p.name].value for p in law.parameters])

    def residual(moved: np.ndarray) -> np.ndarray:
        values = {p.name: to_value(p.log, value) for p, value in zip(law.parameters, moved, strict=True)}
        cells = np.log(law.predict(batch_size, **values)) / (sd * np.log(2))
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
        correlation[i, j] = one.covariance.get(other.batch_size, 0.0) / (sd[i] * sd[j])
    weights = np.ones(len(jacobian))
    if robust:
        z = residual(at)
        z[: len(used)] -= np.log([o.lr for o in used]) / (sd * np.log(2))
        weights = (1 + z**2) ** -0.25  # root of the weight
    jacobian = jacobian * weights[:, None]
    correlation = correlation * np.outer(weights, weights)
    # A direction that the residuals hardly feel bounds none of the parameters in it; a generalised inverse would
    # leave it out and call them sure
    _, singular, directions = np.linalg.svd(jacobian, full_matrices=False)
    unfelt = directions[singular < 1e-4 * singular[0]]
    unbounded = (np.abs(unfelt) > 1e-3).any(axis=0)
    bread = np.linalg.pinv(jacobian, rcond=1e-4)
    variances = np.where(unbounded, np.nan, np.diag(bread @ correlation @ bread.T))
    return {p.name: float(np.sqrt(v)) for p, v in zip(law.parameters, variances, strict=True)}


def sum_squares(z: np.ndarray, robust: bool) -> float:
    """chi^2 of residuals in standard errors; robust: 2 sum (sqrt(1 + z^2) - 1), in which one cell counts as |z|."""
    return float(np.sum(2 * (np.sqrt(1 + z**2) - 1))) if robust else float(z @ z)


def minimize_residuals(
    law: Law,
    batch_size: np.ndarray,
    lr: np.ndarray,
    sd: np.ndarray,
    bounds: Sequence[Optimum] = (),
    robust: bool = False,
) -> lmfit.minimizer.MinimizerResult:
    """The best of the least-squares fits from every combination of start values; robust: with scipy's soft_l1 loss."""

    def residual(params: lmfit.Parameters) -> np.ndarray:
        values = {p.name: to_value(p.log, params[p.name].value) for p in law.parameters}
        cells = (np.log(law.predict(batch_size, **values)) - np.log(lr)) / sd
        return np.concatenate([cells, miss_bounds(law, values, bounds)]) if bounds else cells

    loss = "soft_l1" if robust else "linear"
    best, least = None, np.inf
    for starts in itertools.product(*(p.starts(batch_size, lr) for p in law.parameters)):
        params = lmfit.Parameters()
        for p, start in zip(law.parameters, starts, strict=True):
            move = np.log if p.log else float
            low, high = (float(move(bound(batch_size, lr))) for bound in (p.low, p.high))
            params.add(p.name, value=float(np.clip(move(start), low, high)), min=low, max=high)
        with warnings.catch_warnings():
            # a flat direction makes a variance that uncertainties cannot root; such an interval is reported
            # as unbounded
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            result = lmfit.minimize(residual, params, method="least_squares", scale_covar=False, loss=loss)
        if best is None or sum_squares(residual(result.params), robust) < least:
            best, least = result, sum_squares(residual(result.params), robust)
    assert best is not None
    return best
