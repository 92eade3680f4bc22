"""Regression on a fixed random teacher, with inputs of a power-law spectrum and noisy labels.

Shapes: B samples, I inputs, K hidden units of the teacher.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Part
from harness.tasks.modules import module_task
from harness.tasks.random import HELDOUT, TEACHER, TRAINING, draw_normal
from harness.tasks.types import Batch, Task


def teacher_student(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Learn what a tanh network of one hidden layer does; loss is the mean squared error.

        x_i ~ N(0, i^-power)
        f(x) = sum_k a_k tanh(v_k . x) / sqrt(K),    a_k ~ N(0, 1),    v_ki ~ N(0, 1) / sqrt(trace Cov(x))
        y = f(x) + label_noise z

    The teacher is drawn by `task.teacher` and is the same for every seed; the seed draws samples and the student's
    first parameters. Held-out examples carry no label noise: the held-out loss is the excess over the irreducible
    label_noise^2, which the training loss contains.

    Valid when: any; the student takes real vectors (model=perceptron).
    Source: Saad & Solla 1995 (soft committee machine); power-law inputs as in Bordelon et al., arXiv 2402.01092.
    """
    num_inputs = int(str(task["num_inputs"]))
    shape = {"num_inputs": num_inputs, "num_outputs": 1}
    scale_I = np.arange(1, num_inputs + 1, dtype=np.float64) ** (-float(str(task["power"])) / 2)
    first_KI, last_K = draw_teacher(task, scale_I)

    def read(seed: int, stream: int, start: int, n: int, label_noise: float) -> Batch:
        drawn = draw_normal(seed, stream, start, n, num_inputs + 1)
        inputs_BI = drawn[:, :-1] * scale_I
        targets_B = np.tanh(inputs_BI @ first_KI.T) @ last_K + label_noise * drawn[:, -1]
        return torch.from_numpy(inputs_BI).to(device), torch.from_numpy(targets_B).to(device)

    def sample(seed: int, start: int, n: int) -> Batch:
        return read(seed, TRAINING, start, n, float(str(task["label_noise"])))

    def heldout(n: int) -> Batch:
        return read(0, HELDOUT, 0, n, 0.0)

    def criterion(outputs_B1: Tensor, targets_B: Tensor) -> Tensor:
        return (outputs_B1.squeeze(-1) - targets_B).square().mean()

    teacher = torch.from_numpy(first_KI).to(device), torch.from_numpy(last_K).to(device)

    def floor(batch: Batch) -> Tensor:
        inputs_BI, targets_B = (part.double() for part in batch)
        noise_B = targets_B - torch.tanh(inputs_BI @ teacher[0].T) @ teacher[1]
        return noise_B.square().mean()

    made = module_task(task, model, device, criterion, sample=sample, heldout=heldout, **shape)
    return made._replace(floor=floor)


def draw_teacher(task: Part, scale_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The teacher's two layers: v_KI, so that its units see inputs of about unit variance, and a_K / sqrt(K)."""
    hidden = int(str(task["teacher_hidden"]))
    drawn = draw_normal(int(str(task["teacher"])), TEACHER, 0, hidden, len(scale_I) + 1)
    return drawn[:, :-1] / np.sqrt((scale_I**2).sum()), drawn[:, -1] / np.sqrt(hidden)
