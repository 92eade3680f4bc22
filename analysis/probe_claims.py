"""Every claim about one step, judged at probed checkpoints: forms (probe_forms.py), moments of updates, and shapes.

Moments are measured over predicted, with a mean in ln and a tolerance as forms are.
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict
from analysis.one_step import keys_of, select_scored
from analysis.probe_forms import (
    TOLERANCE,
    check_adam_eta,
    check_ema_batch,
    check_sampled,
    check_sgd_eta,
    check_sign_eta,
    check_third,
    judge_scored,
)

MOMENT_TOLERANCE = 0.05


def check_probes(rows: pd.DataFrame) -> list[Verdict]:
    """Every claim at every checkpoint, and adam-surge's, which needs the noise scale."""
    keys = keys_of(rows)
    verdicts = []
    for values, group in rows.groupby(keys, sort=False, dropna=False):
        label = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        verdicts += [check(group, label) for check in PROBE_CLAIMS.values()]
    return [verdict for verdict in verdicts if verdict is not None]


def pick(rows: pd.DataFrame, optimizer: str) -> pd.DataFrame:
    return rows[rows["probe.optimizer"] == optimizer]


def check_sign_erf(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E sign = erf(a / sqrt 2), entry by entry.

    Valid when: gradient noise is Gaussian.
    Source: kexue.fm/archives/10542.
    """
    return judge_check(rows, group, "sign-erf", "signsgd", "sign", "slope of measured mean signs on erf(a / sqrt 2)")


def check_eps_moments(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E u^2 of a soft sign is 1 - b^2 / (a^2 + b^2 + pi/2).

    Valid when: gradient noise is Gaussian.
    Source: kexue.fm/archives/10563.
    """
    what = "measured sum of E u^2 over the article's form"
    return judge_check(rows, group, "eps-moments", "softsign_0.03", "square_article", what)


def check_eps_moments_exact(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E u^2 of a soft sign is 1 - sqrt(pi/2) b Re w((a + ib)/sqrt 2).

    Valid when: gradient noise is Gaussian.
    Source: this project's own.
    """
    what = "measured sum of E u^2 over Faddeeva's form"
    return judge_check(rows, group, "eps-moments-exact", "softsign_0.03", "square", what)


def judge_check(
    rows: pd.DataFrame, group: Mapping[str, object], claim: str, optimizer: str, check: str, what: str,
    tolerance: float = MOMENT_TOLERANCE,
) -> Verdict | None:  # fmt: skip
    """A ratio of moments, over all batch sizes from 16: moments need no gradient."""
    column = f"check.{check}"
    chosen = pick(rows, optimizer)
    if column not in chosen.columns:
        return None
    ratio = chosen.loc[chosen["probe.batch_size"] >= 16, column]
    return judge_scored(claim, group, ratio, tolerance, what) if ratio.notna().any() else None


def check_muon(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E msign(G_B) = sum_k s_k / sqrt(s_k^2 + n sigma^2 / B) u_k v_k^T: its overlap with G.

    Valid when: noise is independent between the entries of a matrix, and alike.
    Source: kexue.fm/archives/11285.
    """
    what = "measured overlap over that by singular values"
    return judge_check(rows, group, "muon", "muon", "muon_singular", what, TOLERANCE)


def check_muon_scalar(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E msign(G_B) overlaps with G by sum_k s_k / sqrt(1 + B_simple / B): one ratio for all singular values.

    Valid when: as for muon, and the singular values are about alike.
    Source: kexue.fm/archives/11285.
    """
    what = "measured overlap over that by one B_simple a matrix"
    return judge_check(rows, group, "muon-scalar", "muon", "muon_scalar", what, TOLERANCE)


def check_muon_gram(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """E msign(G_B) = G (G^T G + E[N^T N] / B)^(-1/2), with the measured Gram matrix of the noise N: its overlap with G.

    Of a wide matrix it is (G G^T + E[N N^T] / B)^(-1/2) G, the Gram matrix of the smaller side.

    Valid when: the Gram matrix of G_B is near its mean: one side much larger than the other, or little noise.
    Source: this project's own.
    """
    what = "measured overlap over that by the noise's Gram matrix"
    return judge_check(rows, group, "muon-gram", "muon", "muon_gram", what, TOLERANCE)


def check_eps_sgd(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """For a large epsilon a soft sign is SGD at learning rate lr / eps.

    Valid when: eps >> |g_B| in every entry.
    Source: kexue.fm/archives/10563.
    """
    scored = select_scored(rows)
    soft, plain = (pick(scored, name).set_index("probe.batch_size")["probe.lr"] for name in ("softsign_1", "sgd"))
    ratio = (soft / plain).dropna()
    what = "lr / eps of a soft sign with eps = 1 over SGD's, both measured"
    return judge_scored("eps-sgd", group, ratio, TOLERANCE, what)


def check_surge(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """SignSGD's best learning rate falls again at large batches, as independent coordinates would have it.

    Valid when: noise is independent between coordinates, and off-diagonal curvature is positive on the whole.
    Source: kexue.fm/archives/10542; surge phenomenon, arXiv 2405.14578.
    """
    signs = pick(rows, "signsgd").sort_values("probe.batch_size")
    if "predicted.independent" not in signs.columns or signs["predicted.independent"].isna().any():
        return None
    peak = signs["predicted.independent"].to_numpy(float).argmax()
    fall = float(signs["predicted.independent"].iloc[-1] / signs["predicted.independent"].iloc[peak])
    rule = (
        "ratio of the learning rate at the largest batch to that where independent coordinates have their peak; "
        "confirmed if its 95 % interval lies below 1, refuted if above, and no prediction where the form falls by less "
        "than a fifth"
    )
    numbers = {"predicted": fall, "peak": float(signs["probe.batch_size"].iloc[peak])}
    ends = signs.iloc[[int(peak), -1]]
    if fall > 0.8 or ends["probe.lr"].isna().any():
        reason = "the form does not fall there" if fall > 0.8 else "no optimum was measured there"
        return Verdict("surge", "one_step", group, "inconclusive", numbers, rule, reason)
    log = float(np.log(ends["probe.lr"].iloc[1] / ends["probe.lr"].iloc[0]))
    half = 1.96 * float(np.hypot(*ends["probe.lr_se"]))
    numbers |= {"ratio": float(np.exp(log)), "low": float(np.exp(log - half)), "high": float(np.exp(log + half))}
    verdict = "confirmed" if log + half < 0 else "refuted" if log - half > 0 else "inconclusive"
    return Verdict("surge", "one_step", group, verdict, numbers, rule, "" if verdict != "inconclusive" else "both fit")


def check_decrease(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """The best decrease of the loss in one step grows with the batch size, for SignSGD too.

    Valid when: every coordinate has the same signal-to-noise ratio.
    Source: kexue.fm/archives/10542 (dL = dL_max / (1 + B_noise / B)).
    """
    signs = pick(select_scored(rows), "signsgd").sort_values("probe.batch_size")
    rule = (
        "decrease at the largest scored batch over the largest decrease at another; refuted if its 95 % interval, as "
        "wide as the choice among the others asks for, lies below 1, confirmed if above"
    )
    if len(signs) < 2:
        reason = "fewer than 2 scored batch sizes"
        return Verdict("dL-mono", "one_step", group, "inconclusive", {"predicted": 1.0}, rule, reason)
    last, others = signs.iloc[-1], signs.iloc[:-1]
    best = others.iloc[int(others["probe.decrease"].to_numpy(float).argmax())]
    log = float(np.log(last["probe.decrease"] / best["probe.decrease"]))
    wide = stats.norm.ppf(1 - 0.025 / len(others))
    half = wide * float(np.hypot(*(row["probe.decrease_se"] / row["probe.decrease"] for row in (last, best))))
    numbers = {"predicted": 1.0, "ratio": float(np.exp(log)), "low": float(np.exp(log - half))}
    numbers["high"] = float(np.exp(log + half))
    verdict = "confirmed" if log - half > 0 else "refuted" if log + half < 0 else "inconclusive"
    return Verdict(
        "dL-mono", "one_step", group, verdict, numbers, rule, "" if verdict != "inconclusive" else "both fit"
    )


def check_adam_surge(rows: pd.DataFrame, group: Mapping[str, object]) -> Verdict | None:
    """Adam's best learning rate peaks at B_simple (1 - beta1)/(3 beta1 - 1): B_simple / 17 at beta1 = .9.

    B_simple is that of the pool that batches are drawn from, tr Sigma / (g.g + tr Sigma / M).

    Valid when: one signal-to-noise ratio for all coordinates, H diagonal, noise independent.
    Source: kexue.fm/archives/11301.
    """
    scored = pick(select_scored(rows), "adam_0.9").sort_values("probe.batch_size")
    first = rows.iloc[0]
    noise = float(first["probe.noise_trace"])
    square = float(first["probe.grad_sq"]) + noise / float(first["pool_samples"])
    least, most = (square + sign * 1.96 * float(first["probe.grad_sq_se"]) for sign in (-1, 1))
    rule = (
        "batch size of the largest measured learning rate over the pool's B_simple / 17, between the batch sizes next "
        "to those that cannot be told from the largest; refuted if that 95 % interval excludes 1, confirmed if it "
        "holds 1 and both are bounded on both sides, else inconclusive"
    )
    numbers = {"predicted": 1.0, "peak_predicted": noise / square / 17 if square > 0 else np.nan}
    if len(scored) < 3 or square <= 0:
        reason = "fewer than 3 scored batch sizes, or no gradient beyond its noise"
        return Verdict("adam-surge", "one_step", group, "inconclusive", numbers, rule, reason)
    lr, error, size = (scored[f"probe.{name}"].to_numpy(float) for name in ("lr", "lr_se", "batch_size"))
    peak = int(lr.argmax())
    like = np.flatnonzero(np.log(lr[peak] / lr) < 1.96 * np.hypot(error, error[peak]))
    below = size[like[0] - 1] if like[0] > 0 else 0.0
    above = size[like[-1] + 1] if like[-1] < len(size) - 1 else np.inf
    numbers |= {
        "ratio": float(size[peak]) / numbers["peak_predicted"], "low": below * 17 * max(least, 0.0) / noise,
        "high": above * 17 * most / noise,
    }  # fmt: skip
    if not numbers["low"] <= 1 <= numbers["high"]:
        return Verdict("adam-surge", "one_step", group, "refuted", numbers, rule)
    if below == 0 or above == np.inf or least <= 0:
        reason = "the gradient is not told from zero" if least <= 0 else "the peak may lie at an end"
        return Verdict("adam-surge", "one_step", group, "inconclusive", numbers, rule, reason)
    return Verdict("adam-surge", "one_step", group, "confirmed", numbers, rule)


PROBE_CLAIMS: dict[str, Callable[[pd.DataFrame, Mapping[str, object]], Verdict | None]] = {
    "sampled-eta": check_sampled,
    "third-eta": check_third,
    "sign-eta": check_sign_eta,
    "adam-eta": check_adam_eta,
    "sgd-eta": check_sgd_eta,
    "ema-batch": check_ema_batch,
    "sign-erf": check_sign_erf,
    "surge": check_surge,
    "dL-mono": check_decrease,
    "eps-moments": check_eps_moments,
    "eps-moments-exact": check_eps_moments_exact,
    "eps-sgd": check_eps_sgd,
    "muon": check_muon,
    "muon-scalar": check_muon_scalar,
    "muon-gram": check_muon_gram,
    "adam-surge": check_adam_surge,
}
