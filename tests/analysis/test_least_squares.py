"""Oracle: minima that are known by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from test_fit import make_optima, plant

from analysis import least_squares
from analysis.fit import fit_law
from analysis.laws import LAWS
from analysis.least_squares import descend


@pytest.mark.parametrize(
    ("high", "robust", "expected"),
    [(5.0, False, 3.0), (5.0, True, 3.0), (2.0, False, 2.0), (2.0, True, 2.0)],
)
def test_an_end_lies_within_the_bounds(high, robust, expected):
    def residual(x):
        return np.array([x[0] - 3, 10 * (x[1] + 1)])

    end = descend(residual, np.array([0.5, 4.0]), np.array([0.0, -5.0]), np.array([high, 5.0]), robust=robust)
    assert end == pytest.approx([expected, -1], abs=1e-4)


def test_a_law_that_overflows_beyond_its_bounds_is_fitted_within_them():
    tried = []

    def residual(x):
        tried.append(float(x[0]))
        return np.array([math.exp(x[0]) - math.e])

    assert descend(residual, np.array([-8.0]), np.array([-9.0]), np.array([10.0]), robust=False) == pytest.approx([1])
    assert max(tried) > 709  # where math.exp raises OverflowError


@pytest.mark.parametrize("name", LAWS)
def test_the_quick_way_and_the_one_that_knows_bounds_fit_alike(name, monkeypatch):
    """Noisy optima of the law itself, and of one that it does not fit; a bound from one cell."""
    rng = np.random.default_rng(3)
    optima = [plant(name, rng), [*plant("sqrt", rng)[:-1], *make_optima([0.02], "edge_high", batch_sizes=[1024])]]
    optima[1][-1] = replace(optima[1][-1], bound=0.02)
    quick = [fit_law(LAWS[name], cells) for cells in optima]

    def bounded(residual, start, **how):
        if how.get("method") == "lm":
            raise OverflowError
        return scipy_least_squares(residual, start, **how)

    scipy_least_squares = least_squares.optimize.least_squares
    monkeypatch.setattr(least_squares.optimize, "least_squares", bounded)
    for found, cells in zip(quick, optima, strict=True):
        slow = fit_law(LAWS[name], cells)
        assert found.chi2 == pytest.approx(slow.chi2, rel=1e-5, abs=1e-8)
        set_by_data = all(np.isfinite(there.low) for there in slow.params.values())
        assert set_by_data or (name in ("openai_alpha", "surge") and cells is optima[1])
        if set_by_data:  # else they lie in a valley, all of whose places are as good, and their bounds with them
            assert found.notes == slow.notes
            for parameter, there in slow.params.items():
                ours = found.params[parameter]
                assert (ours.value, ours.low, ours.high) == pytest.approx(
                    (there.value, there.low, there.high), rel=1e-3
                )
