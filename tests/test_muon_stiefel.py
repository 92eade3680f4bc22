"""Oracle: polar factors by SVD, duality, and closed forms of how far a tangent step leaves the manifold."""

import math

import pytest
import torch

from harness.optimizers import make_optimizer
from harness.optimizers.muon_stiefel import msign, solve_dual
from harness.parameters import layout_of
from tests.reference.optimizer_paths import draw, numbers
from tests.reference.optimizers import polar

STIEFEL = {"name": "muon_stiefel", "lr": 0.1, "momentum": 0.0, "nesterov": False, "dual_lr": 0.3, "dual_steps": 300,
           "retraction": False, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0}  # fmt: skip


def orthonormal(n, m, seed=0):
    return torch.linalg.qr(draw(n, m, seed=seed))[0]


@pytest.mark.parametrize(("n", "m"), [(16, 8), (8, 8), (3, 40)])
def test_msign_is_the_polar_factor(n, m):
    matrix = draw(n, m)
    for scale in (1e-12, 1.0, 1e12):
        torch.testing.assert_close(msign(scale * matrix), polar(matrix), rtol=0, atol=1e-12)
    assert torch.equal(msign(torch.zeros(n, m)), torch.zeros(n, m))


@pytest.mark.parametrize("wide", [False, True])
def test_dual_descent_finds_the_steepest_tangent(wide):
    """Duality: no tangent of norm 1 goes further than |G + W X|_* for any X, so where both agree both are best."""
    w, g, x = orthonormal(12, 5), draw(12, 5, seed=1), torch.zeros(5, 5).double()
    for step in (0.3, 0.01):
        given = (g.T, w.T) if wide else (g, w)
        phi, x = solve_dual(*given, x, torch.tensor(step).double(), 300)
    phi = phi.T if wide else phi
    assert float((w.T @ phi + phi.T @ w).norm()) < 1e-3
    dual = torch.linalg.matrix_norm(g + (g.square().sum() / 5).sqrt() * w @ x, "nuc")
    assert float((g * phi).sum()) == pytest.approx(float(dual), rel=1e-4)
    assert float(dual) < float(torch.linalg.matrix_norm(g, "nuc"))  # of a step that need not be tangent


def first_step(config, w, g, steps=1):
    layout = layout_of({"matrix": w})
    optimizer = make_optimizer(config, layout)
    param, state = w.reshape(-1), optimizer.init(w.reshape(-1))
    for t in range(steps):
        hyper = numbers(config) | {"step": torch.tensor(t + 1.0)}
        update, state = optimizer.update(g.reshape(-1), state, param, hyper)
        param = param + update
    return param.view(w.shape)


@pytest.mark.parametrize("lr", [0.02, 0.1])
def test_a_tangent_step_leaves_the_manifold_by_its_square(lr):
    w = orthonormal(12, 5)
    after = first_step({**STIEFEL, "lr": lr}, w, draw(12, 5, seed=1))
    drift = float((after.T @ after - torch.eye(5)).norm())
    assert drift == pytest.approx(lr**2 * math.sqrt(5), rel=0.02)  # msign(...)^T msign(...) = I


def test_retraction_puts_a_matrix_on_the_manifold_and_keeps_it_there():
    for shape in ((12, 5), (5, 12)):
        config = {**STIEFEL, "retraction": True, "dual_steps": 1}
        for steps in (1, 7):
            after = first_step(config, 3 * draw(*shape), draw(*shape, seed=1), steps)
            gram = after.T @ after if shape[0] > shape[1] else after @ after.T
            torch.testing.assert_close(gram, torch.eye(5).double(), rtol=0, atol=1e-12)


def test_the_size_of_the_loss_does_not_move_a_matrix():
    w, g = orthonormal(12, 5), draw(12, 5, seed=1)
    config = {**STIEFEL, "dual_steps": 2}
    torch.testing.assert_close(first_step(config, w, g, 5), first_step(config, w, 1e-9 * g, 5), rtol=0, atol=1e-12)


def test_decay_of_matrices_that_would_not_decay_is_told(make_run):
    with pytest.raises(ValueError, match="groups.matrix.weight_decay=0.1 has no effect on optimizer=muon_stiefel"):
        make_run(optimizer=STIEFEL, groups={"matrix": {"weight_decay": 0.1}})
    make_run(optimizer=STIEFEL, groups={"vector": {"weight_decay": 0.1}})
