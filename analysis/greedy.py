"""The greedy arm of runs to a target on the noisy quadratic: exact steps with the learning rate that the law assumes.

The hyperbola of steps and samples is derived for the greedy learning rate of every step; sweeps measure the best
constant one. Where all scales are known the greedy arm needs no runs: it tells whether the derivation's own case has
the corner, and whether B_crit is the noise scale averaged over steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.claims import CORNERS, Verdict
from analysis.fit_points import PointFit, Points, fit_points
from analysis.groups import read_constant
from analysis.laws.greedy import greedy_steps, quadratic_scales
from analysis.laws.sizes import POINT_LAWS
from analysis.objectives import TARGET, is_steps

NEEDED = ("task.dimension", "task.power", "task.noise", "task.std", "task.start", "target_loss")
OFF = ("task.coupling", "optimizer.momentum", "optimizer.weight_decay")  # there the recursion is another


@dataclass(frozen=True)
class Greedy:
    """The greedy arm of one group.

    Attributes:
        batch_sizes, steps, noise_scales: B, exact steps to the target, and B_noise averaged over these steps.
        noise_scale: that of an infinite batch, so weighted by steps of S_min, which the derivation makes B_crit.
        fits: hyperbola and hyperbola_power, on steps without noise: their intervals are those of a misfit.
    """

    batch_sizes: np.ndarray
    steps: np.ndarray
    noise_scales: np.ndarray
    noise_scale: float
    fits: tuple[PointFit, PointFit]


def measure_greedy(rows: pd.DataFrame) -> Greedy | None:
    """The greedy arm of one group's runs, at their batch sizes and with their target; None where it is not exact.

    Exact is plain SGD (no momentum, no decay) on task noisy_quadratic without coupling, to a target.
    """
    known = [read_constant(rows, name) for name in NEEDED]
    plain = read_constant(rows, "optimizer.name") == "sgd" and read_constant(rows, "task.name") == "noisy_quadratic"
    if not plain or not is_steps(rows) or None in known or any(is_on(rows, name) for name in OFF):
        return None
    dimension, power, noise, std, start, target = known
    curvature_D, variance_D = quadratic_scales(
        dimension=int(float(str(dimension))), power=float(str(power)), noise=str(noise), std=float(str(std))
    )
    sizes = np.array(sorted(rows["batch_size"].unique()), dtype=float)
    steps, scales = greedy_steps(
        [*sizes, np.inf], curvature_D=curvature_D, variance_D=variance_D, start=float(str(start)),
        target=float(str(target)),
    )  # fmt: skip
    there = np.isfinite(steps[:-1])
    points = Points(sizes[None, there], steps[:-1][there], np.ones(there.sum()), np.eye(there.sum()), np.nan)
    fits = (fit_points(POINT_LAWS["hyperbola"], points), fit_points(POINT_LAWS["hyperbola_power"], points))
    if any(fit.refused for fit in fits):
        return None
    return Greedy(sizes[there], points.y, scales[:-1][there], float(scales[-1]), fits)


def is_on(rows: pd.DataFrame, name: str) -> bool:
    """Whether an option is set in some run; null and zero are off."""
    return name in rows.columns and bool((pd.to_numeric(rows[name], errors="coerce").fillna(0) != 0).any())


def check_greedy(found: Greedy, group: Mapping[str, object]) -> Verdict:
    """Verdict on `hyperbola-greedy`: at the greedy learning rate steps and samples lie on a hyperbola.

        p = 1 in   S = S_min (1 + (B_crit / B)^p)^(1/p),    B_crit = mean of B_noise over the steps of S_min

    Valid when: B_noise and the best decrease of one step depend on the loss alone, whatever way led to it.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542.
    """
    rule = (
        "sharpness p of S = S_min (1 + (B_crit/B)^p)^(1/p) on the exact steps of SGD with the greedy learning rate, "
        "which have no noise, so that its interval is that of a misfit, narrow where there is none; confirmed if all "
        "of it is nearer to 1 than to 1/2 and 2, in the logarithm, refuted if none of it is"
    )
    plain, free = found.fits
    sharpness, critical = free.params["sharpness"], plain.params["critical_batch_size"].value
    numbers = {
        "predicted": 1.0, "sharpness": sharpness.value, "low": sharpness.low, "high": sharpness.high,
        "deviation": sharpness.value - 1, "num_cells": float(len(found.steps)),
        "worst_residual": float(np.abs(plain.residuals).max()), "steps_min": plain.params["steps_min"].value,
        "critical_batch_size_corner": critical, "critical_batch_size_free": free.params["critical_batch_size"].value,
        "noise_scale": found.noise_scale, "noise_scale_smallest_batch": float(found.noise_scales[0]),
        "critical_over_noise_scale": critical / found.noise_scale,
    }  # fmt: skip
    low, high = (float(np.sqrt(corner)) for corner in CORNERS)
    ends = [low <= end <= high for end in (sharpness.low, sharpness.value, sharpness.high)]
    if not np.isfinite([sharpness.low, sharpness.high]).all():
        return Verdict("hyperbola-greedy", TARGET, group, "inconclusive", numbers, rule, "the corner is not bounded")
    if all(ends):
        return Verdict("hyperbola-greedy", TARGET, group, "confirmed", numbers, rule)
    beyond = sharpness.low > high or sharpness.high < low
    reason = "" if beyond else "the interval of the misfit reaches both"
    return Verdict("hyperbola-greedy", TARGET, group, "refuted" if beyond else "inconclusive", numbers, rule, reason)


def describe_greedy(found: Greedy) -> str:
    """What the greedy arm says, in a sentence."""
    plain, free = found.fits
    return (
        f"greedy learning rate, exact: B_crit {plain.params['critical_batch_size'].value:.3g}; B_noise averaged over "
        f"steps is {found.noise_scale:.3g} for an infinite batch, {found.noise_scales[0]:.3g} for batch size "
        f"{found.batch_sizes[0]:g}; sharpness {free.params['sharpness'].value:.3g}, the hyperbola's worst error of ln "
        f"steps {np.abs(plain.residuals).max():.2g}"
    )


def greedy_to_json(found: Greedy) -> dict[str, object]:
    """The greedy arm's entry in NAME.json."""
    return {
        "batch_sizes": [int(size) for size in found.batch_sizes], "steps": list(found.steps),
        "noise_scales": list(found.noise_scales), "noise_scale": found.noise_scale,
        "fits": {
            fit.law.name: {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in fit.params.items()}
            | {"rmse_log": fit.rmse_log, "worst_residual": float(np.abs(fit.residuals).max())}
            for fit in found.fits
        },
    }  # fmt: skip
