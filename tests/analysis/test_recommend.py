"""Oracle: planted laws, whose optimum at a batch size that was never run is known."""

import numpy as np
import pytest

from analysis.analyse import analyse_runs
from analysis.recommend import advise_lr, main
from tests.analysis.planting import plant_table


def root(batch_size):
    return 0.002 * batch_size**0.5


@pytest.mark.parametrize("batch_size", [2, 100, 4096])
def test_the_interval_holds_the_planted_optimum(batch_size):
    hits = 0
    for seed in range(4):
        answer = analyse_runs("s", plant_table(root, seed=seed)).groups[0]
        advice = advise_lr(answer, batch_size)
        hits += advice.low <= root(batch_size) <= advice.high
        assert all(low <= lr <= high for _, lr, low, high in advice.laws)
    assert hits >= 3


def test_rules_start_from_the_nearest_and_cost_what_the_curve_says():
    answer = analyse_runs("s", plant_table(root)).groups[0]
    advice = advise_lr(answer, 4096)
    assert (advice.beyond, advice.nearest.batch_size) == (4.0, 1024)
    linear, cost = advice.rules["linear"]
    assert linear == pytest.approx(4 * advice.nearest.lr)
    # the planted curve is .04 x^2 / 2 octaves around its minimum, to second order
    assert cost == pytest.approx(0.02 * np.log2(linear / advice.lr) ** 2, rel=0.3)
    assert cost > 10 * advice.rules["square-root"][1]


def test_one_seed_gives_no_advice(tmp_path, capsys):
    frame = plant_table(root)
    frame[frame["seed"] == 0].to_csv(tmp_path / "one.csv", index=False)
    assert main(["--runs", str(tmp_path / "one.csv"), "batch_size=2048"]) == 2
    assert "one seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["batch_size=x"], "no whole number above zero"),
        (["batch=8"], "'batch' is no setting (did you mean batch_size?)"),
        (["batch_size=2", "num_sampls=8"], "did you mean num_samples?"),
        (["num_samples=8"], "no whole number above zero"),
        (["batch_size=2", "num_samples=8"], "num_samples=8 has no runs"),
        (["batch_size=2", "width=8"], "'width' is no column"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, settings, message):
    plant_table(root).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["--runs", str(tmp_path / "runs.csv"), *settings]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_the_source_is_told(tmp_path, capsys):
    plant_table(root).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["--runs", str(tmp_path / "runs.csv"), "batch_size=64"]) == 0
    assert capsys.readouterr().out.startswith(f"runs: {tmp_path / 'runs.csv'}")


def test_a_folder_of_sweeps_names_those_inside(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        plant_table(root).to_parquet(tmp_path / name / "stack-a-0.parquet")
    assert main(["--runs", str(tmp_path), "batch_size=2"]) == 2
    assert f"give one of {tmp_path}/one, {tmp_path}/two" in capsys.readouterr().err
