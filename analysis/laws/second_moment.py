"""Memory of the second moment v and its form of rank one: pure functions of numpy arrays.

All of them are v <- b_t v + (1 - b_t) g^2, t = 1, 2, ...; b_1 = 0 and b_t -> 1 is what is wanted. Shapes: T steps.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import polygamma

Array = NDArray[np.float64]


def beta2_adam(step: ArrayLike, beta2: float) -> Array:
    """Decay of Adam's bias-corrected v: it starts at 0 and ends at beta2, not 1.

        b_t = beta2 (1 - beta2^(t-1)) / (1 - beta2^t)

    Args:
        step: t, from 1.
        beta2: Adam's, 0 < beta2 < 1.
    Returns: b_t, 0 to beta2, dimensionless.
    Valid when: any sequence of gradients; exact.
    Source: kexue.fm/archives/7302.
    """
    log_left = np.asarray(step, dtype=float) * np.log(beta2)
    return beta2 * np.expm1(log_left - np.log(beta2)) / np.expm1(log_left)


def beta2_adafactor(step: ArrayLike, exponent: float = 0.8) -> Array:
    """Decay of AdaFactor's v: its memory t^c grows with training.

        b_t = 1 - t^(-c)

    Args:
        step: t, from 1.
        exponent: c, 0 < c < 1.
    Returns: b_t, 0 to 1, dimensionless.
    Valid when: any sequence of gradients; exact.
    Source: Shazeer & Stern, arXiv 1804.04235; kexue.fm/archives/7302.
    """
    return 1 - np.asarray(step, dtype=float) ** -exponent


def beta2_adax(step: ArrayLike, beta2: float = 1e-4) -> Array:
    """Decay of AdaX's v: older gradients weigh more, and v freezes after 1 / beta2 steps.

        b_t = 1 - beta2 / ((1 + beta2)^t - 1)

    Args:
        step: t, from 1.
        beta2: AdaX's, > 0, small.
    Returns: b_t, 0 to 1, dimensionless.
    Valid when: any sequence of gradients; exact.
    Source: AdaX, arXiv 2004.09740; kexue.fm/archives/7387.
    """
    return 1 - beta2 / np.expm1(np.asarray(step, dtype=float) * np.log1p(beta2))


def second_moment_weights(beta2_T: ArrayLike) -> Array:
    """Weight of every step's g^2 in v after the last.

        w_i = (1 - b_i) prod_(j > i) b_j

    Args:
        beta2_T: b_1 ... b_T, 0 <= b <= 1.
    Returns: w, (T,), dimensionless; of sum 1 where b_1 = 0.
    Valid when: any sequence of gradients; exact.
    Source: the recursion, unrolled.
    """
    b_T = np.asarray(beta2_T, dtype=float)
    return (1 - b_T) * np.concatenate([np.cumprod(b_T[:0:-1])[::-1], [1.0]])


def mean_index(weights_T: ArrayLike) -> float:
    """Step that v remembers on average.

        i = sum_i i w_i / sum_i w_i

    Args:
        weights_T: of steps 1 ... T.
    Returns: steps, 1 to T.
    Valid when: any weights of positive sum.
    Source: a definition.
    """
    w_T = np.asarray(weights_T, dtype=float)
    return float((w_T * np.arange(1, len(w_T) + 1)).sum() / w_T.sum())


def effective_length(weights_T: ArrayLike) -> float:
    """Number of equally weighted steps whose mean would be as noisy as v.

        n = (sum w)^2 / sum w^2

    Args:
        weights_T: of steps.
    Returns: steps, 1 to T; (1 + beta2) / (1 - beta2) for Adam.
    Valid when: independent gradients of one variance.
    Source: a definition.
    """
    w_T = np.asarray(weights_T, dtype=float)
    return float(w_T.sum() ** 2 / (w_T**2).sum())


def rank_one(v_NM: ArrayLike) -> Array:
    """The matrix of rank one that is closest to v in the I-divergence sum v log(v / w) - v + w.

        w_ij = row_i col_j / total

    Args:
        v_NM: >= 0, not all 0, gradients squared.
    Returns: w, (N, M), gradients squared.
    Valid when: any sequence of gradients; exact.
    Source: Shazeer & Stern, arXiv 1804.04235; kexue.fm/archives/7302.
    """
    v_NM = np.asarray(v_NM, dtype=float)
    return v_NM.sum(1, keepdims=True) * v_NM.sum(0, keepdims=True) / v_NM.sum()


def rank_one_error(v_NM: ArrayLike) -> float:
    """How badly rank one fits: 0 where v is a product of rows and columns.

        std of log(w / v),    w of rank_one

    Args:
        v_NM: > 0, gradients squared.
    Returns: standard deviation of a natural logarithm; 1 for large v of independent lognormal(0, 1) entries.
    Valid when: no entry is 0.
    Source: derived for this project.
    """
    return float(np.std(np.log(rank_one(v_NM) / np.asarray(v_NM, dtype=float))))


def rank_one_noise(weights_T: ArrayLike) -> Array:
    """Error of rank one that sampling alone gives a v whose true value is of rank one; an approximation.

        std(log(w / v)) = sqrt(trigamma(n / 2)),    n = (sum w)^2 / sum w^2

    Args:
        weights_T: of every step's g^2 in v, times that step's variance.
    Returns: standard deviation of a natural logarithm.
    Valid when: independent Gaussian gradients; v taken for a gamma variable of its variance; many rows and columns.
    Source: derived for this project.
    """
    return np.sqrt(polygamma(1, effective_length(weights_T) / 2))
