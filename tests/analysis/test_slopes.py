"""Oracle: exact powers, and the variance of a difference of two correlated numbers by simulation."""

import numpy as np
import pytest
from scipy import stats

from analysis.optimum import Optimum
from analysis.slopes import measure_slopes

SIZES = (8, 16, 32, 64, 128)


def make(lrs, sd=0.1, shared=0.0, status="interior", sizes=SIZES):
    return [
        Optimum(
            b, lr, lr / 2, lr * 2, status, 24, 2.0, sd, 12.0, {},
            covariance={other: shared * sd**2 for other in sizes if other != b},
        )
        for b, lr in zip(sizes, lrs, strict=True)
    ]  # fmt: skip


@pytest.mark.parametrize("power", [-0.5, 0.0, 0.5, 1.0])
def test_a_power_has_its_exponent_everywhere(power):
    slopes = measure_slopes(make([0.01 * b**power for b in SIZES]))
    assert [(s.low_size, s.high_size) for s in slopes] == [(8, 32), (16, 64), (32, 128)]
    for slope in slopes:
        assert slope.value == pytest.approx(power, abs=1e-12)
        assert slope.high - slope.value == pytest.approx(stats.t.ppf(0.975, 12) * 0.1 * np.sqrt(2) / 2)


def test_what_two_batch_sizes_share_does_not_widen_their_slope():
    rng = np.random.default_rng(0)
    draws = rng.multivariate_normal([0, 0], [[0.01, 0.008], [0.008, 0.01]], size=200_000)
    sd = float(np.std(draws[:, 1] - draws[:, 0])) / 2
    slope = measure_slopes(make([0.01] * 5, shared=0.8))[0]
    assert (slope.high - slope.low) / 2 / stats.t.ppf(0.975, 12) == pytest.approx(sd, rel=0.01)


def test_cells_that_locate_nothing_take_no_part():
    optima = make([0.01] * 5)
    edge = make([0.01] * 5, status="edge_high")
    nan = make([0.01] * 5, sd=np.nan)
    slopes = measure_slopes([optima[0], edge[1], nan[2], optima[3], optima[4]])
    assert [(s.low_size, s.high_size) for s in slopes] == [(8, 64)]
    assert measure_slopes(edge) == []
