"""Oracle: closed forms. What an optimizer promises beyond its steps on finite gradients."""

import math

import pytest
import torch
from torch.func import vmap

from harness.groups import group_index
from harness.optimizers import make_optimizer
from harness.parameters import layout_of
from harness.program import step_of_one_run
from tests.reference.optimizer_paths import draw, numbers
from tests.reference.plain import CPU

TIGER = {"name": "tiger", "lr": 0.1, "momentum": 0.9, "accumulate": 1, "shrink": 0.9, "weight_decay": 0.0}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
ADAFACTOR = {"name": "adafactor", "lr": 0.01, "relative_step": False, "beta2_decay": 0.8, "clip": 1.0, "eps1": 1e-30,
             "eps2": 1e-3, "weight_decay": 0.0}  # fmt: skip


def spoilt_runs(config, spoilt, max_norm=None, steps=2):
    """Two runs that start alike; the second's first batch gives the gain a gradient of `spoilt`, at a finite loss."""
    start = {"matrix": torch.tensor([[3.0, -1.0], [2.0, 4.0]]).double(), "gain": torch.ones(2).double()}
    layout = layout_of(start)

    def loss(params, batch):  # a factor of the gain, whose derivative alone is spoilt
        (factor,) = batch
        kink = torch.sqrt((params["gain"] - 1 + factor.mean()).clamp(min=0)).sum()  # derivative infinite at 0
        return params["matrix"].square().sum() / 2 + params["gain"].sum() + 0.0 * kink

    optimizer = make_optimizer(config, layout)
    step = step_of_one_run(loss, layout, optimizer, group_index(layout, CPU), None, measure=lambda *given: {})
    hyper = {name: value.expand(2) for name, value in numbers(config).items()}
    if max_norm is not None:
        hyper["max_norm"] = torch.full((2,), max_norm).double()
    params = torch.cat([start["matrix"].reshape(-1), start["gain"]]).repeat(2, 1)
    state = vmap(optimizer.init)(params)
    held = (params, state, torch.zeros(2, dtype=torch.int64), torch.zeros(2).double())
    mapped = vmap(step, in_dims=(0, 0, 0, 0, 0, {"step": None, "lr": 0}, 0))
    path = [params]
    for t in range(steps):
        factor = torch.tensor([[1.0], [spoilt if t == 0 else 1.0]]).double()
        at = {"step": torch.tensor(t + 1.0).double(), "lr": torch.ones(2).double()}
        *held, _ = mapped(*held, hyper, at, (factor,))
        path.append(held[0])
    return path, held


def test_a_gradient_that_is_not_finite_shrinks_its_tensor_alone_and_ends_no_tiger():
    path, (_, state, diverged_at, losses) = spoilt_runs(TIGER, spoilt=0.0)
    assert bool(torch.isfinite(losses).all())
    assert diverged_at.tolist() == [0, 0]
    first = path[1]
    torch.testing.assert_close(first[0, :4], first[1, :4])  # the matrix: RMS sqrt(7.5), a step of a tenth of it
    torch.testing.assert_close(path[0][0, :4] - first[0, :4], 0.1 * math.sqrt(7.5) * path[0][0, :4].sign())
    assert first[0, 4:].tolist() == pytest.approx([0.95, 0.95])  # a gain: lr / 2
    assert first[1, 4:].tolist() == [1.0, 1.0]  # at its centre, and not moved
    assert state["exp_avg"][1, 4:].tolist() == pytest.approx([0.1, 0.1])  # of the second gradient alone
    assert path[2][1, 4:].tolist() == pytest.approx([0.95, 0.95])


