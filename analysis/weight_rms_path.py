"""The size of weights along training under any schedule, against the exact recursion with no free parameter."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.weight_rms_path import draw_paths
from analysis.judge import judge_every
from analysis.laws.weight_rms_mean_field import weight_rms_mean_field
from analysis.laws.weight_rms_paths import weight_rms_path
from harness.schedules import lr_multipliers, weight_decay_multipliers

TOLERANCE = 0.05
MIN_STEP = 32  # steps that Adam's averages need to fill


def analyse_weight_rms_path(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured over predicted RMS at every point of every run, and verdicts by schedule.

    Args:
        frame: records with `history.weight_rms`, or rows with a point each, as a committed table has them.
    Raises: ValueError where no run of AdamW on a random walk has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["optimizer.name"] == "adamw")]
    rows = rows[rows["task.name"] == "random_walk"].reset_index(drop=True)
    if rows.empty:
        raise ValueError(
            "no run of optimizer=adamw task=random_walk has ended: sweep=weight_rms_schedule has such runs"
        )
    if "point.step" not in rows.columns:
        points = rows.rename(columns={"history.step": "point.step", "history.weight_rms": "point.weight_rms"})
        points = points.explode(["point.step", "point.weight_rms"], ignore_index=True)
        rows = points[[name for name in points.columns if not name.startswith("history.")]]
    rows = rows.astype({"point.step": int, "point.weight_rms": float})
    table = predict_paths(rows)
    title = question or sweep
    note = (
        "ratio: measured over predicted RMS over the points from step 32 on; at the end, of the mean-field shortcut too"
    )
    figures = {"": partial(draw_paths, table, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_paths(table), note, judge_paths(table), figures)


def predict_paths(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a point: schedule, kappa of the whole run, step, measured, predicted, and the shortcut's at the last one.

    Weights are measured before their step: after `step - 1` steps.
    """
    parts = []
    for _, own in rows.groupby("run_id", sort=False):
        run = own.iloc[0]
        lr_T, decay_T = follow_schedule(run)
        signal = float(run["batch_size"] * (run["task.mean"] / run["task.std"]) ** 2)
        start = float(run["task.start"])
        path_T = np.concatenate([[start], weight_rms_path(lr_T, decay_T, start=start, signal=signal)])
        taken = own["point.step"].to_numpy() - 1
        kappa, squares = float(np.sum(lr_T * decay_T)), float(np.sum(lr_T**2))
        parts.append(pd.DataFrame({
            "run_id": run["run_id"], "schedule": name_schedule(run), "kappa": kappa,
            "step": own["point.step"], "measured": own["point.weight_rms"], "predicted": path_T[taken],
            "shortcut": float(weight_rms_mean_field(kappa, squares, start=start)), "last": taken == taken.max(),
        }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table.assign(ratio=table["measured"] / table["predicted"])


def follow_schedule(run: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """lr and weight decay of every step of a run, from its columns."""
    options = {
        str(name).removeprefix("schedule."): value for name, value in run.items()
        if str(name).startswith("schedule.") and not (isinstance(value, float) and np.isnan(value))
    }  # fmt: skip
    lr, decay, steps = float(run["optimizer.lr"]), float(run["optimizer.weight_decay"]), int(run["num_steps"])
    lr_T = lr * np.array(lr_multipliers(options, steps, rate=lr * decay))
    return lr_T, decay * np.array(weight_decay_multipliers(options, steps, rate=lr * decay))


def name_schedule(run: pd.Series) -> str:
    own = run.get("schedule.weight_decay")
    return str(run["schedule.name"]) + (f", weight decay {own}" if isinstance(own, str) else "")


def score_paths(table: pd.DataFrame) -> pd.DataFrame:
    """A line a run."""
    lines = []
    for (schedule, _), rows in table.groupby(["schedule", "kappa"], sort=False):
        ratio = rows.loc[rows["step"] > MIN_STEP, "ratio"]
        last = rows[rows["last"]].iloc[0]
        lines.append({
            "schedule": schedule, "kappa": rows["kappa"].iloc[0], "points": len(ratio), "median": ratio.median(),
            "worst": ratio.iloc[np.argmax(np.abs(np.log(ratio)))], "at the end": last["ratio"],
            "shortcut at the end": last["measured"] / last["shortcut"],
        })  # fmt: skip
    return pd.DataFrame(lines)


def judge_paths(table: pd.DataFrame) -> list[Verdict]:
    """Claims rms-ode of every schedule, and rms-mean-field of the shortcut at the end of its runs.

    Valid when: gradients are noise that is independent in time; schedules change little in 1 / (1 - beta1) steps.
    Source: kexue.fm/archives/11404; the recursion is this project's own.
    """
    verdicts = []
    for schedule, rows in table.groupby("schedule", sort=False):
        group = {"schedule.name": schedule}
        seen = rows[rows["step"] > MIN_STEP]
        what = "measured RMS over the exact recursion's"
        verdicts.append(judge_every("rms-ode", "fixed_steps", group, seen["ratio"], TOLERANCE, what, "point"))
        last = rows[rows["last"]]
        what, ratio = "measured RMS at the end over the mean-field shortcut's", last["measured"] / last["shortcut"]
        verdicts.append(judge_every("rms-mean-field", "fixed_steps", group, ratio, TOLERANCE, what, "run"))
    return verdicts
