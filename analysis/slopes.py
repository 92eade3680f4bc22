"""How steeply the best learning rate moves with the batch size, place by place, with no law assumed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.optimum import Optimum

SPAN = 4  # batch sizes a factor of 2 apart differ by too little: the interval would be twice as wide


@dataclass(frozen=True)
class Slope:
    """d log lr* / d log B between two located batch sizes.

    Attributes:
        low_size, high_size: the two.
        value, low, high: the slope and its 95 % interval.
    """

    low_size: int
    high_size: int
    value: float
    low: float
    high: float


def measure_slopes(optima: Sequence[Optimum], span: float = SPAN) -> list[Slope]:
    """Slopes from every located batch size to the next that is `span` times as large or more.

        slope = (x_j - x_i) / log2(B_j / B_i),   var = (v_i + v_j - 2 cov_ij) / log2(B_j / B_i)^2,   x = log2 lr*

    Args:
        optima: of one group. Cells at an edge, flat or without an error take no part.
        span: smallest ratio of the two batch sizes, > 1.
    Returns: in order of the smaller batch size; neighbours overlap, so their errors are not independent.
    Valid when: the optimum moves evenly between the two; the slope is the mean over that stretch.
    Source: a difference of two correlated estimates; covariance as in optimum.py.
    """
    located = sorted(
        (o for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)), key=lambda o: o.batch_size
    )
    found = []
    for one in located:
        other = next((o for o in located if o.batch_size >= span * one.batch_size), None)
        if other is None:
            continue
        octaves = float(np.log2(other.batch_size / one.batch_size))
        variance = one.sd_log2**2 + other.sd_log2**2 - 2 * one.covariance.get(other.batch_size, 0.0)
        value = float(np.log2(other.lr / one.lr)) / octaves
        half = float(stats.t.ppf(0.975, min(one.dof, other.dof))) * float(np.sqrt(max(variance, 0.0))) / octaves
        found.append(Slope(one.batch_size, other.batch_size, value, value - half, value + half))
    return found


def measure_whole_slope(optima: Sequence[Optimum]) -> Slope | None:
    """The slope from the least located batch size to the largest, or None where there are not two."""
    sizes = [o.batch_size for o in optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    if len(sizes) < 2:
        return None
    return measure_slopes(optima, max(sizes) / min(sizes))[0]
