"""Adam on the noisy quadratic as plain numpy loops: no stacks, no torch, its own random numbers."""

import numpy as np


def adam_losses(
    lr_L: np.ndarray, *, eps: float, inside: bool, batch_size: int, num_steps: int, num_seeds: int, seed: int = 0,
    dimension: int = 256, power: float = 0.5, std: float = 1.0, start: float = 1.0, beta1: float = 0.9,
    beta2: float = 0.95,
) -> np.ndarray:  # fmt: skip
    """Final losses, seeds by learning rates; a seed's noise is the same for every learning rate, and every epsilon.

    g = h w + xi,   xi ~ N(0, std^2 / B),   w <- w - lr m / (sqrt(v) + eps), or / sqrt(v + eps^2) inside
    """
    h_D = np.arange(1, dimension + 1, dtype=float) ** -power
    rng = np.random.default_rng(seed)
    w = np.full((num_seeds, len(lr_L), dimension), start)
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, num_steps + 1):
        noise = rng.standard_normal((num_seeds, 1, dimension)) * std / batch_size**0.5
        gradient = h_D * w + noise
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        mean, square = m / (1 - beta1**t), v / (1 - beta2**t)
        w = w - lr_L[:, None] * mean / (np.sqrt(square + eps**2) if inside else np.sqrt(square) + eps)
    return 0.5 * (h_D * w**2).sum(-1)


def best_rate(guess: float, **settings: float) -> float:
    """argmin over learning rates within an octave and a half of a guess: a parabola in ln of the mean loss' lowest."""
    x_L = np.log2(guess) + np.arange(-1.5, 1.51, 0.25)
    loss_L = adam_losses(2.0**x_L, **settings).mean(0)  # type: ignore[arg-type]
    i = int(np.argmin(loss_L))
    assert 2 <= i < len(x_L) - 2, "the optimum lies outside"
    a, b, _ = np.polyfit(x_L[i - 2 : i + 3] - x_L[i], loss_L[i - 2 : i + 3], 2)
    return float(2.0 ** (x_L[i] - b / (2 * a)))
