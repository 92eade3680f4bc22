"""Noise scales along training, from records: those of the runs' own steps, pooled over seeds, and those of checkpoints.

Columns are those of `metrics.noise_scale=true` (harness/noise_scale.py) and of protocol one_step (harness/probe.py).
Shapes: S seeds, P points of a curve.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

HALF_LIFE = 4.0  # measurements back at which the weight in an average is half, as in the runs' own column
STEP, SIMPLE = "history.step", "history.noise_scale"
# quantity -> the runs' own column, and those of its raw numerator and denominator, where it has any
MEASURED: dict[str, tuple[str, tuple[str, str] | None]] = {
    "B_simple": (SIMPLE, ("history.noise_scale_trace", "history.noise_scale_square")),
    "B_noise": (
        "history.noise_scale_hessian",
        ("history.noise_scale_hessian_trace", "history.noise_scale_hessian_square"),
    ),
    "B_simple of updates": ("history.noise_scale_update_rms", None),
}
# quantity -> numerator and denominator of a probed checkpoint
PROBED = {
    "B_simple": ("probe.noise_trace", "probe.grad_sq"),
    "B_noise": ("probe.noise_curvature", "probe.grad_curvature"),
}


@dataclass(frozen=True)
class Scales:
    """One quantity along the training of one setting.

    Attributes:
        step_P, pooled_P: all seeds together, at every point where all have measured, NaN where these tell nothing.
            Empty where seeds have other points, or nothing raw that could be averaged.
        seeds: (step, value) of every seed, as its run recorded it.
    """

    quantity: str
    step_P: np.ndarray
    pooled_P: np.ndarray
    seeds: tuple[tuple[np.ndarray, np.ndarray], ...]


@dataclass(frozen=True)
class Checkpoint:
    """One quantity of a probed checkpoint with its 95 % interval, infinite above where the noise may be everything."""

    quantity: str
    step: float
    value: float
    low: float
    high: float


def has_scales(frame: pd.DataFrame) -> bool:
    """Whether some run has measured noise scales along training."""
    return SIMPLE in frame.columns and any(np.isfinite(read_list(values)).any() for values in frame[SIMPLE])


def read_scales(rows: pd.DataFrame) -> list[Scales]:
    """Every quantity that the runs of one setting, which differ by their seed alone, have measured."""
    found = []
    for quantity, (own, parts) in MEASURED.items():
        if own not in rows.columns:
            continue
        steps, values = ([read_list(cell) for cell in rows[name]] for name in (STEP, own))
        seeds = tuple((s, v) for s, v in zip(steps, values, strict=True) if np.isfinite(v).any())
        if not seeds:
            continue
        step_P, pooled_P = np.empty(0), np.empty(0)
        if parts and set(parts) <= set(rows.columns) and len({tuple(step) for step in steps}) == 1:
            raw = [np.stack([read_list(cell) for cell in rows[name]]) for name in parts]
            measured_P = np.isfinite(raw).all(axis=(0, 1))
            step_P = steps[0][measured_P]
            pooled_P = pool_parts(*(each_SP[:, measured_P] for each_SP in raw))
        found.append(Scales(quantity, step_P, pooled_P, seeds))
    return found


def pool_parts(above_SP: np.ndarray, below_SP: np.ndarray) -> np.ndarray:
    """Ratio of seeds together: raw numerators and denominators averaged over seeds and over the points so far.

    Both are unbiased, so they are averaged before they are divided: one batch's denominator is often negative. Weights
    halve every HALF_LIFE measurements back. NaN where an average is not positive.
    """
    keep = 0.5 ** (1 / HALF_LIFE)
    above, below, ratios = 0.0, 0.0, []
    for one, other in zip(above_SP.mean(axis=0), below_SP.mean(axis=0), strict=True):
        above, below = keep * above + one, keep * below + other
        ratios.append(above / below if above > 0 and below > 0 else np.nan)
    return np.array(ratios)


def read_checkpoints(rows: pd.DataFrame) -> list[Checkpoint]:
    """B_simple and B_noise of probed checkpoints by step, whatever optimizers and batch sizes were tried at each."""
    found = []
    for _, row in rows.drop_duplicates("run_id").sort_values("num_steps").iterrows():
        for quantity, pair in PROBED.items():
            (above, below), errors = ([float(row.get(name + end, np.nan)) for name in pair] for end in ("", "_se"))
            if above > 0 and below > 0:
                interval = bound_ratio(above, below, *(e if np.isfinite(e) else 0.0 for e in errors))
                found.append(Checkpoint(quantity, float(row["num_steps"]), above / below, *interval))
    return found


def bound_ratio(above: float, below: float, above_se: float, below_se: float) -> tuple[float, float]:
    """95 % interval of a ratio of two positive means: all r with |above - r below| <= z sqrt(se_a^2 + r^2 se_b^2).

    Infinite above where the denominator is not told from 0, and 0 below where the numerator is not.

    Valid when: both errors are Gaussian and independent.
    Source: Fieller, Some problems in interval estimation, JRSS B 16 (1954).
    """
    z = 1.959964
    a, b, c = below**2 - (z * below_se) ** 2, above * below, above**2 - (z * above_se) ** 2
    # the roots of a r^2 - 2 b r + c, as c / (b +- root): they stay finite where a vanishes
    root = np.sqrt(max(b**2 - a * c, 0.0))
    low = max(c / (b + root), 0.0)
    return float(low), float((b + root) / a) if a > 0 else np.inf


def read_list(cell: object) -> np.ndarray:
    """A history's cell as numbers; empty where a run has none."""
    values: np.ndarray = np.asarray([] if np.ndim(cell) == 0 else cell, dtype=float)  # type: ignore[arg-type]
    return values
