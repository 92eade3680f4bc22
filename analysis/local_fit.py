"""The minimum of a loss curve from the points around its lowest one, in log2 of the learning rate."""

from dataclasses import dataclass

import numpy as np

MIN_TREND_CELLS = 4  # batch sizes from which the seed variance may follow a trend


@dataclass(frozen=True)
class Minimum:
    """The minimum of a polynomial through the points of one cell.

    Attributes:
        x: position, log2 of the learning rate.
        loss: value there.
        curvature: second derivative there, > 0, loss per octave squared.
        shifts: what each seed alone adds to x, to first order, octaves; they sum to zero.
        lifts: what each seed alone adds to the value there, to first order; they sum to zero.
    """

    x: float
    loss: float
    curvature: float
    shifts: np.ndarray
    lifts: np.ndarray


def fit_minimum(x_L: np.ndarray, loss_LS: np.ndarray, degree: int) -> Minimum | None:
    """Minimum of the least-squares polynomial of degree 2 or 3 through the seed-mean losses.

        shift_s = -(slope at x of the same polynomial fitted to seed s - mean) / curvature

    Args:
        x_L: log2 learning rates of the window, increasing.
        loss_LS: finite losses, one column a seed.
    Returns: the minimum, or None where the polynomial has none between the ends of the window.
    Valid when: the seed noise moves the minimum by less than the window.
    Source: the implicit function theorem; measured against planted optima in tests/analysis/test_optimum.py.
    """
    assert degree in (2, 3)
    assert len(x_L) > degree
    assert np.isfinite(loss_LS).all()
    center = float(x_L.mean())
    design = np.vander(x_L - center, degree + 1, increasing=True)
    solve = np.linalg.pinv(design)
    mean_L = loss_LS.mean(axis=1)
    c = solve @ mean_L
    c1, c2, c3 = c[1], c[2], (c[3] if degree == 3 else 0.0)
    discriminant = c2**2 - 3 * c1 * c3
    if discriminant <= 0 or c2 + np.sqrt(discriminant) <= 0:
        return None
    z = -c1 / (c2 + np.sqrt(discriminant))
    curvature = 2 * np.sqrt(discriminant)
    if not x_L[0] <= center + z <= x_L[-1]:
        return None
    slope_row = np.arange(degree + 1) * np.concatenate([[0.0], z ** np.arange(degree)])
    shifts = -(slope_row @ solve @ (loss_LS - mean_L[:, None])) / curvature
    value = float(np.polynomial.polynomial.polyval(z, c))
    # at a minimum a shift of x does not move the value
    lifts = z ** np.arange(degree + 1) @ solve @ (loss_LS - mean_L[:, None])
    return Minimum(center + z, value, float(curvature), shifts, lifts)


def smooth_variances(batch_sizes: np.ndarray, variances: np.ndarray, dofs: np.ndarray) -> np.ndarray:
    """Seed variances of several batch sizes, smoothed by a trend that is a straight line in the logs.

        v(B) = exp(a + b log B),   sum_B dof_B (v_B / v(B) - 1) (1, log B) = 0

    The likelihood equations of a scaled chi-square keep the mean right, which the mean of log v_B would not:
    with two seeds that is too low by a factor 3.6. Each v_B is first clipped at 9 times the median. Under 4
    cells, or where all have one batch size, b = 0.

    Args:
        variances: sample variances v_B, octaves squared.
        dofs: seeds - 1 of every batch size.
    Returns: v(B) at the batch sizes given.
    Valid when: the variance moves smoothly with batch size.
    Source: McCullagh and Nelder, Generalized Linear Models, chapter 8 (gamma errors, log link).
    """
    floor = 1e-12
    clipped = np.maximum(np.minimum(variances, 9 * np.median(variances)), floor)
    weights = dofs / dofs.sum()
    a = float(np.log(weights @ clipped))
    if len(clipped) < MIN_TREND_CELLS or clipped.max() <= floor or np.ptp(batch_sizes) == 0:
        return np.full(len(clipped), np.exp(a))
    u = np.log(batch_sizes)
    design = np.stack([np.ones_like(u), u - weights @ u], axis=1)
    theta = np.array([a, 0.0])
    for _ in range(100):
        ratio = clipped / np.exp(design @ theta)
        gradient = design.T @ (weights * (ratio - 1))
        # Fisher scoring: the expected information of a gamma with log link does not depend on theta
        step = np.linalg.solve(design.T @ (weights[:, None] * design), gradient)
        theta = theta + step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-10:
            break
    return np.exp(design @ theta)
