"""Oracle: planted optima whose steps are e to the power of planted losses; censoring and its words by hand."""

import io
import json

import numpy as np
import pandas as pd
import pytest
from planting import BATCH_SIZES, plant_table
from rich.console import Console

from analysis.analyse import analyse_runs
from analysis.drawing import draw
from analysis.report import print_report


def plant_steps(**changed):
    """The planted losses of fixed_samples, read as ln steps; held-out losses are all alike and say nothing."""
    frame = plant_table(lambda b: 0.002 * b**0.5)
    objective = frame["loss"]
    target = {"target_loss": 2.5, "max_steps": 100, "censored": False, "loss": 2.49, "num_steps": 100}
    frame = frame.assign(protocol="steps_to_target", steps_to_target=np.exp(objective), **target)
    frame["num_samples"] = frame["num_steps"] * frame["batch_size"]
    return frame.assign(samples_to_target=frame["steps_to_target"] * frame["batch_size"], **changed)


def censor(frame, rows):
    frame.loc[rows, ["steps_to_target", "samples_to_target"]] = np.nan
    frame.loc[rows, "censored"] = True
    return frame


def test_the_optimum_is_that_of_the_logarithm_of_steps():
    steps = analyse_runs("s", plant_steps()).groups
    losses = analyse_runs("s", plant_table(lambda b: 0.002 * b**0.5)).groups
    assert len(steps) == 1
    for ours, theirs in zip(steps[0].optima, losses[0].optima, strict=True):
        assert (ours.lr, ours.low, ours.high, ours.loss) == pytest.approx(
            (theirs.lr, theirs.low, theirs.high, theirs.loss), rel=1e-9
        )
    assert steps[0].comparison.best == "sqrt"
    assert {verdict.claim for verdict in steps[0].verdicts} == {"hyperbola"}  # sde-slope is about a number of samples


def test_report_figure_and_json_speak_of_steps(tmp_path):
    drawn = draw("s", plant_steps(), tmp_path)
    text = io.StringIO()
    print_report(drawn.analysis, Console(file=text, width=200))
    assert "target loss 2.5 · at most 100 steps" in text.getvalue()
    assert "steps" in text.getvalue().split("best lr")[1].split("\n")[0]
    assert "claim hyperbola under steps_to_target" in text.getvalue()
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["protocol"] == "steps_to_target"
    assert {verdict["claim"] for verdict in content["verdicts"]} == {"hyperbola"}
    assert all("loss" not in o and 6 < o["steps_to_target"] < 9 for o in content["optima"])
    from analysis.figures import FIGURES

    left, _ = FIGURES["optimum"](drawn.analysis).axes
    assert left.get_ylabel() == "steps to loss 2.5"
    assert left.get_title() == "steps to loss 2.5 against learning rate"


def test_censored_runs_are_never_best_and_end_the_window():
    frame = plant_steps()
    best = frame.loc[frame[frame["batch_size"] == 64]["steps_to_target"].idxmin(), "optimizer.lr"]
    grid = sorted(frame["optimizer.lr"].unique())
    beyond = grid[grid.index(best) + 1]
    rows = (frame["batch_size"] == 64) & (frame["optimizer.lr"] >= beyond) & (frame["seed"] == 0)
    analysis = analyse_runs("s", censor(frame, rows))
    cell = next(o for o in analysis.groups[0].optima if o.batch_size == 64)
    assert cell.status == "edge_high"
    assert f"a seed did not reach the target at lr {beyond:.3g}: raise max_steps, or add" in cell.note
    assert f"{rows.sum()} censored" in analysis.caption


def test_a_cell_that_never_arrives_is_told_and_a_sweep_that_never_does_is_no_figure(tmp_path):
    frame = censor(plant_steps(), plant_steps()["batch_size"] == 8)
    cell = analyse_runs("s", frame).groups[0].optima[0]
    assert (cell.batch_size, cell.status) == (8, "flat")
    assert "no learning rate brought every seed to the target: raise max_steps or target_loss" in cell.note
    draw("s", frame, tmp_path)
    with pytest.raises(ValueError, match="no run that reached its target: raise max_steps"):
        analyse_runs("s", censor(plant_steps(), frame.index))
    with pytest.raises(ValueError, match="before the first step: lower target_loss"):
        analyse_runs("s", plant_steps(steps_to_target=0.0))
    with pytest.raises(ValueError, match="no column 'steps_to_target'"):
        analyse_runs("s", plant_steps().drop(columns="steps_to_target"))


def test_a_diverged_run_is_called_diverged():
    frame = plant_steps()
    best = frame.groupby(["batch_size", "optimizer.lr"])["steps_to_target"].mean()[8].idxmin()
    rows = (frame["batch_size"] == 8) & (frame["optimizer.lr"] < best)
    frame.loc[rows, ["status", "loss", "steps_to_target"]] = ["diverged", np.nan, np.nan]
    cell = analyse_runs("s", frame).groups[0].optima[0]
    assert cell.status == "edge_low"
    assert "a seed diverged at lr" in cell.note


def test_targets_are_groups_and_protocols_may_mix(tmp_path):
    easy = plant_steps(target_loss=3.0)
    easy["run_id"] += "easy"
    easy["steps_to_target"] /= 2
    both = pd.concat([plant_steps(), easy], ignore_index=True)
    answers = analyse_runs("s", both).groups
    assert [answer.label for answer in answers] == ["target_loss=2.5", "target_loss=3"]
    assert np.exp(answers[0].optima[0].loss - answers[1].optima[0].loss) == pytest.approx(2, rel=1e-6)
    draw("s", both, tmp_path)
    mixed = pd.concat([plant_steps(), plant_table(lambda b: 0.002 * b**0.5)], ignore_index=True)
    analysis = draw("s", mixed, tmp_path).analysis
    assert len(analysis.groups) == 2
    content = json.loads((tmp_path / "s.json").read_text())
    assert sum("loss" in o for o in content["optima"]) == sum("steps_to_target" in o for o in content["optima"])
    assert len(content["optima"]) == 2 * len(BATCH_SIZES)


def test_the_heldout_variance_is_that_of_the_examples_that_the_crossing_is_seen_on():
    """A quarter of HELDOUT_VARIANCE's 4096 examples: twice its .075 octave, in every optimum and between any two."""

    def standard_error(**changed):
        optimum = analyse_runs("s", plant_steps(**{"task.num_heldout": 1 << 40, **changed})).groups[0].optima[0]
        return optimum.sd_log2**2, optimum.covariance[16]

    none, some, exact = (np.array(standard_error(**c)) for c in ({}, {"target_examples": 1024},
        {"target_examples": 1024, "task.num_heldout": 1}))  # fmt: skip
    assert some - none == pytest.approx([0.15**2] * 2, rel=1e-4)
    assert exact == pytest.approx(none, abs=1e-9)
