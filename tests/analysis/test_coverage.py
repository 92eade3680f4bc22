"""Oracle: planted laws on the loss curves and the noise of 12 real seeds of lr_vs_bs, with its full covariance.

Beside our intervals stand those of tests/reference/optimum_interval.py on the same tables.
`TABLES=400 python -m pytest -n 0 -s tests/analysis/test_coverage.py` prints the numbers of as many tables.
"""

import os

import numpy as np
import pytest

from analysis.fit import Fit, compare, fit_law, fit_laws
from analysis.laws import LAWS
from analysis.locate import locate
from analysis.optimum import Optimum, estimate_group
from tests.analysis.planting import BATCH_SIZES, plant_real_cells
from tests.reference.optimum_interval import estimate_intervals

TABLES = int(os.environ.get("TABLES", "80"))
LAW_TABLES = int(os.environ.get("TABLES", "8"))  # fitting all laws takes longer
PLANTED = {
    "linear": {"coefficient": 0.0001},
    "sqrt": {"coefficient": 0.0018},
    "sqrt_saturating": {"lr_max": 0.05, "noise_scale": 200.0},
    "surge": {"lr_max": 0.04, "kappa": 100.0, "beta_noise": 0.05},
}


def plant_optima(rng, num_seeds, law):
    return estimate_group([locate(cell) for cell in plant_real_cells(rng, num_seeds, law)])


@pytest.mark.parametrize("num_seeds", [2, 3, 4])
def test_intervals_of_optima_and_laws_cover_the_truth(num_seeds):
    rng = np.random.default_rng(num_seeds)
    cells, params, widths, plain_cells, plain_widths = [], [], [], [], []
    for _ in range(TABLES):
        coefficient = 0.0018 * 2 ** rng.uniform(-0.375, 0.375)  # the grid lies anew
        planted_cells = plant_real_cells(rng, num_seeds, lambda b, c=coefficient: c * b**0.5)
        optima = estimate_group([locate(cell) for cell in planted_cells])
        truths = [coefficient * o.batch_size**0.5 for o in optima]
        cells.append(
            [o.low <= t <= o.high if np.isfinite(o.low) else np.nan for o, t in zip(optima, truths, strict=True)]
        )
        widths.append([np.log2(o.high / o.low) / 2 for o in optima])
        x_B, half_B = estimate_intervals(BATCH_SIZES, planted_cells[0].x_L, [cell.loss_LS for cell in planted_cells])
        missed = np.abs(x_B - np.log2(truths))
        plain_cells.append(np.where(np.isfinite(half_B), missed <= half_B, np.nan))
        plain_widths.append(half_B)
        fit = fit_law(LAWS["power"], optima)
        if not fit.refused:
            planted = {"coefficient": coefficient, "exponent": 0.5}
            params.append([fit.params[name].low <= value <= fit.params[name].high for name, value in planted.items()])
    coverage, laws = np.nanmean(np.array(cells, dtype=float), axis=0), np.mean(params, axis=0)
    print(f"{num_seeds} seeds: cells {coverage.mean():.3f}, worst {coverage.min():.3f}, "
          f"half-width {np.nanmean(widths):.3f}, law {laws.round(3)}")  # fmt: skip
    plain = np.nanmean(plain_cells, axis=0)
    print(f"  written plainly: cells {plain.mean():.3f}, worst {plain.min():.3f}, "
          f"half-width {np.nanmean(plain_widths):.3f}")  # fmt: skip
    error = 2 * (0.05 * 0.95 / TABLES) ** 0.5  # of a share counted on so many tables
    assert 0.93 - error / 2 <= coverage.mean() <= 0.98 + error / 2
    assert coverage.min() >= 0.88 - error
    assert (laws >= 0.90 - error).all()
    assert (laws <= 0.98 + error).all()
    # neither wider than the plain intervals that cover as well, nor bought by being wrong
    assert np.nanmean(widths) == pytest.approx(np.nanmean(plain_widths), rel=0.15)
    assert abs(coverage.mean() - plain.mean()) <= 0.02 + error


@pytest.mark.parametrize(
    ("spacing", "count"), [(0.1, 0), (0.2, 0), (0.35, 0), (0.75, 0), (0.75, 4), (1.0, 4), (1.585, 4), (1.585, 3)]
)
def test_intervals_cover_the_truth_on_finer_grids_and_with_few_learning_rates(spacing, count):
    rng = np.random.default_rng(11)
    hits, missed, widths = [], [], []
    for _ in range(TABLES // 2):
        coefficient = 0.0018 * 2 ** rng.uniform(-0.5, 0.5)
        cells = plant_real_cells(rng, 3, lambda b, c=coefficient: c * b**0.5, spacing, count, iid=1e-3)
        for o in estimate_group([locate(cell) for cell in cells]):
            if np.isfinite(o.low):
                truth = coefficient * o.batch_size**0.5
                hits.append(o.low <= truth <= o.high)
                missed.append(np.log2(o.lr / truth))
                widths.append(np.log2(o.high / o.low) / 2)
    error = 2 * (0.05 * 0.95 / (TABLES // 2)) ** 0.5 / 2  # the cells of a table are not independent
    print(f"spacing {spacing}, {count or 'all'} learning rates: {np.mean(hits):.3f} of {len(hits)}, half-width "
          f"{np.mean(widths):.3f}, rms {np.sqrt(np.mean(np.square(missed))):.3f}")  # fmt: skip
    assert len(hits) > 0.8 * (TABLES // 2) * len(BATCH_SIZES)
    assert np.mean(hits) >= 0.93 - error / 2
    assert np.mean(widths) < (0.5 if count else 0.42)


@pytest.mark.parametrize("name", PLANTED)
def test_the_planted_law_beats_rivals_that_can_be_told_from_it(name):
    """A rival counts where its misfit to the true optima, with the errors found, is at least 10 in chi^2."""
    rng = np.random.default_rng(5)
    law = LAWS[name]
    wins, best = [], []
    for _ in range(LAW_TABLES):
        shift = 2 ** rng.uniform(-0.375, 0.375)
        optima = plant_optima(rng, 3, lambda b, k=shift: k * float(law.predict(np.array([b]), **PLANTED[name])[0]))
        exact = [at_truth(o, float(law.predict(np.array([o.batch_size]), **PLANTED[name])[0])) for o in optima]
        fits, misfits = ({fit.law: fit for fit in fit_laws(table)} for table in (optima, exact))
        wins += [beats(fits[name], fits[rival]) for rival in LAWS if rival != name and misfits[rival].chi2 >= 10]
        best.append(compare(list(fits.values())).best == name)
    print(f"{name}: beats {np.mean(wins):.3f} of {len(wins)} rivals that differ, best of all in {np.mean(best):.2f}")
    assert wins
    assert np.mean(wins) >= 0.85


def beats(one: Fit, other: Fit) -> bool:
    return not one.refused and (bool(other.refused) or one.aicc < other.aicc)


def at_truth(o: Optimum, lr: float) -> Optimum:
    return Optimum(o.batch_size, lr, lr, lr, o.status, 1, 1.0, o.sd_log2, o.dof, {})
