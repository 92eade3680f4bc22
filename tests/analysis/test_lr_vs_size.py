"""Oracle: tables with a parabola in log2 of the learning rate whose minimum is a planted power of width, and noise."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.answer import commit_rows, print_answer, write_answer
from analysis.figures.style import PAPER, SCREEN
from analysis.lr_vs_size import analyse_lr_vs_size
from tests.analysis.test_figures import check_boxes

RATES = 2.0 ** np.arange(-12, -2, 0.75)


def plant(standard=-1.0, mup=0.0, noise=3e-4, seeds=2, random=0, shifts=0.05):
    """Runs with loss 2 + .03 (log2 lr - x)^2, x = -6.2 + exponent log2(width / 16) + what the seed adds."""
    rng, rows = np.random.default_rng(random), []
    for name, exponent in (("standard", standard), ("mup", mup)):
        own = shifts * rng.normal(size=seeds)
        for width in (16, 32, 64, 128):
            x = -6.2 + exponent * np.log2(width / 16)
            for seed in range(seeds):
                rows += [
                    {"run_id": f"run{len(rows) + i}", "status": "done", "protocol": "fixed_samples", "seed": seed,
                     "batch_size": 32, "num_steps": 128, "num_samples": 4096, "task.name": "python_source",
                     "model.name": "gpt", "model.width": width, "model.parametrization": name,
                     "optimizer.name": "adam", "optimizer.lr": lr,
                     "loss": 2 + 0.03 * (np.log2(lr) - x - own[seed]) ** 2 + noise * rng.normal()}
                    for i, lr in enumerate(RATES)
                ]  # fmt: skip
    return pd.DataFrame(rows)


def verdicts_of(answer):
    return {v.claim: v for v in answer.verdicts}


def test_planted_powers_of_width_are_found_and_confirmed():
    found = verdicts_of(analyse_lr_vs_size("s", plant()))
    assert {claim: v.verdict for claim, v in found.items()} == {"width-lr": "confirmed", "mup": "confirmed"}
    assert found["width-lr"].numbers["exponent"] == pytest.approx(-1, abs=0.1)
    assert found["mup"].numbers["exponent"] == pytest.approx(0, abs=0.1)


def test_others_are_refuted_and_what_is_not_located_is_told():
    found = verdicts_of(analyse_lr_vs_size("s", plant(standard=-0.5, mup=-0.5)))
    assert {v.verdict for v in found.values()} == {"refuted"}
    frame = plant()
    few = frame[(frame["model.parametrization"] == "standard") | (frame["model.width"] < 64)]
    assert "fewer than 3 widths" in verdicts_of(analyse_lr_vs_size("s", few))["mup"].reason
    with pytest.raises(ValueError, match="sweep=lr_vs_size has such runs"):
        analyse_lr_vs_size("s", frame.assign(**{"model.name": "ngram"}))


def test_intervals_hold_the_planted_exponent():
    held = []
    for random in range(20):
        for v in analyse_lr_vs_size("s", plant(standard=-0.7, mup=0.1, random=random, noise=3e-3)).verdicts:
            planted = -0.7 if v.claim == "width-lr" else 0.1
            held.append(v.numbers["low"] <= planted <= v.numbers["high"])
    assert np.mean(held) >= 0.85


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
def test_the_figure_keeps_its_texts_apart(style):
    answer = analyse_lr_vs_size("s", plant(), "Does the best learning rate stay where it is when a model grows wider?")
    with mpl.rc_context(style.rc):
        check_boxes(answer.figures[""](style))


def test_committed_rows_answer_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("analysis.answer.SWEEPS_DIR", tmp_path)
    answer = analyse_lr_vs_size("s", plant(), "Why?")
    commit_rows(answer)
    again = analyse_lr_vs_size("s", pd.read_csv(tmp_path / "s.csv"), "Why?")
    for one, other in zip(answer.verdicts, again.verdicts, strict=True):
        assert one.verdict == other.verdict
        assert one.numbers == pytest.approx(other.numbers, rel=1e-6, abs=1e-6)
    print_answer(answer)
    assert "width-lr" in capsys.readouterr().out
    assert [path.suffix for path in write_answer(answer, tmp_path / "out", SCREEN)] == [".png", ".svg", ".json"]
