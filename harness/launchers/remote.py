"""The loop that clusters share: submit stacks as jobs, and read what becomes of them from the sweep's folder.

Nothing comes back through a cluster's own channels: records, checkpoints and leases lie in runs_dir, which all hosts
share. A cluster is asked only whether a job still waits or runs.
"""

import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launchers.placed import (
    MORE_TO_DO,
    Cluster,
    NoCluster,
    Note,
    Placed,
    all_notes,
    is_told,
    keep_notes,
    mark_told,
    name_of_request,
    read_notes,
)
from harness.launchers.queue import LOOK_AGAIN, Queue, describe_exit
from harness.launchers.watch import Watch, newest_step, read_outcome
from harness.leases import find_live
from harness.plan import Plan, Stack
from harness.records import read_ended

LOOK = 1.0  # seconds between two looks into the folder
# Seconds that records may take to be seen here once a job has ended: a network file system shows new files late
PATIENCE, SHORT_PATIENCE = 60.0, 5.0
STOPPED = tuple(-number for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT))
MOST = 3  # times that a stack is submitted again without having got further
NO_WORD = "their job ended before a worker began, as where a line of launcher.setup fails"
GONE = (0, 0.0)  # what Going.over is once all is told of a job

Messages = Iterator[tuple[int, dict[str, Any]]]


@dataclass
class Going:
    """A stack that was submitted and of whose end nothing is known yet."""

    stack: Stack
    placed: Placed
    note: Note
    over: tuple[int, float] | None = None  # its job's exit code, and when it was seen
    standing: str = ""  # how its job stood when that was told last


