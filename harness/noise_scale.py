"""Noise scales: from what batch size on a gradient is more signal than noise, estimated from the step's own batch.

    B_simple = trace(Sigma) / |G|^2                  column noise_scale
    B_noise  = trace(Sigma H) / (G^T H G)            column noise_scale_hessian
    B_simple from the RMS of Adam's updates          column noise_scale_update_rms

G is the loss's gradient, Sigma the covariance of one sample's, H the Hessian. The four numbers behind the first two are
columns too, raw: each is unbiased, so they may be averaged over points or seeds before they are divided.

Shapes: R runs, N parameters of one run, K pieces of a batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.func import jvp, vmap

from harness.tasks import Batch

# The ratio's column -> those of its numerator and its denominator
RATIOS = {
    "noise_scale": ("noise_scale_trace", "noise_scale_square"),
    "noise_scale_hessian": ("noise_scale_hessian_trace", "noise_scale_hessian_square"),
}
UPDATE_RMS = "noise_scale_update_rms"
PARTS = tuple(part for pair in RATIOS.values() for part in pair)
NOISE_SCALES = (*RATIOS, UPDATE_RMS, *PARTS)
PIECES = 4
EVERY = 96  # steps between two measurements at least: one takes the time of two (large batches) to seven steps
EARLIEST = 32  # step
HALF_LIFE = 4.0  # measurements back at which the weight in an average is half
MARGIN = 1.1  # of an RMS^2 over that of pure noise, below which it tells nothing


def steps_measured(points: Iterable[int], *, every: int = EVERY, earliest: int = EARLIEST) -> set[int]:
    """Points of a curve at which to measure: the last, and those `every` steps or more before the next."""
    measured: list[int] = []
    for step in sorted(points, reverse=True):
        if step >= earliest and (not measured or measured[-1] - step >= every):
            measured.append(step)
    return set(measured)


def measure_parts(
    gradient: Callable[[Tensor, Batch], Tensor], params_N: Tensor, batch: Batch, *, hessian: bool = True
) -> dict[str, Tensor]:
    """Numerators and denominators of both ratios from one batch, in K equal pieces of b samples (the rest left out).

        |G|^2        = (B |g_big|^2 - b |g_small|^2) / (B - b)            B = K b
        trace(Sigma) = (|g_small|^2 - |g_big|^2) / (1/b - 1/B)            |g_small|^2: mean over pieces
        G^T H G          = g_k^T H_m g_l,                                 m, k, l different pieces
        trace(Sigma H)   = b (g_k^T H_m g_k - G^T H G)

    Each is unbiased, H of pieces that share no sample with g included. A denominator may come out negative.

    Args:
        gradient: (params_N, batch) -> gradient of the mean loss, (N,). Of all pieces but the first it is taken at once.
        hessian: also the second pair, by one Hessian-vector product; NaN without, and where there are not three pieces.

    Valid when: samples are independent (no BatchNorm), drawn with replacement or few of many.
    Source: McCandlish et al., arXiv 1812.06162, appendix A; the second pair: kexue.fm/archives/10542.
    """
    parts = dict.fromkeys(PARTS, params_N.new_full((), torch.nan))
    count = min(PIECES, len(batch[0]))
    if count == 1:
        return parts
    size = len(batch[0]) // count
    first = tuple(part[:size] for part in batch)
    others = tuple(part[size : size * count].unflatten(0, (count - 1, size)) for part in batch)
    grads_KN = vmap(lambda piece: gradient(params_N, piece), randomness="different")(others)
    if hessian and count > 2:
        first_N, product_N = jvp(lambda params_N: gradient(params_N, first), (params_N,), (grads_KN[0],))[:2]
        own, *across = ((grads_KN[k] * product_N).sum() for k in range(count - 1))
        parts["noise_scale_hessian_square"] = torch.stack(across).mean()
        parts["noise_scale_hessian_trace"] = size * (own - parts["noise_scale_hessian_square"])
    else:
        first_N = gradient(params_N, first)
    small = (first_N.norm().square() + grads_KN.norm(dim=1).square().sum()) / count
    big = ((first_N + grads_KN.sum(0)) / count).norm().square()
    parts["noise_scale_trace"] = (small - big) / (1 / size - 1 / (count * size))
    parts["noise_scale_square"] = (count * big - small) / (count - 1)
    return parts


def ratio_of_means(above: Iterable[float], below: Iterable[float]) -> float:
    """One run's ratio at the newest point of its curve: numerators and denominators so far, averaged and then divided.

    Weights halve every HALF_LIFE measurements back; points at which nothing was measured are NaN. It is NaN where
    either average is not positive.
    """
    keep = 0.5 ** (1 / HALF_LIFE)
    total_above, total_below = 0.0, 0.0
    for one, other in zip(above, below, strict=True):
        if not math.isnan(one):
            total_above, total_below = keep * total_above + one, keep * total_below + other
    return total_above / total_below if total_above > 0 and total_below > 0 else math.nan


def noise_scale_of_update_rms(
    state: Mapping[str, Tensor], betas: Sequence[tuple[float, float]], step: int, batch_size: int
) -> list[float]:
    """B_simple of every run from the root mean square of Adam's direction m / sqrt(v): it costs nothing.

        s = (RMS^2 - r') / (1 - RMS^2),    B_simple = batch_size / s,    r' = RMS^2 of pure noise, rms_square_of_noise

    NaN where RMS^2 <= MARGIN r': the batch is so much noise that the RMS does not tell how much. Entries that never had
    a gradient are left out.

    Args:
        state: of Adam, after that step.
        betas: beta1 and beta2 of every run.

    Valid when: gradients change little in 1 / (1 - beta2) steps, noise is Gaussian and alike relative to the signal in
        all entries, eps << sqrt(v).
    Source: kexue.fm/archives/11267 and 11301.
    """
    v_RN = state["exp_avg_sq"]
    ratio_RN = torch.where(v_RN > 0, state["exp_avg"].square() / v_RN, 0.0)
    square_R = ratio_RN.sum(1) / (v_RN > 0).sum(1) * state["correction2"] / state["correction1"].square()
    scales = []
    for square, (beta1, beta2) in zip(square_R.tolist(), betas, strict=True):
        floor = rms_square_of_noise(beta1, beta2, step)
        told = MARGIN * floor < square < 1
        scales.append(batch_size * (1 - square) / (square - floor) if told else math.nan)
    return scales


def rms_square_of_noise(beta1: float, beta2: float, step: int) -> float:
    """E[(m / c1)^2 / (v / c2)] of Adam after some steps of independent Gaussian gradients of mean 0, exactly.

        sum_k a_k^2 E[g_k^2 / sum_j w_j g_j^2] = sum_k a_k^2 int_0^inf dt / (1 + 2 t w_k) prod_j (1 + 2 t w_j)^(-1/2)

    with a_k, w_k the weights of the gradient k steps back in m / c1 and v / c2. It is (1 - beta1) / (1 + beta1) for
    beta2 -> 1 and many steps, and infinite without a memory in v and with one in m.

    Source: kexue.fm/archives/11267 (that limit); the integral is that of 1/x = int exp(-t x) dt.
    """
    enough = max([1, *(int(np.log(1e-7) / np.log(beta)) + 1 for beta in (beta1, beta2) if beta > 0)])
    return noise_integral(beta1, beta2, min(step, enough))


@lru_cache(maxsize=1024)
def noise_integral(beta1: float, beta2: float, count: int) -> float:
    a, w = (beta ** np.arange(count, dtype=np.float64) for beta in (beta1, beta2))
    a, w = a / a.sum(), w / w.sum()
    heard = a > 1e-9 * a[0]
    total = 0.0
    step = 0.25  # of ln t: the trapezoid rule is exact to rounding on such smooth integrands
    for t in np.exp(np.arange(-25.0, 25.0, step)):
        shared = np.exp(-0.5 * np.log1p(2 * t * w).sum())
        total += step * t * shared * float((a[heard] ** 2 / (1 + 2 * t * w[heard])).sum())
    return float(total)
