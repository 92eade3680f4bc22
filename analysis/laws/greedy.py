"""Steps of SGD to a target on the noisy quadratic, with the greedy learning rate at every step: pure numpy functions.

Shapes: D dimensions, S batch sizes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
SHAPES = ("isotropic", "correlated", "proportional")


def quadratic_scales(*, dimension: int, power: float, noise: str, std: float) -> tuple[Array, Array]:
    """Curvatures h_D and noise variances diag(Sigma)_D of task noisy_quadratic.

        h_i = i^-power,    Sigma_ii = std^2 (isotropic, correlated),    std^2 dimension h_i / sum h (proportional)

    Valid when: no coupling, which would turn the eigenvectors of H away from the coordinates.
    Source: harness/tasks/noisy_quadratic.py.
    """
    if noise not in SHAPES:
        raise ValueError(f"task.noise={noise!r} is not one of {', '.join(SHAPES)}")
    h_D = np.arange(1, dimension + 1, dtype=float) ** -power
    return h_D, std**2 * (dimension * h_D / h_D.sum() if noise == "proportional" else np.ones(dimension))


def greedy_steps(
    batch_sizes: ArrayLike, *, curvature_D: Array, variance_D: Array, start: float, target: float,
    max_steps: int = 100_000,
) -> tuple[Array, Array]:  # fmt: skip
    """Steps until the expected loss is at the target, and B_noise averaged over these steps.

        lr = E g.g / (E g.H g + tr(Sigma H) / B),    s' = (1 - lr h)^2 s + lr^2 Sigma_ii / B,    s = E w^2
        E g.g = sum h^2 s,    E g.H g = sum h^3 s,    B_noise = tr(Sigma H) / E g.H g,    E loss = sum h s / 2

    At every step the learning rate is that which lowers the expected loss most in this one; it is the same for every
    draw of the noise. The last step counts by the share of it that the target asks for, linear in the loss.

    Args:
        batch_sizes: infinite ones have no noise: their mean B_noise is weighted by the steps of S_min.
        curvature_D, variance_D: diagonals of H and Sigma; off-diagonal entries of Sigma do not matter.
        start: every weight at step 0.
        target: expected loss, > 0.
    Returns: steps_S, infinite where max_steps do not suffice, and mean_noise_scale_S, NaN there; samples.
    Valid when: plain SGD, H diagonal, noise independent of the weights; exact for expectations. The steps of single
        runs scatter around it, and their mean is less where the loss scatters much at the target.
    Source: McCandlish et al., arXiv 1812.06162; kexue.fm/archives/10542.
    """
    sizes_S = np.asarray(batch_sizes, dtype=float)
    steps_S, mean_S = np.full(len(sizes_S), np.inf), np.full(len(sizes_S), np.nan)
    on = np.arange(len(sizes_S))  # those still above the target
    moment_SD = np.full((len(sizes_S), len(curvature_D)), float(start) ** 2)
    loss_S = 0.5 * moment_SD @ curvature_D
    if (loss_S <= target).any():
        raise ValueError(f"the loss at the start, {loss_S[0]:g}, is at the target {target:g} already")
    total_S = np.zeros(len(sizes_S))
    noise = float(curvature_D @ variance_D)
    for step in range(max_steps):
        signal_S = moment_SD @ curvature_D**3
        total_S += noise / signal_S
        lr_S = (moment_SD @ curvature_D**2) / (signal_S + noise / sizes_S[on])
        moment_SD *= (1 - lr_S[:, None] * curvature_D) ** 2
        moment_SD += np.outer(lr_S**2 / sizes_S[on], variance_D)
        before_S, loss_S = loss_S, 0.5 * moment_SD @ curvature_D
        there = loss_S <= target
        if there.any():
            steps_S[on[there]] = step + ((before_S - target) / (before_S - loss_S))[there]
            mean_S[on[there]] = total_S[there] / (step + 1)
            on, moment_SD, loss_S, total_S = on[~there], moment_SD[~there], loss_S[~there], total_S[~there]
            if not len(on):
                break
    return steps_S, mean_S
