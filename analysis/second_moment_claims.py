"""Scores and verdicts of second moments: what v remembers, what its direction does meanwhile, and rank one."""

import numpy as np
import pandas as pd

from analysis.claims import Verdict
from analysis.judge import judge_every

TOLERANCE, NOISE_TOLERANCE = 0.05, 0.1
HIDDEN = "late.update_rms.hidden.weight"
MATRICES = ("embedding.weight", "hidden.weight", "output.weight")


def judge_moments(table: pd.DataFrame) -> list[Verdict]:
    """Claims beta2 (RMS of v), beta2-update (RMS of the direction) and rank-one-noise, a verdict a rule.

    Valid when: gradients are independent Gaussian noise whose size changes once; beta1 = 0.
    Source: kexue.fm/archives/7302, 7387 (weights); the integral and the error by sampling are this project's own.
    """
    verdicts = []
    for rule, rows in table.groupby("rule", sort=False):
        group = {"rule": rule}
        what = "RMS of v over the root of sum_i w_i std_i^2"
        verdicts.append(judge_every("beta2", "fixed_steps", group, rows["ratio"], TOLERANCE, what, "point"))
        what = "RMS of the direction over that of the exact integral, clipped where the optimizer does"
        ratio = rows["update_ratio"]
        verdicts.append(judge_every("beta2-update", "fixed_steps", group, ratio, TOLERANCE, what, "point"))
        still = rows[(rows["step"] == find_last_before(rows)) & rows["error_predicted"].notna()]
        if len(still):
            what = "error of rank one before the noise changes over that of sampling alone"
            ratio = still["error"] / still["error_predicted"]
            verdicts.append(judge_every("rank-one-noise", "fixed_steps", group, ratio, NOISE_TOLERANCE, what, "run"))
    return verdicts


def find_last_before(rows: pd.DataFrame) -> float:
    """The last point before the noise changes."""
    return float(rows.loc[rows["step"] <= rows["change"], "step"].max())


def score_moments(table: pd.DataFrame, text: pd.DataFrame) -> pd.DataFrame:
    """A line a rule and change of noise, then a line a rule on text."""
    lines = [score_walk(rows) for _, rows in table.groupby(["rule", "std_after"], sort=False)]
    lines += [score_text(str(rule), rows) for rule, rows in text.groupby("rule", sort=False)]
    return pd.DataFrame(lines)


def score_walk(rows: pd.DataFrame) -> dict[str, object]:
    still = rows[rows["step"] == find_last_before(rows)].iloc[0]
    first = rows.iloc[0]
    return {
        "case": f"{first['std_before']:g} to {first['std_after']:g}", "rule": first["rule"],
        "half way": find_half_way(rows, "measured"), "law": find_half_way(rows, "predicted"),
        "v": pick_worst(rows["ratio"]), "u": pick_worst(rows["update_ratio"]), "error": f"{still['error']:.2f}",
        "noise": still["error_predicted"],
    }  # fmt: skip


def pick_worst(ratio: pd.Series) -> float:
    return float(ratio.iloc[int(np.argmax(np.abs(np.log(ratio.to_numpy(float)))))])


def find_half_way(rows: pd.DataFrame, column: str) -> float:
    """Steps from the change until v has gone half of its way, log v taken for linear between points; NaN if never."""
    rows = rows[rows["step"] >= find_last_before(rows)].sort_values("step")
    before, after = rows["std_before"].iloc[0] ** 2, rows["std_after"].iloc[0] ** 2
    v = rows[column].to_numpy(float) ** 2
    gone = (before - v) / (before - after)
    past = np.flatnonzero(gone >= 0.5)
    if not len(past) or past[0] == 0:
        return float("nan")
    here, half = past[0], np.log((before + after) / 2)
    x, y = rows["step"].to_numpy(float)[here - 1 : here + 1], np.log(v[here - 1 : here + 1])
    return float(x[0] + (half - y[0]) / (y[1] - y[0]) * (x[1] - x[0]) - rows["change"].iloc[0])


def score_text(rule: str, rows: pd.DataFrame) -> dict[str, object]:
    """At the learning rate of the lowest mean loss."""
    means = rows.groupby("lr")["loss"].mean()
    lr = float(means.index[int(np.argmin(means.to_numpy()))])
    best = rows[rows["lr"] == lr].mean(numeric_only=True)

    def read(metric: str) -> str:
        return "/".join(f"{best.get(f'{metric}.{name}', np.nan):.2f}".lstrip("0") for name in MATRICES)

    return {
        "case": "text", "rule": rule, "error": read("rank_one_error"), "share": read("rank_one_share"), "lr": lr,
        "loss": float(means.min()), "late u": float(best.get(HIDDEN, np.nan)),
    }  # fmt: skip
