"""How alike the direction of a step is to that of steps before, tensor by tensor: update_autocorrelation_LAG.TENSOR.

    -lr u = (new - old) + lr weight_decay old,        rho_LAG = u_t . u_(t - LAG) / (|u_t| |u_(t - LAG)|)

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
from harness.per_tensor import measured_tensors, split
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


def direction(old_N: Tensor, new_N: Tensor, hyper: Mapping[str, Tensor]) -> Tensor:
    """-lr u of one run's step from the parameters before and after it: (N,).

    Within a tensor lr is one number, which a correlation does not see.

    Args:
        hyper: the numbers of that step, 0-d or one an entry.
    """
    moved_N = new_N - old_N
    if "weight_decay" not in hyper:
        return moved_N
    return torch.addcmul(moved_N, old_N, hyper["lr"] * hyper["weight_decay"])


def autocorrelations(layout: Layout, params_RN: Tensor, directions: Mapping[int, Tensor], step: int) -> Tensor:
    """Of a point of the curves: (R, LAGS x T), in the order of columns.

    NaN where a direction is not there, and for a tensor that a step moves so little that the rounding of its parameters
    would count: it has an RMS of .29 epsilon |w| at most, so that from ROUNDING = 4 on a correlation is off by less
    than 1 %.

    Args:
        directions: step -> -lr u_RN.
    """
    chosen = measured_tensors(layout)

    def norms(value_RN: Tensor) -> Tensor:
        pieces = split(layout, value_RN)
        return torch.stack([pieces[i].norm(dim=-1) for i in chosen], dim=-1)

    now_RN = directions[step]
    now_RT, least_RT = norms(now_RN), ROUNDING * torch.finfo(params_RN.dtype).eps * norms(params_RN)
    rows = []
    for lag in LAGS:
        if step - lag not in directions:
            rows.append(torch.full_like(now_RT, torch.nan))
            continue
        before_RT = norms(directions[step - lag])
        products = split(layout, now_RN * directions[step - lag])
        dots_RT = torch.stack([products[i].sum(-1) for i in chosen], dim=-1)
        told = (now_RT >= least_RT) & (before_RT >= least_RT)
        rows.append(torch.where(told, dots_RT / (now_RT * before_RT), torch.nan))
    return torch.cat(rows, dim=-1)
