"""The loop that clusters share: submit stacks as jobs, and read what becomes of them from the sweep's folder.

Nothing comes back through a cluster's own channels: records, checkpoints and leases lie in runs_dir, which all hosts
share. A cluster is asked only whether a job still waits or runs.
"""

import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launchers.placed import Cluster, Note, Placed, is_told, keep_notes, mark_told, read_notes
from harness.launchers.queue import LOOK_AGAIN, Queue, describe_exit
from harness.launchers.watch import Watch, newest_step
from harness.leases import find_live
from harness.plan import Plan, Stack
from harness.records import read_ended

LOOK = 1.0  # seconds between two looks into the folder
# Seconds that records may take to be seen here once a job has ended: a network file system shows new files late
PATIENCE, SHORT_PATIENCE = 60.0, 5.0
STOPPED = tuple(-number for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT))
AGAIN = 3  # times that a stack is submitted again without having got further
MORE_TO_DO = 3  # a worker's exit code

Messages = Iterator[tuple[int, dict[str, Any]]]


@dataclass
class Going:
    """A stack that was submitted and of whose end nothing is known yet."""

    stack: Stack
    placed: Placed
    note: Note
    over: tuple[int, float] | None = None  # its job's exit code, and when it was seen


def launch_remote(
    plan_path: Path, plan: Plan, waiting: list[int], cluster: Cluster, *, wait: bool, lease: float
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` (indices, longest first) on a cluster; yields the messages of launch_local.

    What an earlier command submitted, and what still waits or runs, is not submitted again but waited for. A job that
    was ended before its stack was trained is submitted again, up to three times without getting further. When the caller
    stops, jobs go on.

    Args:
        wait: False: submit what is to submit, tell of what has ended, and leave: for every stack that waits or runs
            there is a message {"queued": how it stands}.

    Raises: StoreError when the notes of what was submitted cannot be written.
    """
    queue = Queue(plan_path, plan, waiting, lease)
    watch, tries = Watch(plan_path.parent, plan), Tries()
    going = recall_noted(queue, cluster)
    while True:
        yield from submit_waiting(queue, cluster, going)
        watch.look()
        for index, one in list(going.items()):
            for message in look_after(index, one, queue, watch, tries):
                if one.over == GONE:
                    going.pop(index, None)
                yield index, message
        settling = any(one.over for one in going.values())
        if not (queue.waiting or queue.held or going):
            return
        if not (wait or queue.waiting or settling):
            yield from ((index, {"queued": one.placed.describe()}) for index, one in going.items())
            yield from ((index, {"queued": "trained by another launcher's worker"}) for index in queue.held)
            return
        queue.look_again()
        if not queue.waiting:
            time.sleep(LOOK)


GONE = (0, 0.0)  # what `over` is once all is told of a job


class Tries:
    """How often stacks were submitted again since they last got further."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.step: dict[str, int] = {}

    def once_more(self, folder: Path, stack: Stack) -> bool:
        """Whether it is worth another job."""
        step = newest_step(folder, stack)
        if step > self.step.get(stack.name, -1):
            self.count[stack.name] = 0
        self.step[stack.name] = step
        self.count[stack.name] += 1
        return self.count[stack.name] <= AGAIN
