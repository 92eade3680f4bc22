"""Amos's schedules of lr and weight decay, which hold weights at the scale that they start with."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def amos_constant(
    step: ArrayLike, *, alpha: float, cosine: float, scale: float = 1.0, q: float = 1.0
) -> tuple[Array, Array]:
    """lr and lr weight_decay where updates point at the solution at a constant cosine.

        lr_t  = alpha scale / (alpha p t + 1)^2
        rho_t = alpha^2 / (2 q) / (alpha p t + 1)^2,    rho = lr weight_decay

    Args:
        step: t, from 0.
        alpha: alpha_0, relative step at first, > 0, dimensionless.
        cosine: p, of the update and the error, 0 <= p <= 1.
        scale: RMS |error_0| / |u_t|, about the RMS of the weights for u of RMS 1, in units of the weights.
        q: |weights|^2 / |error|^2, about 1.
    Returns: lr_t (weights a step) and rho_t (dimensionless); half at alpha p t = sqrt(2) - 1.
    Valid when: alpha << 1; |u_t| constant.
    Source: Amos, arXiv 2210.11693; kexue.fm/archives/9344.
    """
    shape = (alpha * cosine * np.asarray(step, dtype=float) + 1) ** -2
    return alpha * scale * shape, alpha**2 / (2 * q) * shape


def amos_inverse_time(
    step: ArrayLike, *, alpha: float, cosine: float, scale: float = 1.0, q: float = 1.0
) -> tuple[Array, Array]:
    """lr and lr weight_decay where the cosine falls with the error: inverse-time decay.

        lr_t  = alpha scale / (2 alpha p t + 1)
        rho_t = alpha^2 / (2 q) / (2 alpha p t + 1),    rho = lr weight_decay

    Args:
        step, alpha, scale, q: as in amos_constant.
        cosine: p_0, at first; p_t = p_0 |error_t| / |error_0|.
    Returns: lr_t (weights a step) and rho_t (dimensionless); half at 2 alpha p t = 1.
    Valid when: alpha << 1; |u_t| constant.
    Source: Amos, arXiv 2210.11693; kexue.fm/archives/9344.
    """
    shape = 1 / (2 * alpha * cosine * np.asarray(step, dtype=float) + 1)
    return alpha * scale * shape, alpha**2 / (2 * q) * shape


def amos_adaptive(
    steps: int, *, alpha: float, scale: float = 1.0, c_coef: float = 0.25, d_coef: float = 0.25
) -> tuple[Array, Array]:
    """lr and lr weight_decay of the paper's own damping, where squared gradients are as large as their average.

        decay  = alpha^2 (1 + c sqrt(alpha) b)^(-1/2),    damped = 1 / (1 + d sqrt(alpha scale) b)
        lr_t   = damped alpha scale,    rho_t = damped decay / 2,    b <- b + decay (1 + b), from 0

    Args:
        steps: T.
        alpha, scale: as in amos_constant.
        c_coef, d_coef: c, d, >= 0.
    Returns: lr_t (weights a step) and rho_t (dimensionless) of every step, (T,).
    Valid when: mean(g^2) of every step is that of the running mean: many entries, gradients of a size that does not
        change.
    Source: Amos, arXiv 2210.11693, algorithm 1.
    """
    b, lr, rho = 0.0, [], []
    for _ in range(steps):
        decay = alpha**2 / np.sqrt(1 + c_coef * np.sqrt(alpha) * b)
        damped = 1 / (1 + d_coef * np.sqrt(alpha * scale) * b)
        lr.append(damped * alpha * scale)
        rho.append(damped * decay / 2)
        b += decay * (1 + b)
    return np.array(lr), np.array(rho)
