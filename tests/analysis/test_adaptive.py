"""Oracle: planted optima with the loss curves and the noise of 12 real seeds, answered instead of trained."""

import numpy as np
import pandas as pd
import pytest
from scipy.interpolate import CubicSpline

from analysis.adaptive import SPACING, Point, Spot, estimate_spots, propose, surround
from analysis.optimum import find_optima
from analysis.runs import tidy_runs
from tests.analysis.planting import BATCH_SIZES, read_real_seeds

STEPS = [32768 // batch_size for batch_size in BATCH_SIZES]
DENSE = 24 * sum(STEPS)  # steps of 12 learning rates and 2 seeds in every cell
SPOTS = [Spot("", batch_size, steps) for batch_size, steps in zip(BATCH_SIZES, STEPS, strict=True)]


def plant_experiment(rng):
    """(spot, log2 lr, seed) -> loss, and the log2 lr of every spot's optimum."""
    x_L, curves, minima, residuals = read_real_seeds()
    noise = np.einsum("blk,ks->bls", residuals, rng.normal(size=(12, 10)))
    splines = [[CubicSpline(x_L, noise[b, :, s]) for s in range(10)] for b in range(len(BATCH_SIZES))]
    truth = np.log2(0.0018 * np.sqrt(BATCH_SIZES)) + rng.uniform(-0.375, 0.375)

    def loss(b, x, seed):
        at = x - truth[b] + minima[b]
        near = np.clip(at, x_L[0], x_L[-1])
        return float(curves[b](near) + (at - near) * curves[b](near, 1) + splines[b][seed](np.clip(x, x_L[0], x_L[-1])))

    return loss, truth


def answer(loss, spots=SPOTS, *, tol, budget=0.4 * DENSE, start=(2e-3, 8e-3, 3e-2), diverges=np.inf):
    """All rounds; returns the results and the number of rounds."""
    rows, rounds = [], 0
    while True:
        results = pd.DataFrame(rows, columns=["spot", "lr", "seed", "status", "loss", "protocol"])
        points = propose(spots, results, start=start, seeds=(0, 1), tol=tol, budget=budget)
        if not points:
            return results, rounds
        assert len(set(points)) == len(points)
        assert not set(points) & {Point(*row[:3]) for row in rows}, "no run is asked for twice"
        rounds += 1
        assert rounds < 60
        for spot, lr, seed in points:
            died = np.log2(lr) > diverges
            value = np.nan if died else loss(spot, np.log2(lr), seed)
            rows.append((spot, lr, seed, "diverged" if died else "done", value, "fixed_samples"))


def steps_of(results, spots=SPOTS):
    return sum(spots[spot].num_steps for spot in results["spot"])


def test_a_third_of_the_dense_grid_locates_every_cell_as_well():
    rng = np.random.default_rng(1)
    errors, shares, statuses = [], [], []
    for _ in range(8):
        loss, truth = plant_experiment(rng)
        results, _ = answer(loss, tol=10.0)
        optima = estimate_spots(SPOTS, results)
        errors += [np.log2(o.lr) - truth[BATCH_SIZES.index(o.batch_size)] for o in optima]
        statuses += [o.status for o in optima]
        shares.append(steps_of(results) / DENSE)
    assert statuses == ["interior"] * len(statuses)
    assert max(shares) <= 0.4
    assert np.mean(shares) < 0.34
    assert np.sqrt(np.mean(np.square(errors))) < 0.2  # the dense grid, with 2 seeds, errs by .15 to .16


def test_seeds_are_added_where_they_narrow_and_the_budget_holds():
    rng = np.random.default_rng(2)
    few, more = [], []
    for _ in range(6):
        loss, truth = plant_experiment(rng)
        for tol, errors in ((10.0, few), (0.1, more)):
            results, _ = answer(loss, tol=tol)
            errors += [
                np.log2(o.lr / 2 ** truth[BATCH_SIZES.index(o.batch_size)]) for o in estimate_spots(SPOTS, results)
            ]
            assert steps_of(results) <= 0.4 * DENSE
        assert results["seed"].max() > 1
    assert np.mean(np.square(more)) < np.mean(np.square(few))


def test_the_rounds_follow_from_the_results_alone():
    loss, _ = plant_experiment(np.random.default_rng(3))
    results, _ = answer(loss, tol=0.1)
    shuffled, _ = answer(loss, tol=0.1)
    pd.testing.assert_frame_equal(results, shuffled)
    assert propose(SPOTS, results.sample(frac=1, random_state=0), start=(2e-3, 8e-3, 3e-2), seeds=(0, 1), tol=0.1,
                   budget=0.4 * DENSE) == []  # fmt: skip


@pytest.mark.parametrize("start", [(1e-5, 2e-5), (0.5, 1.0)], ids=["far below", "far above"])
def test_a_start_far_off_is_extended_to_the_optimum(start):
    spots = [Spot("", 64, 100)]
    results, _ = answer(lambda spot, x, seed: (x + 7.3) ** 2 + 0.001 * seed, spots, tol=10.0, budget=1e9, start=start)
    (optimum,) = estimate_spots(spots, results)
    assert optimum.status == "interior"
    assert np.log2(optimum.lr) == pytest.approx(-7.3, abs=1e-6)


@pytest.mark.parametrize("wall", [-7.0, -6.9, -6.5])
def test_an_optimum_beside_divergence_is_bracketed_in_front_of_it(wall):
    spots = [Spot("", 64, 100)]
    results, rounds = answer(lambda spot, x, seed: (x + 7.3) ** 2, spots, tol=10.0, budget=1e9, diverges=wall)
    (optimum,) = estimate_spots(spots, results)
    assert rounds < 20
    assert np.log2(optimum.lr) == pytest.approx(-7.3, abs=SPACING / 2)


def test_groups_are_located_each_for_itself():
    spots = [Spot("sgd", 8, 100), Spot("adam", 8, 100)]
    optima = {0: -2.0, 1: -8.0}
    results, _ = answer(lambda spot, x, seed: (x - optima[spot]) ** 2 + 1e-4 * seed, spots, tol=10.0, budget=1e9)
    found = [np.log2(o.lr) for o in estimate_spots(spots, results)]
    assert found == pytest.approx([-2.0, -8.0], abs=1e-6)


def test_steps_to_a_target_count_where_that_is_the_protocol():
    def ask(row):
        results = pd.DataFrame([{"spot": 0, "lr": 2.0**x, "seed": 0, **row(x)} for x in (-3, -2, -1)])
        return {
            np.log2(p.lr) for p in propose([Spot("", 8, 9)], results, start=(0.1, 0.2), seeds=(0,), tol=9, budget=1e9)
        }

    def steps(x):
        count = None if x == -1 else 100 * 2.0**-x  # lowest at the end that met its target
        return {"status": "done", "loss": -x, "protocol": "steps_to_target", "steps_to_target": count}

    # around 2^-2, where the fewest steps were taken, though the loss is lowest at 2^-1
    assert sorted(ask(steps)) == pytest.approx([-3.5, -2.75, -1.25, -0.5], abs=1e-6)


def test_one_side_of_a_bracket_is_enough_before_a_wall():
    x_L = np.array([-8.0, -7.25, -6.5, -5.75])
    assert surround(x_L, np.array([2.0, 1.0, 1.1, np.inf]), 2) == pytest.approx([-7.25, -8.0, -8.75, -6.5])


def test_intervals_are_those_of_the_table_that_is_printed():
    """The held-out set's own error, which no seed makes smaller, is in both."""
    spots = [spot._replace(num_heldout=1024) for spot in SPOTS]
    loss, _ = plant_experiment(np.random.default_rng(4))
    results, _ = answer(loss, spots, tol=10.0)
    columns = {"spot": "batch_size", "lr": "optimizer.lr"}
    frame = results.rename(columns=columns).assign(**{"task.num_heldout": 1024})
    printed = find_optima(tidy_runs(frame.assign(batch_size=[BATCH_SIZES[i] for i in frame["batch_size"]])))
    own = sorted(estimate_spots(spots, results), key=lambda o: o.batch_size)
    assert [o.sd_log2 for o in own] == pytest.approx([o.sd_log2 for o in printed])
