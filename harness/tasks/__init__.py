"""Tasks: three functions of one run, and the held-out examples that its final loss is taken on.

init(seed) -> params                  named tensors
sample(seed, start, n) -> batch       samples start ... start+n-1 of that seed's stream, the same for every batch size
loss(params, batch) -> scalar         mean over the batch
heldout(n) -> batch                   the first n held-out examples, the same for every run
"""

from collections.abc import Callable
from pathlib import Path

import torch

from harness.checks import check_choice
from harness.config import Part, RunConfig
from harness.tasks.noisy_quadratic import noisy_quadratic
from harness.tasks.random_walk import random_walk
from harness.tasks.teacher_student import teacher_student
from harness.tasks.tensors import tensors_task
from harness.tasks.text import text_task
from harness.tasks.token_walk import token_walk
from harness.tasks.tokens import tokens_task
from harness.tasks.types import Batch, Params, Task

TASKS: dict[str, Callable[[Part, Part, torch.device, Path | None], Task]] = {
    "python_source": text_task,
    "tensors": tensors_task,
    "text": text_task,
    "tokens": tokens_task,
    "noisy_quadratic": noisy_quadratic,
    "random_walk": random_walk,
    "teacher_student": teacher_student,
    "token_walk": token_walk,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}

__all__ = ["TASKS", "Batch", "Params", "Task", "make_task"]


def make_task(config: RunConfig, device: torch.device, runs_dir: Path | None = None) -> Task:
    """The task of a run, with its data on the device, and parameters and real data in the run's precision.

    Args:
        runs_dir: where the data that a sweep stored lie; None: read them anew.
    """
    check_choice("task.name", config.task["name"], TASKS)
    task = TASKS[str(config.task["name"])](config.task, config.model, device, runs_dir)
    dtype = DTYPES[config.precision]

    def init(seed: int) -> Params:
        return {name: tensor.to(device, dtype) for name, tensor in task.init(seed).items()}

    def convert(batch: Batch) -> Batch:
        return tuple(part.to(dtype) if part.is_floating_point() else part for part in batch)

    def sample(seed: int, start: int, n: int) -> Batch:
        return convert(task.sample(seed, start, n))

    def heldout(n: int) -> Batch:
        return convert(task.heldout(n))

    if task.module is not None:
        task = task._replace(buffers=dict(task.module.to(dtype).named_buffers()))
    return task._replace(init=init, sample=sample, heldout=heldout)
