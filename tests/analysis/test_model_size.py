"""Oracle: planted truth; powers of model and data size, .5 % noise on every loss, and a model four times as large."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis.fit_points import Points, fit_points, predict_point
from analysis.laws.sizes import POINT_LAWS
from analysis.model_size import analyse_sizes, describe_misfit, main

LOSS = {
    "irreducible_loss": 1.7, "params_coefficient": 60.0, "params_exponent": 0.34, "samples_coefficient": 80.0,
    "samples_exponent": 0.28,
}  # fmt: skip
RATE = {"coefficient": 2.0, "params_exponent": -0.3, "samples_exponent": -0.1}
SIZES = [1e5 * 4**i for i in range(4)]
SAMPLES = [1e6 * 4**i for i in range(4)]
NOISE = 0.005


def plant_sizes(seed=0, num_seeds=3, batch_sizes=(64,), sizes=SIZES):
    rng = np.random.default_rng(seed)
    rows = []
    for n, d, b in itertools.product(sizes, SAMPLES, batch_sizes):
        best = np.log2(POINT_LAWS["lr_power"].predict(n, d, **RATE) * (b / 64) ** 0.5)
        lowest = POINT_LAWS["loss_power"].predict(n, d, **LOSS)
        for x, s in itertools.product(np.round(best) + np.arange(-4, 5), range(num_seeds)):
            loss = lowest * (1 + 0.03 * (x - best) ** 2) * np.exp(NOISE * rng.normal())
            rows.append((n, d, b, 2.0**x, s, loss, "fixed_samples"))
    columns = ["num_params", "num_samples", "batch_size", "lr", "seed", "loss", "protocol"]
    return pd.DataFrame(rows, columns=columns)


def covers(params, truth):
    return [params[name].low <= value <= params[name].high for name, value in truth.items()]


def test_powers_of_a_table_lie_within_their_intervals_as_often_as_they_say():
    hits, near = [], []
    for seed in range(30):
        loss, rate = analyse_sizes(plant_sizes(seed))
        hits.append(covers(loss.fit.params, LOSS) + covers(rate.fit.params, RATE))
        near.append(abs(loss.fit.params["params_exponent"].value - LOSS["params_exponent"]))
    assert np.all(np.mean(hits, axis=0) >= 0.8), np.mean(hits, axis=0)
    assert 0.90 <= np.mean(hits) <= 0.99, np.mean(hits)
    assert np.median(near) < 0.02


def test_points_with_known_errors_cover_and_predict_a_model_four_times_as_large():
    law, rng = POINT_LAWS["loss_power"], np.random.default_rng(1)
    x = np.array(list(itertools.product(SIZES, SAMPLES))).T
    larger = np.array([[4 * SIZES[-1]], [SAMPLES[-1]]])
    hits = []
    for _ in range(200):
        y = law.predict(*x, **LOSS) * np.exp(NOISE * rng.normal(size=16))
        fit = fit_points(law, Points(x, y, np.full(16, NOISE), np.eye(16), np.inf))
        said = predict_point(fit, larger)[0]
        hits.append([*covers(fit.params, LOSS), said.low <= law.predict(*larger, **LOSS)[0] <= said.high])
    assert ((np.mean(hits, axis=0) > 0.90) & (np.mean(hits, axis=0) < 0.985)).all(), np.mean(hits, axis=0)


def test_the_largest_model_is_scored_by_the_smaller_ones():
    loss, rate = analyse_sizes(plant_sizes())
    assert len(loss.largest) == len(SAMPLES)
    assert {x[0] for x, _, _ in loss.largest} == {SIZES[-1]}
    assert max(abs(np.log(y / e.value)) for _, y, e in loss.largest) < 4 * NOISE
    assert 0 < loss.left_out < 4 * NOISE
    assert all(e.low < e.value < e.high for _, _, e in (*loss.largest, *rate.largest))


def test_the_largest_model_takes_no_part_in_its_own_prediction():
    frame = plant_sizes()
    higher = frame.assign(loss=frame["loss"].where(frame["num_params"] < SIZES[-1], 1.1 * frame["loss"]))
    (before, _), (after, _) = analyse_sizes(frame), analyse_sizes(higher)
    for (_, y, e), (_, y_higher, e_same) in zip(before.largest, after.largest, strict=True):
        assert y_higher == pytest.approx(1.1 * y, rel=1e-6)
        assert e_same.value == pytest.approx(e.value, rel=1e-6)
    assert after.left_out > 0.03 > before.left_out


def test_one_seed_takes_its_error_from_the_misfit():
    loss, rate = analyse_sizes(plant_sizes(num_seeds=1))
    assert np.isnan(loss.fit.chi2)
    assert sum(covers(loss.fit.params, LOSS) + covers(rate.fit.params, RATE)) >= 7


def test_the_joint_power_finds_the_exponent_of_the_batch_size():
    frame = plant_sizes(batch_sizes=(32, 64, 128), sizes=SIZES[:3])
    *_, joint = analyse_sizes(frame)
    assert covers(joint.fit.params, {**RATE, "coefficient": RATE["coefficient"] / 8, "batch_exponent": 0.5}) == [1] * 4


def test_sizes_that_move_together_and_too_few_sizes_are_refused_with_the_reason():
    frame = plant_sizes()
    tied = frame[np.isclose(frame["num_samples"], 10 * frame["num_params"])]
    loss, rate = analyse_sizes(tied)
    assert loss.fit.refused == "5 parameters need at least 7 points; there are 4"
    assert rate.fit.refused == "3 parameters need at least 5 points; there are 4"
    x = np.array([[n, 20 * n] for n in np.geomspace(1e5, 1e7, 9)]).T
    points = Points(x, np.ones(9), np.ones(9), np.eye(9), np.inf)
    assert "move together" in fit_points(POINT_LAWS["lr_power"], points).refused
    loss, _ = analyse_sizes(frame[frame["num_params"].isin(SIZES[:2])])
    assert loss.fit.refused == "E + A/N^α + B/D^β needs at least 3 values of num_params; there are 2"


def test_one_wild_point_moves_the_plain_fit_and_not_the_robust_one():
    law, rng = POINT_LAWS["lr_power"], np.random.default_rng(2)
    x = np.array(list(itertools.product(SIZES, SAMPLES))).T
    y = law.predict(*x, **RATE) * np.exp(0.05 * rng.normal(size=16))
    y[0] *= 4
    points = Points(x, y, np.full(16, 0.05), np.eye(16), np.inf)
    plain, robust = (fit_points(law, points, robust=robust) for robust in (False, True))
    assert abs(plain.params["params_exponent"].value - RATE["params_exponent"]) > 0.05
    assert abs(robust.params["params_exponent"].value - RATE["params_exponent"]) < 0.025
    assert covers(robust.params, RATE) == [1, 1, 1]


def test_the_command_prints_the_laws_and_tells_mistakes_in_one_line(tmp_path, capsys):
    table = tmp_path / "sizes.csv"
    plant_sizes().to_csv(table, index=False)
    assert main(["--runs", str(table), "--out", str(tmp_path / "sizes.json")]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"sizes: {table}")
    assert "loss = E + A/N^α + B/D^β, 16 points" in text
    assert "from smaller models, num_params 6.4e+06" in text
    assert '"lr_power"' in (tmp_path / "sizes.json").read_text()
    plant_sizes().drop(columns="num_params").to_csv(table, index=False)
    assert main(["--runs", str(table)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("column", ["optimizer.name"])
def test_a_column_that_also_varies_is_to_be_chosen(column):
    frame = pd.concat([plant_sizes().assign(**{column: name}) for name in ("adam", "sgd")])
    with pytest.raises(ValueError, match="choose one by optimizer.name=adam"):
        analyse_sizes(frame)


def test_several_models_of_one_size_and_losses_without_a_logarithm_are_refused():
    frame = pd.concat([plant_sizes().assign(**{"model.depth": depth}) for depth in (2, 4)])
    with pytest.raises(ValueError, match=r"several models of num_params=100000 \(model.depth 2, 4\)"):
        analyse_sizes(frame)
    with pytest.raises(ValueError, match="losses of 0 and less"):
        analyse_sizes(plant_sizes().assign(loss=lambda rows: rows["loss"] - rows["loss"].min()))


def test_the_command_names_the_cells_that_it_leaves_out(tmp_path, capsys):
    frame = plant_sizes()
    low = (frame["num_params"] == SIZES[-1]) & (frame["num_samples"] == SAMPLES[0])
    lrs = frame[low]["lr"].sort_values().unique()
    frame[~low | frame["lr"].isin(lrs[:4])].to_csv(tmp_path / "sizes.csv", index=False)
    assert main(["--runs", str(tmp_path / "sizes.csv")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "note: num_params 6.4e+06, num_samples 1e+06, batch size 64 is left out: the best lr is" in said


def test_a_law_that_misfits_names_a_better_one():
    frame = plant_sizes(batch_sizes=(32, 64, 128), sizes=SIZES[:3])
    answers = analyse_sizes(frame)
    *_, plain, joint = answers
    assert describe_misfit(joint, answers) == ""
    bad = replace(plain, fit=replace(plain.fit, chi2=100.0))
    assert "lr_power_batch fits better" in describe_misfit(bad, [bad, joint])
    assert "no law here fits better" in describe_misfit(bad, [bad])
