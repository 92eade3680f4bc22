"""A row of the records as trackers take it: its names, its learning curve, its config and its outcome."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.config import PATHS
from harness.index import read_file
from harness.records import ENDED, PROVENANCE, RESULTS

HISTORY = "history."
LISTS = ("memory.", "probe.")  # measured, but no curve of training: lists in the summary
HIDDEN = ("provenance.host",)  # of where it was trained; nobody's business on a server


def identify_run(row: Mapping[str, Any]) -> str:
    """Sweep plus run_id, since two sweeps may share a run; what is sent again goes on with the same run."""
    return f"{row['sweep']}-{row['run_id']}"


def name_run(row: Mapping[str, Any]) -> str:
    """What lists and legends show."""
    return f"{row['optimizer.name']} batch_size={row['batch_size']} lr={row['optimizer.lr']:.3g} seed={row['seed']}"


def rank_attempt(row: Mapping[str, Any]) -> tuple[bool, str]:
    """Of several attempts at a run the largest counts, as harness/records.py reads it."""
    return row["status"] in ENDED, row["provenance.ended"]


def points_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run's learning curve, one mapping a point with `step` and what was measured there.

    What could not be told at a point is left out, but of a metric that never could be told, which is null.
    """
    curves = {name.removeprefix(HISTORY): x for name, x in row.items() if name.startswith(HISTORY) and x is not None}
    steps = curves.get("step") or []
    untold = {name for name, values in curves.items() if all(value is None for value in values)}
    return [
        {name: values[i] for name, values in curves.items() if values[i] is not None or name in untold}
        for i in range(len(steps))
    ]


def split_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record's columns as a run's config and its summary, both under the columns' names.

    The summary has what is known only after training: final loss, status, update_rms, weight_rms and the other metrics'
    last values, and where it was trained.
    """
    curves = {name.removeprefix(HISTORY) for name in row if name.startswith(HISTORY)} - {"num_samples", "step"}
    after = (set(RESULTS) | set(PROVENANCE) | curves) - {"run_id", "sweep"}
    summary = {
        name: value
        for name, value in row.items()
        if value is not None and (name in after or name.startswith(LISTS)) and name not in HIDDEN
    }
    left_out = after | set(PATHS)
    config = {
        name: value for name, value in row.items() if name not in left_out and not name.startswith((HISTORY, *LISTS))
    }
    return config, summary


def new_rows(folder: Path, seen: set[Path]) -> Iterator[dict[str, Any]]:
    """Rows of record files that were not there before.

    Raises: ValueError for a file that cannot be read.
    """
    for path in sorted(set(folder.glob("*.parquet")) - seen):
        seen.add(path)
        yield from read_file(path, None).to_pylist()
