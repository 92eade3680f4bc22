"""Oracle: planted optima that momentum moves as it is claimed to, leaves alone, or moves down."""

import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse_runs
from analysis.momentum import MOMENTUM, check_momentum
from analysis.optimum import Optimum
from analysis.runs import tidy_runs
from harness.config import ROOT
from tests.analysis.planting import plant_table

BATCH_SIZES = (8, 16, 32, 64, 128)
LRS = [2.0 ** (-14 + 0.75 * i) for i in range(20)]


def plant_frame(optimizer, column, values, q, sums=False, seed=0):
    """Tables whose optimum is .03 (B a^q / 64)^p, each in the units of its optimizer."""
    p = 1.0 if optimizer == "sgd" else 0.5
    frames = []
    for i, beta1 in enumerate(values):
        averaging = (1 + beta1) / (1 - beta1)
        unit = 1 - beta1 if sums else 1.0
        frame = plant_table(
            lambda b, a=averaging, u=unit: 0.03 * u * (b * a**q / 64) ** p, sd=0.05, lrs=LRS, batch_sizes=BATCH_SIZES,
            seed=seed + i,
        )  # fmt: skip
        frame["optimizer.name"], frame[column] = optimizer, beta1
        frames.append(frame.assign(run_id=frame["run_id"] + f"-{optimizer}-{beta1}"))
    return pd.concat(frames, ignore_index=True)


def verdicts_of(frame):
    found = [v for answer in analyse_runs("planted", frame).groups for v in answer.verdicts]
    return [v for v in found if v.claim == "ema-batch"]


@pytest.mark.parametrize(("q", "verdict"), [(1.0, "confirmed"), (0.0, "refuted"), (-0.9, "refuted"), (0.5, "refuted")])
def test_the_planted_exponent_decides(q, verdict):
    (found,) = verdicts_of(plant_frame("adam", "optimizer.beta1", (0.0, 0.5, 0.9), q))
    assert found.verdict == verdict
    assert found.numbers["low"] < q < found.numbers["high"]
    assert found.numbers["exponent"] == pytest.approx(q, abs=0.1)
    # 128 samples' 256 steps are 25.6 memories of beta1 = .9
    assert found.numbers["num_cells"] == 15
    assert found.numbers["lr_ratio_predicted"] == pytest.approx(19**0.5, rel=0.1)
    assert found.numbers["lr_ratio"] == pytest.approx(19 ** (0.5 * q), rel=0.1)
    assert found.group == {}


def test_torchs_momentum_is_a_sum_and_optimizers_are_judged_apart():
    sgd = plant_frame("sgd", "optimizer.momentum", (0.0, 0.9), 0.0, sums=True)
    sign = plant_frame("signum", "optimizer.momentum", (0.0, 0.9), 1.0)
    by_name = {v.group["optimizer.name"]: v for v in verdicts_of(pd.concat([sgd, sign], ignore_index=True))}
    assert by_name["sgd"].numbers["exponent"] == pytest.approx(0.0, abs=0.1)
    assert (by_name["sgd"].verdict, by_name["signum"].verdict) == ("refuted", "confirmed")


def test_optimizers_that_are_judged_have_the_option_that_the_claim_varies():
    for name, column in MOMENTUM.items():
        text = (ROOT / "conf" / "optimizer" / f"{name}.yaml").read_text()
        assert f"\n{column.removeprefix('optimizer.')}: " in text, name


def test_runs_that_momentum_outlasts_take_no_part():
    """.99 remembers 100 steps: of 4096 ... 256 steps only those with 1000 or more count."""
    (found,) = verdicts_of(plant_frame("adam", "optimizer.beta1", (0.0, 0.99), 1.0))
    assert found.numbers["num_cells"] == 5 + 3


@pytest.mark.parametrize(
    ("column", "value"),
    [("protocol", "fixed_steps"), ("optimizer.name", "lion"), ("optimizer.nesterov", True)],
)
def test_no_verdict_where_the_claim_does_not_speak(column, value):
    frame = plant_frame("adam", "optimizer.beta1", (0.0, 0.9), 1.0)
    frame[column] = value
    assert verdicts_of(frame) == []
    assert verdicts_of(plant_frame("adam", "optimizer.beta1", (0.9,), 1.0)) == []


def test_intervals_cover_and_carry_what_seeds_move_alike():
    """Shifts that all cells of a seed share leave the ratio of two optima alone; an interval that knows is narrow."""
    runs = tidy_runs(plant_frame("adam", "optimizer.beta1", (0.0, 0.9), 1.0))
    rng, hits, halves = np.random.default_rng(0), [], []
    for shared in (0.0, 0.8):
        for _ in range(100):
            common, groups, num_seeds, sd = rng.normal(size=4), [], 4, 0.1
            for beta1 in (0.0, 0.9):
                cells = []
                for b in BATCH_SIZES:
                    own = sd * (np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.normal(size=num_seeds))
                    lr = 0.03 * (b * (1 + beta1) / (1 - beta1) / 64) ** 0.5 * 2 ** own.mean()
                    shifts = tuple(own - own.mean())
                    cells.append(
                        Optimum(
                            b, lr, lr, lr, "interior", 8, 1.0, sd / num_seeds**0.5, 27.0, {"optimizer.beta1": beta1},
                            seeds=tuple(range(num_seeds)), shifts=shifts, lifts=shifts,
                        )
                    )  # fmt: skip
                groups.append(cells)
            (found,) = check_momentum(runs, groups)
            hits.append(found.numbers["low"] <= 1.0 <= found.numbers["high"])
            halves.append(found.numbers["high"] - found.numbers["low"])
    assert min(np.mean(hits[:100]), np.mean(hits[100:])) >= 0.9
    assert np.median(halves[100:]) < 0.75 * np.median(halves[:100])
