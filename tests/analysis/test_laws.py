"""Oracle: closed form (limits, slopes and the peak of each law, worked out by hand)."""

import numpy as np
import pytest

from analysis.fit_points import Points, fit_points
from analysis.laws import LAWS, read_section
from analysis.laws.batch_size import ema, linear, noise_scale, openai_alpha, power, sqrt, sqrt_saturating, surge
from analysis.laws.sizes import POINT_LAWS

VALUES = {
    "linear": {"coefficient": 1e-3},
    "sqrt": {"coefficient": 2e-3},
    "power": {"coefficient": 2e-3, "exponent": 0.7},
    "noise_scale": {"lr_max": 0.5, "noise_scale": 100.0},
    "sqrt_saturating": {"lr_max": 0.1, "noise_scale": 500.0},
    "openai_alpha": {"lr_max": 0.1, "noise_scale": 200.0, "alpha": 0.7},
    "surge": {"lr_max": 0.05, "kappa": 12.0, "beta_noise": 0.5},
}
BATCH_SIZES = 2.0 ** np.arange(0, 14)


def slope(law, batch_size, **params):
    step = 1e-4
    ratio = law(batch_size * (1 + step), **params) / law(batch_size * (1 - step), **params)
    return float(np.log(ratio) / np.log((1 + step) / (1 - step)))


def test_every_law_has_a_row_here():
    assert set(VALUES) == set(LAWS)


@pytest.mark.parametrize("name", LAWS)
def test_law_is_documented_and_positive(name):
    law = LAWS[name]
    assert law.name == name
    assert len(law.source) > 10
    assert len(law.valid_when) > 10
    assert "\n        lr = " in law.predict.__doc__
    assert {p.name for p in law.parameters} == set(VALUES[name])
    lr = law.predict(BATCH_SIZES, **VALUES[name])
    assert lr.shape == BATCH_SIZES.shape
    assert (lr > 0).all()


@pytest.mark.parametrize("name", LAWS)
def test_starts_lie_within_bounds(name):
    lr = LAWS[name].predict(BATCH_SIZES, **VALUES[name])
    for p in LAWS[name].parameters:
        for value in (*p.starts(BATCH_SIZES, lr), VALUES[name][p.name]):
            assert p.low(BATCH_SIZES, lr) < value < p.high(BATCH_SIZES, lr)


def test_slopes_of_the_straight_laws():
    assert slope(linear, 64.0, coefficient=3.0) == pytest.approx(1)
    assert slope(sqrt, 64.0, coefficient=3.0) == pytest.approx(0.5)
    assert slope(power, 64.0, coefficient=3.0, exponent=0.7) == pytest.approx(0.7)


def test_noise_scale_is_linear_below_flat_above_and_half_at_the_scale():
    params = {"lr_max": 0.5, "noise_scale": 100.0}
    assert noise_scale(1e-3, **params) == pytest.approx(0.5 * 1e-3 / 100, rel=1e-4)
    assert noise_scale(1e7, **params) == pytest.approx(0.5, rel=1e-4)
    assert noise_scale(100.0, **params) == pytest.approx(0.25)
    assert slope(noise_scale, 100.0, **params) == pytest.approx(0.5, abs=1e-6)  # B0 / (B + B0)


def test_sqrt_saturating_is_a_root_below_and_flat_above():
    params = {"lr_max": 0.1, "noise_scale": 500.0}
    assert sqrt_saturating(1e-2, **params) == pytest.approx(0.1 * np.sqrt(1e-2 / 500), rel=1e-4)
    assert sqrt_saturating(1e8, **params) == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(("kappa", "beta_noise"), [(12.0, 0.5), (30.0, 0.2), (5.0, 0.9)])
def test_surge_peaks_where_beta_equals_beta_noise(kappa, beta_noise):
    params = {"lr_max": 0.05, "kappa": kappa, "beta_noise": beta_noise}
    peak = np.pi * kappa**2 * beta_noise**2 / (2 * (1 - beta_noise**2))
    assert surge(peak, **params) == pytest.approx(0.05)
    assert slope(surge, peak, **params) == pytest.approx(0, abs=1e-6)
    assert surge(peak / 2, **params) < 0.05 > surge(peak * 2, **params)
    assert slope(surge, peak * 1e-6, **params) == pytest.approx(0.5, abs=1e-3)


def test_surge_without_off_diagonal_curvature_is_sqrt_saturating():
    kappa, beta_noise = 12.0, 1e4
    expected = sqrt_saturating(BATCH_SIZES, lr_max=2 * 0.05 / beta_noise, noise_scale=np.pi * kappa**2 / 2)
    assert surge(BATCH_SIZES, lr_max=0.05, kappa=kappa, beta_noise=beta_noise) == pytest.approx(expected, rel=1e-6)


