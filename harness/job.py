"""Train one stack whose lease is held: rows of results, checkpoints along the way, records at the end."""

import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness.checkpoint import as_begun, checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import flatten
from harness.estimate import check_memory
from harness.imports import has_own_code, own_code_sha256
from harness.leases import Lease, is_held
from harness.log import log_event
from harness.machine import JOB_VARIABLE, is_out_of_memory
from harness.measure import note_fact
from harness.memory import measure_memory
from harness.metrics import METRICS
from harness.noise_scale import NOISE_SCALES
from harness.per_tensor import describe_left_out
from harness.plan import Plan, Stack, name_program
from harness.plan_file import read_plan, revise
from harness.probe import probe_run
from harness.program import Program, make_program
from harness.ranks import RankLost, Ranks
from harness.records import code_sha256, write_records
from harness.results import describe_device, describe_size, measured_names, summarise_all
from harness.store import StoreError
from harness.train import Progress, train
from harness.unfinished import remove_ended
from harness.weights import save_weights

NOT_BUILT = ("unbuildable", "unbuilt")  # what is told of a build that failed: for good, or this time
WORTH_NOTING = 20  # steps; the time of fewer says little
SHARE = 0.02  # most of the time that checkpoints may take: where they are dear they come less often

Report = Callable[[dict[str, Any]], None]


class Stopped(Exception):
    """Training was asked to end before its last step; what it reached is in a checkpoint."""


class Lost(Exception):
    """Another worker took the lease over: this one was thought dead, and must not publish."""


@dataclass(frozen=True)
class Job:
    """One stack to train, its lease held.

    Attributes:
        planned: the stack as planned: its name is that of lease, log, checkpoints and record files.
        stack: those of its runs that did not end yet.
        attempt: number of the record file to publish, fixed when the lease was taken.
        ranks: of a stack that several processes share, of which this is the first.
    """

    folder: Path
    plan: Plan
    planned: Stack
    stack: Stack
    lease: Lease
    attempt: int
    device: torch.device
    checkpoint: float
    stop: threading.Event
    lost: threading.Event
    report: Report
    ranks: Ranks | None = None


def train_job(job: Job, plan_path: Path, index: int, columns: Mapping[str, type]) -> bool:
    """Train, and publish or tell why not; True unless runs failed."""
    began, clock = datetime.now(UTC), time.perf_counter()
    name = job.planned.name
    rows: list[dict[str, Any]] | None = None
    try:
        rows = train_rows(job)
    except (Lost, RankLost, StoreError):
        raise
    except Stopped as stopped:
        log_event(job.folder, "stopped", name, step=stopped.args[0])
        job.report({"stopped": stopped.args[0]})
        return False
    except Exception as error:
        # Whatever a model or task raises must cost its own stack only, and say why
        log = job.folder / f"stack-{name}.log"
        reason, trace, no_memory = describe_error(error), traceback.format_exc(), is_out_of_memory(error)
    if rows is None:
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
        if no_memory and len(job.stack.runs) > 1 and fits_alone(job):
            halve(job, plan_path, index)
            return True
        try:
            log.write_text(trace)
            reason = f"{reason} (see {log})"
        except OSError:
            pass  # the reason itself is told all the same
        if no_memory:
            reason += "; even one run alone does not fit: give a smaller model or batch size, or a larger machine"
        rows = [{"status": "failed", "message": reason} for _ in job.stack.runs]
        log_event(job.folder, "failed", name, message=reason)
    write_rows(job, rows, plan_path, began, time.perf_counter() - clock, columns)
    ended = [name for name, row in zip(job.stack.runs, rows, strict=True) if row["status"] != "failed"]
    if ended:
        log_event(job.folder, "end", name, runs=len(ended))
        remove_ended(job.folder, ended, job.plan.since)
    job.report(
        {"ended": [(n, row["status"], row["message"]) for n, row in zip(job.stack.runs, rows, strict=True)]}
    )  # fmt: skip
    return bool(ended)


