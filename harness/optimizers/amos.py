"""Amos: steps and decay in proportion to the scale that each tensor is thought to have in the end.

Shapes: N parameters of one run, T its named tensors.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.parameters import Layout, number_of_tensors, rms_of_tensors, spread_over_tensors

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]

SCALE_OF_VECTORS = 0.5  # of biases, and of gains about 1
DAMPINGS = ("adaptive", "inverse_square", "inverse_time")


def amos(*, damping: str, layout: Layout) -> tuple[Callable, Callable]:
    """Gradients over the running RMS of their tensor, times its scale; a decay that keeps that scale; both damped.

        v <- beta2 v + (1 - beta2) mean(g^2)              one number a tensor, v^ = v / (1 - beta2^step) + eps
        u = damped (lr scale g / sqrt(v^) + 1/2 decay param)
        update = -(momentum average of u)                 m <- momentum m + (1 - momentum) u, from 0
        scale = RMS of the tensor's initial values        matrices, tables of embeddings
                1/2                                       vectors: biases and gains

    damping adaptive, the paper's, with b from 0:
        decay = lr^2 (1 + c_coef sqrt(lr) b)^(-1/2) mean(g^2) / v^,   damped = 1 / (1 + d_coef sqrt(lr scale) b)
        b <- b + decay (1 + b)
    The article's closed forms, for t from 0 and p = `alignment`, the cosine between an update and what is left to go:
        inverse_square        decay = lr^2,   damped = 1 / (1 + lr p t)^2      p constant
        inverse_time          decay = lr^2,   damped = 1 / (1 + 2 lr p t)      p falls as fast as the distance
    They halve the steps after T where lr p = (sqrt(2) - 1) / T, or lr p = 1 / (2 T). The article divides by this step's
    |g| alone, which is beta2 = 0. It sets q = 1 and so does this.

    The decay balances the growth that uncorrelated updates bring: RMS -> scale, up to a factor for momentum. There is
    no weight_decay to set. The paper takes a matrix's scale from its shape (sqrt(2 / inputs) before a ReLU), which is
    about what it is initialised with. It may keep v by rows; here it is the whole tensor's.

    Valid when: schedule=constant, warm-up apart, since damping is the schedule; no matrix starts at zero. adaptive:
        1 - beta2 of the order of lr.
    Source: Tian & Parikh, arXiv 2210.11693; kexue.fm/archives/9344.
    """
    assert damping in DAMPINGS, damping
    is_vector = torch.tensor([kind == "vector" for kind in layout.kinds])

    def init(param: Tensor) -> State:
        scale_T = torch.where(is_vector.to(param.device), SCALE_OF_VECTORS, rms_of_tensors(param, layout))
        zeros = {name: torch.zeros_like(scale_T) for name in ("mean_sq", "progress")}
        return {"exp_avg": torch.zeros_like(param), "scale": scale_T, **zeros, "correction": param.new_zeros(())}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        lr_T, scale_T = number_of_tensors(hyper["lr"], layout), state["scale"]
        square_T, rate = rms_of_tensors(grad, layout).square(), 1 - hyper["beta2"]
        mean_sq_T = torch.lerp(state["mean_sq"], square_T, rate)
        correction = state["correction"] + rate * (1 - state["correction"])
        inverse_T = correction / (mean_sq_T + hyper["eps"])
        progress_T = state["progress"]
        if damping == "adaptive":
            relax_T = torch.rsqrt(1 + hyper["c_coef"] * lr_T.sqrt() * progress_T)
            decay_T = lr_T.square() * relax_T * square_T * inverse_T
            damped_T = 1 / (1 + hyper["d_coef"] * (lr_T * scale_T).sqrt() * progress_T)
            progress_T = progress_T + decay_T * (1 + progress_T)
        else:
            way_T = lr_T * hyper["alignment"] * (hyper["step"] - 1)
            decay_T = lr_T.square().expand_as(scale_T)
            damped_T = 1 / (1 + way_T).square() if damping == "inverse_square" else 1 / (1 + 2 * way_T)
        forward_N = spread_over_tensors(damped_T * lr_T * scale_T * inverse_T.sqrt(), layout) * grad
        back_N = spread_over_tensors(damped_T * decay_T / 2, layout) * param
        exp_avg = torch.lerp(state["exp_avg"], forward_N + back_N, 1 - hyper["momentum"])
        state = {"exp_avg": exp_avg, "scale": scale_T, "mean_sq": mean_sq_T, "progress": progress_T,
                 "correction": correction}  # fmt: skip
        return -exp_avg, state

    return init, update
