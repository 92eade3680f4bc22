"""Updates of (nearly) unit size: the sign of the gradient, of its average, and a sign that is soft near zero."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def signsgd() -> tuple[Callable, Callable]:
    """The sign of the gradient.

        update = -lr (sign(g) + weight_decay param)        sign(0) = 0

    Valid when: any. Rows whose gradient is exactly zero (bytes that a batch lacks) do not move.
    Source: Bernstein et al., arXiv 1802.04434; kexue.fm/archives/10542.
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        return torch.addcmul(torch.sign(grad), param, hyper["weight_decay"]) * -hyper["lr"], {}

    return init_nothing, update


def signum() -> tuple[Callable, Callable]:
    """The sign of an exponential moving average of the gradient; signsgd at momentum 0.

        m <- momentum m + (1 - momentum) g
        update = -lr (sign(m) + weight_decay param)        sign(0) = 0

    The average is not corrected for its start at 0: a sign does not see its size.

    Valid when: any. A row that is hit once moves on by lr a step until m underflows, which it may never do. An entry
        whose gradient was NaN once does not move again, sign(NaN) being 0 in torch; tiger passes such gradients over.
    Source: Bernstein et al., arXiv 1802.04434 (Signum); kexue.fm/archives/9512 (Tiger).
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        exp_avg = torch.lerp(state["exp_avg"], grad, 1 - hyper["momentum"])
        update = torch.addcmul(torch.sign(exp_avg), param, hyper["weight_decay"]) * -hyper["lr"]
        return update, {"exp_avg": exp_avg}

    return init_average, update


def lion() -> tuple[Callable, Callable]:
    """The sign of an average that weighs the newest gradient more than the memory behind it does.

        u = sign(beta1 m + (1 - beta1) g)                  sign(0) = 0
        m <- beta2 m + (1 - beta2) g
        update = -lr (u + weight_decay param)

    At beta1 = beta2 it is signum.

    Valid when: any; lr about a tenth of Adam's with ten times its decay. As signum for rows rarely hit and for NaN.
    Source: Chen et al., arXiv 2302.06675 (Lion); kexue.fm/archives/9473.
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        direction = torch.sign(torch.lerp(state["exp_avg"], grad, 1 - hyper["beta1"]))
        exp_avg = torch.lerp(state["exp_avg"], grad, 1 - hyper["beta2"])
        return torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"], {"exp_avg": exp_avg}

    return init_average, update


def softsign() -> tuple[Callable, Callable]:
    """A sign that is linear below eps: Adam without memory, with epsilon inside the root.

        update = -lr (g / sqrt(g^2 + eps^2) + weight_decay param)        0 where g = eps = 0

    Valid when: any. eps << |g|: signsgd; eps >> |g|: sgd at learning rate lr / eps.
    Source: kexue.fm/archives/10563.
    """

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        size = torch.hypot(grad, hyper["eps"])
        direction = torch.where(size > 0, grad / size, 0.0)
        return torch.addcmul(direction, param, hyper["weight_decay"]) * -hyper["lr"], {}

    return init_nothing, update


def init_nothing(param: Tensor) -> State:
    """No memory."""
    return {}


def init_average(param: Tensor) -> State:
    """An average of gradients that starts at zero."""
    return {"exp_avg": torch.zeros_like(param)}
