"""Oracle: scipy.optimize.curve_fit, a weighted mean in closed form, planted truth."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import optimize, stats
from test_laws import VALUES

from analysis.fit import Estimate, Fit, compare, fit_law, fit_laws
from analysis.laws import LAWS
from analysis.optimum import Optimum
from analysis.slopes import measure_slopes

BATCH_SIZES = 2 ** np.arange(3, 11)
SD_LOG2 = 0.1


def make_optima(lrs, status="interior", sd=SD_LOG2, dof=50.0, batch_sizes=BATCH_SIZES):
    quantile = stats.t.ppf(0.975, dof)
    return [
        Optimum(
            int(b),
            float(lr),
            lr * 2 ** (-quantile * sd),
            lr * 2 ** (quantile * sd),
            status,
            24,
            2.0,
            sd,
            dof,
            {},
        )
        for b, lr in zip(batch_sizes, lrs, strict=True)
    ]


def plant(name, rng=None, sd=SD_LOG2, batch_sizes=BATCH_SIZES, **changed):
    lrs = LAWS[name].predict(batch_sizes, **(VALUES[name] | changed))
    noise = 0 if rng is None else sd * rng.normal(size=len(batch_sizes))
    return make_optima(lrs * 2**noise, sd=sd, batch_sizes=batch_sizes)


@pytest.mark.parametrize("name", LAWS)
def test_fit_recovers_what_was_planted(name):
    batch_sizes = 2 ** np.arange(0, 14)
    fit = fit_law(LAWS[name], plant(name, batch_sizes=batch_sizes, sd=0.01))
    assert fit.rmse_log < 1e-5
    for parameter, value in VALUES[name].items():
        assert fit.params[parameter].value == pytest.approx(value, rel=1e-3)
        assert fit.params[parameter].low < value < fit.params[parameter].high


@pytest.mark.parametrize("name", ["sqrt", "power", "noise_scale", "sqrt_saturating"])
def test_intervals_cover_planted_parameters(name):
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(40):
        fit = fit_law(LAWS[name], plant(name, rng))
        hits.append([fit.params[p].low <= v <= fit.params[p].high for p, v in VALUES[name].items()])
    assert (np.mean(hits, axis=0) >= 0.9).all()


def test_fit_agrees_with_curve_fit():
    optima = plant("noise_scale", np.random.default_rng(2))
    x, y = (np.array([getattr(o, f) for o in optima], dtype=float) for f in ("batch_size", "lr"))
    popt, pcov = optimize.curve_fit(
        lambda b, log_lr, log_scale: log_lr - np.log1p(np.exp(log_scale) / b),
        x, np.log(y), p0=(-1, 4), sigma=np.full(8, SD_LOG2 * np.log(2)), absolute_sigma=True,
    )  # fmt: skip
    fit = fit_law(LAWS["noise_scale"], optima)
    misfits = stats.chi2.sf(fit.chi2, fit.dof) < 0.05
    widen = (np.sqrt(fit.chi2 / fit.dof) if misfits else 1.0) * stats.t.ppf(0.975, 50)
    for name, value, variance in zip(("lr_max", "noise_scale"), popt, np.diag(pcov), strict=True):
        estimate = fit.params[name]
        assert np.log(estimate.value) == pytest.approx(value, abs=1e-4)
        assert np.log(estimate.high / estimate.low) / 2 == pytest.approx(widen * np.sqrt(variance), rel=1e-2)


def test_cells_weigh_by_their_own_errors():
    optima = [
        Optimum(b, lr, lr, lr, "interior", 1, 1.0, sd, 50.0, {})
        for b, lr, sd in ((8, 0.02, 0.01), (16, 0.08, 1.0), (32, 0.02, 0.1))
    ]
    fit = fit_law(LAWS["sqrt"], optima)
    weights = np.array([1, 1e-4, 1e-2])
    mean = np.average(np.log([0.02, 0.08, 0.02]) - 0.5 * np.log([8, 16, 32]), weights=weights)
    assert np.log(fit.params["coefficient"].value) == pytest.approx(mean, abs=1e-6)


def test_aicc_is_chi2_with_its_penalty():
    fit = fit_law(LAWS["power"], plant("sqrt", np.random.default_rng(3)))
    assert fit.aicc == pytest.approx(fit.chi2 + 4 + 12 / 5)
    assert fit.chi2 == pytest.approx(sum((r / (SD_LOG2 * np.log(2))) ** 2 for r in fit.residuals.values()))


@pytest.mark.parametrize("name", ["linear", "sqrt", "noise_scale", "surge"])
def test_the_planted_law_is_chosen_or_not_separable(name):
    rng = np.random.default_rng(4)
    wins = 0
    for _ in range(6):
        comparison = compare(fit_laws(plant(name, rng, sd=0.05)))
        wins += comparison.best == name
        assert name in (comparison.best, *comparison.not_separable)
    assert wins >= 4


def test_linear_and_root_are_told_apart_and_a_nested_law_is_not():
    comparison = compare(fit_laws(plant("sqrt")))
    assert comparison.best == "sqrt"
    assert "linear" not in comparison.not_separable
    assert {"power", "sqrt_saturating"} <= set(comparison.not_separable)


def test_too_few_cells_are_refused_with_the_reason():
    optima = plant("sqrt")[:4]
    assert fit_law(LAWS["power"], optima).params
    refused = fit_law(LAWS["surge"], optima)
    assert refused.refused == "3 parameters need at least 5 located batch sizes; there are 4"
    assert not refused.params


def test_edge_and_flat_cells_are_left_out_by_name():
    optima = plant("sqrt")
    wrong = [
        *make_optima([9.0], "edge_high", batch_sizes=[2048]),
        *make_optima([1e-9], "flat", batch_sizes=[4096]),
    ]
    fit = fit_law(LAWS["sqrt"], [*optima, *wrong])
    assert fit.left_out == ("batch size 2048: edge_high", "batch size 4096: flat")
    assert fit.params["coefficient"].value == pytest.approx(VALUES["sqrt"]["coefficient"], rel=1e-6)


def test_one_seed_gives_laws_but_separates_none():
    fits = fit_laws(make_optima(LAWS["sqrt"].predict(BATCH_SIZES, coefficient=0.002), sd=np.nan))
    comparison = compare(fits)
    assert comparison.best == "sqrt"
    assert set(comparison.not_separable) == set(LAWS) - {"sqrt"}
    assert all(np.isnan(fit.chi2) for fit in fits)


def test_a_parameter_that_the_data_do_not_set_is_not_given_an_interval():
    fit = fit_law(LAWS["sqrt_saturating"], plant("sqrt"))
    scale = fit.params["noise_scale"]
    assert fit.notes or not np.isfinite(scale.high) or scale.high / scale.low > 1e4


@pytest.mark.parametrize(("best_chi2", "near"), [(6.0, ()), (24.0, ("power",))])
def test_what_even_the_best_law_leaves_unexplained_separates_nothing(best_chi2, near):
    # 7 degrees of freedom: at chi2 6 a rival 12 worse is told apart, at chi2 24 the unit is 24/7 and it is not
    best = Fit("sqrt", {}, {"c": Estimate(1.0, 1.0, 1.0)}, best_chi2, 0.0, 0.1, dict.fromkeys(range(8), 0.0), ())
    rival = replace(best, law="power", chi2=best_chi2 + 12, aicc=12.0)
    assert compare([best, rival]).not_separable == near


def test_one_wild_cell_moves_the_plain_fit_and_not_the_robust_one():
    optima = plant("power", np.random.default_rng(5), sd=0.05)
    wild = [replace(optima[0], lr=optima[0].lr * 8), *optima[1:]]
    plain, robust = (fit_law(LAWS["power"], wild, robust=robust).params["exponent"] for robust in (False, True))
    planted = VALUES["power"]["exponent"]
    assert abs(plain.value - planted) > 0.15
    assert abs(robust.value - planted) < 0.05
    assert robust.low < planted < robust.high
    assert robust.high - robust.low < 0.2


def test_robust_intervals_cover_and_are_hardly_wider_without_a_wild_cell():
    rng, hits, widths = np.random.default_rng(6), [], []
    for _ in range(40):
        optima = plant("power", rng)
        plain, robust = (fit_law(LAWS["power"], optima, robust=robust).params["exponent"] for robust in (False, True))
        hits.append(robust.low <= VALUES["power"]["exponent"] <= robust.high)
        widths.append((robust.high - robust.low) / (plain.high - plain.low))
    assert np.mean(hits) >= 0.88
    assert 1.001 < np.median(widths) < 1.3  # least squares is the narrowest where all cells are as their errors say


def test_intervals_have_the_least_degrees_of_freedom_of_the_cells_whichever_comes_first():
    few = make_optima(LAWS["power"].predict(BATCH_SIZES, **VALUES["power"]), dof=3.0)
    many = [few[0], *(replace(o, dof=50.0) for o in few[1:])]
    sure = fit_law(LAWS["power"], few).params["exponent"]
    for optima in (many, many[::-1]):
        assert fit_law(LAWS["power"], optima).params["exponent"].low == pytest.approx(sure.low, rel=1e-6)
        assert measure_slopes(optima)[0].low == pytest.approx(measure_slopes(few)[0].low)
