"""Learning rates that differ by rounding are one, and cells in which seeds are missing are told."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

ROUNDING = 0.006  # largest share by which two values of one rate differ: each rounded to 3 digits is off by up to .5 %
GRID_SHARE = 0.2  # of the smallest step of the grid around it (in ln lr) above which neighbours stay two rates


def join_near_rates(frame: pd.DataFrame, groups: Sequence[str], notes: list[str]) -> pd.DataFrame:
    """Rates of a cell that differ by rounding become their median, where no run of a seed has two of them."""
    rates = frame["optimizer.lr"].to_numpy(dtype=float, copy=True)
    joined, widest = 0, 0.0
    for _, rows in frame.groupby([*groups, "batch_size"], dropna=False).indices.items():
        seeds = frame["seed"].to_numpy()[rows]
        for cluster in find_clusters(np.unique(rates[rows])):
            mine = rows[np.isin(rates[rows], cluster)]
            repeated = pd.Series(seeds[np.isin(rates[rows], cluster)]).duplicated().any()
            if len(cluster) > 1 and not repeated:
                joined += len(cluster) - 1
                widest = max(widest, float(cluster[-1] / cluster[0] - 1))
                rates[mine] = float(f"{np.median(cluster):.9g}")
    if joined:
        notes.append(
            f"{joined} learning rates differ from another by {widest:.2g} of its value at most: taken as rounded"
        )
    return frame.assign(**{"optimizer.lr": rates})


def find_clusters(rates: np.ndarray) -> list[np.ndarray]:
    """Runs of neighbours that lie within ROUNDING of the first, far closer than the steps of the grid around them.

    Args:
        rates: different ones, rising.
    """
    clusters: list[list[float]] = []
    for rate in rates:
        if clusters and rate <= clusters[-1][0] * (1 + ROUNDING):
            clusters[-1].append(float(rate))
        else:
            clusters.append([float(rate)])
    if len(clusters) < 2:
        return [np.array([rate]) for rate in rates]  # no grid around them says how far apart its values lie
    step = min(np.log(later[0] / one[-1]) for one, later in itertools.pairwise(clusters))
    close = [np.log(c[-1] / c[0]) <= GRID_SHARE * step for c in clusters]
    split = [[c] if fits else [[rate] for rate in c] for c, fits in zip(clusters, close, strict=True)]
    return [np.array(c) for part in split for c in part]


def note_missing(frame: pd.DataFrame, groups: Sequence[str], notes: list[str]) -> None:
    """Say in which cells a learning rate lacks seeds that others of the cell have."""
    lacking = []
    for values, rows in frame.groupby([*groups, "batch_size"], dropna=False):
        have = rows.groupby("optimizer.lr")["seed"].nunique()
        most = int(rows["seed"].nunique())
        if (few := have[have < most]).size:
            lacking.append(f"batch size {values[-1]}: lr {few.index[0]:.3g} has {few.iloc[0]} of {most} seeds" + (
                f" and {few.size - 1} more lack some" if few.size > 1 else ""
            ))  # fmt: skip
    if lacking:
        more = f"; and {len(lacking) - 3} more batch sizes" if len(lacking) > 3 else ""
        notes.append(f"seeds are missing at {'; '.join(lacking[:3])}{more}")
