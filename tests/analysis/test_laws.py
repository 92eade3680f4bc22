"""Oracle: closed form (limits, slopes and the peak of each law, worked out by hand)."""

import numpy as np
import pytest

from analysis.laws import LAWS
from analysis.laws.batch_size import linear, noise_scale, power, sqrt, sqrt_saturating, surge

VALUES = {
    "linear": {"coefficient": 1e-3},
    "sqrt": {"coefficient": 2e-3},
    "power": {"coefficient": 2e-3, "exponent": 0.7},
    "noise_scale": {"lr_max": 0.5, "noise_scale": 100.0},
    "sqrt_saturating": {"lr_max": 0.1, "noise_scale": 500.0},
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
