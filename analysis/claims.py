"""Claims about the laws, each with a rule fixed before any run, and the verdict that the runs give.

A verdict is `confirmed` where the 95 % interval contains the prediction and excludes the rival's, `refuted`
where it excludes the prediction, `inconclusive` otherwise. No tolerance is added to an interval: the deviation is
always reported beside the verdict. A claim that names a tolerance itself (eps-slope, 5 %) is not confirmed beyond it.
To add a claim: a function with its docstring, and an entry in CLAIMS.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from analysis.critical_batch import measure_critical_batch
from analysis.fit import fit_law
from analysis.groups import read_constant, select_group
from analysis.laws import LAWS
from analysis.objectives import is_steps
from analysis.optimum import Optimum
from analysis.runs import Runs

MIN_STEPS = 128
MAX_EPS = 1e-6
NOISE_SCALE_SHARE = 4  # the claim holds for batch sizes up to a quarter of the noise scale
LEVELLING = 10.0  # difference in chi2 from which two laws count as told apart
COLOURS = {"confirmed": "green", "refuted": "red", "inconclusive": "yellow"}  # on a terminal
CORNERS = (0.5, 2.0)  # sharpness of corners that are not the hyperbola's
MEASURED = ("exponent", "ratio", "sharpness")  # the number of a verdict that its rule judges
SLOPES = {"sgd": 1.0, "adam": 0.5, "adamw": 0.5, "signsgd": 0.5}


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim in one group.

    Attributes:
        verdict: confirmed, refuted or inconclusive.
        numbers: what was measured, what was predicted and the difference.
        rule: how the verdict follows from the numbers, in a sentence.
        reason: why it is inconclusive, or nothing.
        spread: what `low` and `high` are: a 95 % interval of one number, or the range of which the number is the worst.
    """

    claim: str
    protocol: str
    group: Mapping[str, object]
    verdict: str
    numbers: Mapping[str, float]
    rule: str
    reason: str = ""
    spread: Literal["interval", "range"] = "interval"


def check_claims(runs: Runs, optima: Sequence[Optimum]) -> list[Verdict]:
    """Verdicts of every claim on every group that it speaks about, from the optima of one group."""
    verdicts = (check(runs, optima) for check in CLAIMS.values())
    return [verdict for verdict in verdicts if verdict is not None]


def check_sde_slope(runs: Runs, optima: Sequence[Optimum]) -> Verdict | None:
    """Below the noise scale the optimum grows with the first power of the batch size for SGD, with the root
    for Adam.

        d log lr / d log B = 1 (SGD without momentum),   1/2 (Adam, AdamW, signSGD)

    Returns: a verdict, or None where the claim does not speak about the runs.
    Valid when: fixed number of samples, many steps, eps << gradient RMS, B far below the noise scale.
    Source: kexue.fm/archives/10542; Malladi et al., arXiv 2205.10287.
    """
    rows = select_group(runs.frame, optima[0].group)
    optimizer = read_constant(rows, "optimizer.name")
    if read_constant(rows, "protocol") != "fixed_samples" or optimizer not in SLOPES:
        return None
    momentum, eps = (read_constant(rows, f"optimizer.{name}") for name in ("momentum", "eps"))
    if optimizer == "sgd" and is_above(momentum, 0.0):
        return None
    if optimizer != "sgd" and is_above(eps, MAX_EPS):
        return None
    predicted = SLOPES[str(optimizer)]
    rival = 1.5 - predicted
    steps = count_steps(rows)
    used = [o for o in optima if steps.get(o.batch_size, 0) >= MIN_STEPS]
    noise_scale = find_levelling(used)
    used = [o for o in used if o.batch_size <= noise_scale / NOISE_SCALE_SHARE]
    rule = (
        f"exponent of a power law over the located batch sizes with at least {MIN_STEPS} steps, since fewer "
        f"make a plateau, and, where the optima level off (noise_scale fits better than power by {LEVELLING:g} in "
        f"chi2), at most 1/{NOISE_SCALE_SHARE} of the fitted noise scale; confirmed if its 95 % interval contains "
        f"{predicted:g} and excludes {rival:g}, refuted if it excludes {predicted:g}"
    )
    fit = fit_law(LAWS["power"], used)
    numbers = {"predicted": predicted, "num_cells": float(sum(o.status == "interior" for o in used))}
    if np.isfinite(noise_scale):
        numbers["noise_scale"] = noise_scale
    if fit.refused:
        limit = f"; the claim speaks of batch sizes up to {noise_scale / NOISE_SCALE_SHARE:.3g}, run more of those"
        reason = fit.refused + (limit if np.isfinite(noise_scale) else "")
        return Verdict("sde-slope", "fixed_samples", optima[0].group, "inconclusive", numbers, rule, reason)
    exponent = fit.params["exponent"]
    numbers |= {
        "exponent": exponent.value,
        "low": exponent.low,
        "high": exponent.high,
        "deviation": exponent.value - predicted,
        "min_batch_size": float(min(fit.residuals)),
        "max_batch_size": float(max(fit.residuals)),
    }
    verdict, reason = judge(exponent.low, exponent.high, predicted, rival)
    if not np.isfinite(fit.chi2):
        verdict, reason = "inconclusive", "one seed: the interval is not calibrated"
    return Verdict("sde-slope", "fixed_samples", optima[0].group, verdict, numbers, rule, reason)


