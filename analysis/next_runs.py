"""Which runs would narrow the advised learning rate most for what they cost, worked out before any of them is run.

With the Jacobian J of ln law at the cells, W = 1 / s^2, and C the covariance of the cells (they share seeds),
    cov = (J'WJ)^-1 J'WCWJ (J'WJ)^-1,   half-width at the asked batch size = t(.975, dof) sqrt(g' cov g),
g the gradient of ln law there. Two more seeds change a cell's variance from v/S to v/(S+2) and leave what no seed
changes (held-out set, shape of the local fit); a new batch size is a new row, with v from the trend over cells.
Where several laws compete, the interval is the union of theirs; a new cell, taken to lie where the best law says,
draws the others towards it by one Gauss-Newton step. A law that bends within its errors has an interval of another
width than cov says (recommend.py draws it); the ratio of the two today is taken to stay.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.analyse import GroupAnswer
from analysis.cells import heldout_variance
from analysis.fit import Fit
from analysis.laws import LAWS
from analysis.least_squares import to_value
from analysis.local_fit import smooth_variances
from analysis.optimum import Optimum, covariance_of

MORE_SEEDS = 2
NEW_LRS = 7  # learning rates of a new batch size: five make a cubic, two more let the guess be off by one


@dataclass(frozen=True)
class Cells:
    """The located cells of a group as a fit sees them, and what their variances are made of.

    Attributes:
        batch_size_C, num_seeds_C: of each cell.
        variance_C: of one seed, octaves squared; floor_C: what no number of seeds makes smaller.
        covariance_CC: of log2 lr, octaves squared.
        common: covariance that the held-out set gives to any two cells; rho: correlation of shared seeds.
        dof: degrees of freedom behind the variances.
    """

    batch_size_C: np.ndarray
    num_seeds_C: np.ndarray
    variance_C: np.ndarray
    floor_C: np.ndarray
    covariance_CC: np.ndarray
    common: float
    rho: float
    dof: float


@dataclass(frozen=True)
class NextRuns:
    """Runs to add, and what they are expected to do.

    Attributes:
        half: expected half-width of the 95 % interval after them, octaves.
        cost: samples that they train on; NaN where the table does not tell.
    """

    text: str
    num_runs: int
    cost: float
    half: float


def propose_runs(
    answer: GroupAnswer, rows: pd.DataFrame, batch_size: int, halves: Mapping[str, float]
) -> tuple[float, list[NextRuns]]:
    """Half-width now, octaves, and candidates, those first that take most off it for a sample.

    Args:
        rows: runs of the group.
        halves: today's half-width of each law that competes, in ln lr.
    Valid when: the laws are near linear in their parameters over their errors, or bend as much after the runs as
        before; edges, which enter fits as bounds, are left out.
    Source: optimal design of experiments, e.g. Atkinson, Donev and Tobias, chapter 10; the sandwich as in
        least_squares.py.
    """
    cells = read_cells(answer.optima, rows)
    fits = [fit for name in (answer.comparison.best, *answer.comparison.not_separable) for fit in answer.fits
            if fit.law == name]  # fmt: skip
    scales = {fit.law: halves[fit.law] / expect_half([fit], cells, batch_size) / np.log(2) for fit in fits}
    now = expect_half(fits, cells, batch_size, scales)
    found = []
    for i, size in enumerate(cells.batch_size_C):
        num_runs = MORE_SEEDS * int(rows[rows["batch_size"] == size]["optimizer.lr"].nunique())
        half = expect_half(fits, add_seeds(cells, i), batch_size, scales)
        text = f"{MORE_SEEDS} more seeds of every learning rate at batch size {size:.0f}"
        found.append(NextRuns(text, num_runs, num_runs * cost_run(rows, float(size)), half))
    smallest, largest = int(cells.batch_size_C.min()), int(cells.batch_size_C.max())
    for size in sorted({smallest // 2, 2 * largest, batch_size} - {0, *cells.batch_size_C.astype(int)}):
        grown = add_cell(cells, size)
        half = expect_half(fits, grown, batch_size, scales, new=True)
        if size == batch_size:  # its own interval leans on no law
            half = min(half, float(stats.t.ppf(0.975, grown.dof) * np.sqrt(grown.covariance_CC[-1, -1])))
        num_runs = NEW_LRS * int(grown.num_seeds_C[-1])
        lr = float(predict(fits[0], np.array([float(size)]))[0])
        text = f"batch size {size}, new: {NEW_LRS} learning rates around {lr:.3g}, {grown.num_seeds_C[-1]:.0f} seeds"
        found.append(NextRuns(text, num_runs, num_runs * cost_run(rows, float(size)), half))

    def gain(runs: NextRuns) -> float:
        return (now - runs.half) / (runs.cost if np.isfinite(runs.cost) else runs.num_runs)

    return now, sorted(found, key=gain, reverse=True)


def read_cells(optima: Sequence[Optimum], rows: pd.DataFrame) -> Cells:
    """The located cells with their variances taken apart, by the trend that gave them (optimum.py).

    A cell with one seed borrowed its variance: of that, what the held-out set does not explain is its seed's.
    """
    noisy = [o for o in optima if len(o.shifts) > 1]
    dofs = np.array([len(o.shifts) - 1.0 for o in noisy])
    raw = np.array([float(np.square(o.shifts).sum()) for o in noisy]) / dofs
    smooth = smooth_variances(np.array([float(o.batch_size) for o in noisy]), raw, dofs) if noisy else ()
    variance_of = {id(o): float(v) for o, v in zip(noisy, smooth, strict=True)}
    used = [o for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    if not used:
        raise ValueError("no batch size has an optimum with an error: run two seeds or more")
    common = heldout_variance(rows)
    variance = np.array([variance_of.get(id(o), max(o.sd_log2**2 - common, 1e-12)) for o in used])
    num_seeds = np.array([float(len(o.seeds)) for o in used])
    covariance = covariance_of(used)
    pairs = [
        (covariance[i, j] - common) / (shared / (num_seeds[i] * num_seeds[j]) * np.sqrt(variance[i] * variance[j]))
        for i in range(len(used))
        for j in range(i)
        if (shared := len(set(used[i].seeds) & set(used[j].seeds)))
    ]
    return Cells(
        np.array([float(o.batch_size) for o in used]), num_seeds, variance,
        np.maximum(np.diag(covariance) - variance / num_seeds, 0.0), covariance, common,
        float(np.clip(np.median(pairs), 0, 1)) if pairs else 0.0, min(o.dof for o in used),
    )  # fmt: skip


def add_seeds(cells: Cells, i: int) -> Cells:
    """Seeds that no other cell has: what cell i shares with the others then weighs less in its mean."""
    before, after = cells.num_seeds_C[i], cells.num_seeds_C[i] + MORE_SEEDS
    covariance = cells.covariance_CC.copy()
    row = cells.common + (covariance[i] - cells.common) * before / after
    covariance[i], covariance[:, i] = row, row
    covariance[i, i] = cells.variance_C[i] / after + cells.floor_C[i]
    num_seeds = cells.num_seeds_C.copy()
    num_seeds[i] = after
    return replace(cells, num_seeds_C=num_seeds, covariance_CC=covariance, dof=cells.dof + 0.75 * MORE_SEEDS)


def add_cell(cells: Cells, batch_size: int) -> Cells:
    """A batch size with the seeds that the others have, its variance on the straight line in the logs of theirs."""
    num_seeds = float(np.median(cells.num_seeds_C))
    line = np.polyfit(np.log(cells.batch_size_C), np.log(np.maximum(cells.variance_C, 1e-12)), 1)
    variance = float(np.exp(np.polyval(line, np.log(batch_size))))
    floor = float(np.median(cells.floor_C))
    shared = np.minimum(num_seeds, cells.num_seeds_C) / (num_seeds * cells.num_seeds_C)
    row = cells.rho * shared * np.sqrt(variance * cells.variance_C) + cells.common
    return Cells(
        np.append(cells.batch_size_C, float(batch_size)), np.append(cells.num_seeds_C, num_seeds),
        np.append(cells.variance_C, variance), np.append(cells.floor_C, floor),
        np.block([[cells.covariance_CC, row[:, None]], [row[None, :], np.array([[variance / num_seeds + floor]])]]),
        cells.common, cells.rho, cells.dof + 0.75 * (num_seeds - 1),
    )  # fmt: skip


def expect_half(
    fits: Sequence[Fit],
    cells: Cells,
    batch_size: float,
    scales: Mapping[str, float] | None = None,
    *,
    new: bool = False,
) -> float:
    """Half-width of the union of the laws' intervals, octaves. `scales` multiply each law's. `new`: the last cell is
    not in the fits yet and lies where the first of them says.
    """
    asked = np.array([float(batch_size)])
    sd = np.sqrt(np.diag(cells.covariance_CC)) * np.log(2)
    quantile = float(stats.t.ppf(0.975, cells.dof))
    lows, highs = [], []
    for fit in fits:
        jacobian = differentiate(fit, cells.batch_size_C) / sd[:, None]
        # how the law at the asked batch size follows each cell, in standard errors of that
        follow_C = (differentiate(fit, asked) @ np.linalg.pinv(jacobian, rcond=1e-4))[0]
        middle = float(np.log(predict(fit, asked))[0])
        if new:
            last = cells.batch_size_C[-1:]
            middle += follow_C[-1] * float((np.log(predict(fits[0], last)) - np.log(predict(fit, last)))[0] / sd[-1])
        pull_C = follow_C / sd * np.log(2)  # ln lr there an octave of each cell
        widen = max(1.0, (fit.chi2 / fit.dof) ** 0.5) * (scales[fit.law] if scales else 1.0)
        half = quantile * widen * float(np.sqrt(pull_C @ cells.covariance_CC @ pull_C))
        lows.append(middle - half)
        highs.append(middle + half)
    return (max(highs) - min(lows)) / 2 / float(np.log(2))


def predict(fit: Fit, batch_size: np.ndarray) -> np.ndarray:
    """A fitted law's learning rates."""
    return LAWS[fit.law].predict(batch_size, **{name: e.value for name, e in fit.params.items()})


