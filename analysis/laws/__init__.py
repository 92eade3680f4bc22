"""The laws that a figure fits, by name. To add one: a function with its docstring, and an entry in LAWS."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.laws.batch_size import linear, noise_scale, openai_alpha, power, sqrt, sqrt_saturating, surge

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    Attributes:
        starts: (batch sizes, learning rates) -> values from which a fit starts, each tried.
        low, high: (batch sizes, learning rates) -> bounds. A fit that ends on one says so.
        log: the fit runs in the logarithm, so that the value stays positive.
    """

    name: str
    starts: Callable[[Points, Points], list[float]]
    low: Callable[[Points, Points], float]
    high: Callable[[Points, Points], float]
    log: bool = True


@dataclass(frozen=True)
class Law:
    """A law to fit: predict(batch_size, **parameters) -> learning rate."""

    name: str
    predict: Callable[..., Points]
    parameters: tuple[Parameter, ...]
    equation: str

    @property
    def source(self) -> str:
        """Where the law comes from, read from the docstring of its function."""
        return read_section(self.predict, "Source")

    @property
    def valid_when(self) -> str:
        """Under which conditions the law is expected to hold, read from the docstring of its function."""
        return read_section(self.predict, "Valid when")


def read_section(function: Callable[..., object], title: str) -> str:
    """The text after `title:` in a docstring, up to the next section; raises where there is none."""
    lines = iter((function.__doc__ or "").splitlines())
    for line in lines:
        if line.strip().startswith(f"{title}:"):
            words = [line.strip().removeprefix(f"{title}:").strip()]
            for follow in lines:
                if not follow.startswith(" " * 8):
                    break
                words.append(follow.strip())
            return " ".join(words)
    raise AssertionError(f"{function.__name__} has no section {title!r} in its docstring")


COEFFICIENT = Parameter(
    "coefficient",
    starts=lambda b, lr: [
        float(np.exp(np.mean(np.log(lr / b)))),
        float(np.exp(np.mean(np.log(lr / np.sqrt(b))))),
    ],
    low=lambda b, lr: 1e-6 * float(lr.min() / b.max()),
    high=lambda b, lr: 1e6 * float(lr.max()),
)
EXPONENT = Parameter(
    "exponent",
    starts=lambda b, lr: [float(np.polyfit(np.log(b), np.log(lr), 1)[0])],
    low=lambda b, lr: -3.0,
    high=lambda b, lr: 3.0,
    log=False,
)
LR_MAX = Parameter(
    "lr_max",
    starts=lambda b, lr: [float(lr.max()), 3 * float(lr.max())],
    low=lambda b, lr: 0.1 * float(lr.min()),
    high=lambda b, lr: 1e4 * float(lr.max()),
)
NOISE_SCALE = Parameter(
    "noise_scale",
    starts=lambda b, lr: [float(b.min()), float(np.sqrt(b.min() * b.max())), float(b.max())],
    low=lambda b, lr: 1e-3 * float(b.min()),
    high=lambda b, lr: 1e6 * float(b.max()),
)
ALPHA = Parameter("alpha", starts=lambda b, lr: [0.75], low=lambda b, lr: 0.5, high=lambda b, lr: 1.0, log=False)
KAPPA = Parameter(
    "kappa",
    starts=lambda b, lr: [float(np.sqrt(b.min())), float(np.sqrt(b.max()))],
    low=lambda b, lr: 1e-2 * float(np.sqrt(b.min())),
    high=lambda b, lr: 1e3 * float(np.sqrt(b.max())),
)
BETA_NOISE = Parameter(
    "beta_noise",
    starts=lambda b, lr: [0.2, 0.7, 2.0],
    low=lambda b, lr: 1e-3,
    high=lambda b, lr: 1e3,
)

LAWS = {
    law.name: law
    for law in (
        Law("linear", linear, (COEFFICIENT,), "c B"),
        Law("sqrt", sqrt, (COEFFICIENT,), "c √B"),
        Law("power", power, (COEFFICIENT, EXPONENT), "c B^p"),
        Law("noise_scale", noise_scale, (LR_MAX, NOISE_SCALE), "η_max / (1 + B_noise/B)"),
        Law("sqrt_saturating", sqrt_saturating, (LR_MAX, NOISE_SCALE), "η_max / √(1 + B_noise/B)"),
        Law("openai_alpha", openai_alpha, (LR_MAX, NOISE_SCALE, ALPHA), "η_max / (1 + B_noise/B)^α"),
        Law("surge", surge, (LR_MAX, KAPPA, BETA_NOISE), "2 η_max / (β_n/β + β/β_n)"),
    )
}
