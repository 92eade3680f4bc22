"""The order of an epoch: a permutation of 0 ... size-1 that is computed entry by entry and never stored.

Shapes: B entries asked for, K rounds.
"""

import numpy as np

from harness.tasks.random import TRAINING, draw

ROUNDS = 8
# Multipliers of splitmix64's output function: every bit of a half reaches every bit of the round's value
MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def shuffled(seed: int, index_B: np.ndarray, size: int, stream: int = TRAINING) -> np.ndarray:
    """Which of `size` things sample i of a seed is: each exactly once an epoch, in another order in every epoch.

        epoch = i // size,    entry = F_{seed, epoch}(i mod size)

    F is a Feistel network of 8 rounds on the smallest 4^h >= size, walked along its cycle until it is below size again;
    (L, R) -> (R, L xor mix(R xor key)). Any order, and the same whatever is asked for beside it. Memory: that of the
    answer, and 8 keys an epoch from the first that is asked for to the last.

    Args:
        index_B: sample numbers i, >= 0.

    Valid when: size >= 1. It is for shuffling, not for secrets.
    Source: Luby & Rackoff 1988; Black & Rogaway 2002 (cycle walking).
    """
    if not len(index_B):
        return np.empty(0, np.int64)
    epoch_B, place_B = index_B // size, (index_B % size).astype(np.uint64)
    first, last = int(epoch_B.min()), int(epoch_B.max())
    keys_EK = draw(seed, stream, first * ROUNDS, (last - first + 1) * ROUNDS).reshape(-1, ROUNDS)
    half = max(1, -(-(size - 1).bit_length() // 2))
    row_B = epoch_B - first
    entry_B = permute(place_B, keys_EK, row_B, half)
    outside = np.flatnonzero(entry_B >= size)
    while len(outside):
        entry_B[outside] = permute(entry_B[outside], keys_EK, row_B[outside], half)
        outside = outside[entry_B[outside] >= size]
    return entry_B.astype(np.int64)


def permute(place_B: np.ndarray, keys_EK: np.ndarray, row_B: np.ndarray, half: int) -> np.ndarray:
    """The Feistel network on 2 * half bits, entry b under the keys of row_B[b]."""
    bits, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left_B, right_B = place_B >> bits, place_B & mask
    for round_ in range(ROUNDS):
        keys_B = keys_EK[row_B, round_]
        left_B, right_B = right_B, left_B ^ (mix(right_B ^ keys_B) & mask)
    return (left_B << bits) | right_B


def mix(bits_B: np.ndarray) -> np.ndarray:
    """The output function of splitmix64, modulo 2^64."""
    bits_B = (bits_B ^ (bits_B >> np.uint64(30))) * MIX[0]
    bits_B = (bits_B ^ (bits_B >> np.uint64(27))) * MIX[1]
    return bits_B ^ (bits_B >> np.uint64(31))
