"""Fit a law of any variables to points with known errors, and predict from it with an interval.

Fits run in ln response, each point weighted with its own standard error s. With the Jacobian J of (ln law) / s at the
fit, W the weights of a robust fit (1 in a plain one) and R the points' correlation,
    cov = (J'WJ)^-1 J'WRWJ (J'WJ)^-1,   AIC = chi^2 + 2k,   AICc = AIC + 2k(k + 1) / (n - k - 1).
Intervals use Student's t and widen by sqrt(chi^2 / (n - k)) where a law misfits (p < .05); a robust fit does not widen,
since what it plays down would widen it. Where no error is known all points weigh the same and the misfit stands for it:
half-width t(.975, n - k) sqrt(chi^2 / (n - k)), AIC = n ln(chi^2 / n) + 2k.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.fit import MISFIT, Estimate
from analysis.laws.sizes import PointLaw
from analysis.least_squares import descend, sum_squares

UNFELT = 1e-6  # singular value over the largest, columns scaled to length 1, under which a direction is not set


@dataclass(frozen=True)
class Points:
    """What a law is fitted to.

    Attributes:
        x: variables of the law, a row each, > 0.
        y: responses, > 0.
        sd: standard errors of ln y; all 1, with dof NaN, where none is known.
        correlation: of the errors.
        dof: degrees of freedom behind sd.
    """

    x: np.ndarray
    y: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    dof: float

    def select(self, kept: np.ndarray) -> "Points":
        """The points of a mask."""
        return Points(self.x[:, kept], self.y[kept], self.sd[kept], self.correlation[np.ix_(kept, kept)], self.dof)


@dataclass(frozen=True)
class PointFit:
    """One law fitted to points.

    Attributes:
        params: by name; low and high are NaN where the data do not bound one, as where it ends on a bound.
        moved, covariance: the parameters as the fit moves them (logarithms of positive ones), and their covariance.
        quantile: half-width of a 95 % interval in standard errors, a misfit's widening included.
        residuals: ln(response / law).
        refused: why there is no fit, or nothing. Then params is empty and every number NaN.
    """

    law: PointLaw
    params: Mapping[str, Estimate]
    moved: np.ndarray
    covariance: np.ndarray
    quantile: float
    chi2: float
    aic: float
    aicc: float
    rmse_log: float
    residuals: np.ndarray
    refused: str = ""


def fit_points(law: PointLaw, points: Points, *, robust: bool = False) -> PointFit:
    """Fit one law, or refuse it with the reason.

    Args:
        robust: soft_l1 loss of scipy on residuals in standard errors; a wild point then pulls with bounded force.
    Valid when: errors of ln response are small, near normal and of known size; robust: but for a few wild ones.
    Source: Huber, Robust Statistics, chapter 7 (sandwich covariance of an M-estimator).
    """
    n, k = len(points.y), len(law.parameters)
    if refused := refuse(law, points):
        empty = np.empty(0)
        return PointFit(law, {}, empty, empty, np.nan, np.nan, np.nan, np.nan, np.nan, empty, refused)

    def residual(moved: np.ndarray) -> np.ndarray:
        z: np.ndarray = (np.log(predict(law, moved, points.x)) - np.log(points.y)) / points.sd
        return z

    results = []
    for start in law.starts(points.x, points.y):
        bounds = bound(law, start)
        begun = np.clip(to_moved(law, start), bounds[0] + 1e-3, bounds[1] - 1e-3)
        end = descend(residual, begun, *bounds, robust=robust, tolerance=1e-10)
        margin = np.minimum(end - bounds[0], bounds[1] - end)
        results.append((sum_squares(residual(end), robust), end, margin < 1e-2))
    _, best, at_bound = min(results, key=lambda each: each[0])
    z = residual(best)
    chi2 = sum_squares(z, robust)
    weights = (1 + z**2) ** -0.5 if robust else np.ones(n)
    jacobian = differentiate(law, best, points.x) / points.sd[:, None]
    covariance = spread(jacobian, weights, points.correlation)
    known = not np.isnan(points.dof)
    widens = not known or (not robust and stats.chi2.sf(chi2, n - k) < MISFIT)
    quantile = float(stats.t.ppf(0.975, points.dof if known else n - k))
    quantile *= float(np.sqrt(chi2 / (n - k))) if widens else 1.0
    half = quantile * np.sqrt(np.diag(covariance))
    half[at_bound] = np.nan  # the data do not set it
    values, lows, highs = (to_values(law, moved) for moved in (best, best - half, best + half))
    params = {name: Estimate(values[name], lows[name], highs[name]) for name in law.parameters}
    aic = (chi2 if known else n * float(np.log(max(chi2 / n, 1e-16)))) + 2 * k
    rmse = float(np.sqrt(np.mean((z * points.sd) ** 2)))
    aicc = aic + 2 * k * (k + 1) / (n - k - 1)
    return PointFit(law, params, best, covariance, quantile, chi2 if known else np.nan, aic, aicc, rmse, -z * points.sd)


def refuse(law: PointLaw, points: Points) -> str:
    """Why points do not bear a law, or nothing."""
    n, k = len(points.y), len(law.parameters)
    if n < k + 2:
        return f"{k} parameters need at least {k + 2} points; there are {n}"
    for name, row in zip(law.variables, points.x, strict=True):
        if (count := len(np.unique(row))) < law.distinct:
            return f"{law.equation} needs at least {law.distinct} values of {name}; there are {count}"
    logs = np.log(np.maximum(points.x, 1e-300))  # eps may be zero
    logs -= logs.mean(axis=1, keepdims=True)
    if np.linalg.matrix_rank(logs, tol=1e-6 * np.abs(logs).max()) < len(law.variables):
        return f"{' and '.join(law.variables)} move together in all points: their powers cannot be told apart"
    return ""


def predict_point(fit: PointFit, x: np.ndarray) -> list[Estimate]:
    """The law at further points (variables, a row each), with 95 % intervals of the law, not of a measurement."""
    log_y = np.log(predict(fit.law, fit.moved, x))
    slopes = differentiate(fit.law, fit.moved, x)
    half = fit.quantile * np.sqrt(np.einsum("ni,ij,nj->n", slopes, fit.covariance, slopes))
    return [
        Estimate(float(np.exp(y)), float(np.exp(y - h)), float(np.exp(y + h))) for y, h in zip(log_y, half, strict=True)
    ]


def to_moved(law: PointLaw, values: list[float]) -> np.ndarray:
    return np.array([v if p in law.signed else np.log(v) for p, v in zip(law.parameters, values, strict=True)])


def bound(law: PointLaw, start: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the parameters as the fit moves them."""
    sides = [
        (-np.inf, np.inf) if p in law.signed else np.log(law.bounds.get(p, (1e-6 * value, 1e6 * value)))
        for p, value in zip(law.parameters, start, strict=True)
    ]
    low, high = np.array(sides, dtype=float).T
    return low, high


