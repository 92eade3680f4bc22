"""Adam and AdamW."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def adam() -> tuple[Callable, Callable]:
    """Adam with epsilon outside the root, after bias correction.

        m <- beta1 m + (1 - beta1) g           v <- beta2 v + (1 - beta2) g^2
        update = -lr (m / c1) / (sqrt(v / c2) + eps),        c_i = 1 - beta_i^step

    Valid when: beta1^2 < beta2. A row that is rarely hit moves by up to
        lr (1-beta1) / sqrt(1-beta2) / (1-beta1/sqrt(beta2)) a hit.
    Source: Kingma & Ba, arXiv 1412.6980; the place of epsilon as in torch.optim.Adam.
    """
    return init_moments, update_adam


def adamw() -> tuple[Callable, Callable]:
    """Adam with decoupled weight decay.

        update = (Adam's update) - lr weight_decay param

    Valid when: as Adam.
    Source: Loshchilov & Hutter, arXiv 1711.05101; lr multiplies the decay as in torch.optim.AdamW.
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        update, state = update_adam(grad, state, param, hyper)
        return torch.addcmul(update, param, -hyper["lr"] * hyper["weight_decay"]), state

    return init_moments, update


def init_moments(param: Tensor) -> State:
    """Zero first and second moments. Source: Kingma & Ba, arXiv 1412.6980."""
    return {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}


def update_adam(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
    """The update of `adam`, in few passes over memory. Source: Kingma & Ba, arXiv 1412.6980."""
    beta1, beta2, step = hyper["beta1"], hyper["beta2"], hyper["step"]
    exp_avg = torch.lerp(state["exp_avg"], grad, 1 - beta1)
    exp_avg_sq = torch.lerp(state["exp_avg_sq"], grad.square(), 1 - beta2)
    # The corrections are numbers a run: fold them into the two that multiply whole tensors
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    # In place on what was just made: half the traffic to memory, and still a pure function
    denominator = exp_avg_sq.sqrt().mul_(correction2.rsqrt()).add_(hyper["eps"])
    update = torch.div(exp_avg, denominator).mul_(-hyper["lr"] / correction1)
    return update, {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
