"""Stochastic gradient descent, and step sizes that it learns by the way."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def sgd(*, nesterov: bool) -> tuple[Callable, Callable]:
    """SGD with torch's momentum, a sum of gradients and not their average.

        m <- momentum m + g
        update = -lr m                         nesterov: -lr (g + momentum m)
        update -= lr weight_decay param        decoupled, unlike torch.optim.SGD

    Valid when: any. The best lr is (1 - momentum) times that of the form with an exponential moving average.
    Source: Sutskever et al. 2013 as in torch.optim.SGD; decoupled decay as in Loshchilov & Hutter, arXiv 1711.05101.
    """

    def init(param: Tensor) -> State:
        return {"momentum_buffer": torch.zeros_like(param)}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        momentum_buffer, direction = take_momentum(grad, state, hyper, nesterov=nesterov)
        update = torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"momentum_buffer": momentum_buffer}

    return init, update


def eg(*, nesterov: bool) -> tuple[Callable, Callable]:
    """SGD with a step size for every parameter, which grows where successive gradients agree and shrinks else.

        log nu <- log nu + gamma g_prev g            nu = 1 and g_prev = 0 before the first step
        update = -lr (nu m + weight_decay param)     m as in sgd

    That is gradient descent on log nu of the loss after the step before: its derivative there is -lr nu g_prev g, of
    which gamma takes in lr nu. With momentum the step before went along m and not g_prev; the product remains that of
    gradients. gamma has the unit of an inverse square gradient; at 0 it is sgd. Weight decay keeps lr alone.

    Valid when: gamma std(g)^2 sqrt(num_steps) < 1, or log nu wanders off by the noise of the products; white noise lets
        nu only shrink.
    Source: kexue.fm/archives/8968; Amid et al., arXiv 2202.00145 (exponentiated gradients on step sizes).
    """

    def init(param: Tensor) -> State:
        return {name: torch.zeros_like(param) for name in ("momentum_buffer", "log_nu", "last_grad")}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        momentum_buffer, direction = take_momentum(grad, state, hyper, nesterov=nesterov)
        log_nu = torch.addcmul(state["log_nu"], state["last_grad"] * grad, hyper["gamma"])
        update = torch.addcmul(log_nu.exp() * direction, param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"momentum_buffer": momentum_buffer, "log_nu": log_nu, "last_grad": grad}

    return init, update


def take_momentum(grad: Tensor, state: State, hyper: Hyper, *, nesterov: bool) -> tuple[Tensor, Tensor]:
    """The sum of gradients and the direction to go, of `sgd`. Source: Sutskever et al. 2013 as in torch.optim.SGD."""
    momentum_buffer = torch.addcmul(grad, state["momentum_buffer"], hyper["momentum"])
    return momentum_buffer, torch.addcmul(grad, momentum_buffer, hyper["momentum"]) if nesterov else momentum_buffer
