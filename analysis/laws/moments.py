"""Means and covariances of one coordinate's update under Gaussian gradient noise, coordinate by coordinate.

A batch's gradient in coordinate i is N(g_i, sigma_i^2 / B);  a_i = g_i sqrt(B) / sigma_i is its signal-to-noise ratio.
Shapes: N coordinates, C some of them.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, wofz

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
IN_CACHE = 2**16  # numbers
HERMITE_NODES, HERMITE_WEIGHTS = np.polynomial.hermite_e.hermegauss(61)


def signal_to_noise(gradient: ArrayLike, variance: ArrayLike, batch_size: float) -> np.ndarray:
    """a = g sqrt(B) / sigma; +-inf where there is no noise, 0 where there is nothing.

    Valid when: the batch is drawn with replacement, so that its mean has the variance sigma^2 / B.
    Source: kexue.fm/archives/10542.
    """
    g, sd = np.asarray(gradient, dtype=float), np.sqrt(np.maximum(np.asarray(variance, dtype=float), 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(g * np.sqrt(batch_size) / sd, nan=0.0, posinf=np.inf, neginf=-np.inf)


def sign_mean(a: ArrayLike) -> np.ndarray:
    """E sign(x) = erf(a / sqrt 2), for x ~ N(a, 1).

    Valid when: Gaussian noise.
    Source: kexue.fm/archives/10542.
    """
    mean: np.ndarray = erf(np.asarray(a, dtype=float) / np.sqrt(2))
    return mean


def sign_mean_article(a: ArrayLike) -> np.ndarray:
    """a / sqrt(a^2 + pi/2): the slope of sign_mean at 0 is exact, and it is .108 low at a = 1.88.

    Valid when: a rough form of sign_mean, for |a| << 1 or >> 1.
    Source: kexue.fm/archives/10542.
    """
    a = np.asarray(a, dtype=float)
    finite = np.isfinite(a)
    return np.where(finite, np.where(finite, a, 0) / np.sqrt(np.where(finite, a, 0) ** 2 + np.pi / 2), np.sign(a))


def sign_covariance(a_C: ArrayLike, a_N: ArrayLike, correlation_CN: ArrayLike) -> np.ndarray:
    """Cov(sign x_i, sign x_j) of two Gaussians of unit variance, means a and correlation rho, (C, N).

        (2/pi) int_0^(arcsin rho) exp(-(a_i^2 + a_j^2 - 2 a_i a_j sin t) / (2 cos^2 t)) dt

    By 24-point Gauss-Legendre quadrature.

    Valid when: Gaussian noise; |rho| <= 1.
    Source: Plackett's identity, d P / d rho = the bivariate density; derived for this project.
    """
    left_C, right_N = (np.clip(np.asarray(a, dtype=float), -40, 40) for a in (a_C, a_N))  # beyond, nothing is left
    end_CN = np.arcsin(np.clip(np.asarray(correlation_CN, dtype=float), -1 + 1e-12, 1 - 1e-12))
    total_CN = np.empty_like(end_CN)
    few = max(1, IN_CACHE // len(right_N))
    for first in range(0, len(left_C), few):
        rows = slice(first, first + few)
        total_CN[rows] = integrate(left_C[rows, None], right_N[None, :], end_CN[rows])
    return total_CN / np.pi


def integrate(a_C1: np.ndarray, a_1N: np.ndarray, end_CN: np.ndarray) -> np.ndarray:
    """The integral of sign_covariance."""
    total_CN = np.zeros_like(end_CN)
    squares_CN, product_CN = (a_C1**2 + a_1N**2) / 2, a_C1 * a_1N
    for node, weight in zip(NODES, WEIGHTS, strict=True):
        sine_CN = np.sin(end_CN * ((node + 1) / 2))
        total_CN += weight * np.exp((product_CN * sine_CN - squares_CN) / (1 - sine_CN**2))
    return total_CN * end_CN


def sign_covariance_arcsine(a_C: ArrayLike, a_N: ArrayLike, correlation_CN: ArrayLike) -> np.ndarray:
    """(2/pi) arcsin(rho) sqrt((1 - mu_i^2)(1 - mu_j^2)): exact at a = 0, 1.2 to 1.5 times too large at a = 1.

    Valid when: |a| << 1.
    Source: this project's shortcut of sign_covariance.
    """
    left, right = (np.sqrt(1 - sign_mean(a) ** 2) for a in (a_C, a_N))
    rho = np.clip(np.asarray(correlation_CN, dtype=float), -1, 1)
    return 2 / np.pi * np.arcsin(rho) * left[:, None] * right[None, :]


def softsign_mean(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """E[x / sqrt(x^2 + b^2)], x ~ N(a, 1), by 61-point Gauss-Hermite quadrature where b is not small, else sign_mean.

    Args:
        b: eps sqrt(B) / sigma.

    Valid when: Gaussian noise; the quadrature is good to 1e-3 for b >= .3, and between 0 and .3 it is mixed with
        sign_mean in proportion to b.
    Source: no closed form is known; kexue.fm/archives/10563 approximates it.
    """
    a, b = np.broadcast_arrays(np.asarray(a, dtype=float), np.asarray(b, dtype=float))
    total = np.zeros(a.shape)
    width = np.maximum(b, 0.3)
    for node, weight in zip(HERMITE_NODES, HERMITE_WEIGHTS, strict=True):
        x = np.clip(a, -1e6, 1e6) + node
        total += weight / np.sqrt(2 * np.pi) * x / np.sqrt(x**2 + width**2)
    share = np.minimum(b / 0.3, 1.0)
    return np.where(np.isfinite(a), share * total + (1 - share) * sign_mean(a), np.sign(a))


def softsign_square(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """E[x^2 / (x^2 + b^2)] = 1 - sqrt(pi/2) b Re w((a + i b) / sqrt 2), w Faddeeva's function.

    Valid when: Gaussian noise; exact.
    Source: derived for this project from the Voigt profile; kexue.fm/archives/10563 has an approximation.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    finite = np.isfinite(a) & np.isfinite(b)
    a, b = np.where(finite, a, 0.0), np.where(finite, b, 0.0)
    value = 1 - np.sqrt(np.pi / 2) * b * np.real(wofz((a + 1j * b) / np.sqrt(2)))
    return np.where(finite, value, 1.0)


def softsign_mean_article(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """a / sqrt(a^2 + b^2 + pi/2).

    Valid when: a rough form of softsign_mean.
    Source: kexue.fm/archives/10563.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    finite = np.isfinite(a)
    a0 = np.where(finite, a, 0)
    return np.where(finite, a0 / np.sqrt(a0**2 + b**2 + np.pi / 2), np.sign(a))


def softsign_square_article(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """1 - b^2 / (a^2 + b^2 + pi/2).

    Valid when: a rough form of softsign_square.
    Source: kexue.fm/archives/10563.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    finite = np.isfinite(a)
    a0 = np.where(finite, a, 0)
    return np.where(finite, 1 - b**2 / (a0**2 + b**2 + np.pi / 2), 1.0)
