"""How the lowest loss and the optimum learning rate move with model and data size: pure functions of numpy arrays."""

import itertools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

Curve = NDArray[np.float64]
EXPONENTS = (0.15, 0.3, 0.5, 0.8)  # from which a fit of the loss starts, for both sizes


def loss_power(
    num_params: ArrayLike,
    num_samples: ArrayLike,
    *,
    irreducible_loss: float,
    params_coefficient: float,
    params_exponent: float,
    samples_coefficient: float,
    samples_exponent: float,
) -> Curve:
    """Loss of a tuned model: what no model reaches, and what too small a model and too few samples add.

        loss = E + A / N^alpha + B / D^beta

    Args:
        num_params: N.
        num_samples: D.
        irreducible_loss: E, in units of the loss, > 0.
        params_coefficient, params_exponent: A and alpha, > 0.
        samples_coefficient, samples_exponent: B and beta, > 0.
    Returns: held-out loss at the best learning rate.
    Valid when: every sample is seen once, learning rate and batch size are tuned for every (N, D), no divergence.
    Source: Hoffmann et al., arXiv 2203.15556, approach 3.
    """
    n, d = np.asarray(num_params, dtype=float), np.asarray(num_samples, dtype=float)
    model = params_coefficient * n**-params_exponent
    return irreducible_loss + model + samples_coefficient * d**-samples_exponent


def lr_power(
    num_params: ArrayLike,
    num_samples: ArrayLike,
    *,
    coefficient: float,
    params_exponent: float,
    samples_exponent: float,
) -> Curve:
    """Optimum learning rate against model and data size, a plane in the logs.

        lr = c N^a D^b

    Args:
        num_params: N.
        num_samples: D.
        coefficient: c, > 0.
        params_exponent, samples_exponent: a and b, of either sign.
    Returns: optimum learning rate.
    Valid when: a description over the range that was measured, of one architecture, optimizer and schedule.
    Source: Step Law, arXiv 2503.04715; DeepSeek LLM, arXiv 2401.02954, has a power of compute, N D, alone.
    """
    n, d = np.asarray(num_params, dtype=float), np.asarray(num_samples, dtype=float)
    return coefficient * n**params_exponent * d**samples_exponent


def lr_power_batch(
    num_params: ArrayLike,
    num_samples: ArrayLike,
    batch_size: ArrayLike,
    *,
    coefficient: float,
    params_exponent: float,
    samples_exponent: float,
    batch_exponent: float,
) -> Curve:
    """Optimum learning rate against model size, data size and batch size together.

        lr = c N^a D^b B^p

    Args:
        num_params: N.
        num_samples: D.
        batch_size: B, samples a step.
        coefficient: c, > 0.
        params_exponent, samples_exponent, batch_exponent: a, b and p, of either sign.
    Returns: optimum learning rate.
    Valid when: as lr_power, and every batch size far below the noise scale.
    Source: Step Law, arXiv 2503.04715, with the power of B of kexue.fm/archives/10542.
    """
    b = np.asarray(batch_size, dtype=float)
    plane = {"params_exponent": params_exponent, "samples_exponent": samples_exponent}
    return lr_power(num_params, num_samples, coefficient=coefficient, **plane) * b**batch_exponent


def start_loss(x: NDArray[np.float64], loss: NDArray[np.float64]) -> list[list[float]]:
    """Starts of loss_power: for given exponents the law is linear in E, A and B, which non-negative least squares
    finds; the best two pairs of exponents are kept.
    """
    found = []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        n, d = (x[0] / x[0].min()) ** -alpha, (x[1] / x[1].min()) ** -beta
        design = np.stack([np.ones_like(n), n, d], axis=1)
        (e, a, b), miss = optimize.nnls(design / loss[:, None], np.ones_like(loss))
        small = 1e-2 * float(loss.min())
        start = [max(e, small), max(a, small) * x[0].min() ** alpha, alpha, max(b, small) * x[1].min() ** beta, beta]
        found.append((miss, start))
    return [start for _, start in sorted(found)[:2]]


def start_plane(x: NDArray[np.float64], lr: NDArray[np.float64]) -> list[list[float]]:
    """Start of lr_power and lr_power_batch: the plane through the logs, the answer where all points weigh the same."""
    design = np.vstack([np.ones(x.shape[1]), np.log(x)]).T
    solution, *_ = np.linalg.lstsq(design, np.log(lr), rcond=None)
    return [[float(np.exp(solution[0])), *map(float, solution[1:])]]
