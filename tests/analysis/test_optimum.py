"""Oracle: closed form (a cubic's own minimum) and planted truth (curves with a known minimum, coverage)."""

import numpy as np
import pandas as pd
import pytest
from planting import BATCH_SIZES, SPACING, curve, plant_losses, plant_shifts, plant_table

from analysis.cells import Cell
from analysis.local_fit import fit_minimum, smooth_variances
from analysis.locate import locate
from analysis.optimum import estimate_group, find_optima
from analysis.runs import tidy_runs


def make_cell(losses: np.ndarray, x_L: np.ndarray, batch_size: int = 8) -> Cell:
    return Cell(batch_size, {}, x_L, losses, losses.size, "")


def optima_of(frame: pd.DataFrame) -> list:
    return find_optima(tidy_runs(frame))


def test_cubic_finds_the_minimum_of_a_cubic_exactly():
    x = np.arange(5) * SPACING - 7
    z = x + 5.3
    minimum = fit_minimum(x, (2 + 0.03 * z**2 + 0.004 * z**3)[:, None], degree=3)
    assert minimum.x == pytest.approx(-5.3, abs=1e-9)
    assert minimum.loss == pytest.approx(2, abs=1e-12)
    assert minimum.curvature == pytest.approx(0.06, rel=1e-9)


@pytest.mark.parametrize("offset", np.linspace(-0.5, 0.5, 5))
def test_cubic_has_little_bias_on_a_skewed_curve_where_a_parabola_has_much(offset):
    x = np.arange(5) * SPACING
    truth = x[2] + offset * SPACING
    losses = curve(x - truth)[:, None]
    assert abs(fit_minimum(x, losses, degree=3).x - truth) < 0.05
    if abs(offset) < 0.3:
        assert abs(fit_minimum(x, losses, degree=2).x - truth) > 0.1


def test_shifts_of_seeds_are_the_shifts_that_were_planted():
    x = np.arange(5) * SPACING
    planted = np.array([0.02, -0.03, 0.01])
    losses = 0.03 * (x[:, None] - 1.6 - planted) ** 2 + np.array([0.1, 0.0, -0.2])
    minimum = fit_minimum(x, losses, degree=3)
    assert minimum.shifts == pytest.approx(planted - planted.mean(), abs=1e-9)


def test_smoothing_recovers_a_trend_and_clips_an_outlier():
    batch_sizes = np.array(BATCH_SIZES, dtype=float)
    truth = 0.02 * (batch_sizes / 64) ** -0.4
    assert smooth_variances(batch_sizes, truth, np.ones(8)) == pytest.approx(truth, rel=1e-6)
    assert smooth_variances(batch_sizes, np.r_[truth[:-1], 100.0], np.ones(8)).max() < 0.2
    rng = np.random.default_rng(0)
    ratios = [smooth_variances(batch_sizes, truth * rng.chisquare(1, 8), np.ones(8)) / truth for _ in range(400)]
    assert 0.8 < np.mean(ratios) < 1.3  # a mean of logs would give .28


def measure_coverage(num_seeds, batch_sizes, num_tables):
    """Share of planted optima inside their interval, by cell, and the mean half-width in octaves."""
    rng = np.random.default_rng(num_seeds)
    x_L = np.arange(12) * SPACING - 9.5
    hits, widths = [], []
    for _ in range(num_tables):
        truths = np.linspace(-7.3, -3.2, len(batch_sizes)) + rng.uniform(-0.4, 0.4)
        shifts = plant_shifts(rng, num_seeds, len(batch_sizes))
        cells = [
            make_cell(plant_losses(x_L, truth, own, rng), x_L, batch_size)
            for truth, own, batch_size in zip(truths, shifts, batch_sizes, strict=True)
        ]
        optima = estimate_group([locate(cell) for cell in cells])
        hits.append([np.log2(o.low) <= x <= np.log2(o.high) for o, x in zip(optima, truths, strict=True)])
        widths.append([np.log2(o.high / o.low) / 2 for o in optima])
    return np.mean(hits, axis=0), float(np.mean(widths))


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_intervals_cover_the_planted_optimum(num_seeds):
    coverage, half_width = measure_coverage(num_seeds, BATCH_SIZES, 200)
    print(f"{num_seeds} seeds: {coverage.mean():.3f}, worst {coverage.min():.3f}, half-width {half_width:.3f}")
    assert 0.93 <= coverage.mean() <= 0.99
    assert coverage.min() >= 0.88


