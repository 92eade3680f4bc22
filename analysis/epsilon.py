"""By how much does epsilon raise Adam's best learning rate? Runs that differ in it alone tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import MAX_EPS, MIN_STEPS, Verdict, count_steps, judge
from analysis.fit import MISFIT, Estimate
from analysis.fit_points import Points, fit_points
from analysis.groups import read_constant, select_group
from analysis.laws.epsilon import epsilon_ratio
from analysis.laws.sizes import POINT_LAWS, hold
from analysis.optimum import Optimum
from analysis.ratios import measure_ratios
from analysis.runs import Runs
from analysis.slopes import Slope, measure_whole_slope

EPS, INSIDE = "optimizer.eps", "optimizer.eps_inside"
SHARPNESS = {False: 1.0, True: 2.0}  # whether epsilon stands inside the root -> p of (1 + x^p)^(1/p)
TOLERANCE = 0.05  # the claim's own, where sigma is known: nothing is fitted, and every ratio lies within it of the law
MIN_RATIO = 1.2  # a ratio nearer to 1 says little of a sigma that has to be fitted


@dataclass(frozen=True)
class Ratio:
    """The best learning rate at an epsilon over that without, at one batch size.

    Attributes:
        value, low, high: the ratio and its 95 % interval.
        steps: of its runs.
        reason: why the verdict passes it over, or nothing.
    """

    batch_size: int
    eps: float
    value: float
    low: float
    high: float
    steps: float
    reason: str = ""

    @property
    def limited(self) -> bool:
        """Whether its runs are too short for the claim."""
        return self.steps < MIN_STEPS


@dataclass(frozen=True)
class EpsilonAnswer:
    """What runs that differ in epsilon alone say, for one place of it.

    Attributes:
        group: values of the other group columns.
        sigma: standard deviation of one sample's gradient: known, with no interval, or fitted with the claimed law.
        slopes: of the best learning rate against batch size from the least located one to the largest, by epsilon.
    """

    group: Mapping[str, object]
    inside: bool
    ratios: tuple[Ratio, ...]
    sigma: Estimate
    known: bool
    slopes: Mapping[float, Slope]
    verdict: Verdict

    def predict(self, batch_size: float, eps: float) -> float:
        """The claimed ratio, with this answer's sigma; NaN without one."""
        if not np.isfinite(self.sigma.value):
            return np.nan
        return float(epsilon_ratio(eps * batch_size**0.5, sigma=self.sigma.value, sharpness=SHARPNESS[self.inside]))

    def predict_slope(self, slope: Slope, eps: float) -> float:
        """The claimed slope between the same two batch sizes: 1/2 and that of the ratio."""
        ratio = self.predict(slope.high_size, eps) / self.predict(slope.low_size, eps)
        return 0.5 + float(np.log(ratio) / np.log(slope.high_size / slope.low_size))

    def to_json(self) -> dict[str, object]:
        """Everything, with x, what is claimed, and whether an interval excludes that, beside every number."""
        sigma = {"value": self.sigma.value, "low": self.sigma.low, "high": self.sigma.high, "known": self.known}
        ratios = [
            {
                "batch_size": r.batch_size, "eps": r.eps, "x": r.eps * r.batch_size**0.5 / self.sigma.value,
                "ratio": r.value, "low": r.low, "high": r.high,
                "predicted": (claimed := self.predict(r.batch_size, r.eps)),
                "deviates": not r.low <= claimed <= r.high, "num_steps": r.steps, "reason": r.reason,
            }
            for r in self.ratios
        ]  # fmt: skip
        slopes = [
            {
                "eps": eps, "min_batch_size": s.low_size, "max_batch_size": s.high_size, "slope": s.value,
                "low": s.low, "high": s.high, "predicted": self.predict_slope(s, eps),
            }
            for eps, s in self.slopes.items()
        ]  # fmt: skip
        return {**self.group, INSIDE: self.inside, "sigma": sigma, "ratios": ratios, "slopes": slopes}


