"""A linear loss with random coefficients: gradients that are pure noise plus drift, and never depend on the weights.

Shapes: B samples, D dimensions.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Part
from harness.tasks.random import TRAINING, draw_normal
from harness.tasks.types import Batch, Params, Task


def random_walk(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Weights that walk: what an optimizer and its weight decay do to gradients that carry no information.

        loss(w, batch) = w . mean_b c_b,    c ~ N(mean 1, std^2 I)
        gradient       = mean_b c_b, of mean `mean` and standard deviation std / sqrt(B) in every coordinate

    All weights start at `start`, for every seed: the seed draws the coefficients. Held-out loss is exact,
    mean sum_i w_i, and has no minimum: what is measured here is the weights (weight_rms, update_rms).
    From sample `change_at` on std is `std_after`: what an optimizer remembers of the noise before. With `width` the
    weights are one matrix of that many columns, with the same coefficients row by row.
    SGD:  E w = start - lr t mean,  Var w = lr^2 t std^2 / B.

    Valid when: any.
    Source: kexue.fm/archives/11307 (weight RMS under gradients that are noise); Kosson et al., arXiv 2305.17212.
    """
    dimension = int(str(task["dimension"]))
    mean, std = float(str(task["mean"])), float(str(task["std"]))
    changes, width = task.get("change_at"), task.get("width")
    shape = (dimension,) if width is None else (-1, int(str(width)))

    def init(seed: int) -> Params:
        return {"w": torch.full((dimension,), float(str(task["start"])), dtype=torch.float64).reshape(shape)}

    def sample(seed: int, start: int, n: int) -> Batch:
        drawn_BD = draw_normal(seed, TRAINING, start, n, dimension)
        if changes is None:
            return (torch.from_numpy(mean + std * drawn_BD).to(device),)
        later_B = np.arange(start, start + n) >= int(str(changes))
        std_B = np.where(later_B, float(str(task["std_after"])), std)
        return (torch.from_numpy(mean + std_B[:, None] * drawn_BD).to(device),)

    def heldout(n: int) -> Batch:
        return (torch.full((1, dimension), mean, dtype=torch.float64, device=device),)

    def loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        (coefficients_BD,) = batch
        return (coefficients_BD.mean(0) * params["w"].reshape(-1)).sum()

    return Task(init, sample, loss, heldout)
