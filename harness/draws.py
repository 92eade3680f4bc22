"""Gradients of fresh batches, drawn with replacement from a pool of per-sample gradients, and the updates they make.

A batch's gradient is then a product of counts with the pool, so that thousands cost little, and noise is exactly
Sigma / B with the pool's own Sigma at every batch size. Random numbers are drawn on the CPU and moved, so that they
are the same ones on a GPU.

Shapes: K draws, M samples of the pool, N parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.parameters import Layout

COLUMNS_AT_ONCE = 1024
SAMPLES_AT_ONCE = 512  # a larger model's pool is half a gigabyte, which is not to be held twice
MEMORY_LEFT = 1e-3  # weight of the batches before those that an average is made of


@dataclass(frozen=True)
class Pool:
    """Per-sample gradients at frozen parameters, and what follows from them.

    Attributes:
        grads_MN: one row a sample.
        mean_N: gradient of the pool.
        variance_N: of one sample's gradient, entry by entry.
    """

    grads_MN: Tensor
    mean_N: Tensor
    variance_N: Tensor

    @classmethod
    def of(cls, grads_MN: Tensor) -> "Pool":
        mean_N = grads_MN.mean(0)
        squares_N = torch.cat([few.square().mean(0) for few in grads_MN.split(COLUMNS_AT_ONCE, 1)])
        return cls(grads_MN, mean_N, squares_N - mean_N.square())

    def mean_over(self, total: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over samples of what `total` sums over some of them, from their deviations."""
        first, *others = self.grads_MN.split(SAMPLES_AT_ONCE)
        so_far = total(first - self.mean_N)
        for few in others:
            so_far += total(few - self.mean_N)
        return so_far / len(self.grads_MN)

    def noise_sq(self) -> Tensor:
        """Squared norm of every sample's deviation, (M,)."""
        return torch.cat([(few - self.mean_N).square().sum(1) for few in self.grads_MN.split(SAMPLES_AT_ONCE)])


def permute_samples(grads_MN: Tensor, generator: torch.Generator) -> Tensor:
    """Every entry's samples in an order of its own: the same marginals, and no correlation between entries.

    Each column is turned by a random offset: two of N columns share theirs with probability 1 / M.
    """
    count, width = grads_MN.shape
    device = grads_MN.device
    offset_N = torch.randint(count, (width,), generator=generator).to(device)
    turned = torch.empty_like(grads_MN)
    row_M = torch.arange(count, device=device)
    for columns in torch.arange(width, device=device).split(COLUMNS_AT_ONCE):
        turned[:, columns] = grads_MN[(row_M[:, None] + offset_N[columns]) % count, columns]
    return turned


def draw_gradients(
    pool: Pool, batch_size: int, num_draws: int, generator: torch.Generator, beta1: float = 0.0
) -> Tensor:
    """K gradients of fresh batches, (K, N); with beta1 the average m of the gradients of all batches so far.

        m = (1 - beta1) sum_j beta1^j g_j,    Cov m = (1 - beta1)/(1 + beta1) Sigma / B

    cut off where the weights that are left are below a thousandth, and made to add up to one.
    """
    count = len(pool.grads_MN)
    share_KM = torch.zeros(num_draws, count, dtype=pool.grads_MN.dtype)
    left = 1.0
    while left > MEMORY_LEFT:
        weight = left * (1 - beta1)
        drawn_KB = torch.randint(count, (num_draws, batch_size), generator=generator)
        share_KM.scatter_add_(1, drawn_KB, torch.full(drawn_KB.shape, weight / batch_size, dtype=share_KM.dtype))
        left *= beta1
    return (share_KM / (1 - left)).to(pool.grads_MN.device) @ pool.grads_MN


@dataclass(frozen=True)
class Probed:
    """An optimizer whose one step is measured, at a learning rate of one.

    Attributes:
        beta1: of the average that it takes the gradients' place.
        direction: (gradients (K, N), pool, batch size, layout) -> what is subtracted from the parameters, (K, N).
    """

    direction: Callable[[Tensor, Pool, int, Layout], Tensor]
    beta1: float = 0.0


def sgd(grads_KN: Tensor, pool: Pool, batch_size: int, layout: Layout) -> Tensor:
    """u = m; momentum is that of an average, (1 - beta1) times torch's sum."""
    return grads_KN


def signsgd(grads_KN: Tensor, pool: Pool, batch_size: int, layout: Layout) -> Tensor:
    """u = sign(m), sign(0) = 0."""
    return grads_KN.sign()


