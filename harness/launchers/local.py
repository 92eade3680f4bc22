"""Worker processes on this machine: one a GPU, or one single-threaded worker a core."""

import multiprocessing
import multiprocessing.forkserver
import os
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.launchers.placed import see_devices
from harness.launchers.queue import LOOK_AGAIN, Queue
from harness.machine import available_cores, huge_pages
from harness.plan import Plan
from harness.store import StoreError

# What a driver leaves in /dev: NVIDIA, AMD, and a GPU under Windows' Linux
GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")
GRACE = 30.0  # seconds that workers have for their checkpoints when the launcher ends


@dataclass
class Running:
    stack: int
    device: str
    process: BaseProcess
    pipe: Connection
    ended: bool = False  # it has said how it ended


def warm_up() -> None:
    """Start the server that workers are forked from, so that torch is imported once and while the caller goes on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads in each of two busy processes are 10x slower
    os.environ["GLIBC_TUNABLES"] = huge_pages(os.environ.get("GLIBC_TUNABLES", ""))
    multiprocessing.set_forkserver_preload(["harness.launchers.preload"])
    multiprocessing.forkserver.ensure_running()


def launch_local(
    plan_path: Path,
    plan: Plan,
    waiting: list[int],
    *,
    launcher: Mapping[str, Any],
    num_devices: int,
    workers: int | None,
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` (indices, in this order); yields (stack, message) as workers report.

    Messages: {"samples", "batch_size", "best_loss"} along the way; {"ended": [(run_id, status, message) of every run]}
    after the records are written; {"held": who} for a stack that another launcher's worker trains, which is waited
    for, and {"elsewhere": runs} once that one has; {"halved": reason}; {"stopped": step}; {"warning": line};
    {"skipped": samples} that a stack did not need, its runs having ended. When the caller stops, for whatever reason,
    the workers that still run save a checkpoint and end; finished stacks stay. A worker also sends {"died": exit code,
    "reason"} of a rank, which is treated as its own death.

    Raises: StoreError when a worker cannot write its records.
    """
    checkpoint, lease = launcher["checkpoint"], launcher["lease"]
    context = multiprocessing.get_context("forkserver")
    ranks = launcher.get("data_parallel", 1)
    slots = max(1, (num_devices if plan.device == "cuda" else available_cores()) // ranks)
    devices = [f"cuda:{i}" for i in range(slots)] if plan.device == "cuda" else ["cpu"] * slots
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
                arguments = (queue.path, stack, device, theirs, checkpoint, lease, ranks)
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
                    if "died" in message:
                        message = queue.mourn(stack, message["died"], message["reason"])
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


def work(
    plan_path: Path, stack: int, device: str, pipe: Connection, checkpoint: float, lease: float, ranks: int
) -> None:
    """A child's first function; the import lies in it so that the launcher's own process needs no torch."""
    kind, _, number = device.partition(":")
    slot = int(number or 0)
    device, changed = see_devices(kind, slot, (slot + 1) * ranks, os.environ.get("CUDA_VISIBLE_DEVICES"), ranks)
    os.environ.update(changed)  # before anything asks for GPUs
    from harness.worker import work_for

    work_for(plan_path, stack, device, pipe, checkpoint, lease)


def read_messages(one: Running) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        while one.pipe.poll():
            message = one.pipe.recv()
            one.ended = one.ended or bool(
                {"ended", "held", "halved", "error", "stopped", "elsewhere", "died"} & set(message)
            )
            yield one.stack, message
    except (EOFError, OSError):  # the second also for one that was killed within a message
        return  # the worker is gone; its exit code tells the rest


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
