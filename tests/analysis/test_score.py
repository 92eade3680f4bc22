"""Oracle: laws planted without noise, which predict themselves exactly, and rivals whose error has a closed form."""

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse_runs, to_json
from analysis.figures.extrapolation import miss, split
from analysis.fit import fit_law
from analysis.laws import LAWS
from analysis.optimum import Optimum, find_optima
from analysis.runs import tidy_runs
from analysis.score import score_fit
from harness.config import SWEEPS_DIR
from tests.analysis.planting import BATCH_SIZES, plant_table


def score_planted(planted, fitted, **values):
    lrs = LAWS[planted].predict(np.array(BATCH_SIZES, dtype=float), **values)
    optima = [
        Optimum(b, float(lr), lr / 1.1, lr * 1.1, "interior", 3, 1.0, 0.1, 50.0, {})
        for b, lr in zip(BATCH_SIZES, lrs, strict=True)
    ]
    return score_fit(fit_law(LAWS[fitted], optima), optima)


def test_a_law_predicts_itself():
    score = score_planted("power", "power", coefficient=0.002, exponent=0.4)
    assert max(score.left_out, score.extrapolated, abs(score.drift)) < 1e-6


def test_the_error_of_the_linear_rule_on_a_root_is_that_of_its_slope():
    # ln lr - ln law = -(u - mean of the fitted u) / 2, u = ln B, for equal weights
    score = score_planted("sqrt", "linear", coefficient=0.002)
    u = np.log(BATCH_SIZES)
    smaller, larger = u[:4], u[4:]
    misses = -(larger - smaller.mean()) / 2
    assert score.drift == pytest.approx(misses.mean(), rel=1e-6)
    assert score.extrapolated == pytest.approx(np.sqrt((misses**2).mean()), rel=1e-6)
    alone = [-(x - np.delete(u, i).mean()) / 2 for i, x in enumerate(u)]
    assert score.left_out == pytest.approx(np.sqrt(np.mean(np.square(alone))), rel=1e-6)


def test_too_few_cells_give_no_score():
    score = score_planted("surge", "surge", lr_max=0.1, kappa=20.0, beta_noise=0.3)
    assert np.isnan(score.extrapolated)  # four cells do not bear three parameters
    assert score.left_out < 0.2


def test_a_robust_fit_is_scored_by_robust_refits():
    # the first cell misses the law by ln 8 and all others lie on it, so that what is left is ln 8 in one of 8 cells
    lrs = 0.002 * np.array(BATCH_SIZES, dtype=float) ** 0.4
    lrs[0] *= 8
    optima = [
        Optimum(b, float(lr), lr / 1.1, lr * 1.1, "interior", 3, 1.0, 0.1, 50.0, {})
        for b, lr in zip(BATCH_SIZES, lrs, strict=True)
    ]
    plain, robust = (
        score_fit(fit_law(LAWS["power"], optima, robust=robust), optima, robust=robust) for robust in (False, True)
    )
    exact = np.log(8) / np.sqrt(len(optima))
    assert robust.left_out == pytest.approx(exact, rel=0.02)
    assert plain.left_out > 1.1 * exact


def test_the_larger_half_is_predicted_as_the_figure_of_it_does():
    """From all cells surge's fit to the smaller half ends beside the minimum: .42 instead of .28."""
    frame = pd.read_csv(SWEEPS_DIR / "lr_vs_bs_horizon.csv")
    frame = frame[(frame["schedule.name"] == "linear") & (frame["num_samples"] == 32768)]
    optima = find_optima(tidy_runs(frame))
    smaller, larger = split(tuple(optima))
    fit = fit_law(LAWS["surge"], smaller)
    score = score_fit(fit_law(LAWS["surge"], optima), optima)
    assert score.extrapolated == pytest.approx(miss(fit, larger), rel=1e-3)


def test_scores_reach_the_json():
    fits = to_json(analyse_runs("s", plant_table(lambda b: 0.002 * b**0.5)))["fits"]
    best = {fit["law"]: fit for fit in fits}
    assert best["sqrt"]["left_out"] < 0.15 < best["linear"]["left_out"]
    assert best["linear"]["drift"] < -0.5
