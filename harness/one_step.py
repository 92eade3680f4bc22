"""The learning rate that is best for one step, from losses after steps of several sizes. Free of torch.

Shapes: K draws, C controls, E learning rates, rising.
"""

from typing import NamedTuple

import numpy as np


class Minimum(NamedTuple):
    """Where the mean loss after one step is least.

    side is -1 or 1 where the lowest learning rate lies at an end of those tried, and nothing else is known then.
    """

    lr: float = np.nan
    lr_se: float = np.nan  # standard error of ln lr
    decrease: float = np.nan  # of the loss, there
    decrease_se: float = np.nan
    side: int = 0


def columns_of(off_KC: np.ndarray) -> np.ndarray:
    """Ones, and controls minus their known means, each in units of its largest."""
    scale_C = np.abs(off_KC).max(0, initial=0.0)
    return np.column_stack([np.ones(len(off_KC)), off_KC / np.where(scale_C > 0, scale_C, 1.0)])


def weigh_draws(off_KC: np.ndarray) -> np.ndarray:
    """Weights of draws that add up to one, and to zero times every control where few draws need not make up for it.

    Those are the weights of the intercept of a least-squares fit to the controls minus their known means. Where the
    draws lie far off these, that fit extrapolates: weights then go from 1/K towards it as far as half of the draws
    count, 1 / sum w^2 = K/2.
    """
    count = len(off_KC)
    weights: np.ndarray = np.linalg.pinv(columns_of(off_KC))[0]
    spread = float(weights @ weights) - 1 / count
    share = min(1.0, (1 / count / spread) ** 0.5) if spread > 0 else 1.0
    return share * weights + (1 - share) / count


def mean_by_controls(name: str, values_K: np.ndarray, off_KC: np.ndarray) -> dict[str, float]:
    """Mean of values, with what they share with controls of known means taken out, and its standard error NAME_se.

    Args:
        off_KC: controls minus their means.
    """
    columns, weights = columns_of(off_KC), weigh_draws(off_KC)
    fit_C = np.linalg.lstsq(columns, values_K)[0]
    left = values_K - columns @ fit_C
    error = left @ left / (len(values_K) - columns.shape[1]) * (weights @ weights)
    missed = weights @ columns @ fit_C - fit_C[0]  # what a weighted mean keeps of controls that were followed in part
    return {name: float(weights @ values_K), f"{name}_se": float(np.hypot(np.sqrt(error), missed))}


def find_minimum(
    lr_E: np.ndarray, change_KE: np.ndarray, off_KC: np.ndarray, overlap: float, overlap_se: float
) -> Minimum:
    """Argmin of mean_k change_k(lr) - lr overlap, the mean with the weights of weigh_draws.

    The curve is a polynomial through the origin, a2 lr^2 + a3 lr^3 + a4 lr^4 beside the slope -overlap that is known,
    fitted around the lowest point. The errors are the jackknife's over draws, and that of the slope: lr* follows it
    about in proportion, the decrease with its square.
    """
    lr, decrease, side = locate(lr_E, weigh_draws(off_KC) @ change_KE, overlap)
    if side:
        return Minimum(side=side)
    count = len(change_KE)
    left_out = np.array([
        locate(lr_E, weigh_draws(np.delete(off_KC, k, 0)) @ np.delete(change_KE, k, 0), overlap)[:2]
        for k in range(count)
    ])  # fmt: skip
    scatter = np.sqrt((count - 1) / count * np.sum((left_out - left_out.mean(0)) ** 2, axis=0))
    slope_se = overlap_se / abs(overlap)
    lr_se = float(np.hypot(scatter[0] / lr, slope_se))
    return Minimum(lr, lr_se, decrease, float(np.hypot(scatter[1], 2 * decrease * slope_se)))


def locate(lr_E: np.ndarray, change_E: np.ndarray, overlap: float) -> tuple[float, float, int]:
    """Argmin, minus the minimum, and the side of one mean curve."""
    total_E = change_E - lr_E * overlap
    lowest = int(np.argmin(total_E))
    if lowest in (0, len(lr_E) - 1):
        return np.nan, np.nan, -1 if lowest == 0 else 1
    scale = lr_E[lowest]
    near = np.abs(np.log2(lr_E / scale)) <= 1.01
    x = lr_E[near] / scale
    powers = np.stack([x**2, x**3, x**4], 1)
    a2, a3, a4 = np.linalg.lstsq(powers, change_E[near], rcond=None)[0]
    fine = np.geomspace(x[0], x[-1], 2001)
    curve = a2 * fine**2 + a3 * fine**3 + a4 * fine**4 - fine * scale * overlap
    best = int(np.argmin(curve))
    return float(fine[best] * scale), float(-curve[best]), 0
