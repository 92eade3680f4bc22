"""The interval of an optimum, written down as plainly as it can be: a second opinion on analysis/optimum.py.

    half-width = t(.975, .75 n_B (S - 1) - 1) sqrt(v_B / S + m)

in log2 of the learning rate, for n_B batch sizes with S seeds each. It knows no edges, no divergence and no held-out
set: a cell whose lowest point has not two learning rates on either side has no interval.
"""

import numpy as np
from scipy import stats


def find_minimum(x_L, loss_L, degree):
    """Where the polynomial through the points has its minimum, and its coefficients, highest power first."""
    coefficients = np.polyfit(x_L, loss_L, degree)
    slope, curvature = np.polyder(coefficients), np.polyder(coefficients, 2)
    minima = [r.real for r in np.roots(slope) if abs(r.imag) < 1e-12 and np.polyval(curvature, r.real) > 0]
    inside = [x for x in minima if x_L[0] <= x <= x_L[-1]]
    return (inside[0] if inside else np.nan), coefficients


def measure_cell(x_L, loss_LS):
    """x of the cubic through 5 points, x of the parabola through 3, and the variance of the seeds' own shifts."""
    mean_L = loss_LS.mean(axis=1)
    i = int(np.argmin(mean_L))
    if not 2 <= i <= len(x_L) - 3:
        return np.nan, np.nan, np.nan
    center = x_L[i]
    window, narrow = slice(i - 2, i + 3), slice(i - 1, i + 2)
    cubic, coefficients = find_minimum(x_L[window] - center, mean_L[window], 3)
    parabola, _ = find_minimum(x_L[narrow] - center, mean_L[narrow], 2)
    curvature = np.polyval(np.polyder(coefficients, 2), cubic)
    shifts = []
    for loss_L in loss_LS.T:
        own = np.polyfit(x_L[window] - center, loss_L[window] - mean_L[window], 3)
        shifts.append(-np.polyval(np.polyder(own), cubic) / curvature)
    variance = np.sum(np.square(shifts)) / (loss_LS.shape[1] - 1)
    return center + cubic, center + parabola, variance


def estimate_intervals(batch_sizes, x_L, loss_BLS):
    """Optimum and half-width of every batch size, octaves; NaN where there is none.

    The variances are clipped at 9 times their median and laid on a straight line in the logs. The mean of a logarithm
    lies below the logarithm of the mean, so the line is raised until the mean variance is what it was.
    """
    cubic, parabola, variance = np.array([measure_cell(x_L, loss_LS) for loss_LS in loss_BLS]).T
    found = np.isfinite(cubic) & np.isfinite(parabola)
    num_seeds = loss_BLS[0].shape[1]
    clipped = np.minimum(variance[found], 9 * np.median(variance[found]))
    at = np.log(np.asarray(batch_sizes, dtype=float))
    trend = np.exp(np.polyval(np.polyfit(at[found], np.log(clipped), 1), at))
    smooth = trend * clipped.mean() / trend[found].mean()
    model = np.mean((cubic[found] - parabola[found]) ** 2)
    quantile = stats.t.ppf(0.975, 0.75 * found.sum() * (num_seeds - 1) - 1)
    return cubic, np.where(found, quantile * np.sqrt(smooth / num_seeds + model), np.nan)
