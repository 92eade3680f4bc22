"""Random numbers that are a function of (seed, stream, index) alone.

No state, any order, cheap to start anywhere: sample i is the same whatever batch size reads it.
"""

import numpy as np
from scipy.special import ndtri

# Second words of the Philox key: streams of one task that must not meet
TRAINING, HELDOUT, TEACHER = 0, 1, 2
BITS = 52  # of a draw that become a share: with the half below, one more would round up to 1 and give infinity


def draw(seed: int, stream: int, start: int, n: int) -> np.ndarray:
    """Draws start ... start+n-1 of a stream: uint64, from Philox, whose every counter value gives four of them."""
    offset = start % 4
    bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64), counter=start // 4)
    return bits.random_raw(offset + n)[offset:]


def draw_normal(seed: int, stream: int, start: int, n: int, dimension: int) -> np.ndarray:
    """Standard normal vectors start ... start+n-1 of a stream, float64, (n, dimension).

        z = ndtri((k + 1/2) / 2^52),   k the upper 52 bits of one draw

    One draw gives one number (inverse CDF), so vector i takes the draws i dimension ... (i+1) dimension - 1.

    Valid when: tails up to 8.2 standard deviations are enough.
    Source: Salmon et al. 2011 (Philox); the inverse of the normal distribution function as in scipy.special.ndtri.
    """
    raw = draw(seed, stream, start * dimension, n * dimension) >> np.uint64(64 - BITS)
    return np.asarray(ndtri((raw.astype(np.float64) + 0.5) * 2.0**-BITS).reshape(n, dimension))
