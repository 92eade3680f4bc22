"""How alike the direction of a step is to that of steps before, tensor by tensor: update_autocorrelation_LAG.TENSOR.

    u = -(new - old) / lr - weight_decay old,        rho_LAG = u_t . u_(t - LAG) / (|u_t| |u_(t - LAG)|)

The correlation about zero that the random walk of weights asks for, RMS^2 = lr / (2 weight_decay) mean(u^2) F,
F = sum_k rho_|k| (1 - lr weight_decay)^|k|. Directions come from the parameters on both sides of a step, copied at the
few steps that need it: no other step is touched, whatever it is taken by.

Shapes: R runs, N parameters of one run, T tensors that have columns.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from harness.noise_scale import steps_measured
from harness.parameters import Layout
from harness.per_tensor import cosine, measured_tensors, rms, split
from harness.records import LAGS

ROUNDING = 4  # a change's RMS over (machine epsilon x RMS of weights) below which it is not told


def steps_correlated(points: Iterable[int]) -> set[int]:
    """Points of a curve that have autocorrelations: the last, and those as far before the next as the largest lag.

    Three directions are then kept at most, however close the points.
    """
    return steps_measured(points, every=max(LAGS), earliest=1 + min(LAGS))


def steps_kept(correlated: Iterable[int]) -> set[int]:
    """Steps whose direction is needed: those points, and a lag before each."""
    return {step - lag for step in correlated for lag in (0, *LAGS) if step > lag}


def direction(layout: Layout, old_N: Tensor, new_N: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
    """u_N of one run's step from the parameters before and after it.

    NaN for a tensor whose change is so small that the rounding of its parameters would count: an RMS of .29 epsilon
    |w|, so that from ROUNDING = 4 on a correlation is off by less than 1 %.

    Args:
        hyper: the numbers of that step, 0-d or one an entry.
    """
    moved_N = new_N - old_N
    if "weight_decay" in hyper:
        moved_N = torch.addcmul(moved_N, old_N, hyper["lr"] * hyper["weight_decay"])
    told = [
        torch.where(rms(moved) >= ROUNDING * torch.finfo(old.dtype).eps * rms(old), moved, torch.nan)
        for moved, old in zip(split(layout, moved_N), split(layout, old_N), strict=True)
    ]
    return torch.cat(told) / -hyper["lr"]


def autocorrelations(layout: Layout, directions: Mapping[int, Tensor], step: int) -> Tensor:
    """Of a point of the curves: (R, LAGS x T), in the order of columns; NaN where a direction is not there.

    Args:
        directions: step -> u_RN.
    """
    chosen, now = measured_tensors(layout), split(layout, directions[step])
    rows = []
    for lag in LAGS:
        before = directions.get(step - lag)
        pieces = now if before is None else split(layout, before)
        alike = [cosine(now[i], pieces[i]) for i in chosen]
        rows += alike if before is not None else [torch.full_like(value, torch.nan) for value in alike]
    return torch.stack(rows, dim=-1)
