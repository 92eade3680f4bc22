"""How the optimum learning rate grows with the batch size: one pure function of numpy arrays for each law."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = NDArray[np.float64]


def linear(batch_size: ArrayLike, *, coefficient: float) -> Curve:
    """Proportional growth.

        lr = coefficient B

    Args:
        batch_size: samples a step.
        coefficient: learning rate at batch size 1, > 0.
    Returns: optimum learning rate.
    Valid when: SGD over a fixed number of samples, B far below the noise scale, many steps.
    Source: kexue.fm/archives/10542; Goyal et al., arXiv 1706.02677.
    """
    return coefficient * np.asarray(batch_size, dtype=float)


def sqrt(batch_size: ArrayLike, *, coefficient: float) -> Curve:
    """Growth with the square root.

        lr = coefficient sqrt(B)

    Args:
        batch_size: samples a step.
        coefficient: learning rate at batch size 1, > 0.
    Returns: optimum learning rate.
    Valid when: Adam or sign descent over a fixed number of samples, B far below the noise scale, eps <<
        gradient RMS.
    Source: kexue.fm/archives/10542; Malladi et al., arXiv 2205.10287.
    """
    return coefficient * np.sqrt(np.asarray(batch_size, dtype=float))


def power(batch_size: ArrayLike, *, coefficient: float, exponent: float) -> Curve:
    """Any straight line in the logs; linear and sqrt are its cases exponent 1 and 1/2.

        lr = coefficient B^exponent

    Args:
        batch_size: samples a step.
        coefficient: learning rate at batch size 1, > 0.
        exponent: d log lr / d log B, dimensionless.
    Returns: optimum learning rate.
    Valid when: a description over the range that was measured; no mechanism stands behind a free exponent.
    Source: kexue.fm/archives/10542 (exponents 1 and 1/2).
    """
    return coefficient * np.asarray(batch_size, dtype=float) ** exponent


def noise_scale(batch_size: ArrayLike, *, lr_max: float, noise_scale: float) -> Curve:
    """One SGD step on a quadratic: linear below the noise scale, flat above it.

        lr = lr_max / (1 + B_noise / B),   B_noise = tr(Sigma H) / (g^T H g)

    Args:
        batch_size: samples a step.
        lr_max: limit for large batches, > 0.
        noise_scale: B_noise, samples, > 0.
    Returns: optimum learning rate.
    Valid when: exact for one step on a quadratic. In a whole run the plateau may be set by stability or by
        the number of steps; noise_scale is one only if it stays when the number of samples is changed.
    Source: kexue.fm/archives/10542; McCandlish et al., arXiv 1812.06162.
    """
    return lr_max / (1 + noise_scale / np.asarray(batch_size, dtype=float))


def sqrt_saturating(batch_size: ArrayLike, *, lr_max: float, noise_scale: float) -> Curve:
    """Sign-like descent with a curvature that matches its preconditioner: square root, then flat.

        lr = lr_max / sqrt(1 + B_noise / B)

    Args:
        batch_size: samples a step.
        lr_max: limit for large batches, > 0.
        noise_scale: B_noise, samples, > 0.
    Returns: optimum learning rate.
    Valid when: one step, mean-field gradient noise, Hessian proportional to diag |g|. The same caution about
        plateaus as for noise_scale.
    Source: kexue.fm/archives/11280 (signSGD), 11285 (Muon).
    """
    return lr_max / np.sqrt(1 + noise_scale / np.asarray(batch_size, dtype=float))


def surge(batch_size: ArrayLike, *, lr_max: float, kappa: float, beta_noise: float) -> Curve:
    """Sign-like descent with coherent curvature: the optimum rises, peaks and falls.

        lr = lr_max / ((beta_noise / beta + beta / beta_noise) / 2),   beta = (1 + pi kappa^2 / 2B)^(-1/2)

    For beta_noise < 1 the peak lies at B = pi kappa^2 beta_noise^2 / (2 (1 - beta_noise^2)); for beta_noise
    >= 1 the curve only rises.

    Args:
        batch_size: samples a step.
        lr_max: height of the peak, > 0.
        kappa: noise-to-signal ratio of one sample, sigma / |g|, > 0.
        beta_noise: square root of diagonal over off-diagonal curvature along the signs, > 0.
    Returns: optimum learning rate.
    Valid when: one step, noise independent between coordinates, one signal-to-noise ratio for all of them.
    Source: kexue.fm/archives/10542; Li et al., arXiv 2405.14578.
    """
    beta = (1 + np.pi * kappa**2 / (2 * np.asarray(batch_size, dtype=float))) ** -0.5
    return lr_max / (0.5 * (beta_noise / beta + beta / beta_noise))


def openai_alpha(batch_size: ArrayLike, *, lr_max: float, noise_scale: float, alpha: float) -> Curve:
    """A plateau with a free slope below it; alpha 1 is noise_scale, alpha 1/2 is sqrt_saturating.

        lr = lr_max / (1 + B_noise / B)^alpha

    Args:
        batch_size: samples a step.
        lr_max: limit for large batches, > 0.
        noise_scale: B_noise, samples, > 0.
        alpha: slope far below B_noise, 1/2 to 1.
    Returns: optimum learning rate.
    Valid when: conjectured for Adam, between the case of SGD and that of sign descent. The same caution about plateaus
        as for noise_scale.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542.
    """
    return lr_max * (1 + noise_scale / np.asarray(batch_size, dtype=float)) ** -alpha


def ema(batch_size: ArrayLike, *, lr_max: float, noise_scale: float, beta1: float) -> Curve:
    """One Adam step with diagonal curvature: momentum averages the noise of the update but not its signal.

        lr = lr_max / (r / beta + 2 beta1 / (1 + beta1) beta),   r = (1 - beta1) / (1 + beta1),
        beta = (1 + B_simple / B)^(-1/2)

    For beta1 > 1/3 it peaks at B = B_simple (1 - beta1) / (3 beta1 - 1); for smaller beta1 it only rises.

    Args:
        batch_size: samples a step.
        lr_max: limit for large batches, > 0.
        noise_scale: B_simple, samples, > 0.
        beta1: Adam's, 0 to 1, known from the runs and never fitted.
    Returns: optimum learning rate.
    Valid when: one step at a frozen checkpoint. Over a whole run momentum's averages are correlated and the effect
        cancels, so no surge is expected there.
    Source: kexue.fm/archives/11301.
    """
    r = (1 - beta1) / (1 + beta1)
    beta = (1 + noise_scale / np.asarray(batch_size, dtype=float)) ** -0.5
    return lr_max / (r / beta + (1 - r) * beta)
