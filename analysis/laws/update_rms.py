"""Root mean square of an optimizer's direction before the learning rate: pure functions of numpy arrays.

A direction u is what lr multiplies: m / sqrt(v) of Adam, sign(m) of Signum and Lion.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SIGN_RMS = 1.0  # of signsgd, signum and lion, where no entry is 0, at any batch size and momentum
LN_T = np.arange(-25.0, 25.0, 0.25)  # nodes of the trapezoid rule below, in ln t


def variance_ratio(beta1: ArrayLike) -> Array:
    """Variance of an exponential average of independent numbers, over that of one of them.

        r = (1 - beta1) / (1 + beta1)

    Args:
        beta1: decay of the average, 0 <= beta1 < 1, dimensionless.
    Returns: r, 0 < r <= 1, dimensionless.
    Valid when: 1 / (1 - beta1) << steps so far; independent numbers of one variance.
    Source: kexue.fm/archives/11301; the geometric series of beta1^2.
    """
    beta1 = np.asarray(beta1, dtype=float)
    return (1 - beta1) / (1 + beta1)


def signal_ratio(batch_size: ArrayLike, noise_scale: ArrayLike) -> Array:
    """Squared signal-to-noise ratio of a batch's gradient.

        s = |g|^2 / (trace(Sigma) / B) = B / B_simple

    Args:
        batch_size: B, samples a step, > 0.
        noise_scale: B_simple, samples, > 0.
    Returns: s, >= 0, dimensionless.
    Valid when: samples are drawn with replacement, or few of many.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/11267.
    """
    return np.asarray(batch_size, dtype=float) / np.asarray(noise_scale, dtype=float)


def update_rms(signal: ArrayLike, beta1: ArrayLike) -> Array:
    """RMS of Adam's direction; an approximation, which divides the mean of m^2 by that of v.

        rms = sqrt((s + r) / (s + 1)),    r = (1 - beta1) / (1 + beta1)

    Args:
        signal: s = B / B_simple, >= 0, dimensionless.
        beta1: Adam's, 0 <= beta1 < 1.
    Returns: RMS over entries, between sqrt(r) and 1, dimensionless.
    Valid when: beta2 -> 1, eps << gradient RMS, the mean gradient is constant over 1 / (1 - beta2) steps, s is the same
        in all entries and no row's gradient is exactly 0. At s = 0 a finite beta2 lowers it: update_rms_noise.
    Source: kexue.fm/archives/11267.
    """
    s = np.asarray(signal, dtype=float)
    return np.sqrt((s + variance_ratio(beta1)) / (s + 1))


def noise_scale_of_update_rms(batch_size: ArrayLike, rms: ArrayLike, beta1: ArrayLike) -> Array:
    """update_rms solved for the noise scale.

        B_simple = B (1 - rms^2) / (rms^2 - r)

    Args:
        batch_size: B, samples a step, > 0.
        rms: of Adam's direction, dimensionless.
        beta1: Adam's, 0 <= beta1 < 1.
    Returns: B_simple, samples; NaN where rms^2 is outside (1.1 r, 1), where it tells nothing.
    Valid when: as update_rms, and s above about .01.
    Source: kexue.fm/archives/11267, solved for s; derived for this project.
    """
    square, r = np.asarray(rms, dtype=float) ** 2, variance_ratio(beta1)
    told = (square > 1.1 * r) & (square < 1)
    scale = np.asarray(batch_size, dtype=float) * (1 - square) / np.where(told, square - r, 1.0)
    return np.where(told, scale, np.nan)


def update_rms_noise(beta1: float, beta2: float, steps: float = np.inf) -> float:
    """RMS of Adam's direction on independent Gaussian gradients of mean 0, exact for any beta2.

        rms^2 = sum_k a_k^2 int_0^inf dt / (1 + 2 t w_k) prod_j (1 + 2 t w_j)^(-1/2)

    a_k, w_k: weights of the gradient k steps back in the bias-corrected m and v. By the trapezoid rule in ln t.

    Args:
        beta1, beta2: Adam's, 0 <= beta < 1; infinite with a memory in m alone (beta2 = 0 < beta1).
        steps: taken so far, >= 1.
    Returns: RMS, dimensionless; sqrt(r) for beta2 -> 1.
    Valid when: noise alone (s = 0), Gaussian, eps = 0.
    Source: kexue.fm/archives/11267 (the limit); 1/x = int exp(-t x) dt, derived for this project.
    """
    enough = max([1, *(int(np.log(1e-7) / np.log(beta)) + 1 for beta in (beta1, beta2) if beta > 0)])
    count = int(min(steps, enough))
    a, w = (beta ** np.arange(count, dtype=float) for beta in (beta1, beta2))
    a, w = a / a.sum(), w / w.sum()
    heard = a > 1e-9 * a[0]
    total = 0.0
    for t in np.exp(LN_T):
        shared = np.exp(-0.5 * np.log1p(2 * t * w).sum())
        total += (LN_T[1] - LN_T[0]) * t * shared * float((a[heard] ** 2 / (1 + 2 * t * w[heard])).sum())
    return float(np.sqrt(total))


def update_rms_changing(weights_T: ArrayLike, std_T: ArrayLike) -> float:
    """RMS of g / sqrt(v) on noise whose size changes from step to step, for any memory of v; exact.

        rms^2 = std_T^2 int_0^inf dt (1 + 2 t W_T)^(-1) prod_j (1 + 2 t W_j)^(-1/2),    W_j = w_j std_j^2

    Args:
        weights_T: w_j of every step's g^2 in v, the last step included; of sum 1 (second_moment_weights).
        std_T: standard deviation of every step's gradient, > 0.
    Returns: RMS of the last step's direction at beta1 = 0, dimensionless.
    Valid when: independent Gaussian gradients of mean 0, eps = 0.
    Source: 1/x = int exp(-t x) dt, as in update_rms_noise; derived for this project.
    """
    std_T = np.asarray(std_T, dtype=float)
    shares_T = np.asarray(weights_T, dtype=float) * std_T**2
    total = shares_T.sum()
    shares_T = shares_T / total
    own = shares_T[-1]
    heard_T = shares_T[shares_T > 1e-9 * shares_T.max()]
    step, integral = 0.5, 0.0
    # What lies beyond is below 1e-5 unless fewer than two gradients make v, where 1 / v has heavy tails
    for t in np.exp(np.arange(-14.0, 30.0, step)):
        shared = np.exp(-0.5 * np.log1p(2 * t * heard_T).sum())
        integral += step * t * shared / (1 + 2 * t * own)
        if t > 1 and t * shared < 1e-9:
            break
    return float(np.sqrt(std_T[-1] ** 2 / total * integral))
