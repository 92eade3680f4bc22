"""Claims that a form gives the best learning rate of one step, held against the measured one with no free parameter.

The number is the mean of ln(predicted / measured) over the points that are scored, with a t interval over these, and a
tolerance that the rule names, since every form has approximations (a quadratic loss over the step, Gaussian noise) that
are not what the claim is about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.claims import Verdict
from analysis.judge import judge_ratio
from analysis.one_step import select_scored

TOLERANCE = 0.25
LATE = 2000  # steps of the base run


def judge_scored(
    claim: str, group: Mapping[str, object], ratio: pd.Series, tolerance: float, what: str,
    errors: pd.Series | None = None,
) -> Verdict | None:  # fmt: skip
    """judge_ratio over the scored points; with their standard errors one point alone refutes what it excludes.

    Batch sizes share one checkpoint, so that their deviations are trends as often as scatter: a form that is right at
    large batches and far off at small ones is refuted by those.
    """
    found = judge_ratio(claim, "one_step", group, ratio, tolerance, what, "scored point")
    if found is None or errors is None:
        return found
    known = ratio.dropna()
    beyond = np.abs(np.log(known)) - 1.96 * errors[known.index] > np.log1p(tolerance)
    rule = found.rule + "; refuted too where one point lies beyond by its own 95 % interval"
    verdict, reason = found.verdict, found.reason
    if len(known) < len(ratio) and verdict == "confirmed":
        verdict, reason = "inconclusive", f"no prediction at {len(ratio) - len(known)} of {len(ratio)} points"
    if beyond.any():
        verdict, reason = "refuted", f"{beyond.sum()} of {len(known)} points lie beyond by their own intervals"
    return replace(found, rule=rule, verdict=verdict, reason=reason)


def judge_form(
    claim: str, rows: pd.DataFrame, group: Mapping[str, object], optimizers: Sequence[str], form: str, tolerance: float,
    what: str,
) -> Verdict | None:  # fmt: skip
    """A form over the measured learning rate at the scored points of some optimizers; None where there are none."""
    scored = select_scored(rows)
    scored = scored[scored["probe.optimizer"].isin(optimizers)]
    column = f"predicted.{form}"
    if scored.empty or column not in scored.columns or scored[column].isna().all():
        return None
    return judge_scored(claim, group, scored[column] / scored["probe.lr"], tolerance, what, scored["probe.lr_se"])


def check_sampled(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """The best step is E[u.g] / E[u.H u] of sampled updates, for every optimizer: within 20 % late, 40 % early.

    Valid when: the loss is quadratic over the step.
    Source: kexue.fm/archives/11260; the tolerances were written before the runs.
    """
    late = float(rows["num_steps"].iloc[0]) >= LATE
    what = "E[u.g] / E[u.H u] over measured learning rate of all optimizers"
    names = list(rows["probe.optimizer"].unique())
    return judge_form("sampled-eta", rows, group, names, "sampled", 0.2 if late else 0.4, what)


def check_third(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """With the third derivative along the update the best step is within 12 %, for every optimizer.

    Valid when: the loss is cubic over the step.
    Source: this project's own.
    """
    what = "the cubic's minimum over measured learning rate of all optimizers"
    return judge_form("third-eta", rows, group, list(rows["probe.optimizer"].unique()), "third", 0.12, what)


def check_sign_eta(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """SignSGD's best step is that of the exact integral over correlated Gaussian noise.

    Valid when: the loss is quadratic over the step; Gaussian noise.
    Source: kexue.fm/archives/10542; the correlated form is this project's own.
    """
    what = "exact integral over measured learning rate of SignSGD"
    return judge_form("sign-eta", rows, group, ["signsgd"], "correlated", TOLERANCE, what)


def check_adam_eta(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """Adam's best step is that of the linear form with correlated noise.

    Valid when: the loss is quadratic over the step; v has a long memory at frozen parameters.
    Source: this project's own.
    """
    what = "linear form over measured learning rate of Adam at beta1 0, .5 and .9"
    return judge_form("adam-eta", rows, group, ["adam_0", "adam_0.5", "adam_0.9"], "correlated", TOLERANCE, what)


def check_sgd_eta(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """SGD's best step is lr_max / (1 + B_noise / B), from measured g, H and Sigma.

    Valid when: the loss is quadratic over the step.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542.
    """
    what = "closed form over measured learning rate of SGD"
    return judge_form("sgd-eta", rows, group, ["sgd"], "closed", TOLERANCE, what)


def check_ema_batch(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """Momentum multiplies the batch by (1 + beta1)/(1 - beta1): at frozen parameters, SGD with beta1 = .9.

    Judged where the form with momentum and that without differ by more than the tolerance. Averages of independent
    batches at frozen parameters have the covariance that the claim says, so what may fail is the quadratic loss alone.

    Valid when: parameters are frozen while the average forms; in training it is another claim.
    Source: kexue.fm/archives/11301.
    """
    if "predicted.no_momentum" not in rows.columns:
        return None
    apart = np.abs(np.log(rows["predicted.closed"] / rows["predicted.no_momentum"])) > np.log1p(TOLERANCE)
    what = "closed form with a 19-fold batch over measured"
    return judge_form("ema-batch", rows[apart], group, ["sgd_momentum_0.9"], "closed", TOLERANCE, what)
