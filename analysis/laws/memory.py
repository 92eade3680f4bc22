"""How much of each batch is left in the final weights, under schedules of lr and weight_decay. Shapes: T steps.

Weights are the exponential average of updates: w_T = left start - sum_j w_j u_j.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
    if beta1 > 0:
        for j in range(len(weights_T) - 2, -1, -1):
            weights_T[j] += beta1 * weights_T[j + 1]
    return weights_T


def static_weights(age: ArrayLike, rate: float, beta1: float) -> Array:
    """batch_weights at a constant lr, per lr, by the age of a batch.

        w = (1 - beta1) (b^(a+1) - beta1^(a+1)) / (b - beta1),    b = 1 - lr weight_decay

    Args:
        age: a, steps since the batch, >= 0.
        rate: lr weight_decay, 0 <= rate < 1, other than 1 - beta1.
        beta1: of the average of gradients, 0 <= beta1 < 1.
    Returns: w / lr, dimensionless.
    Valid when: as batch_weights.
    Source: kexue.fm/archives/11459.
    """
    power, left = np.asarray(age, dtype=float) + 1, 1 - rate
    return (1 - beta1) * (left**power - beta1**power) / (left - beta1)


def participation_ratio(weights_T: ArrayLike) -> float:
    """Share of the batches that count, 1 where all count the same.

        PR = (sum w)^2 / (T sum w^2)

    Args:
        weights_T: of batches, in any unit.
    Returns: PR, 1/T to 1, dimensionless.
    Valid when: any weights that are not all 0.
    Source: the participation ratio; applied to kexue.fm/archives/11459 for this project.
    """
    w_T = np.asarray(weights_T, dtype=float)
    return float(w_T.sum() ** 2 / (len(w_T) * (w_T**2).sum()))


def uniform_lr(lr: float, weight_decay: float, steps: int) -> Array:
    """Schedule of lr under which every batch weighs the same, at constant weight decay.

        lr_t = lr / (1 + lr weight_decay t)

    The RMS of noise falls under it: rms^2 = (start^2 + lr^2 t) / (1 + lr weight_decay t)^2.

    Args:
        lr: at first, > 0, weights a step.
        weight_decay: >= 0.
        steps: T >= 1; t = 0 ... T - 1.
    Returns: lr_t, (T,), weights a step.
    Valid when: beta1 = 0 or 1 / (1 - beta1) << T; exact at any lr weight_decay for t counted from 0.
    Source: kexue.fm/archives/11459.
    """
    return lr / (1 + lr * weight_decay * np.arange(steps, dtype=float))


def uniform_lr_and_decay(lr: float, weight_decay: float, steps: int) -> tuple[Array, Array]:
    """Schedules of lr and of weight decay in proportion, under which every batch weighs the same.

        lr_t / lr = weight_decay_t / weight_decay = 1 / sqrt(1 + 2 lr weight_decay t)

    The RMS of noise tends to sqrt(lr / (2 weight_decay)) as under constant ones.

    Args:
        lr, weight_decay, steps: as in uniform_lr.
    Returns: lr_t and weight_decay_t, (T,) each.
    Valid when: lr weight_decay << 1 (an approximation at the first steps); 1 / (1 - beta1) << T.
    Source: kexue.fm/archives/11459.
    """
    shape = 1 / np.sqrt(1 + 2 * lr * weight_decay * np.arange(steps, dtype=float))
    return lr * shape, weight_decay * shape


def most_remembered_linear(kappa: ArrayLike) -> Array:
    """Where in a run with linear decay to 0 the batch lies that weighs most.

        s = 1 - 1 / sqrt(2 kappa),    kappa = lr weight_decay T / 2

    Args:
        kappa: sum of lr weight_decay, >= 0, dimensionless.
    Returns: s, share of the run, 0 where kappa <= 1/2.
    Valid when: T >> 1, beta1 = 0.
    Source: derived for this project from kexue.fm/archives/11459.
    """
    return np.maximum(0.0, 1 - 1 / np.sqrt(2 * np.maximum(np.asarray(kappa, dtype=float), 0.5)))
