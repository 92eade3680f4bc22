"""Optimizers as init/update pairs, written for one tensor of one run.

    state = init(param)
    update, state = update(grad, state, param, hyper)      param + update is the next param

`hyper` maps every number of the optimizer's YAML file to a 0-d tensor (lr already multiplied by the schedule) and
`step` to the 1-based number of this update. Numbers are tensors, so that a stack holds one value a run; what is no
number there (a flag) is bound when the pair is made. Weight decay is decoupled everywhere:
update -= lr weight_decay param.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor

from harness.config import Part, check_choice
from harness.optimizers import adam, sgd, sign

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


class Optimizer(NamedTuple):
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor, Hyper], tuple[Tensor, State]]


# name -> a function of the config's flags that gives the pair
OPTIMIZERS: dict[str, Callable[..., tuple]] = {
    "sgd": sgd.sgd,
    "signsgd": sign.signsgd,
    "signum": sign.signum,
    "softsign": sign.softsign,
    "rmsprop": adam.rmsprop,
    "adam": adam.adam,
    "adamw": adam.adamw,
}


def make_optimizer(config: Part) -> Optimizer:
    """The pair that a config's name and flags choose."""
    check_choice("optimizer.name", config["name"], OPTIMIZERS)
    flags = {key: value for key, value in config.items() if key != "name" and not isinstance(value, float)}
    return Optimizer(*OPTIMIZERS[str(config["name"])](**flags))