def train_rows(job: Job) -> list[dict[str, Any]]:
    """Results of every run of a job's stack, in its order. Raises: Stopped, Lost, and whatever the model raises."""
    plan, stack = job.plan, as_begun(job.folder, job.plan, job.stack, job.device)
    job = replace(job, stack=stack)
    key = checkpoint_key(plan, stack, job.device)
    unbuilt: list[dict[str, Any]] = []

    def hear(fact: dict[str, Any]) -> None:
        if fact["what"] in NOT_BUILT and "of" not in fact:  # of the step
            unbuilt.append(fact)
        note(job, fact)

    program = make_program(stack, job.device, job.folder.parent, note=hear, ranks=job.ranks)
    if len(stack.runs) > 1:  # halves are smaller; a run alone may try
        check_memory(program, stack, job.device)
    if plan.per_tensor and (left_out := describe_left_out(program.layout)):
        job.report({"warning": left_out})
    progress = load_checkpoint(job.folder, stack, key, job.device, lambda line: job.report({"warning": line}))
    at, samples = (progress.step, progress.step * stack.first.batch_size) if progress else (0, 0)
    details: dict[str, Any] = {"runs": len(stack.runs), "step": at, "since": plan.since, "run_ids": list(stack.runs)}
    if job.ranks:
        job.ranks.begin(stack.runs, at)
        details["ranks"] = job.ranks.pids()
    log_event(job.folder, "start", job.planned.name, **details)
    if samples:
        job.report({"samples": samples * len(stack.runs), "batch_size": stack.first.batch_size, "best_loss": None})
    warned, saved, pause = False, time.monotonic(), job.checkpoint

    def save(reached: Progress) -> None:
        nonlocal warned
        try:
            key["compiled"] = stack.compiled and not unbuilt  # whoever goes on takes such steps
            save_checkpoint(job.folder, job.planned.name, plan.sweep, stack, reached, key)
        except (StoreError, MemoryError) as error:
            if not warned:
                job.report({"warning": f"no checkpoint: {str(error) or 'out of memory'}"})
            warned = True

    def end_if_asked(reached: Progress) -> None:
        if job.lost.is_set():
            raise Lost
        if job.ranks.stopped if job.ranks else job.stop.is_set():
            save(reached)
            raise Stopped(reached.step)

    steps = train(
        program, stack, num_evals=plan.num_evals, num_examples=plan.num_examples, noise_scale=plan.noise_scale,
        per_tensor=plan.per_tensor, resume=progress,
    )  # fmt: skip
    clock, seconds, timed = 0.0, 0.0, 0
    for progress in steps:  # none where a checkpoint holds the last step
        now_clock = time.perf_counter()
        measured = progress.history.get("step", [0])[-1] == progress.step
        if clock and not measured:  # neither the first step, which records and builds, nor points of the curves
            seconds, timed = seconds + now_clock - clock, timed + 1
        clock = now_clock
        if measured:
            losses = [loss for loss in progress.history["loss"][-1] if loss == loss]
            now = progress.history["num_samples"][-1]
            message = {"samples": (now - samples) * len(stack.runs), "batch_size": stack.first.batch_size}
            job.report(message | {"best_loss": min(losses, default=None)})
            samples = now
        end_if_asked(progress)
        if time.monotonic() - saved >= pause:
            began = time.monotonic()
            save(progress)
            saved = time.monotonic()
            pause = max(job.checkpoint, (saved - began) / SHARE)
            clock = time.perf_counter()  # saving is no part of the next step
    assert progress is not None, "a run has at least one step, and the last step is a point of its curve"
    job = replace(job, ranks=None)  # the others have ended: what follows is this process's alone
    compiled = stack.compiled and not unbuilt
    note_speed(job, seconds, timed, compiled=compiled)
    if progress.step < stack.first.num_steps:
        left = (stack.first.num_steps - progress.step) * stack.first.batch_size
        job.report({"skipped": left * len(stack.runs)})
    rows = summarise_all(program, stack, progress)
    same = describe_size(program, stack, job.device, seconds, timed) | {"provenance.compiled": compiled}
    rows = [row | same for row in rows]
    if stack.first.protocol == "one_step":
        if not is_held(job.lease):
            raise Lost
        probes = probe_runs(job, program, progress, rows, partial(end_if_asked, progress))
        rows = [row | probed for row, probed in zip(rows, probes, strict=True)]
    if plan.memory:
        seen = measure_memory(program, stack, progress.params_RN)
        rows = [row | own if row["status"] == "done" else row for row, own in zip(rows, seen, strict=True)]
    if plan.save_weights:
        if not is_held(job.lease):
            raise Lost
        save_weights(job.folder, plan.sweep, stack, program, progress, rows)  # before the records: these end it
    return rows


