"""AdamW's timescale: the share of a run over which weights average updates. Pure functions of numpy arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def timescale(lr: ArrayLike, weight_decay: ArrayLike, steps: ArrayLike) -> Array:
    """Length of the average in units of the run.

        tau = 1 / (lr weight_decay T)

    Args:
        lr: peak, > 0, weights a step.
        weight_decay: > 0.
        steps: T of the run, or of an epoch (Wang & Aitchison), > 0.
    Returns: tau, dimensionless.
    Valid when: a definition.
    Source: Wang & Aitchison, arXiv 2405.13698; Bergsma et al., arXiv 2505.13738.
    """
    rate = np.asarray(lr, dtype=float) * np.asarray(weight_decay, dtype=float)
    return 1 / (rate * np.asarray(steps, dtype=float))