def launch_remote(
    plan_path: Path, plan: Plan, waiting: list[int], cluster: Cluster, *, wait: bool, lease: float
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` (indices, longest first) on a cluster; yields the messages of launch_local.

    What an earlier command submitted is not submitted again but waited for. A job that was ended before its stack was
    trained is submitted again, up to three times without getting further. When the caller stops, jobs go on.

    Args:
        wait: False: submit what is to submit, tell of what has ended, and leave: for every stack that waits or runs
            there is a message {"queued": how it stands}. Else messages {"standing": how it stands} come now and then.

    A stack that another command has cancelled is not submitted again: its message is {"cancelled": its job}.

    Raises: StoreError when the notes of what was submitted cannot be written.
    """
    queue = Queue(plan_path, plan, waiting, lease)
    watch = Watch(plan_path.parent)
    going = recall_noted(queue, cluster)
    while True:
        watch.look()
        yield from submit_waiting(queue, cluster, going, watch)
        for index, one in list(going.items()):
            for message in look_after(index, one, queue, watch):
                if one.over == GONE:
                    going.pop(index, None)
                yield index, message
        settling = any(one.over for one in going.values())
        if not (queue.waiting or queue.held or going):
            return
        if not (wait or queue.waiting or settling):
            yield from ((index, {"queued": one.placed.describe()}) for index, one in going.items())
            yield from (
                (index, {"queued": "HELD by a worker of another command, or by one that ended a moment ago"})
                for index in queue.held
            )
            return
        queue.look_again()
        yield from tell_standing(going)
        if not queue.waiting:
            time.sleep(LOOK)


def tell_standing(going: dict[int, Going]) -> Messages:
    """How jobs stand, where that has changed; of the first in any case, as a sign of life."""
    for count, (index, one) in enumerate(going.items()):
        now = one.placed.describe()
        if now != one.standing or count == 0:
            one.standing = now
            yield index, {"standing": now}


def recall_noted(queue: Queue, cluster: Cluster) -> dict[int, Going]:
    """What earlier commands submitted under this plan and nobody has told the end of; it leaves the queue."""
    folder, request = queue.path.parent, name_of_request(queue.path.name)
    notes = {
        note.name: note
        for note in read_notes(folder)
        if note.key == (cluster.name, request, note.name) and not is_told(folder, note)
    }
    going: dict[int, Going] = {}
    for index in list(queue.waiting):
        stack = queue.plan.stacks[index]
        note = notes.get(stack.name)
        if note is None:
            continue
        if note.died:
            queue.died.add(index)
        placed = cluster.recall(folder, note)
        if placed is not None:
            going[index] = Going(stack, placed, note)
            queue.waiting.remove(index)
    return going


def submit_waiting(queue: Queue, cluster: Cluster, going: dict[int, Going], watch: Watch) -> Messages:
    """Submit all that waits, in one go.

    Raises: StoreError, NoCluster, and ValueError where a cluster refuses what none of its jobs is of.
    """
    indices = []
    while queue.waiting:
        index, message = queue.take()
        if message is None:
            indices.append(index)
            continue
        if "held" in message:
            queue.held[index] = time.monotonic() + LOOK_AGAIN
        yield index, message
    if not indices:
        return
    stacks = [queue.plan.stacks[index] for index in indices]
    try:
        placed = cluster.submit(queue.path, indices)
    except ValueError as error:
        if not going:
            raise
        raise NoCluster(f"{error}; other jobs go on, and the same command collects them") from error
    notes = [
        Note(
            cluster.name, queue.path.name, index, stack.name, watch.next_attempt(stack.name), watch.step(stack.name),
            index in queue.died, one.id, None if one.log is None else str(one.log),
        )
        for index, stack, one in zip(indices, stacks, placed, strict=True)
    ]  # fmt: skip
    try:
        keep_notes(queue.path.parent, notes)
    except BaseException:  # nobody would find them
        cluster.cancel([one.id for one in placed])
        raise
    going |= {i: Going(*one) for i, one in zip(indices, zip(stacks, placed, notes, strict=True), strict=True)}


def look_after(index: int, one: Going, queue: Queue, watch: Watch) -> Iterator[dict[str, Any]]:
    """What is to tell of a stack now."""
    if paths := watch.published(one.note.name, one.note.attempt):
        one.over = GONE
        rows = read_outcome(paths)
        if all(status == "failed" for _, status, _ in rows):
            mark_told(queue.path.parent, one.note)
        else:
            yield from watch.finish(one.stack, paths)
        yield {"ended": rows}
        return
    yield from watch.progress(one.stack)
    now = time.monotonic()
    if one.over is None:
        code = one.placed.ended()
        one.over = None if code is None else (code, now)  # what it has published is seen from the next look on
    elif one.placed.ended() is None:
        one.over = None  # SLURM has queued it again
    elif now - one.over[1] >= (PATIENCE if one.over[0] == 0 else SHORT_PATIENCE):
        code, one.over = one.over[0], GONE
        yield settle(index, one, queue, code)


def settle(index: int, one: Going, queue: Queue, code: int) -> dict[str, Any]:
    """The message for a job that ended without records of its stack, which is queued again where that may help."""
    queue.refresh()
    folder, stack = queue.path.parent, one.stack
    if queue.plan.stacks[index].name != stack.name:
        queue.waiting.append(index)
        return {"halved": "out of memory"}
    if not stack.without(read_ended(folder, queue.plan.since)).runs:
        return {"elsewhere": len(stack.runs)}
    if is_told(folder, one.note):  # nobody else tells of a job that this command waits for
        return {"cancelled": one.placed.id}
    job = f"job {one.placed.id}, {one.placed.describe()}" + (f", log {one.placed.log}" if one.placed.log else "")
    if code in (0, MORE_TO_DO, *STOPPED):
        if (live := find_live(folder, stack.runs, queue.lease)) and code in (0, MORE_TO_DO):
            queue.held[index] = time.monotonic() + LOOK_AGAIN
            return {"held": live.holder}
        step = newest_step(folder, stack)
        if count_fruitless(folder, one.note, step) <= MOST:
            queue.waiting.append(index)
            return {"stopped": step}
        code, reason = 1, f"it was submitted {MOST} times again without getting further ({job})"
    else:
        words = last_words(one.placed.log)
        # only a SLURM job's log holds more than the worker's words; one that was cancelled or killed need not say any
        began = words or one.note.launcher != "slurm" or code <= 0 or "CANCELLED" in job
        text = describe_exit(code) if began else NO_WORD
        reason = f"{text} ({job}{words})"
    message = queue.mourn(index, code, reason)
    if "ended" in message:
        mark_told(folder, one.note)
    return message


def count_fruitless(folder: Path, last: Note, step: int) -> int:
    """How often a stack was submitted, by whatever command, since it got to this step or its failure was told."""
    count = 0
    for note in all_notes(folder):
        if note.key == last.key:
            count = 0 if is_told(folder, note) or note.step < step else count + 1
    return count


def last_words(log: Path | None) -> str:
    """The last line of a job's log that says something."""
    try:
        text = log.read_text(errors="replace") if log else ""
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f", which ends: {lines[-1][:200]}" if lines else ""
