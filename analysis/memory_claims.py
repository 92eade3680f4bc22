"""Verdicts on what a final model remembers: claims memory, uniform and memory-curvature."""

from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.claims import Verdict, judge
from analysis.memory_fit import Cell, Rate, fit_extra, fit_multiple, fit_shape

UNLIKELY = 0.01  # probability of a chi^2, below which a shape is refuted
UNIFORM = "inverse_time"


def judge_memory(table: pd.DataFrame, cells: pd.DataFrame) -> list[Verdict]:
    """Claim memory of every task, batch size and schedule: one amplitude for all its kappa.

        memory of batch j = amplitude w_j,    w_j ~ lr_j e^(kappa_j)

    Valid when: as laws/memory.py; gradients of a sample stay alike, and no curvature pulls weights back.
    Source: kexue.fm/archives/11459.
    """
    rule = (
        "memory against w_j through the origin, one amplitude for all kappa, chi^2 by the scatter of unseen samples: "
        "the multiple of weight decay that it falls by; confirmed if the slope over seeds is above 0, the multiple's "
        f"95 % interval contains 1 and no kappa's chi^2 is less likely than {UNLIKELY:g} (times the number of kappas); "
        "refuted if the interval excludes 1, the shape is less likely or the slope is below 0"
    )
    verdicts = []
    for (task, size, schedule), own in cells.groupby(["task.name", "batch_size", "schedule"], sort=False):
        some = list(own["cell"])
        law, rate = fit_shape(some, [cell.decay_T for cell in some]), fit_multiple(some)
        slope, low, high = slope_over_seeds(table, own)
        numbers = {
            "predicted": 1.0, "ratio": rate.value, "low": rate.low, "high": rate.high, "slope": slope, "slope_low": low,
            "slope_high": high, "chi2": law.chi2, "dof": float(law.dof), "probability": law.worst,
            "correlation": correlate(own), "num_points": float(law.dof + 1),
        }  # fmt: skip
        fits = "" if np.isfinite([rate.low, rate.high]).all() else f"multiple {rate.value:.3g} or beyond; "
        fits += f"slope {slope:.3g} [{low:.3g}, {high:.3g}], χ² {law.chi2:.0f} of {law.dof}"
        if high < 0 or law.worst < UNLIKELY or not rate.low <= 1 <= rate.high:
            verdict = "refuted"
        else:
            verdict = "confirmed" if low > 0 else "inconclusive"
        group = {"task.name": task, "batch_size": size, "schedule.name": schedule}
        verdicts.append(Verdict("memory", "fixed_steps", group, verdict, numbers, rule, fits))
    return verdicts


def slope_over_seeds(table: pd.DataFrame, own: pd.DataFrame) -> tuple[float, float, float]:
    """The amplitude of each seed over all kappa; mean and 95 % interval over seeds, NaN of one."""
    slopes = []
    keys = ["task.name", "batch_size", "schedule"]
    rows = table.merge(own[keys].drop_duplicates(), on=keys)
    for _, seed in rows.groupby("seed"):
        some, decays = [], []
        for _, line in own.iterrows():
            mine = seed[seed["weight_decay"] == line["weight_decay"]].sort_values("step")
            if len(mine) == len(line["cell"].measured_J):
                some.append(replace(line["cell"], measured_J=mine["memory"].to_numpy()))
                decays.append(line["cell"].decay_T)
        slopes.append(next(iter(fit_shape(some, decays).amplitudes.values())))
    if len(slopes) < 2:
        return slopes[0], np.nan, np.nan
    half = stats.t.ppf(0.975, len(slopes) - 1) * np.std(slopes, ddof=1) / len(slopes) ** 0.5
    return float(np.mean(slopes)), float(np.mean(slopes) - half), float(np.mean(slopes) + half)


def correlate(own: pd.DataFrame) -> float:
    pairs = [(cell.measured_J / cell.noise, cell.weights(cell.decay_T) / cell.noise) for cell in own["cell"]]
    measured, weights = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return float(np.corrcoef(measured, weights)[0, 1])


