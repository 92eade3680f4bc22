"""Laws that are fitted to points in any variables, by name. To add one: a function, its starts, and an entry here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from analysis.laws.epsilon import (
    epsilon_crossover,
    epsilon_crossover_inside,
    epsilon_ratio,
    start_crossover,
    start_ratio,
)
from analysis.laws.hyperbola import hyperbola, hyperbola_power, start_hyperbola, start_hyperbola_power
from analysis.laws.model_size import loss_power, lr_power, lr_power_batch, start_loss, start_plane
from analysis.laws.momentum import lr_momentum, start_momentum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PointLaw:
    """A law of one or several variables: predict(*variables, **parameters) -> response, positive.

    Attributes:
        variables, response: columns of a table.
        parameters: by name, in the order of a start; `signed` are those that may be negative, all others are positive.
        starts: (variables, a row each; responses) -> parameter values from which a fit starts, each tried.
        distinct: values that every variable must have, or the law is refused.
        bounds: of parameters, beyond which a law does not change; without, a positive one stays within 1e6 of a start.
    """

    name: str
    predict: Callable[..., Array]
    variables: tuple[str, ...]
    response: str
    parameters: tuple[str, ...]
    starts: Callable[[Array, Array], list[list[float]]]
    equation: str
    signed: tuple[str, ...] = ()
    distinct: int = 2
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)


SIZES = ("num_params", "num_samples")
LOSS = (
    "irreducible_loss",
    "params_coefficient",
    "params_exponent",
    "samples_coefficient",
    "samples_exponent",
)
POWERS = ("params_exponent", "samples_exponent", "batch_exponent")
CORNER = ("steps_min", "critical_batch_size")

POINT_LAWS = {
    law.name: law
    for law in (
        PointLaw("hyperbola", hyperbola, ("batch_size",), "steps", CORNER, start_hyperbola, "S_min (1 + B_crit/B)"),
        PointLaw(
            "hyperbola_power", hyperbola_power, ("batch_size",), "steps", (*CORNER, "sharpness"),
            start_hyperbola_power, "S_min (1 + (B_crit/B)^p)^(1/p)", bounds={"sharpness": (0.1, 20.0)},
        ),
        PointLaw(
            "epsilon_crossover", epsilon_crossover, ("batch_size", "eps"), "lr", ("coefficient", "sigma"),
            start_crossover, "c √B (1 + ε√B/σ)",
        ),
        PointLaw(
            "epsilon_crossover_inside", epsilon_crossover_inside, ("batch_size", "eps"), "lr",
            ("coefficient", "sigma"), start_crossover, "c √B √(1 + ε²B/σ²)",
        ),
        PointLaw(
            "epsilon_ratio", epsilon_ratio, ("reach",), "ratio", ("sigma", "sharpness"), start_ratio,
            "(1 + (ε√B/σ)^p)^(1/p)", bounds={"sharpness": (0.1, 20.0)},
        ),
        PointLaw(
            "lr_momentum", lr_momentum, ("batch_size", "averaging"), "lr",
            ("coefficient", "batch_exponent", "exponent"), start_momentum, "c (B a^q)^p",
            signed=("batch_exponent", "exponent"),
        ),
        PointLaw("loss_power", loss_power, SIZES, "loss", LOSS, start_loss, "E + A/N^α + B/D^β", distinct=3),
        PointLaw(
            "lr_power", lr_power, SIZES, "lr", ("coefficient", *POWERS[:2]), start_plane, "c N^a D^b",
            signed=POWERS[:2],
        ),
        PointLaw(
            "lr_power_batch", lr_power_batch, (*SIZES, "batch_size"), "lr", ("coefficient", *POWERS), start_plane,
            "c N^a D^b B^p", signed=POWERS,
        ),
    )
}  # fmt: skip


def hold(law: PointLaw, **known: float) -> PointLaw:
    """A law with some parameters known, and the others to be fitted."""
    free = [i for i, name in enumerate(law.parameters) if name not in known]
    return replace(
        law, predict=partial(law.predict, **known), parameters=tuple(law.parameters[i] for i in free),
        starts=lambda x, y: [[start[i] for i in free] for start in law.starts(x, y)],
    )  # fmt: skip
