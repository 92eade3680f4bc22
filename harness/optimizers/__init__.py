"""Optimizers as init/update pairs, written for one tensor of one run.

    state = init(param)
    update, state = update(grad, state, param, hyper)      param + update is the next param

`hyper` maps every number of the optimizer's YAML file to a 0-d tensor (lr already multiplied by the schedule) and
`step` to the 1-based number of this update. Numbers are tensors, so that a stack holds one value a run; what is no
number there (a flag) is bound when the pair is made. Weight decay is decoupled, update -= lr weight_decay param, but
for tiger and lamb, whose steps scale it with the rest, and amos, which has its own. An optimizer that does not work
entry by entry names `layout` in its signature, and is handed where each tensor lies and which are matrices.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from harness.checks import check_choice
from harness.config import Part
from harness.optimizers import adafactor, adam, amos, lamb, muon, muon_stiefel, sgd, sign, tiger
from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


class Optimizer(NamedTuple):
    init: Callable[[Tensor], State]
    update: Callable[[Tensor, State, Tensor, Hyper], tuple[Tensor, State]]


# name -> a function of the config's flags, and of the layout where it names it, that gives the pair
OPTIMIZERS: dict[str, Callable[..., tuple]] = {
    "sgd": sgd.sgd,
    "eg": sgd.eg,
    "signsgd": sign.signsgd,
    "signum": sign.signum,
    "lion": sign.lion,
    "tiger": tiger.tiger,
    "softsign": sign.softsign,
    "rmsprop": adam.rmsprop,
    "adam": adam.adam,
    "adamw": adam.adamw,
    "adabelief": adam.adabelief,
    "adax": adam.adax,
    "adafactor": adafactor.adafactor,
    "amos": amos.amos,
    "lamb": lamb.lamb,
    "muon": muon.muon,
    "muon_stiefel": muon_stiefel.muon_stiefel,
}


def make_optimizer(config: Part, layout: Layout) -> Optimizer:
    """The pair that a config's name and flags choose, for parameters laid out like that in one vector."""
    check_choice("optimizer.name", config["name"], OPTIMIZERS)
    make = OPTIMIZERS[str(config["name"])]
    flags: dict[str, Any] = {k: v for k, v in config.items() if k != "name" and not isinstance(v, float)}
    if "layout" in inspect.signature(make).parameters:
        flags["layout"] = layout
    return Optimizer(*make(**flags))


def state_sizes(optimizer: Optimizer, layout: Layout) -> dict[str, int]:
    """How many numbers one run's state holds, by name; nothing is allocated."""
    state = optimizer.init(torch.empty(layout.num_params, device="meta"))
    return {name: value.numel() for name, value in state.items()}
