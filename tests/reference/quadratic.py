"""Exact expected final losses on the noisy quadratic, with no randomness and no torch. The oracle of a whole sweep.

Written for coordinates one by one, since H is diagonal: D dimensions, T steps.
"""

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import norm


def quadratic(*, dimension: int, power: float, noise: str, std: float) -> tuple[np.ndarray, np.ndarray]:
    """Curvatures h_D and noise variances of one sample, diag(Sigma)_D."""
    h_D = np.array([1.0 / i**power for i in range(1, dimension + 1)])
    shapes = {"isotropic": np.ones(dimension), "correlated": np.ones(dimension), "proportional": h_D / h_D.mean()}
    return h_D, std**2 * shapes[noise]


def sgd_loss(
    lr: float,
    *,
    h_D: np.ndarray,
    variance_D: np.ndarray,
    batch_size: int,
    num_steps: int,
    start: float,
    momentum: float = 0.0,
    multiplier: Callable[[int, int], float] = lambda t, T: 1.0,
) -> float:
    """E loss after T steps of SGD with torch's momentum: a recursion of mean and covariance of (w, m), coordinatewise.

    m' = momentum m + h w + xi,    w' = w - lr_t m',    xi ~ N(0, variance / B)
    z = (w, m):  z' = A z + b xi,   E z' = A E z,   Cov z' = A Cov z A^T + b b^T variance / B
    """
    mean_2D = np.stack([np.full(len(h_D), start), np.zeros(len(h_D))])
    cov_22D = np.zeros((2, 2, len(h_D)))
    one_D = np.ones(len(h_D))
    for t in range(num_steps):
        lr_t = lr * multiplier(t, num_steps)
        A = np.array([[1 - lr_t * h_D, -lr_t * momentum * one_D], [h_D, momentum * one_D]])
        b = np.array([-lr_t, 1.0])
        mean_2D = np.einsum("ijd,jd->id", A, mean_2D)
        cov_22D = np.einsum("ijd,jkd,lkd->ild", A, cov_22D, A) + np.outer(b, b)[..., None] * variance_D / batch_size
    return float(0.5 * np.sum(h_D * (mean_2D[0] ** 2 + cov_22D[0, 0])))


def signsgd_loss(
    lr: float, *, h_D: np.ndarray, variance_D: np.ndarray, batch_size: int, num_steps: int, start: float
) -> float:
    """E loss after T steps of signSGD at constant lr: the weight walks on the lattice start + k lr.

    P(down) = P(h w + xi > 0) = Phi(h w sqrt(B / variance)); the distribution over t+1 places is carried along.
    """
    sd_D = np.sqrt(variance_D / batch_size)
    places_K = np.array([start])
    share_KD = np.ones((1, len(h_D)))
    for _ in range(num_steps):
        down_KD = norm.cdf(np.outer(places_K, h_D / sd_D))
        places_K = np.append(places_K - lr, places_K[-1] + lr)  # lowest first: each moves down, the highest also up
        moved_KD = np.zeros((len(places_K), len(h_D)))
        moved_KD[:-1] += share_KD * down_KD
        moved_KD[1:] += share_KD * (1 - down_KD)
        share_KD = moved_KD
    return float(0.5 * np.sum(h_D * (share_KD * places_K[:, None] ** 2).sum(0)))


def best_lr(loss: Callable[[float], float], *, low: float, high: float, per_octave: int = 8) -> float:
    """argmin over learning rates: a grid to find the lowest valley, then one-dimensional minimisation in log2 lr."""
    x = np.arange(np.log2(low), np.log2(high) + 1e-9, 1 / per_octave)
    with np.errstate(over="ignore", invalid="ignore"):
        losses = np.array([loss(2.0**value) for value in x])
    losses[~np.isfinite(losses)] = np.inf
    i = int(np.argmin(losses))
    assert 0 < i < len(x) - 1, "the optimum lies outside of low ... high"
    found = minimize_scalar(lambda value: loss(2.0**value), bounds=(x[i - 1], x[i + 1]), method="bounded")
    return float(2.0**found.x)


def sgd_steps(
    *, h_D: np.ndarray, variance_D: np.ndarray, batch_size: int, start: float, target: float, lr: float | None = None,
    max_steps: int = 100_000,
) -> tuple[float, float]:  # fmt: skip
    """(steps until the E loss of SGD is at the target, mean of B_noise over them): a recursion of second moments.

    s = E w^2,    s' = (1 - lr h)^2 s + lr^2 variance / B
    Without lr every step takes the one that lowers the E loss most, from the exact mean, noise and curvature:
        lr = g2 / (E g^T H g + tr(Sigma H) / B),   g2 = sum h^2 s,   E g^T H g = sum h^3 s,   B_noise their ratio
    Steps are interpolated in the loss; infinite where it does not come down in max_steps.
    """
    moment_D, loss, scales = np.full(len(h_D), start**2), 0.5 * float(np.sum(h_D)) * start**2, []
    for t in range(max_steps):
        noise, signal = float(h_D @ variance_D), float(h_D**3 @ moment_D)
        scales.append(noise / signal)
        step = lr or float(h_D**2 @ moment_D) / (signal + noise / batch_size)
        moment_D = (1 - step * h_D) ** 2 * moment_D + step**2 * variance_D / batch_size
        before, loss = loss, 0.5 * float(h_D @ moment_D)
        if loss <= target:
            return t + (before - target) / (before - loss), float(np.mean(scales))
        if not loss < 1e9:
            break
    return np.inf, np.nan
