"""Which runs to add next, so that few of them locate the best learning rate of every cell.

A cell is one combination of all axes but learning rate and seed. Its optimum is bracketed when a finite loss lies on
either side of the lowest one, SPACING away: REACH points a side where steps are cheap, one where they are dear. Cells
of large batches take few steps and go first; where the optima of two are known, the straight line through them in the
logs says where the next one's grid lies. A cell is bracketed with its first seed, and only then do the others run, on
that bracket alone. Seeds are added at last, where the noise of seeds is what makes an interval wider than wanted.
Everything follows from the runs so far, so that a sweep that was cut off goes on as if it had not been.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.cells import HELDOUT_VARIANCE, Cell, choose_seeds
from analysis.locate import locate
from analysis.objectives import TARGET
from analysis.optimum import Optimum, estimate_group, pool_model_term

SPACING = 0.75  # octaves between learning rates
REACH = 2  # points wanted on either side of the lowest, for the cubic; DEAR cells make do with one, a parabola
DEAR = 1 / 12  # share of the steps of one run in every cell above which a cell is dear, if 4 times the cheapest too
FINEST = SPACING / 4  # octaves from a wall of divergence at which refining ends
MOST_LRS, MOST_SEEDS = 16, 8  # of a cell
AT_ONCE = 2  # cells begun in a round: each is predicted from those before
SLOPE = 0.5  # of ln lr in ln batch size, until two optima tell


class Spot(NamedTuple):
    """A cell that is to be located. group: values of the other axes; num_steps: of one run; num_heldout: examples
    behind a loss, 0 where it is not taken on any.
    """

    group: str
    batch_size: int
    num_steps: int
    num_heldout: int = 0


class Point(NamedTuple):
    """A run to add: spot by its index."""

    spot: int
    lr: float
    seed: int


def propose(
    spots: Sequence[Spot], results: pd.DataFrame, *, start: Sequence[float], seeds: Sequence[int], tol: float,
    budget: float,
) -> list[Point]:  # fmt: skip
    """The runs to add to those that there are; none where all is done or the budget is spent.

    Args:
        results: of the runs that there are, columns spot (index), lr, seed and, as in records, status, loss, protocol,
            steps_to_target.
        start: learning rates of the cell that goes first.
        tol: half-width of a 95 % interval that is wanted, in ln lr.
        budget: steps that all runs together may take.
    """
    spots = [Spot(*spot) for spot in spots]
    steps = np.array([spot.num_steps for spot in spots])
    tables = tabulate(results)
    points: list[Point] = []
    for group in dict.fromkeys(spot.group for spot in spots):
        members = [i for i, spot in enumerate(spots) if spot.group == group]
        members.sort(key=lambda i: (spots[i].num_steps, -spots[i].batch_size))
        dear = np.maximum(DEAR * steps[members].sum(), 4 * steps[members].min())
        reach = {i: 1 if steps[i] > dear else REACH for i in members}
        open_ = [i for i in members if i in tables]
        wanted = [point for i in open_ for point in bracket(i, tables[i], seeds, reach[i])]
        if not wanted and len(open_) < len(members):
            known = [(spots[i].batch_size, locate_lowest(tables[i])) for i in open_]
            for i in members[len(open_) : len(open_) + (AT_ONCE if len(known) > 1 else 1)]:
                lrs = predict_lrs(spots[i].batch_size, known, start) if known else list(start)
                wanted += [Point(i, lr, seeds[0]) for lr in lrs]
        if not wanted:
            wanted = widen([(i, spots[i], tables[i]) for i in members], tol)
        points += wanted
    left = budget - float(steps[results["spot"].to_numpy(dtype=int)].sum())
    affordable: list[Point] = []
    for i in sorted({point.spot for point in points}, key=lambda i: int(steps[i])):
        together = [point for point in points if point.spot == i]  # a seed or a side of a bracket is of use as a whole
        left -= float(steps[i]) * len(together)
        affordable += together if left >= 0 else []
    return affordable


def bracket(spot: int, table: pd.DataFrame, seeds: Sequence[int], reach: int) -> list[Point]:
    """What a cell lacks: learning rates around its lowest loss, for the first seed; then the other seeds there."""
    seeds = sorted({*seeds, *table.columns})
    have = [seed for seed in seeds if seed in table.columns]
    shared = table[have].dropna()
    whole = table[[seeds[0]]].dropna() if len(shared) < 3 or len(have) < len(seeds) else shared
    lrs = whole.index.to_numpy(dtype=float)
    near = surround(np.log2(lrs), whole.mean(axis=1).to_numpy(), reach)
    new = [lr for lr in (round_lr(x) for x in near) if not np.isclose(lrs, lr, rtol=1e-6).any()]
    if new and len(lrs) < MOST_LRS:
        return [
            Point(spot, lr, seed)
            for lr in new
            for seed in (seeds if whole is shared else seeds[:1])
            if not has_run(table, lr, seed)
        ]
    window = [lr for lr in lrs if np.isclose(near, np.log2(lr), atol=0.3 * SPACING).any()]
    return [Point(spot, float(lr), seed) for lr in window for seed in seeds if not has_run(table, lr, seed)]


def surround(x_L: np.ndarray, loss_L: np.ndarray, reach: int) -> np.ndarray:
    """log2 learning rates that bracket the lowest loss: itself, and `reach` on either side up to a wall of divergence.

    A rate that was run counts for one wanted if it lies within .3 SPACING of it.
    """
    finite = np.isfinite(loss_L)
    if not finite.any():
        return np.array([x_L.min() - 2 * SPACING])
    lowest = float(x_L[int(np.argmin(np.where(finite, loss_L, np.inf)))])
    wanted = [lowest]
    for side in (-1, 1):
        last, gap = lowest, SPACING
        for _ in range(reach):
            x = last + side * gap
            close = np.flatnonzero(np.abs(x_L - x) < 0.3 * gap)
            while len(close) and not finite[close[0]] and gap > FINEST and last == lowest:
                gap /= 2  # a wall right beside the lowest: one finite point before it is enough
                x = last + side * gap
                close = np.flatnonzero(np.abs(x_L - x) < 0.3 * gap)
            if len(close):
                x = float(x_L[close[0]])
                if not finite[close[0]]:
                    break
            wanted.append(x)
            last = x
            if gap < SPACING:
                break
    return np.array(wanted)


def locate_lowest(table: pd.DataFrame) -> float:
    """log2 lr of a cell's optimum: from its fit, or the lowest loss where there is none."""
    found = locate(as_cell(Spot("", 1, 1), table))
    return found.best.x if found.best is not None else float(found.cell.x_L[found.argmin])


