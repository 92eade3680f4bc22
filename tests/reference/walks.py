"""Weights that walk under an optimizer on gradients of given mean and noise: step by step, with no law in it.

Shapes: T steps, N entries (each its own walk).
"""

import numpy as np

N = 4000


def rms(x):
    return float(np.sqrt((x**2).mean()))


def gradients(mean, seed, count=N):
    """Endless independent gradients N(mean, 1), (N,) each."""
    rng = np.random.default_rng(seed)
    while True:
        yield mean + rng.normal(size=count)


def adam_directions(beta1, beta2, grads):
    """m / sqrt(v), bias-corrected, eps = 0."""
    m, v = 0.0, 0.0
    for t, g in enumerate(grads, start=1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        yield m / (1 - beta1**t) / np.sqrt(v / (1 - beta2**t))


def signum_directions(beta1, grads):
    m = 0.0
    for g in grads:
        m = beta1 * m + (1 - beta1) * g
        yield np.sign(m)


def lion_directions(beta1, beta2, grads):
    m = 0.0
    for g in grads:
        yield np.sign(beta1 * m + (1 - beta1) * g)
        m = beta2 * m + (1 - beta2) * g


def muon_directions(beta, rows, columns, seed):
    """The polar factor of an average of Gaussian matrices, by singular values."""
    rng = np.random.default_rng(seed)
    m = np.zeros((rows, columns))
    while True:
        m = beta * m + (1 - beta) * rng.normal(size=m.shape)
        left, _, right = np.linalg.svd(m, full_matrices=False)
        yield (left @ right).ravel()


def walk(directions, lr_T, decay_T, start=0.0):
    """Weights after T steps of w <- w - lr (u + decay w)."""
    w = start
    for lr, decay, u in zip(lr_T, decay_T, directions, strict=False):
        w = w - lr * (u + decay * w)
    return w
