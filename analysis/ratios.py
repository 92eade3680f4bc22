"""Ratios of best learning rates between cells that share their seeds, with errors that what the seeds share leaves out.

With shifts d_is (what seed s alone adds to log2 lr of cell i), 0 the cell that i is compared with and S their seeds,
    m_is = d_is - d_0s,   v = sum_i sum_s m_is^2 / sum_i (S_i - 1),   var_i = v / S_i + g,
    g = mean over i of (gap_i - gap_0)^2,   cov(i, j) = rho sqrt(var_i var_j),
gap as in optimum.py: what the fits' shape makes uncertain. rho is one for ratios over the same cell, which have its
noise in common, and another for all other pairs, each from the products of their moves. Moves that go together tell
less about v than so many independent ones: dof = sum_i (S_i - 1) / (1 + (k - 1) rho^2), k ratios over one cell.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.optimum import Optimum
from analysis.seed_noise import PRIOR_CORRELATION, PRIOR_WEIGHT

SAME_BASE = 0.5  # correlation of two ratios over one cell, were all cells independent: the start of its estimate


@dataclass(frozen=True)
class Ratios:
    """ln of the ratios, their standard errors, the errors' correlation, and degrees of freedom behind them."""

    log: np.ndarray
    sd: np.ndarray
    correlation: np.ndarray
    dof: float

    def bound(self) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval of every ratio."""
        half = float(stats.t.ppf(0.975, self.dof)) * self.sd
        return np.exp(self.log - half), np.exp(self.log + half)


def measure_ratios(pairs: Sequence[tuple[Optimum, Optimum]]) -> Ratios:
    """lr of the first of every pair over that of the second; the second may be one of several pairs.

    Args:
        pairs: located cells with the same seeds, two or more.
    Valid when: seeds scatter alike in all pairs.
    Source: variance and covariance of paired differences; dof by Satterthwaite for equally correlated moves.
    """
    moves = [np.subtract(cell.shifts, base.shifts) for cell, base in pairs]
    counts = np.array([len(each) for each in moves], dtype=float)
    variance = max(sum(float(each @ each) for each in moves) / float(np.sum(counts - 1)), 1e-24)
    same = [[one is other for _, other in pairs] for _, one in pairs]
    correlation = np.eye(len(pairs))
    of_same = 0.0
    for wanted, prior in ((True, SAME_BASE), (False, PRIOR_CORRELATION)):
        chosen = [(i, j) for i, j in itertools.combinations(range(len(pairs)), 2) if same[i][j] == wanted]
        rho = correlate(moves, chosen, prior, variance)
        of_same = rho if wanted else of_same
        for i, j in chosen:
            correlation[i, j] = correlation[j, i] = rho * share(pairs[i][0], pairs[j][0])
    per_base = float(np.mean(np.sum(same, axis=1)))
    dof = max(1.0, float(np.sum(counts - 1)) / (1 + (per_base - 1) * of_same**2))
    shape = float(np.mean([(cell.gap - base.gap) ** 2 for cell, base in pairs]))
    log2 = np.array([np.log2(cell.lr / base.lr) for cell, base in pairs])
    return Ratios(log2 * np.log(2), np.sqrt(variance / counts + shape) * np.log(2), correlation, dof)


def correlate(moves: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]], prior: float, variance: float) -> float:
    """One correlation of the moves of many pairs, drawn towards what is expected where there are few."""
    alike = [(i, j) for i, j in pairs if len(moves[i]) == len(moves[j])]
    total = prior * PRIOR_WEIGHT * variance + sum(float(moves[i] @ moves[j]) for i, j in alike)
    count = PRIOR_WEIGHT + sum(len(moves[i]) - 1 for i, _ in alike)
    return float(np.clip(total / count / variance, 0.0, 0.95))


def share(one: Optimum, other: Optimum) -> float:
    """The share of their seeds that two cells have in common."""
    return len(set(one.seeds) & set(other.seeds)) / float(np.sqrt(len(one.seeds) * len(other.seeds)))
