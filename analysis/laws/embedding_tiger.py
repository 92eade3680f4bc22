"""RMS of embedding rows that are hit once in G steps under Tiger, whose steps are a share of that RMS."""

from collections.abc import Callable

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray

from analysis.laws.long_run import signum_autocorrelation

Array = NDArray[np.float64]

HALVINGS = 60
NODES, WEIGHTS = leggauss(128)
LAGS = 64  # hits over which signs may correlate: beta^G of them is below 1e-2 at G = 32, beta = .965


def embedding_rms_tiger(lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike) -> Array:
    """RMS just before a hit under Tiger of rows that are hit at equal gaps, as if it were the same all along the gap.

        w <- w - lr z (sign(m) + weight_decay w),    z = RMS(w)
        y^2 = tanh(lr G y / 2),    y = weight_decay z > 0

    Tiger's z multiplies the weight decay too, so embedding_rms_sign holds with lr z in place of lr, and z is then the
    root of an equation. lr G alone settles weight_decay z.

    Args:
        lr: Tiger's share, constant, > 0, dimensionless.
        weight_decay: > 0, one over the units of the weights.
        gap: G, steps from hit to hit, >= 1.
    Returns: z, in units of the weights: lr G / (2 weight_decay) for small lr G, 1 / weight_decay for large.
    Valid when: hits at equal gaps with random signs, G >> 1 / (1 - beta); lr << 1; no row starts at 0, where it would
        stay; lr G << 1 or >> 1: between, up to 8 % too large for rows hit at once (embedding_rms_tiger_cycle).
    Source: kexue.fm/archives/9512 and 9736; derived for this project.
    """
    a = np.asarray(lr, dtype=float) * np.asarray(gap, dtype=float)

    def excess(y: Array) -> Array:
        return np.tanh(a * y / 2) - y**2

    return halve(excess, np.zeros_like(a), np.ones_like(a)) / np.asarray(weight_decay, dtype=float)


def embedding_rms_tiger_random(lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike) -> Array:
    """As embedding_rms_tiger for hits at random times, G steps apart on average.

        y^2 = x / (1 + x),  x = lr G y,    so   y = (sqrt(1 + 4 (lr G)^2) - 1) / (2 lr G),    y = weight_decay z

    Args:
        lr, weight_decay: as in embedding_rms_tiger.
        gap: G, mean steps from hit to hit, >= 1.
    Returns: z at any time, in units of the weights: lr G / weight_decay for small lr G, 1 / weight_decay for large.
    Valid when: hits are independent of each other and many rows are in one tensor, G >> 1 / (1 - beta); lr << 1.
    Source: derived for this project.
    """
    a = np.asarray(lr, dtype=float) * np.asarray(gap, dtype=float)
    return 2 * a / (1 + np.sqrt(1 + 4 * a**2)) / np.asarray(weight_decay, dtype=float)


def embedding_rms_tiger_cycle(
    lr: ArrayLike, weight_decay: ArrayLike, gap: ArrayLike, *, momentum: ArrayLike = 0.0
) -> Array:
    """RMS just before a hit under Tiger of rows that are all hit at once, whose size so changes within a gap.

        dw/dtheta = -(w + s / weight_decay),    dtheta = lr y dt,    y = weight_decay RMS(w)
        y0^2 = F tanh(x/2),     F = 1 + 2 sum_k c_k e^(-k x),    C = (1 - e^-x) sum_k c_k e^(-(k-1) x)
        y^2  = y0^2 e^(-2 theta) + (1 - e^-theta)^2 + 2 C e^-theta (1 - e^-theta)
        lr G = integral_0^x dtheta / y

    c_k = (2/pi) arcsin(beta^(G k)): how signs of the average agree k hits apart, since it remembers earlier ones.

    Args:
        lr, weight_decay, gap: as in embedding_rms_tiger.
        momentum: beta, in [0, 1).
    Returns: y0 / weight_decay, in units of the weights. At beta = 0 up to 8 % below embedding_rms_tiger (lr G = 2).
    Valid when: hits at equal gaps, of Gaussian gradients; beta^G << 1/2; lr << 1; many entries in one tensor.
    Source: derived for this project.
    """
    arrays = np.broadcast_arrays(*(np.asarray(value, dtype=float) for value in (lr, weight_decay, gap, momentum)))
    found = [
        solve_cycle(rate * steps, signum_autocorrelation(beta**steps, LAGS)[1:]) / decay
        for rate, decay, steps, beta in zip(*(array.ravel() for array in arrays), strict=True)
    ]
    return np.reshape(found, arrays[0].shape)


def solve_cycle(a: float, agree_K: Array) -> float:
    """y0 where a whole gap takes a = lr G; `agree_K`: c_1, c_2, ..."""
    lags = np.arange(1, len(agree_K) + 1)

    def start(x: Array) -> Array:  # y0^2
        return np.tanh(x / 2) * (1 + 2 * np.sum(agree_K * np.exp(-lags * x)))

    def left(x: Array) -> Array:
        kept = np.exp(-x * (1 + NODES) / 2)
        agreed = -np.expm1(-x) * np.sum(agree_K * np.exp(-(lags - 1) * x))
        y = np.sqrt(start(x) * kept**2 + (1 - kept) ** 2 + 2 * agreed * kept * (1 - kept))
        return np.asarray(a - x / 2 * np.sum(WEIGHTS / y))

    most = np.asarray(a * np.sqrt(1 + 2 * agree_K.sum()))  # y is nowhere larger
    return float(np.sqrt(start(halve(left, np.zeros_like(most), most))))


def halve(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Where a function that is positive right of `low` changes its sign, to 2^-60 of the interval."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        below = function(middle) > 0
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2