def probe_runs(
    job: Job, program: Program, progress: Progress, rows: list[dict[str, Any]], between: Callable[[], None]
) -> Iterator[dict[str, Any]]:
    """What one step does from the parameters that each run has reached; nothing of a run that diverged."""
    for (name, config), params_N, row in zip(job.stack.runs.items(), progress.params_RN, rows, strict=True):
        done = row["status"] == "done"
        yield probe_run(program, config, params_N, job.folder, name, between) if done else {}


def note(job: Job, fact: dict[str, Any]) -> None:
    """Keep what was learned about speed for the next sweep of this shape; a run is as good without it."""
    if fact["what"] == "built":
        fact["kind"] = name_program(job.stack)
    if fact["what"] in NOT_BUILT:
        job.report({"warning": f"no machine code, steps are recorded instead: {fact['reason']}"})
    if fact["what"] == "unbuilt":
        return  # the next one may be
    try:
        note_fact(job.folder.parent, job.stack.first, job.device.type, fact)
    except StoreError as error:
        job.report({"warning": f"what was measured is not kept: {error}"})


def note_speed(job: Job, seconds: float, steps: int, *, compiled: bool) -> None:
    if steps < WORTH_NOTING or job.stack.ranks > 1:  # what is kept is of one process
        return
    width = len(job.stack.runs)
    if compiled:
        note(job, {"what": "compiled", "width": width, "seconds": seconds / steps / width})
    else:
        note(job, {"what": "recorded", "width": width, "seconds": seconds, "run_steps": steps * width})


def write_rows(
    job: Job,
    rows: list[dict[str, Any]],
    plan_path: Path,
    began: datetime,
    seconds: float,
    columns: Mapping[str, type],
) -> None:
    """Publish a stack's records, if the lease is still held. Raises: Lost, StoreError."""
    provenance = {
        "plan": plan_path.stem,
        "stack": job.planned.name,
        "width": len(job.stack.runs),
        "ranks": job.stack.ranks,
        "device": describe_device(job.device),
        "host": platform.node(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "code_sha256": code_sha256(),
        "own_code_sha256": own_code_sha256(job.stack.first) if has_own_code(job.stack.first) else None,
        "started": began.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="microseconds"),
        "seconds": seconds / len(job.stack.runs),
        "job": os.environ.get(JOB_VARIABLE),
    }
    named = [
        {"run_id": name, "sweep": job.plan.sweep, **flatten(config), **row}
        | {f"provenance.{key}": value for key, value in provenance.items()}
        for (name, config), row in zip(job.stack.runs.items(), rows, strict=True)
    ]
    if not is_held(job.lease):
        raise Lost
    name, attempt = job.planned.name, job.attempt
    metrics = dict.fromkeys((*METRICS, *(NOISE_SCALES if job.plan.noise_scale else ())))
    metrics |= dict.fromkeys(name for row in rows for name in measured_names(row))  # those of tensors: by the model
    path = write_records(
        job.folder, name, named, columns=columns, metrics=metrics, attempt=attempt, memory=job.plan.memory
    )
    if path is None:
        raise Lost  # we were asleep between the two lines, and whoever took over has published


def halve(job: Job, plan_path: Path, index: int) -> None:
    """Out of memory: make the stack two halves in a new revision of the plan."""
    ended = set(job.planned.runs) - set(job.stack.runs)
    revise(plan_path, read_plan(plan_path), index, ended)
    log_event(job.folder, "halved", job.planned.name, message="out of memory")
    job.report({"halved": "out of memory"})


def fits_alone(job: Job) -> bool:
    """Whether one run takes its first step: if not, halving on and on would only take time."""
    if job.ranks:
        return True  # the others take no step with it: halves will tell
    one = job.stack.only(list(job.stack.runs)[:1])
    try:
        program = make_program(one, job.device, job.folder.parent)
        next(train(program, one, num_evals=job.plan.num_evals, num_examples=job.plan.num_examples))
    except Exception as error:
        return not is_out_of_memory(error)
    return True


def describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
