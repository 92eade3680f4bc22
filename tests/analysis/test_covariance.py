"""Oracle: planted laws, with seeds whose optima move together over batch sizes, as common random numbers make them."""

import os
from dataclasses import replace

import numpy as np
import pytest

from analysis.cells import Cell
from analysis.fit import fit_law
from analysis.laws import LAWS
from analysis.locate import locate
from analysis.optimum import Optimum, estimate_group
from tests.analysis.planting import BATCH_SIZES, SPACING, plant_losses, plant_shifts

TABLES = int(os.environ.get("TABLES", "60"))
POWER = LAWS["power"]
TRUTH = {"coefficient": 0.002, "exponent": 0.5}


def plant_optima(rng, num_seeds, shared, num_lrs=12):
    """Optima of 8 batch sizes whose truth is the power law; the grid lies anew each time."""
    x_L = -9.6 + SPACING * np.arange(num_lrs) + rng.uniform(0, SPACING)
    shifts = plant_shifts(rng, num_seeds, len(BATCH_SIZES), shared=shared)
    seeds = tuple(range(num_seeds))
    cells = []
    for batch_size, own in zip(BATCH_SIZES, shifts, strict=True):
        losses = plant_losses(x_L, np.log2(0.002 * batch_size**0.5), own, rng)
        cells.append(Cell(batch_size, {}, x_L, losses, losses.size, "", seeds=seeds))
    return estimate_group([locate(cell) for cell in cells])


@pytest.mark.parametrize("shared", [0.0, 0.2, 0.6])
@pytest.mark.parametrize("num_seeds", [2, 4])
def test_intervals_of_law_parameters_carry_the_covariance(num_seeds, shared):
    rng = np.random.default_rng(num_seeds)
    hits = []
    for _ in range(150):
        fit = fit_law(POWER, plant_optima(rng, num_seeds, shared))
        hits.append([fit.params[name].low <= value <= fit.params[name].high for name, value in TRUTH.items()])
    coverage = np.mean(hits, axis=0)
    print(f"{num_seeds} seeds, shared {shared}: {coverage}")
    assert (coverage >= 0.88).all()  # 150 tables: .9 less one standard error
    # what the prior of .2 takes too wide where cells do not correlate, or too narrow where they do so by .6
    assert (coverage <= 1.0).all()


def test_the_interval_of_a_mean_is_that_of_correlated_numbers():
    # sqrt has one parameter: the mean of the cells, whose variance with correlation rho is s^2 (1 + (n - 1) rho) / n
    sd, rho, n = 0.1, 0.3, len(BATCH_SIZES)
    optima = [
        Optimum(
            b, 0.002 * b**0.5, 0.0, 1.0, "interior", 2, 1.0, sd, 1e6, {},
            covariance={other: rho * sd**2 for other in BATCH_SIZES if other != b},
        )
        for b in BATCH_SIZES
    ]  # fmt: skip
    estimate = fit_law(LAWS["sqrt"], optima).params["coefficient"]
    expected = 1.96 * sd * np.log(2) * np.sqrt((1 + (n - 1) * rho) / n)
    assert np.log(estimate.high / estimate.low) / 2 == pytest.approx(expected, rel=1e-3)


def test_edges_as_bounds_beat_leaving_them_out_and_taking_them_as_found():
    # a grid that ends in the middle of the batch sizes: from there on the best is the highest learning rate
    rng = np.random.default_rng(7)
    errors = {"bounds": [], "dropped": [], "as found": []}
    hits = {name: [] for name in errors}
    for _ in range(TABLES):
        optima = plant_optima(rng, 3, 0.2, num_lrs=7)
        edges = [o for o in optima if o.status == "edge_high"]
        assert edges
        as_found = [replace(o, low=o.lr, high=o.lr, status="interior") if o in edges else o for o in optima]
        kept = [o for o in optima if o not in edges]
        for name, table in (("bounds", optima), ("dropped", kept), ("as found", as_found)):
            fit = fit_law(POWER, table)
            if not fit.refused:
                exponent = fit.params["exponent"]
                errors[name].append(exponent.value - 0.5)
                hits[name].append(exponent.low <= 0.5 <= exponent.high)
    bias, spread, cover = ({name: float(f(v)) for name, v in of.items()} for f, of in (
        (np.mean, errors), (np.std, errors), (np.mean, hits)))  # fmt: skip
    for name in errors:
        print(f"edges {name}: exponent off by {bias[name]:+.3f} +- {spread[name]:.3f}, covered in {cover[name]:.3f}")
    assert abs(bias["bounds"]) < 0.05
    assert bias["as found"] < -0.05
    assert np.hypot(bias["bounds"], spread["bounds"]) <= np.hypot(bias["dropped"], spread["dropped"])
    assert cover["bounds"] >= 0.88
    assert cover["as found"] < cover["bounds"]
