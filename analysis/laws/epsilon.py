"""How Adam's epsilon moves the optimum learning rate: pure functions of numpy arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = NDArray[np.float64]


def relative_epsilon(batch_size: ArrayLike, eps: ArrayLike, *, sigma: float) -> Curve:
    """Epsilon over the noise of a batch's gradient.

        x = eps sqrt(B) / sigma

    Args:
        batch_size: B, samples a step, > 0.
        eps: >= 0, in units of a gradient.
        sigma: standard deviation of one sample's gradient, in units of eps, > 0.
    Returns: x, >= 0, dimensionless.
    Valid when: a definition; one sigma for all coordinates.
    Source: kexue.fm/archives/10563.
    """
    return np.asarray(eps, dtype=float) * np.sqrt(np.asarray(batch_size, dtype=float)) / sigma


def epsilon_batch_size(eps: ArrayLike, *, sigma: float) -> Curve:
    """Batch size at which epsilon is as large as the noise, x = 1, and the slope of the learning rate is 3/4.

        B_eps = (sigma / eps)^2

    Args:
        eps: > 0, in units of a gradient.
        sigma: standard deviation of one sample's gradient, in units of eps, > 0.
    Returns: B_eps, samples a step.
    Valid when: as relative_epsilon.
    Source: kexue.fm/archives/10563.
    """
    return (sigma / np.asarray(eps, dtype=float)) ** 2


def epsilon_ratio_outside(x: ArrayLike) -> Curve:
    """How much epsilon outside the root (torch's) raises the optimum learning rate; no parameter is fitted.

        lr(eps) / lr(0) = 1 + x,   slope of lr in B: (1/2 + x) / (1 + x)

    Args:
        x: relative_epsilon, >= 0, dimensionless.
    Returns: ratio of optimum learning rates, >= 1.
    Valid when: a fixed number of samples, B far below the noise scale, many steps; one sigma for all coordinates.
    Source: derived for this project; on quadratics of one sigma, x = .2 to 40, up to 2.5 % too large where noise rules
        and 6.5 % where the gradient's mean counts beside it (sweep adam_eps).
    """
    return 1 + np.asarray(x, dtype=float)


def epsilon_ratio_inside(x: ArrayLike) -> Curve:
    """As epsilon_ratio_outside, with epsilon squared inside the root, sqrt(v + eps^2).

        lr(eps) / lr(0) = sqrt(1 + x^2),   slope of lr in B: (1/2 + x^2) / (1 + x^2)

    Args:
        x: relative_epsilon, >= 0, dimensionless.
    Returns: ratio of optimum learning rates, >= 1; at x = 1 it is 1.41 times below epsilon_ratio_outside.
    Valid when: as epsilon_ratio_outside.
    Source: derived for this project, for the form of kexue.fm/archives/10563.
    """
    return np.sqrt(1 + np.asarray(x, dtype=float) ** 2)


def epsilon_crossover(batch_size: ArrayLike, eps: ArrayLike, *, coefficient: float, sigma: float) -> Curve:
    """From the square root of the batch size to the batch size itself, where epsilon exceeds the gradient's noise.

        lr = coefficient sqrt(B) (1 + x),   x = eps sqrt(B) / sigma,   slope (1/2 + x) / (1 + x)

    The slope is 3/4 at B_eps = (sigma / eps)^2.

    Args:
        batch_size: B, samples a step.
        eps: outside the root, as torch has it, >= 0.
        coefficient: learning rate at batch size 1 and eps 0, > 0.
        sigma: standard deviation of one sample's gradient, in units of eps, > 0.
    Returns: optimum learning rate.
    Valid when: a fixed number of samples, B far below the noise scale, many steps; one sigma for all coordinates.
    Source: kexue.fm/archives/10563 (the crossover); the ratio 1 + x from quadratics, within 3 %.
    """
    root = np.sqrt(np.asarray(batch_size, dtype=float))
    return coefficient * root * epsilon_ratio_outside(relative_epsilon(batch_size, eps, sigma=sigma))


def epsilon_crossover_inside(batch_size: ArrayLike, eps: ArrayLike, *, coefficient: float, sigma: float) -> Curve:
    """As epsilon_crossover, with epsilon squared inside the root.

        lr = coefficient sqrt(B) sqrt(1 + x^2),   x = eps sqrt(B) / sigma,   slope (1/2 + x^2) / (1 + x^2)

    Args:
        batch_size: B, samples a step.
        eps: inside the root, as sqrt(v + eps^2), >= 0.
        coefficient: learning rate at batch size 1 and eps 0, > 0.
        sigma: standard deviation of one sample's gradient, in units of eps, > 0.
    Returns: optimum learning rate.
    Valid when: as epsilon_crossover.
    Source: kexue.fm/archives/10563.
    """
    root = np.sqrt(np.asarray(batch_size, dtype=float))
    return coefficient * root * epsilon_ratio_inside(relative_epsilon(batch_size, eps, sigma=sigma))


def start_crossover(x: NDArray[np.float64], lr: NDArray[np.float64]) -> list[list[float]]:
    """Start of both: lr / sqrt(B) is linear in eps sqrt(B), with intercept c and slope c / sigma."""
    root = np.sqrt(x[0])
    weights = root / lr
    slope, intercept = np.polyfit(x[1] * root, lr / root, 1, w=weights)
    coefficient = max(float(intercept), 0.1 * float((lr / root).min()))
    reach = float((x[1] * root).max())
    return [[coefficient, coefficient / slope if slope > 0 else 10 * reach]]


def epsilon_ratio(reach: ArrayLike, *, sigma: float, sharpness: float) -> Curve:
    """By how much epsilon raises the optimum, for either place of it.

        ratio = lr(eps) / lr(0) = (1 + x^p)^(1/p),   x = eps sqrt(B) / sigma

    p = 1, that is 1 + x: epsilon outside the root. p = 2, that is sqrt(1 + x^2): its square inside.

    Args:
        reach: eps sqrt(B), in units of eps, > 0.
        sigma: standard deviation of one sample's gradient, in units of eps, > 0.
        sharpness: p, > 0.
    Returns: ratio, > 1.
    Valid when: steps dominated by noise, many of them, none near the limit of stability; one sigma for all coordinates.
    Source: the steps of Adam, lr m / (sqrt(v) + eps) or lr m / sqrt(v + eps^2), with sqrt(v) = sigma / sqrt(B).
    """
    log_x = np.log(np.asarray(reach, dtype=float) / sigma)
    return np.exp(np.logaddexp(0.0, sharpness * log_x) / sharpness)  # x^p would overflow


def start_ratio(x: NDArray[np.float64], ratio: NDArray[np.float64]) -> list[list[float]]:
    """Starts of epsilon_ratio: sigma by the median point, for either place of epsilon."""
    above = np.maximum(ratio, 1.01)
    return [[float(np.median(x[0] / (above**p - 1) ** (1 / p))), p] for p in (1.0, 2.0)]
