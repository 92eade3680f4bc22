"""Oracle: planted plateaus that stay, or move with the number of samples."""

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse_runs
from analysis.fit import fit_laws
from analysis.horizons import check_horizons
from analysis.laws import LAWS
from analysis.optimum import Optimum
from harness.config import SWEEPS_DIR

BATCH_SIZES = 2.0 ** np.arange(3, 13)


def plant(noise_scale, sd, rng, known=True):
    lrs = LAWS["sqrt_saturating"].predict(BATCH_SIZES, lr_max=0.06, noise_scale=noise_scale)
    noise = np.exp(sd * np.log(2) * rng.normal(size=len(lrs)))
    return fit_laws([
        Optimum(int(b), float(lr), lr, lr, "interior", 3, 1.0, sd if known else np.nan, 50.0, {})
        for b, lr in zip(BATCH_SIZES, lrs * noise, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("short", "long", "sd", "verdict"),
    [(300, 300, 0.05, "confirmed"), (150, 600, 0.05, "refuted"), (30_000, 30_000, 0.1, "inconclusive")],
)
def test_a_plateau_that_moves_with_the_horizon_is_no_noise_scale(short, long, sd, verdict):
    rng = np.random.default_rng(0)
    groups = [
        ({"num_samples": 131072, "optimizer.name": "adam"}, plant(long, sd, rng)),
        ({"num_samples": 32768, "optimizer.name": "adam"}, plant(short, sd, rng)),
    ]
    (found,) = check_horizons(groups, "fixed_samples")
    assert found.verdict == verdict
    assert found.group == {"optimizer.name": "adam"}
    assert ("step-limited" in found.reason) == (verdict == "refuted")
    assert check_horizons(groups[:1], "fixed_samples") == []
    assert check_horizons(groups, "fixed_steps") == []


def test_a_plateau_that_falls_is_not_called_step_limited():
    rng = np.random.default_rng(0)
    (found,) = check_horizons(
        [({"num_samples": 131072}, plant(150, 0.05, rng)), ({"num_samples": 32768}, plant(600, 0.05, rng))],
        "fixed_samples",
    )
    assert found.verdict == "refuted"
    assert "falls with the number of samples" in found.reason
    assert "step-limited" not in found.reason


def test_one_seed_tells_no_plateau():
    rng = np.random.default_rng(0)
    (found,) = check_horizons(
        [({"num_samples": 131072}, plant(600, 0.05, rng, known=False)),
         ({"num_samples": 32768}, plant(150, 0.05, rng, known=False))],
        "fixed_samples",
    )  # fmt: skip
    assert found.verdict == "inconclusive"
    assert "one seed" in found.reason


def test_robust_laws_leave_the_verdict_on_plateaus_as_it_is():
    frame = pd.read_csv(SWEEPS_DIR / "lr_vs_bs_horizon.csv")
    frame = frame[frame["schedule.name"] == "linear"]
    plain, robust = (analyse_runs("h", frame, robust=asked).groups[-1].verdicts[-1] for asked in (False, True))
    assert plain.claim == "plateau"
    assert robust == plain
