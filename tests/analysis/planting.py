"""Tables of runs with a known optimum: what the tests of the analysis plant and must find again."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from analysis.cells import Cell

BATCH_SIZES = tuple(2**k for k in range(3, 11))
SPACING = 0.75


def curve(z: np.ndarray, skew: float = 0.6) -> np.ndarray:
    """A loss curve with its minimum at 0 and a third derivative there: steeper above than below."""
    return 0.04 * 2 * (np.exp(skew * z) - skew * z - 1) / skew**2 / 2


def plant_losses(
    x_L: np.ndarray, optimum: float, shifts: np.ndarray, rng: np.random.Generator, iid: float = 5e-4
) -> np.ndarray:
    """Losses (lr, seed): every seed has its own optimum and level, and every run a little noise."""
    losses = curve(x_L[:, None] - optimum - shifts[None, :])
    losses = losses + 2.0 + 0.02 * rng.normal(size=len(shifts))
    return losses + iid * rng.normal(size=losses.shape)


def plant_shifts(
    rng: np.random.Generator, num_seeds: int, num_cells: int, sd: float = 0.13, shared: float = 0.2
) -> np.ndarray:
    """Shifts of the optimum (cell, seed), octaves: correlated by `shared` over the cells of one seed."""
    common = rng.normal(size=(1, num_seeds))
    own = rng.normal(size=(num_cells, num_seeds))
    return sd * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)


def plant_table(
    law: Callable[[float], float],
    num_seeds: int = 3,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    lrs: Sequence[float] = tuple(2.0 ** (-11 + SPACING * i) for i in range(13)),
    seed: int = 0,
    sd: float = 0.1,
) -> pd.DataFrame:
    """A table of finished Adam runs over a fixed number of samples whose optimum follows `law`."""
    rng = np.random.default_rng(seed)
    x_L = np.log2(np.asarray(lrs))
    shifts = plant_shifts(rng, num_seeds, len(batch_sizes), sd=sd)
    rows = []
    for batch_size, own in zip(batch_sizes, shifts, strict=True):
        losses = plant_losses(x_L, float(np.log2(law(batch_size))), own, rng, iid=0.1 * sd * 0.04)
        for i, lr in enumerate(lrs):
            for s in range(num_seeds):
                rows.append(
                    {
                        "run_id": f"{batch_size}-{i}-{s}", "sweep": "planted", "status": "done",
                        "protocol": "fixed_samples", "seed": s, "batch_size": batch_size,
                        "num_steps": 32768 // batch_size, "num_samples": 32768, "loss": losses[i, s],
                        "optimizer.name": "adam", "optimizer.lr": lr, "optimizer.eps": 1e-8,
                        "model.name": "ngram", "task.name": "python_source", "task.corpus_sha256": "abc",
                        "provenance.host": "/home/somebody", "provenance.torch": "2.13",
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


@cache
def read_real_seeds() -> tuple[np.ndarray, list[CubicSpline], np.ndarray, np.ndarray]:
    """log2 learning rates, mean loss curve of every batch size, where its minimum lies, and the seeds' residuals.

    Final losses of 12 seeds: `python -m harness sweep=lr_vs_bs 'sweep.grid.seed=[0,1,2,3,4,5,6,7,8,9,10,11]'`.
    """
    frame = pd.read_csv(Path(__file__).with_name("lr_vs_bs_12_seeds.csv"))
    loss_BLS = frame.iloc[:, 2:].to_numpy().reshape(len(BATCH_SIZES), -1, 12)
    x_L = np.log2(frame["optimizer.lr"].unique())
    curves = [CubicSpline(x_L, loss_LS.mean(axis=1)) for loss_LS in loss_BLS]
    inside = np.linspace(x_L[2], x_L[-3], 4001)
    minima = np.array([inside[np.argmin(curve(inside))] for curve in curves])
    residuals = (loss_BLS - loss_BLS.mean(axis=2, keepdims=True)) / np.sqrt(11)
    return x_L, curves, minima, residuals


def plant_real_cells(
    rng: np.random.Generator,
    num_seeds: int,
    law: Callable[[float], float],
    spacing: float = SPACING,
    count: int = 0,
    iid: float = 0.0,
) -> list[Cell]:
    """Cells whose optima follow `law`, with the loss curves of lr_vs_bs and noise of the covariance that its seeds have
    over learning rates and batch sizes together.

    Args:
        spacing: octaves between learning rates; noise between those that were run is interpolated.
        count: learning rates of a cell, around its optimum; 0: all of the range that was run.
        iid: standard deviation of what each run has for itself, beside that.
    """
    x_L, curves, minima, residuals = read_real_seeds()
    noise_BLS = np.einsum("blk,ks->bls", residuals, rng.normal(size=(12, num_seeds)))
    cells = []
    for batch_size, curve_of, minimum, noise_LS in zip(BATCH_SIZES, curves, minima, noise_BLS, strict=True):
        optimum = float(np.log2(law(batch_size)))
        grid = x_L if spacing == SPACING else np.arange(x_L[0], x_L[-1] + 1e-9, spacing)
        if count:  # the lattice is the same for all batch sizes
            grid = (round((optimum - x_L[0]) / spacing) + np.arange(count) - (count - 1) // 2) * spacing + x_L[0]
        at = grid - optimum + minimum
        near = np.clip(at, x_L[0], x_L[-1])  # straight beyond the learning rates that were run
        if grid is not x_L:
            noise_LS = CubicSpline(x_L, noise_LS)(near)
        losses = (curve_of(near) + (at - near) * curve_of(near, 1))[:, None] + noise_LS
        losses = losses + iid * rng.normal(size=losses.shape) if iid else losses
        cells.append(Cell(batch_size, {}, grid, losses, losses.size, "", seeds=tuple(range(num_seeds))))
    return cells
