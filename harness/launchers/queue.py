"""The stacks of a plan that are still to train, for every launcher: their order, and what becomes of lost ones."""

import time
from pathlib import Path
from typing import Any

from harness.leases import find_live
from harness.log import log_event
from harness.plan import Plan
from harness.plan_file import newest_revision, read_plan, revise
from harness.records import read_ended

LOOK_AGAIN = 1.0  # seconds until a stack that another trains is looked at again
UNKNOWN = 255  # multiprocessing's exit code of a process whose fork server is gone, be it alive or not


class Queue:
    """The stacks of a plan that are still to train here, as the plan's newest revision has them.

    Indices stay through revisions: a halved stack keeps its index for the first half, and the second is added.
    """

    def __init__(self, path: Path, plan: Plan, waiting: list[int], lease: float) -> None:
        self.path, self.plan, self.lease = path, plan, lease
        self.waiting = list(waiting)
        self.held: dict[int, float] = {}  # stack that another trains -> when to look again
        self.died: set[int] = set()  # stacks whose worker a signal ended, and the halves of those
        self.known = len(plan.stacks)

    def refresh(self) -> None:
        """Take in revisions that workers or other launchers have made."""
        newest = newest_revision(self.path.parent, self.path.stem.split("-")[1])
        if newest is not None and newest != self.path:
            self.path, self.plan = newest, read_plan(newest)
        self.waiting += range(self.known, len(self.plan.stacks))
        self.known = len(self.plan.stacks)

    def take(self) -> tuple[int, dict[str, Any] | None]:
        """The next stack: to train (None), or with the message that another trains it or has trained it."""
        self.refresh()
        index = self.waiting.pop(0)
        stack, folder = self.plan.stacks[index], self.path.parent
        if live := find_live(folder, stack.runs, self.lease):
            return index, {"held": live.holder}
        if not stack.without(read_ended(folder, self.plan.since, stack.name)).runs:
            return index, {"elsewhere": len(stack.runs)}
        return index, None

    def look_again(self) -> None:
        """Put stacks back into the queue that another held a while ago."""
        now = time.monotonic()
        due = [index for index, when in self.held.items() if when <= now]
        for index in due:
            del self.held[index]
        self.waiting += due

    def mourn(self, index: int, code: int | None, reason: str = "") -> dict[str, Any]:
        """The message for a worker that ended without a word.

        A signal may mean want of memory: the first time its stack is halved (a single run is tried again) and queued.
        Without the server that forked it, its end is not known: it may be saving a checkpoint.

        Args:
            reason: what is told; by default what the code says.
        """
        folder, stack, reason = self.path.parent, self.plan.stacks[index], reason or describe_exit(code)
        if code == UNKNOWN and (live := find_live(folder, stack.runs, self.lease)):
            self.held[index] = time.monotonic() + LOOK_AGAIN
            return {"held": live.holder}
        ended = read_ended(folder, self.plan.since)
        by_signal = code is not None and (code < 0 or code == UNKNOWN)
        if not by_signal or index in self.died:
            log_event(folder, "failed", stack.name, message=reason)
            return {"ended": [(name, "failed", reason) for name in stack.without(ended).runs]}
        log_event(folder, "halved", stack.name, message=reason)
        before = len(self.plan.stacks)
        self.path, self.plan = revise(self.path, self.plan, index, ended)
        self.died |= {index, *range(before, len(self.plan.stacks))}
        self.waiting.append(index)
        return {"halved": reason}


def describe_exit(code: int | None) -> str:
    if code == UNKNOWN:
        return "their worker's fork server was ended"
    if code is not None and code < 0:
        return f"their worker was ended by signal {-code}" + (", often for want of memory" if code == -9 else "")
    return f"their worker ended with code {code}"