def differentiate(fit: Fit, batch_size: np.ndarray) -> np.ndarray:
    """d ln law / d parameter as the fit moves it, batch sizes by parameters, by central differences.

    Parameters without an interval, as those that a fit holds at a bound, do not move.
    """
    law, step = LAWS[fit.law], 1e-5
    at = np.array([np.log(fit.params[p.name].value) if p.log else fit.params[p.name].value for p in law.parameters])

    def log_law(moved: np.ndarray) -> np.ndarray:
        values = {p.name: to_value(p.log, value) for p, value in zip(law.parameters, moved, strict=True)}
        return np.log(law.predict(batch_size, **values))

    rows = step * np.eye(len(at))[[not np.isnan(fit.params[p.name].low) for p in law.parameters]]
    return np.stack([(log_law(at + row) - log_law(at - row)) / (2 * step) for row in rows], axis=1)


def cost_run(rows: pd.DataFrame, batch_size: float) -> float:
    """Samples that a run trains on at a batch size: a power of it through those that were run, which is exact where the
    number of samples or of steps is the same for all.
    """
    if "num_samples" not in rows or rows["num_samples"].isna().all():
        return float("nan")
    median = rows[rows["status"] == "done"].groupby("batch_size")["num_samples"].median().dropna()
    if len(median) < 2:
        return float(median.iloc[0])
    line = np.polyfit(np.log(median.index.to_numpy(dtype=float)), np.log(median.to_numpy(dtype=float)), 1)
    return float(np.exp(np.polyval(line, np.log(batch_size))))
