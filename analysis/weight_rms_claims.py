"""Claims about the size of weights under weight decay: ratios on random walks, exponents in networks."""

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict
from analysis.judge import judge_ratio

TOLERANCE = 0.05
SIGN_TOLERANCE = 0.03
EXPONENT_TOLERANCE = 0.1
MIN_KAPPA = 1.5
FORMS = {  # claim -> optimizer, column, tolerance, what is compared
    "sign-rms": ("signum", "equilibrium_ratio", SIGN_TOLERANCE, "measured RMS under Signum over the sum of arcsines"),
    "sign-rms-ln2": ("signum", "ln2_ratio", SIGN_TOLERANCE, "measured RMS under Signum over the ln 2 form"),
    "sign-rms-article": (
        "signum",
        "article_ratio",
        SIGN_TOLERANCE,
        "measured RMS under Signum over the article's form",
    ),
    "lion-rms": ("lion", "equilibrium_ratio", SIGN_TOLERANCE, "measured RMS under Lion over the sum of arcsines"),
}


def judge_weight_rms(table: pd.DataFrame) -> list[Verdict]:
    """Every claim: ratios on random walks, and exponents of every tensor of a network.

    Valid when: gradients are noise, or weights whose scale the loss does not see; lr weight_decay num_steps >> 1.
    Source: kexue.fm/archives/11307; Kosson et al., arXiv 2305.17212; sums of arcsines are this project's own.
    """
    walks = table[table["walk"] & (table["kappa"] >= MIN_KAPPA)]
    adamw = walks[walks["optimizer"] == "adamw"]
    still, drift = adamw[adamw["signal"] == 0], adamw[adamw["signal"] > 0]
    verdicts = []
    for beta1, rows in still.groupby("beta1"):
        what = "measured RMS of AdamW's weights over sqrt(lr / (2 weight_decay)), the start's rest taken in"
        group = {"task.name": "random_walk", "optimizer.beta1": beta1}
        verdicts.append(judge_ratio("w-rms", "fixed_steps", group, rows["static_ratio"], TOLERANCE, what, "run"))
    for signal, rows in drift.groupby("signal"):
        what = "measured RMS of AdamW's weights over the form with a signal s = B/B_simple"
        group = {"task.name": "random_walk", "signal": signal}
        verdicts.append(judge_ratio("w-rms-snr", "fixed_steps", group, rows["static_ratio"], TOLERANCE, what, "run"))
    for claim, (optimizer, column, tolerance, what) in FORMS.items():
        own = walks[walks["optimizer"] == optimizer]
        for beta1, rows in own.groupby("beta1"):
            group = {"task.name": "random_walk", "optimizer.beta1": beta1}
            verdicts.append(judge_ratio(claim, "fixed_steps", group, rows[column], tolerance, what, "run"))
    networks = table[~table["walk"] & (table["optimizer"] == "adamw") & (table["kappa"] >= MIN_KAPPA)]
    for (case, tensor), rows in networks.groupby(["case", "tensor"], sort=False):
        verdicts.append(judge_exponents(rows, {"case": case, "tensor": tensor}))
    return [verdict for verdict in verdicts if verdict is not None]


def judge_exponents(rows: pd.DataFrame, group: dict[str, object]) -> Verdict:
    """Exponents of the RMS in lr and in weight decay, from one regression in logarithms over a tensor's runs."""
    rule = (
        f"exponents of RMS = c lr^p weight_decay^q over runs with lr weight_decay steps >= {MIN_KAPPA}; confirmed if "
        f"the 95 % intervals of p and q lie within {EXPONENT_TOLERANCE:g} of 1/2 and -1/2, refuted if one lies beyond, "
        "else inconclusive; shown: p"
    )
    numbers: dict[str, float] = {"predicted": 0.5, "num_runs": float(len(rows))}
    x = np.column_stack([np.ones(len(rows)), np.log(rows[["lr", "weight_decay"]].to_numpy(float))])
    if len(rows) < 6 or np.linalg.matrix_rank(x) < 3:
        reason = "fewer than 6 runs, or lr and weight decay do not vary apart"
        return Verdict("w-rms", "fixed_steps", group, "inconclusive", numbers, rule, reason)
    y = np.log(rows["measured"].to_numpy(float))
    inverse = np.linalg.inv(x.T @ x)
    params = inverse @ x.T @ y
    left = y - x @ params
    dof = len(rows) - 3
    half = stats.t.ppf(0.975, dof) * np.sqrt(np.diag(inverse) * (left @ left) / dof)
    for name, value, h in zip(("", "weight_decay_"), params[1:], half[1:], strict=True):
        numbers |= {f"{name}exponent": float(value), f"{name}low": float(value - h), f"{name}high": float(value + h)}
    ratio = rows["equilibrium_ratio"]
    numbers |= {"lowest_ratio": float(ratio.min()), "highest_ratio": float(ratio.max())}
    numbers |= {
        name: float(rows[name].median())
        for name in ("zero_grad_share", "live_ratio", "radial")
        if rows[name].notna().any()
    }
    off = [abs(params[1] - 0.5), abs(params[2] + 0.5)]
    if any(o - h > EXPONENT_TOLERANCE for o, h in zip(off, half[1:], strict=True)):
        return Verdict("w-rms", "fixed_steps", group, "refuted", numbers, rule, explain(numbers))
    if all(o + h <= EXPONENT_TOLERANCE for o, h in zip(off, half[1:], strict=True)):
        return Verdict("w-rms", "fixed_steps", group, "confirmed", numbers, rule, explain(numbers))
    return Verdict(
        "w-rms", "fixed_steps", group, "inconclusive", numbers, rule, "an interval reaches across the tolerance"
    )


def explain(numbers: dict[str, float]) -> str:
    """The second exponent, and what was measured of the reasons for which the law may fail."""
    text = f"q {numbers['weight_decay_exponent']:.2f}, ratio {numbers['lowest_ratio']:.2f}"
    text += f" to {numbers['highest_ratio']:.2f}"
    if "radial" in numbers:
        text += f", radial {numbers['radial']:+.2f}"
    if numbers.get("zero_grad_share", 0.0) > 0.05:
        text += f", {numbers['zero_grad_share']:.0%} of gradients zero"
    return text