def check_epsilon(runs: Runs, groups: Sequence[Sequence[Optimum]]) -> list[EpsilonAnswer]:
    """Verdicts on `eps-slope`: epsilon raises the best learning rate by what it takes from the steps.

        lr(eps) / lr(0) = (1 + x^p)^(1/p),   x = eps sqrt(B) / sigma,   p = 1 outside the root, 2 inside

    and so the slope of lr against B, 1/2 without epsilon, is (1/2 + x^p) / (1 + x^p). One verdict for every set of
    groups that differ in epsilon alone, and each place of it; without epsilon the place does not matter. Where sigma is
    known nothing is fitted and the claim says 5 %: it is not confirmed while a ratio lies further off.

    Args:
        groups: optima of every group.
    Valid when: fixed number of samples; as epsilon_ratio.
    Source: kexue.fm/archives/10563.
    """
    members: dict[str, dict[bool, list[tuple[float, Sequence[Optimum]]]]] = {}
    rests: dict[str, Mapping[str, object]] = {}
    for optima in groups:
        group = optima[0].group
        rows = select_group(runs.frame, group)
        adam = read_constant(rows, "optimizer.name") in ("adam", "adamw")
        if EPS not in group or not adam or read_constant(rows, "protocol") != "fixed_samples":
            continue
        rest = drop_epsilon(group)
        inside = str(read_constant(rows, INSIDE)) == "True"  # a table from before the option has none
        rests[repr(rest)] = rest
        members.setdefault(repr(rest), {}).setdefault(inside, []).append((float(str(group[EPS])), optima))
    answers = []
    for key, places in members.items():
        rows = select_group(runs.frame, rests[key])
        every = [pair for place in places.values() for pair in place]
        base = next((member for member in sorted(every, key=lambda m: m[0]) if member[0] <= MAX_EPS), None)
        for inside, place in sorted(places.items()):
            with_eps = sorted(((eps, optima) for eps, optima in place if eps > MAX_EPS), key=lambda m: m[0])
            if base and with_eps:
                answers.append(judge_epsilon(rests[key], inside, base, with_eps, count_steps(rows), read_sigma(rows)))
    return answers


def drop_epsilon(group: Mapping[str, object]) -> dict[str, object]:
    """A group without epsilon and its place."""
    return {name: value for name, value in group.items() if name not in (EPS, INSIDE)}


def ask_epsilon(groups: Sequence[Mapping[str, object]], answers: Sequence[EpsilonAnswer]) -> bool:
    """Whether epsilon is what all the groups ask about: each has a part in an answer with ratios."""
    told = {repr(answer.group) for answer in answers if np.isfinite(answer.sigma.value)}
    return bool(told) and all(repr(drop_epsilon(group)) in told for group in groups)


def read_sigma(rows: pd.DataFrame) -> float | None:
    """Standard deviation of one sample's gradient where it is known, and the same in all coordinates."""
    if read_constant(rows, "task.name") != "noisy_quadratic" or read_constant(rows, "task.noise") != "isotropic":
        return None
    std = read_constant(rows, "task.std")
    return None if std is None else float(str(std))