@pytest.mark.parametrize("num_cells", [1, 2, 3, 4])
@pytest.mark.parametrize("num_seeds", [2, 3])
def test_intervals_of_few_cells_cover_at_least_as_often(num_seeds, num_cells):
    coverage, half_width = measure_coverage(num_seeds, BATCH_SIZES[:num_cells], 60)
    print(f"{num_seeds} seeds, {num_cells} cells: {coverage.mean():.3f}, half-width {half_width:.3f}")
    assert coverage.mean() >= 0.93


def test_every_planted_optimum_is_inside_its_interval_in_a_whole_table():
    optima = optima_of(plant_table(lambda b: 0.002 * b**0.5))
    assert [o.batch_size for o in optima] == list(BATCH_SIZES)
    assert all(o.status == "interior" and o.low < 0.002 * o.batch_size**0.5 < o.high for o in optima)
    assert all(o.num_runs == 39 for o in optima)


@pytest.mark.parametrize(
    ("where", "status", "way"),
    [(2.0**-11.2, "edge_low", "down"), (2.0**-1.9, "edge_high", "up"), (2.0**-2.8, "edge_high", "up")],
)
def test_an_optimum_at_the_end_of_the_grid_is_an_edge_and_says_where_to_go(where, status, way):
    for o in optima_of(plant_table(lambda b: where, sd=0.01)):
        assert o.status == status
        assert f"extend it {way} to" in o.note
        assert np.isnan(o.low)


def test_following_the_advice_at_an_edge_gives_an_interior_optimum():
    lrs = [2.0 ** (-11 + SPACING * i) for i in range(13)]
    assert all(o.status == "edge_high" for o in optima_of(plant_table(lambda b: 2.0**-1.9, lrs=lrs, sd=0.01)))
    longer = lrs + [lrs[-1] * 2 ** (SPACING * k) for k in (1, 2, 3)]
    assert all(o.status == "interior" for o in optima_of(plant_table(lambda b: 2.0**-1.9, lrs=longer, sd=0.01)))


@pytest.mark.parametrize("wall", [30.0, 1e4])
def test_a_wall_of_runs_that_broke_with_a_finite_loss_is_no_part_of_the_curve(wall):
    x = np.arange(-9.0, -1.0, 0.75)
    losses = np.repeat(2.0 + 0.05 * (x[:, None] + 4.0) ** 2, 2, axis=1)
    losses[x > -3.0] = wall
    (optimum,) = estimate_group([locate(make_cell(losses, x))])
    assert optimum.status == "interior"
    assert abs(np.log2(optimum.lr) + 4.0) < 0.05
    assert optimum.loss == pytest.approx(2.0, abs=0.01)


def test_divergence_bounds_the_window_and_never_wins():
    frame = plant_table(lambda b: 2.0**-5, sd=0.02)
    bad = (frame["optimizer.lr"] > 2**-4) & (frame["seed"] == 1)
    frame.loc[bad, "loss"], frame.loc[bad, "status"] = np.nan, "diverged"
    for o in optima_of(frame):
        assert o.status == "interior"
        assert abs(np.log2(o.lr) + 5) < 0.15


def test_an_optimum_next_to_divergence_asks_for_a_finer_grid():
    frame = plant_table(lambda b: 2.0**-4, sd=0.02)
    bad = frame["optimizer.lr"] > 2**-4.5
    frame.loc[bad, "loss"], frame.loc[bad, "status"] = np.nan, "diverged"
    for o in optima_of(frame):
        assert o.status == "edge_high"
        assert "diverged at lr" in o.note
        assert "add learning rates between" in o.note


