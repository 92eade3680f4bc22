"""Oracle: tests/reference/quadratic.py, exact expectations, themselves held against closed forms and plain simulation.

What sweeps/lr_vs_bs_quadratic.csv was measured to show: where the best learning rate is known, it is found.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from analysis.analyse import analyse_runs
from analysis.fit_points import Points, fit_points
from analysis.laws.sizes import POINT_LAWS
from tests.reference.quadratic import best_lr, quadratic, sgd_loss, sgd_steps, signsgd_loss

CSV = Path(__file__).resolve().parents[1] / "sweeps" / "lr_vs_bs_quadratic.csv"
SHAPES = ("isotropic", "proportional")


@pytest.fixture(scope="module")
def frame():
    return pd.read_csv(CSV)


@pytest.fixture(scope="module")
def optima(frame):
    return [o for answer in analyse_runs("lr_vs_bs_quadratic", frame).groups for o in answer.optima]


def exact_loss(row, noise=None):
    """lr -> E loss, for the settings in a row of the csv; noise in place of the row's own."""
    h_D, variance_D = quadratic(
        dimension=int(row["task.dimension"]), power=row["task.power"], noise=noise or row["task.noise"],
        std=row["task.std"],
    )  # fmt: skip
    settings = {"h_D": h_D, "variance_D": variance_D, "batch_size": int(row["batch_size"]),
                "num_steps": int(row["num_steps"]), "start": row["task.start"]}  # fmt: skip
    assert row["schedule.name"] == "constant"
    if row["optimizer.name"] == "signsgd":
        return lambda lr: signsgd_loss(lr, **settings)
    return lambda lr: sgd_loss(lr, momentum=row["optimizer.momentum"], **settings)


def row_of(frame, optimum):
    for column, value in {**optimum.group, "batch_size": optimum.batch_size}.items():
        frame = frame[frame[column].isna() if pd.isna(value) else frame[column] == value]
    return frame.iloc[0]


@pytest.mark.parametrize("noise", SHAPES)
def test_sgds_best_learning_rate_is_the_exact_one_to_5_percent(frame, optima, noise):
    cells = [
        o for o in optima
        if o.group["task.noise"] == noise and o.group["optimizer.name"] == "sgd" and o.group["optimizer.momentum"] == 0
    ]  # fmt: skip
    assert [o.batch_size for o in cells] == [4, 8, 16, 32, 64, 128]
    for o in cells:
        exact = best_lr(exact_loss(row_of(frame, o)), low=2**-5, high=1.9)
        assert o.status == "interior"
        assert abs(o.lr / exact - 1) < 0.05, (o.batch_size, o.lr, exact)


def test_intervals_hold_the_exact_optima_of_all_three_optimizers(frame, optima):
    """36 cells of 95 % intervals: fewer than 32 of them would be a 3 % event, were they independent."""
    assert len(optima) == 36
    inside = 0
    for o in optima:
        exact = best_lr(exact_loss(row_of(frame, o)), low=o.lr / 3, high=min(1.9, o.lr * 3), per_octave=4)
        assert abs(o.lr / exact - 1) < 0.1, (o.group, o.batch_size)
        inside += o.low <= exact <= o.high
    assert inside >= 32


def test_seed_mean_losses_are_the_exact_ones_and_tell_the_shapes_of_the_noise_apart(frame):
    """The best lr of SGD hardly does: at equal trace its stationary loss, lr trace(Sigma) / 4B, is the same."""
    for name in ("sgd", "signsgd"):
        for noise, other in (SHAPES, SHAPES[::-1]):
            rows = frame[(frame["optimizer.name"] == name) & (frame["task.noise"] == noise)]
            errors = {noise: [], other: []}
            for _, cell in rows.groupby(["optimizer.momentum", "batch_size", "optimizer.lr"], dropna=False):
                for shape, found in errors.items():
                    found.append(
                        cell["loss"].mean() / exact_loss(cell.iloc[0], shape)(cell["optimizer.lr"].iloc[0]) - 1
                    )
            right, wrong = (float(np.sqrt(np.mean(np.square(errors[shape])))) for shape in (noise, other))
            assert right < 0.05, (name, noise)
            if name == "signsgd":
                assert wrong > 2 * right > 0, (name, noise)


def test_momentum_leaves_the_best_learning_rate_where_the_exact_one_is():
    """sweeps/momentum.csv, in units of torch's sum. With a batch 19 times as large it would lie 19 times higher."""
    frame = pd.read_csv(CSV.with_name("momentum.csv"))
    frame = frame[(frame["optimizer.name"] == "sgd") & frame["batch_size"].isin([16, 32, 64])]
    cells = [o for answer in analyse_runs("momentum", frame).groups for o in answer.optima]
    assert [(o.group["optimizer.momentum"], o.batch_size) for o in cells] == [
        (momentum, batch_size) for momentum in (0.0, 0.9) for batch_size in (16, 32, 64)
    ]
    for o in cells:
        exact = best_lr(exact_loss(row_of(frame, o)), low=o.lr / 2, high=min(1.9, o.lr * 2), per_octave=2)
        assert o.low <= exact <= o.high
        assert abs(o.lr / exact - 1) < 0.1


