"""Oracle: closed form (an exact hyperbola's definitions lie at .2, 1 and 4 B_crit) and planted truth."""

import io

import numpy as np
import pytest
from rich.console import Console

from analysis.analyse import analyse_runs, to_json
from analysis.claims import check_hyperbola, read_measured
from analysis.critical_batch import measure_critical_batch
from analysis.local_fit import fit_minimum
from analysis.optimum import Optimum
from analysis.report import print_report
from analysis.runs import tidy_runs
from tests.analysis.planting import plant_table

BATCH_SIZES = 2 ** np.arange(2, 12)
STEPS_MIN, CRITICAL = 300.0, 100.0
FACTORS = {"corner": 1.0, "twice_steps": 1.0, "overhead_20": 0.2, "doubling_10": 4.0}


def plant_optima(rng, sharpness=1.0, sd=0.03, num_seeds=3, shared=0.5):
    """Cells whose ln steps scatter over seeds, in part for all batch sizes alike."""
    ratio = CRITICAL / BATCH_SIZES
    level = np.log(STEPS_MIN) + np.log1p(ratio**sharpness) / sharpness
    common = rng.normal(size=(1, num_seeds))
    own = rng.normal(size=(len(BATCH_SIZES), num_seeds))
    steps = level[:, None] + sd * (np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
    mean = steps.mean(axis=1)
    return [
        Optimum(
            int(b), 0.01, 0.009, 0.011, "interior", 24, m, 0.1, 50.0, {}, seeds=tuple(range(num_seeds)),
            lifts=tuple(row - m),
        )
        for b, m, row in zip(BATCH_SIZES, mean, steps, strict=True)
    ]  # fmt: skip


def plant_steps(seed=0, **changed):
    frame = plant_table(lambda b: 0.002 * b**0.5, seed=seed)
    level = np.log(STEPS_MIN) + np.log1p(CRITICAL / frame["batch_size"])
    steps = np.exp(level + (frame["loss"] - 2.0))
    return frame.assign(protocol="steps_to_target", steps_to_target=steps, target_loss=2.0, max_steps=1e6, **changed)


def test_definitions_on_an_exact_hyperbola_lie_where_algebra_puts_them():
    found = measure_critical_batch(plant_optima(np.random.default_rng(0), sd=1e-9))
    for reading in found.readings:
        for law, estimate in reading.by_law.items():
            assert estimate.value == pytest.approx(FACTORS[reading.name] * CRITICAL, rel=1e-4), (reading.name, law)
    # straight lines between points an octave apart are a little above a convex curve
    by_name = {reading.name: reading.from_points for reading in found.readings}
    assert np.isnan(by_name.pop("corner"))
    for name, value in by_name.items():
        assert value == pytest.approx(FACTORS[name] * CRITICAL, rel=0.25), name


def test_intervals_of_the_hyperbola_cover():
    rng, hits = np.random.default_rng(1), []
    for _ in range(100):
        fit = measure_critical_batch(plant_optima(rng)).fits[0]
        low, high = ([getattr(fit.params[p], side) for p in fit.law.parameters] for side in ("low", "high"))
        truth = [STEPS_MIN, CRITICAL]
        hits.append([a <= v <= b for a, v, b in zip(low, truth, high, strict=True)])
    assert (np.mean(hits, axis=0) >= 0.88).all(), np.mean(hits, axis=0)
    assert (np.mean(hits, axis=0) <= 0.995).all(), np.mean(hits, axis=0)


def test_a_free_corner_is_found_and_else_not_separable():
    rng = np.random.default_rng(2)
    sharp = measure_critical_batch(plant_optima(rng, sharpness=2.0))
    assert "refuted" in sharp.text
    estimate = sharp.fits[1].params["sharpness"]
    assert estimate.low <= 2.0 <= estimate.high
    assert "not separable" in measure_critical_batch(plant_optima(rng)).text


def test_a_table_of_steps_prints_and_keeps_its_critical_batch_size():
    analysis = analyse_runs("s", plant_steps())
    (answer,) = analysis.groups
    fit = answer.critical_batch.fits[0]
    assert fit.params["critical_batch_size"].low <= CRITICAL <= fit.params["critical_batch_size"].high
    assert fit.params["critical_batch_size"].value == pytest.approx(CRITICAL, rel=0.05)
    entries = {entry["law"]: entry for entry in to_json(analysis)["fits"]}
    assert entries["hyperbola"]["critical_batch_size"]["overhead_20"]["value"] == pytest.approx(20, rel=0.05)
    text = io.StringIO()
    print_report(analysis, Console(file=text, width=200))
    assert "B_crit as overhead_20 (samples 20 % above E_min): hyperbola 2" in text.getvalue()


def test_losses_have_no_critical_batch_size_and_few_cells_are_refused():
    assert analyse_runs("s", plant_table(lambda b: 0.002 * b**0.5)).groups[0].critical_batch is None
    frame = plant_steps()
    few = analyse_runs("s", frame[frame["batch_size"] <= 32]).groups[0].critical_batch
    assert few.fits[0].refused == "2 parameters need at least 4 points; there are 3"
    assert few.readings == ()


def test_one_seed_takes_the_error_from_the_misfit():
    frame = plant_steps()
    found = analyse_runs("s", frame[frame["seed"] == 0]).groups[0].critical_batch
    assert np.isnan(found.fits[0].chi2)
    assert found.fits[0].params["critical_batch_size"].value == pytest.approx(CRITICAL, rel=0.1)


def test_a_seed_that_is_higher_everywhere_lifts_the_minimum_by_as_much():
    x = np.arange(-2.0, 3.0)
    levels = np.array([0.3, -0.1, -0.2])
    found = fit_minimum(x, (x[:, None] - 0.2) ** 2 + levels, degree=3)
    assert found.lifts == pytest.approx(levels)


@pytest.mark.parametrize(
    ("sharpness", "sd", "verdict"),
    [(1.0, 0.03, "confirmed"), (2.0, 0.03, "refuted"), (0.5, 0.03, "refuted"), (1.0, 0.5, "inconclusive")],
)
def test_the_hyperbola_is_judged_by_its_corner(sharpness, sd, verdict):
    optima = plant_optima(np.random.default_rng(3), sharpness, sd)
    found = check_hyperbola(tidy_runs(plant_steps()), optima)
    assert (found.claim, found.protocol, found.verdict) == ("hyperbola", "steps_to_target", verdict)
    assert found.numbers["low"] <= sharpness <= found.numbers["high"]
    assert read_measured(found)[0] == found.numbers["sharpness"]
    if sharpness == 1.0 and sd < 0.1:
        for name, factor in FACTORS.items():
            assert found.numbers[f"critical_batch_size_{name}"] == pytest.approx(factor * CRITICAL, rel=0.2)
        assert found.numbers["worst_residual"] < 0.06


def test_the_hyperbola_is_not_judged_by_losses_or_one_seed():
    losses = tidy_runs(plant_table(lambda b: 0.002 * b**0.5))
    assert check_hyperbola(losses, plant_optima(np.random.default_rng(3))) is None
    one = check_hyperbola(tidy_runs(plant_steps()), plant_optima(np.random.default_rng(3), num_seeds=1))
    assert (one.verdict, one.reason) == ("inconclusive", "one seed: the interval is not calibrated")
    few = check_hyperbola(tidy_runs(plant_steps()), plant_optima(np.random.default_rng(3))[:4])
    assert "needs at least" in few.reason or "need at least" in few.reason
