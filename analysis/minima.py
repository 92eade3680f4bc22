"""Errors of the values that cells reach at their optimum, and how cells that share seeds move together.

With lifts l_s of cell i (what seed s alone adds to the value at the optimum, local_fit.py), S seeds, and one variance
for all cells,
    v = sum_i sum_s l_s^2 / sum_i (S_i - 1),   cov(i, j) = rho v n_ij / (S_i S_j),   cov(i, i) = v / S_i,
n_ij the number of shared seeds and rho one correlation for all pairs, from the products of their lifts.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from analysis.optimum import Optimum
from analysis.seed_noise import PRIOR_CORRELATION, PRIOR_WEIGHT


def pool_errors(
    seeds: Sequence[tuple[int, ...]], moves: Sequence[tuple[float, ...]]
) -> tuple[np.ndarray, np.ndarray, float]:
    """Standard error of every cell's mean over seeds, correlation of the cells, and degrees of freedom.

    Args:
        seeds, moves: of every cell, its seeds and what each alone adds; they sum to zero.
    Returns: as named; with one seed each no error is known, and all are 1, uncorrelated, with dof NaN.
    Valid when: seeds scatter alike in all cells, and any two cells with a seed in common are equally correlated.
    Source: the sample variance and covariance of a mean; the prior of rho as in seed_noise.py.
    """
    counts = np.array([len(each) for each in seeds], dtype=float)
    dof = float(np.sum(counts - 1))
    if dof < 1:
        return np.ones(len(counts)), np.eye(len(counts)), np.nan
    variance = max(sum(float(np.square(each).sum()) for each in moves) / dof, 1e-24)
    n = len(seeds)
    shared = np.eye(n)
    total, count = PRIOR_CORRELATION * PRIOR_WEIGHT * variance, PRIOR_WEIGHT
    for i, j in itertools.combinations(range(n), 2):
        at = dict(zip(seeds[j], moves[j], strict=True))
        products = [move * at[seed] for seed, move in zip(seeds[i], moves[i], strict=True) if seed in at]
        shared[i, j] = shared[j, i] = len(products) / float(np.sqrt(counts[i] * counts[j]))
        if len(products) > 1:
            total += float(np.sum(products))
            count += len(products) - 1
    rho = float(np.clip(total / count / variance, 0.0, 0.95))
    correlation = np.where(np.eye(n, dtype=bool), 1.0, rho * shared)
    return np.sqrt(variance / counts), correlation, max(1.0, dof - 1)


def pool_values(optima: Sequence[Optimum], *, log: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Errors of the objective at each optimum, in its logarithm; `log`: it is one already (ln steps)."""
    scale = [1.0 if log else o.loss for o in optima]
    moves = [tuple(lift / s for lift in o.lifts) for o, s in zip(optima, scale, strict=True)]
    return pool_errors([o.seeds for o in optima], moves)


def pool_rates(optima: Sequence[Optimum]) -> np.ndarray:
    """Correlation of ln lr over optima of any group; its own standard errors stand in each optimum."""
    return pool_errors([o.seeds for o in optima], [o.shifts for o in optima])[1]
