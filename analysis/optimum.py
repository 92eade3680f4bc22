"""The best learning rate of every cell, with an interval. A cell is one batch size within one group.

The estimator, in log2 of the learning rate:
    1. Seed-mean loss; its lowest point; a window of 5 learning rates around it; a cubic through them -> x.
    2. What each seed alone moves x by -> shifts d_s, with all learning rates of a seed taken together, since
       its runs see the same data. v_B = sum d_s^2 / (S - 1), smoothed over batch sizes (local_fit.py).
    3. Model term m = mean over cells of (x of the cubic - x of the 3-point parabola)^2.
    4. x +- t(.975, dof) sqrt(v_B / S + m + h), dof = .75 sum over cells of (S - 1) - 1, at least 1; the -1 pays
       for the trend and is left out under 4 cells, which have none. h is the held-out set's own error, one for all
       cells, which no number of seeds makes smaller.
    5. Cells that share seeds move together: cov(x_i, x_j) = rho sqrt(v_i v_j) n_ij / (S_i S_j) + h, n_ij the number
       of shared seeds, rho one correlation for all pairs, from the products of their shifts.
At an edge the optimum lies beyond the lowest point, as a rule by half a spacing or more: that is its bound.
A learning rate counts only where every seed of the cell has a run; where one of them diverged the loss is
infinite, which can never be the lowest and ends the window. With 3 or 4 finite learning rates a 3-point
parabola replaces the cubic and m is left out; with one seed there is no interval.
Under protocol steps_to_target "loss" reads as ln steps to the target (objectives.py); a run that was censored at
max_steps has an infinite one, as one that diverged, and the cell says so.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from analysis.cells import MIN_LRS, split_cells
from analysis.local_fit import MIN_TREND_CELLS, smooth_variances
from analysis.locate import Located, locate
from analysis.runs import Runs

PRIOR_CORRELATION, PRIOR_WEIGHT = 0.2, 14.0  # of cells over shared seeds, as measured; in degrees of freedom of pairs


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of one cell.

    Attributes:
        lr, low, high: estimate and 95 % interval; without interval low and high are NaN. On an edge lr is
            the best of the learning rates that were run.
        status: interior; edge_low or edge_high, where the grid must be extended or refined; flat, where the
            interval reaches beyond the learning rates that were run, or these are too few, so that they do
            not locate the optimum.
        num_runs: runs behind the cell, the diverged ones included.
        loss: the objective at the optimum, from the fit: a loss, or ln steps to the target.
        sd_log2: standard error of log2 lr, octaves; NaN where it is not known. On an edge: of the bound.
        dof: degrees of freedom behind sd_log2.
        group: values of the group columns.
        note: what a reader should know or do, one sentence or nothing.
        bound: on an edge the learning rate that the optimum lies above (edge_high) or below; else NaN.
        covariance: of log2 lr with other cells of the group, by their batch size, octaves squared.
        curvature: second derivative of the objective at the optimum, a unit of it per octave squared.
        seeds, shifts, lifts: what each seed alone adds to log2 lr and to the objective at the optimum.
    """

    batch_size: int
    lr: float
    low: float
    high: float
    status: str
    num_runs: int
    loss: float
    sd_log2: float
    dof: float
    group: Mapping[str, object]
    note: str = ""
    bound: float = np.nan
    covariance: Mapping[int, float] = field(default_factory=dict)
    curvature: float = np.nan
    seeds: tuple[int, ...] = ()
    shifts: tuple[float, ...] = ()
    lifts: tuple[float, ...] = ()


def find_optima(runs: Runs) -> list[Optimum]:
    """Optimum of every cell, by group and batch size.

    Raises: ValueError where no cell has 3 learning rates.
    """
    cells = split_cells(runs)
    most = max(len(cell.x_L) for cell in cells)
    if most < MIN_LRS:
        raise ValueError(
            f"an optimum needs at least {MIN_LRS} learning rates that share their seeds, and no batch size "
            f"has them (the most is {most}): add values to sweep.grid.optimizer.lr"
        )
    optima: list[Optimum] = []
    by_group: dict[str, list[Located]] = {}
    for cell in cells:
        by_group.setdefault(repr(sorted(cell.group.items(), key=str)), []).append(locate(cell))
    for members in by_group.values():
        optima.extend(estimate_group(members))
    return optima


