"""The best learning rate against a transformer's width, with the standard parametrization and with mup."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.lr_vs_size import draw_lr_vs_size
from analysis.objectives import OBJECTIVE
from analysis.optimum import Optimum, covariance_of, find_optima
from analysis.runs import Runs
from analysis.weight_decay import solve
from harness.records import ENDED

KEPT = ("run_id", "status", "protocol", "seed", "batch_size", "num_steps", "num_samples", "num_params",
        "num_params_non_embedding", "precision", "task.name", "task.context", "task.num_heldout",
        "task.corpus_sha256", "model.name", "model.width", "model.depth", "model.num_heads", "model.parametrization",
        "model.base_width", "max_norm", "schedule.name", "schedule.warmup", "optimizer.name", "optimizer.lr",
        "optimizer.beta1", "optimizer.beta2", "optimizer.eps", "loss",
        "provenance.torch", "provenance.code_sha256")  # fmt: skip
PREDICTED = {"standard": ("width-lr", -1.0), "mup": ("mup", 0.0)}  # parametrization -> claim, exponent of width
TOLERANCE = 0.15  # of an exponent: a factor of 1.37 over the eight-fold range of widths
Exponents = dict[str, tuple[float, float, float]]


def analyse_lr_vs_size(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Best learning rate of every width and parametrization, its exponents in width, and verdicts.

    Args:
        frame: a row a run, with model.width, model.parametrization, optimizer.lr, seed and loss.
    Raises: ValueError where no run of model=gpt has ended, or no cell has 3 learning rates.
    """
    rows = frame[frame["status"].isin(ENDED) & (frame["model.name"] == "gpt")]
    if not (rows["status"] == "done").any():
        raise ValueError("no run of model=gpt has ended: sweep=lr_vs_size has such runs")
    rows = rows[[name for name in rows.columns if name in KEPT]].reset_index(drop=True)
    optima = locate_optima(rows)
    exponents = {name: fit for name in PREDICTED if (fit := fit_exponent(optima, name)) is not None}
    table = tabulate(optima)
    title, protocol = question or sweep, str(rows["protocol"].iloc[0])
    figures = {"": partial(draw_lr_vs_size, rows, table, exponents, title)}
    note = "lr: the best one, with its 95 % interval; loss: there"
    return Answer(sweep, title, protocol, rows, table, note, judge_exponents(exponents, protocol), figures)


def locate_optima(rows: pd.DataFrame) -> list[Optimum]:
    """By the estimator of optimum.py, with a width in place of a batch size."""
    pointed = rows.assign(batch_size=rows["model.width"].astype(int), censored=False)
    pointed[OBJECTIVE] = rows["loss"].where(rows["status"] == "done", np.inf)
    return find_optima(Runs(pointed, ("model.parametrization",), "fixed_samples", ()))


def tabulate(optima: list[Optimum]) -> pd.DataFrame:
    """A row a cell."""
    return pd.DataFrame([
        {"parametrization": str(o.group["model.parametrization"]), "width": o.batch_size, "lr": o.lr, "low": o.low,
         "high": o.high, "loss": o.loss, "status": o.status} for o in optima
    ])  # fmt: skip


def fit_exponent(optima: list[Optimum], parametrization: str) -> tuple[float, float, float] | None:
    """Exponent of the best learning rate in width over the located cells, each weighted with its own error.

        ln lr* = a + p ln width,    cov = (J'J)^-1 J'RJ (J'J)^-1

    R is the correlation of the cells, which share seeds. The interval uses t with the degrees of freedom behind the
    optima's errors, and is wider by the root of chi^2 a degree of freedom where that exceeds 1.

    Returns: value, low, high; None for fewer than 3 located widths.
    """
    used = [
        o
        for o in optima
        if o.group["model.parametrization"] == parametrization and o.status == "interior" and np.isfinite(o.sd_log2)
    ]
    if len(used) < 3:
        return None
    sd = np.array([o.sd_log2 for o in used]) * np.log(2)
    correlation = covariance_of(used) * np.log(2) ** 2 / np.outer(sd, sd)
    design = np.stack([np.ones(len(used)), np.log([o.batch_size for o in used])], axis=1)
    found, error = solve(design / sd[:, None], np.log([o.lr for o in used]) / sd, correlation)
    half = float(stats.t.ppf(0.975, min(o.dof for o in used))) * float(error[1])
    return float(found[1]), float(found[1]) - half, float(found[1]) + half


def judge_exponents(exponents: Exponents, protocol: str) -> list[Verdict]:
    """Claims width-lr and mup: how Adam's best learning rate goes with the width of a transformer.

        standard: lr* ~ 1 / width        mup: lr* the same at every width

    The first is what hidden matrices ask for, whose entries all move by lr; embeddings and gains do not ask for it.

    Valid when: depth, batch size and samples fixed; heads of one width; Adam with a small eps.
    Source: Yang et al., arXiv 2203.03466.
    """
    rule = (
        "exponent of the best learning rate in width over the located cells, each weighted with its error; confirmed "
        f"if the 95 % interval lies within {TOLERANCE:g} of the prediction, refuted if beyond, else inconclusive"
    )
    verdicts = []
    for parametrization, (claim, predicted) in PREDICTED.items():
        group, numbers = {"model.parametrization": parametrization}, {"predicted": predicted}
        if parametrization not in exponents:
            reason = "fewer than 3 widths with an optimum inside their grid"
            verdicts.append(Verdict(claim, protocol, group, "inconclusive", numbers, rule, reason))
            continue
        value, low, high = exponents[parametrization]
        verdict, reason = "inconclusive", "the interval reaches across the tolerance"
        if low > predicted + TOLERANCE or high < predicted - TOLERANCE:
            verdict, reason = "refuted", ""
        elif low >= predicted - TOLERANCE and high <= predicted + TOLERANCE:
            verdict, reason = "confirmed", ""
        numbers |= {"exponent": value, "low": low, "high": high, "deviation": value - predicted}
        verdicts.append(Verdict(claim, protocol, group, verdict, numbers, rule, reason))
    return verdicts
