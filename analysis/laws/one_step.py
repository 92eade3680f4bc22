"""The learning rate that is best for one step, predicted from gradient, noise and curvature at a checkpoint.

    E[L(params - lr u) - L(params)] = -lr E[u].g + lr^2 E[u.H u] / 2,        lr* = E[u].g / E[u.H u]

with g of samples that u's batch does not hold. E[u.H u] = E[u].H E[u] + sum_ij H_ij Cov(u_i, u_j).
Shapes: N coordinates, C those whose columns of H and Sigma are known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from analysis.laws.moments import (
    sign_covariance,
    sign_covariance_arcsine,
    sign_mean,
    sign_mean_article,
    signal_to_noise,
    softsign_mean,
    softsign_mean_article,
    softsign_square,
    softsign_square_article,
)

Moment = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Local:
    """What is known of a checkpoint.

    Attributes:
        gradient_N: g, of the evaluation samples.
        pool_gradient_N, variance_N: mean and variance of one sample's gradient in the pool that batches are drawn from.
        columns_C: which columns of H and Sigma are known; probability_C: how often each is expected among them, 1 where
            all are there.
        hessian_CN, noise_CN: those columns.
    """

    gradient_N: np.ndarray
    pool_gradient_N: np.ndarray
    variance_N: np.ndarray
    columns_C: np.ndarray
    probability_C: np.ndarray
    hessian_CN: np.ndarray
    noise_CN: np.ndarray

    def bend(self, mean_N: np.ndarray) -> float:
        """mean.H mean."""
        products_C = self.hessian_CN @ mean_N
        return float(np.sum(mean_N[self.columns_C] * products_C / self.probability_C))

    def bend_by(self, covariance_CN: np.ndarray) -> float:
        """sum_ij H_ij Cov_ij."""
        return float(np.einsum("cn,cn->c", self.hessian_CN, covariance_CN) @ (1 / self.probability_C))

    def bend_alone(self, variance_N: np.ndarray) -> float:
        """sum_i H_ii Var_i: coordinates whose noise is independent."""
        own_C = self.hessian_CN[np.arange(len(self.columns_C)), self.columns_C]
        return float(np.sum(own_C * variance_N[self.columns_C] / self.probability_C))

    @cached_property
    def correlation_CN(self) -> np.ndarray:
        """Of the noise; kept, since every batch size asks for it."""
        sd_N = np.sqrt(np.maximum(self.variance_N, 0.0))
        with np.errstate(divide="ignore", invalid="ignore"):
            rho = self.noise_CN / (sd_N[self.columns_C][:, None] * sd_N[None, :])
        return np.clip(np.nan_to_num(rho, nan=0.0, posinf=0.0, neginf=0.0), -1, 1)


def divide(local: Local, mean_N: np.ndarray, noise: float) -> float:
    """lr* from a mean update and what its noise adds to the curvature; NaN where the curvature is not positive."""
    curvature = local.bend(mean_N) + noise
    return float(mean_N @ local.gradient_N) / curvature if curvature > 0 else np.nan


def sgd_closed(
    grad_sq: np.ndarray | float, grad_curvature: np.ndarray | float, noise_curvature: np.ndarray | float,
    batch_size: np.ndarray | float, *, beta1: float = 0.0, pool_samples: np.ndarray | float = np.inf,
) -> np.ndarray:  # fmt: skip
    """SGD: lr* = lr_max / (1 + r B_noise / B),   r = (1 - beta1)/(1 + beta1).

        lr_max = g.g / g.H g,   B_noise = tr(Sigma H) / g.H g

    Args:
        grad_sq, grad_curvature, noise_curvature: g.g, g.H g and tr(Sigma H).
        beta1: of an average of gradients at frozen parameters.
        pool_samples: how many samples batches are drawn from, whose mean then is a batch's: g.H g of it is larger by
            tr(Sigma H) / pool_samples.
    Returns: lr*; NaN where the curvature is not positive.

    Valid when: the loss is quadratic over the step; any noise.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542, 11301.
    """
    ratio = (1 - beta1) / (1 + beta1)
    curvature = grad_curvature + noise_curvature * (
        ratio / np.asarray(batch_size, float) + 1 / np.asarray(pool_samples)
    )
    return np.where(curvature > 0, grad_sq / np.where(curvature > 0, curvature, 1.0), np.nan)


def sign_by(mean: Callable, covariance: Callable | None) -> Callable[[Local, float], float]:
    """SignSGD: lr* = mu.g / (mu.H mu + sum_ij H_ij Cov(s_i, s_j)), mu = E sign.

    Args:
        covariance: of two coordinates' signs; None: independent ones, whose variance is 1 - mu^2 where there is noise.

    Valid when: the loss is quadratic over the step; Gaussian noise.
    Source: kexue.fm/archives/10542, 11260; the correlated form is this project's own.
    """

    def predict(local: Local, batch_size: float) -> float:
        a_N = signal_to_noise(local.pool_gradient_N, local.variance_N, batch_size)
        mean_N = mean(a_N)
        if covariance is None:
            return divide(local, mean_N, local.bend_alone(np.where(local.variance_N > 0, 1 - mean_N**2, 0.0)))
        covariance_CN = covariance(a_N[local.columns_C], a_N, local.correlation_CN)
        return divide(local, mean_N, local.bend_by(covariance_CN))

    return predict


def sign_mean_field(local: Local, batch_size: float) -> float:
    """SignSGD with one signal-to-noise ratio for all: mu_i = sign(g_i) beta, beta = (1 + B_simple / B)^(-1/2).

        lr* = sum |g_i| / (sum H_ii / beta + beta sum_(i != j) H_ij sign(g_i g_j)),   B_simple = tr Sigma / g.g

    Valid when: every coordinate has about the same g / sigma, and noise is independent.
    Source: kexue.fm/archives/11280.
    """
    simple = local.variance_N.sum() / (local.pool_gradient_N @ local.pool_gradient_N)
    beta = (1 + simple / batch_size) ** -0.5
    mean_N = beta * np.sign(local.pool_gradient_N)
    return divide(local, mean_N, local.bend_alone(np.where(local.variance_N > 0, 1 - mean_N**2, 0.0)))


def softsign_independent(local: Local, batch_size: float, eps: float) -> float:
    """SoftSign g / sqrt(g^2 + eps^2): lr* = u.g / (u.H u + sum_i H_ii Var u_i), u = E, with the exact moments.

    Valid when: the loss is quadratic over the step; Gaussian noise, independent between coordinates.
    Source: kexue.fm/archives/10563; the exact square is this project's own.
    """
    return predict_softsign(local, batch_size, eps, softsign_mean, softsign_square)


def softsign_article(local: Local, batch_size: float, eps: float) -> float:
    """As softsign_independent, with the article's forms of both moments.

    Valid when: as there, and the forms are near: E u^2 is up to .3 too large.
    Source: kexue.fm/archives/10563.
    """
    return predict_softsign(local, batch_size, eps, softsign_mean_article, softsign_square_article)


def predict_softsign(local: Local, batch_size: float, eps: float, mean: Moment, square: Moment) -> float:
    """lr* from two functions of (a, b)."""
    a_N = signal_to_noise(local.pool_gradient_N, local.variance_N, batch_size)
    b_N = np.minimum(np.abs(signal_to_noise(np.full(len(a_N), eps), local.variance_N, batch_size)), 1e12)
    quiet_N = local.variance_N <= 0  # no noise: u is what it is
    mean_N = np.where(quiet_N, local.pool_gradient_N / np.hypot(local.pool_gradient_N, eps), mean(a_N, b_N))
    spread_N = np.where(quiet_N, 0.0, square(a_N, b_N) - mean_N**2)
    return divide(local, mean_N, local.bend_alone(spread_N))


def adam_linear(local: Local, batch_size: float, beta1: float) -> float:
    """Adam with v at its mean: noise enters linearly, with its correlations.

        E[u.H u] = (D g).H (D g) + r tr(D Sigma D H) / B,   D = 1 / sqrt(g^2 + sigma^2 / B),   r = (1-beta1)/(1+beta1)

    Valid when: the loss is quadratic over the step; v has a long memory (beta2 -> 1) at frozen parameters.
    Source: this project's own; kexue.fm/archives/11301 has it with independent coordinates.
    """
    scale_N = adam_scale(local, batch_size)
    ratio = (1 - beta1) / (1 + beta1)
    covariance_CN = scale_N[local.columns_C][:, None] * local.noise_CN * scale_N[None, :]
    return divide(local, scale_N * local.pool_gradient_N, ratio * local.bend_by(covariance_CN) / batch_size)


def adam_independent(local: Local, batch_size: float, beta1: float) -> float:
    """As adam_linear, with coordinates whose noise is independent.

    Valid when: noise is independent between coordinates.
    Source: kexue.fm/archives/11301.
    """
    scale_N = adam_scale(local, batch_size)
    ratio = (1 - beta1) / (1 + beta1)
    noise = ratio * local.bend_alone(scale_N**2 * local.variance_N) / batch_size
    return divide(local, scale_N * local.pool_gradient_N, noise)


def adam_scale(local: Local, batch_size: float) -> np.ndarray:
    v_N = local.pool_gradient_N**2 + local.variance_N / batch_size
    return np.where(v_N > 0, 1 / np.sqrt(np.where(v_N > 0, v_N, 1.0)), 0.0)


sign_independent = sign_by(sign_mean, None)
sign_article = sign_by(sign_mean_article, None)
sign_correlated = sign_by(sign_mean, sign_covariance)
sign_arcsine = sign_by(sign_mean, sign_covariance_arcsine)
