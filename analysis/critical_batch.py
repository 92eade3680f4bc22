"""The critical batch size of runs that train to a target: laws of steps against batch size, and B_crit by definition.

Definitions of "the" critical batch size lie 20 times apart on one exact hyperbola, so every number bears its own:
    corner        E_min / S_min                                                             B_crit
    twice_steps   steps are twice S_min                                                     B_crit
    overhead_20   samples are 20 % above E_min                                              0.2 B_crit
    doubling_10   from there on doubling the batch size saves less than 10 % of the steps   4 B_crit
with the last column for S = S_min (1 + B_crit/B). Each is read from every law, with an interval, and from the points
by straight lines in the logs, where they reach that far; S_min and E_min are then those of the hyperbola.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from analysis.fit import SEPARABLE, Estimate
from analysis.fit_points import PointFit, Points, fit_points, predict, to_values
from analysis.laws.sizes import POINT_LAWS
from analysis.minima import pool_values
from analysis.optimum import Optimum

Curve = Callable[[float], float]  # ln steps against ln batch size
UNBOUNDED = 20.0  # half-width in ln B from which an interval says nothing


@dataclass(frozen=True)
class Reading:
    """B_crit by one definition: from each law with its interval, and from the points, NaN where they end before."""

    name: str
    meaning: str
    by_law: Mapping[str, Estimate]
    from_points: float


@dataclass(frozen=True)
class CriticalBatch:
    """Laws of steps against batch size, B_crit by definition, and which law the points bear."""

    fits: tuple[PointFit, ...]
    readings: tuple[Reading, ...]
    text: str


# each is zero at the batch size that it defines, and rises with ln B
DEFINITIONS: dict[str, tuple[str, Callable[[Curve, float, float, float], float]]] = {
    "corner": ("E_min / S_min", lambda curve, u, ln_steps, ln_samples: u - (ln_samples - ln_steps)),
    "twice_steps": ("steps are twice S_min", lambda curve, u, ln_steps, _: ln_steps + np.log(2) - curve(u)),
    "overhead_20": (
        "samples 20 % above E_min",
        lambda curve, u, _, ln_samples: curve(u) + u - ln_samples - np.log(1.2),
    ),
    "doubling_10": (
        "doubling saves less than 10 % of the steps beyond",
        lambda curve, u, *_: curve(u + np.log(2)) - curve(u) - np.log(0.9),
    ),
}


def measure_critical_batch(optima: Sequence[Optimum]) -> CriticalBatch:
    """Fit steps at the best learning rate of every batch size.

    Args:
        optima: of one group, with ln steps as loss; only those whose minimum was located count.
    """
    points = gather_points(optima)
    fits = tuple(fit_points(POINT_LAWS[name], points) for name in ("hyperbola", "hyperbola_power"))
    fitted = [fit for fit in fits if not fit.refused]
    if not fitted:
        return CriticalBatch(fits, (), "")
    readings = tuple(
        Reading(
            name, DEFINITIONS[name][0], {fit.law.name: read_law(fit, name) for fit in fitted},
            read_points(points, fitted[0], name),
        )
        for name in DEFINITIONS
    )  # fmt: skip
    return CriticalBatch(fits, readings, compare_corners(fitted))


def gather_points(optima: Sequence[Optimum]) -> Points:
    """Steps at the best learning rate of every located batch size, with their errors.

    Where some have several seeds, those with one, whose error nobody knows, are left out.
    """
    located = [o for o in optima if o.lifts]
    if any(len(o.seeds) > 1 for o in located):
        located = [o for o in located if len(o.seeds) > 1]
    x = np.array([[float(o.batch_size) for o in located]])
    return Points(x, np.exp([o.loss for o in located]), *pool_values(located, log=True))


def compare_corners(fitted: Sequence[PointFit]) -> str:
    """Whether the points bear the free corner."""
    if len(fitted) < 2 or not np.isfinite(fitted[0].chi2):
        return ""
    plain, free = fitted
    unit = max(1.0, free.chi2 / (len(free.residuals) - len(free.params)))
    if (plain.chi2 - free.chi2) / unit >= SEPARABLE:
        return f"the exact hyperbola is refuted: chi2 {plain.chi2:.3g} against {free.chi2:.3g} with a free corner"
    return "the exact hyperbola and one with a free corner are not separable"


def read_law(fit: PointFit, name: str) -> Estimate:
    """B_crit by a definition from a fitted law, with the interval that its parameters' covariance gives."""

    def solve(moved: np.ndarray) -> float:
        values = to_values(fit.law, moved)
        ln_steps = float(np.log(values["steps_min"]))
        corner = float(np.log(values["critical_batch_size"]))

        def miss(u: float) -> float:
            return DEFINITIONS[name][1](curve, u, ln_steps, ln_steps + corner)

        def curve(u: float) -> float:
            return float(np.log(predict(fit.law, moved, np.array([[np.exp(u)]])))[0])

        low, high = corner - 60, corner + 60
        return float(optimize.brentq(miss, low, high)) if miss(low) < 0 < miss(high) else np.nan

    middle = solve(fit.moved)
    step = 1e-4
    rows = step * np.eye(len(fit.moved))
    slopes = np.array([(solve(fit.moved + row) - solve(fit.moved - row)) / (2 * step) for row in rows])
    half = fit.quantile * float(np.sqrt(max(slopes @ fit.covariance @ slopes, 0.0)))
    if not half < UNBOUNDED or not all(np.isfinite(e.low) for e in fit.params.values()):
        half = np.nan
    return Estimate(float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half)))


def read_points(points: Points, fit: PointFit, name: str) -> float:
    """B_crit by a definition from the points themselves; the corner is a definition of laws alone."""
    if name == "corner":
        return np.nan
    u, ln_steps = np.log(points.x[0]), np.log(points.y)
    steps_min, critical = (np.log(fit.params[key].value) for key in ("steps_min", "critical_batch_size"))
    reach = u[-1] - (np.log(2) if name == "doubling_10" else 0.0)
    grid = np.linspace(u[0], reach, 2001)

    def curve(at: float) -> float:
        return float(np.interp(at, u, ln_steps))

    missed = np.array([DEFINITIONS[name][1](curve, at, steps_min, steps_min + critical) for at in grid])
    above = np.flatnonzero(missed > 0)
    return float(np.exp(grid[above[0]])) if len(above) and above[0] > 0 else np.nan


def steps_to_json(found: CriticalBatch) -> list[dict[str, object]]:
    """One entry of NAME.json's fits for each law of steps that was fitted, with B_crit by definition."""
    return [
        {
            "law": fit.law.name, "response": fit.law.response, "aicc": fit.aicc, "aic": fit.aic, "chi2": fit.chi2,
            "params": {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in fit.params.items()},
            "rmse_log": fit.rmse_log,
            "critical_batch_size": {
                reading.name: {
                    "definition": reading.meaning, "value": e.value, "low": e.low, "high": e.high,
                    "from_points": reading.from_points,
                }
                for reading in found.readings
                for law, e in reading.by_law.items()
                if law == fit.law.name
            },
        }
        for fit in found.fits
        if not fit.refused
    ]  # fmt: skip
