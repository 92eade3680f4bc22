"""The ranks of a stack, started and watched by torch's own launcher: when one dies the others are ended, and told why.

Nothing listens on a network but gloo and NCCL, on loopback: ranks meet by a file, and the first one reports through a
socket, both in a folder of the user's alone.
"""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

MEETING, PIPE = "meeting", "socket"  # files in the worker's folder
NO_MEMORY = 4  # exit code of a rank
LOOK = 0.1  # seconds
SETTINGS = {
    "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # it would listen on all addresses
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "10",  # seconds that ranks have once another one died
}  # fmt: skip
ENDS = {"ended", "held", "halved", "error", "stopped", "elsewhere"}  # words by which the first rank tells of its end


def run_ranks(
    plan_path: Path, index: int, device: str, count: int, *, report: Callable[[dict[str, Any]], None],
    stop: threading.Event, checkpoint: float, lease: float,
) -> bool:  # fmt: skip
    """As harness.worker's run_stack, by `count` processes; one that dies is told as {"died": exit code, "reason"}."""
    os.environ.update(SETTINGS)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says is told in one line here
    said: list[dict[str, Any]] = []
    pipes: list[Connection] = []
    failures: dict[int, ProcessFailure] = {}

    with TemporaryDirectory(prefix="harness-ranks-", ignore_cleanup_errors=True) as name:
        folder = Path(name)

        def launch() -> None:
            config = LaunchConfig(
                1, 1, count, logs_specs=DefaultLogsSpecs(log_dir=name), run_id="ranks", rdzv_backend="c10d",
                rdzv_endpoint=str(folder / "launcher"), rdzv_configs={"store_type": "file"}, max_restarts=0,
                monitor_interval=LOOK, local_addr="127.0.0.1",
            )  # fmt: skip
            arguments = map(str, (plan_path, index, device, checkpoint, lease, folder))
            try:
                elastic_launch(config, sys.executable)("-m", "harness.rank", *arguments)
            except ChildFailedError as error:
                failures.update(error.failures)

        def listen() -> None:
            with suppress(EOFError, OSError):
                pipes.append(listener.accept())
                while True:
                    said.append(json.loads(pipes[0].recv_bytes()))
                    report(said[-1])

        listener = Listener(str(folder / PIPE), "AF_UNIX")
        # A thread, since in the main one the launcher would take the signals, and it ends ranks without a checkpoint
        launcher, hearer = (threading.Thread(target=target, daemon=True) for target in (launch, listen))
        hearer.start()
        launcher.start()
        told = False
        while launcher.is_alive():
            launcher.join(LOOK)
            if stop.is_set() and pipes and not told:
                told = True
                with suppress(OSError):
                    pipes[0].send_bytes(b"stop")
        if pipes:
            hearer.join()  # the first rank is gone, so it ends
        listener.close()
        ends = [message for message in said if ENDS & set(message)]
        if not ends:
            report(describe_failure(failures, folder, count))
            return False
    return not any("error" in message or "stopped" in message or all_failed(message) for message in ends)


def all_failed(message: Mapping[str, Any]) -> bool:
    return "ended" in message and all(status == "failed" for _, status, _ in message["ended"])


def describe_failure(failures: Mapping[int, ProcessFailure], folder: Path, count: int) -> dict[str, Any]:
    """Of the rank that was lost first: those that a signal ended come before those that ended since they missed it."""
    if not failures:
        return {"died": 1, "reason": "the first rank ended without a word"}
    rank = min(failures, key=lambda rank: (failures[rank].exitcode >= 0, not words(folder, rank), rank))
    code, who = failures[rank].exitcode, f"rank {rank} of {count}"
    if code == NO_MEMORY:
        return {"died": -signal.SIGKILL, "reason": f"{who} had no memory left: {words(folder, rank)}"}
    if code < 0:
        return {
            "died": code,
            "reason": f"{who} was ended by signal {-code}" + ", often for want of memory" * (code == -9),
        }
    return {"died": code, "reason": f"{who} ended with code {code}: {words(folder, rank) or 'it lost another'}"}


def words_path(folder: Path, rank: int) -> Path:
    """Where a rank leaves what was raised in it."""
    return folder / f"rank-{rank}.txt"


def words(folder: Path, rank: int) -> str:
    path = words_path(folder, rank)
    return path.read_text() if path.exists() else ""
