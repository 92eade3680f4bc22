"""What of a sweep is done, running, queued, failed: `python -m harness.status sweep=NAME [runs_dir=DIR] [watch=true]`.

Reads records, plans, leases, checkpoints and the log; needs no torch, and changes nothing: a file among the leases that
tells the file system's time is deleted at once, and where none can be written the local clock serves.
"""

import difflib
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from harness.checks import check_choice, closest, read_number
from harness.config import SWEEPS_DIR, say_count
from harness.launchers import known_clusters
from harness.launchers.jobs import find_jobs
from harness.launchers.placed import NoCluster, Note, say_state
from harness.leases import Lease, read_leases
from harness.log import read_log
from harness.plan import Plan, Stack, cost
from harness.plan_file import newest_revision, read_plan
from harness.records import ENDED, read_records
from harness.unfinished import Header, read_headers

USAGE = "python -m harness.status [sweep=NAME] [runs_dir=DIR] [watch=true]"
HELP = f"""What of a sweep is done, diverged, running, waiting and failed; of all in runs_dir where none is named.

  {USAGE}

  sweep=NAME               or sweep.name=NAME: what is in training, what failed and why, how long it will take
  runs_dir=DIR             where the sweeps lie; runs by default
  watch=true               again every few seconds, until all has ended or Ctrl-C
  launcher.lease=SECONDS   of the training command, where that was given one"""
OWN = {"sweep", "sweep.name", "runs_dir", "watch", "launcher.lease"}
PAUSE = 5.0  # seconds between two looks of watch=true
MOST_JOBS, MOST_LOGS = 20, 5  # that are listed one by one
NAME_WIDTH = 12  # of a stack's name, which is not to be cut
LEASE = 60.0  # seconds, where launcher.lease is not given


@dataclass
class Status:
    """One sweep as it stands.

    Attributes:
        counts: runs done, diverged, running, waiting, failed; of those in records and in the newest plan.
        going: stacks in training: their lease and newest checkpoint.
        failures: message -> run_ids.
        codes: code_sha256 -> runs that ended with it.
        begun: waiting runs that go on from a checkpoint.
        again: runs that were to be trained again and were not, since nobody goes on; those that ended before count.
        jobs: stacks whose jobs wait or run on a cluster, and how; or ended, and nobody has collected them.
        left: seconds until all is trained, from what ended so far; None where nothing tells it.
    """

    counts: dict[str, int]
    going: list[tuple[Lease, Header | None]] = field(default_factory=list)
    failures: dict[str, list[str]] = field(default_factory=dict)
    codes: dict[str, int] = field(default_factory=dict)
    begun: int = 0
    again: int = 0
    jobs: list[tuple[Note, str]] = field(default_factory=list)
    left: float | None = None


