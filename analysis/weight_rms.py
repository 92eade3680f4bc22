"""The size that weights settle at under decoupled weight decay, tensor by tensor, against lr and weight decay."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.figures.weight_rms import draw_drift, draw_weight_rms
from analysis.laws.sign_factors import lion_factor, signum_factor, signum_factor_article, signum_factor_ln2
from analysis.laws.weight_rms import weight_rms, weight_rms_static
from analysis.weight_rms_claims import judge_weight_rms

WALK = "random_walk"
MIN_KAPPA = 1.5  # lr weight_decay num_steps, from which on the start is forgotten: e^-2kappa < 5 % of the square
DIAGNOSTICS = ("live_share", "zero_grad_share", "radial", "live_rms")


def analyse_weight_rms(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Measured over predicted RMS of every tensor of every run, exponents, and verdicts.

    Raises: ValueError where no run with weight decay at a constant learning rate has ended.
    """
    rows = frame[(frame["status"] == "done") & (frame["schedule.name"] == "constant")]
    rows = rows[rows["optimizer.weight_decay"] > 0].reset_index(drop=True)
    if rows.empty:
        raise ValueError("no run with weight decay at schedule=constant has ended: sweep=weight_rms has such runs")
    table = predict_weight_rms(rows)
    title = question or sweep
    figures = {"": partial(draw_weight_rms, table, title)}
    if (table["signal"] > 0).any():
        figures["drift"] = partial(draw_drift, table, title)
    note = f"ratio: RMS over sqrt(lr / (2 weight_decay) F), F the optimizer's; lr weight_decay steps >= {MIN_KAPPA}"
    return Answer(sweep, title, "fixed_steps", rows, score_tensors(table), note, judge_weight_rms(table), figures)


def predict_weight_rms(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run and tensor: case, tensor, optimizer, lr, weight_decay, kappa, signal, measured and predicted RMS.

    equilibrium     sqrt(lr / (2 weight_decay) F)
    static          on a random walk: with the signal and with what is left of the start
    article, ln2    of Signum: other factors F
    ..._ratio       measured over each; live_ratio: of the entries that ever had a gradient
    """
    tensors = sorted(name.removeprefix("weight_rms.") for name in rows.columns if name.startswith("weight_rms."))
    parts = []
    for tensor in tensors or [""]:
        column = f"weight_rms.{tensor}" if tensor else "weight_rms"
        own = rows[rows[column].notna()]
        lr, decay, steps = (
            own[name].to_numpy(float) for name in ("optimizer.lr", "optimizer.weight_decay", "num_steps")
        )
        part = pd.DataFrame({
            "run_id": own["run_id"], "case": [name_case(row) for _, row in own.iterrows()], "tensor": tensor or "all",
            "walk": own["task.name"] == WALK, "optimizer": own["optimizer.name"], "lr": lr, "weight_decay": decay,
            "beta1": read(own, "optimizer.beta1").fillna(read(own, "optimizer.momentum")),
            "beta2": read(own, "optimizer.beta2"), "batch_size": own["batch_size"], "kappa": lr * decay * steps,
            "signal": own["batch_size"] * (read(own, "task.mean") / read(own, "task.std")) ** 2,
            "measured": own[column],
        })  # fmt: skip
        for name in DIAGNOSTICS:
            part[name] = read(own, f"{name}.{tensor}")
        start = read(own, "task.start").to_numpy(float)
        signal = part["signal"].to_numpy(float)
        part["equilibrium"] = weight_rms(lr, decay, update_square=[factor_of(row) for _, row in part.iterrows()])
        static = weight_rms_static(lr, decay, steps, signal=signal, start=start)
        part["static"] = np.where(part["walk"] & (part["optimizer"] == "adamw"), static, np.nan)
        signs = part["optimizer"] == "signum"
        beta1 = part["beta1"].to_numpy(float)
        for name, factor in (("article", signum_factor_article), ("ln2", signum_factor_ln2)):
            part[name] = np.where(signs, weight_rms(lr, decay, update_square=factor(beta1)), np.nan)
        parts.append(part)
    table = pd.concat(parts, ignore_index=True)
    for name in ("equilibrium", "static", "article", "ln2"):
        table[f"{name}_ratio"] = table["measured"] / table[name]
    table["live_ratio"] = table["live_rms"] / table["equilibrium"]
    return table


def read(rows: pd.DataFrame, name: str) -> pd.Series:
    """A column as numbers, NaN where there is none."""
    return rows[name].astype(float) if name in rows.columns else pd.Series(np.nan, rows.index)


def name_case(row: pd.Series) -> str:
    """Task, and what else tells sets of runs apart, in few words."""
    if row["task.name"] == WALK:
        return f"{WALK}, drift" if row.get("task.mean", 0.0) else WALK
    norm = ", RMSNorm" if row.get("model.norm") is True or str(row.get("model.norm")) == "True" else ""
    return f"{row['task.name']}{norm}, batch size {row['batch_size']}"


def factor_of(row: pd.Series) -> float:
    """rms_u^2 F of an optimizer whose gradients are noise; NaN where it is not known."""
    rate = row["lr"] * row["weight_decay"]
    if row["optimizer"] == "adamw":
        return 1.0
    if row["optimizer"] == "signum":
        return signum_factor(row["beta1"], rate)
    if row["optimizer"] == "lion":
        return lion_factor(row["beta1"], row["beta2"], rate)
    return float("nan")


def select_settled(table: pd.DataFrame) -> pd.DataFrame:
    """Runs long enough to have forgotten their start."""
    return table[table["kappa"] >= MIN_KAPPA]


def score_tensors(table: pd.DataFrame) -> pd.DataFrame:
    """A line a case, optimizer and tensor: median and range of the ratio, of live entries too, and diagnostics."""
    lines = []
    for (case, optimizer, tensor), rows in select_settled(table).groupby(["case", "optimizer", "tensor"], sort=False):
        ratio = (rows["static_ratio"] if rows["static_ratio"].notna().all() else rows["equilibrium_ratio"]).dropna()
        lines.append({
            "case": case, "optimizer": optimizer, "tensor": tensor, "runs": len(rows), "median": ratio.median(),
            "lowest": ratio.min(), "highest": ratio.max(), "live": rows["live_ratio"].median(),
            "live_share": rows["live_share"].median(), "zero_grads": rows["zero_grad_share"].median(),
            "radial": rows["radial"].median(),
        })  # fmt: skip
    return pd.DataFrame(lines)
