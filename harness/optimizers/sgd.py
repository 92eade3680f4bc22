"""Stochastic gradient descent."""

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
        momentum_buffer = torch.addcmul(grad, state["momentum_buffer"], hyper["momentum"])
        direction = torch.addcmul(grad, momentum_buffer, hyper["momentum"]) if nesterov else momentum_buffer
        update = torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"momentum_buffer": momentum_buffer}

    return init, update
