"""Oracle: noisy_quadratic and random_walk, where gradient, covariance and Hessian are known; ordinary autograd, sample
group by sample group and twice over, on a plain module; for Adam's RMS, simulation and the article's own numbers.
"""

import copy
import math
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from harness import noise_scale
from harness.config import run_id
from harness.metrics import METRICS
from harness.noise_scale import NOISE_SCALES, PARTS, ratio_of_means, rms_square_of_noise, steps_measured
from harness.parameters import flatten_params
from harness.plan import Plan, Stack, make_plan
from harness.plan_file import name_request, read_plan, to_json
from harness.program import make_program
from harness.results import summarise
from harness.tasks.noisy_quadratic import spectrum
from harness.train import train
from tests.reference.plain import CPU, plain_module

QUADRATIC = {"name": "noisy_quadratic", "dimension": 40, "power": 1.0, "std": 0.5, "correlation": 0.3, "start": 1.0,
             "num_heldout": 1}  # fmt: skip
STILL = {"name": "sgd", "lr": 1e-12, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
ADAM = {"name": "adam", "lr": 1e-9, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12}
CONSTANT = {"name": "constant", "warmup": 0.0}
EVALS = {"num_evals": 8, "num_examples": 1}

HELPERS = """
from torch import nn

class Dropped(nn.Module):
    def __init__(self, num_symbols, width):
        super().__init__()
        self.embedding, self.dropout = nn.Embedding(num_symbols, width), nn.Dropout(0.5)
        self.out = nn.Linear(width, num_symbols)
    def forward(self, symbols):
        return self.out(self.dropout(self.embedding(symbols).mean(1)))
"""


def stack_of(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def curves(stack, **options):
    *_, now = train(make_program(stack, CPU), stack, noise_scale=True, **{**EVALS, **options})
    return {name: np.array(points) for name, points in now.history.items()}, now


def toy(make_run, task, optimizer=STILL, seeds=48, **changed):
    values = {"model": {"name": "none"}, "schedule": CONSTANT, "precision": "float64", "batch_size": 16,
              "num_samples": 16 * 768, **changed}  # fmt: skip
    return stack_of([make_run(task=task, optimizer=optimizer, seed=seed, **values) for seed in range(seeds)])


@pytest.mark.parametrize("noise", ["isotropic", "proportional", "correlated"])
@pytest.mark.parametrize("batch_size", [3, 16, 18])
def test_on_the_quadratic_they_are_what_is_known(make_run, noise, batch_size):
    stack = toy(make_run, {**QUADRATIC, "noise": noise}, batch_size=batch_size, num_samples=batch_size * 768)
    seen, _ = curves(stack)
    assert seen["step"].tolist() == [96 * i for i in range(1, 9)]
    h = spectrum(40, 1.0)
    share = 40 * h / h.sum() if noise == "proportional" else np.ones(40)
    exact = {
        "noise_scale_trace": 40 * 0.25, "noise_scale_square": (h**2).sum(),
        "noise_scale_hessian_trace": 0.25 * (share * h).sum(), "noise_scale_hessian_square": (h**3).sum(),
    }  # fmt: skip
    means = {}
    for name, value in exact.items():
        per_seed = seen[name].mean(0)
        means[name] = per_seed.mean()
        assert abs(means[name] - value) < 3 * per_seed.std(ddof=1) / len(per_seed) ** 0.5, name
    for above, below in noise_scale.RATIOS.values():
        deviations = seen[above].mean(0) / exact[above] - seen[below].mean(0) / exact[below]
        ratio = means[above] / means[below] / (exact[above] / exact[below])
        assert abs(ratio - 1) < 3.5 * deviations.std(ddof=1) / len(deviations) ** 0.5  # of a ratio, to first order


def test_the_columns_are_ratios_of_averages_over_the_points_so_far(make_run):
    seen, _ = curves(toy(make_run, {**QUADRATIC, "noise": "isotropic"}, seeds=6))
    weights = 0.5 ** (np.arange(7, -1, -1) / 4)
    for name, (above, below) in noise_scale.RATIOS.items():
        means = weights @ seen[above], weights @ seen[below]
        expected = np.where((means[0] > 0) & (means[1] > 0), means[0] / means[1], np.nan)
        np.testing.assert_allclose(seen[name][-1], expected, rtol=1e-12)
    assert ratio_of_means([2.0, math.nan, 4.0], [1.0, math.nan, 1.0]) == pytest.approx(
        (2 * 2**-0.25 + 4) / (2**-0.25 + 1)
    )
    assert math.isnan(ratio_of_means([1.0], [-1.0]))
    assert math.isnan(ratio_of_means([math.nan], [math.nan]))


def test_on_a_network_they_are_what_ordinary_autograd_gives(make_run):
    config = make_run(precision="float64", batch_size=18)
    program = make_program(stack_of([config]), CPU)
    batch = program.task.sample(0, 0, 18)
    params_N = flatten_params(program.task.init(0))
    seen = {name: float(value[0]) for name, value in program.noise_parts(params_N[None], batch).items()}
    module = plain_module(config)
    pieces = [tuple(part[4 * i : 4 * i + 4] for part in batch) for i in range(4)]

    def grad_of(inputs, targets):
        loss = F.cross_entropy(module(inputs), targets)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(module.parameters()), create_graph=True)])

    grads = [grad_of(*piece) for piece in pieces]
    g = [grad.detach() for grad in grads]
    product = torch.autograd.grad(grads[0] @ g[1], list(module.parameters()))
    product = torch.cat([part.flatten() for part in product])
    mean = sum(g) / 4
    square = sum(a @ b for i, a in enumerate(g) for b in g[:i]) / 6  # of different pieces: no noise in common
    across = (g[2] + g[3]) @ product / 2
    expected = {
        "noise_scale_trace": 4 * sum((a - mean) @ (a - mean) for a in g) / 3, "noise_scale_square": square,
        "noise_scale_hessian_trace": 4 * (g[1] @ product - across), "noise_scale_hessian_square": across,
    }  # fmt: skip
    assert seen.keys() == expected.keys() == set(PARTS)
    for name, value in expected.items():
        assert seen[name] == pytest.approx(float(value), rel=1e-9), name


