"""The learning rate that is best for one step, from losses after steps of several sizes. Free of torch.

Shapes: K draws, E learning rates, rising.
"""

import numpy as np


def find_minimum(lr_E: np.ndarray, change_KE: np.ndarray, overlap: float) -> tuple[float, float, float, int]:
    """Argmin of mean_k change_k(lr) - lr overlap, the standard error of its logarithm, minus the minimum, and a side.

    The curve is a polynomial through the origin, a2 lr^2 + a3 lr^3 + a4 lr^4 beside the slope -overlap that is known,
    fitted around the lowest point; the error is the jackknife's over draws.

    Returns: side is -1 or 1 where the lowest learning rate lies at an edge of those tried, and nothing else is known
        then; 0 where it is between.
    """
    lr, decrease, side = locate(lr_E, change_KE.mean(0), overlap)
    if side:
        return np.nan, np.nan, np.nan, side
    count = len(change_KE)
    left_out = [locate(lr_E, np.delete(change_KE, k, 0).mean(0), overlap)[0] for k in range(count)]
    error = np.sqrt((count - 1) / count * np.sum((np.log(left_out) - np.mean(np.log(left_out))) ** 2))
    return lr, float(error), decrease, 0


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
