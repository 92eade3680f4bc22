"""Tables of runs with a known optimum: what the tests of the analysis plant and must find again."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

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
