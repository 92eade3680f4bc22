"""The best learning rate of every cell, with an interval. A cell is one batch size within one group.

The estimator, in log2 of the learning rate:
    1. Seed-mean loss; its lowest point; a window of 5 learning rates around it; a cubic through them -> x.
    2. What each seed alone moves x by -> shifts d_s, with all learning rates of a seed taken together, since
       its runs see the same data. v_B = sum d_s^2 / (S - 1), smoothed over batch sizes (local_fit.py).
    3. Model term m = mean over cells of (x of the cubic - x of the 3-point parabola)^2.
    4. x +- t(.975, dof) sqrt(v_B / S + m), dof = .75 sum over cells of (S - 1) - 1, at least 1; the -1 pays
       for the trend and is left out under 4 cells, which have none.
A learning rate counts only where every seed of the cell has a run; where one of them diverged the loss is
infinite, which can never be the lowest and ends the window. With 3 or 4 finite learning rates a 3-point
parabola replaces the cubic and m is left out; with one seed there is no interval.
Under protocol steps_to_target "loss" reads as ln steps to the target (objectives.py); a run that was censored at
max_steps has an infinite one, as one that diverged, and the cell says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from analysis.local_fit import MIN_TREND_CELLS, Minimum, fit_minimum, smooth_variances
from analysis.objectives import OBJECTIVE
from analysis.runs import Runs

MIN_LRS = 3


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
        sd_log2: standard error of log2 lr, octaves; NaN where it is not known.
        dof: degrees of freedom behind sd_log2.
        group: values of the group columns.
        note: what a reader should know or do, one sentence or nothing.
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


@dataclass(frozen=True)
class Cell:
    """Losses of one cell: x_L log2 learning rates, rising; loss_LS a column a seed, infinite if diverged or censored;
    censored: indices of learning rates at which a seed was censored and none diverged.
    """

    batch_size: int
    group: Mapping[str, object]
    x_L: np.ndarray
    loss_LS: np.ndarray
    num_runs: int
    note: str
    censored: frozenset[int] = frozenset()

    def end_of(self, i: int) -> str:
        """What befell a seed at learning rate i, for a message."""
        return "did not reach the target" if i in self.censored else "diverged"


@dataclass(frozen=True)
class Located:
    """A cell with its local fits; parabola is the cross-check of a cubic and None where there is no cubic."""

    cell: Cell
    best: Minimum | None
    parabola: Minimum | None
    edge: str
    argmin: int
    note: str


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
    by_group: dict[str, list[Cell]] = {}
    for cell in cells:
        by_group.setdefault(repr(sorted(cell.group.items(), key=str)), []).append(cell)
    for members in by_group.values():
        optima.extend(estimate_group([locate(cell) for cell in members]))
    return optima


def split_cells(runs: Runs) -> list[Cell]:
    """Cells of a table, sorted by group and batch size."""
    cells = []
    keys = [*runs.groups, "batch_size"]
    for values, rows in runs.frame.groupby(keys, dropna=False):
        group = dict(zip(runs.groups, values[:-1], strict=True))
        table = rows.set_index(["optimizer.lr", "seed"])[OBJECTIVE].unstack().sort_index()
        kept, note = choose_seeds(table)
        ends = rows[rows["seed"].isin(kept.columns)].groupby("optimizer.lr")
        late = ends["censored"].any() & ends["status"].agg(lambda status: set(status) == {"done"})
        censored = frozenset(np.flatnonzero(late.reindex(kept.index)).tolist())
        cells.append(
            Cell(
                batch_size=int(rows["batch_size"].iloc[0]),
                group=group,
                x_L=np.log2(kept.index.to_numpy(dtype=float)),
                loss_LS=kept.to_numpy(dtype=float),
                num_runs=int(kept.size),
                note=note,
                censored=censored,
            )
        )
    return cells


def choose_seeds(table: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The largest set of seeds that share 5 learning rates, or else 3; those with most runs first.

    Several seeds with 3 learning rates go before one with 5: one seed gives no interval.
    """
    order = table.notna().sum().sort_values(ascending=False, kind="stable").index
    attempts = [(needed, count) for needed in (5, MIN_LRS) for count in range(len(order), 1, -1)]
    for needed, count in [*attempts, (1, 1)]:
        kept = table[sorted(order[:count])].dropna()
        if len(kept) >= needed:
            lost = int(table.notna().sum().sum()) - kept.size
            return kept, f"{lost} runs whose learning rate lacks another seed are not used" if lost else ""
    return table[[order[0]]].dropna(), ""


