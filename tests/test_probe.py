"""Oracle: closed forms of a noisy quadratic whose H and Sigma are known, Jacobians written out, finite differences."""

import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, jacrev

from analysis.laws.one_step import Local, sign_correlated, sign_independent
from harness.config import make_run_config
from harness.curvature import (
    derivatives_along,
    gauss_newton_along,
    hessian_products,
    losses_along,
    sample_gradients,
)
from harness.draws import PROBED, Pool, draw_gradients, matrices_of, muon, permute_samples
from harness.one_step import Minimum, find_minimum, leave_one_out, mean_by_controls, weigh_draws
from harness.parameters import flatten_params, layout_of, unflatten_params
from harness.probe import freeze, gram_of, keep_arrays, measure_scales, measure_step, probe
from harness.protocols import resolve_probe
from harness.records import read_records
from harness.tasks import make_task

CPU = torch.device("cpu")
DIMENSION, COUPLING = 24, 3.0


def make(task, model, precision="float64"):
    return make_run_config({
        "task": task, "model": model, "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False},
        "schedule": {"name": "constant", "warmup": 0.0}, "protocol": "fixed_steps", "num_steps": 1,
        "num_samples": None, "batch_size": 4, "seed": 0, "precision": precision,
    })  # fmt: skip


def quadratic(noise, pool=4096, samples=512, permute=False, start=0.3):
    """The probed quadratic, its H, the mean gradient and Sigma."""
    options = {
        "name": "noisy_quadratic", "dimension": DIMENSION, "power": 0.5, "noise": noise, "std": 1.0,
        "correlation": 0.5, "coupling": COUPLING, "start": start, "num_heldout": 1,
    }  # fmt: skip
    task = make_task(make(options, {"name": "none"}), CPU)
    params = task.init(0)
    layout = layout_of(params)
    at = freeze(
        task, layout, flatten_params(params), task.sample(0, 0, pool), task.sample(0, pool, samples), permute=permute
    )
    h = np.arange(1, DIMENSION + 1) ** -0.5
    hessian = np.diag(h) + COUPLING / DIMENSION
    covariance = {
        "isotropic": np.eye(DIMENSION), "proportional": np.diag(DIMENSION * h / h.sum()),
        "correlated": 0.5 * np.eye(DIMENSION) + 0.5,
    }[noise]  # fmt: skip
    return at, hessian, hessian @ np.full(DIMENSION, start), covariance


@pytest.fixture(scope="module")
def network():
    options = {
        "name": "teacher_student", "num_inputs": 6, "power": 1.0, "teacher": 0, "teacher_hidden": 4,
        "label_noise": 0.5, "num_heldout": 64,
    }  # fmt: skip
    task = make_task(make(options, {"name": "perceptron", "hidden": 5, "depth": 2}), CPU)
    params = task.init(0)
    return task, layout_of(params), flatten_params(params), task.sample(0, 0, 1100)


@pytest.mark.parametrize("noise", ["isotropic", "proportional", "correlated"])
def test_scales_of_a_quadratic_are_within_three_standard_errors(noise):
    at, hessian, gradient, covariance = quadratic(noise)
    found = measure_scales(at, 128, torch.Generator().manual_seed(0))
    truth = {
        "grad_sq": gradient @ gradient, "grad_curvature": gradient @ hessian @ gradient,
        "noise_trace": np.trace(covariance), "noise_curvature": np.trace(covariance @ hessian),
        "trace": np.trace(hessian),
    }  # fmt: skip
    for name, value in truth.items():
        assert abs(found[name] - value) < 3 * found[f"{name}_se"], name
        assert found[f"{name}_se"] < 0.15 * abs(value), name
    assert np.isnan(found["trace_gauss_newton"])  # no module, no outputs


