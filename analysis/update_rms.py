"""The root mean square of Adam's updates against its betas and the batch's signal-to-noise ratio."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.update_rms import draw_update_rms
from analysis.judge import judge_ratio
from analysis.laws.update_rms import update_rms, update_rms_noise

TOLERANCE, EXACT_TOLERANCE = 0.05, 0.01
WALK = "random_walk"


def analyse_update_rms(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured over predicted RMS of every run, and verdicts by task and drift.

    Raises: ValueError where no run of Adam at a constant learning rate has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["optimizer.name"] == "adam")]
    rows = rows[rows["schedule.name"] == "constant"].reset_index(drop=True)
    if rows.empty:
        raise ValueError("no run of optimizer=adam schedule=constant has ended: sweep=update_rms has such runs")
    table = predict_update_rms(rows)
    title = question or sweep
    scores = score_cases(table)
    note = (
        "measured: RMS of u over entries; ratio: measured over sqrt((s + r)/(s + 1)); exact: over the integral at s = 0"
    )
    figures = {"": partial(draw_update_rms, table, title)}
    return Answer(sweep, title, "fixed_steps", rows, scores, note, judge_update_rms(table), figures)


def predict_update_rms(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run: case, beta1, beta2, batch_size, signal s, measured, predicted, exact (where s is 0), both ratios.

    s is known on a random walk, B mean^2 / std^2; elsewhere B over the B_simple that the run itself measured.
    """
    walk = rows["task.name"] == WALK
    known = [rows.get(name, pd.Series(np.nan, rows.index)) for name in ("task.mean", "task.std", "noise_scale")]
    mean, std, noise_scale = (column.to_numpy(float) for column in known)
    size = rows["batch_size"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        signal = np.where(walk, size * (mean / std) ** 2, size / noise_scale)
    table = pd.DataFrame({
        "case": [name_case(name, drift) for name, drift in zip(rows["task.name"], mean, strict=True)],
        "beta1": rows["optimizer.beta1"], "beta2": rows["optimizer.beta2"], "batch_size": rows["batch_size"],
        "steps": rows["num_steps"], "signal": signal, "measured": rows["update_rms"] / rows["optimizer.lr"],
    })  # fmt: skip
    table["predicted"] = update_rms(table["signal"].to_numpy(), table["beta1"].to_numpy())
    still = walk & (mean == 0)
    table["exact"] = [
        update_rms_noise(float(b1), float(b2), float(steps)) if quiet else np.nan
        for b1, b2, steps, quiet in zip(table["beta1"], table["beta2"], rows["num_steps"], still, strict=True)
    ]
    return table.assign(ratio=table["measured"] / table["predicted"], exact_ratio=table["measured"] / table["exact"])


def name_case(task: str, drift: float) -> str:
    if task != WALK:
        return task
    return f"{WALK}, drift {drift:g}" if drift else f"{WALK}, pure noise"


def score_cases(table: pd.DataFrame) -> pd.DataFrame:
    """A line a case, beta1 and beta2: the range of what was measured, and the median and worst ratios."""
    lines = []
    for (case, beta1, beta2), rows in table.groupby(["case", "beta1", "beta2"], sort=False):
        ratio = rows["ratio"].dropna().to_numpy(float)
        worst = ratio[np.argmax(np.abs(np.log(ratio)))] if len(ratio) else np.nan
        lines.append({
            "case": case, "beta1": beta1, "beta2": beta2, "runs": len(rows),
            "lowest": rows["measured"].min(), "highest": rows["measured"].max(),
            "ratio": float(np.median(ratio)) if len(ratio) else np.nan, "worst": worst,
            "exact": rows["exact_ratio"].median(),
        })  # fmt: skip
    return pd.DataFrame(lines)


def judge_update_rms(table: pd.DataFrame) -> list[Verdict]:
    """Claims upd-rms in every case, and upd-rms-exact on pure noise.

    Valid when: gradients are stationary, Gaussian and of one signal-to-noise ratio in all entries; eps << sqrt(v).
    Source: kexue.fm/archives/11267, 11301; the exact integral is this project's own.
    """
    verdicts = []
    for case, rows in table.groupby("case", sort=False):
        group = {"task.name": case}
        what = "measured RMS of Adam's update over sqrt((s + r)/(s + 1))"
        verdicts.append(judge_ratio("upd-rms", "fixed_steps", group, rows["ratio"], TOLERANCE, what, "run"))
        if rows["exact_ratio"].notna().any():
            what = "measured RMS of Adam's update over the integral for noise and a second moment of finite memory"
            found = judge_ratio(
                "upd-rms-exact", "fixed_steps", group, rows["exact_ratio"], EXACT_TOLERANCE, what, "run"
            )
            verdicts.append(found)
    return [verdict for verdict in verdicts if verdict is not None]
