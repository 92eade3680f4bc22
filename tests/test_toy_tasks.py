"""Oracle: closed forms of the normal distribution and of the tasks' docstrings, gradients by hand, plain loops."""

import statistics

import numpy as np
import pytest
import torch
from scipy import stats
from torch.func import grad

from harness.checks import CHOICES, FEEDS, TAKES
from harness.config import run_id
from harness.models import MODELS
from harness.parameters import flatten_params
from harness.plan import Stack
from harness.program import make_program
from harness.tasks import TASKS, make_task
from harness.tasks.random import TRAINING, draw, draw_normal
from harness.tasks.teacher_student import draw_teacher
from harness.train import train

CPU = torch.device("cpu")
NONE = {"name": "none"}
QUADRATIC = {"name": "noisy_quadratic", "dimension": 6, "power": 1.0, "noise": "isotropic", "std": 2.0,
             "correlation": 0.3, "start": 1.0, "num_heldout": 1}  # fmt: skip
WALK = {"name": "random_walk", "dimension": 5, "mean": 0.3, "std": 2.0, "start": 0.5, "num_heldout": 1}
TEACHER = {"name": "teacher_student", "num_inputs": 4, "power": 1.0, "teacher": 0, "teacher_hidden": 3,
           "label_noise": 0.5, "num_heldout": 64}  # fmt: skip
STUDENT = {"name": "perceptron", "hidden": 5, "depth": 2}
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
TOYS = {"quadratic": (QUADRATIC, NONE), "walk": (WALK, NONE), "teacher": (TEACHER, STUDENT)}


@pytest.fixture
def make_toy(make_run):
    def make(task, model=NONE, **changed):
        return make_run(**{"task": task, "model": model, "optimizer": SGD, "precision": "float64", **changed})

    return make


def test_draws_are_philoxs_in_any_order():
    whole = np.random.Philox(key=np.array([7, TRAINING], dtype=np.uint64)).random_raw(64)
    for start, n in ((0, 64), (1, 7), (6, 1), (13, 40)):
        assert np.array_equal(draw(7, TRAINING, start, n), whole[start : start + n])


def test_normal_draws_are_the_inverse_distribution_function_of_the_draws():
    drawn = draw_normal(3, TRAINING, 5, 4, 3)
    shares = (draw(3, TRAINING, 15, 12) // np.uint64(4096)) / 2.0**52
    expected = [statistics.NormalDist().inv_cdf(share + 2.0**-53) for share in shares]
    np.testing.assert_allclose(drawn.ravel(), expected, rtol=1e-8, atol=1e-8)


def test_normal_draws_are_normal_and_independent():
    drawn = draw_normal(0, TRAINING, 0, 100_000, 3)
    for column in drawn.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(3), atol=5 / 1e5**0.5)


def test_the_most_extreme_draws_are_finite(monkeypatch):
    for value in (0, 2**64 - 1):
        monkeypatch.setattr("harness.tasks.random.draw", lambda *_, value=value: np.array([value], dtype=np.uint64))
        assert 8 < abs(float(draw_normal(0, 0, 0, 1, 1)[0, 0])) < 9


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize(("start", "n"), [(1, 7), (6, 1), (13, 40)])
def test_sample_i_is_the_same_for_every_batch_size(make_toy, toy, start, n):
    task = make_task(make_toy(*TOYS[toy]), CPU)
    for piece, whole in zip(task.sample(3, start, n), task.sample(3, 0, 64), strict=True):
        assert torch.equal(piece, whole[start : start + n])
    assert not torch.equal(task.sample(3, 0, 8)[0], task.sample(4, 0, 8)[0])


@pytest.mark.parametrize("noise", CHOICES["task.noise"])
def test_the_noise_has_the_covariance_that_the_docstring_says(make_toy, noise):
    task = make_task(make_toy({**QUADRATIC, "noise": noise}), CPU)
    h = np.array([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6])
    expected = {
        "isotropic": 4 * np.eye(6),
        "proportional": np.diag(24 * h / 2.45),
        "correlated": 4 * (0.7 * np.eye(6) + 0.3 * np.ones((6, 6))),
    }[noise]
    assert np.trace(expected) == pytest.approx(6 * 4)
    (noise_BD,) = task.sample(0, 0, 100_000)
    np.testing.assert_allclose(np.cov(noise_BD.T), expected, atol=5 * 12 / 1e5**0.5)
    np.testing.assert_allclose(noise_BD.mean(0), 0, atol=5 * 4 / 1e5**0.5)


