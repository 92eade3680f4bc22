"""Long-run factor of an update: how much further its random walk goes than one of independent steps.

    F = sum_k rho(k) (1 - lr weight_decay)^|k|,    rho the autocorrelation of the direction u, rho(0) = 1

Weights that are noise settle at RMS^2 = lr / (2 weight_decay) rms_u^2 F (weight_rms.py). rms_u^2 F is 1 for AdamW
(rms_u^2 = r, F = 1 / r), and a sum of arcsines for signs (rms_u^2 = 1). Shapes: K lags, T steps, N entries.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def long_run_factor(autocorrelation_K: ArrayLike, rate: float = 0.0) -> float:
    """F of any update whose autocorrelation is known or measured.

        F = rho(0) + 2 sum_(k > 0) rho(k) (1 - lr weight_decay)^k

    Args:
        autocorrelation_K: rho at lags 0, 1, ... K - 1, dimensionless; beyond, it is taken for 0.
        rate: lr weight_decay, 0 <= rate < 1: weights forget a step by it.
    Returns: F, dimensionless.
    Valid when: the update's law does not change over 1 / rate steps; exact then.
    Source: derived for this project, from the square of sum_k (1 - rate)^k u_(t-k).
    """
    rho_K = np.asarray(autocorrelation_K, dtype=float)
    forgotten_K = (1 - rate) ** np.arange(len(rho_K))
    return float(2 * (rho_K * forgotten_K).sum() - rho_K[0])


def measure_autocorrelation(updates_TN: ArrayLike, lags: int) -> Array:
    """rho of measured updates, averaged over entries; their mean is not taken out, so a signal counts as correlation.

        rho(k) = mean(u_t u_(t+k)) / mean(u_t^2)

    Args:
        updates_TN: directions of T successive steps, in any unit.
        lags: K, 1 <= K <= T.
    Returns: rho, (K,), dimensionless.
    Valid when: T >> K >> the update's memory.
    Source: the definition.
    """
    u_TN = np.asarray(updates_TN, dtype=float)
    steps = len(u_TN)
    products = [np.einsum("tn,tn->", u_TN[: steps - k], u_TN[k:]) / (steps - k) for k in range(lags)]
    return np.array(products) / products[0]


def average_autocorrelation(beta1: float, lags: int) -> Array:
    """rho of an exponential average, and of Adam's direction where v hardly moves.

        rho(k) = beta1^k

    Args:
        beta1: 0 <= beta1 < 1.
        lags: K >= 1.
    Returns: rho, (K,), dimensionless.
    Valid when: independent gradients; for Adam an approximation, good for 1 - beta2 << 1 - beta1.
    Source: kexue.fm/archives/11307.
    """
    return beta1 ** np.arange(lags, dtype=float)


def signum_autocorrelation(beta1: float, lags: int) -> Array:
    """rho of the sign of an exponential average (Signum, Tiger), exact.

        rho(k) = (2/pi) arcsin(beta1^k)

    Args:
        beta1: decay of the average, 0 <= beta1 < 1.
        lags: K >= 1.
    Returns: rho, (K,), dimensionless.
    Valid when: independent Gaussian gradients of mean 0.
    Source: Sheppard's arcsine law; derived for this project (kexue.fm/archives/11307 takes beta1^k).
    """
    return 2 / np.pi * np.arcsin(average_autocorrelation(beta1, lags))


def lion_covariances(beta1: float, beta2: float, lags: int) -> tuple[float, Array]:
    """Variance V and covariances of what Lion takes the sign of, in units of a gradient's variance.

        c_t = beta1 m_(t-1) + (1 - beta1) g_t,    m_t = beta2 m_(t-1) + (1 - beta2) g_t
        V   = beta1^2 (1 - beta2) / (1 + beta2) + (1 - beta1)^2
        C_k = beta1^2 beta2^k (1 - beta2) / (1 + beta2) + (1 - beta1) beta1 beta2^(k-1) (1 - beta2)

    Args:
        beta1, beta2: Lion's, 0 <= beta1 < 1, 0 < beta2 < 1.
        lags: K >= 1.
    Returns: V, and C_1 ... C_(K-1), (K - 1,).
    Valid when: independent gradients of mean 0.
    Source: Lion, arXiv 2302.06675 (the recursion); derived for this project.
    """
    k = np.arange(1, lags, dtype=float)
    kept = beta1**2 * (1 - beta2) / (1 + beta2)
    return kept + (1 - beta1) ** 2, kept * beta2**k + (1 - beta1) * beta1 * beta2 ** (k - 1) * (1 - beta2)


def lion_autocorrelation(beta1: float, beta2: float, lags: int) -> Array:
    """rho of Lion's direction, exact.

        rho(k) = (2/pi) arcsin(C_k / V),    lion_covariances

    Args:
        beta1, beta2: Lion's, 0 <= beta1 < 1, 0 < beta2 < 1.
        lags: K >= 1.
    Returns: rho, (K,), dimensionless.
    Valid when: independent Gaussian gradients of mean 0.
    Source: Sheppard's arcsine law; derived for this project.
    """
    variance, covariances = lion_covariances(beta1, beta2, lags)
    return np.concatenate([[1.0], 2 / np.pi * np.arcsin(covariances / variance)])
