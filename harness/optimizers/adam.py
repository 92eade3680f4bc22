"""Adam and its kin: gradients divided by the root of a mean square, entry by entry."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def adam(*, eps_inside: bool = False) -> tuple[Callable, Callable]:
    """Adam with epsilon outside the root, after bias correction, or inside.

        m <- beta1 m + (1 - beta1) g           v <- beta2 v + (1 - beta2) g^2
        update = -lr (m / c1) / (sqrt(v / c2) + eps),        c_i = 1 - beta_i^step
        eps_inside: -lr (m / c1) / sqrt(v / c2 + eps^2)

    eps has the unit of the gradient in both. At beta1 = beta2 = 0 the second is softsign. Where eps = sqrt(v / c2) they
    differ by sqrt(2).

    Valid when: beta1^2 < beta2. A row that is rarely hit moves by up to
        lr (1-beta1) / sqrt(1-beta2) / (1-beta1/sqrt(beta2)) a hit.
    Source: Kingma & Ba, arXiv 1412.6980; outside as in torch.optim.Adam; inside as in kexue.fm/archives/10563 (others
        write sqrt(v + eps), whose eps is the square of this one).
    """
    return init_moments, update_adam_inside if eps_inside else update_adam


def adamw(*, eps_inside: bool = False) -> tuple[Callable, Callable]:
    """Adam with decoupled weight decay.

        update = (Adam's update) - lr weight_decay param

    Valid when: as Adam.
    Source: Loshchilov & Hutter, arXiv 1711.05101; lr multiplies the decay as in torch.optim.AdamW.
    """
    adapt = update_adam_inside if eps_inside else update_adam

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        update, state = adapt(grad, state, param, hyper)
        return torch.addcmul(update, param, -hyper["lr"] * hyper["weight_decay"]), state

    return init_moments, update


def rmsprop() -> tuple[Callable, Callable]:
    """RMSprop with epsilon outside the root and no bias correction: early steps are up to 1/sqrt(1 - beta2) too long.

        v <- beta2 v + (1 - beta2) g^2
        update = -lr (g / (sqrt(v) + eps) + weight_decay param)

    beta2 is what torch calls alpha; weight decay is decoupled, unlike torch's.

    Valid when: steps >> 1 / (1 - beta2), or a learning rate that the first steps bear.
    Source: Tieleman & Hinton 2012 (lecture 6.5) as in torch.optim.RMSprop, not centered, without momentum.
    """

    def init(param: Tensor) -> State:
        return {"exp_avg_sq": torch.zeros_like(param)}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        exp_avg_sq = torch.lerp(state["exp_avg_sq"], grad.square(), 1 - hyper["beta2"])
        direction = torch.div(grad, exp_avg_sq.sqrt().add_(hyper["eps"]))
        update = torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"exp_avg_sq": exp_avg_sq}

    return init, update


def adabelief() -> tuple[Callable, Callable]:
    """Adam that divides by how far gradients lie from their average, and not by how large they are.

        m as in adam           s <- beta2 s + (1 - beta2) (g - m)^2 + eps
        update = -lr (m / c1) / (sqrt(s / c2) + eps) - lr weight_decay param

    m has taken in g before it is subtracted, so at beta1 = 0 only eps is left. eps comes in twice, as in the paper:
    within s, where it is a square and adds up to eps / (1 - beta2), and outside the root. No rectified start.

    Valid when: beta1 > 0.
    Source: Zhuang et al., arXiv 2010.07468.
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        rate1, rate2 = 1 - hyper["beta1"], 1 - hyper["beta2"]
        exp_avg = torch.lerp(state["exp_avg"], grad, rate1)
        exp_avg_sq = torch.lerp(state["exp_avg_sq"], (grad - exp_avg).square(), rate2) + hyper["eps"]
        state = {"exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq, **update_corrections(state, rate1, rate2)}
        denominator = exp_avg_sq.sqrt().mul_(state["correction2"].rsqrt()).add_(hyper["eps"])
        update = torch.div(exp_avg, denominator).mul_(-hyper["lr"] / state["correction1"])
        return torch.addcmul(update, param, -hyper["lr"] * hyper["weight_decay"]), state

    return init_moments, update


def adax() -> tuple[Callable, Callable]:
    """Adam whose mean square weighs old gradients more than new ones, and so comes to rest.

        m <- beta1 m + (1 - beta1) g           v_i = sum_j (1 + beta2)^(i - j) beta2 g_j^2 / ((1 + beta2)^i - 1)
        update = -lr (m / (sqrt(v) + eps) + weight_decay param)

    The sums grow without end, and are kept as their quotient: v <- v + (g^2 - v) / q, where q <- (1 + beta2) q + 1 is
    ((1 + beta2)^step - 1) / beta2, from 0. At beta2 = 0 it is the plain mean. Here beta2 is a rate of growth, small,
    unlike Adam's. m is not corrected for its start at 0. eps outside the root as in the authors' code;
    kexue.fm has it inside.

    Valid when: gradients of the first 1 / beta2 steps have the size of later ones, which hardly change v any more.
    Source: Li et al., arXiv 2004.09740 (AdaX-W); kexue.fm/archives/7387.
    """

    def init(param: Tensor) -> State:
        zeros = {name: torch.zeros_like(param) for name in ("exp_avg", "mean_sq")}
        return {**zeros, "weight_sum": param.new_zeros(())}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        weight_sum = (1 + hyper["beta2"]) * state["weight_sum"] + 1
        exp_avg = torch.lerp(state["exp_avg"], grad, 1 - hyper["beta1"])
        mean_sq = torch.lerp(state["mean_sq"], grad.square(), 1 / weight_sum)
        direction = torch.div(exp_avg, mean_sq.sqrt().add_(hyper["eps"]))
        update = torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"exp_avg": exp_avg, "mean_sq": mean_sq, "weight_sum": weight_sum}

    return init, update


def init_moments(param: Tensor) -> State:
    """Zero first and second moments, and as much of each average as has come in. Source: arXiv 1412.6980."""
    return {
        "exp_avg": torch.zeros_like(param),
        "exp_avg_sq": torch.zeros_like(param),
        "correction1": param.new_zeros(()),
        "correction2": param.new_zeros(()),
    }


def update_moments(grad: Tensor, state: State, hyper: Hyper) -> State:
    """One step of both averages and of their corrections. Source: Kingma & Ba, arXiv 1412.6980."""
    rate1, rate2 = 1 - hyper["beta1"], 1 - hyper["beta2"]
    return {
        "exp_avg": torch.lerp(state["exp_avg"], grad, rate1),
        "exp_avg_sq": torch.lerp(state["exp_avg_sq"], grad.square(), rate2),
        **update_corrections(state, rate1, rate2),
    }


def update_corrections(state: State, rate1: Tensor, rate2: Tensor) -> State:
    """One step of c_i = 1 - beta_i^step as what it is: an average of ones.

    A power of a run's own number would be taken anew for every element by compiled steps, and loses digits that the
    average keeps: with beta2 in float32, (1 - beta2) / (1 - beta2) is 1. Source: Kingma & Ba, arXiv 1412.6980.
    """
    return {
        "correction1": state["correction1"] + rate1 * (1 - state["correction1"]),
        "correction2": state["correction2"] + rate2 * (1 - state["correction2"]),
    }


def update_adam(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
    """The update of `adam`, in few passes over memory. Source: Kingma & Ba, arXiv 1412.6980."""
    state = update_moments(grad, state, hyper)
    # The corrections are numbers a run: fold them into the two that multiply whole tensors.
    # In place on what was just made: half the traffic to memory, and still a pure function
    denominator = state["exp_avg_sq"].sqrt().mul_(state["correction2"].rsqrt()).add_(hyper["eps"])
    return torch.div(state["exp_avg"], denominator).mul_(-hyper["lr"] / state["correction1"]), state


def update_adam_inside(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
    """The update of `adam` with epsilon inside the root. Source: kexue.fm/archives/10563."""
    state = update_moments(grad, state, hyper)
    denominator = state["exp_avg_sq"].div(state["correction2"]).add_(hyper["eps"].square()).sqrt_()
    return torch.div(state["exp_avg"], denominator).mul_(-hyper["lr"] / state["correction1"]), state