def check_hyperbola(runs: Runs, optima: Sequence[Optimum]) -> Verdict | None:
    """Steps to a target and samples to it lie on a hyperbola, whatever the optimizer.

        (S / S_min - 1)(E / E_min - 1) = 1,   E = B S:   p = 1 in   S = S_min (1 + (B_crit / B)^p)^(1/p)

    Returns: a verdict, or None where the claim does not speak about the runs.
    Valid when: the learning rate is the greedy one at every step, by the derivation; the claim is made, and judged,
        for the best constant one as well.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542, and 11280 for all optimizers alike.
    """
    if not is_steps(select_group(runs.frame, optima[0].group)):
        return None
    rule = (
        "sharpness p of S = S_min (1 + (B_crit/B)^p)^(1/p), over the located batch sizes; confirmed if its 95 % "
        "interval, wider where that law misfits, contains 1 and excludes 1/2 and 2, refuted if it excludes 1"
    )
    numbers = {"predicted": 1.0}
    found = measure_critical_batch(optima)
    plain, free = found.fits
    if free.refused:
        return Verdict("hyperbola", "steps_to_target", optima[0].group, "inconclusive", numbers, rule, free.refused)
    sharpness = free.params["sharpness"]
    numbers |= {
        "sharpness": sharpness.value, "low": sharpness.low, "high": sharpness.high, "deviation": sharpness.value - 1,
        "num_cells": float(len(free.residuals)), "worst_residual": float(np.abs(plain.residuals).max()),
        "chi2_hyperbola": plain.chi2, "chi2_free": free.chi2, "steps_min": plain.params["steps_min"].value,
    }  # fmt: skip
    numbers |= {f"critical_batch_size_{each.name}": each.by_law[plain.law.name].value for each in found.readings}
    verdict, reason = judge(sharpness.low, sharpness.high, 1.0, *CORNERS)
    if not np.isfinite(free.chi2):
        verdict, reason = "inconclusive", "one seed: the interval is not calibrated"
    return Verdict("hyperbola", "steps_to_target", optima[0].group, verdict, numbers, rule, reason)


def find_levelling(optima: Sequence[Optimum]) -> float:
    """The fitted noise scale where optima level off beyond doubt, infinity where they do not.

    The claim is about noise-dominated steps, B <= B_noise / 4, and is not refuted by what lies beyond.
    """
    power, levelling = (fit_law(LAWS[name], optima) for name in ("power", "noise_scale"))
    if power.refused or levelling.refused or not power.chi2 - levelling.chi2 >= LEVELLING:
        return float("inf")
    return levelling.params["noise_scale"].value


def judge(low: float, high: float, predicted: float, *rivals: float) -> tuple[str, str]:
    """Verdict and reason from an interval, the prediction and what rivals predict."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return "inconclusive", "the data do not bound the number"
    if not low <= predicted <= high:
        return "refuted", ""
    if held := [f"{rival:g}" for rival in rivals if low <= rival <= high]:
        return "inconclusive", f"the interval holds {' and '.join(held)} too"
    return "confirmed", ""


def read_measured(verdict: Verdict) -> tuple[float, float, float]:
    """The number that a verdict's rule judges, with the ends of its spread; NaN where it was not measured."""
    value = next((verdict.numbers[name] for name in MEASURED if name in verdict.numbers), np.nan)
    return value, verdict.numbers.get("low", np.nan), verdict.numbers.get("high", np.nan)


def show_measured(verdict: Verdict) -> str:
    """What was measured, in a cell: `0.98 [0.97, 0.99]`, a 95 % interval; `worst 0.96 (0.96 to 1.04)`, a range."""
    value, low, high = read_measured(verdict)
    if not np.isfinite([value, low, high]).all():
        return "-"
    if verdict.spread == "range":
        return f"worst {value:.3g} ({low:.3g} to {high:.3g})"
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def is_above(value: object | None, limit: float) -> bool:
    """Whether a setting exceeds a limit; one that does not apply does not."""
    return isinstance(value, int | float | np.number) and float(value) > limit


def count_steps(frame: pd.DataFrame) -> dict[int, float]:
    """Number of steps by batch size; without the column every batch size up to 256 counts as long enough."""
    if "num_steps" not in frame.columns:
        return {int(b): float(MIN_STEPS) for b in frame["batch_size"].unique() if b <= 256}
    done = frame[frame["status"] == "done"]
    return {int(b): float(steps) for b, steps in done.groupby("batch_size")["num_steps"].max().items()}  # type: ignore[call-overload]


CLAIMS: dict[str, Callable[[Runs, Sequence[Optimum]], Verdict | None]] = {
    "sde-slope": check_sde_slope,
    "hyperbola": check_hyperbola,
}


if __name__ == "__main__":
    from analysis.scoreboard import main  # here, since it stands above this file

    raise SystemExit(main())
