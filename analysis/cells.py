"""Cells: the runs of one batch size within one group, as losses against learning rate and seed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.objectives import OBJECTIVE, TARGET
from analysis.runs import Runs
from harness.config import say_count

MIN_LRS = 3
# Variance of an optimum that one held-out set moves for all seeds alike: .06 to .09 octave at 4096 examples
# (lr_vs_bs, ngram), and it falls as one over their number
HELDOUT_VARIANCE = 0.075**2 * 4096


@dataclass(frozen=True)
class Cell:
    """Losses of one cell: x_L log2 learning rates, rising; loss_LS a column a seed, infinite if diverged or censored;
    censored: indices of learning rates at which a seed was censored and none diverged; heldout: variance that the
    held-out set adds, octaves squared.
    """

    batch_size: int
    group: Mapping[str, object]
    x_L: np.ndarray
    loss_LS: np.ndarray
    num_runs: int
    note: str
    censored: frozenset[int] = frozenset()
    seeds: tuple[int, ...] = ()
    heldout: float = 0.0

    def end_of(self, i: int) -> str:
        """What befell a seed at learning rate i, for a message."""
        return "did not reach the target" if i in self.censored else "diverged"


def split_cells(runs: Runs) -> list[Cell]:
    """Cells of a table, sorted by group and batch size."""
    cells = []
    keys = [*runs.groups, "batch_size"]
    for values, rows in runs.frame.groupby(keys, dropna=False):
        group = dict(zip(runs.groups, values[:-1], strict=True))
        table = rows.set_index(["optimizer.lr", "seed"])[OBJECTIVE].unstack().sort_index()
        kept, note = choose_seeds(table)
        if kept.shape[1] > 1 and (kept.nunique(axis=1) <= 1).all():
            # copies of one run: they would make every interval one of certainty
            kept, note = kept.iloc[:, :1], f"all {kept.shape[1]} seeds have exactly the same losses: they count as one"
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
                seeds=tuple(int(seed) for seed in kept.columns),
                heldout=heldout_variance(rows),
            )
        )
    return cells


def heldout_variance(rows: pd.DataFrame) -> float:
    """Of a cell, from the smallest number of held-out examples that its objective was taken on; none where the table
    does not tell it, and where one example is the exact loss.
    """
    if "task.num_heldout" not in rows or rows["task.num_heldout"].isna().any():
        return 0.0
    examples = rows["task.num_heldout"]
    if "target_examples" in rows:
        # the crossing is seen on these, however many the final loss has; a task with an exact loss stays exact
        crossed = (rows["protocol"] == TARGET) & rows["target_examples"].notna() & (examples > 1)
        examples = examples.mask(crossed, rows["target_examples"])
    smallest = float(examples.min())
    return HELDOUT_VARIANCE / smallest if smallest > 1 else 0.0


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
            are = "is" if lost == 1 else "are"
            note = f"{say_count(lost, 'run')} whose learning rate lacks another seed {are} not used"
            return kept, note if lost else ""
    return table[[order[0]]].dropna(), ""
