"""The process that mirrors: `python -m harness.mirror FOLDER [MODE [PROJECT [ENTITY]]]`.

Sends every record of a sweep's folder that W&B has not, and, while its standard input is open, whatever is published
meanwhile. Training never waits for it. Online, a run counts as sent when the server lists it with all its points, and
runs in training are shown up to their newest checkpoint. Offline, each becomes a directory of the client's. Both stand
in the folder's log; called later with an account it sends what is only offline, and the sweep's summary run.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from harness.config import TRACKER_MODES, say_count
from harness.delivery import deliver, deliver_folders, mark_sent
from harness.records import ENDED, append_mirrored, read_mirrored_entries, read_summaries
from harness.tracking import choose_mode, points_of, wandb_id, write_fragment
from harness.unfinished import read_running
from harness.wandb_client import NoAnswer, Refused, own_folder

POLL = 0.5  # seconds
SEND_EVERY = 15.0  # seconds between deliveries: each starts a process of the client
LIVE_EVERY = 60.0  # seconds between looks at runs in training
MOST_LIVE = 500  # runs in training that are shown
LONGEST_WAIT = 300.0  # seconds until the next try where nothing goes through
LAST_TRIES = 2  # without progress, when training has ended

Key = tuple[str, str]  # run_id and the time it ended


@dataclass
class Mirror:
    """What of a sweep's folder was sent and what is to be.

    Attributes:
        noted: attempts that are where this mode wants them.
        points: points of a run that its W&B fragments hold so far, by run_id.
        kept: offline directories with all points of an attempt.
        best: of a run the attempt that counts, as harness/records.py reads it.
        waiting: rows to be sent, by W&B's name.
        why: of the last failure, one line; refused: whether it is the key's.
    """

    folder: Path
    mode: str
    project: str
    entity: str | None
    noted: set[Key] = field(default_factory=set)
    points: dict[str, int] = field(default_factory=dict)
    kept: dict[Key, Path] = field(default_factory=dict)
    best: dict[str, tuple[bool, str]] = field(default_factory=dict)
    waiting: dict[str, dict[str, Any]] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    count: int = 0
    why: str = ""
    refused: bool = False

    def __post_init__(self) -> None:
        for entry in read_mirrored_entries(self.folder):
            if self.mode != "online" or entry["mode"] != "offline":
                self.noted.add((entry["run_id"], entry["ended"]))
            self.points[entry["run_id"]] = max(entry.get("points", 0), self.points.get(entry["run_id"], 0))
            if entry.get("directory"):
                self.kept[entry["run_id"], entry["ended"]] = Path(entry["directory"])

    def look(self) -> None:
        """Take in what was published since the last look; what a better attempt has replaced is not sent."""
        for row in new_rows(self.folder, self.seen):
            rank = row["status"] in ENDED, row["provenance.ended"]
            if rank < self.best.get(row["run_id"], rank):
                continue
            self.best[row["run_id"]] = rank
            self.waiting.pop(wandb_id(row), None)
            if (row["run_id"], row["provenance.ended"]) not in self.noted:
                self.waiting[wandb_id(row)] = row

    def note(self, row: dict[str, Any], **more: Any) -> None:
        key = (row["run_id"], row["provenance.ended"])
        self.points[row["run_id"]] = max(len(points_of(row)), self.points.get(row["run_id"], 0))
        append_mirrored(self.folder, *key, self.mode, points=self.points[row["run_id"]], **more)
        self.noted.add(key)
        self.waiting.pop(wandb_id(row))
        self.count += 1

    def write(self) -> None:
        """Offline: a directory an attempt."""
        for row in list(self.waiting.values()):
            start = self.points.get(row["run_id"], 0)
            path = write_fragment(row, project=self.project, entity=self.entity, start=start)
            self.note(row, **({"directory": str(path.resolve())} if not start else {}))

    def send(self) -> bool:
        """Online: whether everything arrived; else `why` says what is in the way."""
        self.why = ""
        try:
            names = deliver(list(self.waiting.values()), project=self.project, entity=self.entity, kept=self.kept)
        except NoAnswer as reason:
            self.why, self.refused = str(reason), isinstance(reason, Refused)
            return False
        for name in sorted(names):
            self.note(self.waiting[name])
            mark_sent(own_folder(), name)
        if self.waiting:
            self.why = "W&B does not list what it was sent"
        return not self.waiting

    def show_running(self) -> None:
        """Online: the points that runs in training have beyond those that the server has."""
        rows = [row for row in read_running(self.folder) if row["run_id"] not in self.best]
        rows = [row for row in rows if len(points_of(row)) > self.points.get(row["run_id"], 0)][:MOST_LIVE]
        try:
            names = deliver(rows, project=self.project, entity=self.entity, kept={})
        except NoAnswer as reason:
            self.why = str(reason)
            return
        for row in rows:
            if wandb_id(row) in names:
                self.points[row["run_id"]] = len(points_of(row))

    def send_summary(self) -> bool:
        """Online: the sweep's summary run, where one lies offline."""
        sha256 = {entry["id"]: entry["sha256"] for entry in read_summaries(self.folder)}
        folders = [path for path in own_folder().glob("offline-run-*-summary") if path.is_dir()]
        try:
            kept = bool(sha256 and folders)
            left = deliver_folders(folders, sha256, project=self.project, entity=self.entity) if kept else []
        except NoAnswer as reason:
            self.why = str(reason)
            return False
        self.why = "W&B does not list what it was sent" if left else ""
        return not left


