"""Oracle: planted laws, whose optimum at a batch size that was never run is known."""

import numpy as np
import pandas as pd
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
        (["batch_size=1" + "0" * 400], "larger than"),
        (["batch_size=1" + "0" * 5000], "larger than"),
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


def test_a_group_that_bears_no_law_is_named_and_the_others_are_advised_with_the_notes(tmp_path, capsys):
    few = plant_table(root, batch_sizes=(8, 16)).assign(**{"optimizer.name": "sgd"})
    frame = pd.concat([plant_table(root), few], ignore_index=True)
    frame.loc[0, "status"] = "failed"
    frame.to_csv(tmp_path / "runs.csv", index=False)
    assert main(["--runs", str(tmp_path / "runs.csv"), "batch_size=2048"]) == 0
    said = capsys.readouterr().out
    assert "batch size 2048: lr" in said
    assert "sgd: no law to go by" in said
    assert "note: 1 failed run is left out" in said


def test_a_rule_costs_a_factor_in_steps_where_runs_go_to_a_target(tmp_path, capsys):
    frame = plant_table(root).assign(protocol="steps_to_target")
    frame.assign(steps_to_target=np.exp(10 * frame["loss"])).to_csv(tmp_path / "runs.csv", index=False)
    assert main(["--runs", str(tmp_path / "runs.csv"), "batch_size=2048"]) == 0
    said = capsys.readouterr().out
    assert "linear rule from batch size 1024 gives" in said
    assert ", steps x 1" in said
    assert "loss +" not in said


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
