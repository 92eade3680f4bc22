"""Stacks placed on a cluster: what a launcher must give for one, and the notes by which others find them.

`runs_dir/NAME/.jobs/LAUNCHER-NUMBER.json` is one submission: its plan and, for every stack, the job's id and log. It is
published once the jobs are submitted, so that harness.status and a later command, on any host, find them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from harness.store import publish, subfolder

JOBS = ".jobs"
MORE_TO_DO = 3  # exit code of a worker that is to be started again


class NoCluster(Exception):
    """A cluster did not answer, or did not take an order; the text says so, what goes on, and the cure."""


class Placed(Protocol):
    """One stack on a cluster, as a subprocess.Popen is one on this machine."""

    @property
    def id(self) -> str:
        """What the cluster calls its job: "1234_5"."""

    @property
    def log(self) -> Path | None:
        """Where its output goes."""

    def ended(self) -> int | None:
        """None while it waits or runs, else the worker's exit code; negative: the signal that ended it.

        0, 1 and 3 are those of harness.worker. A job of which nothing is known any more has ended: with 3 where it may
        be tried again, with 1 where not. It is asked often: ask the cluster for all jobs at once, now and then.
        """

    def describe(self) -> str:
        """How it stands in the cluster's words: "PENDING (Priority)", "RUNNING on node7"."""


def say_state(standing: str) -> str:
    """Of how a job stands what jobs have in common: "running", "pending (Resources)"."""
    word, _, details = standing.partition(" ")
    return f"{word.lower()} {details}" if details.startswith("(") else word.lower()


@dataclass(frozen=True)
class Note:
    """One placed stack as it stands in a note.

    Attributes:
        plan: the plan's file name.
        stack, name: its index in the plan, and its name.
        attempt: number of the record file that came next when it was submitted.
        step: of its newest checkpoint then; -1 where there was none.
        died: a signal ended its worker before: it is not tried a third time.
        log: where its output goes; None: it is not known yet.
    """

    launcher: str
    plan: str
    stack: int
    name: str
    attempt: int
    step: int
    died: bool
    id: str
    log: str | None

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is a submission of: launcher, request and stack."""
        return self.launcher, name_of_request(self.plan), self.name


def name_of_request(plan_name: str) -> str:
    """Of a plan's file name what its revisions have in common."""
    return plan_name.split("-")[1]


@dataclass(frozen=True)
class Cluster:
    """What a launcher gives to launch_remote (harness/launchers/remote.py).

    Attributes:
        name: the launcher's.
        submit: (plan, indices of stacks, longest first) -> as many Placed, in that order. All that are given are
            submitted at once, as job arrays where there are some. Several stacks may share a job.
        recall: what another command submitted and noted; None where the cluster cannot tell of it: it is lost.
        cancel: ends jobs by their ids, whether they wait or run; workers get SIGTERM and some time for a checkpoint.
            Raises NoCluster where it could not be told.
    """

    name: str
    submit: Callable[[Path, Sequence[int]], Sequence[Placed]]
    recall: Callable[[Path, Note], Placed | None]
    cancel: Callable[[Sequence[str]], None]


def keep_notes(folder: Path, notes: Sequence[Note]) -> None:
    """Publish one submission. Raises: StoreError."""
    place = subfolder(folder, JOBS)
    content = json.dumps([asdict(note) for note in notes], indent=0).encode()
    number = len(list(place.glob(f"{notes[0].launcher}-*.json")))
    while not publish(place / f"{notes[0].launcher}-{number}.json", content):
        number += 1


def mark_told(folder: Path, note: Note) -> None:
    """Keep in mind that its failure was told: the next command submits it again. Raises: StoreError."""
    publish(told_path(folder, note), b"")


def unmark_told(folder: Path, note: Note) -> None:
    told_path(folder, note).unlink(missing_ok=True)


def is_told(folder: Path, note: Note) -> bool:
    return told_path(folder, note).exists()


def told_path(folder: Path, note: Note) -> Path:
    return folder / JOBS / f"{note.id}-{note.name}.told"


def note_exit(folder: Path, job: str, name: str, code: int) -> None:
    """Keep a worker's exit code where its job's own does not tell it. Raises: StoreError."""
    publish(exit_path(folder, job, name), str(code).encode())


def remove_exit(folder: Path, job: str, name: str) -> None:
    """A job that is queued again has no exit code yet."""
    exit_path(folder, job, name).unlink(missing_ok=True)


def read_exit(folder: Path, job: str, name: str) -> int | None:
    """The exit code that was kept, or None."""
    try:
        return int(exit_path(folder, job, name).read_text())
    except FileNotFoundError:
        return None


def exit_path(folder: Path, job: str, name: str) -> Path:
    return folder / JOBS / f"{job}-{name}.exit"


def see_devices(device: str, slot: int, gpus: int, visible: str | None, ranks: int = 1) -> tuple[str, dict[str, str]]:
    """What the worker in a slot of a job is to train on, and the environment in which it sees that alone.

    Args:
        device: the plan's: cpu or cuda.
        gpus: of the job.
        visible: CUDA_VISIBLE_DEVICES as the cluster set it for the job; None: it did not.
        ranks: GPUs that the worker's stack is shared by; the first is cuda:0.
    """
    if device == "cpu":
        return "cpu", {"OMP_NUM_THREADS": "1"}
    names = visible.split(",") if visible else [str(i) for i in range(max(1, gpus))]
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": ",".join(names[(slot * ranks + i) % len(names)] for i in range(ranks))}


def read_notes(folder: Path) -> list[Note]:
    """The last submission of every stack by every launcher, request by request."""
    return list({note.key: note for note in all_notes(folder)}.values())


def all_notes(folder: Path) -> Iterator[Note]:
    """All of a sweep's notes, the oldest first. Raises: ValueError for one that is of other code."""
    paths = [path for path in (folder / JOBS).glob("*-*.json") if path.stem.rpartition("-")[2].isdecimal()]
    for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)):
        for content in json.loads(path.read_bytes()):
            try:
                note = Note(**{name: content[name] for name in Note.__dataclass_fields__})
            except (KeyError, TypeError) as error:
                text = f"{path} is no note of jobs that this code can read ({error!r})"
                raise ValueError(f"{text}: move it away once its jobs have ended") from error
            yield note
