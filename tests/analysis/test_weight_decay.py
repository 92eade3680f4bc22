"""Oracle: tables with a parabola in log2 of weight decay whose minimum follows a planted power law, and noise."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.answer import commit_rows, print_answer, write_answer
from analysis.figures.style import PAPER, SCREEN
from analysis.weight_decay import analyse_weight_decay, covary, fit_slopes, judge_kappa, locate_optima
from tests.analysis.test_figures import check_boxes

DECAYS = 2.0 ** np.arange(-8, 6)


def plant(on_steps=-1.0, on_lr=-1.0, noise=3e-4, seeds=3, rates=(0.01, 0.02, 0.04), kappa=1.5):
    """Runs with loss 2 + .02 (log2 weight_decay - x)^2, x by kappa at lr .02 and T 400, and with such slopes."""
    rng, rows = np.random.default_rng(0), []
    for lr in rates:
        for steps in (200, 400, 800):
            x = np.log2(kappa / (0.02 * 400)) + on_steps * np.log2(steps / 400) + on_lr * np.log2(lr / 0.02)
            for seed in range(seeds):
                shift = 0.1 * rng.normal()
                rows += [
                    {"run_id": f"run{len(rows) + i}", "status": "done", "protocol": "fixed_steps", "seed": seed,
                     "batch_size": 8, "num_steps": steps, "task.name": "toy", "model.name": "toy",
                     "schedule.name": "linear", "optimizer.name": "adamw", "optimizer.lr": lr,
                     "optimizer.weight_decay": decay,
                     "loss": 2 + 0.02 * (np.log2(decay) - x - shift) ** 2 + noise * rng.normal()}
                    for i, decay in enumerate(DECAYS)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def verdicts_of(answer):
    return {v.group["against"]: v for v in answer.verdicts}


def test_in_inverse_proportion_to_both_it_is_confirmed_and_the_constant_found():
    answer = analyse_weight_decay("w", plant(), "Why?", None)
    assert {v.verdict for v in answer.verdicts} == {"confirmed"}
    for v in answer.verdicts:
        assert v.numbers["exponent"] == pytest.approx(-1, abs=0.15)
        assert v.numbers["kappa"] == pytest.approx(1.5, rel=0.15)
    assert np.allclose(answer.scores["kappa"], 1.5, rtol=0.4)


def test_the_two_slopes_are_told_apart():
    found = verdicts_of(analyse_weight_decay("w", plant(on_lr=0.0), "Why?", None))
    assert (found["steps"].verdict, found["lr"].verdict) == ("confirmed", "refuted")
    assert found["lr"].numbers["exponent"] == pytest.approx(0, abs=0.15)
    found = verdicts_of(analyse_weight_decay("w", plant(on_steps=-0.5), "Why?", None))
    assert (found["steps"].verdict, found["lr"].verdict) == ("refuted", "confirmed")


def test_intervals_hold_the_planted_slopes():
    held = []
    for seed in range(16):
        frame = plant(on_lr=-0.6, noise=0.0)
        rng = np.random.default_rng(seed)
        for _, own in frame.groupby(["optimizer.lr", "num_steps", "seed"]):
            frame.loc[own.index, "loss"] += 0.01 * rng.normal() * np.log2(DECAYS)  # moves the minimum of a seed
        slopes = fit_slopes(locate_optima(frame))
        held += [slopes[name][1] <= value <= slopes[name][2] for name, value in (("num_steps", -1), ("lr", -0.6))]
    assert np.mean(held) > 0.8


def test_intervals_carry_what_cells_of_several_lr_share():
    held, scale = [], 0.01
    for seed in range(16):
        frame = plant(noise=0.0)
        rng = np.random.default_rng(seed)
        for _, own in frame.groupby(["seed", "num_steps"]):  # one shift for all lr
            x = np.log2(own["optimizer.weight_decay"])
            frame.loc[own.index, "loss"] += scale * rng.normal() * x
        low, high = fit_slopes(locate_optima(frame))["num_steps"][1:]
        held.append(low <= -1 <= high)
    assert np.mean(held) > 0.85
    optima = [o for o in locate_optima(frame) if o.status == "interior"]  # the last frame
    covariance = covary(optima)
    apart = [(i, j) for i in range(len(optima)) for j in range(i) if optima[i].group != optima[j].group]
    assert min(covariance[i, j] for i, j in apart) > 0
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_an_interval_across_the_tolerance_is_inconclusive():
    slopes = {"num_steps": (-0.73, -1.12, -0.33), "lr": (-0.9, -1.1, -0.8), "constant": (1.0, 0.5, 2.0)}
    assert [v.verdict for v in judge_kappa(slopes)] == ["inconclusive", "confirmed"]
    assert judge_kappa(slopes | {"lr": (-0.5, -0.7, -0.3)})[1].verdict == "refuted"


def test_a_cell_at_an_edge_is_told_and_not_fitted():
    frame = plant()
    edge = (frame["optimizer.lr"] == 0.01) & (frame["num_steps"] == 200) & (frame["optimizer.weight_decay"] > 0.3)
    answer = analyse_weight_decay("w", frame[~edge], "Why?", None)
    status = answer.scores.set_index(["lr", "num_steps"])["status"]
    assert status[(0.01, 200)] == "edge_high"
    assert (status.drop((0.01, 200)) == "interior").all()
    assert all(v.numbers["exponent"] == pytest.approx(-1, abs=0.2) for v in answer.verdicts)


def test_runs_of_one_lr_decide_nothing():
    answer = analyse_weight_decay("w", plant(rates=(0.02,)), "Why?", None)
    assert {v.verdict for v in answer.verdicts} == {"inconclusive"}


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
def test_the_figure_keeps_its_texts_apart(style):
    answer = analyse_weight_decay("w", plant(), "Is it the same constant for all of them? " * 3, None)
    with mpl.rc_context(style.rc):
        check_boxes(answer.figures[""](style))


def test_committed_rows_answer_the_same(tmp_path, monkeypatch, capsys):
    answer = analyse_weight_decay("weight_decay", plant(), "Why?", None)
    monkeypatch.setattr("analysis.answer.SWEEPS_DIR", tmp_path)
    assert "wrote" in commit_rows(answer)
    again = analyse_weight_decay("weight_decay", pd.read_csv(tmp_path / "weight_decay.csv"), "Why?", None)
    assert [v.verdict for v in again.verdicts] == [v.verdict for v in answer.verdicts]
    print_answer(again)
    assert "kappa" in capsys.readouterr().out
    assert {path.suffix for path in write_answer(again, tmp_path / "out")} == {".png", ".svg", ".json"}


def test_a_table_without_such_runs_is_told():
    with pytest.raises(ValueError, match="has ended"):
        analyse_weight_decay("w", plant().assign(status="failed"), "", None)