def test_pure_noise_has_the_rms_of_simulation_and_of_the_article():
    for betas, rms in {(0.9, 0.9): 0.2257, (0.9, 0.95): 0.2262, (0.5, 0.95): 0.5650, (0.0, 0.95): 0.9776}.items():
        assert rms_square_of_noise(*betas, 10**6) ** 0.5 == pytest.approx(rms, rel=2e-3)  # of articles 11267, 11301
    assert rms_square_of_noise(0.9, 0.99999, 10**6) == pytest.approx(0.1 / 1.9, rel=1e-3)
    drawn = np.random.default_rng(0).standard_normal((400_000, 12))
    for beta1, beta2 in ((0.9, 0.95), (0.5, 0.9), (0.0, 0.999)):
        a, w = beta1 ** np.arange(12.0), beta2 ** np.arange(12.0)
        squares = (drawn @ (a / a.sum())) ** 2 / (drawn**2 @ (w / w.sum()))
        error = squares.std() / len(squares) ** 0.5
        assert abs(rms_square_of_noise(beta1, beta2, 12) - squares.mean()) < 3 * error


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("signal", [0.1, 0.3, 1.0, 4.0])
def test_adams_update_rms_tells_the_noise_scale_of_a_walk(make_run, name, signal):
    optimizer = {**ADAM, "name": name} | ({"weight_decay": 0.1} if name == "adamw" else {})
    walk = {"name": "random_walk", "dimension": 400, "mean": (signal / 16) ** 0.5, "std": 1.0, "start": 0.0,
            "num_heldout": 1}  # fmt: skip
    seen, _ = curves(toy(make_run, walk, optimizer, seeds=12))
    # B_simple = std^2 / mean^2; the formula is a mean-field one, good to some percent
    assert seen["noise_scale_update_rms"][1:].mean() == pytest.approx(16 / signal, rel=0.12)


def test_where_all_is_noise_adams_update_rms_tells_nothing(make_run):
    walk = {"name": "random_walk", "dimension": 4000, "mean": 0.0, "std": 1.0, "start": 0.0, "num_heldout": 1}
    seen, now = curves(toy(make_run, walk, ADAM, seeds=4))
    assert np.isnan(seen["noise_scale_update_rms"]).all()
    row = summarise(now, 0, 0.5)
    assert row["noise_scale_update_rms"] is None
    assert row["history.noise_scale_update_rms"] == [None] * 8
    assert np.isnan(curves(toy(make_run, walk, seeds=2))[0]["noise_scale_update_rms"]).all()  # sgd has none


