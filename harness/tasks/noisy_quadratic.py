"""A quadratic with gradient noise that does not depend on the weights: everything about it is known in closed form.

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


def noisy_quadratic(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Weights on a diagonal quadratic, pulled about by Gaussian noise.

        loss(w, batch) = 1/2 w . H w + w . mean_b xi_b,    H_ii = h_i = i^-power,    xi ~ N(0, Sigma)
        gradient       = H w + mean_b xi_b,   of mean g = H w and covariance Sigma / B

    H is diagonal unless `coupling` adds coupling / dimension to every entry of it.

    Every shape of the noise has trace(Sigma) = dimension std^2:
        isotropic       Sigma = std^2 I
        proportional    Sigma = std^2 dimension H / trace(H)
        correlated      Sigma = std^2 ((1 - correlation) I + correlation 1 1^T): one factor shared by all coordinates
    All weights start at `start`, for every seed: the seed draws the noise. Held-out loss is exact, from one example
    without noise; it is 1/2 start^2 trace(H) at the start and 0 at best.

    One step from w:  B_simple = trace(Sigma) / |H w|^2,  B_noise = trace(Sigma H) / (w^T H^3 w).
    SGD at a constant lr:  E w_i = (1 - lr h_i)^t start,  Var w_i -> lr Sigma_ii / (B h_i (2 - lr h_i)).
    Its stationary loss is lr trace(Sigma) / (4 B) for lr h << 1, whatever the shape of the noise: at equal trace the
    shapes part only where coordinates have not settled.
    Where H is diagonal, an optimizer that works coordinate by coordinate has an expected loss that depends on
    diag(Sigma) alone: for it `correlated` changes the scatter over seeds, and not the mean, of `isotropic`.

    Valid when: any; SGD is stable for lr < 2.
    Source: Zhang et al., arXiv 1907.04164 (noisy quadratic model); kexue.fm/archives/10542.
    """
    dimension = int(str(task["dimension"]))
    h_D = spectrum(dimension, float(str(task["power"])))
    curvature_D = torch.from_numpy(h_D).to(device)
    coupling = float(str(task.get("coupling") or 0.0)) / dimension

    def init(seed: int) -> Params:
        return {"w": torch.full((dimension,), float(str(task["start"])), dtype=torch.float64)}

    def sample(seed: int, start: int, n: int) -> Batch:
        return (torch.from_numpy(draw_noise(task, h_D, seed, start, n)).to(device),)

    def heldout(n: int) -> Batch:
        return (torch.zeros(1, dimension, dtype=torch.float64, device=device),)

    def loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        w_D, (noise_BD,) = params["w"], batch
        own = (curvature_D.to(w_D.dtype) * w_D.square() / 2 + noise_BD.mean(0) * w_D).sum()
        return own + coupling * w_D.sum().square() / 2 if coupling else own

    return Task(init, sample, loss, heldout)


def spectrum(dimension: int, power: float) -> np.ndarray:
    """Eigenvalues of H: h_i = i^-power, i = 1 ... dimension."""
    return np.arange(1, dimension + 1, dtype=np.float64) ** -power


def draw_noise(task: Part, h_D: np.ndarray, seed: int, start: int, n: int) -> np.ndarray:
    """Noise of samples start ... start+n-1 of a seed, float64, (n, dimension). Independent over samples."""
    std, dimension, shape = float(str(task["std"])), len(h_D), task["noise"]
    if shape == "correlated":
        correlation = float(str(task["correlation"]))
        drawn = draw_normal(seed, TRAINING, start, n, dimension + 1)
        return std * (np.sqrt(1 - correlation) * drawn[:, :-1] + np.sqrt(correlation) * drawn[:, -1:])
    share_D = np.ones(dimension) if shape == "isotropic" else dimension * h_D / h_D.sum()
    return std * np.sqrt(share_D) * draw_normal(seed, TRAINING, start, n, dimension)