def test_noise_that_hides_the_minimum_makes_the_cell_flat():
    rng = np.random.default_rng(0)
    x_L = np.arange(7) * SPACING
    cells = [
        make_cell(2 + 0.05 * rng.normal(size=(7, 2)) + 1e-3 * (x_L[:, None] - 2.2) ** 2, x_L, b) for b in BATCH_SIZES
    ]
    statuses = [o.status for o in estimate_group([locate(cell) for cell in cells])]
    assert "interior" not in statuses
    assert "flat" in statuses


def test_one_seed_has_no_interval_and_says_so():
    for o in optima_of(plant_table(lambda b: 0.002 * b**0.5, num_seeds=1)):
        assert o.status == "interior"
        assert np.isnan([o.low, o.high, o.sd_log2]).all()
        assert "not calibrated: one seed" in o.note


@pytest.mark.parametrize("count", [3, 4])
def test_three_or_four_learning_rates_give_a_parabola(count):
    lrs = [2.0 ** (-6 + k) for k in range(count)]
    for o in optima_of(plant_table(lambda b: 2.0**-4.9, lrs=lrs, sd=0.02)):
        assert o.status == "interior"
        assert abs(np.log2(o.lr) + 4.9) < 0.35
        assert "parabola" in o.note


def test_two_learning_rates_are_refused():
    with pytest.raises(ValueError, match="at least 3 learning rates"):
        optima_of(plant_table(lambda b: 0.01, lrs=[0.01, 0.02]))


def test_a_seed_with_few_runs_is_left_out_and_counted():
    frame = plant_table(lambda b: 2.0**-6, num_seeds=3)
    frame = frame[(frame["seed"] < 2) | (frame["optimizer.lr"] < 2**-10)]
    for o in optima_of(frame):
        assert o.num_runs == 26
        assert "2 runs whose learning rate lacks another seed are not used" in o.note


def test_a_cell_with_two_learning_rates_beside_good_ones_says_so():
    frame = plant_table(lambda b: 2.0**-6)
    frame = frame[(frame["batch_size"] != 64) | (frame["optimizer.lr"] < 2**-10)]
    (poor,) = (o for o in optima_of(frame) if o.batch_size == 64)
    assert poor.status == "flat"
    assert "2 learning rates do not locate an optimum" in poor.note


def test_the_optimum_of_a_skewed_curve_is_not_biased():
    rng = np.random.default_rng(0)
    x_L = np.arange(12) * SPACING - 9.5
    truths = np.linspace(-7.3, -3.2, 23)
    cells = [make_cell(plant_losses(x_L, x, np.zeros(2), rng, iid=0), x_L) for x in truths]
    found = np.log2([o.lr for o in estimate_group([locate(cell) for cell in cells])])
    assert np.abs(found - truths).max() < 0.05


@pytest.mark.parametrize(("num_seeds", "num_cells"), [(2, 8), (3, 8), (4, 5)])
def test_degrees_of_freedom_are_those_that_were_calibrated(num_seeds, num_cells):
    # three quarters of the seeds' own, since they are shared between cells, less one for the trend
    frame = plant_table(lambda b: 0.01, num_seeds=num_seeds, batch_sizes=[2 ** (3 + i) for i in range(num_cells)])
    for optimum in find_optima(tidy_runs(frame)):
        assert optimum.dof == 0.75 * num_cells * (num_seeds - 1) - 1


def test_seeds_whose_losses_are_all_the_same_count_as_one():
    frame = plant_table(lambda b: 0.01, num_seeds=1)
    for o in optima_of(pd.concat([frame, frame.assign(seed=1)], ignore_index=True)):
        assert np.isnan([o.low, o.high, o.sd_log2]).all()
        assert "not calibrated: one seed" in o.note
        assert "all 2 seeds have exactly the same losses" in o.note
