"""`runs_dir/NAME/log.jsonl`: which training began and ended, where and when. Appended to, never changed.

Events: `start` (with the run_ids and the step gone on from), `end` (records are published), `failed`, `stopped` (asked
to, after a checkpoint), `halved` (out of memory, or ended by a signal) and `taken over` (the holder of the lease was
gone). A training that is killed writes nothing: the `taken over` of whoever comes next closes it. Of two hosts that
append at one moment NFS may keep one line only.
"""

import os
import platform
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.store import append_line, read_lines

LOG = "log.jsonl"
CLOSING = ("failed", "stopped", "halved", "taken over")  # after these a run may be trained again


def log_event(folder: Path, event: str, stack: str, **details: Any) -> None:
    """Add a line. Raises: StoreError when it cannot be written."""
    who = {"host": platform.node(), "pid": os.getpid()}
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    append_line(folder / LOG, {"event": event, "stack": stack, "time": now, **who, **details})


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All whole lines, in the order in which they were written."""
    return list(read_lines(folder / LOG))


def count_trainings(entries: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """run_id -> how often a training of it was begun from its first step."""
    counts: dict[str, int] = {}
    for entry in entries:
        for run in entry["run_ids"] if entry["event"] == "start" else ():
            counts[run] = counts.get(run, 0) + (entry["step"] == 0)
    return counts


def trained_twice(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The run_ids of which a training began although another was going on, or had ended already.

    One that ended may be trained anew only for a `since` later than its end, which is what refresh=true asks for.
    """
    going: dict[str, str] = {}  # run_id -> stack
    ended: dict[str, str] = {}  # run_id -> time
    twice = []
    for entry in entries:
        if entry["event"] == "start":
            for run in entry["run_ids"]:
                if run in going or (run in ended and (entry["since"] or "") <= ended[run]):
                    twice.append(run)
                going[run] = entry["stack"]
        elif entry["event"] in (*CLOSING, "end"):
            closed = [run for run, stack in going.items() if stack == entry["stack"]]
            for run in closed:
                del going[run]
            if entry["event"] == "end":
                ended |= dict.fromkeys(closed, entry["time"])
    return twice
