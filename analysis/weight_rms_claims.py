"""Claims about the size of weights under weight decay: ratios on random walks, exponents in networks."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict
from analysis.judge import judge_every, judge_ratio
from analysis.laws.update_rms import update_rms_noise

WALK_RATIOS = (0.96, 1.02)
MAX_RATE = 1e-3  # lr weight_decay, up to which a walk is judged: beyond, steps are no longer small
TOLERANCE = 0.05
SIGN_TOLERANCE = 0.03
EXPONENT_TOLERANCE = 0.05
MIN_KAPPA = 1.5  # lr weight_decay num_steps, from which on the start is forgotten: e^-2kappa < 5 % of the square
MIN_KAPPA_NETWORK = 3.0  # an embedding starts at 1, up to 20 times what it settles at
REASONS = ("zero_grad_share", "radial", "agreement", "noise_agreement")
FEW_ZEROS = 0.05
LAG = 16  # steps over which updates on noise hardly agree: beta1^16
WEAK_FORCE = 0.05  # |radial| below
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
    walks = table[table["walk"] & table["settled"]]
    adamw = walks[walks["optimizer"] == "adamw"]
    still, drift = adamw[adamw["signal"] == 0], adamw[adamw["signal"] > 0]
    verdicts: list[Verdict | None] = [judge_pair(rows) for _, rows in still.groupby(["beta1", "beta2"])]
    for signal, rows in drift.groupby("signal"):
        what = "measured RMS of AdamW's weights over the form with a signal s = B/B_simple"
        group = {"task.name": "random_walk", "signal": signal}
        verdicts.append(judge_ratio("w-rms-snr", "fixed_steps", group, rows["static_ratio"], TOLERANCE, what, "run"))
    for claim, (optimizer, column, tolerance, what) in FORMS.items():
        own = walks[walks["optimizer"] == optimizer]
        for beta1, rows in own.groupby("beta1"):
            group = {"task.name": "random_walk", "optimizer.beta1": beta1}
            verdicts.append(judge_ratio(claim, "fixed_steps", group, rows[column], tolerance, what, "run"))
    networks = select_networks(table)
    for (case, tensor), rows in networks.groupby(["case", "tensor"], sort=False):
        verdicts.append(judge_exponents(rows, {"case": case, "tensor": tensor}))
    return [verdict for verdict in verdicts if verdict is not None]


def judge_pair(rows: pd.DataFrame) -> Verdict:
    """Whether a pair of betas leaves the size of AdamW's weights on noise where the law has it, in every run."""
    beta1, beta2 = float(rows["beta1"].iloc[0]), float(rows["beta2"].iloc[0])
    what = (
        f"measured RMS of AdamW's weights over sqrt(lr / (2 weight_decay)), the start's rest taken in, runs with lr "
        f"weight_decay <= {MAX_RATE:g}"
    )
    group = {"task.name": "random_walk", "optimizer.beta1": beta1, "optimizer.beta2": beta2}
    near = rows.loc[rows["lr"] * rows["weight_decay"] <= MAX_RATE * (1 + 1e-9), "static_ratio"]
    found = judge_every("w-rms", "fixed_steps", group, near, WALK_RATIOS, what, "run")
    if found.verdict != "refuted":
        return found
    share = update_rms_noise(beta1, beta2) / np.sqrt((1 - beta1) / (1 + beta1))
    return replace(
        found, reason=f"so few steps are in the second moment that updates have {share:.3f} of the law's RMS"
    )


def select_networks(table: pd.DataFrame) -> pd.DataFrame:
    """Runs of AdamW in networks that have forgotten their start."""
    return table[~table["walk"] & (table["optimizer"] == "adamw") & table["settled"]]


def tabulate_exponents(table: pd.DataFrame) -> pd.DataFrame:
    """A row a case and tensor of a network, with the numbers of fit_exponents, where it has any."""
    found = [
        {"case": case, "tensor": tensor, **numbers}
        for (case, tensor), rows in select_networks(table).groupby(["case", "tensor"], sort=False)
        if (numbers := fit_exponents(rows))
    ]
    return pd.DataFrame(found, columns=None if found else ["case", "tensor"]).sort_values(["case", "tensor"])


