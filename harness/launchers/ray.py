"""Stacks as tasks of a Ray cluster, or of a Ray of this machine alone. Ray is imported for launcher=ray only.

A task starts the worker as a process of its own and returns its exit code: signals, threads and memory are the
worker's, one that is killed takes no process of Ray with it, and CUDA_VISIBLE_DEVICES is what Ray gave to the task, so
that the worker's GPU is always cuda:0. Results go through runs_dir, which all nodes share.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.launchers.local import GRACE
from harness.launchers.placed import JOBS, MORE_TO_DO, Cluster
from harness.launchers.ray_head import LOOPBACK, keep_on_loopback, run_head
from harness.launchers.remote import launch_remote
from harness.machine import JOB_VARIABLE, available_cores, huge_pages
from harness.plan import Plan
from harness.store import subfolder

CONNECT = 5.0  # seconds in which something at launcher.address must answer
LOOK = 0.5  # least seconds between two questions to Ray
FAILED, KILLED = 1, -signal.SIGKILL  # exit codes of a worker, or what stands for one


def launch_ray(
    plan_path: Path, plan: Plan, waiting: list[int], *, launcher: Mapping[str, Any], **_: Any
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` (indices, longest first) as tasks of Ray; yields the messages of launch_local.

    When the caller stops, the tasks that run save a checkpoint and end.

    Args:
        launcher: the values of conf/launcher/ray.yaml.

    Raises: ValueError where Ray is not installed, no cluster is at the address, or this machine lacks what is asked.
    """
    with connect(launcher) as ray:
        tasks = Tasks(ray)

        def submit(path: Path, stacks: Sequence[int]) -> list[Task]:
            return submit_stacks(tasks, path, stacks, plan.device, launcher)

        # A task ends with the command that submitted it: no other has any to find or to cancel
        cluster = Cluster("ray", submit, lambda folder, note: None, lambda ids: None)
        try:
            yield from launch_remote(plan_path, plan, waiting, cluster, wait=True, lease=launcher["lease"])
        finally:
            tasks.end_all()


