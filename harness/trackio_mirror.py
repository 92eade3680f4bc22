"""Keeps a trackio project beside the records: `python -m harness.trackio_mirror FOLDER [MODE [PROJECT]]`.

A process of its own, like harness/mirror.py: while the command that started it trains it takes in what is published.
trackio keeps a project in one SQLite file and shows it in a browser, with no account. What it has is asked of it: no
log is kept.
"""

import contextlib
import importlib.util
import os
import sqlite3
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.config import say_count
from harness.following import NOT_YET, begin_following, check_folder, sole_sender
from harness.leases import Held
from harness.nested import nest
from harness.records import ENDED
from harness.rows import identify_run, name_run, new_rows, points_of, rank_attempt, split_row
from harness.store import StoreError

USAGE = """usage: python -m harness.trackio_mirror FOLDER [MODE [PROJECT]], e.g. runs/smoke
adds the runs of a sweep's folder that a project of trackio lacks; MODE means nothing here"""
POLL = 0.5  # seconds
FINAL = ("loss", "train_loss", "steps_to_target", "samples_to_target")  # of the outcome, charts of their own
INSTALL = "tracker=trackio needs trackio: pip install -c constraints.txt -e '.[trackio]'"


def open_storage() -> Any:
    """trackio's own store, which its importers write to as well: a whole run at once, under an id of ours.

    `trackio.init` gives ids of its own, and a run that was cut off could not be told from a whole one.
    Raises: ValueError where trackio is not installed.
    """
    check_installed()
    os.environ.setdefault("TRACKIO_DIR", str(Path("trackio").resolve()))  # read when it is imported
    from trackio.sqlite_storage import SQLiteStorage  # here: it takes seconds, and is an extra

    return SQLiteStorage


def check_installed() -> None:
    """Raises: ValueError where trackio is not installed; a folder of that name is none."""
    found = importlib.util.find_spec("trackio")
    if found is None or found.origin is None:
        raise ValueError(INSTALL)


def send_run(store: Any, row: Mapping[str, Any], *, project: str) -> None:
    """One record -> one run of trackio: nested config, the learning curve against steps, and the outcome at its end.

    Its id is sweep plus run_id. Rows appear together or not at all. An older attempt at the same run is replaced.
    A value that is not finite stays so; one that could not be told is left out.
    """
    name, run = f"{row['sweep']} {name_run(row)}", identify_run(row)
    points = [{key: value for key, value in point.items() if value is not None} for point in points_of(row)] or [{}]
    steps = [int(point.pop("step", 0)) for point in points]
    config = {key: value for key, value in split_row(row)[0].items() if value is not None}
    points[-1] |= {f"final/{key}": row[key] for key in FINAL if row.get(key) is not None}
    store.delete_run(project, name, run_id=run)
    store.bulk_log(
        project, name, points, steps=steps, run_id=run, log_ids=[f"{run}-{i}" for i in range(len(steps))],
        config=nest(config) | {
            "status": row["status"], "num_params": row["num_params"], "ended": row["provenance.ended"],
            "_Group": str(row["sweep"]),
        },
    )  # fmt: skip


def read_sent(store: Any, project: str) -> dict[str, tuple[bool, str]]:
    """The runs that trackio has: id -> whether it ended, and when."""
    configs = store.get_all_run_configs(project)
    return {
        name: (config["status"] in ENDED, config["ended"])
        for name, config in configs.items()
        if {"status", "ended"} <= set(config)
    }


def mirror(folder: Path, *, project: str, closed: threading.Event) -> int:
    """Send what is missing until `closed` is set and nothing is left; returns how many runs are there."""
    store = open_storage()
    sent = read_sent(store, project)
    seen: set[Path] = set()
    there: set[str] = set()  # runs of this folder, whoever sent them
    while True:
        last_look = closed.is_set()
        for row in new_rows(folder, seen):
            rank = rank_attempt(row)
            there.add(identify_run(row))
            if rank <= sent.get(identify_run(row), (False, "")):
                continue  # it has this attempt, or one that counts for more
            with contextlib.redirect_stdout(sys.stderr):  # trackio tells how to open it, run by run
                send_run(store, row, project=project)
            sent[identify_run(row)] = rank
        if last_look:
            print(describe_sent(len(there), project), flush=True)
            return len(there)
        closed.wait(POLL)


def describe_sent(count: int, project: str) -> str:
    """A line on where runs went, and how they are looked at."""
    place = os.environ["TRACKIO_DIR"]
    runs = say_count(count, "run")
    return f"trackio: {runs} kept in {place}; `TRACKIO_DIR={place} trackio show --project {project}` opens them"


def main() -> int:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        return 0
    try:
        if not 2 <= len(sys.argv) <= 5:
            raise ValueError(USAGE)
        folder = check_folder(sys.argv[1])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # in the place of W&B's mirror, whose mode and entity mean nothing here
    project = (sys.argv[3] if len(sys.argv) > 3 else "") or "scaling-harness"
    closed = begin_following().closed
    if hasattr(os, "nice"):
        os.nice(10)  # training is not to wait for it
    try:
        with sole_sender(folder, "trackio", closed) as other:
            if isinstance(other, Held):
                print(f"{other.holder} sends these runs to trackio just now, all of them", file=sys.stderr)
                return NOT_YET
            mirror(folder, project=project, closed=closed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"trackio: {error}", file=sys.stderr)
        return 1
    except (OSError, sqlite3.Error) as error:  # a full disk, a database that another holds: the records are kept
        print(f"trackio: {error} (in {os.environ['TRACKIO_DIR']})", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
