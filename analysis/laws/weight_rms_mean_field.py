"""The closed form of the weights' RMS under a schedule, kept to show where it breaks: use weight_rms_paths.py.

Relative error of the RMS for linear decay to 0: 5 % at kappa = .5, 12 % at 1, 36 % at 3, 90 % at 10.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def weight_rms_mean_field(kappa: ArrayLike, squares: ArrayLike, *, start: ArrayLike = 0.0) -> Array:
    """RMS after a schedule from two numbers of it; an approximation.

        rms^2 = e^(-2 kappa) start^2 + (1 - e^(-2 kappa)) nu / (2 kappa)

    Args:
        kappa: sum of lr weight_decay, > 0, dimensionless.
        squares: nu, sum of lr^2, weights squared.
        start: RMS of the weights at first.
    Returns: RMS, in units of the weights.
    Valid when: kappa < 1, or lr is nearly constant. AdamW, noise alone.
    Source: kexue.fm/archives/11404.
    """
    kappa = np.asarray(kappa, dtype=float)
    kept = np.exp(-2 * kappa) * np.asarray(start, dtype=float) ** 2
    return np.sqrt(kept - np.expm1(-2 * kappa) * np.asarray(squares, dtype=float) / (2 * kappa))


def linear_sums(lr: float, lr_end: float, weight_decay: float, steps: float) -> tuple[float, float]:
    """kappa and nu of a straight line from lr to lr_end; an approximation, sums as integrals.

        kappa = weight_decay (lr + lr_end) t / 2,    nu = (lr^2 + lr lr_end + lr_end^2) t / 3

    Args:
        lr, lr_end: first and last, >= 0, weights a step.
        weight_decay: >= 0.
        steps: t, >= 1.
    Returns: kappa (dimensionless) and nu (weights squared).
    Valid when: steps >> 1.
    Source: kexue.fm/archives/11404.
    """
    return weight_decay * (lr + lr_end) * steps / 2, (lr**2 + lr * lr_end + lr_end**2) * steps / 3


def cosine_sums(lr: float, lr_end: float, weight_decay: float, steps: float) -> tuple[float, float]:
    """kappa and nu of half a cosine from lr to lr_end; an approximation, sums as integrals.

        kappa = weight_decay (lr + lr_end) t / 2,    nu = (3 lr^2 + 2 lr lr_end + 3 lr_end^2) t / 8

    Args:
        lr, lr_end, weight_decay, steps: as in linear_sums.
    Returns: kappa (dimensionless) and nu (weights squared).
    Valid when: steps >> 1.
    Source: kexue.fm/archives/11404.
    """
    return weight_decay * (lr + lr_end) * steps / 2, (3 * lr**2 + 2 * lr * lr_end + 3 * lr_end**2) * steps / 8


def wsd_sums(lr: float, weight_decay: float, warmup: float, decay_from: float, steps: float) -> tuple[float, float]:
    """kappa and nu of warm-up, plateau and linear decay to 0; an approximation, sums as integrals.

        kappa = weight_decay lr (t + t2 - t1) / 2,    nu = lr^2 (t + 2 t2 - 2 t1) / 3

    Args:
        lr: of the plateau, weights a step.
        weight_decay: >= 0.
        warmup, decay_from, steps: t1 <= t2 <= t, steps.
    Returns: kappa (dimensionless) and nu (weights squared).
    Valid when: steps >> 1.
    Source: kexue.fm/archives/11404.
    """
    plateau = decay_from - warmup
    return weight_decay * lr * (steps + plateau) / 2, lr**2 * (steps + 2 * plateau) / 3