def to_values(law: PointLaw, moved: np.ndarray) -> dict[str, float]:
    """Parameters from the numbers that a fit moves; infinite where a float cannot hold one."""
    return {
        p: float(v) if p in law.signed else float(np.exp(v)) if not v > 700 else np.inf
        for p, v in zip(law.parameters, moved, strict=True)
    }


def predict(law: PointLaw, moved: np.ndarray, x: np.ndarray) -> np.ndarray:
    return law.predict(*x, **to_values(law, np.clip(moved, -700, 300)))


def differentiate(law: PointLaw, moved: np.ndarray, x: np.ndarray) -> np.ndarray:
    """d ln law / d moved, points by parameters, by central differences."""
    steps = 1e-5 * np.maximum(1.0, np.abs(moved))
    return np.stack(
        [
            (np.log(predict(law, moved + row, x)) - np.log(predict(law, moved - row, x))) / (2 * step)
            for step, row in zip(steps, np.diag(steps), strict=True)
        ],
        axis=1,
    )


def spread(jacobian: np.ndarray, weights: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Covariance of the moved parameters; NaN for those in a direction that the residuals hardly feel."""
    scale = np.linalg.norm(jacobian, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    root = jacobian / scale * np.sqrt(weights)[:, None]
    _, singular, directions = np.linalg.svd(root, full_matrices=False)
    unset = (np.abs(directions[singular < UNFELT * singular[0]]) > 1e-3).any(axis=0)
    bread = np.linalg.pinv(root, rcond=UNFELT) * np.sqrt(weights)  # (J'WJ)^-1 J'W
    covariance: np.ndarray = bread @ correlation @ bread.T / np.outer(scale, scale)
    covariance[unset, :] = np.nan
    covariance[:, unset] = np.nan
    return covariance
