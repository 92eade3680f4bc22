"""What the second moments of Adam, Adafactor and AdaX remember, and how near they are to rank one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.figures.second_moment import draw_moments, draw_updates
from analysis.laws.second_moment import (
    Array,
    beta2_adafactor,
    beta2_adam,
    beta2_adax,
    rank_one_noise,
    second_moment_weights,
)
from analysis.laws.update_rms import update_rms_changing
from analysis.second_moment_claims import judge_moments, score_moments
from harness.records import PER_TENSOR

# optimizer -> its decay of v by step, and the option that it takes
RULES: dict[str, tuple[Callable[..., Array], str]] = {
    "adam": (beta2_adam, "optimizer.beta2"),
    "adafactor": (beta2_adafactor, "optimizer.beta2_decay"),
    "adax": (beta2_adax, "optimizer.beta2"),
}
POINTS = ("second_moment_rms", "update_rms", "rank_one_error")  # of tensor w of the walk, at every point
LATE = 0.25  # share of the points, the last ones, that late training is


def analyse_second_moment(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured over predicted RMS of v and of the direction at every point of every walk; losses and rank one on text.

    Args:
        frame: records of runs with metrics.per_tensor, or rows with a point each of walks and a run each of text.
    Raises: ValueError where no walk whose noise changes has ended.
    """
    rows = frame[(frame["status"] == "done") & frame["optimizer.name"].isin(RULES)].reset_index(drop=True)
    changes = rows.get("task.change_at", pd.Series(np.nan, rows.index)).notna()
    told = "point.step" in rows.columns or "history.second_moment_rms.w" in rows.columns
    if not changes.any() or not told:
        raise ValueError(
            "no run of task=random_walk with task.change_at and metrics.per_tensor=true has ended: "
            "sweep=second_moment has such"
        )
    if "point.step" not in rows.columns:
        rows = spread_points(rows, changes)
    table = predict_moments(rows[rows["point.step"].notna()])
    text = read_text(rows[rows["point.step"].isna()])
    title = question or sweep
    note = (
        "case: standard deviation of the noise; half way: steps from its change until v has gone half of its way, by "
        "the law beside it; v, u: the worst measured over predicted RMS of v and of the direction; error: std of "
        "log(rank one / v), of text by embedding/hidden/output; noise: what sampling alone gives; share: of the "
        "variance of log v explained; late u: RMS of the hidden matrix's direction over the last quarter; loss, lr best"
    )
    figures = {"": partial(draw_moments, table, title), "update": partial(draw_updates, table, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_moments(table, text), note, judge_moments(table), figures)


def spread_points(rows: pd.DataFrame, changes: pd.Series) -> pd.DataFrame:
    """Rows to commit: of walks one a point, columns point.*, of other runs one each, columns late.*."""
    names = {f"history.{name}.w": f"point.{name}" for name in POINTS}
    points = rows[changes].rename(columns={"history.step": "point.step", **names})
    columns = ["point.step", *names.values()]
    points = points.explode(columns, ignore_index=True).astype(dict.fromkeys(columns, float))
    others = rows[~changes].copy()
    for name in [name for name in rows.columns if name.startswith("history.update_rms.")]:
        late = [
            np.mean(curve[-max(1, int(LATE * len(curve))) :]) if np.ndim(curve) else np.nan for curve in others[name]
        ]
        others[name.replace("history.", "late.")] = late
    both = pd.concat([points, others], ignore_index=True)
    # What is measured at the end of tensors goes with every point otherwise; of text rank one is all that is asked
    left_out = ("history.", *(f"{name}." for name in PER_TENSOR if not name.startswith("rank_one")))
    both.loc[both["point.step"].notna(), [name for name in both.columns if name.startswith("rank_one")]] = np.nan
    return both[[name for name in both.columns if not name.startswith(left_out)]]


def name_rule(row: pd.Series) -> str:
    """The optimizer with what its second moment's decay is set by."""
    return f"{row['optimizer.name']} {row[RULES[row['optimizer.name']][1]]:g}"


def predict_moments(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a point of a walk: rule, std_after, step, RMS of v and of the direction, measured and predicted, and the
    error of rank one with what sampling gives.

    Adafactor's v of a matrix averages over rows and columns, so that its direction is that of an exact v, clipped.
    """
    parts = []
    for _, own in rows.groupby("run_id", sort=False):
        run = own.iloc[0]
        steps = own["point.step"].to_numpy(int)
        std_T, decay_T = noise_of(run, int(steps.max())), decays_of(run, int(steps.max()))
        factored = run["optimizer.name"] == "adafactor" and pd.notna(run.get("task.width"))
        clip = float(run["optimizer.clip"]) if run["optimizer.name"] == "adafactor" else np.inf
        predicted, direction, noise = [], [], []
        for step in steps:
            w_t, std_t = second_moment_weights(decay_T[:step]), std_T[:step]
            square = float((w_t * std_t**2).sum())
            predicted.append(square**0.5)
            exact = float(std_t[-1]) / square**0.5 if factored else update_rms_changing(w_t, std_t)
            direction.append(min(exact, clip))
            noise.append(np.nan if factored else float(rank_one_noise(w_t * std_t**2)))
        parts.append(pd.DataFrame({
            "run_id": run["run_id"], "rule": name_rule(run), "optimizer": run["optimizer.name"],
            "value": run[RULES[run["optimizer.name"]][1]], "std_before": std_T[0], "std_after": std_T[-1],
            "change": int((std_T == std_T[0]).sum()), "step": steps, "measured": own["point.second_moment_rms"],
            "predicted": predicted, "update": own["point.update_rms"], "update_predicted": direction,
            "error": own["point.rank_one_error"], "error_predicted": noise,
        }))  # fmt: skip
    table = pd.concat(parts, ignore_index=True)
    return table.assign(
        ratio=table["measured"] / table["predicted"], update_ratio=table["update"] / table["update_predicted"]
    )


def noise_of(run: pd.Series, steps: int) -> Array:
    """Standard deviation of the gradient at every step of a run, a walk without drift."""
    size = int(run["batch_size"])
    later = np.arange(steps) * size >= int(run["task.change_at"])
    return np.where(later, float(run["task.std_after"]), float(run["task.std"])) / size**0.5


def decays_of(run: pd.Series, steps: int) -> Array:
    rule, option = RULES[str(run["optimizer.name"])]
    return rule(np.arange(1, steps + 1), float(run[option]))


def read_text(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run of a network: rule, lr, seed, loss, and late.update_rms, rank_one_error and _share by tensor."""
    kept = [name for name in rows.columns if name.startswith(("late.", "rank_one_error.", "rank_one_share."))]
    rules = [name_rule(row) for _, row in rows.iterrows()]
    named = {"lr": rows.get("optimizer.lr"), "seed": rows.get("seed"), "loss": rows.get("loss")}
    return pd.DataFrame({"rule": rules, **named, **{name: rows[name] for name in kept}}).reset_index(drop=True)
