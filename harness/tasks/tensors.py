"""A user's own data: inputs and targets as tensors, from a function by its import path.

Shapes: B samples, then whatever the user's model takes.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.config import Part
from harness.imports import load_import
from harness.tasks.modules import module_task
from harness.tasks.random import HELDOUT, TRAINING, draw
from harness.tasks.types import Batch, Task

PARTS = ("training inputs", "training targets", "held-out inputs", "held-out targets")


def tensors_task(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Predict targets from inputs; loss is cross-entropy for whole-number targets, else the mean squared error.

    Sample i of a seed is drawn with replacement by a counter-based generator, so it is a function of (seed, i) alone.
    Held-out samples come without replacement, in one shuffled order; there may be fewer than asked for.
    """
    inputs, targets, heldout_inputs, heldout_targets = load_data(str(task["data"]), device)
    criterion = mean_squared_error if targets.is_floating_point() else F.cross_entropy

    def sample(seed: int, start: int, n: int) -> Batch:
        chosen = draw(seed, TRAINING, start, n) % np.uint64(len(inputs))
        index = torch.from_numpy(chosen.astype(np.int64)).to(device)
        return inputs[index], targets[index]

    def heldout(n: int) -> Batch:
        order = torch.from_numpy(np.argsort(draw(0, HELDOUT, 0, len(heldout_inputs)), kind="stable")[:n]).to(device)
        return heldout_inputs[order], heldout_targets[order]

    return module_task(task, model, device, criterion, sample=sample, heldout=heldout)


def load_data(path: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the user's function returns.

    Raises: ValueError unless that is four tensors, inputs and targets of the same lengths.
    """
    returned = load_import("task.data", path)()
    data = tuple(returned) if isinstance(returned, tuple | list) else (returned,)
    if len(data) != 4 or not all(isinstance(part, Tensor) for part in data):
        kinds = ", ".join(type(part).__name__ for part in data)
        raise ValueError(f"task.data={path!r} returned ({kinds}): return four tensors, {', '.join(PARTS)}")
    lengths = [len(part) for part in data]
    if lengths[0] != lengths[1] or lengths[2] != lengths[3] or 0 in lengths:
        words = ", ".join(f"{length} {name}" for length, name in zip(lengths, PARTS, strict=True))
        raise ValueError(f"task.data={path!r} returned {words}: one target an input, and at least one of each")
    inputs, targets, heldout_inputs, heldout_targets = (part.detach().to(device) for part in data)
    return inputs, targets, heldout_inputs, heldout_targets


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    if outputs.shape != targets.shape:  # torch would broadcast (B, 1) against (B,) to (B, B)
        shapes = f"{tuple(outputs.shape[1:])} a sample, targets {tuple(targets.shape[1:])}"
        raise ValueError(f"outputs have shape {shapes}: make them the same, or set task.loss")
    return F.mse_loss(outputs, targets.to(outputs.dtype))
