"""How SLURM jobs stand: one `squeue` for all of them now and then; `sacct`, where there is one, for those long gone."""

import subprocess
import time
from dataclasses import dataclass

ASK = 5.0  # seconds between two questions
SILENT = 300.0  # seconds without an answer until it is an error
# State of a job that is over -> exit code of its worker, where that left none (see Placed.ended)
OVER = {
    "COMPLETED": 0, "FAILED": 1, "CANCELLED": 1, "OUT_OF_MEMORY": -9,
    "NODE_FAIL": 3, "BOOT_FAIL": 3, "PREEMPTED": 3, "TIMEOUT": 3, "DEADLINE": 3, "REVOKED": 3,
}  # fmt: skip
FORGOTTEN = "no longer known to SLURM"


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
        self.asked = self.answered = time.monotonic() - ASK

    def of(self, job: str) -> State:
        """Raises: ValueError when SLURM has not answered for minutes."""
        now = time.monotonic()
        if now - self.asked >= ASK:
            self.asked = now
            self.ask()
        if job not in self.known and self.asked == now:
            gone = ask_sacct(job)
            self.known[job] = gone or State(FORGOTTEN)
        # Submitted after the last question: it waits
        return self.known.get(job, State("PENDING"))

    def ask(self) -> None:
        # -t all: jobs that ended a few minutes ago too; -r: a line a task of an array
        answer = run_quietly(["squeue", "--me", "-h", "-r", "-t", "all", "-o", "%i|%T|%N|%r"])
        if answer is not None:
            ended = {job: state for job, state in self.known.items() if state.code is not None}
            self.known, self.answered = ended | read_squeue(answer), time.monotonic()
        elif time.monotonic() - self.answered > SILENT:
            raise ValueError(
                f"squeue has not answered for {SILENT:.0f} s: jobs go on, and the same command collects them"
            )


def read_squeue(answer: str) -> dict[str, State]:
    states = {}
    for line in answer.splitlines():
        job, word, nodes, reason = line.split("|", 3)
        waits = word == "PENDING" and reason not in ("", "None")
        states[job] = State(word, f"on {nodes}" if nodes else f"({reason})" if waits else "")
    return states


def ask_sacct(job: str) -> State | None:
    """From the accounting database, where the cluster has one."""
    answer = run_quietly(["sacct", "-X", "-n", "-P", "-j", job, "-o", "JobID,State,NodeList"])
    return read_sacct(answer or "").get(job)


def read_sacct(answer: str) -> dict[str, State]:
    states = {}
    for line in answer.splitlines():
        job, word, nodes = line.split("|", 2)
        states[job] = State(word.split()[0], f"on {nodes}" if nodes else "")  # "CANCELLED by 1000"
    return states


def run_quietly(command: list[str]) -> str | None:
    """What a command prints; None where it is missing, fails, or takes a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
