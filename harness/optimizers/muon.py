"""Muon: matrices move by the orthogonal factor of their momentum, all else by AdamW.

Shapes: N parameters of one run, M those of matrices; one matrix is rows x cols.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.optimizers.adam import adamw
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

    A matrix is what harness/groups.py calls one: every tensor of two or more dimensions that is no table of embeddings,
    an output layer too. A kernel of more than two (convolution) is taken as first dimension x all others, as in
    Jordan's code; torch.optim.Muon refuses it. All numbers, lr and weight_decay among them, are those of both parts:
    `groups.vector.lr` and `groups.embedding.lr` multiply Adam's. Under match_rms_adamw one lr fits both. Unlike torch,
    which rounds to bfloat16, the iteration is in the precision of the parameters. Without matrices it is AdamW.

    Valid when: as Adam; a matrix is one linear map (heads or experts kept in one tensor are orthogonalised together).
    Source: Keller Jordan, kellerjordan.github.io/posts/muon, as in torch.optim.Muon; match_rms_adamw: Liu et al.
        (Moonlight), arXiv 2502.16982; kexue.fm/archives/10592, 11285.
    """
    is_matrix = [kind == "matrix" for kind in layout.kinds]
    shapes = [(shape[0], math.prod(shape[1:])) for shape, own in zip(layout.shapes, is_matrix, strict=True) if own]
    sizes = [rows * cols for rows, cols in shapes]
    others = [size for size, own in zip(layout.sizes, is_matrix, strict=True) if not own]
    init_others, update_others = adamw()

    def pick(value: Tensor, own: bool) -> Tensor:
        """The entries of matrices, or all other ones; a number that is one for all entries stays as it is."""
        if value.dim() == 0:
            return value
        pieces = zip(torch.split(value, layout.sizes), is_matrix, strict=True)
        return torch.cat([value[:0], *(piece for piece, is_own in pieces if is_own == own)])

    def init(param: Tensor) -> State:
        return {"momentum_buffer": param.new_zeros(sum(sizes)), **init_others(param.new_zeros(sum(others)))}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        numbers = {name: pick(value, False) for name, value in hyper.items()}
        other_updates, other_state = update_others(pick(grad, False), state, pick(param, False), numbers)
        grad_M, lr, decay = pick(grad, True), pick(hyper["lr"], True), pick(hyper["weight_decay"], True)
        momentum_M = torch.lerp(state["momentum_buffer"], grad_M, 1 - hyper["momentum"])
        direction_M = torch.lerp(grad_M, momentum_M, hyper["momentum"]) if nesterov else momentum_M
        steps = [
            orthogonalise(piece.view(shape)).reshape(-1) * SCALINGS[scaling](*shape)
            for piece, shape in zip(torch.split(direction_M, sizes), shapes, strict=True)
        ]
        updates_M = torch.cat([grad_M[:0], *steps]).add(decay * pick(param, True)) * -lr
        own_pieces, other_pieces = iter(torch.split(updates_M, sizes)), iter(torch.split(other_updates, others))
        updates = torch.cat([next(own_pieces if own else other_pieces) for own in is_matrix])
        return updates, {"momentum_buffer": momentum_M, **other_state}

    return init, update


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
