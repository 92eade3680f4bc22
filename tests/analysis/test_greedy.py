"""Oracle: tests/reference/quadratic.py, a recursion written one batch size at a time; the task itself."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from analysis.analyse import analyse_runs, to_json
from analysis.claims import read_measured
from analysis.figures.steps_examples import draw_steps_examples
from analysis.figures.style import PALETTE
from analysis.fit_points import Points, fit_points
from analysis.greedy import check_greedy, measure_greedy
from analysis.laws.greedy import SHAPES, greedy_steps, quadratic_scales
from analysis.laws.sizes import POINT_LAWS
from analysis.report import print_report
from harness.config import SWEEPS_DIR
from harness.tasks.noisy_quadratic import draw_noise, spectrum
from tests.reference.quadratic import quadratic, sgd_steps

QUADRATIC = {"dimension": 24, "power": 1.2, "std": 0.4}
TARGET = 0.2


@pytest.fixture(scope="module")
def table():
    frame = pd.read_csv(SWEEPS_DIR / "steps_to_target.csv")
    return frame[frame["task.name"] == "noisy_quadratic"]


@pytest.fixture(scope="module")
def analysis(table):
    return analyse_runs("steps_to_target", table)


@pytest.mark.parametrize("noise", SHAPES)
def test_scales_are_those_of_the_samples_that_the_task_draws(noise):
    h_D, variance_D = quadratic_scales(**QUADRATIC, noise=noise)
    np.testing.assert_allclose(h_D, spectrum(QUADRATIC["dimension"], QUADRATIC["power"]))
    task = {**QUADRATIC, "noise": noise, "correlation": 0.5}
    drawn = draw_noise(task, h_D, 0, 0, 40_000).var(axis=0)
    np.testing.assert_allclose(variance_D, drawn, rtol=0.05)
    assert variance_D.sum() == pytest.approx(QUADRATIC["dimension"] * QUADRATIC["std"] ** 2)


@pytest.mark.parametrize("noise", SHAPES)
def test_steps_and_mean_noise_scales_are_those_of_the_reference(noise):
    h_D, variance_D = quadratic(**QUADRATIC, noise=noise)
    sizes = np.array([1, 2, 7, 64, 1000])
    own = dict(zip(("curvature_D", "variance_D"), quadratic_scales(**QUADRATIC, noise=noise), strict=True))
    steps, scales = greedy_steps(sizes, **own, start=1.5, target=TARGET)
    expected = [sgd_steps(h_D=h_D, variance_D=variance_D, batch_size=b, start=1.5, target=TARGET) for b in sizes]
    np.testing.assert_allclose(steps, [each[0] for each in expected], rtol=1e-10)
    np.testing.assert_allclose(scales, [each[1] for each in expected], rtol=1e-10)


def test_one_step_at_one_curvature_is_that_of_algebra():
    """H = h I: a step takes the loss to (B_noise/B) / (1 + B_noise/B) of what it was."""
    h_D, variance_D = np.full(8, 0.7), np.full(8, 0.5)
    noise_scale = variance_D.sum() / (0.7**2 * 8 * 4.0)  # at the start, w = 2
    target = 0.5 * 8 * 0.7 * 4.0 * noise_scale / (1 + noise_scale) * (1 + 1e-9)  # rounding takes no second step
    (step,), (scale,) = greedy_steps([1.0], curvature_D=h_D, variance_D=variance_D, start=2.0, target=target)
    assert (step, scale) == (pytest.approx(1.0), pytest.approx(noise_scale))


def test_what_does_not_arrive_is_infinite_and_a_target_above_the_start_is_told():
    known = {"curvature_D": np.ones(2), "variance_D": np.ones(2), "start": 1.0}
    steps, scales = greedy_steps([1, 1000], **known, target=1e-2, max_steps=20)
    assert np.isinf(steps[0])
    assert np.isnan(scales[0])
    assert steps[1] < 2
    with pytest.raises(ValueError, match="is at the target 3 already"):
        greedy_steps([1], **known, target=3.0)
    with pytest.raises(ValueError, match="task.noise='pink' is not one of isotropic"):
        quadratic_scales(dimension=2, power=1.0, noise="pink", std=1.0)


@pytest.mark.parametrize(
    ("noise", "verdict", "ratio"), [("isotropic", "refuted", 2.9), ("proportional", "confirmed", 1.09)]
)
def test_the_committed_sweeps_greedy_arm_is_the_references(analysis, noise, verdict, ratio):
    (answer,) = [each for each in analysis.groups if each.group["task.noise"] == noise]
    h_D, variance_D = quadratic(dimension=256, power=1.0, noise=noise, std=0.25)
    known = {"h_D": h_D, "variance_D": variance_D, "start": 1.0, "target": 0.3}
    assert list(answer.greedy.batch_sizes) == [2.0**k for k in range(10)]
    for i in (0, 5, 9):
        steps, scale = sgd_steps(batch_size=2**i, **known)
        assert (answer.greedy.steps[i], answer.greedy.noise_scales[i]) == (pytest.approx(steps), pytest.approx(scale))
    assert answer.greedy.noise_scale == pytest.approx(sgd_steps(batch_size=10**9, **known)[1], rel=1e-5)
    found = {each.claim: each for each in answer.verdicts}
    assert found["hyperbola"].verdict == "refuted"
    assert found["hyperbola-greedy"].verdict == verdict
    numbers = found["hyperbola-greedy"].numbers
    assert read_measured(found["hyperbola-greedy"]) == (numbers["sharpness"], numbers["low"], numbers["high"])
    assert numbers["critical_over_noise_scale"] == pytest.approx(ratio, rel=0.03)
    samples = answer.greedy.steps * answer.greedy.batch_sizes  # the hyperbola in its product form, at both ends
    product = (answer.greedy.steps / numbers["steps_min"] - 1) * (
        samples / numbers["steps_min"] / numbers["critical_batch_size_corner"] - 1
    )
    assert (np.abs(product[3:7] - 1).max() < 0.1) == (verdict == "confirmed")


@pytest.mark.parametrize(
    "changed",
    [{"optimizer.name": "signsgd"}, {"optimizer.momentum": 0.9}, {"optimizer.weight_decay": 0.1},
     {"task.coupling": 0.3}, {"task.name": "random_walk"}, {"task.std": np.nan}, {"protocol": "fixed_steps"}],
)  # fmt: skip
def test_what_it_is_not_exact_for_has_none(table, changed):
    rows = table[table["task.noise"] == "isotropic"]
    assert measure_greedy(rows) is not None
    assert measure_greedy(rows.assign(**{"task.coupling": np.nan, "optimizer.momentum": 0.0})) is not None
    assert measure_greedy(rows.assign(**changed)) is None


def test_few_batch_sizes_have_none(table):
    rows = table[(table["task.noise"] == "isotropic") & (table["batch_size"] <= 8)]
    assert measure_greedy(rows) is None


def test_it_stands_in_json_report_and_figure(analysis):
    (entry, other) = to_json(analysis)["greedy"]
    assert (entry["task.noise"], other["task.noise"]) == ("isotropic", "proportional")
    answer = analysis.groups[0]
    np.testing.assert_allclose(entry["steps"], answer.greedy.steps, rtol=1e-8)
    assert set(entry["fits"]["hyperbola_power"]) >= {"critical_batch_size", "sharpness", "rmse_log"}
    text = io.StringIO()
    print_report(analysis, Console(file=text, width=200))
    assert text.getvalue().count("greedy learning rate, exact: B_crit") == 2
    left, right = draw_steps_examples(analysis).axes[:2]
    for ax, y in ((left, answer.greedy.steps), (right, answer.greedy.steps * answer.greedy.batch_sizes)):
        (line,) = [line for line in ax.lines if line.get_color() == PALETTE[2]]
        np.testing.assert_allclose(line.get_ydata(), y)
        assert ax.get_ylim()[0] < y.min() < y.max() < ax.get_ylim()[1]
    labels = [label.get_text() for label in right.get_legend().get_texts()]
    assert "mean B_noise over steps 32.8" in labels[2]


def test_a_corner_between_is_inconclusive(analysis):
    found = analysis.groups[0].greedy
    sizes = found.batch_sizes
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"batch_size": sizes, "steps": 30 * (1 + (80 / sizes) ** 1.4) ** (1 / 1.4)})
    frame["steps"] *= np.exp(0.15 * rng.normal(size=len(sizes)))
    points = Points(sizes[None], frame["steps"].to_numpy(), np.ones(len(sizes)), np.eye(len(sizes)), np.nan)
    fits = tuple(fit_points(POINT_LAWS[name], points) for name in ("hyperbola", "hyperbola_power"))
    verdict = check_greedy(replace(found, fits=fits), {})
    assert (verdict.verdict, verdict.reason) == ("inconclusive", "the interval of the misfit reaches both")
