"""What training has found, as columns of the runs' records."""

import platform
from collections.abc import Mapping
from typing import Any

import torch

from harness.config import RunConfig
from harness.machine import peak_flops
from harness.metrics import METRICS
from harness.plan import Stack
from harness.program import Program
from harness.protocols import measure_target
from harness.train import Progress, evaluate
from harness.unfinished import lane_history


def summarise_all(program: Program, stack: Stack, progress: Progress) -> list[dict[str, Any]]:
    """Results of every run of a stack, in its order."""
    heldout = program.task.heldout(int(str(stack.first.task["num_heldout"])))
    losses = evaluate(program, progress, heldout).tolist()
    rows = [summarise(progress, lane, loss) for lane, loss in enumerate(losses)]
    return [row | outcome(config, row) for config, row in zip(stack.runs.values(), rows, strict=True)]


def summarise(progress: Progress, lane: int, loss: float) -> dict[str, Any]:
    """One run's results. A run that diverged has no loss, and its curve ends where it did."""
    step = int(progress.diverged_at_R[lane])
    curves = lane_history(progress.history, lane, step)
    measured = set(curves) - {"step", "num_samples", "loss"}
    optional = measured - {"train_loss", *METRICS}  # what cannot be told of them is null
    curves |= {name: [None if x != x else x for x in curves[name]] for name in optional}
    step = max(step, 0)  # a minus is a target reached
    finals = {name: curve[-1] for name, curve in curves.items() if curve and name in measured}
    finite = loss == loss and abs(loss) != float("inf")
    message = f"training loss not finite at step {step}" if step else "" if finite else "final loss not finite"
    status = "diverged" if message else "done"
    history = {f"history.{name}": curve for name, curve in curves.items()}
    return {"status": status, "message": message, "loss": loss if finite else None} | finals | history


def outcome(config: RunConfig, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns in which a protocol's outcome lies, where that is not the loss."""
    if config.protocol != "steps_to_target":
        return {}
    assert config.target_loss is not None, "steps_to_target has a target"
    return measure_target(
        row["history.step"], row["history.loss"], target=config.target_loss, half_life=config.smoothing,
        batch_size=config.batch_size, done=row["status"] == "done",
    )  # fmt: skip


def measured_names(row: Mapping[str, Any]) -> list[str]:
    """What a run's curve was measured of, its steps and losses apart."""
    names = [name.removeprefix("history.") for name in row if name.startswith("history.")]
    return [name for name in names if name not in ("step", "num_samples", "loss", "train_loss")]


def describe_size(program: Program, stack: Stack, device: torch.device, seconds: float, steps: int) -> dict[str, Any]:
    """Columns on how large a model is, and how fast its steps are.

    Args:
        seconds, steps: how long so many steps of the whole stack took.
    """
    layout, per_token = program.layout, getattr(program.task.module, "flops_per_token", None)
    row = {"num_params": layout.num_params, "num_params_non_embedding": layout.num_params_non_embedding}
    if not isinstance(per_token, int):
        return row
    row["flops_per_token"] = per_token
    if not steps:
        return row
    tokens = steps * stack.first.batch_size * int(str(stack.first.task["context"])) * len(stack.runs)
    rate = per_token * tokens / seconds
    peak = peak_flops(describe_device(device), stack.first.precision)
    peak = peak and peak * stack.ranks
    return row | {"provenance.flops_per_second": rate, "provenance.mfu": rate / peak if peak else None}


def describe_device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})"
