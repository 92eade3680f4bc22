"""Worker processes on this machine: one a GPU, or one single-threaded worker a core."""

import multiprocessing
import multiprocessing.forkserver
import os
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.leases import find_live
from harness.log import log_event
from harness.machine import available_cores
from harness.plan import Plan
from harness.plan_file import newest_revision, read_plan, revise
from harness.records import read_ended
from harness.store import StoreError

# What a driver leaves in /dev: NVIDIA, AMD, and a GPU under Windows' Linux
GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
LOOK_AGAIN = 1.0  # seconds until a stack that another trains is looked at again
HUGE_PAGES = "glibc.malloc.hugetlb"
UNKNOWN = 255  # multiprocessing's exit code of a process whose fork server is gone, be it alive or not
GRACE = 30.0  # seconds that workers have for their checkpoints when the launcher ends


@dataclass
class Running:
    stack: int
    device: str
    process: BaseProcess
    pipe: Connection
    ended: bool = False  # it has said how it ended


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

    def mourn(self, index: int, code: int | None) -> dict[str, Any]:
        """The message for a worker that ended without a word.

        A signal may mean want of memory: the first time its stack is halved (a single run is tried again) and queued.
        Without the server that forked it, its end is not known: it may be saving a checkpoint.
        """
        folder, stack, reason = self.path.parent, self.plan.stacks[index], describe_exit(code)
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


def warm_up() -> None:
    """Start the server that workers are forked from, so that torch is imported once and while the caller goes on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads in each of two busy processes are 10x slower
    # Read by glibc when a process starts: memory in pages of 2 MB, which takes .8 to .95 of the time of small pages
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if HUGE_PAGES not in tunables:  # a user's own setting stays
        os.environ["GLIBC_TUNABLES"] = f"{tunables}:{HUGE_PAGES}=1".lstrip(":")
    multiprocessing.set_forkserver_preload(["harness.launchers.preload"])
    multiprocessing.forkserver.ensure_running()


def launch_local(
    plan_path: Path,
    plan: Plan,
    waiting: list[int],
    *,
    num_devices: int,
    workers: int | None,
    checkpoint: float,
    lease: float,
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` (indices, in this order); yields (stack, message) as workers report.

    Messages: {"samples", "batch_size", "best_loss"} along the way; {"ended": [(run_id, status, message) of every run]}
    after the records are written; {"held": who} for a stack that another launcher's worker trains, which is waited
    for, and {"elsewhere": runs} once that one has; {"halved": reason}; {"stopped": step}; {"warning": line};
    {"skipped": samples} that a stack did not need, its runs having ended. When the caller stops, for whatever reason,
    the workers that still run save a checkpoint and end; finished stacks stay.

    Raises: StoreError when a worker cannot write its records.
    """
    context = multiprocessing.get_context("forkserver")
    devices = [f"cuda:{i}" for i in range(num_devices)] if plan.device == "cuda" else ["cpu"] * available_cores()
    free = [devices[i % len(devices)] for i in range(workers or len(devices))]
    queue = Queue(plan_path, plan, waiting, lease)
    running: list[Running] = []
    try:
        while queue.waiting or running or queue.held:
            while queue.waiting and free:
                stack, message = queue.take()
                if message is not None:
                    if "held" in message:
                        queue.held[stack] = time.monotonic() + LOOK_AGAIN
                    yield stack, message
                    continue
                device = free.pop(0)
                ours, theirs = context.Pipe()
                arguments = (queue.path, stack, device, theirs, checkpoint, lease)
                process = context.Process(target=work, args=arguments, daemon=True)
                try:
                    process.start()
                except (EOFError, OSError):
                    process.start()  # the server was killed at this moment: now there is another
                theirs.close()
                running.append(Running(stack, device, process, ours))
            wait([one.pipe for one in running] + [one.process.sentinel for one in running], timeout=0.5)
            for one in list(running):
                alive = one.process.is_alive()
                for stack, message in read_messages(one):
                    if "held" in message:
                        queue.held[stack] = time.monotonic() + LOOK_AGAIN
                    if "halved" in message or "stopped" in message:
                        queue.waiting.append(stack)
                    if "error" in message:
                        raise StoreError(message["error"])
                    yield stack, message
                if not alive:
                    running.remove(one)
                    one.pipe.close()  # one that lives all the same saves a checkpoint and ends
                    free.append(one.device)
                    if not one.ended:
                        yield one.stack, queue.mourn(one.stack, one.process.exitcode)
            queue.look_again()
            if not running and not (queue.waiting and free):
                time.sleep(0.1)  # all that is left is trained elsewhere
    finally:
        end_workers(running)


def end_workers(running: list[Running]) -> None:
    """Ask workers for a checkpoint and their end; whoever takes too long is killed."""
    for one in running:
        one.process.terminate()
    deadline = time.monotonic() + GRACE
    try:
        for one in running:
            one.process.join(timeout=max(0.0, deadline - time.monotonic()))
    finally:  # at once when the user insists (Ctrl-C again)
        for one in running:
            if one.process.is_alive():
                one.process.kill()


def work(plan_path: Path, stack: int, device: str, pipe: Connection, checkpoint: float, lease: float) -> None:
    """A child's first function; the import lies in it so that the launcher's own process needs no torch."""
    from harness.worker import work_for

    work_for(plan_path, stack, device, pipe, checkpoint, lease)


def read_messages(one: Running) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        while one.pipe.poll():
            message = one.pipe.recv()
            one.ended = one.ended or bool({"ended", "held", "halved", "error", "stopped", "elsewhere"} & set(message))
            yield one.stack, message
    except (EOFError, OSError):  # the second also for one that was killed within a message
        return  # the worker is gone; its exit code tells the rest


def describe_exit(code: int | None) -> str:
    if code == UNKNOWN:
        return "their worker's fork server was ended"
    if code is not None and code < 0:
        return f"their worker was ended by signal {-code}" + (", often for want of memory" if code == -9 else "")
    return f"their worker ended with code {code}"


def choose_device(device: str) -> tuple[str, int]:
    """cpu or cuda, and how many GPUs there are.

    Raises: ValueError for a device that is not there.
    """
    if device == "cpu" or (device == "auto" and not any(Path(node).exists() for node in GPU_NODES)):
        return "cpu", 0  # without asking torch, whose import would keep training waiting for two seconds
    import torch

    count = torch.cuda.device_count()
    if device == "cuda" and count == 0:
        raise ValueError(
            "launcher.device='cuda', but torch finds no GPU: give launcher.device=cpu or install a CUDA build"
        )
    return ("cuda" if count else "cpu"), count