def judge_epsilon(
    group: Mapping[str, object], inside: bool, base: tuple[float, Sequence[Optimum]],
    members: Sequence[tuple[float, Sequence[Optimum]]], steps: Mapping[int, float], sigma: float | None,
) -> EpsilonAnswer:  # fmt: skip
    """The answer of groups that differ in epsilon alone: (epsilon, optima) of the one without and of each with it."""
    without = {o.batch_size: o for o in base[1] if o.status == "interior"}
    pairs = [
        (eps, o, without[o.batch_size])
        for eps, optima in members
        for o in optima
        if o.status == "interior" and len(o.seeds) > 1 and o.batch_size in without
        and o.seeds == without[o.batch_size].seeds
    ]  # fmt: skip
    predicted, rival = SHARPNESS[inside], SHARPNESS[not inside]
    known = sigma is not None
    rule = (
        "sharpness p of ratio = (1 + x^p)^(1/p), x = eps sqrt(B) / sigma, "
        + ("sigma known, " if known else f"sigma fitted, over ratios above {MIN_RATIO:g}, ")
        + f"of located cells with at least {MIN_STEPS} steps; confirmed if its 95 % interval, wider where that law "
        f"misfits, contains {predicted:g} and excludes {rival:g} (the other place of eps), refuted if it excludes "
        f"{predicted:g}, or where no p fits and {predicted:g} misfits too"
        + f"; inconclusive in place of confirmed where a ratio is more than {TOLERANCE:.0%} off the law"
        * known
    )
    place = {**group, INSIDE: inside}
    lost = sum(len(optima) for _, optima in members) - len(pairs)
    numbers = {"predicted": predicted, "num_cells": 0.0, "not_located": float(lost)}
    lasting = [(eps, [o for o in each if steps.get(o.batch_size, 0.0) >= MIN_STEPS]) for eps, each in (base, *members)]
    slopes = {eps: slope for eps, each in lasting if (slope := measure_whole_slope(each))}

    def answer(ratios: Sequence[Ratio], found: Estimate, verdict: str, reason: str = "") -> EpsilonAnswer:
        judged = Verdict("eps-slope", "fixed_samples", place, verdict, numbers, rule, reason)
        return EpsilonAnswer(group, inside, tuple(ratios), found, known, slopes, judged)

    unknown = Estimate(np.nan, np.nan, np.nan)
    if len(pairs) < 2:
        return answer((), unknown, "inconclusive", "fewer than 2 cells were located at an epsilon and without")
    measured = measure_ratios([(o, other) for _, o, other in pairs])
    lows, highs = measured.bound()
    values = np.exp(measured.log)
    ratios = [
        Ratio(
            o.batch_size, eps, float(value), float(low), float(high), steps.get(o.batch_size, 0.0),
            reason=choose_reason(steps.get(o.batch_size, 0.0), float(value), known),
        )
        for (eps, o, _), value, low, high in zip(pairs, values, lows, highs, strict=True)
    ]  # fmt: skip
    reach = np.array([r.eps * r.batch_size**0.5 for r in ratios])
    used = np.array([not r.reason for r in ratios])
    points = Points(reach[None], values, measured.sd, measured.correlation, measured.dof).select(used)
    law = POINT_LAWS["epsilon_ratio"]
    claimed = fit_points(hold(law, sharpness=predicted), points)
    free = fit_points(hold(law, sigma=sigma) if sigma is not None else law, points)
    numbers["num_cells"] = float(used.sum())
    if claimed.refused or free.refused:
        return answer(ratios, unknown, "inconclusive", claimed.refused or free.refused)
    fitted, p = claimed.params["sigma"], free.params["sharpness"]
    best = Estimate(sigma, np.nan, np.nan) if sigma is not None else fitted
    off = np.log(points.y) - np.log(epsilon_ratio(points.x[0], sigma=best.value, sharpness=predicted))
    worst = int(np.argmax(np.abs(off)))
    chi2 = float(np.sum(np.square(off / points.sd)))
    numbers |= {
        "sharpness": p.value, "low": p.low, "high": p.high, "deviation": p.value - predicted,
        "worst_deviation": float(np.expm1(off[worst])), "worst_x": float(points.x[0][worst] / best.value),
        "mean_deviation": float(np.expm1(off.mean())), "sigma": fitted.value, "sigma_low": fitted.low,
        "sigma_high": fitted.high, "least_x": float(points.x[0].min() / best.value),
        "most_x": float(points.x[0].max() / best.value), "chi2": chi2,
        "p_value": float(stats.chi2.sf(chi2, len(off) - (not known))),
    }  # fmt: skip
    if not np.isfinite([p.low, p.high]).all() and numbers["p_value"] < MISFIT:
        return answer(ratios, best, "refuted", "no sharpness fits, the claimed one neither")
    verdict, reason = judge(p.low, p.high, predicted, rival)
    if known and verdict == "confirmed" and abs(numbers["worst_deviation"]) > TOLERANCE:
        verdict, reason = "inconclusive", name_worst([r for r in ratios if not r.reason][worst], numbers)
    return answer(ratios, best, verdict, reason)


def name_worst(ratio: Ratio, numbers: Mapping[str, float]) -> str:
    """Which ratio is too far off the law, and by how much."""
    return (
        f"the ratio at batch size {ratio.batch_size} and eps {ratio.eps:g} (x = {numbers['worst_x']:.3g}) is "
        f"{numbers['worst_deviation']:+.1%} off the law"
    )


def choose_reason(steps: float, value: float, known: bool) -> str:
    """Why the verdict passes a ratio over, or nothing."""
    if steps < MIN_STEPS:
        return f"step-limited: {steps:g} steps"
    return f"below {MIN_RATIO:g}" if value <= MIN_RATIO and not known else ""