def estimate_group(located: list[Located]) -> list[Optimum]:
    """Intervals of one group's cells, with seed variance and model term pooled over them."""
    noisy = [item for item in located if item.best is not None and item.cell.loss_LS.shape[1] > 1]
    variances = dict.fromkeys(range(len(noisy)), np.nan)
    dof, model_term = np.nan, 0.0
    if noisy:
        batch_sizes = np.array([item.cell.batch_size for item in noisy], dtype=float)
        dofs = np.array([item.cell.loss_LS.shape[1] - 1 for item in noisy], dtype=float)
        raw = np.array([float(item.best.shifts @ item.best.shifts) for item in noisy if item.best]) / dofs
        variances = dict(enumerate(smooth_variances(batch_sizes, raw, dofs)))
        dof = max(1.0, 0.75 * dofs.sum() - (len(noisy) >= MIN_TREND_CELLS))
        model_term = pool_model_term(noisy)
    by_cell = {id(item): variances[index] for index, item in enumerate(noisy)}
    rho = pool_correlation(noisy, variances)
    optima = []
    for item in located:
        found = estimate(item, by_cell.get(id(item), np.nan), model_term, dof)
        others = {
            other.cell.batch_size: share_seeds(item, other)
            * rho
            * float(np.sqrt(by_cell[id(item)] * by_cell[id(other)]))
            + min(item.cell.heldout, other.cell.heldout)
            for other in noisy
            if other is not item and id(item) in by_cell
        }
        if item.edge:
            found = bound_edge(
                found, item, float(np.median(list(variances.values()))) if noisy else np.nan, model_term, dof
            )
        optima.append(replace(found, covariance=others))
    return optima


def pool_model_term(located: Sequence[Located]) -> float:
    """What the shape of the fit makes uncertain, octaves squared: mean square of cubic less parabola over the cells."""
    gaps = [item.best.x - item.parabola.x for item in located if item.best and item.parabola]
    return float(np.mean(np.square(gaps))) if gaps else 0.0


def pool_correlation(noisy: Sequence[Located], variances: Mapping[int, float]) -> float:
    """One correlation of the shifts of two cells that share seeds, drawn towards what was measured on lr_vs_bs."""
    total, count = PRIOR_CORRELATION * PRIOR_WEIGHT, PRIOR_WEIGHT
    for (i, one), (j, other) in itertools.combinations(enumerate(noisy), 2):
        assert one.best is not None
        assert other.best is not None
        at = {seed: shift for seed, shift in zip(other.cell.seeds, other.best.shifts, strict=False)}
        products = [
            shift * at[seed] for seed, shift in zip(one.cell.seeds, one.best.shifts, strict=False) if seed in at
        ]
        if len(products) > 1:
            total += float(np.sum(products)) / float(np.sqrt(variances[i] * variances[j]))
            count += len(products) - 1
    return float(np.clip(total / count, 0.0, 0.95))


def share_seeds(one: Located, other: Located) -> float:
    """n_ij / (S_i S_j): the variance of a mean over the seeds that two cells share."""
    common = len(set(one.cell.seeds) & set(other.cell.seeds))
    return common / (one.cell.loss_LS.shape[1] * other.cell.loss_LS.shape[1])


def bound_edge(found: Optimum, item: Located, variance: float, model_term: float, dof: float) -> Optimum:
    """An edge's bound, with the error that the group's cells have."""
    x_L, i = item.cell.x_L, item.argmin
    inner = i - 1 if item.edge == "edge_high" else i + 1
    if not 0 <= inner < len(x_L):
        return found
    sd = float(np.sqrt(variance / item.cell.loss_LS.shape[1] + model_term + item.cell.heldout))
    return replace(found, bound=float(2 ** ((x_L[i] + x_L[inner]) / 2)), sd_log2=sd, dof=dof)


def estimate(item: Located, variance: float, model_term: float, dof: float) -> Optimum:
    """One cell's optimum from its local fit and the pooled variances."""
    cell = item.cell
    note = "; ".join(text for text in (item.note, cell.note) if text)
    mean_L = cell.loss_LS.mean(axis=1)
    unknown = Optimum(
        batch_size=cell.batch_size, lr=float(2 ** cell.x_L[item.argmin]), low=np.nan, high=np.nan,
        status=item.edge or "flat", num_runs=cell.num_runs, loss=float(mean_L[item.argmin]), sd_log2=np.nan,
        dof=np.nan, group=cell.group, note=note,
    )  # fmt: skip
    if item.best is None:
        assert note, "a cell without a minimum says why"
        return unknown
    best = item.best
    found = replace(
        unknown, lr=float(2**best.x), loss=best.loss, status="interior", curvature=best.curvature, seeds=cell.seeds,
        shifts=tuple(best.shifts.tolist()), lifts=tuple(best.lifts.tolist()),
    )  # fmt: skip
    num_seeds = cell.loss_LS.shape[1]
    if num_seeds < 2:
        return replace(found, note="; ".join(text for text in ("not calibrated: one seed", note) if text))
    sd = float(np.sqrt(variance / num_seeds + model_term + cell.heldout))
    half = float(stats.t.ppf(0.975, dof)) * sd
    usable = cell.x_L[np.isfinite(mean_L)]
    located = usable[0] <= best.x - half and best.x + half <= usable[-1]
    if not located:
        text = "the interval reaches beyond the learning rates that were run: add seeds or widen the grid"
        note = "; ".join(part for part in (text, note) if part)
    return replace(
        found, low=float(2 ** (best.x - half)), high=float(2 ** (best.x + half)), sd_log2=sd, dof=dof,
        status="interior" if located else "flat", note=note,
    )  # fmt: skip