def test_openai_alpha_has_both_plateaus_as_its_ends():
    params = {"lr_max": 0.1, "noise_scale": 200.0}
    assert openai_alpha(BATCH_SIZES, **params, alpha=1.0) == pytest.approx(noise_scale(BATCH_SIZES, **params))
    assert openai_alpha(BATCH_SIZES, **params, alpha=0.5) == pytest.approx(sqrt_saturating(BATCH_SIZES, **params))


def test_ema_peaks_where_its_momentum_says_and_only_above_a_third():
    params = {"lr_max": 0.1, "noise_scale": 170.0, "beta1": 0.9}
    assert slope(ema, 170.0 * 0.1 / 1.7, **params) == pytest.approx(0, abs=1e-6)
    assert ema(1e9, **params) == pytest.approx(0.1, rel=1e-5)
    assert (np.diff(ema(BATCH_SIZES, lr_max=0.1, noise_scale=170.0, beta1=0.3)) > 0).all()
    without = ema(BATCH_SIZES, lr_max=0.1, noise_scale=170.0, beta1=0.0)
    assert without == pytest.approx(sqrt_saturating(BATCH_SIZES, lr_max=0.1, noise_scale=170.0))


# A row a law of points: variables (a row each), parameters, and at the first column the slopes of ln response
POINTS = {
    "hyperbola": ([[100.0]], {"steps_min": 30.0, "critical_batch_size": 100.0}, [-0.5]),
    "hyperbola_power": ([[100.0]], {"steps_min": 30.0, "critical_batch_size": 100.0, "sharpness": 2.0}, [-0.5]),
    "epsilon_crossover": ([[400.0], [0.1]], {"coefficient": 1e-3, "sigma": 2.0}, [0.75, 0.5]),
    "epsilon_crossover_inside": ([[400.0], [0.1]], {"coefficient": 1e-3, "sigma": 2.0}, [0.75, 0.5]),
    "epsilon_ratio": ([[0.5]], {"sigma": 0.5, "sharpness": 1.5}, [0.5]),
    "lr_momentum": (
        [[64.0], [19.0]], {"coefficient": 2.0, "batch_exponent": 0.5, "exponent": -0.8}, [0.5, -0.4],
    ),
    "loss_power": (
        [[1e4], [1e6]],
        {
            "irreducible_loss": 2.0, "params_coefficient": 100.0, "params_exponent": 0.5, "samples_coefficient": 1e3,
            "samples_exponent": 0.5,
        },
        [-0.5 / 4, -0.5 / 4],
    ),
    "lr_power": (
        [[1e4], [1e6]], {"coefficient": 2.0, "params_exponent": -0.3, "samples_exponent": -0.1}, [-0.3, -0.1],
    ),
    "lr_power_batch": (
        [[1e4], [1e6], [64.0]],
        {"coefficient": 2.0, "params_exponent": -0.3, "samples_exponent": -0.1, "batch_exponent": 0.5},
        [-0.3, -0.1, 0.5],
    ),
}  # fmt: skip


def test_every_law_of_points_has_a_row_here():
    assert set(POINTS) == set(POINT_LAWS)


@pytest.mark.parametrize("name", POINT_LAWS)
def test_laws_of_points_are_documented_and_have_the_slopes_of_algebra(name):
    law = POINT_LAWS[name]
    x, params, slopes = POINTS[name]
    assert law.name == name
    assert min(len(read_section(law.predict, title)) for title in ("Source", "Valid when")) > 10
    assert f"\n        {law.response} = " in law.predict.__doc__
    assert set(law.parameters) == set(params)
    at = np.log(np.array(x))
    for i, expected in enumerate(slopes):
        step = np.zeros_like(at)
        step[i] = 1e-4
        low, high = (np.log(law.predict(*np.exp(at + sign * step), **params)) for sign in (-1, 1))
        assert (high - low)[0] / 2e-4 == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", POINT_LAWS)
def test_laws_of_points_are_found_where_they_were_planted(name):
    law = POINT_LAWS[name]
    at, params, _ = POINTS[name]
    grid = np.meshgrid(*(np.array(row) * 4.0 ** np.arange(-3, 3)[:, None].T[0] for row in at))
    x = np.array([each.ravel() for each in grid])
    y = law.predict(*x, **params)
    fit = fit_points(law, Points(x, y, np.full(len(y), 0.01), np.eye(len(y)), np.inf))
    for parameter, value in params.items():
        assert fit.params[parameter].value == pytest.approx(value, rel=1e-3)
        assert fit.params[parameter].low < value < fit.params[parameter].high