def test_scales_of_a_network_are_those_of_its_hessian_and_all_samples(network):
    task, layout, params_N, batch = network
    pool, samples = (tuple(part[rows] for part in batch) for rows in (slice(600), slice(600, None)))
    at = freeze(task, layout, params_N, pool, samples)
    found = measure_scales(at, 100, torch.Generator().manual_seed(0))
    hessian = hessian_products(at.loss, params_N, layout, samples, torch.eye(len(params_N), dtype=torch.float64))
    p, deviations = at.pool.mean_N, at.pool.grads_MN - at.pool.mean_N
    noise = float(((deviations @ hessian) * deviations).sum(1).mean())
    assert abs(found["noise_curvature"] - noise) < 3 * found["noise_curvature_se"] < 0.3 * abs(noise)
    assert found["grad_curvature"] + found["noise_curvature"] / 600 == pytest.approx(float(p @ hessian @ p))
    assert found["grad_sq"] == pytest.approx(float(p @ at.gradient_N))
    assert found["noise_trace"] == pytest.approx(float(deviations.square().sum(1).mean()))


def test_a_checkpoint_without_noise_has_none():
    at, *_ = quadratic("isotropic", pool=8)
    still = replace(at, pool=Pool.of(torch.ones(8, DIMENSION, dtype=torch.float64)))
    assert measure_scales(still, 4, torch.Generator().manual_seed(0))["noise_curvature"] == 0.0


@pytest.mark.parametrize("noise", ["isotropic", "proportional", "correlated"])
@pytest.mark.parametrize("name", ["sgd", "sgd_momentum_0.9"])
def test_sgds_best_step_is_that_of_the_closed_form(noise, name):
    at, hessian, _, _ = quadratic(noise)
    g, mean = at.gradient_N.numpy(), at.pool.mean_N.numpy()
    centred = at.pool.grads_MN.numpy() - mean
    noise_curvature = np.einsum("mi,ij,mj->", centred, hessian, centred) / len(centred)
    ratio = 0.1 / 1.9 if "momentum" in name else 1.0
    for batch_size in (16, 256):
        row, mean_N, square_N = measure_step(at, PROBED[name], batch_size, 1024, torch.Generator().manual_seed(1))
        curvature = mean @ hessian @ mean + ratio * noise_curvature / batch_size
        assert row["lr"] == pytest.approx(mean @ g / curvature, rel=0.02)
        assert row["overlap"] == pytest.approx(mean @ g)
        assert row["overlap_se"] < 1e-9 * row["overlap"]
        assert row["curvature"] == pytest.approx(curvature, abs=4 * row["curvature_se"])
        assert abs(row["third"]) < 1e-9
        assert row["decrease"] == pytest.approx(row["overlap"] ** 2 / row["curvature"] / 2, rel=0.01)
        assert np.allclose(mean_N, mean, atol=5 * (centred.std() * (ratio / batch_size / 1024) ** 0.5))
        spread = (square_N - mean_N**2).mean()
        assert float(spread) == pytest.approx(ratio * float(at.pool.variance_N.mean()) / batch_size, rel=0.05)


@pytest.mark.parametrize("noise", ["isotropic", "proportional", "correlated"])
def test_signs_best_step_is_that_of_the_exact_integral_over_the_arrays_that_are_kept(noise, monkeypatch):
    monkeypatch.setattr("harness.probe.CHEAP_DRAWS", 16384)  # 1 % of E[u.g] where noise is eight times the gradient
    at, *_ = quadratic(noise, pool=1024, start=0.05)
    arrays = {key: tensor.numpy() for key, tensor in keep_arrays(at, torch.Generator().manual_seed(0)).items()}
    names = ("gradient", "pool_gradient", "variance", "columns", "probability", "hessian", "noise")
    local = Local(*(arrays[key] for key in names))
    for batch_size in (16, 64, 256):
        row, *_ = measure_step(at, PROBED["signsgd"], batch_size, 1024, torch.Generator().manual_seed(1))
        assert row["lr_se"] < 0.025
        assert sign_correlated(local, batch_size) == pytest.approx(row["lr"], rel=0.05)
        if noise == "correlated" and batch_size <= 64:  # a form that knows no correlation is told apart
            assert sign_independent(local, batch_size) > 1.1 * row["lr"]