def read_status(folder: Path, lease: float = LEASE) -> Status:
    """Raises: ValueError when there is nothing of a sweep in the folder, or its records cannot be read."""
    plan = read_newest_plan(folder)
    frame = read_records(folder) if list(folder.glob("*.parquet")) else pd.DataFrame({"run_id": [], "status": []})
    if plan is None and frame.empty:
        raise ValueError(f"nothing of this sweep is in {folder}: train it first, or give runs_dir=DIR")
    live = [found for found in read_leases(folder) if found.is_live(lease)]
    again = 0
    if plan is not None and plan.since is not None and len(frame):  # refresh=true, or one run_id
        planned = {name for stack in plan.stacks for name in stack.runs}
        before = frame["run_id"].isin(planned) & ~(frame["provenance.ended"] >= plan.since)
        if any(not planned.isdisjoint(found.content["run_ids"]) for found in live):
            frame = frame[~before]  # while it is trained again, what ended before does not count
        else:
            again = int((before & frame["status"].isin(ENDED)).sum())
    status_of: dict[str, str] = dict(zip(frame["run_id"], frame["status"], strict=True))
    failures = dict(zip(frame["run_id"], frame.get("message", ()), strict=True)) if len(frame) else {}
    failures = {name: text for name, text in failures.items() if status_of[name] == "failed"}
    stacks = plan.stacks if plan else ()
    for name, text in lost_runs(folder, stacks).items():
        if status_of.get(name) not in ENDED:
            status_of[name], failures[name] = "failed", text
    running = {run for found in live for run in found.content["run_ids"] if status_of.get(run) not in ENDED}
    status_of |= dict.fromkeys(running, "running")
    waiting = {name for stack in stacks for name in stack.runs if name not in status_of}
    words = list(status_of.values()) + ["waiting"] * len(waiting)
    status = Status({word: words.count(word) for word in ("done", "diverged", "running", "waiting", "failed")})
    status.going, status.again = [(found, newest_header(folder, found)) for found in live], again
    status.begun = len(waiting & {run for header in read_headers(folder) for run in header.about["run_ids"]})
    for name, text in failures.items():
        if status_of[name] == "failed":
            status.failures.setdefault(text, []).append(name)
    over = {stack.name for stack in stacks if all(status_of.get(run) in (*ENDED, "failed") for run in stack.runs)}
    found = find_jobs(folder, known_clusters())
    open_ = {stack.name for stack in stacks} - over  # of older plans those that go on
    status.jobs = [(n, placed.describe()) for n, placed in found if n.name in open_ or placed.ended() is None]
    ended = frame[frame["status"].isin(ENDED)]
    if len(ended):
        status.codes = dict(Counter(ended["provenance.code_sha256"]))
        status.left = time_left(ended, stacks, waiting | running, max(1, len(live)))
    return status


def read_newest_plan(folder: Path) -> Plan | None:
    """The newest revision of the plan that was made or revised last."""
    paths = list(folder.glob("plan-*-*.json"))
    if not paths:
        return None
    last = max(paths, key=lambda path: path.stat().st_mtime_ns)
    newest = newest_revision(folder, last.stem.split("-")[1])
    return read_plan(newest or last)


def lost_runs(folder: Path, stacks: Iterable[Stack]) -> dict[str, str]:
    """Runs of stacks whose worker was lost, which leaves no record, and that were not begun again."""
    messages: dict[str, str] = {}
    for entry in read_log(folder):
        if entry["event"] == "failed":
            messages[entry["stack"]] = entry["message"]
        elif entry["event"] == "start":
            messages.pop(entry["stack"], None)
    return {name: messages[stack.name] for stack in stacks if stack.name in messages for name in stack.runs}


def newest_header(folder: Path, lease: Lease) -> Header | None:
    runs = set(lease.content["run_ids"])
    fitting = [header for header in read_headers(folder) if not runs.isdisjoint(header.about["run_ids"])]
    return max(fitting, key=lambda header: header.step, default=None)


def time_left(ended: pd.DataFrame, stacks: Iterable[Stack], missing: set[str], workers: int) -> float:
    """Missing runs at the speed of those that ended, by the planner's measure of a run's cost."""
    spent = (ended["num_steps"] * (ended["batch_size"] + 32)).sum()
    speed = ended["provenance.seconds"].sum() / spent
    return float(sum(cost(stack.only(missing & set(stack.runs))) for stack in stacks if missing & set(stack.runs))) * (
        speed / workers
    )


def print_all(runs_dir: Path, lease: float) -> bool:
    """One row a sweep, for every sweep that has records or a plan; True while something of one runs or waits.

    Raises: ValueError where there is none.
    """
    folders = sorted(
        {path.parent for pattern in ("*.parquet", "plan-*.json") for path in runs_dir.glob(f"*/{pattern}")}
    )
    if not folders:
        raise ValueError(f"no sweep is in {runs_dir}: train one, or give the sweep and its place, {USAGE}")
    table = Table("sweep", "done", "diverged", "running", "waiting", "failed")
    going = False
    for folder in folders:
        try:
            counts = read_status(folder, lease).counts
            table.add_row(folder.name, *map(str, counts.values()))
            going = going or bool(counts["running"] + counts["waiting"])
        except ValueError as error:  # a damaged one; the others are told
            print(f"{folder.name}: {' '.join(str(error).split())}", file=sys.stderr)
    Console().print(table)
    return going


