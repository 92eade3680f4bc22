"""RMS of weights under decoupled weight decay at a constant learning rate: pure functions of numpy arrays.

A step is w <- (1 - lr weight_decay) w - lr u. Schedules are in weight_rms_paths.py, other optimizers' factors in
sign_factors.py.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.update_rms import variance_ratio

Array = NDArray[np.float64]


def weight_rms(lr: ArrayLike, weight_decay: ArrayLike, *, update_square: ArrayLike = 1.0) -> Array:
    """Where the random walk and weight decay balance; an approximation for lr weight_decay << 1.

        rms = sqrt(lr / (2 weight_decay) rms_u^2 F)

    Args:
        lr: > 0, weights a step.
        weight_decay: torch's (multiplied by lr), > 0.
        update_square: rms_u^2 F, 1 for AdamW at any beta1, signum_factor for Signum, lion_factor for Lion.
    Returns: RMS over a tensor's entries, in units of the weights.
    Valid when: noise-dominated gradients (s < lr weight_decay / 2), or weights whose scale the loss does not see;
        lr weight_decay num_steps >> 1; eps << gradient RMS.
    Source: kexue.fm/archives/11307; Kosson et al., arXiv 2305.17212; F derived for this project.
    """
    lr, decay = np.asarray(lr, dtype=float), np.asarray(weight_decay, dtype=float)
    return np.sqrt(lr / (2 * decay) * np.asarray(update_square, dtype=float))


def weight_rms_quick(lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike) -> Array:
    """As weight_rms of AdamW with updates taken for independent: an approximation, too small by sqrt(r) (.23 at .9).

        rms = sqrt(r lr / (2 weight_decay)),    r = (1 - beta1) / (1 + beta1)

    Args:
        lr, weight_decay: as in weight_rms.
        beta1: Adam's, 0 <= beta1 < 1.
    Returns: RMS, in units of the weights.
    Valid when: beta1 = 0; its exponents in lr and weight_decay are right at any beta1.
    Source: kexue.fm/archives/11307 (its quick version, which it calls inaccurate).
    """
    return weight_rms(lr, weight_decay, update_square=variance_ratio(beta1))


def weight_rms_static(
    lr: ArrayLike,
    weight_decay: ArrayLike,
    steps: ArrayLike,
    *,
    signal: ArrayLike = 0.0,
    start: ArrayLike = 0.0,
    noise_ratio: ArrayLike = 1.0,
) -> Array:
    """RMS after some steps of constant lr, with a constant mean gradient in the noise; an approximation.

        rms^2 = b^2 start^2 + (1 - b)^2 [s + lr weight_decay (1 + b) / (2 (1 - b))] / (weight_decay^2 (s + c))
        b = (1 - lr weight_decay)^steps

    Args:
        lr: > 0, weights a step.
        weight_decay: >= 0; 0 is the limit start^2 + (s lr^2 t^2 + lr^2 t) / (s + c).
        steps: t, >= 0, or inf.
        signal: s = |mean|^2 / variance of a step's gradient, B / B_simple, >= 0.
        start: RMS of the weights at first, uncorrelated with the mean gradient.
        noise_ratio: c, 1 for AdamW; r = (1 - beta1) / (1 + beta1) for Signum as the article has it (20 % too large).
    Returns: RMS, in units of the weights.
    Valid when: the mean gradient is constant over 1 / (lr weight_decay) steps; lr weight_decay << 1;
        steps >> 1 / (1 - beta1), 1 / (1 - beta2).
    Source: kexue.fm/archives/11307.
    """
    lr, decay, s = (np.asarray(x, dtype=float) for x in (lr, weight_decay, signal))
    steps, decays = np.asarray(steps, dtype=float), decay > 0
    log_left = np.where(decays, steps, 0.0) * np.log1p(-lr * decay)  # inf steps times no decay is NaN
    left = np.exp(log_left)
    moved = np.where(decays, -np.expm1(log_left) / np.where(decays, decay, 1.0), lr * steps)
    square = (moved**2 * s + moved * (1 + left) * lr / 2) / (s + np.asarray(noise_ratio, dtype=float))
    return np.sqrt(left**2 * np.asarray(start, dtype=float) ** 2 + square)


def weight_rms_signal(lr: ArrayLike, weight_decay: ArrayLike, signal: ArrayLike) -> Array:
    """weight_rms_static for many steps: noise at small s, a straight walk up to 1 / weight_decay at large s.

        rms = sqrt((s + lr weight_decay / 2) / (weight_decay^2 (s + 1)))

    Args:
        lr, weight_decay: as in weight_rms.
        signal: s = B / B_simple at most, >= 0.
    Returns: RMS, in units of the weights.
    Valid when: as weight_rms_static, and lr weight_decay num_steps >> 1. Training's mean gradient is not constant:
        take s for a parameter to fit, at most B / B_simple.
    Source: kexue.fm/archives/11307.
    """
    return weight_rms_static(lr, weight_decay, np.inf, signal=signal)


def batch_size_of_signal(lr: ArrayLike, weight_decay: ArrayLike, noise_scale: ArrayLike) -> Array:
    """Batch size from which weight_rms_signal leaves sqrt(lr / (2 weight_decay)): there it is sqrt(2) times that.

        B = B_simple lr weight_decay / 2

    Args:
        lr, weight_decay: as in weight_rms.
        noise_scale: B_simple, samples, > 0.
    Returns: B, samples a step.
    Valid when: as weight_rms_signal, and lr weight_decay << 1.
    Source: kexue.fm/archives/11307, where its two terms are equal; derived for this project.
    """
    return (
        np.asarray(noise_scale, dtype=float) * np.asarray(lr, dtype=float) * np.asarray(weight_decay, dtype=float) / 2
    )


def rotation(lr: ArrayLike, weight_decay: ArrayLike, beta1: ArrayLike) -> Array:
    """Angle by which a step turns AdamW's weights in equilibrium: the step over weight_rms.

        lr rms_u / rms = sqrt(2 lr weight_decay r),    r = (1 - beta1) / (1 + beta1)

    Args:
        lr, weight_decay: as in weight_rms.
        beta1: Adam's, 0 <= beta1 < 1.
    Returns: radians a step.
    Valid when: as weight_rms; the angle is small.
    Source: Kosson et al., arXiv 2305.17212; with r derived for this project.
    """
    lr, decay = np.asarray(lr, dtype=float), np.asarray(weight_decay, dtype=float)
    return np.sqrt(2 * lr * decay * variance_ratio(beta1))
