"""Oracle: one seed planted with the very noise of the sweep that lends; the share of intervals that hold the truth."""

import json

import numpy as np
import pytest
from planting import BATCH_SIZES, plant_real_cells, plant_table

from analysis.locate import locate
from analysis.optimum import estimate_group
from analysis.plot import main
from analysis.recommend import main as recommend
from analysis.seed_noise import SeedNoise, is_noisy, lend_noise, pool_noise

TABLES = 150


def root(batch_size):
    return 0.002 * batch_size**0.5


def test_borrowed_intervals_cover_the_truth():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(TABLES):
        coefficient = 0.0018 * 2 ** rng.uniform(-0.375, 0.375)  # the grid lies anew

        def law(b, c=coefficient):
            return c * b**0.5

        lender = [locate(cell) for cell in plant_real_cells(rng, 3, law)]
        noise = pool_noise([item for item in lender if is_noisy(item)])
        borrower = [locate(cell) for cell in plant_real_cells(rng, 1, law)]
        for o in estimate_group(borrower, SeedNoise(noise.batch_sizes, noise.variances, noise.dof, 0.2, "lender")):
            if np.isfinite(o.low):
                hits.append(o.low <= law(o.batch_size) <= o.high)
                assert o.borrowed == "lender"
    print(f"coverage {np.mean(hits):.3f} of {len(hits)} intervals")
    assert len(hits) > 0.7 * TABLES * len(BATCH_SIZES)
    assert 0.9 <= np.mean(hits) <= 0.99


def test_the_planted_variance_is_lent_and_held_beyond_the_batch_sizes_that_were_run():
    lender = plant_table(root, num_seeds=24, sd=0.12)
    noise = lend_noise(lender, "lender", lender[lender["seed"] == 0])
    for batch_size in BATCH_SIZES:
        assert noise.at(batch_size) ** 0.5 == pytest.approx(0.12, rel=0.25)
    assert noise.at(1) == noise.at(8)
    assert noise.at(1 << 20) == noise.at(1024)
    assert noise.dof == pytest.approx(0.75 * 8 * 23 - 1)


def test_of_several_groups_the_one_like_the_borrower_lends():
    quiet, loud = plant_table(root, sd=0.03, seed=1), plant_table(root, sd=0.3, seed=2)
    both = [quiet, loud.assign(**{"optimizer.name": "sgd"})]
    lender = type(quiet)(np.concatenate([f[quiet.columns].to_numpy() for f in both]), columns=quiet.columns)
    lender = lender.infer_objects()
    adam, sgd = (lend_noise(lender, "l", both[i]).at(64) ** 0.5 for i in (0, 1))
    assert adam < 0.06 < 0.15 < sgd


@pytest.fixture
def one_seed(tmp_path, monkeypatch):
    """A table with one seed and its lender with three, in the current folder."""
    monkeypatch.chdir(tmp_path)
    plant_table(root, num_seeds=1, seed=5).to_csv("one.csv", index=False)
    plant_table(root, num_seeds=3, seed=6).to_csv("lender.csv", index=False)
    return tmp_path


def test_without_it_one_seed_is_not_calibrated_and_with_it_it_is_said(one_seed, capsys):
    assert main(["--runs", "one.csv"]) == 0
    assert "not calibrated: one seed" in capsys.readouterr().out
    assert main(["--runs", "one.csv", "--borrow", "lender.csv"]) == 0
    said = capsys.readouterr().out
    assert "not calibrated" not in said
    assert "seed variance borrowed from lender.csv for 8 batch sizes with one seed" in said
    assert "interior, borrowed" in said
    content = json.loads((one_seed / "figures/one.json").read_text())
    assert {o["borrowed"] for o in content["optima"]} == {"lender.csv"}
    assert all(o["low"] < o["lr"] < o["high"] for o in content["optima"])
    assert "seed variance borrowed from lender.csv" in content["caption"]
    assert any("borrowed from lender.csv" in note for note in content["notes"])


def test_advice_from_one_seed_with_borrowed_noise(one_seed, capsys):
    assert recommend(["--runs", "one.csv", "batch_size=2048"]) == 2
    assert "--borrow" in capsys.readouterr().err
    assert recommend(["--runs", "one.csv", "--borrow", "lender.csv", "batch_size=2048"]) == 0
    said = capsys.readouterr().out
    assert "batch size 2048: lr" in said
    assert "borrowed from lender.csv" in said


@pytest.mark.parametrize(
    ("lender", "message"),
    [("one.csv", "no batch size with 2 seeds"), ("no_such_sweep", "is not one of the sweeps"), ("x.csv", "not exist")],
)
def test_a_lender_that_has_none_is_told_in_one_line(one_seed, capsys, lender, message):
    assert main(["--runs", "one.csv", "--borrow", lender]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_several_seeds_borrow_nothing(one_seed, capsys):
    assert main(["--runs", "lender.csv", "--out", "a"]) == 0
    assert main(["--runs", "lender.csv", "--out", "b", "--borrow", "lr_vs_bs"]) == 0
    assert "nothing is borrowed from lr_vs_bs" in capsys.readouterr().out
    plain, asked = (json.loads((one_seed / f / "lender.json").read_text())["optima"] for f in "ab")
    assert plain == asked
