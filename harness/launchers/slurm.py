"""Stacks as jobs of a SLURM cluster, submitted through submitit as arrays."""

import re
import subprocess
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

from harness.checks import check_choice
from harness.launchers.placed import JOBS, MORE_TO_DO, Cluster, NoCluster, Note, Placed, read_exit
from harness.launchers.remote import launch_remote
from harness.launchers.slurm_job import StackJob
from harness.launchers.slurm_state import ASK, SILENT, JobStates, run_quietly
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
REQUEUES = 1_000_000  # by time-outs: those that get no stack further are counted by StackJob itself
UNREACHABLE = "Unable to contact slurm controller"
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
        if state.word == "CANCELLED":  # whatever its worker said: it is not to go on
            return state.code
        own = read_exit(self.folder, self.id, self.name)
        if state.code is None:  # a bad end is told while others of the job go on; the job may be queued again by itself
            return None if own == MORE_TO_DO else own
        return state.code if own is None else own

    def describe(self) -> str:
        return self.states.of(self.id).describe()


def launch_slurm(
    plan_path: Path, plan: Plan, waiting: list[int], *, launcher: Mapping[str, Any], **_: Any
) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """Train the stacks `waiting` as SLURM jobs; see launch_remote.

    Raises: ValueError when submitit or SLURM is not there, or sbatch refuses.
    """
    cluster = slurm_cluster(launcher)
    try:
        yield from launch_remote(plan_path, plan, waiting, cluster, wait=launcher["wait"], lease=launcher["lease"])
    except (GeneratorExit, KeyboardInterrupt):
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

    def cancel(ids: Sequence[str]) -> None:
        if run_quietly(["scancel", *ids]) is None:
            raise NoCluster("scancel failed, so jobs may go on: give the same command again where SLURM answers")

    return Cluster("slurm", submit, recall, cancel)


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
    """The ids of the jobs, all or none. Raises: ValueError, NoCluster."""
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
    # srun of SLURM 22.05 and later does not take over sbatch's own --cpus-per-task
    binding = [f"--cpus-per-task={launcher['cpus_per_task']}"]
    executor.update_parameters(
        name=sweep, slurm_stderr_to_stdout=True, slurm_additional_parameters=extra, slurm_srun_args=binding, **given
    )  # fmt: skip
    ids: list[str] = []
    most = max_array()
    try:
        for start in range(0, len(jobs), most):
            ids += submit_array(executor, jobs[start : start + most])
    except BaseException:
        if ids:  # they are in no note yet: nobody would find them, and the next command would submit them again
            run_quietly(["scancel", *{job.partition("_")[0] for job in ids}])
        raise
    return ids


def submit_array(executor: Any, jobs: Sequence[StackJob]) -> list[str]:
    """The ids of one array's jobs; while no controller can be reached it tries again, as squeue is asked again.

    Raises: ValueError where sbatch refuses them, NoCluster where nothing answers for long.
    """
    from submitit.core.utils import FailedJobError

    until = time.monotonic() + SILENT
    while True:
        try:
            with executor.batch():
                submitted = [executor.submit(job) for job in jobs]
            return [job.job_id for job in submitted]
        except (FailedJobError, subprocess.CalledProcessError) as error:
            text = " ".join(str(error).split())
            if UNREACHABLE not in text:
                raise ValueError(f"sbatch refused the jobs: {text}") from error
            if time.monotonic() > until:
                raise NoCluster(
                    f"sbatch reaches no controller ({text}): the same command submits them later"
                ) from error
        time.sleep(ASK)


def check_options(launcher: Mapping[str, Any]) -> None:
    """Raises: ValueError for options that contradict each other, or that sbatch would misunderstand."""
    delay, limit = launcher["signal_delay_s"], launcher["timeout_min"]
    if delay >= 60 * limit:
        text = f"launcher.signal_delay_s={delay} is not shorter than launcher.timeout_min={limit} ({60 * limit} s)"
        raise ValueError(f"{text}: a job would be asked for its checkpoint before it begins; give a longer time")
    further, setup = launcher["additional_parameters"], launcher["setup"]
    if further is not None and not isinstance(further, Mapping):
        text = f"launcher.additional_parameters={further!r} is no mapping"
        raise ValueError(f"{text}: write e.g. 'launcher.additional_parameters={{constraint: a100}}'")
    if {"clusters", "M"} & set(further or {}):
        text = "launcher.additional_parameters has clusters, whose jobs could not be looked at from here"
        raise ValueError(f"{text}: leave it out, and submit from a host of that cluster")
    if not isinstance(setup, Sequence) or not all(isinstance(line, str) for line in setup):
        raise ValueError(f"launcher.setup={setup!r} is no list of shell lines: write 'launcher.setup=[module load x]'")


def check_slurm(launcher: Mapping[str, Any]) -> None:
    """Ask SLURM before jobs are made ready. Raises: ValueError where it does not answer, or has no such partition."""
    answer = run_quietly(["sinfo", "-h", "-a", "-o", "%R"])
    if answer is None and which("sinfo"):
        raise ValueError("SLURM does not answer (sinfo fails): is SLURM_CONF set in this shell, is slurmctld there?")
    for name in str(launcher["partition"] or "").split(","):
        if name and answer:
            check_choice("launcher.partition", name, answer.split())


def count_gpus(launcher: Mapping[str, Any]) -> int:
    """GPUs a job: of gpus_per_node, or of gres (gpu, gpu:2, gpu:a100:2, also among others); 0 where it has none."""
    if launcher.get("gpus_per_node"):
        return int(launcher["gpus_per_node"])
    for kind, *details in (entry.split(":") for entry in str(launcher.get("gres") or "").split(",")):
        if kind == "gpu":
            return int(details[-1]) if details and details[-1].isdecimal() else 1
    return 0


def max_array() -> int:
    """Most tasks in an array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", run_quietly(["scontrol", "show", "config"]) or "", re.MULTILINE)
    return max(1, (int(found[1]) if found else MAX_ARRAY) - 1)


def log_path(folder: Path, job: str) -> Path:
    """Where submitit sends a job's output."""
    return folder / JOBS / f"{job}_0_log.out"
