"""The best weight decay against learning rate and number of steps: whether lr weight_decay T is a constant."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.answer import Answer
from analysis.claims import Verdict, judge
from analysis.figures.weight_decay import draw_weight_decay
from analysis.laws.timescale import timescale
from analysis.objectives import OBJECTIVE
from analysis.optimum import Optimum, covariance_of, find_optima
from analysis.runs import Runs
from harness.records import ENDED

KEPT = ("run_id", "status", "protocol", "seed", "batch_size", "num_steps", "task.name", "task.num_heldout",
        "model.name", "schedule.name", "optimizer.name", "optimizer.lr", "optimizer.weight_decay", "loss",
        "optimizer.beta1", "optimizer.beta2", "task.corpus_sha256", "num_samples", "precision")  # fmt: skip
AXES = {"num_steps": "steps", "lr": "lr"}


def analyse_weight_decay(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> Answer:
    """Best weight decay of every lr and number of steps, its slopes on both, and verdicts.

    Args:
        frame: a row a run, with optimizer.weight_decay, optimizer.lr, num_steps, seed and loss.
    Raises: ValueError where no run of AdamW has ended, or no cell has 3 weight decays.
    """
    rows = frame[frame["status"].isin(ENDED) & (frame["optimizer.name"] == "adamw")]
    if not (rows["status"] == "done").any():
        raise ValueError("no run of optimizer=adamw has ended: sweep=weight_decay has such runs")
    rows = rows[[name for name in rows.columns if name in KEPT]].reset_index(drop=True)
    optima = locate_optima(rows)
    table = tabulate(optima)
    slopes = fit_slopes(optima)
    title = question or sweep
    note = "kappa: lr weight_decay T at the peak lr, tau = 1 / kappa; slopes: of ln weight_decay, both at once"
    figures = {"": partial(draw_weight_decay, rows, table, slopes, title)}
    return Answer(sweep, title, "fixed_steps", rows, score_optima(table), note, judge_kappa(slopes), figures)


def locate_optima(rows: pd.DataFrame) -> list[Optimum]:
    """The optimum of every cell by the estimator of learning rates (optimum.py), pointed at weight decay: a cell is a
    number of steps in place of a batch size, a group an lr. Its `lr` is a weight decay here.
    """
    pointed = rows.assign(lr=rows["optimizer.lr"], censored=False)
    pointed["batch_size"] = rows["num_steps"].astype(int)
    pointed["optimizer.lr"] = rows["optimizer.weight_decay"].astype(float)
    pointed[OBJECTIVE] = rows["loss"].where(rows["status"] == "done", np.inf)
    return find_optima(Runs(pointed, ("lr",), "fixed_steps", ()))


def tabulate(optima: list[Optimum]) -> pd.DataFrame:
    """A row a cell: lr, num_steps, weight_decay with its interval and status, kappa."""
    table = pd.DataFrame([
        {"lr": float(str(o.group["lr"])), "num_steps": o.batch_size, "weight_decay": o.lr, "low": o.low, "high": o.high,
         "status": o.status, "loss": o.loss} for o in optima
    ])  # fmt: skip
    return table.assign(kappa=1 / timescale(table["lr"], table["weight_decay"], table["num_steps"]))


def fit_slopes(optima: list[Optimum]) -> dict[str, tuple[float, float, float]]:
    """Slopes of ln weight_decay on ln T and on ln lr, by generalised least squares over the located cells.

        ln weight_decay = a + p ln T + q ln lr

    Covariances are those of cells of one lr; cells of several lr, which share seeds too, are taken for independent (an
    approximation). Intervals are wider by the root of chi^2 a degree of freedom where that exceeds 1.

    Returns: num_steps, lr and constant (kappa where both slopes are -1, a geometric mean) -> value, low, high; empty
        where there are too few cells.
    """
    used = [o for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    rates = [float(str(o.group["lr"])) for o in used]
    steps = [o.batch_size for o in used]
    if len(used) < 4 or len(set(rates)) < 2 or len(set(steps)) < 2:
        return {}
    covariance = np.zeros((len(used), len(used)))
    for rate in set(rates):
        index = [i for i, own in enumerate(rates) if own == rate]
        covariance[np.ix_(index, index)] = covariance_of([used[i] for i in index])
    whiten = np.linalg.inv(np.linalg.cholesky(covariance * np.log(2) ** 2))
    y = np.log([o.lr for o in used])
    design = np.stack([np.ones(len(used)), np.log(steps), np.log(rates)], axis=1)
    found, error, dof = solve(whiten @ design, whiten @ y)
    half = stats.t.ppf(0.975, dof) * error
    slopes = {name: (found[i], found[i] - half[i], found[i] + half[i]) for i, name in ((1, "num_steps"), (2, "lr"))}
    kappa = np.log([o.lr * rate * t for o, rate, t in zip(used, rates, steps, strict=True)])
    mean, error, dof = solve(whiten @ design[:, :1], whiten @ kappa)
    half = stats.t.ppf(0.975, dof) * error
    slopes["constant"] = tuple(float(np.exp(mean[0] + d)) for d in (0.0, -half[0], half[0]))  # type: ignore[assignment]
    return {name: tuple(map(float, values)) for name, values in slopes.items()}  # type: ignore[misc]


def solve(design: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Least squares with unit errors: values, standard errors (wider where they misfit), degrees of freedom."""
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ y
    dof = len(y) - design.shape[1]
    excess = max(1.0, float(np.sum((y - design @ found) ** 2)) / dof)
    return found, np.sqrt(np.diag(inverse) * excess), dof


def score_optima(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(tau=1 / table["kappa"])


def judge_kappa(slopes: dict[str, tuple[float, float, float]]) -> list[Verdict]:
    """Claim kappa: the best weight decay is in inverse proportion to steps, and to lr.

        d ln weight_decay / d ln T = -1,    d ln weight_decay / d ln lr = -1

    Valid when: an interior optimum; one epoch; a fixed batch size.
    Source: kexue.fm/archives/11459; Wang & Aitchison, arXiv 2405.13698.
    """
    rule = (
        "exponent of the best weight decay in steps, and in lr, fitted together over the located cells (those at "
        "an edge are left out); confirmed if its 95 % interval contains -1 and excludes 0, refuted if it excludes -1"
    )
    verdicts = []
    for axis, name in AXES.items():
        group = {"against": name}
        numbers = {"predicted": -1.0}
        if axis not in slopes:
            reason = "fewer than 4 cells with an interior optimum, or all of one lr or number of steps"
            verdicts.append(Verdict("kappa", "fixed_steps", group, "inconclusive", numbers, rule, reason))
            continue
        value, low, high = slopes[axis]
        verdict, reason = judge(low, high, -1.0, 0.0)
        numbers |= {"exponent": value, "low": low, "high": high, "deviation": value + 1}
        numbers |= {"kappa": slopes["constant"][0]}
        verdicts.append(Verdict("kappa", "fixed_steps", group, verdict, numbers, rule, reason))
    return verdicts