def test_the_quadratics_gradient_and_heldout_loss(make_toy):
    task = make_task(make_toy(QUADRATIC), CPU)
    w = torch.tensor([1.0, -2.0, 3.0, 0.5, 0.0, 2.0], dtype=torch.float64)
    h = torch.tensor([1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6], dtype=torch.float64)
    batch = task.sample(0, 0, 7)
    torch.testing.assert_close(grad(task.loss)({"w": w}, batch)["w"], h * w + batch[0].sum(0) / 7)
    assert float(task.loss({"w": w}, task.heldout(1000))) == pytest.approx((1 + 2 + 3 + 1 / 16 + 0 + 2 / 3) / 2)
    assert task.init(0)["w"].tolist() == task.init(1)["w"].tolist() == [1.0] * 6


def test_a_random_walks_steps_have_the_mean_and_spread_of_its_coefficients(make_toy):
    task = make_task(make_toy({**WALK, "dimension": 1000}), CPU)
    for batch_size in (1, 16):
        gradients = [grad(task.loss)(task.init(0), task.sample(0, i * batch_size, batch_size))["w"] for i in range(100)]
        entries = torch.cat(gradients)
        assert float(entries.mean()) == pytest.approx(0.3, abs=4 * 2 / batch_size**0.5 / 1e5**0.5)
        assert float(entries.std()) == pytest.approx(2 / batch_size**0.5, rel=0.02)
    assert float(task.loss(task.init(0), task.heldout(5))) == pytest.approx(0.3 * 0.5 * 1000)


def test_a_random_walk_may_be_a_matrix_whose_noise_changes_at_a_sample(make_toy):
    walk = {**WALK, "dimension": 6, "width": 3, "std_after": 7.0, "change_at": 5}
    plain, changed = make_task(make_toy({**WALK, "dimension": 6}), CPU), make_task(make_toy(walk), CPU)
    before, after = plain.sample(1, 0, 8)[0], changed.sample(1, 0, 8)[0]
    assert torch.equal(before[:5], after[:5])
    torch.testing.assert_close(after[5:] - 0.3, (before[5:] - 0.3) * 7 / 2)
    assert torch.equal(changed.sample(1, 4, 3)[0], after[4:7])
    params = changed.init(1)
    assert params["w"].shape == (2, 3)
    found = grad(changed.loss)(params, changed.sample(1, 5, 1))["w"]
    torch.testing.assert_close(found, after[5].reshape(2, 3))


def test_rows_of_rare_tokens_walk_from_their_start_under_tiger(make_toy):
    """Gradients at every second and every sample, by hand; the size of each tensor in its own step and decay."""
    rows = {"name": "token_walk", "num_gaps": 2, "factor": 2, "rows": 3, "width": 2, "spacing": "regular", "start": 0.7,
            "num_heldout": 1}  # fmt: skip
    tiger = {"name": "tiger", "lr": 0.05, "momentum": 0.9, "accumulate": 1, "shrink": 0.99, "weight_decay": 0.4}
    config = make_toy(rows, optimizer=tiger, batch_size=1, num_samples=30, schedule={"name": "constant", "warmup": 0.0})
    stack = Stack({run_id(config): config})
    *_, progress = train(make_program(stack, CPU), stack, num_evals=2, num_examples=1)
    task = make_task(config, CPU)
    (coefficients,) = (value.numpy() for value in task.sample(config.seed, 0, 30))
    w, m = np.full((2, 3, 2), 0.7), np.zeros((2, 3, 2))
    for t in range(30):
        assert (coefficients[t, 1] == 0).all() == (t % 2 == 0)  # tensor gap_2 is hit at samples 2, 4, ...
        m = 0.9 * m + 0.1 * coefficients[t]
        size = np.sqrt((w**2).mean((1, 2), keepdims=True))
        w = w - 0.05 * size * (np.sign(m) + 0.4 * w)
    assert progress.params_RN[0].numpy() == pytest.approx(w.ravel(), rel=1e-12)
    assert (make_task(make_toy({**rows, "start": None}), CPU).init(0)["gap_1"] == 0).all()


def test_the_student_learns_the_docstrings_teacher(make_toy):
    noisy, clean = (
        make_task(make_toy({**TEACHER, "label_noise": std}, STUDENT), CPU) for std in (0.5, 0.0)
    )  # fmt: skip
    inputs, labels = noisy.sample(0, 0, 50_000)
    np.testing.assert_allclose(np.cov(inputs.T), np.diag([1, 1 / 2, 1 / 3, 1 / 4]), atol=5 * 1.5 / 5e4**0.5)
    noise = labels - clean.sample(0, 0, 50_000)[1]
    assert float(noise.std()) == pytest.approx(0.5, rel=0.02)
    assert np.abs(np.corrcoef(np.column_stack([noise, inputs]).T)[0, 1:]).max() < 5 / 5e4**0.5
    v, a = draw_teacher(TEACHER, np.array([1, 1 / 2, 1 / 3, 1 / 4]) ** 0.5)
    for task in (clean, noisy):  # held-out labels are the teacher's own
        inputs, labels = task.heldout(20)
        expected = [
            sum(a[k] * np.tanh(sum(v[k, i] * x[i] for i in range(4))) for k in range(3)) for x in inputs.numpy()
        ]
        np.testing.assert_allclose(labels, expected, rtol=1e-12)
    drawn = draw_normal(0, 2, 0, 3, 5)
    np.testing.assert_allclose(v, drawn[:, :4] / (1 + 1 / 2 + 1 / 3 + 1 / 4) ** 0.5)
    np.testing.assert_allclose(a, drawn[:, 4] / 3**0.5)