def judge_uniform(table: pd.DataFrame, cells: pd.DataFrame) -> list[Verdict]:
    """Claim uniform of every task, batch size and kappa under inverse_time: the halves of the run count the same.

        memory of the first half = memory of the second;    constant: e^(-kappa/2) of it

    The exact ratio is above 1 in a finite run: Adam's bias correction adds to the first 1 / (1 - beta1) batches, and
    the last ones are not yet in full in its average.

    Valid when: as claim memory; 1 / (1 - beta1) << T.
    Source: kexue.fm/archives/11459.
    """
    rule = (
        "memory of the first half of the run over that of the second, interval over seeds; confirmed if it contains "
        "that of the exact weights (1 in a long run) and excludes e^(-kappa/2), which a constant schedule has by the "
        "law, refuted if it excludes the first"
    )
    verdicts = []
    keys = ["task.name", "batch_size", "kappa"]
    for (task, size, kappa), own in table[table["schedule"] == UNIFORM].groupby(keys, sort=False):
        ratio, low, high = compare_halves(own)
        kappa = float(str(kappa))
        exact, rival = halve(select(cells, task, size, UNIFORM, kappa).iloc[0]["cell"]), float(np.exp(-kappa / 2))
        verdict, reason = judge(low, high, exact, rival)
        numbers = {"predicted": exact, "ratio": ratio, "low": low, "high": high, "rival": rival}
        beside = select(table, task, size, "constant", kappa)
        if len(beside):
            numbers["constant"], numbers["constant_low"], numbers["constant_high"] = compare_halves(beside)
            seen = f"constant {numbers['constant']:.2g} [{numbers['constant_low']:.2g}, {numbers['constant_high']:.2g}]"
            reason = f"{reason}; {seen}" if reason else seen
        group = {"task.name": task, "batch_size": size, "kappa": float(f"{kappa:.2g}")}
        verdicts.append(Verdict("uniform", "fixed_steps", group, verdict, numbers, rule, reason))
    return verdicts


def select(rows: pd.DataFrame, task: object, size: object, schedule: str, kappa: float) -> pd.DataFrame:
    alike = (rows["task.name"] == task) & (rows["batch_size"] == size) & (rows["schedule"] == schedule)
    return rows[alike & (np.abs(rows["kappa"] / kappa - 1) < 0.05)]


def halve(cell: Cell) -> float:
    """What the exact weights have in the first half of the run over what they have in the second."""
    weights_J = cell.weights(cell.decay_T)
    half = len(weights_J) // 2
    return float(weights_J[:half].sum() / weights_J[half:].sum())


def compare_halves(own: pd.DataFrame) -> tuple[float, float, float]:
    """Ratio of means over seeds, by its linear error (an approximation where the second half is hardly above 0)."""
    halves = own.assign(half=own["share"] > 0.5).pivot_table(index="seed", columns="half", values="memory")
    first, second = halves[False].to_numpy(), halves[True].to_numpy()
    ratio = first.mean() / second.mean()
    if len(first) < 2:
        return ratio, np.nan, np.nan
    scatter = np.std(first - ratio * second, ddof=1) / abs(second.mean()) / len(first) ** 0.5
    half = stats.t.ppf(0.975, len(first) - 1) * scatter
    return float(ratio), float(ratio - half), float(ratio + half)


def judge_curvature(cells: pd.DataFrame) -> list[Verdict]:
    """Claim memory-curvature of a task with two batch sizes: what forgets beside weight decay grows as their root.

        rho ~ H / sqrt(v),    v ~ sigma^2 / B:    rho ~ sqrt(B)

    Valid when: gradients are mostly noise; curvature alike in the directions that count.
    Source: derived for this project.
    """
    rule = (
        "rate rho that adds to weight decay, one for all schedules and kappa: that at the largest batch size over that "
        "at the smallest, over the root of their ratio; confirmed if its 95 % interval contains 1 and excludes the "
        "root's inverse, refuted if it excludes 1"
    )
    verdicts = []
    for task, own in cells.groupby("task.name", sort=False):
        sizes = sorted(own["batch_size"].unique())
        if len(sizes) < 2:
            continue
        small, large = (fit_extra(list(own.loc[own["batch_size"] == size, "cell"])) for size in (sizes[0], sizes[-1]))
        root = float((sizes[-1] / sizes[0]) ** 0.5)
        numbers = {"predicted": 1.0, "rho_small": small.value, "rho_large": large.value}
        numbers |= {"probability_small": small.shape.worst, "probability_large": large.shape.worst}
        ratio, low, high = divide(large, small)
        numbers |= {"ratio": ratio / root, "low": low / root, "high": high / root}
        verdict, reason = judge(low / root, high / root, 1.0, 1 / root)
        seen = ", ".join(f"ρ {rate.value:.3g} [{rate.low:.3g}, {rate.high:.3g}]" for rate in (small, large))
        group = {"task.name": task}
        text = f"{reason}; {seen}" if reason else seen
        verdicts.append(Verdict("memory-curvature", "fixed_steps", group, verdict, numbers, rule, text))
    return verdicts


def divide(above: Rate, below: Rate) -> tuple[float, float, float]:
    """Ratio of two positive rates with independent errors in their logarithms; NaN interval where one may be 0."""
    if min(above.low, below.low) <= 0 or not np.isfinite([above.high, below.high]).all():
        return above.value / below.value, np.nan, np.nan
    up = np.hypot(np.log(above.high / above.value), np.log(below.value / below.low))
    down = np.hypot(np.log(above.value / above.low), np.log(below.high / below.value))
    ratio = above.value / below.value
    return float(ratio), float(ratio * np.exp(-down)), float(ratio * np.exp(up))