def check_answer(address: str) -> None:
    """Ray itself would knock for minutes. Raises: ValueError where nothing listens at HOST:PORT."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT).close()
    except (OSError, OverflowError) as error:
        text = f"launcher.address={address!r}: {error}"
        raise ValueError(f"{text}; start a cluster with ray start, or leave launcher.address out") from error


def with_texts(runtime_env: Any) -> Any:
    """A runtime environment whose variables are texts: YAML reads OMP_NUM_THREADS: 1 as a number, which Ray refuses."""
    variables = runtime_env.get("env_vars") if isinstance(runtime_env, Mapping) else None
    if not isinstance(variables, Mapping):
        return runtime_env
    return {**runtime_env, "env_vars": {str(name): str(value) for name, value in variables.items()}}


@contextmanager
def connect(launcher: Mapping[str, Any]) -> Iterator[ModuleType]:
    """Ray, connected to the cluster at launcher.address, or to one of this machine alone. Raises: ValueError."""
    own = launcher["address"] is None
    check_answer(str(launcher["address"]))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a task without GPUs keeps the environment
    if own:
        keep_on_loopback()
    try:
        import ray
    except ImportError as error:
        raise ValueError(f"launcher=ray needs Ray ({error}): pip install -c constraints.txt -e '.[ray]'") from error
    cpus = launcher["head_cpus"] or available_cores()
    with run_head(cpus, launcher["head_gpus"]) if own else nullcontext(str(launcher["address"])) as address:
        options = {"runtime_env": with_texts(launcher["runtime_env"]), "log_to_driver": False, "logging_level": "ERROR"}
        options |= {"_node_ip_address": LOOPBACK} if own else {}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(address, **options)
        except TypeError as error:
            text = (
                f"launcher.runtime_env={launcher['runtime_env']!r} is not one of Ray's: {' '.join(str(error).split())}"
            )
            raise ValueError(f"{text[:400]}; mend it, or leave it out") from error
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            text = f"launcher.address={launcher['address']!r}: {' '.join(str(error).split())[:300]}"
            raise ValueError(f"{text}; start a cluster with ray start, or leave launcher.address out") from error
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray's would end the command at once
        try:
            check_resources(ray, launcher, own=own)
            yield ray
        finally:
            ray.shutdown()


def check_resources(ray: ModuleType, launcher: Mapping[str, Any], *, own: bool) -> None:
    """Tell of a stack for which no node has room: Ray would wait without a word.

    Raises: ValueError where none can join.
    """
    asked = {"CPU": float(launcher["num_cpus"]), "GPU": launcher["num_gpus"] / launcher["stacks_per_gpu"]}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(kind, 0) >= count for kind, count in asked.items()) for node in nodes):
        return
    text = f"launcher.num_cpus={launcher['num_cpus']} launcher.num_gpus={launcher['num_gpus']}: no node of Ray has that"
    text += " many; they have " + " or ".join(
        f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes
    )
    if own:
        raise ValueError(f"{text}: ask for less")
    print(f"{text}: waiting for one that joins", file=sys.stderr)


def submit_stacks(
    tasks: "Tasks", path: Path, stacks: Sequence[int], device: str, launcher: Mapping[str, Any]
) -> list["Task"]:
    """One task a stack, in this order."""
    place = subfolder(path.parent, JOBS).resolve()
    remote = tasks.ray.remote(run_worker).options(
        num_cpus=launcher["num_cpus"], num_gpus=launcher["num_gpus"] / launcher["stacks_per_gpu"],
        max_retries=launcher["retries"], name=path.parent.name,
    )  # fmt: skip
    placed = []
    for stack in stacks:
        log = place / f"ray-{path.stem.removeprefix('plan-')}-{stack}.log"
        pace = [str(launcher["checkpoint"]), str(launcher["lease"])]
        worker = [str(path.resolve()), str(stack), "cuda:0" if device == "cuda" else "cpu", *pace]
        placed.append(Task(tasks, remote.remote(worker, os.getcwd(), str(log)), log))
    return placed


def run_worker(arguments: list[str], folder: str, log: str) -> int:
    """A task: harness.worker with these arguments; returns its exit code.

    It ends with this process, and is asked to end where the task is cancelled, which Ray does by KeyboardInterrupt.
    """
    import ray

    command = [sys.executable, "-m", "harness.launchers.tied", "harness.worker", *arguments]
    job = f"ray {ray.get_runtime_context().get_task_id()} {JOBS}/{Path(log).name}"
    own = {JOB_VARIABLE: job, "OMP_NUM_THREADS": "1"}
    own["GLIBC_TUNABLES"] = huge_pages(os.environ.get("GLIBC_TUNABLES", ""))
    with open(log, "ab") as out:
        # A session of its own: when a process of Ray dies all of its group are killed, without a checkpoint
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **own}, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        while process.poll() is None:
            time.sleep(0.1)  # not wait(), which KeyboardInterrupt would not reach
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
    assert process.stdin is not None
    process.stdin.close()
    return process.wait()


@dataclass
class Tasks:
    """All tasks of this command, so that Ray is asked about them at once."""

    ray: ModuleType
    waiting: dict[Any, "Task"] = field(default_factory=dict)  # those of whose end nothing is known, by their reference
    asked: float = 0.0

    def look(self) -> None:
        """Let tasks know that have ended."""
        if not self.waiting or time.monotonic() - self.asked < LOOK:
            return
        self.asked = time.monotonic()
        ready, _ = self.ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=0)
        for reference in ready:
            task = self.waiting.pop(reference)
            task.code, task.reason = self.outcome(reference)

    def outcome(self, reference: Any) -> tuple[int, str]:
        """A task's exit code, and what Ray says about it."""
        kinds = self.ray.exceptions
        try:
            code = int(self.ray.get(reference))
            return code, f"ended with code {code}"
        except (kinds.TaskCancelledError, kinds.WorkerCrashedError, kinds.NodeDiedError) as error:
            return MORE_TO_DO, describe(error)
        except kinds.OutOfMemoryError as error:
            return KILLED, describe(error)
        except kinds.RayError as error:
            return FAILED, describe(error)

    def end_all(self) -> None:
        """Cancel what waits or runs; workers get to save a checkpoint."""
        self.asked = 0.0
        self.look()
        for reference in self.waiting:
            self.ray.cancel(reference, force=False)
        if self.waiting:
            self.ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=GRACE)


@dataclass
class Task:
    """One stack on Ray, see harness/launchers/placed.py."""

    tasks: Tasks
    reference: Any
    log: Path | None
    code: int | None = None
    reason: str = "SUBMITTED"  # Ray does not tell whether it waits or runs

    def __post_init__(self) -> None:
        self.tasks.waiting[self.reference] = self

    @property
    def id(self) -> str:
        return str(self.reference.task_id().hex())

    def ended(self) -> int | None:
        self.tasks.look()
        return self.code

    def describe(self) -> str:
        return self.reason


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
