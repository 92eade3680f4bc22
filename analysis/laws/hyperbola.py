"""Steps to a target loss against batch size, at the best learning rate of each: pure functions of numpy arrays."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Curve = NDArray[np.float64]


def hyperbola(batch_size: ArrayLike, *, steps_min: float, critical_batch_size: float) -> Curve:
    """Steps against samples: few steps cost samples, few samples cost steps.

        steps = S_min (1 + B_crit / B),   (S / S_min - 1)(E / E_min - 1) = 1 with E = B S, E_min = B_crit S_min

    Args:
        batch_size: B, samples a step.
        steps_min: S_min, limit for large batches, > 0.
        critical_batch_size: B_crit = E_min / S_min, samples, > 0.
    Returns: steps to the target.
    Valid when: the learning rate is the greedy one at every step; at a tuned constant one residuals reach .3
        in ln steps.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542.
    """
    return steps_min * (1 + critical_batch_size / np.asarray(batch_size, dtype=float))


def hyperbola_power(batch_size: ArrayLike, *, steps_min: float, critical_batch_size: float, sharpness: float) -> Curve:
    """A hyperbola with a free corner: sharper than the exact one above sharpness 1, softer below.

        steps = S_min (1 + (B_crit / B)^p)^(1/p)

    Args:
        batch_size: B, samples a step.
        steps_min: S_min, limit for large batches, > 0.
        critical_batch_size: where the two straight lines in the logs meet, samples, > 0.
        sharpness: p, > 0; 1 is the hyperbola.
    Returns: steps to the target.
    Valid when: a description over the range that was measured; no mechanism stands behind a free corner.
    Source: Zhang et al., arXiv 2410.21676, fit steps by such a form with free exponents.
    """
    ratio = np.log(critical_batch_size) - np.log(np.asarray(batch_size, dtype=float))
    return steps_min * np.exp(np.logaddexp(0, sharpness * ratio) / sharpness)


def start_hyperbola(x: NDArray[np.float64], steps: NDArray[np.float64]) -> list[list[float]]:
    """Start of hyperbola: samples are linear in the batch size, E = E_min + S_min B."""
    slope, intercept = np.polyfit(x[0], x[0] * steps, 1, w=1 / (x[0] * steps))
    steps_min = max(float(slope), 1e-2 * float(steps.min()))
    return [[steps_min, max(float(intercept), 1e-2 * float((x[0] * steps).min())) / steps_min]]


def start_hyperbola_power(x: NDArray[np.float64], steps: NDArray[np.float64]) -> list[list[float]]:
    """Starts of hyperbola_power: the hyperbola, a sharper corner and a softer one."""
    return [[*start_hyperbola(x, steps)[0], sharpness] for sharpness in (0.6, 1.0, 2.0)]
