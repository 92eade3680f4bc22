"""RMS of weights step by step, under any schedules of lr and weight_decay: no parameter is fitted.

A step is w <- (1 - lr_t weight_decay_t) w - lr_t u_t. Shapes: T steps, K lags; a path has T + 1
entries, the start first.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def weight_rms_path(
    lr_T: ArrayLike, weight_decay_T: ArrayLike, *, start: float, signal: float = 0.0, noise_square: float = 1.0
) -> Array:
    """RMS at every step, by an exact recursion for updates whose noise is independent from step to step.

        mean <- (1 - lr weight_decay) mean + lr sqrt(s / (s + 1))
        rho  <- (1 - lr weight_decay)^2 rho + lr^2 c / (s + 1),    rms^2 = rho + mean^2

    Args:
        lr_T: lr of every step, >= 0, weights a step.
        weight_decay_T: of every step (multiplied by lr), or one number, >= 0.
        start: RMS of the weights at first, uncorrelated with the mean gradient.
        signal: s = |mean|^2 / variance of a step's gradient, B / B_simple, >= 0.
        noise_square: c = rms_u^2 F of the noise: 1 for AdamW at any beta1, signum_factor for Signum.
    Returns: RMS before the first step and after every step, (T + 1,), in units of the weights.
    Valid when: the mean gradient's direction is constant, or s = 0; schedules change little in 1 / (1 - beta1) steps,
        else weight_rms_path_correlated.
    Source: kexue.fm/archives/11404, without its continuous limit; derived for this project.
    """
    lr_T, decay_T = np.broadcast_arrays(np.asarray(lr_T, dtype=float), np.asarray(weight_decay_T, dtype=float))
    drift, noise = np.sqrt(signal / (signal + 1)), noise_square / (signal + 1)
    mean, rho, path = 0.0, float(start) ** 2, [float(start)]
    for lr, left in zip(lr_T.tolist(), (1 - lr_T * decay_T).tolist(), strict=True):
        mean = left * mean + lr * drift
        rho = left**2 * rho + lr**2 * noise
        path.append(np.sqrt(rho + mean**2))
    return np.array(path)


def weight_rms_path_correlated(
    lr_T: ArrayLike,
    weight_decay_T: ArrayLike,
    autocorrelation_K: ArrayLike,
    *,
    start: float,
    update_square: ArrayLike = 1.0,
) -> Array:
    """RMS at every step, exact for updates with a known or measured autocorrelation.

        rms_T^2 = left_T^2 start^2 + sum_jk w_j w_k rho(|j - k|) rms_u^2,    w_j = lr_j left_T / left_(j+1)

    Args:
        lr_T, weight_decay_T, start: as in weight_rms_path.
        autocorrelation_K: rho at lags 0 ... K - 1 (measure_autocorrelation), rho(0) = 1; beyond, 0.
        update_square: rms_u^2, dimensionless, one number or one a step.
    Returns: RMS before the first step and after every step, (T + 1,), in units of the weights.
    Valid when: the update's autocorrelation does not change over the run and u is uncorrelated with the start.
    Source: derived for this project.
    """
    lr_T, decay_T, size_T = np.broadcast_arrays(
        *(np.asarray(x, dtype=float) for x in (lr_T, weight_decay_T, np.sqrt(np.asarray(update_square, dtype=float))))
    )
    later_K = np.asarray(autocorrelation_K, dtype=float)[1:]
    weights_K = np.zeros_like(later_K)  # of the updates 1, 2, ... steps back, decayed until now
    rho, path = float(start) ** 2, [float(start)]
    for lr, decay, size in zip(lr_T, decay_T, size_T, strict=True):
        left = 1 - lr * decay
        step = lr * size
        weights_K = weights_K * left
        rho = left**2 * rho + 2 * step * (weights_K @ later_K) + step**2
        if len(weights_K):
            weights_K = np.concatenate([[step], weights_K[:-1]])
        path.append(np.sqrt(rho))
    return np.array(path)


def weight_rms_sum(lr_T: ArrayLike, weight_decay_T: ArrayLike, *, start: float, signal: float = 0.0) -> float:
    """RMS after the last step, as the article sums it; an approximation, 1 - x taken for exp(-x).

        rms^2 = e^(-2 kappa) start^2 + e^(-2 kappa) [s z^2 + sum_j e^(2 kappa_j) lr_j^2] / (s + 1)
        kappa_j = sum_(i <= j) lr_i weight_decay_i,    z = sum_j e^(kappa_j) lr_j

    Args:
        lr_T, weight_decay_T, start, signal: as in weight_rms_path.
    Returns: RMS, in units of the weights.
    Valid when: lr weight_decay << 1 at every step; schedules change little in 1 / (1 - beta1) steps; AdamW.
    Source: kexue.fm/archives/11404.
    """
    lr_T, decay_T = np.broadcast_arrays(np.asarray(lr_T, dtype=float), np.asarray(weight_decay_T, dtype=float))
    kappa_T = np.cumsum(lr_T * decay_T)
    weights_T = np.exp(kappa_T - kappa_T[-1]) * lr_T
    square = (signal * weights_T.sum() ** 2 + (weights_T**2).sum()) / (signal + 1)
    return float(np.sqrt(np.exp(-2 * kappa_T[-1]) * start**2 + square))
