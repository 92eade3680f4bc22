"""Derivatives of a mean loss along directions, and products with its Hessian, piece by piece so that memory is bounded.

Shapes: K directions, N parameters of one run, M samples.
"""

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from harness.parameters import Layout, flatten_params, unflatten_params
from harness.tasks import Batch, Task

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch about itself, where forward mode is first used
    import torch._decomp.decompositions_for_jvp

SAMPLES_AT_ONCE = 512
NUMBERS_AT_ONCE = 2**18  # entries of the directions that are followed at once, at least LEAST of them
LEAST, MOST = 8, 512
Loss = Callable[[Mapping[str, Tensor], Batch], Tensor]


def pieces_of(batch: Batch, size: int = SAMPLES_AT_ONCE) -> list[tuple[float, Batch]]:
    """Pieces of a batch, each with its share of the samples."""
    count = len(batch[0])
    cut = [tuple(part[first : first + size] for part in batch) for first in range(0, count, size)]
    return [(len(piece[0]) / count, piece) for piece in cut]


def at_once(directions_KN: Tensor) -> int:
    """How many directions are followed at once: few of a large model, for memory, many of a small one, for speed."""
    return min(MOST, max(LEAST, NUMBERS_AT_ONCE // directions_KN.shape[1]))


def value_and_tangent(function: Callable[[Tensor], Tensor], at: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """f(at) and its derivative along a direction."""
    value, slope = jvp(function, (at,), (towards,))[:2]
    return value, slope


def tangent(function: Callable[[Tensor], Tensor], at: Tensor, towards: Tensor) -> Tensor:
    return value_and_tangent(function, at, towards)[1]


def losses_along(loss: Loss, params_N: Tensor, layout: Layout, batch: Batch, points_KN: Tensor) -> Tensor:
    """Mean loss at params + each of K displacements, in float64."""

    def value(displacement_N: Tensor, piece: Batch) -> Tensor:
        return loss(unflatten_params(params_N + displacement_N, layout), piece)

    at_all = vmap(value, in_dims=(0, None))
    total_K = torch.zeros(len(points_KN), dtype=torch.float64, device=params_N.device)
    for share, piece in pieces_of(batch):
        few = points_KN.split(at_once(points_KN))
        total_K += share * torch.cat([at_all(points, piece) for points in few]).double()
    return total_K


def derivatives_along(loss: Loss, params_N: Tensor, layout: Layout, batch: Batch, directions_KN: Tensor) -> Tensor:
    """First, second and third derivative of the mean loss along each direction, (K, 3) in float64.

        d_n = (d/dt)^n L(params + t u) at t = 0:    g.u,    u.H u,    and the third

    By nested forward-mode differentiation: no gradient is taken, and no memory but a few times that of one evaluation.
    """

    def value(direction_N: Tensor, piece: Batch) -> Tensor:
        def along(t: Tensor) -> Tensor:
            return loss(unflatten_params(params_N + t * direction_N, layout), piece)

        zero = torch.zeros((), dtype=params_N.dtype, device=params_N.device)
        one = torch.ones_like(zero)

        def first(t: Tensor) -> Tensor:
            return tangent(along, t, one)[None]

        def second(t: Tensor) -> Tensor:
            return torch.cat(value_and_tangent(first, t, one))

        lower, higher = value_and_tangent(second, zero, one)
        return torch.cat((lower, higher[1:]))

    return average(value, batch, directions_KN)


def gauss_newton_along(task: Task, params_N: Tensor, layout: Layout, batch: Batch, directions_KN: Tensor) -> Tensor:
    """u.G u for each direction, (K, 1) in float64: the curvature of the criterion along what u does to the outputs.

        u.G u = d^2/ds^2 mean criterion(z + s J u),    z the module's outputs, J their Jacobian

    Positive for a convex criterion; without what the outputs' own second derivatives add to H. A task without a module
    has no outputs: NaN.
    """
    if task.outputs is None or task.criterion is None:
        return torch.full((len(directions_KN), 1), torch.nan, dtype=torch.float64, device=params_N.device)
    outputs, criterion = task.outputs, task.criterion

    def value(direction_N: Tensor, piece: Batch) -> Tensor:
        def of_params(own_N: Tensor) -> Tensor:
            return outputs(unflatten_params(own_N, layout), piece)

        z, moved = value_and_tangent(of_params, params_N, direction_N)
        zero = torch.zeros((), dtype=z.dtype, device=z.device)
        one = torch.ones_like(zero)

        def slope(s: Tensor) -> Tensor:
            return tangent(lambda r: criterion(z + r * moved, piece[-1]), s, one)

        return tangent(slope, zero, one)[None]

    return average(value, batch, directions_KN)


def average(value: Callable[[Tensor, Batch], Tensor], batch: Batch, directions_KN: Tensor) -> Tensor:
    """Mean over the samples of what `value` gives for a direction and a piece of them, in float64."""
    at_all = vmap(value, in_dims=(0, None))
    pieces = []
    with torch.no_grad():
        for share, piece in pieces_of(batch):
            parts = [at_all(few, piece) for few in directions_KN.split(at_once(directions_KN))]
            pieces.append(share * torch.cat(parts).double())
    return torch.stack(pieces).sum(0)


def hessian_products(loss: Loss, params_N: Tensor, layout: Layout, batch: Batch, directions_KN: Tensor) -> Tensor:
    """H v for each direction, (K, N)."""

    def product(direction_N: Tensor, piece: Batch) -> Tensor:
        def slope(own_N: Tensor) -> Tensor:
            return flatten_params(grad(loss)(unflatten_params(own_N, layout), piece))

        return tangent(slope, params_N, direction_N)

    at_all = vmap(product, in_dims=(0, None))
    total_KN = torch.zeros_like(directions_KN)
    for share, piece in pieces_of(batch):
        total_KN += share * torch.cat([at_all(few, piece) for few in directions_KN.split(at_once(directions_KN))])
    return total_KN


def sample_gradients(loss: Loss, params_N: Tensor, layout: Layout, batch: Batch) -> Tensor:
    """The gradient of every sample's own loss, (M, N)."""

    def one(sample: Batch) -> Tensor:
        params = unflatten_params(params_N, layout)
        return flatten_params(grad(loss)(params, tuple(part[None] for part in sample)))

    grads_MN = params_N.new_empty(len(batch[0]), len(params_N))  # filled in place: joining would hold all of it twice
    first = 0
    for _, piece in pieces_of(batch):
        last = first + len(piece[0])
        grads_MN[first:last] = vmap(one)(piece)
        first = last
    return grads_MN
