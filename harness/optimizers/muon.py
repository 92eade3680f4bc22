"""Muon: matrices move by the orthogonal factor of their momentum, all else by AdamW.

Shapes: M parameters of matrices of one run; one matrix is rows x cols.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.optimizers.matrices import Shapes, matrices_beside_adamw, split_matrices
from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
SCALINGS: dict[str, Callable[[int, int], float]] = {
    "original": lambda rows, cols: math.sqrt(max(1.0, rows / cols)),
    "match_rms_adamw": lambda rows, cols: 0.2 * math.sqrt(max(rows, cols)),
}


def muon(*, nesterov: bool, scaling: str, layout: Layout) -> tuple[Callable, Callable]:
    """Muon for the matrices of a run, AdamW for its embeddings and vectors.

        m <- momentum m + (1 - momentum) g           d = m, nesterov: momentum m + (1 - momentum) g
        update = -lr (scale orthogonalise(d) + weight_decay param)
        scale = sqrt(max(1, rows / cols))            scaling: original
                0.2 sqrt(max(rows, cols))            match_rms_adamw: about the RMS of Adam's updates

    What a matrix is, harness/optimizers/matrices.py says; torch.optim.Muon refuses kernels of more than two dimensions.
    All numbers, lr and weight_decay among them, are those of both parts: `groups.vector.lr` and `groups.embedding.lr`
    multiply Adam's. Under match_rms_adamw one lr fits both. Unlike torch, which rounds to bfloat16, the iteration is in
    the precision of the parameters. Without matrices it is AdamW.

    Valid when: as Adam; a matrix is one linear map (heads or experts kept in one tensor are orthogonalised together).
    Source: Keller Jordan, kellerjordan.github.io/posts/muon, as in torch.optim.Muon; match_rms_adamw: Liu et al.
        (Moonlight), arXiv 2502.16982; kexue.fm/archives/10592, 11285.
    """

    def init(zeros_M: Tensor, shapes: Shapes) -> State:
        return {"momentum_buffer": zeros_M}

    def update(grad_M: Tensor, state: State, param_M: Tensor, hyper: Hyper, shapes: Shapes) -> tuple[Tensor, State]:
        momentum_M, direction_M = average_momentum(grad_M, state, hyper, nesterov=nesterov)
        steps = [
            orthogonalise(matrix).reshape(-1) * SCALINGS[scaling](*shape)
            for matrix, shape in zip(split_matrices(direction_M, shapes), shapes, strict=True)
        ]
        updates_M = torch.cat([grad_M[:0], *steps]).add(hyper["weight_decay"] * param_M) * -hyper["lr"]
        return updates_M, {"momentum_buffer": momentum_M}

    return matrices_beside_adamw(init, update, layout)


def average_momentum(grad_M: Tensor, state: State, hyper: Hyper, *, nesterov: bool) -> tuple[Tensor, Tensor]:
    """The average of gradients and the direction to go, of `muon`. Source: kellerjordan.github.io/posts/muon."""
    momentum_M = torch.lerp(state["momentum_buffer"], grad_M, 1 - hyper["momentum"])
    return momentum_M, torch.lerp(grad_M, momentum_M, hyper["momentum"]) if nesterov else momentum_M


def orthogonalise(matrix: Tensor) -> Tensor:
    """About U V^T of a matrix U S V^T, by five Newton-Schulz steps.

        X <- X / |X|_F, five times X <- a X + b (X X^T) X + c (X X^T)^2 X:   U p(S / |S|) V^T

    The coefficients let small singular values rise fast and do not converge: those from .002 |S| on end between .68 and
    1.21, smaller ones below. Zero stays zero.

    Source: Keller Jordan, kellerjordan.github.io/posts/muon; kexue.fm/archives/10592.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix  # the smaller of both Gram matrices
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.mT if tall else x
