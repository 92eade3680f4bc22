"""A Ray of this machine alone: it listens on loopback, wants a token, and ends with the command that started it."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

PORTS = (
    "port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port", "metrics-export-port",
)  # fmt: skip
OBJECTS = 100_000_000  # bytes of shared memory for objects; ours are numbers and paths
PATIENCE = 120.0  # seconds that it may take to start; four to ten on a quiet machine
LOOPBACK = "127.0.0.1"


def keep_on_loopback() -> None:
    """What Ray reads from the environment when it is imported and when its processes start."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's own switch for "this machine only", on Linux too
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray reads it once a process, rounds start it anew


@contextmanager
def run_head(cpus: int, gpus: int | None) -> Iterator[str]:
    """The address of a Ray that lives as long as the body.

    Ports are chosen here: left to Ray, its node waits 15 seconds for two of its processes to tell theirs, and dies
    where a busy machine takes longer. The one for metrics is not used.

    Args:
        cpus: how many stacks of one core there may be at a time.
        gpus: None: as many as Ray finds.

    Raises: ValueError, with the end of its log, when it does not start.
    """
    numbers = free_ports(len(PORTS))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as place:
        command = [sys.executable, "-m", "harness.launchers.tied", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--node-ip-address={LOOPBACK}", "--include-dashboard=false", "--include-log-monitor=false"]
        command += ["--disable-usage-stats", f"--temp-dir={place}", f"--object-store-memory={OBJECTS}"]
        command += [f"--{name}={number}" for name, number in zip(PORTS, numbers, strict=True)]
        command += [f"--num-cpus={cpus}"] + ([] if gpus is None else [f"--num-gpus={gpus}"])
        log = Path(place) / "head.log"
        with log.open("wb") as out:
            # A session of its own: Ctrl-C is for the command, which lets workers save checkpoints first
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            wait_for_port(numbers[0], process, log)
            yield f"{LOOPBACK}:{numbers[0]}"
        finally:
            with suppress(ProcessLookupError):  # it did not start
                os.killpg(process.pid, signal.SIGKILL)  # all tasks have ended, or the user insists
            process.wait()
            assert process.stdin is not None
            process.stdin.close()


def wait_for_port(number: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, number), timeout=1.0).close()
            return
        except OSError:
            time.sleep(0.1)
    text = " ".join(log.read_text(errors="replace").split())[-500:]
    raise ValueError(f"Ray did not start on this machine: {text or 'it says nothing'}; use launcher=local")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listened on a moment ago."""
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in sockets]
