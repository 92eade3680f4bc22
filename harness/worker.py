"""One process, one stack: `python -m harness.worker PLAN STACK [DEVICE]`.

Trains what the stack's records lack, writes them, and ends. Progress goes to whoever started it through a pipe, and
when that pipe closes (the launcher is gone, by whatever end) the worker ends too.
"""

import ctypes
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch.func does at its first use, which takes a second: the fork server does it once for all

from harness.config import flatten
from harness.metrics import METRICS
from harness.plan import Plan, Stack, read_plan
from harness.program import Program, make_program
from harness.records import code_sha256, read_ended, write_records
from harness.train import Progress, evaluate, train


def run_stack(plan_path: Path, index: int, device: str, pipe: Connection | None = None) -> bool:
    """Train stack `index` of a plan and publish its records; True unless its runs failed.

    A run that fails takes its stack with it: every run of it is recorded as failed, with the reason, and trained again
    next time.
    """
    plan = read_plan(plan_path)
    folder = plan_path.parent
    stack = plan.stacks[index].without(read_ended(folder, plan.since))
    if not stack.runs:
        return True
    began, clock = datetime.now(UTC), time.perf_counter()
    try:
        program = make_program(stack, torch.device(device), folder.parent)
        rows = list(train_rows(program, plan, stack, pipe))
    except Exception as error:
        # Whatever a model or task raises must cost its own stack only, and say why
        log = folder / f"stack-{stack.name}.log"
        log.write_text(traceback.format_exc())
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        rows = [{"status": "failed", "message": f"{reason} (see {log})"} for _ in stack.runs]
    provenance = {
        "plan": plan_path.stem,
        "stack": stack.name,
        "width": len(stack.runs),
        "device": describe_device(device),
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "code_sha256": code_sha256(),
        "started": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seconds": (time.perf_counter() - clock) / len(stack.runs),
    }
    named = [
        {"run_id": name, "sweep": plan.sweep, **flatten(config), **row}
        | {f"provenance.{key}": value for key, value in provenance.items()}
        for (name, config), row in zip(stack.runs.items(), rows, strict=True)
    ]
    write_records(folder, stack.name, named, columns=plan.columns, metrics=METRICS)
    if pipe is not None:
        pipe.send({"ended": [(row["status"], row["message"]) for row in rows]})
    return all(row["status"] != "failed" for row in rows)


def train_rows(program: Program, plan: Plan, stack: Stack, pipe: Connection | None) -> Iterable[Mapping[str, Any]]:
    """Results of every run of a stack, in its order."""
    progress, samples = None, 0
    for progress in train(program, stack, num_evals=plan.num_evals, num_examples=plan.num_examples):
        if pipe is not None and progress.history.get("step", [0])[-1] == progress.step:
            losses = [loss for loss in progress.history["loss"][-1] if loss == loss]
            now = progress.history["num_samples"][-1]
            pipe.send({"samples": (now - samples) * len(stack.runs), "best_loss": min(losses, default=None)})
            samples = now
    assert progress is not None, "a run has at least one step, and the last step is a point of its curve"
    heldout = program.task.heldout(int(str(stack.first.task["num_heldout"])))
    for lane, loss in enumerate(evaluate(program, progress, heldout).tolist()):
        yield summarise(progress, lane, loss) | {"num_params": progress.params_RN.shape[1]}


def summarise(progress: Progress, lane: int, loss: float) -> dict[str, Any]:
    """One run's results. A run that diverged has no loss, and its curve ends where it did."""
    step = int(progress.diverged_at_R[lane])
    steps = progress.history["step"]
    length = sum(1 for point in steps if not step or point < step)
    curves = {
        name: [point[lane] if isinstance(point, list) else point for point in points[:length]]
        for name, points in progress.history.items()
    }
    finals = {name: curve[-1] for name, curve in curves.items() if curve and name in ("train_loss", *METRICS)}
    finite = loss == loss and abs(loss) != float("inf")
    message = f"training loss not finite at step {step}" if step else "" if finite else "final loss not finite"
    status = "diverged" if message else "done"
    history = {f"history.{name}": curve for name, curve in curves.items()}
    return {"status": status, "message": message, "loss": loss if finite else None} | finals | history


def describe_device(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"cpu ({platform.machine()})"


def prepare_process(device: str) -> None:
    """Settings that a training process wants: one thread on a CPU, and memory that is kept instead of given back."""
    if device == "cpu":
        torch.set_num_threads(1)
        if platform.libc_ver()[0] == "glibc":
            # By default glibc returns every large block at once: page faults cost more than small models' steps do
            libc = ctypes.CDLL("libc.so.6")
            m_trim_threshold, m_mmap_threshold = -1, -3
            libc.mallopt(m_mmap_threshold, 1 << 30)
            libc.mallopt(m_trim_threshold, 1 << 25)


def work_for(plan_path: Path, index: int, device: str, pipe: Connection) -> None:
    """Entry point of a launcher's child process: as the command, but it ends with its launcher."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the launcher, which ends its workers
    threading.Thread(target=end_with, args=(pipe,), daemon=True).start()
    prepare_process(device)
    sys.exit(0 if run_stack(plan_path, index, device, pipe) else 1)


def end_with(pipe: Connection) -> None:
    """Nobody ever writes to this end: reading returns when the other end is gone."""
    try:
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)


def main() -> int:
    if len(sys.argv) not in (3, 4) or not sys.argv[2].isdigit():
        print(
            "usage: python -m harness.worker PLAN STACK [DEVICE], e.g. runs/smoke/plan-0123.json 0 cpu",
            file=sys.stderr,
        )
        return 2
    plan_path, index = Path(sys.argv[1]), int(sys.argv[2])
    device = sys.argv[3] if len(sys.argv) == 4 else read_plan(plan_path).device
    prepare_process(device)
    return 0 if run_stack(plan_path, index, device) else 1


if __name__ == "__main__":
    sys.exit(main())
