"""How much of each batch is left in the final weights, under schedules of lr and weight_decay. Shapes: T steps.

Weights are the exponential average of updates: w_T = left start - sum_j w_j u_j.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import signal

Array = NDArray[np.float64]


def batch_weights(lr_T: ArrayLike, weight_decay_T: ArrayLike, beta1: float = 0.0, *, corrected: bool = False) -> Array:
    """Weight of every batch's gradient in the final weights, exact for updates linear in m.

        w_j = sum_(t >= j) (1 - beta1) beta1^(t-j) lr_t prod_(i > t) (1 - lr_i weight_decay_i)  ~ e^(kappa_j) lr_j

    Args:
        lr_T: lr of every step, >= 0, weights a step.
        weight_decay_T: of every step (multiplied by lr), or one number, >= 0.
        beta1: of the average of gradients, 0 <= beta1 < 1: smears a batch over 1 / (1 - beta1) steps.
        corrected: with Adam's bias correction, lr_t / (1 - beta1^t) in place of lr_t in the sum: the first
            1 / (1 - beta1) batches weigh more.
    Returns: w, (T,), weights per unit of the direction; not normalised.
    Valid when: v of Adam hardly changes; signs are linear in the signal, and so in w, for small s only.
    Source: kexue.fm/archives/11459.
    """
    lr_T, decay_T = np.broadcast_arrays(np.asarray(lr_T, dtype=float), np.asarray(weight_decay_T, dtype=float))
    left_T = np.concatenate([np.cumprod((1 - lr_T * decay_T)[:0:-1])[::-1], [1.0]])
    weights_T = (1 - beta1) * lr_T * left_T
    if corrected:
        weights_T = weights_T / (1 - beta1 ** np.arange(1, len(weights_T) + 1))
    return np.asarray(signal.lfilter([1.0], [1.0, -beta1], weights_T[::-1])[::-1])  # w_j + beta1 w_(j+1) + ...
