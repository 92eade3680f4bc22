"""Muon on the Stiefel manifold: matrices whose columns stay orthonormal.

Shapes: M parameters of matrices of one run; one matrix W is n x m with n >= m, a wide one is taken as its transpose.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.optimizers.matrices import Shapes, matrices_beside_adamw, split_matrices
from harness.optimizers.muon import COEFFICIENTS, average_momentum
from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]

RISING, SETTLING = 8, 6  # steps of both iterations behind msign


def muon_stiefel(*, nesterov: bool, dual_steps: int, retraction: bool, layout: Layout) -> tuple[Callable, Callable]:
    """The longest way down by a step of spectral norm lr that leaves W^T W as it is, to first order.

        max tr(G^T Phi)  with  |Phi|_2 = 1,  W^T Phi + Phi^T W = 0      G: momentum's direction / RMS singular value
        Phi = msign(G + W X)                                        X = X^T, 0 at the start, kept from step to step
        X <- X - dual_lr (W^T Phi + Phi^T W)                        dual_steps times both, Phi the last of them
        update = -lr Phi                                            retraction: msign(W - lr Phi) - W

    X descends the dual |G + W X|_*, whose gradient is the constraint's residual. With dual_steps = 1 that is amortised
    over training. The source leaves G as it is; divided by sqrt(|G|_F^2 / m), X and dual_lr have no unit, so the size
    of the loss does not matter.

    Retraction puts W on the manifold at the first step, by a jump from wherever it was initialised, and keeps it there.
    Without it W^T W stays what it was at the start, up to lr^2 I a step and what is left of the residual. There is no
    decay of matrices (groups.matrix.weight_decay is refused). Embeddings and vectors take AdamW's steps at the same lr.

    Valid when: singular values of one may do (an output layer's logits are bounded by them); G of full rank, since
        directions below about 1e-5 of its length are not taken. lr < 1.
    Source: kexue.fm/archives/11388, 11221; Bernstein, Modular Manifolds, thinkingmachines.ai/blog/modular-manifolds.
    """

    def init(zeros_M: Tensor, shapes: Shapes) -> State:
        return {"momentum_buffer": zeros_M, "dual": zeros_M.new_zeros(sum(min(shape) ** 2 for shape in shapes))}

    def update(grad_M: Tensor, state: State, param_M: Tensor, hyper: Hyper, shapes: Shapes) -> tuple[Tensor, State]:
        momentum_M, direction_M = average_momentum(grad_M, state, hyper, nesterov=nesterov)
        duals = split_matrices(state["dual"], [(min(shape), min(shape)) for shape in shapes])
        steps, new_duals = [], []
        for matrix, direction, dual in zip(
            split_matrices(param_M, shapes), split_matrices(direction_M, shapes), duals, strict=True
        ):
            phi, dual = solve_dual(direction, matrix, dual, hyper["dual_lr"], dual_steps)
            steps.append(phi.reshape(-1))
            new_duals.append(dual.reshape(-1))
        updates_M = torch.cat([grad_M[:0], *steps]) * -hyper["lr"]
        if retraction:
            moved = [msign(matrix).reshape(-1) for matrix in split_matrices(param_M + updates_M, shapes)]
            updates_M = torch.cat([grad_M[:0], *moved]) - param_M
        return updates_M, {"momentum_buffer": momentum_M, "dual": torch.cat([grad_M[:0], *new_duals])}

    return matrices_beside_adamw(init, update, layout)


def solve_dual(
    direction: Tensor, matrix: Tensor, dual: Tensor, dual_lr: Tensor, dual_steps: int
) -> tuple[Tensor, Tensor]:
    """Phi and X after some steps from X, see `muon_stiefel`. Source: kexue.fm/archives/11388."""
    wide = matrix.shape[0] < matrix.shape[1]
    w, g = (matrix.mT, direction.mT) if wide else (matrix, direction)
    g = g / (g.square().sum() / g.shape[1]).sqrt().clamp(min=1e-30)
    phi = g
    for _ in range(dual_steps):
        phi = msign(g + w @ dual)
        half = w.mT @ phi
        dual = dual - dual_lr * (half + half.mT)
    return phi.mT if wide else phi, dual


def msign(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, to rounding where singular values are above about 5e-5 |S|. Zero stays zero.

        X <- a X + b (X X^T) X + c (X X^T)^2 X     Muon's, from X / |X|_F: small ones rise, all come to .68 ... 1.21
        X <- 3/2 X - 1/2 (X X^T) X                 from there to 1, errors squared at every step

    Source: kexue.fm/archives/10592; Higham, Functions of Matrices (2008), section 8.3.
    """
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix  # the smaller of both Gram matrices
    x = x / x.norm().clamp(min=1e-30)
    for _ in range(RISING):
        gram = x @ x.mT
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    for _ in range(SETTLING):
        x = 1.5 * x - 0.5 * (x @ x.mT) @ x
    return x.mT if tall else x