def test_the_recursion_is_the_closed_form_of_sgd():
    settings = {"h_D": np.array([0.7]), "batch_size": 5, "start": 2.0}
    lr, h = 0.3, 0.7
    quiet = sgd_loss(lr, variance_D=np.zeros(1), num_steps=9, **settings)
    assert quiet == pytest.approx(0.5 * h * (2.0 * (1 - lr * h) ** 9) ** 2)
    long = sgd_loss(lr, variance_D=np.array([3.0]), num_steps=2000, **settings)
    assert long == pytest.approx(0.5 * h * lr * (3.0 / 5) / (h * (2 - lr * h)))
    # heavy ball with torch's momentum, stationary: lr (1+m) var / (h (1-m) (2 (1+m) - lr h))
    m = 0.9
    heavy = sgd_loss(lr, variance_D=np.array([3.0]), num_steps=5000, momentum=m, **settings)
    assert heavy == pytest.approx(0.5 * lr * (1 + m) * (3.0 / 5) / ((1 - m) * (2 * (1 + m) - lr * h)), rel=1e-9)


def test_the_recursion_of_steps_is_that_of_the_loss():
    h_D, variance_D = quadratic(dimension=16, power=1.0, noise="isotropic", std=0.3)
    settings = {"h_D": h_D, "variance_D": variance_D, "batch_size": 4, "start": 1.0}
    steps, _ = sgd_steps(lr=0.2, target=0.3, **settings)
    before, after = (sgd_loss(0.2, num_steps=n, **settings) for n in (int(steps), int(steps) + 1))
    assert before > 0.3 >= after
    assert steps == pytest.approx(int(steps) + (before - 0.3) / (before - after))
    # greedy from w = 1: lr = (g.g + 0) / (g.H g + tr(Sigma H) / B) lowers the loss more than its neighbours do
    noise_scale = (h_D @ variance_D) / np.sum(h_D**3)
    lr = np.sum(h_D**2) / np.sum(h_D**3) / (1 + noise_scale / 4)
    losses = [sgd_loss(lr * factor, num_steps=1, **settings) for factor in (0.99, 1.0, 1.01)]
    assert losses[1] < min(losses[0], losses[2])
    steps, scale = sgd_steps(target=losses[1], **settings)
    assert (steps, scale) == (pytest.approx(1.0), pytest.approx(noise_scale))


@pytest.mark.parametrize("noise", SHAPES)
def test_greedy_steps_lie_on_a_hyperbola_where_the_noise_scale_depends_on_the_loss_alone(noise):
    """Then B_crit is the mean noise scale over the noise-free path: so it is, nearly, for noise like the curvature."""
    h_D, variance_D = quadratic(dimension=256, power=1.0, noise=noise, std=0.25)
    settings = {"h_D": h_D, "variance_D": variance_D, "start": 1.0, "target": 0.3}
    batch_sizes = 2.0 ** np.arange(0, 13)
    steps = np.array([sgd_steps(batch_size=b, **settings)[0] for b in batch_sizes])
    points = Points(batch_sizes[None], steps, np.ones(13), np.eye(13), np.nan)
    fit = fit_points(POINT_LAWS["hyperbola"], points)
    ratio = fit.params["critical_batch_size"].value / sgd_steps(batch_size=10**9, **settings)[1]
    if noise == "proportional":
        assert np.abs(fit.residuals).max() < 0.03
        assert ratio == pytest.approx(1.0, abs=0.03)
    else:
        assert np.abs(fit.residuals).max() > 0.2
        assert ratio > 2


def test_steps_to_a_target_are_the_exact_ones_where_they_are_few():
    """At large batches, where the loss of a run hardly scatters. At small ones a run meets its target before E loss
    does if the noise is proportional to the curvature: in plain simulation after 523 steps in place of 810 at batch
    size 4 and lr .25.
    """
    frame = pd.read_csv(CSV.with_name("steps_to_target.csv"))
    frame = frame[(frame["task.noise"] == "isotropic") & (frame["batch_size"] >= 64)]
    (answer,) = analyse_runs("steps_to_target", frame).groups
    h_D, variance_D = quadratic(dimension=256, power=1.0, noise="isotropic", std=0.25)
    settings = {"h_D": h_D, "variance_D": variance_D, "start": 1.0, "target": 0.3}
    for o in answer.optima:
        rates = sorted(frame["optimizer.lr"].unique())
        exact = min(sgd_steps(lr=lr, batch_size=o.batch_size, **settings)[0] for lr in rates)
        assert o.loss == pytest.approx(np.log(exact), abs=0.05)


def test_the_lattice_is_the_closed_form_of_signsgd():
    settings = {"h_D": np.array([0.7]), "variance_D": np.array([3.0]), "batch_size": 5, "start": 2.0}
    down = norm.cdf(0.7 * 2.0 * (5 / 3) ** 0.5)
    once = signsgd_loss(0.3, num_steps=1, **settings)
    assert once == pytest.approx(0.35 * (down * 1.7**2 + (1 - down) * 2.3**2))


@pytest.mark.parametrize("name", ["momentum", "sign"])
def test_the_exact_losses_are_those_of_plain_simulation(name):
    h_D, variance_D = quadratic(dimension=4, power=1.0, noise="proportional", std=1.5)
    rng = np.random.default_rng(0)
    w, m = np.ones((200_000, 4)), np.zeros((200_000, 4))
    lr, num_steps = 0.1, 12
    for t in range(num_steps):
        gradient = h_D * w + rng.standard_normal(w.shape) * np.sqrt(variance_D / 3)
        m = 0.6 * m + gradient
        w = w - lr * ((1 - t / num_steps) * m if name == "momentum" else np.sign(gradient))
    losses = 0.5 * (h_D * w**2).sum(1)
    settings = {"h_D": h_D, "variance_D": variance_D, "batch_size": 3, "num_steps": num_steps, "start": 1.0}
    if name == "momentum":
        exact = sgd_loss(lr, momentum=0.6, multiplier=lambda t, T: 1 - t / T, **settings)
    else:
        exact = signsgd_loss(lr, **settings)
    assert abs(losses.mean() - exact) < 4 * losses.std() / 200_000**0.5