def test_a_tensor_shrinks_towards_the_mean_of_its_first_values():
    layout = layout_of({"matrix": torch.empty(2, 2)})
    optimizer = make_optimizer(TIGER, layout)
    state = optimizer.init(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    moved = torch.tensor([4.0, 3.0, 13.0, 2.0])
    hyper = numbers(TIGER, torch.float32) | {"step": torch.tensor(5.0)}
    for bad in (math.nan, math.inf, -math.inf):
        update, after = optimizer.update(torch.tensor([1.0, bad, 1.0, 1.0]), state, moved, hyper)
        assert (moved + update).tolist() == pytest.approx([3.9, 3.0, 12.0, 2.1])  # 3 + .9 (w - 3)
        assert torch.equal(after["exp_avg"], state["exp_avg"])


def test_where_gradients_are_clipped_all_tensors_shrink():
    path, held = spoilt_runs(TIGER, spoilt=0.0, max_norm=1.0)
    assert held[2].tolist() == [0, 0]
    centre, matrix = 2.0, path[0][1, :4]
    torch.testing.assert_close(path[1][1, :4], centre + 0.9 * (matrix - centre))


def test_any_other_run_ends_at_the_step_after():
    _, held = spoilt_runs(SGD, spoilt=0.0, steps=3)
    assert held[2].tolist() == [0, 2]


def test_a_mean_square_of_rank_one_is_kept_whole():
    rows, cols = draw(4), draw(6, seed=1)
    layout = layout_of({"matrix": torch.empty(4, 6)})
    optimizer = make_optimizer(ADAFACTOR, layout)
    grad, param = torch.outer(rows, cols).reshape(-1), draw(24)
    hyper = numbers(ADAFACTOR) | {"step": torch.tensor(1.0).double()}
    update, _ = optimizer.update(grad, optimizer.init(param), param, hyper)
    torch.testing.assert_close(update, -0.01 * grad.sign(), rtol=0, atol=1e-12)


def test_a_row_without_gradient_does_not_move_in_float32():
    layout = layout_of({"table": torch.empty(5, 3)}, embeddings={"table"})
    optimizer = make_optimizer(ADAFACTOR, layout)
    state, param = optimizer.init(torch.zeros(15)), torch.ones(15)
    hyper = numbers(ADAFACTOR, torch.float32)
    for t in range(3):
        rows, cols = torch.tensor([1e-6, 0.0, 1.0, 0.0, 1e3]), torch.tensor([1e-9, 1.0, 1.0])
        grad = torch.outer(rows, cols).reshape(-1)  # a product of both roots' arguments would underflow
        update, state = optimizer.update(grad, state, param, hyper | {"step": torch.tensor(t + 1.0)})
    assert bool(update.isfinite().all())
    moved = update.view(5, 3)[:, 0]
    assert moved[[1, 3]].tolist() == [0.0, 0.0]
    assert bool((moved[[0, 2, 4]] < 0).all())


def test_adax_outlives_its_exponential_weights():
    config = {"name": "adax", "lr": 0.1, "beta1": 0.0, "beta2": 0.9, "eps": 0.0, "weight_decay": 0.0}
    optimizer = make_optimizer(config, layout_of({"w": torch.empty(1)}))
    state, hyper = optimizer.init(torch.zeros(1)), numbers(config, torch.float32)
    for _ in range(300):  # 1.9^300 is no float32
        update, state = optimizer.update(torch.tensor([2.0]), state, torch.zeros(1), hyper)
    assert update.tolist() == pytest.approx([-0.1])


def test_amos_keeps_the_scale_of_weights_under_noise():
    """Uncorrelated updates of unit size: rms^2 -> lr^2 scale^2 / (2 rho), rho = lr^2 / 2."""
    config = {"name": "amos", "lr": 0.1, "damping": "inverse_time", "alignment": 0.0, "beta2": 0.0, "momentum": 0.0,
              "eps": 0.0, "c_coef": 0.0, "d_coef": 0.0}  # fmt: skip
    start = 3.0 * draw(40, 50)
    optimizer = make_optimizer(config, layout_of({"w": start}))
    param, state = start.reshape(-1), optimizer.init(start.reshape(-1))
    for t in range(1500):
        hyper = numbers(config) | {"step": torch.tensor(t + 1.0)}
        update, state = optimizer.update(draw(2000, seed=t + 1), state, param, hyper)
        param = param + update
    assert float(param.square().mean().sqrt()) == pytest.approx(3.0, rel=0.05)


def test_steps_of_eg_grow_where_gradients_agree():
    config = {"name": "eg", "lr": 0.1, "gamma": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    optimizer = make_optimizer(config, layout_of({"w": torch.empty(2)}))
    state, hyper = optimizer.init(torch.zeros(2).double()), numbers(config)
    for t in range(4):
        grad = torch.tensor([1.0, (-1.0) ** t]).double()
        update, state = optimizer.update(grad, state, torch.zeros(2).double(), hyper)
    assert update.tolist() == pytest.approx([-0.1 * math.exp(1.5), 0.1 * math.exp(-1.5)])
