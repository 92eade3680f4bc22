"""Optimizers as init/update pairs, written for one tensor of one run.

    state = init(param)
    update, state = update(grad, state, param, hyper)      param + update is the next param

`hyper` maps every number of the optimizer's YAML file to a 0-d tensor (lr already multiplied by the schedule) and
`step` to the 1-based number of this update. Numbers are tensors, so that a stack holds one value a run; what is no
number there (a flag) is bound when the pair is made. Weight decay is decoupled everywhere:
update -= lr weight_decay param. An optimizer that does not work entry by entry names `layout` in its signature, and is
handed which entries are a matrix.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from harness.config import Part, check_choice
from harness.optimizers import adam, muon, sgd, sign
from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


class Optimizer(NamedTuple):
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor, Hyper], tuple[Tensor, State]]


# name -> a function of the config's flags, and of the layout where it names it, that gives the pair
OPTIMIZERS: dict[str, Callable[..., tuple]] = {
    "sgd": sgd.sgd,
    "signsgd": sign.signsgd,
    "signum": sign.signum,
    "softsign": sign.softsign,
    "rmsprop": adam.rmsprop,
    "adam": adam.adam,
    "adamw": adam.adamw,
    "muon": muon.muon,
}


def make_optimizer(config: Part, layout: Layout) -> Optimizer:
    """The pair that a config's name and flags choose, for parameters laid out like that in one vector."""
    check_choice("optimizer.name", config["name"], OPTIMIZERS)
    make = OPTIMIZERS[str(config["name"])]
    flags: dict[str, Any] = {k: v for k, v in config.items() if k != "name" and not isinstance(v, float)}
    if "layout" in inspect.signature(make).parameters:
        flags["layout"] = layout
    return Optimizer(*make(**flags))
