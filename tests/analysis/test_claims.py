"""Oracle: planted truth (tables whose exponent is known) and the rule that the claim states."""

import numpy as np
import pytest
from planting import plant_table

from analysis.claims import CLAIMS, check_claims, judge
from analysis.laws import read_section
from analysis.optimum import find_optima
from analysis.runs import tidy_runs


def verdicts_of(frame):
    runs = tidy_runs(frame)
    return check_claims(runs, find_optima(runs))


@pytest.mark.parametrize("check", CLAIMS.values(), ids=CLAIMS)
def test_claim_is_documented(check):
    assert read_section(check, "Valid when")
    assert read_section(check, "Source")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (0.4, 0.6, "confirmed"),
        (0.51, 0.55, "refuted"),
        (0.3, 1.2, "inconclusive"),
        (0.4, np.nan, "inconclusive"),
    ],
)
def test_rule(low, high, verdict):
    assert judge(low, high, 0.5, 1.0)[0] == verdict


@pytest.mark.parametrize(
    ("optimizer", "exponent", "verdict"),
    [
        ("adam", 0.5, "confirmed"),
        ("adam", 0.8, "refuted"),
        ("sgd", 1.0, "confirmed"),
        ("sgd", 0.5, "refuted"),
    ],
)
def test_sde_slope(optimizer, exponent, verdict):
    frame = plant_table(
        lambda b: 0.03 * (b / 64) ** exponent, sd=0.03, lrs=[2.0 ** (-12 + 0.75 * i) for i in range(16)]
    )
    frame["optimizer.name"] = optimizer
    (found,) = verdicts_of(frame)
    assert found.verdict == verdict
    predicted = 1.0 if optimizer == "sgd" else 0.5
    assert found.numbers["predicted"] == predicted
    assert found.numbers["exponent"] == pytest.approx(exponent, abs=0.05)
    assert found.numbers["deviation"] == pytest.approx(found.numbers["exponent"] - predicted)


def test_batch_sizes_with_few_steps_take_no_part():
    frame = plant_table(lambda b: 0.03 * (min(b, 256) / 64) ** 0.5, sd=0.03)
    (found,) = verdicts_of(frame)
    assert found.verdict == "confirmed"
    assert found.numbers["max_batch_size"] == 256
    assert found.numbers["num_cells"] == 6


@pytest.mark.parametrize("noise_scale", [30.0, 1000.0])
def test_cells_beyond_a_quarter_of_the_noise_scale_take_no_part(noise_scale):
    batch_sizes = [2**k for k in range(1, 11)]
    lrs = [2.0 ** (-13 + 0.75 * i) for i in range(20)]
    frame = plant_table(lambda b: 1 / (1 + noise_scale / b), sd=0.02, lrs=lrs, batch_sizes=batch_sizes)
    frame["optimizer.name"], frame["num_steps"] = "sgd", 1024
    (found,) = verdicts_of(frame)
    assert found.numbers["noise_scale"] == pytest.approx(noise_scale, rel=0.2)
    if noise_scale == 1000.0:
        assert found.numbers["max_batch_size"] == 128
        # the planted law's own slope falls from 1 to .89 there, and from 1 to .5 over all cells
        assert 0.89 < found.numbers["exponent"] < 1.0
    else:
        assert found.verdict == "inconclusive"
        assert found.numbers["num_cells"] == 2
        assert "run more of those" in found.reason


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("protocol", "fixed_steps"),
        ("optimizer.name", "lion"),
        ("optimizer.eps", 1e-2),
        ("optimizer.name", None),
    ],
)
def test_no_verdict_where_the_claim_does_not_speak(column, value):
    frame = plant_table(lambda b: 0.03 * (b / 64) ** 0.5, batch_sizes=(8, 16, 32, 64))
    frame[column] = value
    assert verdicts_of(frame) == []


def test_momentum_is_outside_the_claim_for_sgd():
    frame = plant_table(lambda b: 0.03 * (b / 64) ** 0.5, batch_sizes=(8, 16, 32, 64))
    frame["optimizer.name"], frame["optimizer.momentum"] = "sgd", 0.9
    assert verdicts_of(frame) == []


@pytest.mark.parametrize(("num_seeds", "batch_sizes"), [(1, (8, 16, 32, 64)), (3, (8, 16, 32))])
def test_one_seed_or_too_few_cells_are_inconclusive_with_a_reason(num_seeds, batch_sizes):
    (found,) = verdicts_of(plant_table(lambda b: 0.03 * (b / 64) ** 0.5, num_seeds=num_seeds, batch_sizes=batch_sizes))
    assert found.verdict == "inconclusive"
    assert found.reason
