"""Means and covariances of one coordinate's update under Gaussian gradient noise, coordinate by coordinate.

A batch's gradient in coordinate i is N(g_i, sigma_i^2 / B);  a_i = g_i sqrt(B) / sigma_i is its signal-to-noise ratio.
Shapes: N coordinates, C some of them; K nodes, J powers, P pairs of a tile.
"""

from math import factorial

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf, wofz

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
# sin(t (node + 1) / 2) of |t| <= pi/2 from the odd powers of t: Taylor's series, whose next term is below 1e-16
SINES_KJ = np.array([
    [(-1) ** j * ((node + 1) / 2) ** (2 * j + 1) / factorial(2 * j + 1) for j in range(11)] for node in NODES
])  # fmt: skip
TILE = 48  # coordinates: the 24 nodes of 48 x 48 pairs stay in the cache
SMOOTH_NODES, SMOOTH_WEIGHTS = np.polynomial.legendre.leggauss(32)
SPREAD, FAR, SHARP = 5.5, 30.0, 0.01  # of softsign_mean, in standard deviations of the noise
AT_ONCE = 4096  # coordinates


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
    rho_CN = np.asarray(correlation_CN, dtype=float)
    symmetric = np.array_equal(left_C, right_N) and np.array_equal(rho_CN, rho_CN.T)  # then a half is enough
    total_CN = np.empty_like(rho_CN)
    for first in range(0, len(left_C), TILE):
        rows = slice(first, first + TILE)
        for other in range(0, first + 1 if symmetric else len(right_N), TILE):
            columns = slice(other, other + TILE)
            total_CN[rows, columns] = integrate(left_C[rows], right_N[columns], rho_CN[rows, columns])
            if symmetric:
                total_CN[columns, rows] = total_CN[rows, columns].T
    return total_CN


def integrate(left_C: np.ndarray, right_N: np.ndarray, rho_CN: np.ndarray) -> np.ndarray:
    """One tile of sign_covariance.

    Sines of all nodes are one matrix product, SINES_KJ with the odd powers of arcsin rho: less work than np.sin.
    """
    end_P = np.arcsin(np.clip(rho_CN, -1 + 1e-12, 1 - 1e-12)).ravel()
    power_JP = np.empty((SINES_KJ.shape[1], len(end_P)))
    power_JP[0] = end_P
    square_P = end_P**2
    for below, power_P in enumerate(power_JP[1:]):
        np.multiply(power_JP[below], square_P, out=power_P)
    sine_KP = SINES_KJ @ power_JP
    exponent_KP = sine_KP * np.outer(left_C, right_N).ravel()
    exponent_KP -= np.add.outer(left_C**2, right_N**2).ravel() / 2
    cosine_square_KP = np.subtract(1, np.multiply(sine_KP, sine_KP, out=sine_KP), out=sine_KP)
    exponent_KP /= cosine_square_KP
    inside_KP = np.exp(exponent_KP, out=exponent_KP)
    return (end_P * (WEIGHTS @ inside_KP) / np.pi).reshape(rho_CN.shape)


def sign_covariance_arcsine(a_C: ArrayLike, a_N: ArrayLike, correlation_CN: ArrayLike) -> np.ndarray:
    """(2/pi) arcsin(rho) sqrt((1 - mu_i^2)(1 - mu_j^2)): exact at a = 0, 1.2 to 1.5 times too large at a = 1.

    Valid when: |a| << 1.
    Source: this project's shortcut of sign_covariance.
    """
    left, right = (np.sqrt(1 - sign_mean(a) ** 2) for a in (a_C, a_N))
    rho = np.clip(np.asarray(correlation_CN, dtype=float), -1, 1)
    return 2 / np.pi * np.arcsin(rho) * left[:, None] * right[None, :]


def softsign_mean(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """E[x / sqrt(x^2 + b^2)], x ~ N(a, 1), an odd function of a: with x = b sinh t the bend at x ~ b is a smooth curve.

        int_0^inf x (phi(x - a) - phi(x + a)) dt,    phi(x + a) = phi(x - a) exp(-2 a x),    phi the normal density

    By Gauss-Legendre quadrature over the t of |x - a| <= SPREAD. For a^2 + b^2 > FAR^2 by Taylor's series around a,
    a / r (1 - 3/2 b^2 / r^4), r^2 = a^2 + b^2; for b < SHARP by sign_mean and the value at SHARP in proportion to b^2.

    Args:
        b: eps sqrt(B) / sigma.

    Valid when: Gaussian noise; good to 1e-5 of itself at every a and b.
    Source: no closed form is known; kexue.fm/archives/10563 approximates it.
    """
    a, b = np.broadcast_arrays(np.asarray(a, dtype=float), np.abs(np.asarray(b, dtype=float)))
    total = np.empty(a.shape)
    out, a_N, b_N = total.reshape(-1), a.reshape(-1), b.reshape(-1)
    for first in range(0, a.size, AT_ONCE):
        few = slice(first, first + AT_ONCE)
        out[few] = softsign_mean_of_few(np.clip(a_N[few], -1e100, 1e100), np.minimum(b_N[few], 1e100))
    return np.where(np.isfinite(a), total, np.sign(a))


def softsign_mean_of_few(a_N: np.ndarray, b_N: np.ndarray) -> np.ndarray:
    """softsign_mean of as many coordinates as stay in the cache."""
    r_N = np.hypot(a_N, b_N)
    far_N = r_N > FAR
    with np.errstate(divide="ignore", invalid="ignore"):
        series_N = a_N / r_N * (1 - 1.5 * (b_N / r_N) ** 2 / r_N**2)
    a = np.clip(np.abs(a_N), 1e-4, FAR)  # below, it is in proportion to a, and the difference of phi would be rounding
    b = np.clip(b_N, SHARP, FAR)
    low = np.arcsinh(np.maximum(a - SPREAD, 0) / b)
    half = (np.arcsinh((a + SPREAD) / b) - low) / 2
    near_N = np.zeros_like(a)
    for node, weight in zip(SMOOTH_NODES, SMOOTH_WEIGHTS, strict=True):
        grown = np.exp(low + half * (node + 1))
        x = b / 2 * (grown - 1 / grown)  # b sinh t
        near_N += weight * x * np.exp(-((x - a) ** 2) / 2) * (1 - np.exp(-2 * a * x))
    near_N *= half * np.sign(a_N) * np.minimum(np.abs(a_N) / a, 1) / np.sqrt(2 * np.pi)
    share_N = np.minimum(b_N / SHARP, 1) ** 2
    return np.where(far_N, series_N, share_N * near_N + (1 - share_N) * sign_mean(a_N))


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
