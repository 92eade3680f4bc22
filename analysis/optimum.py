"""The best learning rate of every cell, with an interval. A cell is one batch size within one group.

The estimator, in log2 of the learning rate:
    1. Seed-mean loss; its lowest point; all learning rates within 1.5 octaves of it, or half of that and so on where a
       cubic misfits those beyond the noise of seeds, at least 5; a cubic -> x.
    2. What each seed alone moves x by -> shifts d_s, with all learning rates of a seed taken together, since
       its runs see the same data. v_B = sum d_s^2 / (S - 1), smoothed over batch sizes (local_fit.py).
    3. Model term m = mean over cells of (x of the cubic - x of a parabola within .75 octave, at least 3 points)^2.
    4. x +- t(.975, dof) sqrt(v_B / S + m + h), dof = .75 sum over cells of (S - 1) - 1, at least 1; the -1 pays
       for the trend and is left out under 4 cells, which have none. h is the held-out set's own error, one for all
       cells, which no number of seeds makes smaller.
    5. Cells that share seeds move together: cov(x_i, x_j) = rho sqrt(v_i v_j) n_ij / (S_i S_j) + h, n_ij the number
       of shared seeds, rho one correlation for all pairs, from the products of their shifts.
At an edge the optimum lies beyond the lowest point, as a rule by half a spacing or more: that is its bound.
A learning rate counts only where every seed of the cell has a run; where one of them diverged the loss is
infinite, which can never be the lowest and ends the window. With 3 or 4 finite learning rates a parabola replaces
the cubic, and m is at least what parabolas missed by on lr_vs_bs, which grows with the spacing; with one seed there
is no interval, unless v_B is borrowed.
Under protocol steps_to_target "loss" reads as ln steps to the target (objectives.py); a run that was censored at
max_steps has an infinite one, as one that diverged, and the cell says so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import stats

from analysis.cells import MIN_LRS, split_cells
from analysis.groups import key_group
from analysis.locate import Located, locate
from analysis.runs import Runs
from analysis.seed_noise import SeedNoise, is_noisy, pool_noise, share_seeds

# What a parabola through 3 learning rates d octaves apart misses the minimum by is about so many octaves times d^2:
# .03 to .05 on the mean curves of 12 seeds of lr_vs_bs, d = 1 to 2.5 (tests/analysis/test_coverage.py)
PARABOLA_GAP = 0.05


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
        borrowed: the sweep whose seed variance the interval has, where the cell has one seed; else nothing.
        seeds, shifts, lifts: what each seed alone adds to log2 lr and to the objective at the optimum.
        gap: log2 lr of the cubic less that of the parabola, octaves; what parabolas miss where there is no cubic.
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
    borrowed: str = ""
    seeds: tuple[int, ...] = ()
    shifts: tuple[float, ...] = ()
    lifts: tuple[float, ...] = ()
    gap: float = np.nan


def find_optima(runs: Runs, borrowed: SeedNoise | None = None) -> list[Optimum]:
    """Optimum of every cell, by group and batch size; cells with one seed take the noise that is borrowed.

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
        by_group.setdefault(key_group(cell.group), []).append(locate(cell))
    for members in by_group.values():
        optima.extend(estimate_group(members, borrowed))
    return optima


def estimate_group(located: list[Located], borrowed: SeedNoise | None = None) -> list[Optimum]:
    """Intervals of one group's cells, with seed variance and model term pooled over them."""
    noisy = [item for item in located if is_noisy(item)]
    own = pool_noise(noisy) if noisy else None
    noise_of = {id(item): own for item in noisy}
    if borrowed:
        noise_of |= {id(item): borrowed for item in located if item.best and item.cell.loss_LS.shape[1] == 1}
    known = [(item, noise) for item in located if (noise := noise_of.get(id(item)))]
    by_cell = {id(item): noise.at(item.cell.batch_size) for item, noise in known}
    model_term = pool_model_term(noisy or [item for item, _ in known])
    typical = own or borrowed
    optima = []
    for item in located:
        noise = noise_of.get(id(item))
        alone = item.best is not None and item.parabola is None  # a parabola that no cubic checks
        found = estimate(item, noise, max(model_term, guess_gap(item) ** 2) if alone else model_term)
        others = {
            other.cell.batch_size: share_seeds(item, other)
            * min(noise.correlation, its.correlation)
            * float(np.sqrt(by_cell[id(item)] * by_cell[id(other)]))
            + min(item.cell.heldout, other.cell.heldout)
            for other, its in known
            if other is not item and noise
        }
        if item.edge and typical:
            found = bound_edge(found, item, float(np.median(list(typical.variances))), model_term, typical.dof)
        optima.append(replace(found, covariance=others))
    return optima


def pool_model_term(located: Sequence[Located]) -> float:
    """What the shape of the fit makes uncertain, octaves squared: mean square of cubic less parabola over the cells,
    or where no cell has a cubic what parabolas are known to miss.
    """
    gaps = [item.best.x - item.parabola.x for item in located if item.best and item.parabola]
    gaps = gaps or [guess_gap(item) for item in located if item.best]
    return float(np.mean(np.square(gaps))) if gaps else 0.0


def guess_gap(item: Located) -> float:
    """How far a parabola through 3 learning rates misses the minimum, octaves: it grows as their spacing squared, and
    under an octave, where the noise chooses which 3 they are, it falls no more.
    """
    return PARABOLA_GAP * max(1.0, float(np.median(np.diff(item.cell.x_L)))) ** 2


def bound_edge(found: Optimum, item: Located, variance: float, model_term: float, dof: float) -> Optimum:
    """An edge's bound, with the error that the group's cells have."""
    x_L, i = item.cell.x_L, item.argmin
    inner = i - 1 if item.edge == "edge_high" else i + 1
    if not 0 <= inner < len(x_L):
        return found
    sd = float(np.sqrt(variance / item.cell.loss_LS.shape[1] + model_term + item.cell.heldout))
    return replace(found, bound=float(2 ** ((x_L[i] + x_L[inner]) / 2)), sd_log2=sd, dof=dof)


def estimate(item: Located, noise: SeedNoise | None, model_term: float) -> Optimum:
    """One cell's optimum from its local fit and the pooled variances; without noise it has no interval."""
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
        gap=best.x - item.parabola.x if item.parabola else guess_gap(item),
    )  # fmt: skip
    if noise is None:
        return replace(found, note="; ".join(text for text in ("not calibrated: one seed", note) if text))
    if noise.source:
        note = "; ".join(text for text in (f"one seed: its variance is borrowed from {noise.source}", note) if text)
    dof, num_seeds = noise.dof, cell.loss_LS.shape[1]
    sd = float(np.sqrt(noise.at(cell.batch_size) / num_seeds + model_term + cell.heldout))
    half = float(stats.t.ppf(0.975, dof)) * sd
    usable = cell.x_L[np.isfinite(mean_L)]
    located = usable[0] <= best.x - half and best.x + half <= usable[-1]
    if not located:
        text = "the interval reaches beyond the learning rates that were run: add seeds or widen the grid"
        note = "; ".join(part for part in (text, note) if part)
    return replace(
        found, low=float(2 ** (best.x - half)), high=float(2 ** (best.x + half)), sd_log2=sd, dof=dof,
        status="interior" if located else "flat", note=note, borrowed=noise.source,
    )  # fmt: skip


def covariance_of(optima: Sequence[Optimum]) -> np.ndarray:
    """Of log2 lr of several cells of one group, octaves squared."""
    return np.array([
        [o.sd_log2**2 if o is other else o.covariance.get(other.batch_size, 0.0) for other in optima] for o in optima
    ])  # fmt: skip
