"""The size that weights settle at under decoupled weight decay, tensor by tensor, against lr and weight decay."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.answer import Answer
from analysis.figures.weight_rms import draw_drift, draw_weight_rms
from analysis.figures.weight_rms_exponents import draw_exponents
from analysis.laws.sign_factors import lion_factor, signum_factor, signum_factor_article, signum_factor_ln2
from analysis.laws.weight_rms import weight_rms, weight_rms_static
from analysis.weight_rms_claims import (
    EXPONENT_TOLERANCE,
    MIN_KAPPA,
    MIN_KAPPA_NETWORK,
    judge_weight_rms,
    tabulate_exponents,
)

WALK = "random_walk"
DIAGNOSTICS = ("live_share", "zero_grad_share", "radial", "live_rms")
LAG = 16  # steps over which noise's updates hardly agree: beta1^16
LIVE = ", live rows"


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
    exponents = tabulate_exponents(table)
    if len(exponents):
        figures["exponents"] = partial(draw_exponents, exponents, EXPONENT_TOLERANCE, title)
    note = (
        "ratio: median of RMS over sqrt(lr / (2 weight_decay) F), F the optimizer's; p, q: exponents of RMS in lr and "
        "in weight decay, law 1/2 and -1/2; zeros: share of zero gradients; dead: highest RMS of rows that "
        "never had a gradient; radial: g/sqrt(v) along the weights; lr weight_decay steps >= "
        f"{MIN_KAPPA}, in networks {MIN_KAPPA_NETWORK:g}"
    )
    scores = score_tensors(table, exponents)
    return Answer(sweep, title, "fixed_steps", rows, scores, note, judge_weight_rms(table), figures)


def predict_weight_rms(rows: pd.DataFrame) -> pd.DataFrame:
    """A row a run and tensor: case, tensor, optimizer, lr, weight_decay, kappa, signal, measured and predicted RMS.

    equilibrium     sqrt(lr / (2 weight_decay) F)
    static          on a random walk: with the signal and with what is left of the start
    article, ln2    of Signum: other factors F
    ..._ratio       measured over each
    dead_rms        of entries that never had a gradient
    agreement       correlation of updates LAG steps apart; noise_agreement: that of Adam's on noise
    settled         whether the run was long enough to forget its start

    Where a tensor has entries that never had a gradient (rows of an embedding whose token there is not), those that had
    are apart as well: tensor `NAME, live rows`.
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
        part["agreement"], part["noise_agreement"] = (
            read(own, f"update_autocorrelation_{LAG}.{tensor}"),
            part["beta1"] ** LAG,
        )
        start = read(own, "task.start").to_numpy(float)
        signal = part["signal"].to_numpy(float)
        part["equilibrium"] = weight_rms(lr, decay, update_square=[factor_of(row) for _, row in part.iterrows()])
        static = weight_rms_static(lr, decay, steps, signal=signal, start=start)
        part["static"] = np.where(part["walk"] & (part["optimizer"] == "adamw"), static, np.nan)
        signs = part["optimizer"] == "signum"
        beta1 = part["beta1"].to_numpy(float)
        for name, factor in (("article", signum_factor_article), ("ln2", signum_factor_ln2)):
            part[name] = np.where(signs, weight_rms(lr, decay, update_square=factor(beta1)), np.nan)
        parts += [part, take_live(part)]
        left = part["measured"] ** 2 - part["live_share"] * part["live_rms"] ** 2
        part["dead_rms"] = np.sqrt(left.clip(lower=0) / (1 - part["live_share"]).where(part["live_share"] < 1))
    table = pd.concat(parts, ignore_index=True)
    for name in ("equilibrium", "static", "article", "ln2"):
        table[f"{name}_ratio"] = table["measured"] / table[name]
    table["settled"] = table["kappa"] >= np.where(table["walk"], MIN_KAPPA, MIN_KAPPA_NETWORK)
    return table


def take_live(part: pd.DataFrame) -> pd.DataFrame:
    """The rows of a network's tensor once more, of entries that had a gradient alone; none where all had."""
    part = part[~part["walk"] & (part["live_share"] < 1)]
    zeros = 1 - (1 - part["zero_grad_share"]) / part["live_share"]
    return part.assign(tensor=part["tensor"] + LIVE, measured=part["live_rms"], zero_grad_share=zeros, live_share=1.0)


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


def score_tensors(table: pd.DataFrame, exponents: pd.DataFrame) -> pd.DataFrame:
    """A line a case, optimizer and tensor: median and range of the ratio, exponents and diagnostics."""
    lines = []
    for (case, optimizer, tensor), rows in table[table["settled"]].groupby(["case", "optimizer", "tensor"], sort=False):
        ratio = (rows["static_ratio"] if rows["static_ratio"].notna().all() else rows["equilibrium_ratio"]).dropna()
        fit = exponents[(exponents["case"] == case) & (exponents["tensor"] == tensor)]
        lines.append({
            "case": case, "of": optimizer if rows["walk"].all() else tensor, "runs": len(rows), "ratio": ratio.median(),
            "range": f"{ratio.min():.3g} to {ratio.max():.3g}", "p": show_exponent(fit, ""),
            "q": show_exponent(fit, "weight_decay_"), "zeros": rows["zero_grad_share"].median(),
            "dead": rows["dead_rms"].max(), "radial": rows["radial"].median(),
        })  # fmt: skip
    return pd.DataFrame(lines)


def show_exponent(fit: pd.DataFrame, name: str) -> str | None:
    """An exponent with its interval, of one row of tabulate_exponents; nothing of none."""
    if fit.empty:
        return None
    return "{:.2f} [{:.2f}, {:.2f}]".format(*(fit[f"{name}{end}"].iloc[0] for end in ("exponent", "low", "high")))
