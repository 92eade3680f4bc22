"""What is measured of a run beside its loss. One run's vectors in, numbers out.

Shapes: N all parameters of one run.
"""

from collections.abc import Callable

from torch import Tensor


def grad_norm(params_N: Tensor, grad_N: Tensor, update_N: Tensor) -> Tensor:
    """Euclidean norm of the training batch's gradient, all tensors together."""
    return grad_N.norm()


def update_rms(params_N: Tensor, grad_N: Tensor, update_N: Tensor) -> Tensor:
    """Root mean square over entries of what the step adds to the parameters, learning rate and decay included."""
    return update_N.square().mean().sqrt()


def weight_rms(params_N: Tensor, grad_N: Tensor, update_N: Tensor) -> Tensor:
    """Root mean square over entries of the parameters before the step."""
    return params_N.square().mean().sqrt()


METRICS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "grad_norm": grad_norm,
    "update_rms": update_rms,
    "weight_rms": weight_rms,
}
