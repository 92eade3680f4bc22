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


def timescale_power(samples_per_param: ArrayLike, *, coefficient: float = 1.08, exponent: float = -0.527) -> Array:
    """Optimum timescale against tokens per parameter.

        tau = c (D / N)^m

    Args:
        samples_per_param: D / N, tokens per parameter, > 0.
        coefficient: c, > 0; the default is quoted from memory of the paper, not checked.
        exponent: m; the default as well.
    Returns: tau, dimensionless.
    Valid when: language models, one epoch, linear decay to 0; c and m are fits.
    Source: Bergsma et al., Power Lines, arXiv 2505.13738.
    """
    return coefficient * np.asarray(samples_per_param, dtype=float) ** exponent


def weight_decay_of_timescale(tau: ArrayLike, lr: ArrayLike, batch_size: ArrayLike, num_samples: ArrayLike) -> Array:
    """Weight decay that gives a timescale: in proportion to the batch size.

        weight_decay = B / (lr tau D)

    Args:
        tau: timescale, > 0, dimensionless.
        lr: peak, > 0, weights a step.
        batch_size: B, samples a step.
        num_samples: D, samples of the run.
    Returns: weight decay, per unit of lr.
    Valid when: the optimum tau does not depend on B (the claim to test).
    Source: Bergsma et al., arXiv 2505.13738.
    """
    steps = np.asarray(num_samples, dtype=float) / np.asarray(batch_size, dtype=float)
    return 1 / (np.asarray(lr, dtype=float) * np.asarray(tau, dtype=float) * steps)
