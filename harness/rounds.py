"""Grids that finish themselves: the rounds of an adaptive sweep, one after the other, from its records."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from harness.config import RunConfig, flatten, run_id, say_count
from harness.records import ENDED
from harness.sweep import Adaptive, Sweep

RESULTS = ("status", "loss", "protocol", "steps_to_target")
Propose = Callable[..., Sequence[tuple[int, float, int]]]  # analysis.adaptive.propose


@dataclass(frozen=True)
class Round:
    """How far an adaptive sweep has come.

    Attributes:
        sweep: with all runs that its results ask for so far.
        added: those of its last round, of which some did not end yet; empty where nothing is left to do.
        results: of all its runs, as analysis/adaptive.py takes them.
    """

    sweep: Sweep
    added: dict[str, RunConfig]
    results: pd.DataFrame


def next_round(sweep: Sweep, records: pd.DataFrame | None, propose: Propose) -> Round:
    """Go through the rounds from the first with the results that they had.

    Whatever else the records hold, and wherever a command was cut off, the same runs follow.
    """
    assert sweep.adaptive is not None, "only such a sweep has rounds"
    found: dict[str, Mapping[str, Any]] = {}
    if records is not None and len(records):
        ended = records[records["status"].isin(ENDED)]
        columns = [name for name in RESULTS if name in ended]
        rows_of = ended[columns].to_dict("records")
        found = {
            str(run): {str(k): v for k, v in row.items()} for run, row in zip(ended["run_id"], rows_of, strict=True)
        }
    adaptive = sweep.adaptive
    options = {"start": adaptive.start, "seeds": adaptive.seeds, "tol": adaptive.tol, "budget": adaptive.budget}
    runs: dict[str, RunConfig] = {}
    rows: list[dict[str, Any]] = []
    while True:
        results = pd.DataFrame(rows, columns=["spot", "lr", "seed", *RESULTS])
        points = propose(spots_of(adaptive), results, **options)
        added = {}
        for spot, lr, seed in points:
            cell = adaptive.cells[spot]
            config = replace(cell, seed=seed, optimizer={**cell.optimizer, "lr": lr})
            added[run_id(config)] = config
            rows.append({"spot": spot, "lr": lr, "seed": seed, **found.get(run_id(config), {})})
        runs |= added
        if not points or not added.keys() <= found.keys():
            return Round(replace(sweep, runs=runs), added, results)


def spots_of(adaptive: Adaptive) -> list[tuple[str, int, int, int]]:
    """(group, batch size, steps of one run, held-out examples) of every cell, as analysis/adaptive.py takes them."""
    sizes = ((cell.batch_size, cell.num_steps, count_heldout(cell)) for cell in adaptive.cells)
    return [(name_group(cell), *size) for cell, size in zip(adaptive.cells, sizes, strict=True)]


def count_heldout(cell: RunConfig) -> int:
    """Held-out examples behind what cells are compared by: for steps to a target those that the crossing is seen on."""
    heldout = int(cell.task.get("num_heldout") or 0)
    return cell.target_examples or heldout if heldout > 1 else heldout


def name_group(cell: RunConfig) -> str:
    """What tells a cell from those that differ in batch size, and what follows from it, alone."""
    same = {name: x for name, x in flatten(cell).items() if name not in ("batch_size", "num_steps", "num_samples")}
    return repr(sorted(same.items(), key=str))


def describe_round(added: Mapping[str, RunConfig]) -> str:
    """A line on what a round trains."""
    sizes = sorted({run.batch_size for run in added.values()}, reverse=True)
    lrs = [float(str(run.optimizer["lr"])) for run in added.values()]
    spread = f"lr {np.min(lrs):.3g} to {np.max(lrs):.3g}"
    return f"{say_count(len(added), 'run')} at batch size {', '.join(map(str, sizes))}, {spread}"


def describe_spent(sweep: Sweep) -> str:
    """A line on what all rounds took."""
    assert sweep.adaptive is not None, "only such a sweep has a budget"
    steps = sum(run.num_steps for run in sweep.runs.values())
    return f"adaptive: {say_count(len(sweep.runs), 'run')}, {steps:,} steps of a budget of {sweep.adaptive.budget:,.0f}"
