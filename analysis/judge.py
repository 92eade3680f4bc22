"""Verdicts on claims of the form predicted = measured, by a tolerance that the rule names."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict


def judge_ratio(
    claim: str, protocol: str, group: Mapping[str, object], ratio: pd.Series, tolerance: float, what: str, case: str
) -> Verdict | None:
    """Confirmed, refuted or inconclusive by the geometric mean of measured ratios, which the claim has at 1.

    Args:
        ratio: predicted over measured, or the other way round, one a case; NaN where it was not measured.
        tolerance: as a share: .25 allows ratios of 1/1.25 to 1.25.
        what: the ratio, in words; case: what there is one of for each, in the singular.
    Returns: None where there is no case.
    """
    if len(ratio) == 0:
        return None
    logs = np.log(ratio.dropna().to_numpy(float))
    logs = logs[np.isfinite(logs)]
    rule = (
        f"{what}: geometric mean over the {case}s; confirmed if its 95 % interval lies within a factor "
        f"{1 + tolerance:g} of 1, refuted if it lies beyond, else inconclusive"
    )
    numbers = {"predicted": 1.0, "num_points": float(len(logs))}
    if len(logs) < 2:
        return Verdict(claim, protocol, group, "inconclusive", numbers, rule, f"fewer than 2 {case}s")
    half = stats.t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    mean, limit = logs.mean(), np.log1p(tolerance)
    numbers |= {"ratio": float(np.exp(mean)), "low": float(np.exp(mean - half)), "high": float(np.exp(mean + half))}
    numbers |= {"worst": float(np.exp(logs[np.argmax(np.abs(logs))]))}
    if mean - half > limit or mean + half < -limit:
        return Verdict(claim, protocol, group, "refuted", numbers, rule)
    if mean - half >= -limit and mean + half <= limit:
        return Verdict(claim, protocol, group, "confirmed", numbers, rule)
    return Verdict(claim, protocol, group, "inconclusive", numbers, rule, "the interval reaches across the tolerance")


def judge_every(
    claim: str, protocol: str, group: Mapping[str, object], ratio: pd.Series, tolerance: float | tuple[float, float],
    what: str, case: str,
) -> Verdict:  # fmt: skip
    """Confirmed where every ratio is within the tolerance of 1, refuted where one is not: for ratios without noise.

    Args:
        ratio, what, case: as in judge_ratio.
        tolerance: as in judge_ratio, or the least and the largest ratio that fit.
    """
    if isinstance(tolerance, tuple):
        (least, most), within = tolerance, "from {:g} to {:g}".format(*tolerance)
    else:
        least, most, within = 1 / (1 + tolerance), 1 + tolerance, f"within a factor {1 + tolerance:g} of 1"
    rule = f"{what}: the worst {case}, and the range; confirmed if all lie {within}, refuted if one does not"
    known = ratio[np.isfinite(ratio) & (ratio > 0)]
    numbers = {"predicted": 1.0, "num_points": float(len(known))}
    if known.empty:
        return Verdict(claim, protocol, group, "inconclusive", numbers, rule, f"no {case}")
    worst = float(known.iloc[int(np.argmax(np.abs(np.log(known.to_numpy(float)))))])
    numbers |= {"ratio": worst, "low": float(known.min()), "high": float(known.max())}
    fits = least <= known.min() and known.max() <= most
    return Verdict(claim, protocol, group, "confirmed" if fits else "refuted", numbers, rule, spread="range")
