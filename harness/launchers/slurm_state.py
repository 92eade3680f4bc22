"""How SLURM jobs stand: one `squeue` for all of them now and then; `sacct`, where there is one, for those long gone."""

import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from harness.launchers.placed import NoCluster

ASK = 5.0  # seconds between two questions
SILENT = 300.0  # seconds without an answer until it is an error
# State of a job that is over -> exit code of its worker, where that left none (see Placed.ended)
OVER = {
    "COMPLETED": 0, "FAILED": 1, "CANCELLED": 1, "OUT_OF_MEMORY": -9,
    "NODE_FAIL": 3, "BOOT_FAIL": 3, "PREEMPTED": 3, "TIMEOUT": 3, "DEADLINE": 3, "REVOKED": 3,
}  # fmt: skip
FORGOTTEN = "FORGOTTEN"  # neither squeue nor sacct knows it any more
SILENCE = "UNKNOWN"  # squeue has not answered yet


@dataclass(frozen=True)
class State:
    word: str  # PENDING, RUNNING, ...
    details: str = ""  # where it runs, or why it waits

    @property
    def code(self) -> int | None:
        """None for a job that waits, runs or is queued again."""
        return 3 if self.word == FORGOTTEN else OVER.get(self.word)

    def describe(self) -> str:
        return f"{self.word} {self.details}".strip()


class JobStates:
    """States of this user's jobs, as SLURM last told them."""

    def __init__(self) -> None:
        self.known: dict[str, State] = {}
        self.wanted: set[str] = set()
        self.began = time.monotonic()
        self.answered: float | None = None
        self.asked = -ASK

    def want(self, job: str) -> None:
        """Ask for a job, which was submitted by now, from the next question on."""
        self.wanted.add(job)

    def of(self, job: str) -> State:
        """A job's state; PENDING for one submitted after the last question, UNKNOWN before SLURM's first answer.

        Raises: NoCluster when SLURM has not answered for minutes.
        """
        if time.monotonic() - self.asked >= ASK:
            self.asked = time.monotonic()
            self.ask()
        if self.answered is None:
            return State(SILENCE, "(squeue does not answer; is SLURM_CONF set in this shell?)")
        return self.known.get(job, State("PENDING"))

    def ask(self) -> None:
        # -t all: jobs that ended a few minutes ago too; -r: a line a task of an array
        answer = run_quietly(["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%r"])
        if answer is None:
            if time.monotonic() - (self.answered or self.began) > SILENT:
                text = f"squeue has not answered for {SILENT:.0f} s"
                raise NoCluster(f"{text}: jobs go on, and the same command collects them")
            return
        ended = {job: state for job, state in self.known.items() if state.code is not None}
        self.known, self.answered = ended | read_squeue(answer), time.monotonic()
        if forgotten := self.wanted - set(self.known):
            found = ask_sacct(forgotten)
            self.known |= {job: found.get(job, State(FORGOTTEN, "by SLURM")) for job in forgotten}


def read_squeue(answer: str) -> dict[str, State]:
    states = {}
    for line in answer.splitlines():
        job, word, nodes, reason = line.split("|", 3)
        waits = word == "PENDING" and reason not in ("", "None")
        states[job] = State(word, f"on {nodes}" if nodes else f"({reason})" if waits else "")
    return states


def ask_sacct(jobs: Iterable[str]) -> dict[str, State]:
    """From the accounting database, where the cluster has one."""
    numbers = ",".join(sorted({job.partition("_")[0] for job in jobs}))
    return read_sacct(run_quietly(["sacct", "-X", "-n", "-P", "-j", numbers, "-o", "JobID,State,NodeList"]) or "")


def read_sacct(answer: str) -> dict[str, State]:
    states = {}
    for line in answer.splitlines():
        job, word, nodes = line.split("|", 2)
        states[job] = State(word.split()[0], f"on {nodes}" if nodes else "")  # "CANCELLED by 1000"
    return states


def run_quietly(command: list[str], seconds: float = 60.0) -> str | None:
    """What a command prints; None where it is missing, fails, or takes longer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