def mirror(folder: Path, *, mode: str, project: str, entity: str | None, closed: threading.Event) -> bool:
    """Send what is missing until `closed` is set; returns whether nothing is left."""
    try:
        mode = choose_mode(mode)
    except NoAnswer as reason:
        print(f"{reason}; the records are kept in {folder}", file=sys.stderr, flush=True)
        return False
    if mode == "disabled":
        print("W&B is disabled (WANDB_MODE=disabled): nothing is sent")
        return True
    here = Mirror(folder, mode, project, entity)
    if mode != "online":
        write_offline(here, closed)
        return True
    while_training(here, closed)
    done = finish(here)
    print(describe_sent(here), flush=True)
    return done


def write_offline(here: Mirror, closed: threading.Event) -> None:
    while True:
        last_look = closed.is_set()
        here.look()
        here.write()
        if last_look:
            break
        closed.wait(POLL)
    print(describe_sent(here), flush=True)


def while_training(here: Mirror, closed: threading.Event) -> None:
    """Send now and then; where nothing goes through the next try waits longer, and it is told once."""
    wait, told = SEND_EVERY, False
    next_send, next_live = time.monotonic(), time.monotonic() + LIVE_EVERY
    while not closed.is_set():
        now = time.monotonic()
        if now >= next_send:
            here.look()
            if here.waiting and not here.send():
                wait = min(2 * wait, LONGEST_WAIT)
                if not told:
                    print(f"{here.why}; training goes on", file=sys.stderr, flush=True)
                    told = True
            else:
                wait = SEND_EVERY
            next_send = time.monotonic() + wait
        if now >= next_live and wait == SEND_EVERY:
            here.show_running()
            next_live = time.monotonic() + LIVE_EVERY
        closed.wait(POLL)


def finish(here: Mirror) -> bool:
    """Training has ended: try again while something goes through; whether all arrived."""
    tries = 0
    while tries < LAST_TRIES and not here.refused:
        here.look()
        left = len(here.waiting)
        if not left or here.send():
            return here.send_summary()
        tries = 0 if len(here.waiting) < left else tries + 1
    here.look()
    return False


def describe_sent(here: Mirror) -> str:
    """A line on where runs went, and how they get further."""
    runs = say_count(here.count, "run")
    if here.mode != "online":
        command = f"python -m harness.mirror {here.folder}"
        return f"W&B: {runs} kept offline in {own_folder()}; with an account `{command}` sends them"
    if not here.waiting and not here.why:
        return f"W&B: {runs} sent to {here.project}; tracker=none leaves W&B out"
    command = f"python -m harness.mirror {here.folder} online {here.project} {here.entity or ''}".strip()
    left = say_count(len(here.waiting), "run is", "runs are") if here.waiting else "its summary is"
    return f"W&B: {runs} sent, {left} not there yet ({here.why}); nothing is lost, `{command}` sends the rest"


def new_rows(folder: Path, seen: set[Path]) -> Iterator[dict[str, Any]]:
    """Rows of files that were not there before."""
    for path in sorted(set(folder.glob("*.parquet")) - seen):
        seen.add(path)
        yield from pq.read_table(path, partitioning=None).to_pylist()


def main() -> int:
    """Exit code: 0, 1 where something is not at W&B yet, 2 on a mistake of the user's."""
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
    # its logs would go to the home folder
    os.environ.setdefault("WANDB_CACHE_DIR", str(own_folder().resolve() / "cache"))
    if hasattr(os, "nice"):
        os.nice(10)  # at 19 it gets nothing at all beside what others run
    closed = threading.Event()

    def wait_for_end() -> None:
        if not sys.stdin.isatty():  # typed by hand it sends what there is and ends
            sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    return 0 if mirror(Path(folder), mode=mode, project=project, entity=entity or None, closed=closed) else 1


if __name__ == "__main__":
    sys.exit(main())
