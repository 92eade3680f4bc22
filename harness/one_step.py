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
    weights = weigh_fully(off_KC)
    share = share_followed(weights @ weights, count)
    mixed: np.ndarray = share * weights + (1 - share) / count
    return mixed


def weigh_fully(off_KC: np.ndarray) -> np.ndarray:
    """Weights of the intercept of a least-squares fit to the controls minus their known means.

    They add up to one: all alike where the fit cannot tell the intercept from controls, as of too few draws.
    """
    weights: np.ndarray = np.linalg.pinv(columns_of(off_KC))[0]
    return weights if np.isclose(weights.sum(), 1) else np.full(len(off_KC), 1 / len(off_KC))


def share_followed(squares: np.ndarray, count: int) -> np.ndarray:
    """How far the weights of weigh_draws go from 1/K towards those of the intercept, whose sum of squares is given."""
    spread = squares - 1 / count
    return np.where(spread > 1 / count, np.sqrt(1 / count / np.maximum(spread, 1 / count)), 1.0)


def leave_one_out(values_KE: np.ndarray, off_KC: np.ndarray) -> np.ndarray:
    """Means by weigh_draws with each draw left out and the others weighed anew, (K, E).

        w'.y = w.y - w_k e_k / (1 - h_k),   w'.w' = w.w + w_k^2 / (1 - h_k)

    without draw k, for the intercept's weights w, residuals e and leverages h of the whole fit.
    """
    count = len(off_KC)
    left, sizes, right = np.linalg.svd(columns_of(off_KC), full_matrices=False)
    kept = sizes > 1e-15 * sizes[0]  # as pinv
    left = left[:, kept]
    weights_K = left @ (right[kept, 0] / sizes[kept])
    room_K = 1 - np.sum(left**2, axis=1)
    # Without such a draw a control is the same in all others; a fit that is none is none without either
    alone_K = (room_K < 1e-6) | ~np.isclose(weights_K.sum(), 1)
    gain_K = weights_K / np.where(alone_K, 1.0, room_K)
    followed_KE = weights_K @ values_KE - gain_K[:, None] * (values_KE - left @ (left.T @ values_KE))
    share_K1 = share_followed(weights_K @ weights_K + weights_K * gain_K, count - 1)[:, None]
    found_KE: np.ndarray = share_K1 * followed_KE + (1 - share_K1) * (values_KE.sum(0) - values_KE) / (count - 1)
    for k in np.flatnonzero(alone_K):
        found_KE[k] = weigh_draws(np.delete(off_KC, k, 0)) @ np.delete(values_KE, k, 0)
    return found_KE


def jackknife(left_out_K: np.ndarray) -> np.ndarray:
    """Standard error from estimates with one draw left out each: sqrt((K - 1)/K sum (x_k - mean)^2)."""
    count = len(left_out_K)
    error: np.ndarray = np.sqrt((count - 1) / count * np.sum((left_out_K - left_out_K.mean(0)) ** 2, axis=0))
    return error


def mean_by_controls(name: str, values_K: np.ndarray, off_KC: np.ndarray) -> dict[str, float]:
    """Mean of values, with what they share with controls of known means taken out, and its standard error NAME_se.

    The error is the jackknife's, which needs no residuals of equal variance: the few large draws of a heavy-tailed pool
    are both what scatters most and what the fit bends to. In quadrature with it stands what a weighted mean keeps of
    controls that were followed in part.

    Args:
        off_KC: controls minus their means.
    """
    mean = float(weigh_draws(off_KC) @ values_K)
    missed = mean - float(weigh_fully(off_KC) @ values_K)
    scatter = float(jackknife(leave_one_out(values_K[:, None], off_KC))[0])
    return {name: mean, f"{name}_se": float(np.hypot(scatter, missed))}


def find_minimum(
    lr_E: np.ndarray, change_KE: np.ndarray, off_KC: np.ndarray, overlap: float, overlap_se: float
) -> Minimum:
    """Argmin of mean_k change_k(lr) - lr overlap, the mean with the weights of weigh_draws.

    The curve is a polynomial through the origin, a2 lr^2 + a3 lr^3 + a4 lr^4 beside the slope -overlap that is known,
    fitted around the lowest point. The errors are the jackknife's over draws, and that of the slope: lr* follows it
    about in proportion, the decrease with its square. Where weights follow the controls in part, the errors also hold
    how far the fully followed ones' minimum lies from this one: as far as the end of the learning rates that were tried
    where it is outside them, and the decrease there is not known.
    """
    lr, decrease, side = locate(lr_E, weigh_draws(off_KC) @ change_KE, overlap)
    if side:
        return Minimum(side=side)
    scatter = jackknife(np.array([locate(lr_E, mean_E, overlap)[:2] for mean_E in leave_one_out(change_KE, off_KC)]))
    slope_se = overlap_se / abs(overlap)
    other_lr, other_decrease, outside = locate(lr_E, weigh_fully(off_KC) @ change_KE, overlap)
    if outside:
        other_lr, other_decrease = lr_E[-1 if outside > 0 else 0], decrease
    missed_lr, missed = np.log(other_lr / lr), other_decrease - decrease
    lr_se = float(np.linalg.norm([scatter[0] / lr, slope_se, missed_lr]))
    return Minimum(lr, lr_se, decrease, float(np.linalg.norm([scatter[1], 2 * decrease * slope_se, missed])))


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
