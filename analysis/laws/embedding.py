"""RMS of an embedding row that is hit once in G steps, under signs and under Adam: pure functions of numpy arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def embedding_rms_sign(lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike) -> Array:
    """RMS under Tiger or Signum, whose sign goes on pointing where the last hit pointed.

        rms = (1 / weight_decay) sqrt(tanh(lr weight_decay G / 2))

    Args:
        lr: constant, > 0, weights a step.
        weight_decay: > 0.
        gap: G, steps from hit to hit, >= 1.
    Returns: RMS, in units of the weights: sqrt(lr G / (2 weight_decay)) for small G, 1 / weight_decay for large.
    Valid when: hits at equal gaps with random signs, G >> 1 / (1 - beta); lr weight_decay << 1; m does
        not underflow to 0.
    Source: kexue.fm/archives/9736 (the limit 1 / weight_decay); derived for this project.
    """
    decay = np.asarray(weight_decay, dtype=float)
    return np.sqrt(np.tanh(np.asarray(lr, dtype=float) * decay * np.asarray(gap, dtype=float) / 2)) / decay


def adam_displacement(beta1: ArrayLike, beta2: ArrayLike) -> Array:
    """How far one hit carries a row under Adam, in units of lr.

        K = (1 - beta1) / sqrt(1 - beta2) / (1 - beta1 / sqrt(beta2))

    Args:
        beta1, beta2: Adam's, beta1^2 < beta2 < 1; infinite beyond.
    Returns: K, dimensionless: 5.84 at .9/.95, 31.8 at .9/.999.
    Valid when: G >> 1 / (1 - beta2), so that v holds nothing but the hit; bias corrections are 1; eps = 0.
    Source: derived for this project from kexue.fm/archives/9736.
    """
    beta1, beta2 = np.asarray(beta1, dtype=float), np.asarray(beta2, dtype=float)
    kept = beta1 / np.sqrt(beta2)
    far = (1 - beta1) / np.sqrt(1 - beta2) / np.where(kept < 1, 1 - kept, 1.0)
    return np.where(kept < 1, far, np.inf)


def embedding_rms_adam(
    lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike, *, beta1: ArrayLike, beta2: ArrayLike
) -> Array:
    """RMS under AdamW just before the next hit.

        rms = K lr e^(-x) / sqrt(1 - e^(-2 x)),    x = lr weight_decay G

    Args:
        lr, weight_decay, gap: as in embedding_rms_sign.
        beta1, beta2: Adam's, beta1^2 < beta2 < 1.
    Returns: RMS, in units of the weights: falls as G^(-1/2), then as e^(-x).
    Valid when: as adam_displacement (at G = 30, .9/.95, it is too large: by 18 % for gradients of one size,
        32 % for Gaussian ones); hits at equal gaps with random signs.
    Source: derived for this project from kexue.fm/archives/9736.
    """
    lr = np.asarray(lr, dtype=float)
    x = lr * np.asarray(weight_decay, dtype=float) * np.asarray(gap, dtype=float)
    return adam_displacement(beta1, beta2) * lr * np.exp(-x) / np.sqrt(-np.expm1(-2 * x))


def embedding_rms_sign_random(lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike) -> Array:
    """As embedding_rms_sign for hits at random times, G steps apart on average.

        rms = (1 / weight_decay) sqrt(x / (1 + x)),    x = lr weight_decay G

    From w' = e^-y w + s (1 - e^-y) / weight_decay over exponential gaps, E e^-y = 1/(1 + x), E e^-2y = 1/(1 + 2x).

    Args:
        lr, weight_decay: as in embedding_rms_sign.
        gap: G, mean steps from hit to hit, >= 1.
    Returns: RMS at any time, in units of the weights.
    Valid when: hits are independent of each other, G >> 1 / (1 - beta); lr weight_decay << 1.
    Source: derived for this project.
    """
    decay = np.asarray(weight_decay, dtype=float)
    x = np.asarray(lr, dtype=float) * decay * np.asarray(gap, dtype=float)
    return np.sqrt(x / (1 + x)) / decay


def embedding_rms_adam_random(
    lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike, *, beta1: ArrayLike, beta2: ArrayLike
) -> Array:
    """As embedding_rms_adam for hits at random times, G steps apart on average: shot noise.

        rms = K lr / sqrt(2 x),    x = lr weight_decay G

    Args:
        lr, weight_decay, beta1, beta2: as in embedding_rms_adam.
        gap: G, mean steps from hit to hit, >= 1.
    Returns: RMS at any time, in units of the weights: falls as G^(-1/2).
    Valid when: few hits lie within 1 / (1 - beta2) steps of each other.
    Source: derived for this project.
    """
    lr = np.asarray(lr, dtype=float)
    x = lr * np.asarray(weight_decay, dtype=float) * np.asarray(gap, dtype=float)
    return adam_displacement(beta1, beta2) * lr / np.sqrt(2 * x)
