"""The best weight decay against learning rate and number of steps: whether lr weight_decay T is a constant."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from analysis.answer import Answer
from analysis.claims import Verdict
from analysis.figures.weight_decay import draw_weight_decay
from analysis.laws.timescale import timescale
from analysis.objectives import OBJECTIVE
from analysis.optimum import Optimum, covariance_of, find_optima
from analysis.runs import Runs
from analysis.seed_noise import PRIOR_CORRELATION, PRIOR_WEIGHT
from harness.records import ENDED

KEPT = ("run_id", "status", "protocol", "seed", "batch_size", "num_steps", "task.name", "task.num_heldout",
        "model.name", "schedule.name", "optimizer.name", "optimizer.lr", "optimizer.weight_decay", "loss",
        "optimizer.beta1", "optimizer.beta2", "task.corpus_sha256", "num_samples", "precision")  # fmt: skip
TOLERANCE = 0.25  # of an exponent: halfway to -1/2
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
    """Slopes of ln weight_decay on ln T and on ln lr, over the located cells, each weighted with its own error.

        ln weight_decay = a + p ln T + q ln lr,    cov = (J'J)^-1 J'RJ (J'J)^-1

    R is the correlation of cells (covary). Intervals use t with the degrees of freedom behind the optima's errors, and
    are wider by the root of chi^2 a degree of freedom where that exceeds 1.

    Returns: num_steps, lr and constant (kappa where both slopes are -1, a geometric mean) -> value, low, high; empty
        where there are too few cells.
    """
    used = [o for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    rates = [float(str(o.group["lr"])) for o in used]
    steps = [o.batch_size for o in used]
    if len(used) < 4 or len(set(rates)) < 2 or len(set(steps)) < 2:
        return {}
    sd = np.array([o.sd_log2 for o in used]) * np.log(2)
    correlation = covary(used) * np.log(2) ** 2 / np.outer(sd, sd)
    quantile = float(stats.t.ppf(0.975, min(o.dof for o in used)))
    y = np.log([o.lr for o in used])
    design = np.stack([np.ones(len(used)), np.log(steps), np.log(rates)], axis=1)
    found, error = solve(design / sd[:, None], y / sd, correlation)
    half = quantile * error
    slopes = {name: (found[i], found[i] - half[i], found[i] + half[i]) for i, name in ((1, "num_steps"), (2, "lr"))}
    kappa = np.log([o.lr * rate * t for o, rate, t in zip(used, rates, steps, strict=True)])
    mean, error = solve(design[:, :1] / sd[:, None], kappa / sd, correlation)
    slopes["constant"] = tuple(float(np.exp(mean[0] + d * quantile * error[0])) for d in (0, -1, 1))  # type: ignore[assignment]
    return {name: tuple(map(float, values)) for name, values in slopes.items()}  # type: ignore[misc]


def covary(used: list[Optimum]) -> np.ndarray:
    """Covariance of the cells, octaves squared: within one lr that of the optima; across lr by the seeds they share,
    one correlation of their shifts, drawn to what optima of learning rates have as seed_noise.py does.
    """
    covariance = covariance_of(used)
    by_seed = [dict(zip(o.seeds, o.shifts, strict=False)) for o in used]
    seed = [sum(d**2 for d in own.values()) / max(1, len(own) * (len(own) - 1)) for own in by_seed]
    pairs = [
        (i, j) for i in range(len(used)) for j in range(i) if used[i].group != used[j].group and seed[i] * seed[j] > 0
    ]
    total, count = PRIOR_CORRELATION * PRIOR_WEIGHT, PRIOR_WEIGHT
    for i, j in pairs:
        common = set(by_seed[i]) & set(by_seed[j])
        if len(common) > 1:
            product = sum(by_seed[i][s] * by_seed[j][s] for s in common) / (len(common) * (len(common) - 1))
            total += (len(common) - 1) * product / (seed[i] * seed[j]) ** 0.5
            count += len(common) - 1
    shared = float(np.clip(total / count, 0.0, 0.95))
    for i in range(len(used)):
        for j in range(i):
            if used[i].group != used[j].group:
                limits = (min(seed[k] ** 0.5, used[k].sd_log2) for k in (i, j))
                covariance[i, j] = covariance[j, i] = shared * np.prod(list(limits))
    return covariance


def solve(design: np.ndarray, y: np.ndarray, correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Least squares with unit errors that are correlated: values and standard errors, wider where they misfit."""
    inverse = np.linalg.inv(design.T @ design)
    found = inverse @ design.T @ y
    excess = max(1.0, float(np.sum((y - design @ found) ** 2)) / (len(y) - design.shape[1]))
    spread = inverse @ design.T @ correlation @ design @ inverse
    return found, np.sqrt(np.diag(spread) * excess)


def score_optima(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(tau=1 / table["kappa"])


def judge_kappa(slopes: dict[str, tuple[float, float, float]]) -> list[Verdict]:
    """Claim kappa: the best weight decay is in inverse proportion to steps, and to lr.

        d ln weight_decay / d ln T = -1,    d ln weight_decay / d ln lr = -1

    Valid when: an interior optimum; one epoch; a fixed batch size.
    Source: kexue.fm/archives/11459; Wang & Aitchison, arXiv 2405.13698.
    """
    rule = (
        "exponent of the best weight decay in steps, and in lr, fitted together over the located cells (those at an "
        "edge or flat are left out), interval by the errors of the optima and the seeds that they share; confirmed if "
        f"the 95 % interval lies within {TOLERANCE:g} of -1, refuted if it lies beyond, else inconclusive"
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
        verdict, reason = "inconclusive", "the interval reaches across the tolerance"
        if high < -1 - TOLERANCE or low > -1 + TOLERANCE:
            verdict, reason = "refuted", ""
        elif low >= -1 - TOLERANCE and high <= -1 + TOLERANCE:
            verdict, reason = "confirmed", ""
        numbers |= {"exponent": value, "low": low, "high": high, "deviation": value + 1}
        numbers |= {"kappa": slopes["constant"][0]}
        verdicts.append(Verdict("kappa", "fixed_steps", group, verdict, numbers, rule, reason))
    return verdicts
