"""Does momentum multiply the batch size in training? The best learning rates of runs that differ in it alone tell."""

from collections.abc import Mapping, Sequence

import numpy as np

from analysis.claims import MIN_STEPS, Verdict, count_steps, judge
from analysis.fit_points import Points, fit_points
from analysis.groups import read_constant, select_group
from analysis.laws.sizes import POINT_LAWS
from analysis.minima import pool_rates
from analysis.optimum import Optimum
from analysis.runs import Runs

# optimizer -> the column of its momentum
MOMENTUM = {name: "optimizer.momentum" for name in ("sgd", "signum", "tiger")} | {
    name: "optimizer.beta1" for name in ("adam", "adamw", "adax")
}
SUMS = ("sgd",)  # optimizers whose momentum is a sum of gradients, 1 / (1 - momentum) times their average
MIN_MEMORIES = 10  # steps of a run over those that momentum remembers, 1 / (1 - beta1)


def check_momentum(runs: Runs, groups: Sequence[Sequence[Optimum]]) -> list[Verdict]:
    """Verdicts on `ema-batch`: the best learning rate at beta1 and batch size B is that without momentum at B a.

        lr(beta1, B) = lr(0, B a),   a = (1 + beta1) / (1 - beta1):   q = 1 in   lr = c (B a^q)^p

    One verdict for every set of groups that differ in momentum alone, from one fit to all their cells.

    Args:
        groups: optima of every group.
    Valid when: fixed number of samples, no Nesterov momentum, T (1 - beta1) >> 1, optima that follow a power of B.
    Source: kexue.fm/archives/11301.
    """
    by_rest: dict[str, list[tuple[float, Sequence[Optimum]]]] = {}
    settled: dict[str, tuple[str, Mapping[str, object]]] = {}
    for optima in groups:
        group = optima[0].group
        rows = select_group(runs.frame, group)
        optimizer = str(read_constant(rows, "optimizer.name"))
        column = MOMENTUM.get(optimizer, "")
        nesterov = bool(read_constant(rows, "optimizer.nesterov"))
        if column not in group or nesterov or read_constant(rows, "protocol") != "fixed_samples":
            continue
        beta1 = float(str(group[column]))
        steps = count_steps(rows)
        used = [
            o for o in optima
            if o.status == "interior"
            and steps.get(o.batch_size, 0) >= max(MIN_STEPS, MIN_MEMORIES / (1 - beta1) * (1 - 1e-9))
        ]  # fmt: skip
        rest = {name: value for name, value in group.items() if name != column}
        settled[repr(rest)] = (optimizer, rest)
        by_rest.setdefault(repr(rest), []).append((beta1, used))
    return [
        judge_momentum(*settled[rest], members) for rest, members in by_rest.items() if len({b for b, _ in members}) > 1
    ]


def judge_momentum(
    optimizer: str, group: Mapping[str, object], members: Sequence[tuple[float, Sequence[Optimum]]]
) -> Verdict:
    """The verdict of groups that differ in momentum alone: (beta1, cells that count) of each."""
    rule = (
        "exponent q of lr = c (B ((1 + beta1) / (1 - beta1))^q)^p in units of the average, over the located batch "
        f"sizes with at least {MIN_STEPS} steps and {MIN_MEMORIES} / (1 - beta1); confirmed if its 95 % interval, "
        "wider where that law misfits, contains 1 and excludes 0 (momentum cancels), refuted if it excludes 1"
    )
    cells = [(beta1, o) for beta1, optima in members for o in optima if len(o.seeds) > 1]
    numbers = {"predicted": 1.0, "num_cells": float(len(cells))}

    def say(verdict: str, reason: str = "") -> Verdict:
        return Verdict("ema-batch", "fixed_samples", group, verdict, numbers, rule, reason)

    if not cells:
        return say("inconclusive", "no batch size with several seeds and enough steps was located")
    beta1 = np.array([each for each, _ in cells])
    optima = [o for _, o in cells]
    averaging = (1 + beta1) / (1 - beta1)
    lr = np.array([o.lr for o in optima]) / (1 - beta1 if optimizer in SUMS else 1.0)
    points = Points(
        np.array([[float(o.batch_size) for o in optima], averaging]), lr,
        np.array([o.sd_log2 for o in optima]) * np.log(2), pool_rates(optima), min(o.dof for o in optima),
    )  # fmt: skip
    fit = fit_points(POINT_LAWS["lr_momentum"], points)
    if fit.refused:
        return say("inconclusive", fit.refused)
    q, p = fit.params["exponent"], fit.params["batch_exponent"]
    share = p.value * np.log(averaging.max() / averaging.min())
    numbers |= {
        "exponent": q.value, "low": q.low, "high": q.high, "deviation": q.value - 1.0, "batch_exponent": p.value,
        "most_beta1": float(beta1.max()), "lr_ratio": float(np.exp(q.value * share)),
        "lr_ratio_predicted": float(np.exp(share)),
    }  # fmt: skip
    return say(*judge(q.low, q.high, 1.0, 0.0))
