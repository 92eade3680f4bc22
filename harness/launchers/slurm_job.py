"""What a SLURM job runs: a worker for each of its stacks, asked for a checkpoint when the job has to end.

submitit writes a StackJob into a file that the job reads, so it holds nothing but texts and numbers.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from harness.launchers.placed import MORE_TO_DO, note_exit, remove_exit, see_devices
from harness.launchers.slurm_state import run_quietly
from harness.launchers.watch import newest_step
from harness.machine import JOB_VARIABLE, huge_pages
from harness.plan import Stack
from harness.plan_file import read_stack

POLL = 0.2  # seconds
ANSWER = 5.0  # seconds that SLURM's controller gets, while workers save their checkpoints
MOST = 3  # times that a job is queued again without a stack having got further


@dataclass
class StackJob:
    """Stacks of one plan that a job trains at once.

    Attributes:
        plan: path of the plan, absolute.
        gpus: that the job has; its workers take them in turn.
        grace: seconds that workers have for their checkpoints.
        reached: sum of the stacks' newest steps when the job was queued again last.
        fruitless: how often it was queued again since a stack got further.
    """

    plan: str
    stacks: list[int]
    device: str
    gpus: int
    checkpoint_seconds: float
    lease: float
    grace: float
    reached: int = -1
    fruitless: int = 0
    ending: bool = False
    going: list[int] = field(default_factory=list)  # those of `stacks` that had not ended when the job was to end
    workers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return Path(self.plan).parent

    def __call__(self) -> None:
        """Raises: SystemExit with 1 when a worker ended badly; which one and how is in its note."""
        user_signal = signal.getsignal(signal.SIGUSR2)  # submitit's: checkpoint() and queue the job again

        def end(number: int, frame: FrameType | None) -> None:
            if self.ending:
                return
            self.ask_workers()  # before the controller is asked, which may be busy
            if was_cancelled():
                self.await_workers()
            elif callable(user_signal):
                user_signal(number, frame)

        # submitit passes over SIGTERM, which is all that a preempted job gets on many clusters
        signal.signal(signal.SIGTERM, end)
        names = [self.stack(index).name for index in self.stacks]
        for name in names:
            remove_exit(self.folder, job_id(), name)
        for slot, index in enumerate(self.stacks):
            if not self.ending:
                self.workers.append(self.start_worker(slot, index))
        codes: dict[str, int] = {}
        while len(codes) < len(self.workers):
            time.sleep(POLL)
            for name, worker in zip(names, self.workers, strict=False):
                code = worker.poll()
                if code is None or name in codes:
                    continue
                codes[name] = code
                if code:
                    note_exit(self.folder, job_id(), name, code)  # at once: others of this job may go on for hours
        if bad := {name: code for name, code in codes.items() if code not in (0, MORE_TO_DO)}:
            print("worker of stack " + ", ".join(f"{name} ended with {code}" for name, code in bad.items()), flush=True)
            sys.exit(1)

    def stack(self, index: int) -> Stack:
        return read_stack(Path(self.plan), index)[0].stacks[0]

    def start_worker(self, slot: int, index: int) -> "subprocess.Popen[bytes]":
        device, changed = see_devices(self.device, slot, self.gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))
        log = f".jobs/{job_id()}_0_log.out"
        command = [sys.executable, "-m", "harness.worker", self.plan, str(index), device]
        command += [str(self.checkpoint_seconds), str(self.lease)]
        changed[JOB_VARIABLE] = f"slurm {job_id()} {log}"
        changed["GLIBC_TUNABLES"] = huge_pages(os.environ.get("GLIBC_TUNABLES", ""))
        return subprocess.Popen(command, env={**os.environ, **changed})

    def checkpoint(self) -> Any:
        """submitit's question what to queue again; called from its signal handler. None: nothing."""
        import submitit

        self.ask_workers()
        self.await_workers()
        stacks = [self.stack(index) for index in self.going]
        step = sum(newest_step(self.folder, stack) for stack in stacks)
        fruitless = 0 if step > self.reached or len(stacks) < len(self.stacks) else self.fruitless + 1
        code = 1 if fruitless > MOST else MORE_TO_DO
        for stack in stacks:  # the second counts where the job cannot be queued again; it is removed when it can
            note_exit(self.folder, job_id(), stack.name, code)
        if fruitless > MOST or not stacks:
            print(
                f"not queued again: {MOST} times in a row no stack got further" if stacks else "all ended", flush=True
            )
            return None
        again = replace(
            self, stacks=self.going, reached=step, fruitless=fruitless, ending=False, going=[], workers=[]
        )  # fmt: skip
        return submitit.helpers.DelayedSubmission(again)

    def ask_workers(self) -> None:
        """Ask for a checkpoint and their end."""
        if self.ending:
            return
        self.ending = True
        alive = [not is_gone(worker.pid) for worker in self.workers]
        begun = len(self.workers)
        self.going = [index for index, lives in zip(self.stacks, alive, strict=False) if lives] + self.stacks[begun:]
        for worker, lives in zip(self.workers, alive, strict=True):
            if lives:
                os.kill(worker.pid, signal.SIGTERM)

    def await_workers(self) -> None:
        """Until they are gone or the time for it is up."""
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
    said = run_quietly(["scontrol", "show", "job", "-o", job_id()], ANSWER) or ""
    return "JobState=CANCELLED" in said or "JobState=COMPLETING" in said