def softsign_by(eps: float) -> Callable[[Tensor, Pool, int, Layout], Tensor]:
    """u = g / sqrt(g^2 + eps^2)."""

    def direction(grads_KN: Tensor, pool: Pool, batch_size: int, layout: Layout) -> Tensor:
        size_KN = torch.hypot(grads_KN, grads_KN.new_tensor(eps))
        return torch.where(size_KN > 0, grads_KN / size_KN, 0.0)

    return direction


def adam(grads_KN: Tensor, pool: Pool, batch_size: int, layout: Layout) -> Tensor:
    """u = m / sqrt(v), v at its mean g^2 + sigma^2 / B: what a long memory (beta2 -> 1) tends to at a checkpoint."""
    return scale_by_v(grads_KN, pool, batch_size)


def scale_by_v(values: Tensor, pool: Pool, batch_size: int) -> Tensor:
    """values / sqrt(v), (..., N); zero where v is."""
    v_N = pool.mean_N.square() + pool.variance_N / batch_size
    return torch.where(v_N > 0, values / v_N.sqrt(), 0.0)


def matrices_of(layout: Layout) -> dict[str, tuple[int, int, int]]:
    """Where every matrix lies among the N, its rows and its columns: what harness/optimizers/muon.py takes for one.

    Tables of embeddings are none; a kernel of more than two dimensions is its first one x all others.
    """
    found, start = {}, 0
    for name, shape, kind in zip(layout.names, layout.shapes, layout.kinds, strict=True):
        if kind == "matrix":
            found[name] = start, shape[0], shape[1:].numel()
        start += shape.numel()
    return found


def muon(grads_KN: Tensor, pool: Pool, batch_size: int, layout: Layout) -> Tensor:
    """u = U V^T of every matrix's gradient U S V^T, by singular values; what is no matrix stays where it is.

    Zero stays zero: a singular value below eps max(rows, cols) s_0 is rounding, of a batch with fewer samples than the
    matrix has rows, and its vectors would be a direction that no sample has.
    """
    update_KN = torch.zeros_like(grads_KN)
    for start, rows, cols in matrices_of(layout).values():
        place = slice(start, start + rows * cols)
        u, s, vt = torch.linalg.svd(grads_KN[:, place].view(-1, rows, cols), full_matrices=False)
        least = torch.finfo(s.dtype).eps * max(rows, cols) * s[:, :1]
        update_KN[:, place] = ((u * (s > least)[:, None, :].to(u.dtype)) @ vt).flatten(1)
    return update_KN


def overlaps_off(pool: Pool, gradient_N: Tensor, grads_KN: Tensor, batch_size: int) -> np.ndarray:
    """m.g and (D m).g of every draw minus their exact means, (K, 2): m's is the pool's gradient; D = 1 / sqrt(v)."""
    by_N2 = torch.stack((gradient_N, scale_by_v(gradient_N, pool, batch_size)), 1)
    return ((grads_KN - pool.mean_N) @ by_N2).double().cpu().numpy()


def squares_off(pool: Pool, grads_KN: Tensor, batch_size: int, beta1: float) -> np.ndarray:
    """m.m and (D m).(D m) of every draw minus their exact means, (K, 2): a few large draws make most of a curvature.

    E m.m = p.p + (1 - beta1)/(1 + beta1) tr(Sigma) / B,      p the pool's gradient
    """
    square_N = pool.mean_N.square() + (1 - beta1) / (1 + beta1) / batch_size * pool.variance_N
    scale_N = scale_by_v(torch.ones_like(pool.mean_N), pool, batch_size)
    by_N2 = torch.stack((torch.ones_like(scale_N), scale_N.square()), 1)
    return ((grads_KN.square() - square_N) @ by_N2).double().cpu().numpy()


PROBED: Mapping[str, Probed] = {
    "sgd": Probed(sgd),
    "sgd_momentum_0.9": Probed(sgd, beta1=0.9),
    "signsgd": Probed(signsgd),
    "softsign_0.001": Probed(softsign_by(0.001)),
    "softsign_0.03": Probed(softsign_by(0.03)),
    "softsign_1": Probed(softsign_by(1.0)),
    "adam_0": Probed(adam),
    "adam_0.5": Probed(adam, beta1=0.5),
    "adam_0.9": Probed(adam, beta1=0.9),
    "muon": Probed(muon),
}
