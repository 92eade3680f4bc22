"""How far a seed moves the best learning rate: pooled over the cells of a group, or borrowed from a stored sweep.

A sweep with one seed cannot tell its own noise. It may borrow v(B), the seed variance of log2 lr against the batch
size, from a sweep of several seeds: octaves are comparable where the loss curves have the same shape and the data are
as noisy, which nothing in one seed can tell. So it is only done when asked for, and always said.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.cells import split_cells
from analysis.groups import read_constant
from analysis.local_fit import MIN_TREND_CELLS, smooth_variances
from analysis.locate import Located, locate
from analysis.runs import tidy_runs

PRIOR_CORRELATION, PRIOR_WEIGHT = 0.2, 14.0  # of cells over shared seeds, as measured; in degrees of freedom of pairs


@dataclass(frozen=True)
class SeedNoise:
    """Seed variances of one group.

    Attributes:
        batch_sizes: of its cells.
        variances: v(B) of one seed at each of them, octaves squared.
        dof: degrees of freedom behind them.
        correlation: of the shifts of two cells that share a seed.
        source: the sweep that it is borrowed from; empty for a group's own.
    """

    batch_sizes: tuple[float, ...]
    variances: tuple[float, ...]
    dof: float
    correlation: float
    source: str = ""

    def at(self, batch_size: float) -> float:
        """v(B) at any batch size: straight in the logs between those that were run, and beyond them as at the end."""
        order = np.argsort(self.batch_sizes, kind="stable")
        x, y = np.log(np.array(self.batch_sizes)[order]), np.log(np.array(self.variances)[order])
        return float(np.exp(np.interp(np.log(batch_size), x, y)))


def is_noisy(item: Located) -> bool:
    """Whether a cell tells the noise of its seeds: it has a minimum, and several of them."""
    return item.best is not None and item.cell.loss_LS.shape[1] > 1


def pool_noise(noisy: Sequence[Located]) -> SeedNoise:
    """Seed variances of cells that tell them, smoothed over batch sizes (local_fit.py).

        v_B = sum_s d_s^2 / (S - 1),   dof = .75 sum over cells of (S - 1) - 1, at least 1

    Valid when: seeds scatter smoothly over batch sizes. The -1 pays for the trend and is left out under 4 cells.
    Source: measured on lr_vs_bs, whose planted tables it covers (tests/analysis/test_coverage.py).
    """
    batch_sizes = np.array([item.cell.batch_size for item in noisy], dtype=float)
    dofs = np.array([item.cell.loss_LS.shape[1] - 1 for item in noisy], dtype=float)
    raw = np.array([float(item.best.shifts @ item.best.shifts) for item in noisy if item.best]) / dofs
    variances = smooth_variances(batch_sizes, raw, dofs)
    dof = max(1.0, 0.75 * float(dofs.sum()) - (len(noisy) >= MIN_TREND_CELLS))
    return SeedNoise(tuple(batch_sizes), tuple(variances), dof, pool_correlation(noisy, variances))


def pool_correlation(noisy: Sequence[Located], variances: Sequence[float] | np.ndarray) -> float:
    """One correlation of the shifts of two cells that share seeds, drawn towards what was measured on lr_vs_bs."""
    total, count = PRIOR_CORRELATION * PRIOR_WEIGHT, PRIOR_WEIGHT
    for (i, one), (j, other) in itertools.combinations(enumerate(noisy), 2):
        assert one.best is not None
        assert other.best is not None
        at = {seed: shift for seed, shift in zip(other.cell.seeds, other.best.shifts, strict=False)}
        products = [
            shift * at[seed] for seed, shift in zip(one.cell.seeds, one.best.shifts, strict=False) if seed in at
        ]
        if len(products) > 1:
            total += float(np.sum(products)) / float(np.sqrt(variances[i] * variances[j]))
            count += len(products) - 1
    return float(np.clip(total / count, 0.0, 0.95))


def share_seeds(one: Located, other: Located) -> float:
    """n_ij / (S_i S_j): the variance of a mean over the seeds that two cells share."""
    common = len(set(one.cell.seeds) & set(other.cell.seeds))
    return common / (one.cell.loss_LS.shape[1] * other.cell.loss_LS.shape[1])


def lend_noise(lender: pd.DataFrame, source: str, borrower: pd.DataFrame) -> SeedNoise:
    """The seed noise of a sweep, for one with a single seed.

    Of a lender with groups those count that have the borrower's value of a group column; all of them where none has.

    Raises: ValueError where no cell of the lender tells its noise.
    """
    runs = tidy_runs(lender, source)
    frame = runs.frame
    for column in runs.groups:
        same = frame[column] == read_constant(borrower, column)
        frame = frame[same] if same.any() else frame
    located = [locate(cell) for cell in split_cells(replace(runs, frame=frame))]
    noisy = [item for item in located if is_noisy(item)]
    if not noisy:
        raise ValueError(f"--borrow={source}: it has no batch size with 2 seeds and a minimum, and so no noise to lend")
    return replace(pool_noise(noisy), source=source)


def describe_borrowed(noise: SeedNoise, count: int) -> str:
    """What was borrowed, from where and for how many cells, in a sentence."""
    if not count:
        return f"nothing is borrowed from {noise.source}: no located batch size has one seed only"
    low, high = min(noise.batch_sizes), max(noise.batch_sizes)
    return (
        f"seed variance borrowed from {noise.source} for {count} batch sizes with one seed: standard deviation "
        f"{noise.at(low) ** 0.5:.2g} octaves at batch size {low:g}, {noise.at(high) ** 0.5:.2g} at {high:g}, the same "
        "beyond; that the noise is alike is assumed and not measured"
    )