def fit_exponents(rows: pd.DataFrame) -> dict[str, float]:
    """p and q of RMS = c lr^p weight_decay^q by least squares in logarithms, with 95 % intervals; none where unbounded.

    Returns: exponent, low, high, and the same with weight_decay_ before them.
    Valid when: six runs or more; the misfit of a power is taken for noise.
    """
    x = np.column_stack([np.ones(len(rows)), np.log(rows[["lr", "weight_decay"]].to_numpy(float))])
    if len(rows) < 6 or np.linalg.matrix_rank(x) < 3:
        return {}
    y = np.log(rows["measured"].to_numpy(float))
    inverse = np.linalg.inv(x.T @ x)
    params = inverse @ x.T @ y
    left = y - x @ params
    dof = len(rows) - 3
    half = stats.t.ppf(0.975, dof) * np.sqrt(np.diag(inverse) * (left @ left) / dof)
    numbers: dict[str, float] = {}
    for name, value, h in zip(("", "weight_decay_"), params[1:], half[1:], strict=True):
        numbers |= {f"{name}exponent": float(value), f"{name}low": float(value - h), f"{name}high": float(value + h)}
    return numbers


def judge_exponents(rows: pd.DataFrame, group: dict[str, object]) -> Verdict:
    """Exponents of the RMS in lr and in weight decay, from one regression in logarithms over a tensor's runs."""
    tolerance = f"{EXPONENT_TOLERANCE:g}"
    rule = (
        f"in networks exponents of RMS = c lr^p weight_decay^q over runs with lr weight_decay steps >= "
        f"{MIN_KAPPA_NETWORK:g}; confirmed if the 95 % intervals of p and q lie within {tolerance} of 1/2 and -1/2, "
        f"refuted if one is off by more than {tolerance} and its interval excludes 1/2 or -1/2, else "
        "inconclusive; shown: p"
    )
    numbers: dict[str, float] = {"predicted": 0.5, "num_runs": float(len(rows))}
    fitted = fit_exponents(rows)
    if not fitted:
        reason = "fewer than 6 runs, or lr and weight decay do not vary apart"
        return Verdict("w-rms", "fixed_steps", group, "inconclusive", numbers, rule, reason)
    numbers |= fitted
    ratio = rows["equilibrium_ratio"]
    numbers |= {"lowest_ratio": float(ratio.min()), "highest_ratio": float(ratio.max())}
    numbers |= {name: float(rows[name].median()) for name in REASONS if rows[name].notna().any()}
    ends = [
        (fitted[f"{name}exponent"], fitted[f"{name}low"], fitted[f"{name}high"], predicted)
        for name, predicted in (("", 0.5), ("weight_decay_", -0.5))
    ]
    if any(abs(value - at) > EXPONENT_TOLERANCE and not low <= at <= high for value, low, high, at in ends):
        verdict = "refuted"
    elif all(at - EXPONENT_TOLERANCE <= low and high <= at + EXPONENT_TOLERANCE for _, low, high, at in ends):
        verdict = "confirmed"
    else:
        verdict = "inconclusive"
    return Verdict("w-rms", "fixed_steps", group, verdict, numbers, rule, explain(numbers))


def explain(numbers: dict[str, float]) -> str:
    """The second exponent, the ratio, and what was measured of the reasons for which the law may fail."""
    q, low, high = (numbers[f"weight_decay_{name}"] for name in ("exponent", "low", "high"))
    text = f"q {q:.2f} [{low:.2f}, {high:.2f}], ratio {numbers['lowest_ratio']:.2f}"
    text += f" to {numbers['highest_ratio']:.2f}"
    if (share := numbers.get("zero_grad_share", 0.0)) > FEW_ZEROS:
        text += f"; {share:.0%} of gradients zero"
    if "radial" in numbers:
        force = numbers["radial"]
        way = " (outward)" if force < 0 else " (inward)"
        text += f"; radial {force:+.2f}" + way * (abs(force) > WEAK_FORCE)
    if "agreement" in numbers:
        own, noise = numbers["agreement"], numbers["noise_agreement"]
        text += f"; updates agree over {LAG} steps by {own:.2f}, noise's by {noise:.2f}"
    return text
