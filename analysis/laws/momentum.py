"""Learning rate against batch size and momentum together: pure functions of numpy arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = NDArray[np.float64]


def lr_momentum(
    batch_size: ArrayLike, averaging: ArrayLike, *, coefficient: float, batch_exponent: float, exponent: float
) -> Curve:
    """Optimum learning rate where momentum multiplies the batch size.

        lr = c (B a^q)^p,   a = (1 + beta1) / (1 - beta1)

    q = 1: the average has the noise of a batch a times as large, and so has training. q = 0: momentum cancels.

    Args:
        batch_size: B, samples a step.
        averaging: a, by which an exponential average with beta1 divides the variance of independent gradients.
        coefficient: c, > 0.
        batch_exponent: p, of either sign.
        exponent: q, of either sign.
    Returns: optimum learning rate, in units of the average (torch's SGD sums: its lr is 1 - momentum times that).
    Valid when: B a far below the noise scale.
    Source: kexue.fm/archives/11301 (q = 1).
    """
    b, a = np.asarray(batch_size, dtype=float), np.asarray(averaging, dtype=float)
    return coefficient * (b * a**exponent) ** batch_exponent


def start_momentum(x: NDArray[np.float64], lr: NDArray[np.float64]) -> list[list[float]]:
    """Start of lr_momentum: the plane through the logs, the answer where all points weigh the same."""
    design = np.vstack([np.ones(x.shape[1]), np.log(x)]).T
    (log_c, p, pq), *_ = np.linalg.lstsq(design, np.log(lr), rcond=None)
    return [[float(np.exp(log_c)), float(p), float(pq / p)]]
