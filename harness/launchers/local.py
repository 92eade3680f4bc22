"""Worker processes on this machine: one a GPU, or one single-threaded worker a core."""

import multiprocessing
import multiprocessing.forkserver
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from harness.plan import Plan

# What a driver leaves in /dev: NVIDIA, AMD, and a GPU under Windows' Linux
GPU_NODES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")


@dataclass
class Running:
    stack: int
    device: str
    process: BaseProcess
    pipe: Connection
    ended: bool = False


def warm_up() -> None:
    """Start the server that workers are forked from, so that torch is imported once and while the caller goes on."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads in each of two busy processes are 10x slower
    multiprocessing.set_forkserver_preload(["harness.worker"])
    multiprocessing.forkserver.ensure_running()


def launch_local(
    plan_path: Path, plan: Plan, waiting: list[int], *, num_devices: int, workers: int | None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Train the stacks `waiting` (indices, in this order); yields (stack, message) as workers report.

    Messages: {"samples", "best_loss"} along the way; {"ended": [(status, message) of every run]} after the records are
    written; {"lost": reason} for a worker that ended without. When the caller stops, for whatever reason, the workers
    that still run are ended; finished stacks stay.
    """
    context = multiprocessing.get_context("forkserver")
    devices = [f"cuda:{i}" for i in range(num_devices)] if plan.device == "cuda" else ["cpu"] * available_cores()
    free = [devices[i % len(devices)] for i in range(workers or len(devices))]
    waiting = list(waiting)
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and free:
                stack, device = waiting.pop(0), free.pop(0)
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(plan_path, stack, device, theirs), daemon=True)
                process.start()
                theirs.close()
                running.append(Running(stack, device, process, ours))
            wait([one.pipe for one in running] + [one.process.sentinel for one in running], timeout=0.5)
            for one in list(running):
                alive = one.process.is_alive()
                yield from read_messages(one)
                if not alive:
                    running.remove(one)
                    free.append(one.device)
                    if not one.ended and one.process.exitcode != 0:
                        yield one.stack, {"lost": describe_exit(one.process.exitcode)}
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.join(timeout=5)


def work(plan_path: Path, stack: int, device: str, pipe: Connection) -> None:
    """A child's first function; the import lies in it so that the launcher's own process needs no torch."""
    from harness.worker import work_for

    work_for(plan_path, stack, device, pipe)


def read_messages(one: Running) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        while one.pipe.poll():
            message = one.pipe.recv()
            one.ended = one.ended or "ended" in message
            yield one.stack, message
    except (EOFError, ConnectionResetError):
        return  # the worker is gone; its exit code tells the rest


def describe_exit(code: int | None) -> str:
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


def available_cores() -> int:
    """Cores this process may use, which in a container or a job is often fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
