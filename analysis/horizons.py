"""Is a plateau of the best learning rate a noise scale? The same sweep with more samples tells."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from analysis.claims import Verdict, judge
from analysis.fit import Fit

HORIZON = "num_samples"
MISFIT = 0.01  # probability of a chi^2 from which a law does not describe the optima
PLATEAUS = {"noise_scale": "noise_scale", "sqrt_saturating": "noise_scale"}  # laws with a plateau: their batch size


def check_horizons(fits_of: Sequence[tuple[Mapping[str, object], Sequence[Fit]]], protocol: str) -> list[Verdict]:
    """Verdicts on `plateau`: the batch size B0 at which the optimum levels off is a property of the gradients' noise.

        noise scale:   B0(D') / B0(D) = 1             step-limited:   B0(D') / B0(D) = D' / D

    One verdict for every two groups that differ in num_samples alone, the least and the most. Of the laws with a
    plateau the one that fits both horizons better, by the sum of AICc, measures B0.

    Args:
        fits_of: values of the group columns and fits, of every group.
    Valid when: fixed number of samples; both horizons bend within the batch sizes that were run.
    Source: the plateau of lr_vs_bs moves with D, measured for this project; the form lr_max / (1 + B0 / B) is that of
        McCandlish et al., arXiv 1812.06162.
    """
    by_rest: dict[str, list[tuple[float, Mapping[str, object], Sequence[Fit]]]] = {}
    for group, fits in fits_of:
        if HORIZON in group:
            rest = repr(sorted((key, value) for key, value in group.items() if key != HORIZON))
            by_rest.setdefault(rest, []).append((float(str(group[HORIZON])), group, fits))
    verdicts = []
    for members in by_rest.values():
        if len(members) > 1 and protocol == "fixed_samples":
            low, high = min(members, key=lambda m: m[0]), max(members, key=lambda m: m[0])
            rest_of = {key: value for key, value in low[1].items() if key != HORIZON}
            verdicts.append(compare_horizons(rest_of, low[0], high[0], low[2], high[2], protocol))
    return verdicts


def compare_horizons(
    group: Mapping[str, object], few: float, many: float, short: Sequence[Fit], long: Sequence[Fit], protocol: str
) -> Verdict:
    """The verdict of two horizons."""
    rule = (
        "ratio of the fitted plateau batch sizes of both horizons; confirmed as a noise scale if its 95 % interval "
        "contains 1 and excludes the ratio of the horizons, refuted if it excludes 1, as step-limited if it is above; "
        "inconclusive where the best law with a plateau misfits"
    )
    pairs = [
        (one, other)
        for one, other in itertools.product(short, long)
        if one.law == other.law and one.law in PLATEAUS and not one.refused and not other.refused
    ]
    numbers = {"predicted": 1.0, "horizons": many / few}
    if not pairs:
        return Verdict(
            "plateau", protocol, group, "inconclusive", numbers, rule, "no law with a plateau could be fitted"
        )
    one, other = min(pairs, key=lambda pair: pair[0].aicc + pair[1].aicc)
    if not all(np.isfinite(fit.chi2) for fit in (one, other)):
        reason = "one seed: the interval is not calibrated"
        return Verdict("plateau", protocol, group, "inconclusive", numbers, rule, reason)
    if any(stats.chi2.sf(fit.chi2, fit.dof) < MISFIT for fit in (one, other)):
        reason = f"{one.law}, the best law with a plateau, misfits: p < {MISFIT:g}"
        return Verdict("plateau", protocol, group, "inconclusive", numbers, rule, reason)
    scales = [fit.params[PLATEAUS[fit.law]] for fit in (one, other)]
    numbers |= {"plateau_short": scales[0].value, "plateau_long": scales[1].value}
    if not all(np.isfinite([scale.low, scale.high]).all() and scale.low > 0 for scale in scales):
        reason = f"the data do not bound the plateau of {one.law} at both horizons: run larger batch sizes"
        return Verdict("plateau", protocol, group, "inconclusive", numbers, rule, reason)
    halves = [np.log(scale.high / scale.low) / 2 for scale in scales]
    middle, half = float(np.log(scales[1].value / scales[0].value)), float(np.hypot(*halves))
    low, high = float(np.exp(middle - half)), float(np.exp(middle + half))
    numbers |= {"ratio": float(np.exp(middle)), "low": low, "high": high, "deviation": float(np.exp(middle)) - 1}
    verdict, reason = judge(low, high, 1.0, many / few)
    if verdict == "refuted":
        way, moves = ("step-limited", "moves") if middle > 0 else ("neither", "falls")
        reason = f"{way}: the plateau of {one.law} {moves} with the number of samples"
    return Verdict("plateau", protocol, group, verdict, numbers, rule, reason)
