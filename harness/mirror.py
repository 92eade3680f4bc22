"""The process that mirrors: `python -m harness.mirror FOLDER [MODE [PROJECT [ENTITY]]]`.

Sends every record of a sweep's folder that was not sent yet, and, while its standard input is open, whatever is
published meanwhile. Training never waits for it; what it has sent stands in the folder's log.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.config import TRACKER_MODES, say_count
from harness.records import append_mirrored, read_mirrored
from harness.tracking import choose_mode, send_run

POLL = 0.5  # seconds


def mirror(folder: Path, *, mode: str, project: str, entity: str | None, closed: threading.Event) -> int:
    """Send what is missing until `closed` is set and nothing is left; returns how many runs were sent."""
    mode = choose_mode(mode)
    if mode == "disabled":
        print("W&B is disabled (WANDB_MODE=disabled): nothing is sent")
        return 0
    sent = read_mirrored(folder)
    seen: set[Path] = set()
    count, address = 0, None
    while True:
        last_look = closed.is_set()
        for row in new_rows(folder, seen):
            key = (row["run_id"], row["provenance.ended"])
            if key not in sent:
                address = send_run(row, mode=mode, project=project, entity=entity)
                append_mirrored(folder, *key, mode)
                sent.add(key)
                count += 1
        if last_look:
            print(describe_sent(count, mode, address), flush=True)
            return count
        closed.wait(POLL)


def describe_sent(count: int, mode: str, address: str | None) -> str:
    """A line on where runs went, and how they get further."""
    runs = say_count(count, "run")
    if mode == "online":
        return f"W&B: {runs} sent to {address or 'your project'}; tracker=none leaves W&B out"
    folder = Path(os.environ.get("WANDB_DIR", ".")) / "wandb"
    return f"W&B: {runs} kept offline in {folder}; `wandb sync {folder}/offline-run-*` sends them"


def new_rows(folder: Path, seen: set[Path]) -> Iterator[dict[str, Any]]:
    """Rows of files that were not there before."""
    for path in sorted(set(folder.glob("*.parquet")) - seen):
        seen.add(path)
        yield from pq.read_table(path, partitioning=None).to_pylist()


def main() -> int:
    if not 2 <= len(sys.argv) <= 5:
        print(
            "usage: python -m harness.mirror FOLDER [MODE [PROJECT [ENTITY]]], e.g. runs/smoke offline",
            file=sys.stderr,
        )
        return 2
    folder, mode, project, entity = (sys.argv[1:] + ["auto", "scaling-harness", ""][len(sys.argv) - 2 :])[:4]
    if mode not in TRACKER_MODES or not Path(folder).is_dir():
        modes = ", ".join(TRACKER_MODES)
        print(
            f"cannot mirror {folder!r} in mode {mode!r}: give a folder of records and one of {modes}", file=sys.stderr
        )
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends training; what was trained is still sent
    own_folder = Path(os.environ.get("WANDB_DIR", ".")) / "wandb"
    os.environ.setdefault(
        "WANDB_CACHE_DIR", str(own_folder.resolve() / "cache")
    )  # its logs would go to the home folder
    if hasattr(os, "nice"):
        os.nice(19)
    closed = threading.Event()

    def wait_for_end() -> None:
        if not sys.stdin.isatty():  # typed by hand it sends what there is and ends
            sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    mirror(Path(folder), mode=mode, project=project, entity=entity or None, closed=closed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