def test_the_perceptron_is_its_formula_and_its_loss_the_mean_square(make_toy):
    task = make_task(make_toy(TEACHER, STUDENT), CPU)
    params = task.init(0)
    inputs, labels = task.sample(0, 0, 9)
    p = {name: tensor.numpy() for name, tensor in params.items()}
    x = inputs.numpy()
    for layer in ("layers.0", "layers.1"):
        x = np.tanh(x @ p[f"{layer}.weight"].T + p[f"{layer}.bias"])
    expected = (x @ p["layers.2.weight"].T + p["layers.2.bias"])[:, 0]
    assert float(task.loss(params, (inputs, labels))) == pytest.approx(np.mean((expected - labels.numpy()) ** 2))
    assert sum(a.size for a in p.values()) == 4 * 5 + 5 + 5 * 5 + 5 + 5 + 1


@pytest.mark.parametrize("toy", TOYS)
def test_stacked_runs_are_runs_alone(make_toy, toy):
    lanes = [make_toy(*TOYS[toy], seed=seed, num_samples=160, optimizer={**SGD, "lr": lr})
             for seed in (0, 1) for lr in (0.01, 0.1)]  # fmt: skip
    stack = Stack({run_id(config): config for config in lanes})
    *_, progress = train(make_program(stack, CPU), stack, num_evals=2, num_examples=4)
    for lane, config in enumerate(lanes):
        task = make_task(config, CPU)
        params = {name: torch.nn.Parameter(tensor) for name, tensor in task.init(config.seed).items()}
        optimizer = torch.optim.SGD(params.values(), lr=config.optimizer["lr"], momentum=0.5)
        for t in range(20):
            optimizer.param_groups[0]["lr"] = config.optimizer["lr"] * (1 - t / 20)
            optimizer.zero_grad()
            task.loss(params, task.sample(config.seed, 8 * t, 8)).backward()
            optimizer.step()
        torch.testing.assert_close(progress.params_RN[lane], flatten_params(params).detach(), rtol=0, atol=1e-12)
        heldout = float(task.loss(params, task.heldout(4)).detach())
        assert progress.history["loss"][-1][lane] == pytest.approx(heldout, rel=1e-10)


@pytest.mark.parametrize("toy", TOYS)
def test_samples_come_in_the_runs_precision(make_toy, toy):
    for precision, dtype in (("float32", torch.float32), ("float64", torch.float64)):
        task = make_task(make_toy(*TOYS[toy], precision=precision), CPU)
        tensors = (*task.init(0).values(), *task.sample(0, 0, 2), *task.heldout(2))
        assert {tensor.dtype for tensor in tensors} == {dtype}


def test_every_task_and_model_says_what_passes_between_them():
    assert set(FEEDS) == set(TASKS)
    assert set(TAKES) == set(MODELS)


@pytest.mark.parametrize(
    ("task", "model", "words"),
    [
        (
            QUADRATIC,
            {},
            "task=noisy_quadratic feeds its model nothing and model=ngram takes symbols: choose model=none",
        ),
        (TEACHER, NONE, "choose model=perceptron"),
        ({}, STUDENT, "choose model=ngram or mlp"),
        ({**QUADRATIC, "noise": "isotropc"}, NONE, "task.noise='isotropc' is not one of .*did you mean isotropic"),
        ({**QUADRATIC, "correlation": 1.0}, NONE, r"task.correlation=1.0 is not a number in \[0, 1\)"),
        ({**WALK, "change_at": 5}, NONE, "task.change_at=5 needs task.std_after"),
        ({**WALK, "width": 4}, NONE, "task.width=4 does not divide task.dimension=5"),
        ({**QUADRATIC, "start": float("inf")}, NONE, "task.start=inf is not a finite number"),
    ],
)
def test_what_makes_no_sense_is_told(make_run, task, model, words):
    with pytest.raises(ValueError, match=words):
        make_run(task=task, model=model)
