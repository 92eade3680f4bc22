"""Oracle: generalised least squares in closed form, and planted runs that are really added."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.analyse import GroupAnswer
from analysis.fit import compare, fit_law
from analysis.laws import LAWS
from analysis.next_runs import Cells, add_cell, add_seeds, cost_run, expect_half, propose_runs, read_cells
from analysis.optimum import find_optima
from analysis.runs import tidy_runs
from tests.analysis.planting import BATCH_SIZES, plant_table

SIZES = np.array([float(b) for b in BATCH_SIZES])


def root(batch_size):
    return 0.002 * batch_size**0.5


def plant(num_seeds, seed=0, batch_sizes=BATCH_SIZES):
    return plant_table(root, num_seeds=num_seeds, seed=seed, batch_sizes=batch_sizes)


def make_cells(variance, floor):
    return Cells(
        SIZES, np.full(8, 2.0), np.full(8, variance), np.full(8, floor), np.eye(8) * (variance / 2 + floor),
        0.0, 0.0, 12.0,
    )  # fmt: skip


def locate_all(frame):
    return find_optima(tidy_runs(frame, "s"))


def power_of(frame):
    return [fit_law(LAWS["power"], locate_all(frame))]


def test_half_widths_are_those_of_weighted_regression():
    fits = power_of(plant(3))
    widen = max(1.0, fits[0].chi2 / fits[0].dof) ** 0.5
    variance, floor, asked = 0.02, 0.001, 4096

    def by_hand(sizes, variances, dof):
        design = np.stack([np.ones(len(sizes)), np.log2(sizes)], axis=1)
        inverse = np.linalg.inv(design.T @ (design / np.array(variances)[:, None]))
        at = np.array([1.0, np.log2(asked)])
        return stats.t.ppf(0.975, dof) * widen * np.sqrt(at @ inverse @ at)

    cells = make_cells(variance, floor)
    each = [variance / 2 + floor] * 8
    assert expect_half(fits, cells, asked) == pytest.approx(by_hand(SIZES, each, 12.0), rel=1e-4)
    seeded = [*each[:-1], variance / 4 + floor]
    assert expect_half(fits, add_seeds(cells, 7), asked) == pytest.approx(by_hand(SIZES, seeded, 13.5), rel=1e-4)
    grown = by_hand([*SIZES, 2048], [*each, each[0]], 12.75)
    assert expect_half(fits, add_cell(cells, 2048), asked, new=True) == pytest.approx(grown, rel=1e-4)


def test_what_is_expected_is_what_runs_that_are_really_added_bring():
    ratios = []
    for seed in range(6):
        few, many = plant(2, seed), plant(4, seed + 50)
        cells = read_cells(locate_all(few), few)
        expected = expect_half(power_of(few), add_seeds(cells, 7), 4096)
        more = many[(many["batch_size"] == 1024) & (many["seed"] >= 2)]
        both = pd.concat([few, more.assign(loss=more["loss"] + 0.01)], ignore_index=True)
        found = expect_half(power_of(both), read_cells(locate_all(both), both), 4096)
        ratios.append(found / expected)
    assert np.median(ratios) == pytest.approx(1, rel=0.3)


def test_the_cells_taken_apart_are_those_of_the_optima():
    frame = plant(3)
    optima = locate_all(frame)
    cells = read_cells(optima, frame)
    whole = cells.variance_C / cells.num_seeds_C + cells.floor_C
    assert whole == pytest.approx([o.sd_log2**2 for o in optima], rel=1e-9)


def test_far_out_the_asked_batch_size_itself_gains_most_and_costs_are_told():
    frame = plant(3)
    optima = locate_all(frame)
    fits = [fit_law(LAWS[name], optima) for name in ("sqrt", "power")]
    answer = GroupAnswer({}, tuple(optima), tuple(fits), compare(fits), ())
    now, found = propose_runs(answer, frame, 16384, {"sqrt": 0.1, "power": 0.3})
    assert now == pytest.approx(0.3 / np.log(2), rel=0.1)
    first = found[0]
    assert first.text.startswith("batch size 16384, new")
    assert (first.num_runs, first.cost) == (21, pytest.approx(21 * 32768))
    assert first.half < now
    gains = [(now - runs.half) / runs.cost for runs in found]
    assert gains == sorted(gains, reverse=True)
    near = [runs for runs in found if runs.text.endswith("at batch size 1024")]
    far = [runs for runs in found if runs.text.endswith("at batch size 64")]
    assert near[0].half < far[0].half  # a lever is longest at its end
    assert near[0].num_runs == 26


def test_costs_follow_the_protocol():
    steps = plant(2).assign(num_samples=lambda f: 100 * f["batch_size"])
    assert cost_run(steps, 4096.0) == pytest.approx(409600)
    assert np.isnan(cost_run(steps.drop(columns="num_samples"), 8.0))