def print_status(name: str, status: Status) -> None:
    console = Console()
    table = Table("sweep", *status.counts)
    table.add_row(name, *map(str, status.counts.values()))
    console.print(table)
    if status.going:
        going = Table(
            Column("in training", min_width=NAME_WIDTH),
            "runs",
            "step",
            "best loss so far",
            "last sign of life",
            "where",
        )
        for lease, header in status.going:
            row: dict[str, Any] = header.about if header else {}
            points = row.get("history", {}).get("loss", [])
            losses = [loss for loss in (points[-1] if points else []) if loss == loss]
            steps = f"{row['step']} of {row['rows'][0]['num_steps']}" if row else "before its first checkpoint"
            going.add_row(
                lease.path.name, str(len(lease.content["run_ids"])), steps, f"{min(losses):.4f}" if losses else "",
                f"{lease.age:.0f} s ago", lease.holder,
            )  # fmt: skip
        console.print(going)
    if status.jobs:
        jobs = Table("job", "stack", "how it stands")
        for note, state in status.jobs[:MOST_JOBS]:
            jobs.add_row(f"{note.launcher} {note.id}", note.name, state)
        console.print(jobs)
        logs = {note.id: note.log for note, _ in status.jobs if note.log}
        for job in list(logs)[:MOST_LOGS]:  # whole, to be copied: a table would cut them
            print(f"log of {job}: {logs[job]}")
        words = Counter(say_state(state) for _, state in status.jobs)
        print("jobs: " + ", ".join(f"{count} {word}" for word, count in words.items()))
    for text, runs in status.failures.items():
        print(f"{len(runs)} failed, e.g. {runs[0]}: {text}")
    if len(status.codes) > 1:
        counts = ", ".join(f"{count} with {code[:12]}" for code, count in status.codes.items())
        print(f"results of different code: {counts} (provenance.code_sha256); refresh=true trains all anew")
    if status.again:
        print(f"{status.again} of them were to be trained again and were not: the same command goes on")
    if status.begun:
        print(f"{say_count(status.begun, 'waiting run goes', 'waiting runs go')} on from a checkpoint")
    if status.left and status.counts["running"] + status.counts["waiting"]:
        print(f"about {timedelta(seconds=round(status.left))} left")


def watch_once(name: str, folder: Path, lease: float) -> bool:
    """Print how a sweep stands; True while something of it runs or waits."""
    status = read_status(folder, lease)
    print_status(name, status)
    return bool(status.counts["running"] + status.counts["waiting"])


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 after one line on a mistake. Takes the overrides of the training command, and needs three of them."""
    given = sys.argv[1:] if arguments is None else arguments
    if {"-h", "--help"} & set(given):
        print(HELP)
        return 0
    values = dict(text.partition("=")[::2] for text in given)
    name = values.get("sweep.name") or values.get("sweep")
    try:
        if not all("=" in text for text in given):
            raise ValueError(f"give the sweep, or nothing for all: {USAGE}")
        lease = read_number("launcher.lease", values.get("launcher.lease", str(LEASE)))
        runs_dir = Path(values.get("runs_dir", "runs"))
        watch = values.get("watch", "false")
        check_choice("watch", watch, ("false", "true"))
        for key in set(values) - OWN:
            if near := difflib.get_close_matches(key, OWN, n=1, cutoff=0.8):
                raise ValueError(f"{key} is no option here (did you mean {near[0]}?): {USAGE}")
        if not name:
            while print_all(runs_dir, lease) and watch == "true":
                time.sleep(PAUSE)
                Console().clear()
            return 0
        folder = runs_dir / name
        if not folder.is_dir():
            known = {path.stem for path in SWEEPS_DIR.glob("*.yaml")}
            known |= {path.name for path in folder.parent.glob("[!.]*") if path.is_dir()}
            text = f"no records of {name!r} in {folder.parent}"
            if name in known:
                raise ValueError(f"{text}: train it with python -m harness sweep={name}, or give runs_dir=DIR")
            raise ValueError(f"{text}{closest(name, known)}: give runs_dir=DIR where they lie elsewhere")
        while watch_once(name, folder, lease) and watch == "true":
            time.sleep(PAUSE)
            Console().clear()
    except KeyboardInterrupt:
        return 0
    except NoCluster as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