def predict_lrs(batch_size: int, known: Sequence[tuple[int, float]], start: Sequence[float]) -> list[float]:
    """Three learning rates around what the two or three nearest optima say, on the lattice of the first start value."""
    nearest = sorted(known, key=lambda pair: abs(np.log2(pair[0] / batch_size)))[:3]
    log_b, x = (np.array(column) for column in zip(*((np.log2(b), x) for b, x in nearest), strict=True))
    slope = float(np.polyfit(log_b, x, 1)[0]) if len(set(log_b)) > 1 else SLOPE
    middle = x[0] + np.clip(slope, 0.0, 1.0) * (np.log2(batch_size) - log_b[0])
    origin = np.log2(start[0])
    center = origin + SPACING * round((middle - origin) / SPACING)
    return [round_lr(center + SPACING * step) for step in (-1, 0, 1)]


def widen(cells: Sequence[tuple[int, Spot, pd.DataFrame]], tol: float) -> list[Point]:
    """What bracketed cells lack: a learning rate where an interval reaches beyond those that were run; then one more
    seed where an interval is wider than wanted, and it is the noise of seeds that makes it so.
    """
    located = [locate(as_cell(spot, table)) for _, spot, table in cells]
    floor = pool_model_term([item for item in located if item.best is not None])
    points: list[Point] = []
    optima = estimate_group(located)
    for (i, _, table), item, optimum in zip(cells, located, optima, strict=True):
        x_L = item.cell.x_L[np.isfinite(item.cell.loss_LS.mean(axis=1))]
        for end, beyond, side in ((x_L[0], optimum.low, -1), (x_L[-1], optimum.high, 1)):
            out = optimum.status == "flat" and np.isfinite(beyond) and beyond > 0 and side * (np.log2(beyond) - end) > 0
            if out and end == item.cell.x_L[0 if side < 0 else -1] and len(table) < MOST_LRS:
                lr = round_lr(end + side * SPACING)
                points += [Point(i, lr, seed) for seed in item.cell.seeds if not has_run(table, lr, seed)]
    if points:
        return points
    for (i, _, table), item, optimum in zip(cells, located, optima, strict=True):
        if half_width(optimum) <= tol or item.best is None or len(table.columns) >= MOST_SEEDS:
            continue
        seeds_share = optimum.sd_log2**2 - floor - item.cell.heldout
        if np.isfinite(seeds_share) and seeds_share < floor + item.cell.heldout:
            continue  # more seeds would hardly narrow it
        near = np.abs(item.cell.x_L - item.best.x) <= (REACH + 0.5) * SPACING
        seed = int(max(table.columns)) + 1
        points += [Point(i, round_lr(x), seed) for x in item.cell.x_L[near]]
    return points


