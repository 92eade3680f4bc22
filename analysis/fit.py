"""Fit laws to the optima of one group, and say which of them the data can tell apart.

Fits run in log lr, each cell weighted with its own standard error. With known errors,
    AICc = chi^2 + 2k + 2k(k + 1) / (n - k - 1).
Intervals use Student's t with the degrees of freedom behind the errors and widen by sqrt(chi^2 / (n - k))
where a law misfits (p < .05). They carry the covariance of the cells, which share seeds and a held-out set: with the
Jacobian J of the weighted residuals and R their correlation, cov = (J'J)^-1 J'RJ (J'J)^-1. The fit itself weighs
each cell alone: an estimated correlation would let cells take each other's weight, and even turn it negative.
An edge enters as a bound: its residual is sqrt(-2 log Phi(z)), z = (ln law - ln bound) / sd above a lower bound.
With one seed no error is known: all cells weigh the same, AICc comes from the residuals, and no law is
called separable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.laws import LAWS, Law
from analysis.least_squares import (
    SIDES,
    describe_bound,
    errors_of,
    minimize_residuals,
    miss_bounds,
    spread_of,
    sum_squares,
    to_values,
)
from analysis.optimum import Optimum

MISFIT = 0.05  # probability of a chi^2 from which a law counts as misfitting
SEPARABLE = 10.0  # difference in chi^2 from which two laws count as told apart


@dataclass(frozen=True)
class Estimate:
    """A parameter with its 95 % interval; low and high are NaN where the data do not bound it."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """One law fitted to the optima of one group.

    Attributes:
        params: by name.
        chi2, aicc: criteria; chi2 is NaN with one seed.
        rmse_log: root mean square residual of ln lr.
        residuals: ln(optimum / law), by batch size.
        left_out: cells that took no part, with the reason.
        refused: why there is no fit, or nothing. Then params is empty and every number NaN.
        notes: bounds that were reached.
    """

    law: str
    group: Mapping[str, object]
    params: Mapping[str, Estimate]
    chi2: float
    aicc: float
    rmse_log: float
    residuals: Mapping[int, float]
    left_out: tuple[str, ...]
    refused: str = ""
    notes: tuple[str, ...] = ()

    @property
    def aic(self) -> float:
        """AICc without its correction for few cells."""
        k, n = len(self.params), len(self.residuals)
        return self.aicc - 2 * k * (k + 1) / (n - k - 1) if self.params else np.nan

    @property
    def dof(self) -> int:
        """Cells less parameters."""
        return len(self.residuals) - len(self.params)


@dataclass(frozen=True)
class Comparison:
    """Laws of one group against each other.

    Attributes:
        best: law with the least AICc, or nothing where none could be fitted.
        not_separable: laws whose misfit is not distinctly worse than that of the best.
        text: the outcome in a sentence.
    """

    group: Mapping[str, object]
    best: str
    not_separable: tuple[str, ...]
    text: str


def fit_laws(optima: Sequence[Optimum], names: Sequence[str] = tuple(LAWS), *, robust: bool = False) -> list[Fit]:
    """Fit each named law to the optima of one group."""
    return [fit_law(LAWS[name], optima, robust=robust) for name in names]


def fit_law(law: Law, optima: Sequence[Optimum], *, robust: bool = False) -> Fit:
    """Fit one law to the interior optima of one group.

    Args:
        robust: chi^2 becomes 2 sum (sqrt(1 + z^2) - 1), so that one wild cell pulls with bounded force. Intervals are
            those of the sandwich with each cell's weight in the fit, and a misfit does not widen them. Where no error
            is known all cells weigh the same as ever.
    """
    group = optima[0].group if optima else {}
    used = [o for o in optima if o.status == "interior"]
    bounds = [o for o in optima if o.status in SIDES and np.isfinite(o.bound) and np.isfinite(o.sd_log2)]
    left_out = [
        f"batch size {o.batch_size}: {o.status}" + (f", counts as {describe_bound(o)}" if o in bounds else "")
        for o in optima
        if o.status != "interior"
    ]
    if any(np.isfinite(o.sd_log2) for o in used):
        # one cell without an error must not cost all others theirs
        left_out += [f"batch size {o.batch_size}: one seed, no error" for o in used if not np.isfinite(o.sd_log2)]
        used = [o for o in used if np.isfinite(o.sd_log2)]
    num_params = len(law.parameters)
    if len(used) < num_params + 2:
        noun = "parameter needs" if num_params == 1 else "parameters need"
        reason = f"{num_params} {noun} at least {num_params + 2} located batch sizes; there are {len(used)}"
        return Fit(law.name, group, {}, np.nan, np.nan, np.nan, {}, tuple(left_out), refused=reason)
    batch_size = np.array([o.batch_size for o in used], dtype=float)
    lr = np.array([o.lr for o in used])
    sd = errors_of(used)
    known = all(np.isfinite(o.sd_log2) for o in used)
    bounds = bounds if known else []
    found = minimize_residuals(law, used, bounds, robust and known)
    values = to_values(law, found.at)
    residuals = np.log(lr) - np.log(law.predict(batch_size, **values))
    n, k = len(used), num_params
    chi2 = sum_squares(residuals / sd, robust) if known else np.nan
    if bounds:
        chi2 += sum_squares(miss_bounds(law, values, bounds), robust)
    if known:
        aicc = chi2 + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        misfits = not robust and stats.chi2.sf(chi2, n - k) < MISFIT
        quantile = float(stats.t.ppf(0.975, min(o.dof for o in used)))
        quantile *= float(np.sqrt(chi2 / (n - k))) if misfits else 1.0
    else:
        # the error of a cell is one more unknown, which the residuals must pay for; it is the same for every
        # law
        variance = max(float(np.mean(residuals**2)), 1e-16)
        aicc = n * np.log(variance) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
        quantile = float(stats.t.ppf(0.975, n - k)) * float(np.sqrt(np.sum(residuals**2) / (n - k)))
    half = quantile * spread_of(law, found.at, used, bounds, robust and known)
    margin = 1e-3 * (found.high - found.low)
    at_bound = ~((found.low + margin < found.at) & (found.at < found.high - margin))
    half[at_bound] = np.nan
    low, high = (to_values(law, found.at + sign * half) for sign in (-1, 1))
    params = {name: Estimate(value, low[name], high[name]) for name, value in values.items()}
    bounded = (p.name for p, there in zip(law.parameters, at_bound, strict=True) if there)
    notes = [f"{name} is at its bound: the data do not set it" for name in bounded]
    return Fit(
        law=law.name,
        group=group,
        params=params,
        chi2=chi2,
        aicc=float(aicc),
        rmse_log=float(np.sqrt(np.mean(residuals**2))),
        residuals={o.batch_size: float(r) for o, r in zip(used, residuals, strict=True)},
        left_out=tuple(left_out),
        notes=tuple(notes),
    )


def compare(fits: Sequence[Fit]) -> Comparison:
    """Choose the law with the least AICc and name the rivals that the data cannot tell from it.

    A rival is told apart when its chi^2 exceeds that of the best law by 10, counted in units of the best
    law's chi^2 per degree of freedom where that is above 1: what even the best law leaves unexplained
    separates nothing.
    """
    fitted = [fit for fit in fits if not fit.refused]
    group = fits[0].group if fits else {}
    if not fitted:
        return Comparison(group, "", (), fits[0].refused if fits else "no optima")
    best = min(fitted, key=lambda fit: fit.aicc)
    rivals = [fit for fit in fitted if fit is not best]
    if not np.isfinite(best.chi2):
        names = tuple(fit.law for fit in rivals)
        return Comparison(group, best.law, names, f"{best.law} is nearest; with one seed no law is told apart")
    unit = max(1.0, best.chi2 / best.dof)
    near = tuple(fit.law for fit in rivals if (fit.chi2 - best.chi2) / unit < SEPARABLE)
    text = f"{best.law} is best" + (f"; not separable from it: {', '.join(near)}" if near else "; every rival is worse")
    misfit = float(stats.chi2.sf(best.chi2, best.dof))
    if misfit < 0.01:
        text += f"; it misfits (chi2 {best.chi2:.1f} for {best.dof} degrees of freedom, p = {misfit:.1g})"
    return Comparison(group, best.law, near, text)