@pytest.fixture
def dropped(make_run, tmp_path, monkeypatch):
    """Runs of a module that draws random numbers in training."""
    (tmp_path / "noisy_nets.py").write_text(HELPERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield [make_run(model={"name": "noisy_nets:Dropped", "width": 4}, num_samples=8 * 160, optimizer={"lr": lr})
           for lr in (0.001, 0.01)]  # fmt: skip
    sys.modules.pop("noisy_nets", None)


@pytest.mark.parametrize("kind", ["ngram", "dropout"])
def test_measuring_changes_no_bit_of_training(make_run, dropped, kind):
    plain = [make_run(num_samples=8 * 160, seed=seed, optimizer={"lr": lr}) for seed in (0, 1) for lr in (0.001, 0.1)]
    stack = stack_of(dropped if kind == "dropout" else plain)
    ends = []
    for on in (False, True):
        *_, now = train(make_program(stack, CPU), stack, num_evals=4, num_examples=16, noise_scale=on)
        ends.append((now, torch.get_rng_state()))
    (off, off_random), (on, on_random) = ends
    assert torch.equal(off_random, on_random)
    assert torch.equal(off.params_RN, on.params_RN)
    assert all(torch.equal(off.state[name], on.state[name]) for name in off.state)
    assert off.history == {name: points for name, points in on.history.items() if name not in NOISE_SCALES}
    assert set(NOISE_SCALES) <= set(on.history)
    assert all(math.isfinite(x) for x in on.history["noise_scale_hessian_trace"][-1])


def test_going_on_has_the_same_noise_scales(make_run):
    stack = stack_of([make_run(num_samples=8 * 256, optimizer={"lr": lr}) for lr in (0.001, 0.01)])
    options = {"num_evals": 4, "num_examples": 16, "noise_scale": True}
    for now in train(make_program(stack, CPU), stack, **options):
        if now.step == 150:
            held = copy.deepcopy(now)
    *_, again = train(make_program(stack, CPU), stack, **options, resume=held)
    assert repr(again.history) == repr(now.history)


def test_they_are_measured_at_the_last_point_and_before_it_96_steps_apart(make_run):
    assert steps_measured([0, 1, 31, 63, 64, 65, 127, 160, 500]) == {64, 160, 500}
    assert steps_measured([8, 16, 24]) == set()
    assert steps_measured([8, 16, 24, 32]) == {32}
    seen, _ = curves(stack_of([make_run(num_samples=8 * 150)]), num_evals=5)
    assert np.isfinite(seen["noise_scale_trace"][:, 0]).tolist() == [False] * 4 + [True]
    assert np.isfinite(seen["grad_norm"]).all()


def test_what_cannot_be_told_is_nothing(make_run, monkeypatch):
    tiny = stack_of([make_run(batch_size=1, num_samples=64)])
    assert np.isnan(curves(tiny, num_evals=1)[0]["noise_scale"]).all()
    pair, _ = curves(stack_of([make_run(batch_size=2, num_samples=128)]), num_evals=1)
    assert np.isfinite(pair["noise_scale_trace"]).all()
    assert np.isnan(pair["noise_scale_hessian_trace"]).all()
    alone, _ = curves(stack_of([make_run(num_samples=8 * 64)], alone="of its own"), num_evals=1)
    assert np.isnan(alone["noise_scale_trace"]).all()

    def no_rule(*args):
        raise NotImplementedError("Trying to use forward AD with an operation that does not support it")

    monkeypatch.setattr(noise_scale, "jvp", no_rule)
    first, _ = curves(stack_of([make_run(num_samples=8 * 128)]), num_evals=2)
    assert np.isfinite(first["noise_scale_trace"][-1]).all()
    assert np.isnan(first["noise_scale_hessian"]).all()


def test_a_stop_at_the_target_keeps_the_columns(make_run):
    goal = {"protocol": "steps_to_target", "target_loss": 3.0, "target_examples": 16, "max_steps": 400,
            "eval_every": 40, "num_samples": None, "schedule": CONSTANT}  # fmt: skip
    stack = stack_of([make_run(**goal, optimizer={"lr": lr}) for lr in (0.003, 0.01)])
    seen, now = curves(stack)
    assert {len(points) for points in seen.values()} == {len(seen["step"])}
    assert seen["step"][np.isfinite(seen["noise_scale_trace"][:, 0])].tolist()[:1] == [40]
    assert summarise(now, 0, 2.9).keys() >= {*NOISE_SCALES, *METRICS}


def test_a_plan_keeps_the_option_and_a_run_does_not_know_it(make_run, tmp_path):
    runs = {run_id(config): config for config in [make_run()]}
    plans: list[Plan] = []
    names = []
    for metrics in ({"num_evals": 2, "num_examples": 16}, {"num_evals": 2, "num_examples": 16, "noise_scale": True}):
        options = {"device": "cpu", "width": None, "metrics": metrics}
        plans.append(make_plan("s", runs, **options))
        names.append(name_request("s", runs, since=None, **options))
        path = tmp_path / f"plan-{names[-1]}-0.json"
        path.write_text(to_json(plans[-1]))
        assert read_plan(path) == plans[-1]
    assert [plan.noise_scale for plan in plans] == [False, True]
    assert names[0] != names[1]
    off = {"num_evals": 2, "num_examples": 16, "noise_scale": False}
    assert name_request("s", runs, since=None, device="cpu", width=None, metrics=off) == names[0]