def test_derivatives_along_are_those_of_finite_differences_whatever_the_pieces(network):
    task, layout, params_N, batch = network
    directions = torch.randn(11, len(params_N), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = derivatives_along(task.heldout_loss, params_N, layout, batch, directions)
    e = 2e-3
    at = {k: losses_along(task.heldout_loss, params_N, layout, batch, k * e * directions) for k in (-2, -1, 0, 1, 2)}
    assert torch.allclose(found[:, 0], (at[1] - at[-1]) / (2 * e), rtol=1e-3, atol=1e-3)
    assert torch.allclose(found[:, 1], (at[1] - 2 * at[0] + at[-1]) / e**2, rtol=1e-3, atol=1e-2)
    third = (at[2] - 2 * at[1] + 2 * at[-1] - at[-2]) / (2 * e**3)
    assert torch.allclose(found[:, 2], third, rtol=2e-2, atol=0.5)
    products = hessian_products(task.heldout_loss, params_N, layout, batch, directions)
    assert torch.allclose((products * directions).sum(1), found[:, 1])
    whole = float(task.heldout_loss(unflatten_params(params_N, layout), batch))
    assert float(at[0][0]) == pytest.approx(whole, rel=1e-12)


def test_gauss_newton_is_the_jacobians_square(network):
    task, layout, params_N, batch = network
    jacobian = jacrev(lambda p: task.outputs(unflatten_params(p, layout), batch).squeeze(-1))(params_N)
    matrix = 2 * jacobian.T @ jacobian / len(batch[0])  # of a mean of squares
    directions = torch.randn(9, len(params_N), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = gauss_newton_along(task, params_N, layout, batch, directions)[:, 0]
    assert torch.allclose(found, torch.einsum("ki,ij,kj->k", directions, matrix, directions))


def test_sample_gradients_average_to_the_gradient(network):
    task, layout, params_N, batch = network
    grads = sample_gradients(task.heldout_loss, params_N, layout, batch)
    at = freeze(task, layout, params_N, batch, batch)
    assert torch.allclose(grads.mean(0), at.gradient_N, atol=1e-12)
    assert torch.allclose(at.pool.mean_N, at.gradient_N, atol=1e-12)


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_drawn_gradients_have_the_pools_mean_and_the_share_of_its_covariance(beta1):
    at, *_ = quadratic("correlated")
    drawn = draw_gradients(at.pool, 8, 20_000, torch.Generator().manual_seed(0), beta1).numpy()
    pool = at.pool.grads_MN.numpy()
    expected = np.cov(pool.T, bias=True) / 8 * (1 - beta1) / (1 + beta1)
    assert np.allclose(np.cov(drawn.T), expected, atol=0.04 * expected.max())
    assert np.allclose(drawn.mean(0), pool.mean(0), atol=5 * (expected.max() / 20_000) ** 0.5)


def test_permuted_samples_keep_their_marginals_and_lose_their_correlation():
    at, *_ = quadratic("correlated")
    turned = permute_samples(at.pool.grads_MN, torch.Generator().manual_seed(0))
    assert torch.equal(turned.sort(0).values, at.pool.grads_MN.sort(0).values)
    off = np.corrcoef(turned.numpy().T)[~np.eye(DIMENSION, dtype=bool)]
    assert np.abs(off).max() < 5 / 4096**0.5
    assert np.corrcoef(at.pool.grads_MN.numpy().T)[0, 1] > 0.4


def polar(matrix):
    """(A A^T)^(-1/2) A by eigenvalues, zero on what A sends to zero."""
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    kept = values > 1e-10 * values.max()
    return (vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T @ matrix


def test_muon_is_the_polar_factor_of_what_the_optimizer_takes_for_matrices():
    shapes = {"table": (6, 4), "gain": (4,), "wide": (3, 5), "kernel": (4, 2, 3), "row": (1, 4)}
    layout = layout_of({name: torch.zeros(shape) for name, shape in shapes.items()}, {"table"})
    assert matrices_of(layout) == {"wide": (28, 3, 5), "kernel": (43, 4, 6), "row": (67, 1, 4)}
    grads = torch.randn(3, layout.num_params, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    updates = muon(grads, Pool.of(grads), 4, layout)
    for name, grad, update in zip(
        layout.names, grads.split(layout.sizes, 1), updates.split(layout.sizes, 1), strict=True
    ):
        if name in ("table", "gain"):
            assert not update.any(), name
        else:
            for one, its in zip(grad.numpy(), update.numpy(), strict=True):
                expected = polar(one.reshape(shapes[name][0], -1))
                assert np.allclose(its.reshape(expected.shape), expected, atol=1e-10), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_muon_moves_no_direction_that_the_batch_does_not_have(dtype):
    layout = layout_of({"wide": torch.zeros(12, 40), "tall": torch.zeros(40, 12)})
    source = torch.Generator().manual_seed(0)
    samples_M = [  # of rank one, as those of a linear map are
        torch.cat([torch.randn(n, 1, generator=source, dtype=dtype).mul(
            torch.randn(1, m, generator=source, dtype=dtype)).flatten() for n, m in layout.shapes])
        for _ in range(5)
    ]  # fmt: skip
    pool = Pool.of(torch.stack(samples_M))
    share_KM = torch.tensor([[1.0, 0, 0, 0, 0], [0.5, 0.25, 0, 0.25, 0], [0, 0, 0, 0, 0]], dtype=dtype)
    grads = share_KM @ pool.grads_MN
    for piece, shape in zip(muon(grads, pool, 4, layout).split(layout.sizes, 1), layout.shapes, strict=True):
        squares = piece.view(-1, *shape).square().sum((1, 2))  # the number of directions, each of length one
        assert torch.allclose(squares, torch.tensor([1.0, 3.0, 0.0], dtype=dtype), atol=1e-4), shape


def test_means_by_controls_are_sharper_and_no_less_right():
    rng = np.random.default_rng(0)
    misses, errors = [], []
    for _ in range(400):
        x = rng.normal([1.0, 2.0], 1.0, size=(64, 2))
        y = np.sign(x[:, 0] + x[:, 1] - 3.5) + 0.1 * rng.normal(size=64)
        found = mean_by_controls("y", y, x - [1.0, 2.0])
        misses.append(found["y"] - (1 - 2 * norm.cdf(0.5 / 2**0.5)))
        errors.append(found["y_se"])
    assert np.std(misses) == pytest.approx(np.mean(errors), rel=0.12)
    assert np.std(misses) < 0.75 * (1 / 64) ** 0.5
    assert abs(np.mean(misses)) < 3 * np.std(misses) / 20
    linear = mean_by_controls("y", x @ [3.0, -1.0] + 5, x - [1.0, 2.0])
    assert linear["y"] == pytest.approx(6.0)
    assert linear["y_se"] < 1e-12


def test_controls_that_the_draws_lie_far_off_are_followed_in_part():
    rng = np.random.default_rng(0)
    near, far = rng.normal(size=(24, 1)) + 0.1, rng.normal(size=(24, 1)) + 4.0
    for off, followed in ((near, True), (far, False)):
        weights = weigh_draws(off)
        assert weights.sum() == pytest.approx(1)
        assert (abs(float(weights @ off[:, 0])) < 1e-12) == followed
        assert 1 / (weights @ weights) >= 12 - 1e-9
    found = mean_by_controls("y", 2 * far[:, 0] + 1, far)
    assert abs(found["y"] - 1) <= found["y_se"] < 1.1 * abs(found["y"] - 1)  # what was not followed is told as error


@pytest.mark.parametrize("shift", [0.0, 0.5, 4.0])
def test_leaving_one_draw_out_is_weighing_the_others_anew(shift):
    rng = np.random.default_rng(0)
    off, values = rng.normal(size=(12, 2)) + shift, rng.normal(size=(12, 3))
    lone = np.column_stack([off, np.eye(12)[3]])  # one draw alone has this control
    for controls in (off, lone, np.zeros((12, 0)), np.full((12, 1), shift), np.column_stack([off, off[:, 0]])):
        again = [weigh_draws(np.delete(controls, k, 0)) @ np.delete(values, k, 0) for k in range(12)]
        assert np.allclose(leave_one_out(values, controls), again)


@pytest.mark.parametrize(("large", "low", "high"), [(10.0, 0.85, 1.0), (1.0, 0.91, 0.98)])
@pytest.mark.parametrize("count", [16, 24])
def test_intervals_hold_the_mean_as_often_as_they_say(count, large, low, high):
    rng = np.random.default_rng(0)
    pool = rng.normal(size=(2000, 8)) + 0.3
    pool[:60] *= large  # 3 % of the samples
    scales, batch_size, tries = rng.uniform(0.3, 2.0, size=8), 4, 600
    hessian = np.diag(np.arange(1, 9) ** -0.5) + 0.1
    mean, covariance = pool.mean(0), np.cov(pool.T, bias=True)
    truth = mean @ hessian @ mean + np.trace(covariance @ hessian) / batch_size
    inside = 0
    for _ in range(tries):
        drawn = pool[rng.integers(2000, size=(count, batch_size))].mean(1)
        squares_off = drawn**2 - mean**2 - np.diag(covariance) / batch_size
        off = squares_off @ np.stack([np.ones(8), scales], 1)
        found = mean_by_controls("y", np.einsum("ki,ij,kj->k", drawn, hessian, drawn), off)
        inside += abs(found["y"] - truth) < student.ppf(0.975, count - 3) * found["y_se"]
    assert low <= inside / tries <= high


def test_the_least_of_a_polynomial_is_found_with_its_error():
    lr = 2.0 ** np.arange(-2, 2.25, 0.5)
    rng = np.random.default_rng(0)
    bends = 1 + 0.1 * rng.normal(size=400)
    change = bends[:, None] / 2 * lr**2 + 0.05 * lr**3  # minus lr: least where 1 = b lr + .15 lr^2
    none = np.zeros((400, 0))
    found = find_minimum(lr, change, none, 1.0, 1e-12)
    b = bends.mean()
    assert found.lr == pytest.approx((-b + np.sqrt(b * b + 0.6)) / 0.3, rel=1e-3)
    assert found.lr_se == pytest.approx(0.1 / 20, rel=0.25)
    assert found.decrease == pytest.approx(found.lr - b / 2 * found.lr**2 - 0.05 * found.lr**3, rel=1e-6)
    assert find_minimum(lr, change, none, 1e-3, 1e-12).side == -1
    assert find_minimum(lr, change, none, 1e3, 1e-12).side == 1
    known = find_minimum(lr, change, bends[:, None] - 1, 1.0, 1e-12)  # that bends are 1 in the mean leaves no error
    assert known.lr == pytest.approx((-1 + np.sqrt(1.6)) / 0.3, rel=1e-3)
    assert known.lr_se < 1e-3
    slope = find_minimum(lr, change, none, 1.0, 0.1)
    assert slope.lr_se == pytest.approx(0.1, rel=0.05)
    assert slope.decrease_se == pytest.approx(0.2 * slope.decrease, rel=0.05)


@pytest.mark.parametrize("count", range(2, 12))
def test_weights_of_few_draws_add_up_to_one(count):
    rng = np.random.default_rng(count)
    for _ in range(50):
        off = rng.lognormal(0, 3, size=(count, 2)) - 1
        assert weigh_draws(off).sum() == pytest.approx(1)
        assert np.allclose(leave_one_out(np.ones((count, 1)), off), 1)
    assert np.allclose(weigh_draws(np.full((count, 2), 1e-17)), 1 / count)  # controls that are rounding alone


def test_what_a_minimum_misses_of_its_controls_is_told_as_error():
    lr = 2.0 ** np.arange(-2, 2.25, 0.25)
    far = np.random.default_rng(0).normal(size=(24, 1)) + 3.0  # none near its mean, so that it is followed in part
    change = (1 + 0.2 * far) / 2 * lr**2  # without the control the bend is 1, and lr too; the decrease is 1/2
    found = find_minimum(lr, change, far, 1.0, 1e-12)
    assert np.log(found.lr) < -0.1
    assert abs(np.log(found.lr)) <= found.lr_se < 1.4 * abs(np.log(found.lr))
    assert 0.5 - found.decrease <= found.decrease_se < 1.4 * (0.5 - found.decrease)
    outside = find_minimum(lr, (0.1 + 0.5 * far) / 2 * lr**2, far, 1.0, 1e-12)  # least at 10 without the control
    assert outside.lr_se > np.log(lr[-1] / outside.lr)


def test_all_columns_of_a_small_model_and_some_of_a_large_one(monkeypatch):
    at, hessian, *_ = quadratic("correlated")
    arrays = keep_arrays(at, torch.Generator().manual_seed(0))
    assert np.allclose(arrays["hessian"], hessian)
    assert np.allclose(arrays["noise"], np.cov(at.pool.grads_MN.numpy().T, bias=True))
    monkeypatch.setattr("harness.probe.ALL_COLUMNS", 4)
    monkeypatch.setattr("harness.probe.NUM_COLUMNS", 4000)
    some = keep_arrays(at, torch.Generator().manual_seed(0))
    v = np.linspace(-1, 2, DIMENSION)
    bend = float(((some["hessian"].numpy() @ v) * v[some["columns"]] / some["probability"].numpy()).sum())
    assert bend == pytest.approx(v @ hessian @ v, rel=0.1)


def test_gram_of_the_noise_of_a_matrix_is_that_of_its_smaller_side():
    noise = torch.randn(600, 45, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pool = Pool.of(noise)
    for name, start, (rows, cols) in (("wide", 3, (3, 7)), ("tall", 24, (7, 3))):
        gram = pool.mean_over(partial(gram_of, place=slice(start, start + 21), rows=rows, cols=cols))
        off = (noise - noise.mean(0))[:, start : start + 21].view(-1, rows, cols)
        expected = sum(n @ n.T if name == "wide" else n.T @ n for n in off) / 600
        assert torch.allclose(gram, expected), name
        assert gram.shape == (3, 3)


def test_gram_of_every_matrix_of_a_network(network):
    task, layout, params_N, batch = network
    at = freeze(task, layout, params_N, batch, batch)
    arrays = keep_arrays(at, torch.Generator().manual_seed(0))
    matrices = {name for name, kind in zip(layout.names, layout.kinds, strict=True) if kind == "matrix"}
    for what in ("gram", "place"):
        assert {name.removeprefix(f"{what}.") for name in arrays if name.startswith(f"{what}.")} == matrices
    start, rows, cols = arrays["place.layers.1.weight"].tolist()
    assert start == sum(layout.sizes[: layout.names.index("layers.1.weight")])
    noise = (at.pool.grads_MN - at.pool.mean_N)[:, start : start + rows * cols].view(-1, rows, cols)
    assert torch.allclose(arrays["gram.layers.1.weight"], (noise.mT @ noise).mean(0))


def test_a_probe_has_a_row_an_optimizer_and_batch_size(network):
    task, layout, params_N, batch = network
    at = freeze(task, layout, params_N, batch, task.sample(0, 2000, 64))
    found, arrays = probe(at, [4, 64], 6, 0)
    assert found["optimizer"] == [name for name in PROBED for _ in range(2)]
    assert found["batch_size"] == [4, 64] * len(PROBED)
    assert {len(value) for value in found.values() if isinstance(value, list)} == {2 * len(PROBED)}
    assert arrays["mean.signsgd.4"].abs().max() <= 1
    again, _ = probe(at, [4, 64], 6, 0)
    assert str(again) == str(found)


def test_a_direct_call_of_the_module_is_what_outputs_are(network):
    task, layout, params_N, batch = network
    assert isinstance(task.module, nn.Module)
    direct = functional_call(task.module, unflatten_params(params_N, layout), (batch[0],))
    assert torch.equal(task.outputs(unflatten_params(params_N, layout), batch), direct)


def test_a_sweep_of_checkpoints_from_command_to_figures(tmp_path):
    command = [
        sys.executable, "-m", "harness", "protocol=one_step", "task=teacher_student", "model=perceptron",
        "model.hidden=4", "task.num_inputs=4", "precision=float64", "pool_samples=64", "probe_samples=32",
        "num_draws=6", "schedule=constant", "sweep.name=tiny", "sweep.grid.num_steps=[2,4]", "tracker=none",
        "metrics.num_evals=1", "task.num_heldout=64",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    assert {path.name for path in (tmp_path / "figures").iterdir() if path.suffix == ".png"} == {
        "tiny.png", "tiny-noise_scale.png", "tiny-step-2.png", "tiny-step-4.png",
    }  # fmt: skip
    assert len(list((tmp_path / "runs/tiny/probes").glob("*.safetensors"))) == 2
    (path,) = {path.parent for path in (tmp_path / "runs/tiny").glob("*.parquet")}
    frame = read_records(path)
    assert frame["probe.optimizer"].map(len).tolist() == [4 * len(PROBED)] * 2  # batch sizes 1, 4, 16, 64
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert "nothing to train" in again.stdout
    assert "closed" in again.stdout


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"protocol": "one_step", "num_draws": 6, "pool_samples": 8}, "needs probe_samples"),
        ({"protocol": "one_step", "num_draws": 5, "pool_samples": 8, "probe_samples": 8}, "give 6 or more"),
        ({"protocol": "fixed_steps", "num_draws": 4}, "no effect under protocol=fixed_steps"),
    ],
)
def test_numbers_of_the_protocol_are_checked(values, words):
    with pytest.raises(ValueError, match=words):
        resolve_probe(values)


def test_a_probe_off_the_cpu_brings_together_no_tensors_of_two_devices(network, monkeypatch):
    """Tensors without values know their device: an operation on those of two raises."""
    task, layout, *_ = network
    numbers, on = [], {"dtype": torch.float64, "device": "meta"}

    def numpy(tensor):
        assert tensor.device.type == "cpu"
        numbers.append(tensor.shape)
        return np.ones(tensor.shape)

    monkeypatch.setattr(torch.Tensor, "numpy", numpy)
    monkeypatch.setattr(torch.Tensor, "__float__", lambda _: 1.0)
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda _: True)
    monkeypatch.setattr("harness.probe.find_minimum", lambda *_: Minimum(1.0, 1.0, 1.0, 1.0))
    for name, its_shape in (  # forward mode does not know tensors without values
        ("losses_along", lambda *args: args[-1].sum(1)), ("hessian_products", lambda *args: args[-1] + args[1]),
        ("derivatives_along", lambda *args: args[-1][:, :3]), ("gauss_newton_along", lambda *args: args[-1][:, :1]),
    ):  # fmt: skip
        monkeypatch.setattr(f"harness.probe.{name}", its_shape)
    for columns in (4096, 4):  # all of H, and some of it
        monkeypatch.setattr("harness.probe.ALL_COLUMNS", columns)
        with FakeTensorMode(allow_non_fake_inputs=True):
            pool, samples = ((torch.zeros(n, 6, **on), torch.zeros(n, **on)) for n in (40, 20))
            at = freeze(task, layout, torch.zeros(layout.num_params, **on), pool, samples, permute=True)
            assert at.pool.grads_MN.device.type == "meta"
            _, arrays = probe(at, [4], 6, 0)
        assert {tensor.device.type for tensor in arrays.values()} == {"cpu"}
    assert len(numbers) > 2 * len(PROBED)