def locate(cell: Cell) -> Located:
    """Local fits around the lowest seed-mean loss, or the edge that prevents them."""
    mean_L = cell.loss_LS.mean(axis=1)
    finite = np.isfinite(mean_L)
    if not finite.any() and cell.censored:
        note = "no learning rate brought every seed to the target: raise max_steps or target_loss"
        return Located(cell, None, None, "", min(cell.censored), note)
    if not finite.any():
        note = "a seed diverged at every learning rate: extend the grid downward"
        return Located(cell, None, None, "edge_low", 0, note)
    i = int(np.argmin(mean_L))
    if len(finite) < MIN_LRS:
        note = f"{len(finite)} learning rates do not locate an optimum: it needs at least {MIN_LRS}"
        return Located(cell, None, None, "", i, note)
    start, stop = i, i
    while start > 0 and finite[start - 1]:
        start -= 1
    while stop < len(finite) - 1 and finite[stop + 1]:
        stop += 1
    below, above = i - start, stop - i
    # a side closed by divergence needs one finite point, a side closed by the end of the grid two (one under
    # 5 points)
    needed = 2 if len(finite) >= 5 else 1
    needed_below = needed if start == 0 else 1
    needed_above = needed if stop == len(finite) - 1 else 1
    if below < needed_below or above < needed_above:
        high = above < needed_above
        return Located(cell, None, None, "edge_high" if high else "edge_low", i, advise(cell, i, high, start, stop))
    parabola = fit_minimum(cell.x_L[i - 1 : i + 2], cell.loss_LS[i - 1 : i + 2], degree=2)
    cubic = None
    if stop - start >= 4:
        first = min(max(i - 2, start), stop - 4)
        cubic = fit_minimum(cell.x_L[first : first + 5], cell.loss_LS[first : first + 5], degree=3)
    if cubic is not None:
        return Located(cell, cubic, parabola, "", i, "")
    if parabola is not None:
        return Located(cell, parabola, None, "", i, "3-point parabola: the interval leaves out its error")
    return Located(cell, None, None, "", i, "the loss curve has no minimum near its lowest point")


def advise(cell: Cell, i: int, high: bool, start: int, stop: int) -> str:
    """Which way to extend the grid and how far, so that two values would lie beyond the lowest loss."""
    spacing = float(np.median(np.diff(cell.x_L)))
    lr = 2.0**cell.x_L
    if high and stop < len(lr) - 1:
        wall = lr[stop + 1]
        cure = "raise max_steps, or " if stop + 1 in cell.censored else ""
        text = f"a seed {cell.end_of(stop + 1)} at lr {wall:.3g}"
        return f"{text}: {cure}add learning rates between {lr[i]:.3g} and {wall:.3g}"
    if not high and start > 0:
        wall = lr[start - 1]
        cure = "raise max_steps, or " if start - 1 in cell.censored else ""
        text = f"a seed {cell.end_of(start - 1)} at lr {wall:.3g}"
        return f"{text}: {cure}add learning rates between {wall:.3g} and {lr[i]:.3g}"
    inside = (stop - i) if high else (i - start)
    steps = 3 - inside
    end = lr[-1] * 2 ** (steps * spacing) if high else lr[0] / 2 ** (steps * spacing)
    side, best = ("up", "highest") if high else ("down", "lowest")
    place = "the" if inside == 0 else "one step from the"
    return f"the best lr is {place} {best} of the grid: extend it {side} to {end:.2g} ({steps} more values)"


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
        gaps = [item.best.x - item.parabola.x for item in noisy if item.best and item.parabola]
        model_term = float(np.mean(np.square(gaps))) if gaps else 0.0
    by_cell = {id(item): variances[index] for index, item in enumerate(noisy)}
    return [estimate(item, by_cell.get(id(item), np.nan), model_term, dof) for item in located]


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
    found = replace(unknown, lr=float(2**best.x), loss=best.loss, status="interior")
    num_seeds = cell.loss_LS.shape[1]
    if num_seeds < 2:
        return replace(found, note="; ".join(text for text in ("not calibrated: one seed", note) if text))
    sd = float(np.sqrt(variance / num_seeds + model_term))
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
