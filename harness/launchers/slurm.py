"""Stacks as jobs of a SLURM cluster, submitted through submitit as arrays."""

import re
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.launchers.placed import JOBS, Cluster, Note, Placed, read_exit
from harness.launchers.remote import launch_remote
from harness.launchers.slurm_job import StackJob
from harness.launchers.slurm_state import JobStates, run_quietly
from harness.plan import Plan
from harness.plan_file import read_plan
from harness.store import subfolder

# Options of conf/launcher/slurm.yaml that submitit's executor takes -> what it calls them
OPTIONS = {
    "cpus_per_task": "cpus_per_task", "gpus_per_node": "gpus_per_node", "mem_gb": "mem_gb",
    "timeout_min": "timeout_min",
    **{
        name: f"slurm_{name}"
        for name in ("partition", "account", "qos", "gres", "array_parallelism", "setup", "signal_delay_s",
                     "additional_parameters")
    },
}  # fmt: skip
REQUEUES = 1_000_000  # by time-outs; each gets a stack further, or harness/launchers/remote.py ends it
MAX_ARRAY = 1001  # SLURM's own default


@dataclass(frozen=True)
class SlurmPlaced:
    """One stack of a job."""

    id: str
    log: Path
    folder: Path
    name: str
    states: JobStates

    def __post_init__(self) -> None:
        self.states.want(self.id)

    def ended(self) -> int | None:
        state = self.states.of(self.id)
        if state.code is None or state.word == "CANCELLED":  # whatever its worker said: it is not to go on
            return state.code
        own = read_exit(self.folder, self.id, self.name)
        return state.code if own is None else own

    def describe(self) -> str:
        return self.states.of(self.id).describe()

    def cancel(self) -> None:
        run_quietly(["scancel", self.id])


def launch_slurm(
    plan_path: Path, plan: Plan, waiting: list[int], *, launcher: Mapping[str, Any], **_: Any
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` as SLURM jobs; see launch_remote.

    Raises: ValueError when submitit or SLURM is not there, or sbatch refuses.
    """
    cluster = slurm_cluster(launcher)
    try:
        yield from launch_remote(plan_path, plan, waiting, cluster, wait=launcher["wait"], lease=launcher["lease"])
    except GeneratorExit:
        print("jobs that wait or run go on; the same command with launcher.cancel=true ends them", file=sys.stderr)
        raise


def slurm_cluster(launcher: Mapping[str, Any] | None = None) -> Cluster:
    """SLURM, to submit with these options; None: only to look at jobs."""
    states = JobStates()

    def submit(plan_path: Path, stacks: Sequence[int]) -> list[Placed]:
        assert launcher is not None, "who only looks submits nothing"
        placed = submit_stacks(plan_path.resolve(), stacks, launcher, states)
        return list(placed)

    def recall(folder: Path, note: Note) -> Placed:
        return SlurmPlaced(note.id, log_path(folder, note.id), folder, note.name, states)

    return Cluster("slurm", submit, recall)


def submit_stacks(
    plan_path: Path, stacks: Sequence[int], launcher: Mapping[str, Any], states: JobStates
) -> list[SlurmPlaced]:
    """One array of jobs, or several where it would be longer than the cluster takes."""
    plan, folder = read_plan(plan_path), plan_path.parent
    gpus = count_gpus(launcher) if plan.device == "cuda" else 0
    at_once = gpus * launcher["stacks_per_gpu"] if gpus else launcher["cpus_per_task"]
    groups = [list(stacks[start : start + at_once]) for start in range(0, len(stacks), at_once)]
    grace = max(5.0, launcher["signal_delay_s"] - 15.0)
    pace = {"checkpoint_seconds": launcher["checkpoint"], "lease": launcher["lease"], "grace": grace}
    jobs = [StackJob(str(plan_path), group, plan.device, gpus, **pace) for group in groups]
    ids = submit_jobs(subfolder(folder, JOBS), plan.sweep, jobs, launcher)
    return [
        SlurmPlaced(job, log_path(folder, job), folder, plan.stacks[index].name, states)
        for job, group in zip(ids, groups, strict=True)
        for index in group
    ]


def submit_jobs(place: Path, sweep: str, jobs: Sequence[StackJob], launcher: Mapping[str, Any]) -> list[str]:
    """The ids of the jobs. Raises: ValueError."""
    try:
        import submitit
    except ImportError as error:
        raise ValueError("launcher=slurm needs submitit: pip install 'submitit>=1.5'") from error
    try:
        executor = submitit.AutoExecutor(place, cluster="slurm", slurm_max_num_timeout=REQUEUES)
    except RuntimeError as error:
        raise ValueError("launcher=slurm needs sbatch, srun and squeue: run it where jobs are submitted") from error
    given = {name: launcher[key] for key, name in OPTIONS.items() if launcher[key] not in (None, [])}
    extra = {"requeue": True, **(given.pop("slurm_additional_parameters", None) or {})}
    executor.update_parameters(
        name=sweep, slurm_stderr_to_stdout=True, slurm_additional_parameters=extra, **given
    )  # fmt: skip
    ids: list[str] = []
    most = max_array()
    for start in range(0, len(jobs), most):
        try:
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs[start : start + most]]
        except (submitit.core.utils.FailedJobError, subprocess.CalledProcessError) as error:
            raise ValueError(f"sbatch refused the jobs: {' '.join(str(error).split())}") from error
        ids += [job.job_id for job in submitted]
    return ids


def count_gpus(launcher: Mapping[str, Any]) -> int:
    """GPUs a job: of gpus_per_node, or the number at the end of gres (gpu:a100:2); 1 where none stands there."""
    if launcher["gpus_per_node"]:
        return int(launcher["gpus_per_node"])
    number = str(launcher["gres"] or "").rpartition(":")[2]
    return int(number) if number.isdecimal() else 1


def max_array() -> int:
    """Most tasks in an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_quietly(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return max(1, (int(found[1]) if found else MAX_ARRAY) - 1)


def log_path(folder: Path, job: str) -> Path:
    """Where submitit sends a job's output."""
    return folder / JOBS / f"{job}_0_log.out"
