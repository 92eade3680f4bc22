"""Oracle: minima that are known by hand."""

import math

import numpy as np
import pytest

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
