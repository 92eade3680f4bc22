"""Verdicts on what a final model remembers: claims memory, uniform and memory-curvature; intervals are over seeds."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict, judge
from analysis.memory_fit import (
    Cell,
    Rate,
    compare_shape,
    find_extra,
    fit_extra,
    fit_multiple,
    fit_shape,
    over_seeds,
    seeds_of,
    select_seeds,
)  # fmt: skip

UNLIKELY = 0.01  # probability, below which a shape is refuted
UNIFORM = "inverse_time"


def judge_memory(cells: pd.DataFrame) -> list[Verdict]:
    """Claim memory of every task, batch size and schedule: one amplitude for all its kappa.

        memory of batch j = amplitude w_j,    w_j ~ lr_j e^(kappa_j)

    Valid when: as laws/memory.py; gradients of a sample stay alike, and no curvature pulls weights back.
    Source: kexue.fm/archives/11459.
    """
    rule = (
        "memory against w_j through the origin, one amplitude for all kappa: the multiple of weight decay that it "
        "falls by, interval over seeds; refuted if it excludes 1, if the amplitude over seeds is below 0, or if a "
        f"kappa's means miss the law by what the scatter of seeds makes less likely than {UNLIKELY:g} (times the "
        "number of kappas); confirmed if else it contains 1 and excludes 0 (no forgetting), the amplitude above 0"
    )
    verdicts = []
    for (task, size, schedule), own in cells.groupby(["task.name", "batch_size", "schedule"], sort=False):
        some = list(own["cell"])
        rate, unlikely = fit_multiple(some), compare_shape(some)
        slope, low, high = slope_over_seeds(some)
        numbers = {
            "predicted": 1.0, "ratio": rate.value, "low": rate.low, "high": rate.high, "slope": slope, "slope_low": low,
            "slope_high": high, "probability": unlikely, "correlation": correlate(own),
            "num_seeds": float(len(seeds_of(some))),
        }  # fmt: skip
        seen = f"slope {slope:.3g} [{low:.3g}, {high:.3g}], shape p = {unlikely:.2g}"
        verdict, reason = judge(rate.low, rate.high, 1.0, 0.0)
        if high < 0 or unlikely < UNLIKELY:
            verdict = "refuted"
        elif verdict == "confirmed" and not low > 0:
            verdict, reason = "inconclusive", "the slope's interval holds 0"
        group = {"task.name": task, "batch_size": size, "schedule.name": schedule}
        text = f"{reason}; {seen}" if reason else seen
        verdicts.append(Verdict("memory", "fixed_steps", group, verdict, numbers, rule, text))
    return verdicts


def slope_over_seeds(cells: Sequence[Cell]) -> tuple[float, float, float]:
    """The amplitude of each seed over all kappa; mean and 95 % interval over seeds, NaN of one."""
    slopes = []
    for seed in seeds_of(cells):
        own = select_seeds(cells, lambda each, seed=seed: each == seed)  # type: ignore[misc]
        slopes.append(next(iter(fit_shape(own, [cell.decay_T for cell in own]).amplitudes.values())))
    if len(slopes) < 2:
        return slopes[0], np.nan, np.nan
    half = stats.t.ppf(0.975, len(slopes) - 1) * np.std(slopes, ddof=1) / len(slopes) ** 0.5
    return float(np.mean(slopes)), float(np.mean(slopes) - half), float(np.mean(slopes) + half)


def correlate(own: pd.DataFrame) -> float:
    pairs = [(cell.measured_J / cell.error, cell.weights(cell.decay_T) / cell.error) for cell in own["cell"]]
    measured, weights = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return float(np.corrcoef(measured, weights)[0, 1])


def judge_uniform(cells: pd.DataFrame) -> list[Verdict]:
    """Claim uniform of every task under inverse_time, one verdict over its batch sizes and kappa: halves count alike.

        memory of the first half = memory of the second;    constant: e^(-kappa/2) of it

    Halves are summed over batch sizes and kappa with the weights A w / noise^2 of what the law expects there, so that
    those count that tell. The exact ratio is above 1 in a finite run: Adam's bias correction adds to the first
    1 / (1 - beta1) batches, and the last ones are not yet in full in its average.

    Valid when: as claim memory; 1 / (1 - beta1) << T.
    Source: kexue.fm/archives/11459.
    """
    rule = (
        "memory of the first half of the run over that of the second, over all batch sizes and kappa, interval over "
        "seeds; confirmed if it contains that of the exact weights (1 in a long run) and excludes what a constant "
        "schedule has by the law (e^(-kappa/2) at each kappa), refuted if it excludes the first"
    )
    verdicts = []
    for task, own in cells[cells["schedule"] == UNIFORM].groupby("task.name", sort=False):
        uniform, shares = list(own["cell"]), weigh_cells(own)
        ratio, low, high = compare_halves(uniform, shares)
        expected = [cell.weights(cell.decay_T) for cell in uniform]
        exact = divide_halves(expected, shares)
        flat = [np.repeat([1 / (1 + np.exp(k / 2)), 1 / (1 + np.exp(-k / 2))], len(w) // 2) * w.mean() for k, w in
                zip(own["kappa"], expected, strict=True)]  # fmt: skip
        rival = divide_halves(flat, shares)
        verdict, reason = judge(low, high, exact, rival)
        numbers = {"predicted": exact, "ratio": ratio, "low": low, "high": high, "rival": rival,
                   "num_seeds": float(len(seeds_of(uniform)))}  # fmt: skip
        beside = [find_constant(cells, row) for _, row in own.iterrows()]
        pairs = [(cell, share) for cell, share in zip(beside, shares, strict=True) if cell]
        if pairs:
            found = compare_halves([cell for cell, _ in pairs], [share for _, share in pairs])
            numbers |= dict(zip(("constant", "constant_low", "constant_high"), found, strict=True))
            seen = "constant {:.2g} [{:.2g}, {:.2g}]".format(*found)
            reason = f"{reason}; {seen}" if reason else seen
        verdicts.append(Verdict("uniform", "fixed_steps", {"task.name": task}, verdict, numbers, rule, reason))
    return verdicts


def weigh_cells(own: pd.DataFrame) -> list[float]:
    """A w / noise^2 of every cell, A fitted at its batch size."""
    shares = []
    for _, row in own.iterrows():
        alike = list(own.loc[own["batch_size"] == row["batch_size"], "cell"])
        amplitude = fit_shape(alike, [cell.decay_T for cell in alike]).amplitudes[row["cell"].curve]
        cell = row["cell"]
        shares.append(abs(amplitude) * float(cell.weights(cell.decay_T).mean()) / cell.error**2)
    return shares


def find_constant(cells: pd.DataFrame, row: pd.Series) -> Cell | None:
    """The cell of a constant schedule at the same task, batch size and kappa, if there is one."""
    alike = (cells["task.name"] == row["task.name"]) & (cells["batch_size"] == row["batch_size"])
    alike &= (cells["schedule"] == "constant") & (np.abs(cells["kappa"] / row["kappa"] - 1) < 0.05)
    return cells.loc[alike, "cell"].iloc[0] if alike.any() else None


def sum_halves(values_J: np.ndarray) -> np.ndarray:
    half = values_J.shape[-1] // 2
    return np.stack([values_J[..., :half].sum(-1), values_J[..., half:].sum(-1)])


def divide_halves(values: Sequence[np.ndarray], shares: Sequence[float]) -> float:
    first, second = np.sum([share * sum_halves(value) for value, share in zip(values, shares, strict=True)], axis=0)
    return float(first / second)


def halve(cell: Cell) -> float:
    """What the exact weights have in the first half of the run over what they have in the second."""
    return divide_halves([cell.weights(cell.decay_T)], [1.0])


def compare_halves(cells: Sequence[Cell], shares: Sequence[float]) -> tuple[float, float, float]:
    """Ratio of weighted means over the seeds that all cells have, by its linear error over seeds (an approximation
    where the second half is hardly above 0).
    """
    common = set.intersection(*(set(cell.seeds) for cell in cells))
    own = select_seeds(cells, lambda seed: seed in common)
    parts = [share * sum_halves(cell.measured_SJ) for cell, share in zip(own, shares, strict=True)]
    first, second = np.sum(parts, axis=0)
    ratio = float(first.mean() / second.mean())
    if len(first) < 2:
        return ratio, np.nan, np.nan
    scatter = np.std(first - ratio * second, ddof=1) / abs(second.mean()) / len(first) ** 0.5
    half = float(stats.t.ppf(0.975, len(first) - 1) * scatter)
    return ratio, ratio - half, ratio + half


def judge_curvature(cells: pd.DataFrame) -> list[Verdict]:
    """Claim memory-curvature of a task with two batch sizes: what forgets beside weight decay grows as their root.

        rho ~ H / sqrt(v),    v ~ sigma^2 / B:    rho ~ sqrt(B)

    Valid when: gradients are mostly noise; curvature alike in the directions that count.
    Source: derived for this project.
    """
    rule = (
        "rate rho that adds to weight decay, one for all schedules and kappa: that at the largest batch size over that "
        "at the smallest, over the root of their ratio, interval over the seeds that both have; confirmed if it "
        "contains 1 and excludes both no growth and growth in proportion to the batch size, refuted if it excludes 1"
    )
    verdicts = []
    for task, own in cells.groupby("task.name", sort=False):
        sizes = sorted(own["batch_size"].unique())
        if len(sizes) < 2:
            continue
        small, large = (tag_cells(own, size) for size in (sizes[0], sizes[-1]))
        root = float((sizes[-1] / sizes[0]) ** 0.5)
        below, above = fit_extra(small), fit_extra(large)
        ratio = over_seeds([*small, *large], divide_extra, np.log, np.exp)
        numbers = {
            "predicted": 1.0, "ratio": ratio.value / root, "low": ratio.low / root, "high": ratio.high / root,
            "rho_small": below.value, "rho_large": above.value, "num_seeds": float(len(seeds_of(small))),
        }  # fmt: skip
        verdict, reason = judge(ratio.low / root, ratio.high / root, 1.0, 1 / root, root)
        seen = ", ".join(f"ρ {show_rate(rate)}" for rate in (below, above))
        text = f"{reason}; {seen}" if reason else seen
        verdicts.append(Verdict("memory-curvature", "fixed_steps", {"task.name": task}, verdict, numbers, rule, text))
    return verdicts


def tag_cells(own: pd.DataFrame, size: int) -> list[Cell]:
    return [replace(cell, curve=f"{size}: {cell.curve}") for cell in own.loc[own["batch_size"] == size, "cell"]]


def divide_extra(cells: Sequence[Cell]) -> float:
    """rho of the second batch size over that of the first; infinite where one is not above 0."""
    names = list(dict.fromkeys(cell.curve.split(":")[0] for cell in cells))
    below, above = (find_extra([cell for cell in cells if cell.curve.split(":")[0] == name]) for name in names)
    return above / below if min(below, above) > 0 and np.isfinite([below, above]).all() else np.inf


def show_rate(rate: Rate) -> str:
    return f"{rate.value:.3g} [{rate.low:.3g}, {rate.high:.3g}]"