def has_run(table: pd.DataFrame, lr: float, seed: int) -> bool:
    return seed in table.columns and lr in table.index and bool(pd.notna(table[seed][lr]))


def estimate_spots(spots: Sequence[Spot], results: pd.DataFrame) -> list[Optimum]:
    """The optimum of every spot that has runs, by the estimator of every sweep, group by group."""
    tables, found = tabulate(results), []
    for group in dict.fromkeys(spot.group for spot in spots):
        members = [locate(as_cell(spots[i], table)) for i, table in tables.items() if spots[i].group == group]
        found += estimate_group(members)
    return found


def tabulate(results: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """spot -> objective by learning rate and seed."""
    frame = take_objective(results)
    return {
        int(str(i)): rows.pivot(index="lr", columns="seed", values="objective") for i, rows in frame.groupby("spot")
    }


def describe_wide(spots: Sequence[Spot], results: pd.DataFrame, tol: float) -> str:
    """Which cells have an interval wider than wanted, for the end of a line; nothing where none has."""
    wide = [(o.batch_size, half_width(o)) for o in estimate_spots(spots, results) if half_width(o) > tol]
    if not wide:
        return ""
    cells = ", ".join(f"{batch_size} ({half:.2g})" for batch_size, half in wide)
    return f"; wider than {tol:g} in ln lr: batch size {cells}; a larger sweep.budget or more seeds narrow them"


def half_width(optimum: Optimum) -> float:
    """Of the 95 % interval, in ln lr; infinite where there is none."""
    if not (np.isfinite([optimum.low, optimum.high]).all() and optimum.low > 0):
        return np.inf
    return float(np.log(optimum.high / optimum.low) / 2)


def as_cell(spot: Spot, table: pd.DataFrame) -> Cell:
    kept, note = choose_seeds(table)
    heldout = HELDOUT_VARIANCE / spot.num_heldout if spot.num_heldout > 1 else 0.0
    return Cell(
        spot.batch_size, {"group": spot.group}, np.log2(kept.index.to_numpy(dtype=float)), kept.to_numpy(dtype=float),
        int(kept.size), note, seeds=tuple(int(seed) for seed in kept.columns), heldout=heldout,
    )  # fmt: skip


def round_lr(x: float) -> float:
    """A learning rate to the 9 digits that name a run."""
    return float(f"{2.0**x:.9g}")


def take_objective(results: pd.DataFrame) -> pd.DataFrame:
    """Adds objective, what cells are compared by: loss, or ln steps to the target; infinite where there is none."""
    value = pd.to_numeric(results["loss"])
    if (results["protocol"] == TARGET).any():
        value = np.log(pd.to_numeric(results[TARGET]))
    return results.assign(objective=value.where(results["status"] == "done", np.inf).fillna(np.inf))
