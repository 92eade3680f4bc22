"""What a SLURM job runs: a worker for each of its stacks, asked for a checkpoint when the job has to end.

submitit writes a StackJob into a file that the job reads, so it holds nothing but texts and numbers.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from harness.launchers.placed import note_exit, remove_exit, see_one_device
from harness.machine import huge_pages
from harness.plan_file import read_stack

POLL = 0.2  # seconds
PLACE = "HARNESS_JOB"  # a worker's environment variable, of harness/job.py: what its records say of the job


@dataclass
class StackJob:
    """Stacks of one plan that a job trains at once.

    Attributes:
        plan: path of the plan, absolute.
        gpus: that the job has; its workers take them in turn.
        grace: seconds that workers have for their checkpoints.
    """

    plan: str
    stacks: list[int]
    device: str
    gpus: int
    checkpoint_seconds: float
    lease: float
    grace: float
    ending: bool = False
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def __call__(self) -> None:
        """Raises: SystemExit with 1 when a worker ended badly; which one and how is in its note."""
        user_signal = signal.getsignal(signal.SIGUSR2)  # submitit's: checkpoint() and queue the job again

        def end(number: int, frame: FrameType | None) -> None:
            if self.ending:
                return
            if was_cancelled():
                self.stop_workers()
            elif callable(user_signal):
                user_signal(number, frame)

        # submitit passes over SIGTERM, which is all that a preempted job gets on many clusters
        signal.signal(signal.SIGTERM, end)
        folder = Path(self.plan).parent
        names = [read_stack(Path(self.plan), index)[0].stacks[0].name for index in self.stacks]
        for name in names:
            remove_exit(folder, job_id(), name)
        for slot, index in enumerate(self.stacks):
            self.workers.append(self.start_worker(slot, index))
        while any(worker.poll() is None for worker in self.workers):
            time.sleep(POLL)
        codes = [worker.returncode for worker in self.workers]
        for name, code in zip(names, codes, strict=True):
            if code:
                note_exit(folder, job_id(), name, code)
        if any(code not in (0, 3) for code in codes):
            print(f"workers of stacks {', '.join(names)} ended with {codes}", file=sys.stderr)
            sys.exit(1)

    def start_worker(self, slot: int, index: int) -> "subprocess.Popen[bytes]":
        device, changed = see_one_device(self.device, slot, self.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
        log = f".jobs/{job_id()}_0_log.out"
        command = [sys.executable, "-m", "harness.worker", self.plan, str(index), device]
        command += [str(self.checkpoint_seconds), str(self.lease)]
        changed[PLACE] = f"slurm {job_id()} {log}"
        changed["GLIBC_TUNABLES"] = huge_pages(os.environ.get("GLIBC_TUNABLES", ""))
        return subprocess.Popen(command, env={**os.environ, **changed})

    def checkpoint(self) -> Any:
        """submitit's question what to queue again; called from its signal handler."""
        import submitit

        self.stop_workers()
        again = StackJob(
            self.plan, self.stacks, self.device, self.gpus, self.checkpoint_seconds, self.lease, self.grace
        )  # fmt: skip
        return submitit.helpers.DelayedSubmission(again)

    def stop_workers(self) -> None:
        """Ask workers for a checkpoint, and wait until they are gone or the time for it is up."""
        self.ending = True
        for worker in self.workers:
            if not is_gone(worker.pid):
                os.kill(worker.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.grace
        while not all(is_gone(worker.pid) for worker in self.workers) and time.monotonic() < deadline:
            time.sleep(POLL / 4)


def is_gone(pid: int) -> bool:
    """Whether a child has ended. Leaves it to be reaped: a signal handler may have interrupted who does that."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def job_id() -> str:
    """As submitit names it and its log: 12, or 12_5 for a task of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array else os.environ["SLURM_JOB_ID"]


def was_cancelled() -> bool:
    """Whether this job is ending for good, since somebody cancelled it, so that it is not to be queued again.

    A cancelled job is COMPLETING while its processes end; one that is preempted or out of time is RUNNING until then.
    """
    asked = subprocess.run(["scontrol", "show", "job", "-o", job_id()], capture_output=True, text=True, timeout=30)
    return "JobState=CANCELLED" in asked.stdout or "JobState=COMPLETING" in asked.stdout
