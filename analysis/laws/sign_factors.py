"""Long-run factors F of sign updates and of Muon in one number: exact, and the approximations that compete with it.

RMS^2 of the weights is lr / (2 weight_decay) rms_u^2 F, with rms_u = 1 for signs.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analysis.laws.long_run import lion_autocorrelation, lion_covariances, long_run_factor, signum_autocorrelation
from analysis.laws.update_rms import variance_ratio

Array = NDArray[np.float64]

FORGOTTEN = 1e-9  # of a correlation, from which on the sums below stop

# F (1 - beta) / (1 + beta) of Muon on independent Gaussian gradients: (rows, columns, beta) -> measured
MUON_SHARES = {(32, 32, 0.9): 0.75, (32, 32, 0.95): 0.73, (64, 16, 0.9): 0.92}


def signum_factor(beta1: float, rate: float = 0.0) -> float:
    """F of Signum and Tiger, exact.

        F = sum_k (2/pi) arcsin(beta1^|k|) (1 - lr weight_decay)^|k|

    Args:
        beta1: decay of the average, 0 <= beta1 < 1.
        rate: lr weight_decay, 0 <= rate < 1.
    Returns: F, >= 1, dimensionless; 13.28 at beta1 = .9, rate 0.
    Valid when: independent Gaussian gradients of mean 0, none exactly 0.
    Source: derived for this project.
    """
    return long_run_factor(signum_autocorrelation(beta1, lags_of(beta1)), rate)


def signum_factor_ln2(beta1: ArrayLike) -> Array:
    """signum_factor as beta1 -> 1; an approximation, 1 % low at beta1 = .9 and 31 % low at 0.

        F = ln 2 (1 + beta1) / (1 - beta1)

    Args:
        beta1: decay of the average, 0 <= beta1 < 1.
    Returns: F, dimensionless.
    Valid when: beta1 close to 1, lr weight_decay << 1 - beta1.
    Source: derived for this project, int_0^inf arcsin(exp(-x)) dx = (pi/2) ln 2.
    """
    return np.log(2) / variance_ratio(beta1)


def signum_factor_article(beta1: ArrayLike) -> Array:
    """F of Signum as if the sign were linear: an approximation, 43 % too large at beta1 = .9.

        F = (1 + beta1) / (1 - beta1)

    Args:
        beta1: decay of the average, 0 <= beta1 < 1.
    Returns: F, dimensionless.
    Valid when: nowhere but at beta1 = 0; its RMS is 20 % too large for beta1 -> 1.
    Source: kexue.fm/archives/11307.
    """
    return 1 / variance_ratio(beta1)


def lion_factor(beta1: float, beta2: float, rate: float = 0.0) -> float:
    """F of Lion, exact.

        F = 1 + 2 sum_(k > 0) (2/pi) arcsin(C_k / V) (1 - lr weight_decay)^k,    lion_covariances

    Args:
        beta1, beta2: Lion's, 0 <= beta1 < 1, 0 < beta2 < 1.
        rate: lr weight_decay, 0 <= rate < 1.
    Returns: F, dimensionless; 45.9 at .9/.99 and 58.1 at .95/.98, rate 0.
    Valid when: independent Gaussian gradients of mean 0, none exactly 0.
    Source: derived for this project.
    """
    return long_run_factor(lion_autocorrelation(beta1, beta2, lags_of(beta2)), rate)


def lion_factor_linear(beta1: float, beta2: float) -> float:
    """F of Lion as if the sign were linear: an approximation, too large (its RMS by 22 to 24 %).

        F = 1 / V,    V = beta1^2 (1 - beta2) / (1 + beta2) + (1 - beta1)^2

    Args:
        beta1, beta2: Lion's, 0 <= beta1 < 1, 0 < beta2 < 1.
    Returns: F, dimensionless.
    Valid when: nowhere exactly; a bound to compare lion_factor with.
    Source: kexue.fm/archives/11307 carried over to Lion; derived for this project.
    """
    return 1 / lion_covariances(beta1, beta2, 1)[0]


def lion_factor_slope(beta1: float, beta2: float) -> float:
    """F of Lion with the arcsine's slope at 0: an approximation, its RMS 1 to 3 % too small at .9/.99 and .95/.98.

        F = (2/pi) / V,    V = beta1^2 (1 - beta2) / (1 + beta2) + (1 - beta1)^2

    Args:
        beta1, beta2: Lion's, 0 <= beta1 < 1, 0 < beta2 < 1.
    Returns: F, dimensionless.
    Valid when: correlations are small at every lag, as they are for beta2 >> beta1; F >= 1 is lost at beta1 = 0.
    Source: Kosson et al., arXiv 2305.17212 (quoted from memory, not checked).
    """
    return 2 / np.pi * lion_factor_linear(beta1, beta2)


def muon_update_square(rows: int, columns: int, *, scaled: bool = False) -> float:
    """Mean square of the entries of an orthogonal matrix as Muon takes it.

        rms_u^2 = 1 / max(n, m),  or .2^2 where u is scaled by .2 sqrt(max(n, m))

    Args:
        rows, columns: n, m, of full rank, >= 1.
        scaled: to the RMS of Adam's direction.
    Returns: rms_u^2, dimensionless.
    Valid when: all singular values are 1 (Newton-Schulz leaves them within .7 to 1.2).
    Source: kexue.fm/archives/11307; trace(u^T u) = min(n, m).
    """
    return 0.04 if scaled else 1 / max(rows, columns)


def lags_of(beta: float) -> int:
    """Lags after which beta^k is forgotten."""
    return 2 if beta <= 0 else int(np.ceil(np.log(FORGOTTEN) / np.log(beta))) + 2
