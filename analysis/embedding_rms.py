"""The size of embedding rows by how rarely their token is hit, under signs and under Adam."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.embedding_rms import draw_embedding_rms
from analysis.judge import judge_every, judge_ratio
from analysis.laws.embedding import (
    embedding_rms_adam,
    embedding_rms_adam_random,
    embedding_rms_sign,
    embedding_rms_sign_random,
)
from analysis.laws.embedding_tiger import (
    embedding_rms_tiger,
    embedding_rms_tiger_cycle,
    embedding_rms_tiger_random,
)

TOLERANCE = 0.05
MIN_GAP = 30
MEMORIES = 3  # of the average whose sign is taken, or of Adam's second moment, that a gap must exceed
MIN_HITS = 4  # of a row in the run
MIN_TIMES = 5  # in which Tiger's rows forget their start: lr weight_decay RMS num_steps
COLUMN = "weight_rms.gap_"


def analyse_embedding_rms(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured over predicted RMS of every gap of every run, slopes and verdicts.

    Raises: ValueError where no run of task=token_walk with per-tensor metrics has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["task.name"] == "token_walk")]
    rows = rows[rows["optimizer.name"].isin(("adamw", "lion", "signum", "tiger"))].reset_index(drop=True)
    if rows.empty or not any(name.startswith(COLUMN) for name in rows.columns):
        raise ValueError(
            "no run of task=token_walk with metrics.per_tensor=true has ended: sweep=embedding_rms has such"
        )
    table = predict_embedding_rms(rows)
    title = question or sweep
    note = f"ratio: measured over predicted at gaps that count; slope: d ln RMS / d ln G over gaps from {MIN_GAP} on"
    figures = {"": partial(draw_embedding_rms, table, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_gaps(table), note, judge_gaps(table), figures)


def predict_embedding_rms(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run and gap: optimizer, spacing, lr, weight_decay, gap, measured, predicted, and whether it counts.

    memory          steps that the average whose sign is taken, or Adam's second moment, remembers
    cycle           of Tiger at regular hits, of all rows at once: the form that follows their size within a gap
    ratio, cycle_ratio      measured over predicted and over cycle
    """
    parts = []
    for name in (name for name in rows.columns if name.startswith(COLUMN)):
        gap = float(name.removeprefix(COLUMN))
        own = rows[rows[name].notna()]
        lr, decay = own["optimizer.lr"].to_numpy(float), own["optimizer.weight_decay"].to_numpy(float)
        adam = (own["optimizer.name"] == "adamw").to_numpy()
        random = (own["task.spacing"] == "random").to_numpy()
        beta1, beta2, momentum = (
            own.get(f"optimizer.{option}", pd.Series(np.nan, own.index)).to_numpy(float)
            for option in ("beta1", "beta2", "momentum")
        )
        betas = {"beta1": np.where(adam, beta1, 0.0), "beta2": np.where(adam, beta2, 0.5)}
        by_adam = np.where(
            random, embedding_rms_adam_random(lr, decay, gap, **betas), embedding_rms_adam(lr, decay, gap, **betas)
        )
        by_sign = np.where(random, embedding_rms_sign_random(lr, decay, gap), embedding_rms_sign(lr, decay, gap))
        slow = np.where(np.isnan(beta2), momentum, beta2)
        tiger = (own["optimizer.name"] == "tiger").to_numpy()
        least = np.maximum(MIN_GAP, np.where(tiger, 0.0, MEMORIES / (1 - slow)))
        steps = own["num_steps"].to_numpy(float)
        # The others' rows start at zero: a walk of so many steps, of whole gaps where regular
        grown = np.sqrt(-np.expm1(-2 * lr * decay * np.where(random, steps, steps - gap)))
        by_tiger = np.where(random, embedding_rms_tiger_random(lr, decay, gap), embedding_rms_tiger(lr, decay, gap))
        predicted = np.where(tiger, by_tiger, grown * np.where(adam, by_adam, by_sign))
        cycle = np.full(len(own), np.nan)
        at_once = tiger & ~random
        cycle[at_once] = embedding_rms_tiger_cycle(lr[at_once], decay[at_once], gap, momentum=slow[at_once])
        settled = (steps >= MIN_HITS * gap) & (~tiger | (lr * decay * predicted * steps >= MIN_TIMES))
        parts.append(pd.DataFrame({
            "run_id": own["run_id"], "optimizer": [name_optimizer(row) for _, row in own.iterrows()],
            "spacing": own["task.spacing"], "lr": lr, "weight_decay": decay, "gap": gap, "measured": own[name],
            "memory": 1 / (1 - slow), "predicted": predicted, "cycle": cycle, "counts": (gap >= least) & settled,
        }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True).sort_values(["optimizer", "spacing", "run_id", "gap"], kind="stable")
    return table.assign(ratio=table["measured"] / table["predicted"], cycle_ratio=table["measured"] / table["cycle"])


def name_optimizer(row: pd.Series) -> str:
    """The optimizer with its memories."""
    name = str(row["optimizer.name"])
    if name in ("signum", "tiger"):
        return f"{name} {row['optimizer.momentum']:g}"
    return f"{name} {row['optimizer.beta1']:g}/{row['optimizer.beta2']:g}"


def measure_slopes(table: pd.DataFrame) -> pd.DataFrame:
    """Slope of ln RMS against ln G of every run, over gaps from MIN_GAP on."""
    lines = []
    for (optimizer, spacing, run), rows in table[table["gap"] >= MIN_GAP].groupby(["optimizer", "spacing", "run_id"]):
        if len(rows) > 1:
            slope = np.polyfit(np.log(rows["gap"]), np.log(rows["measured"]), 1)[0]
            lines.append({"optimizer": optimizer, "spacing": spacing, "run_id": run, "slope": float(slope)})
    return pd.DataFrame(lines, columns=["optimizer", "spacing", "run_id", "slope"])


def score_gaps(table: pd.DataFrame) -> pd.DataFrame:
    """A line an optimizer and spacing."""
    slopes = measure_slopes(table)
    lines = []
    for (optimizer, spacing), rows in table.groupby(["optimizer", "spacing"], sort=False):
        ratio = rows.loc[rows["counts"], "ratio"].dropna()
        own = slopes[(slopes["optimizer"] == optimizer) & (slopes["spacing"] == spacing)]
        lines.append({
            "optimizer": optimizer, "hits": spacing, "runs": rows["run_id"].nunique(), "points": len(ratio),
            "median": ratio.median(), "lowest": ratio.min(), "highest": ratio.max(), "slope": own["slope"].mean(),
        })  # fmt: skip
    return pd.DataFrame(lines)


def judge_gaps(table: pd.DataFrame) -> list[Verdict]:
    """Claims emb (Signum, Lion), emb-adam and emb-tiger, a verdict an optimizer and spacing.

    Valid when: hits with random signs; G >> 1 / (1 - beta) for signs and 1 / (1 - beta2) for Adam.
    Source: kexue.fm/archives/9736; the forms in G are this project's own.
    """
    verdicts: list[Verdict | None] = []
    for (optimizer, spacing), rows in table[table["predicted"].notna()].groupby(["optimizer", "spacing"], sort=False):
        counted = rows[rows["counts"]]
        group = {"optimizer": optimizer, "task.spacing": spacing}
        if str(optimizer).startswith("tiger"):
            verdicts += judge_tiger(counted, group)
            continue
        claim = "emb-adam" if str(optimizer).startswith("adamw") else "emb"
        what = "measured RMS of an embedding's rows over that at their gap between hits"
        verdicts.append(judge_ratio(claim, "fixed_steps", group, counted["ratio"], TOLERANCE, what, "run and gap"))
    return [verdict for verdict in verdicts if verdict is not None]


def judge_tiger(counted: pd.DataFrame, group: dict[str, object]) -> list[Verdict]:
    """emb-tiger at every gap from MIN_GAP on, whatever its memory, and emb-tiger-cycle where rows are hit at once."""
    forms = {
        "emb-tiger": (
            "ratio",
            "measured RMS of Tiger's rows over the root of y^2 = tanh(lr G y/2), x/(1 + x) at random",
        ),
        "emb-tiger-cycle": ("cycle_ratio", "measured RMS of Tiger's rows over the form of rows that are hit at once"),
    }
    verdicts = []
    for claim, (column, what) in forms.items():
        logs = np.log(counted[column].dropna())
        means = np.exp(logs.groupby(counted["gap"]).mean())
        if claim == "emb-tiger" or len(means):
            what = f"{what}, geometric mean over the runs of a gap of {MIN_GAP} steps or more"
            found = judge_every(claim, "fixed_steps", group, means, TOLERANCE, what, "gap")
            verdicts.append(replace(found, reason=found.reason or name_gaps(means, counted["memory"].iloc[0])))
    return verdicts


def name_gaps(means: pd.Series, memory: float) -> str:
    """The gaps that lie beyond the tolerance, in memories of the average too, or nothing."""
    off = means[np.abs(np.log(means)) > np.log1p(TOLERANCE)]
    return ", ".join(f"{ratio:.2f} at gap {gap:g} ({gap / memory:.1f} memories)" for gap, ratio in off.items())
