"""Oracle: Gaussian gradients, second moments and weights simulated step by step here; factors planted in them."""

from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.amos import analyse_amos
from analysis.answer import commit_rows, print_answer, write_answer
from analysis.figures.style import PAPER, SCREEN
from analysis.second_moment import analyse_second_moment
from tests.analysis.test_figures import check_boxes
from tests.analysis.test_rms_answers import plant, verdicts_of

STEPS, CHANGE, SIDE = 160, 80, 100
POINTS = np.arange(8, STEPS + 1, 8)
RULES = {"adam": 0.9, "adafactor": 0.8, "adax": 0.01}


@cache
def follow_moments(rule, value, after):
    """RMS of v and of g / sqrt(v), and the error of rank one, at every point of one matrix, its entries apart."""
    rng = np.random.default_rng(0)
    v = weight = 0.0
    found = []
    for t in range(1, STEPS + 1):
        g = (1.0 if t <= CHANGE else after) * rng.normal(size=(SIDE, SIDE))
        if rule == "adam":
            weight = value * weight + 1 - value
            v = value * v + (1 - value) * g**2
        elif rule == "adafactor":
            v, weight = v + t**-value * (g**2 - v), 1.0
        else:  # a sum with growing weights, over their sum
            v, weight = v + (1 + value) ** -t * g**2, weight + (1 + value) ** -t
        if t in POINTS:
            seen = v / weight
            u = np.sqrt(np.mean(g**2 / seen))
            near = seen.sum(1, keepdims=True) * seen.sum(0) / seen.sum()
            found.append((seen.mean() ** 0.5, min(u, 1.0) if rule == "adafactor" else u, np.std(np.log(near / seen))))
    return np.array(found).T


def plant_moments(factor=1.0):
    rows = []
    for after in (0.1, 10.0):
        for rule, value in RULES.items():
            v, u, error = follow_moments(rule, value, after)
            v = v * np.where(POINTS == CHANGE + 8, factor, 1.0)
            rows.append({
                "optimizer.name": rule, "optimizer.beta2": np.nan if rule == "adafactor" else value,
                "optimizer.beta2_decay": value if rule == "adafactor" else np.nan, "optimizer.clip": 1.0,
                "task.change_at": CHANGE, "task.std_after": after, "num_steps": STEPS, "history.step": POINTS,
                "history.second_moment_rms.w": v, "history.update_rms.w": u, "history.rank_one_error.w": error,
            })  # fmt: skip
    for rule, value in (("adam", 0.9), ("adax", 0.01)):
        for lr, loss in ((0.01, 2.5), (0.02, 2.25)):
            rows.append({
                "optimizer.name": rule, "optimizer.beta2": value, "optimizer.lr": lr, "loss": loss,
                "task.name": "python_source", "task.change_at": np.nan, "num_steps": STEPS, "history.step": POINTS,
                "history.update_rms.hidden.weight": np.where(POINTS > 120, 0.75, 7.0),
                **{f"rank_one_error.{name}.weight": 0.25 for name in ("embedding", "hidden", "output")},
                **{f"rank_one_share.{name}.weight": 0.5 for name in ("embedding", "hidden", "output")},
            })  # fmt: skip
    return plant(rows)


@cache
def follow_amos(damping, momentum):
    """Sizes of weights whose updates are signs of noise: the mean square is then 1 at every step."""
    rng = np.random.default_rng(1)
    lr, start, b = 0.05, 0.2, 0.0
    w, m, path = np.full(3000, start), 0.0, []
    for t in range(800):
        path.append(np.sqrt(np.mean(w**2)))
        decay = lr**2 / (1 + 0.25 * lr**0.5 * b) ** 0.5 if damping == "adaptive" else lr**2
        way = lr * 0.1 * t
        damped = {
            "adaptive": 1 / (1 + 0.25 * (lr * start) ** 0.5 * b), "inverse_square": (1 + way) ** -2,
            "inverse_time": 1 / (1 + 2 * way),
        }[damping]  # fmt: skip
        b += decay * (1 + b)
        signs = 2.0 * rng.integers(0, 2, 3000) - 1
        m = momentum * m + (1 - momentum) * damped * (lr * start * signs + decay / 2 * w)
        w = w - m
    return np.array(path)


def plant_amos(factor=1.0):
    rows = []
    for damping in ("adaptive", "inverse_square", "inverse_time"):
        for momentum in (0.0, 0.9):
            steps = np.arange(20, 801, 20)
            path = follow_amos(damping, momentum) * np.where(np.arange(800) == 399, factor, 1.0)
            rows.append({
                "optimizer.name": "amos", "optimizer.damping": damping, "optimizer.lr": 0.05,
                "optimizer.alignment": 0.1,
                "optimizer.momentum": momentum, "optimizer.c_coef": 0.25, "optimizer.d_coef": 0.25, "num_steps": 800,
                "task.start": 0.2, "task.width": 40, "loss": 0.0, "history.step": steps,
                "history.weight_rms.w": path[steps - 1],
            })  # fmt: skip
    text = {
        **rows[0], "task.name": "python_source", "model.hidden": 64, "model.embedding": 16, "task.context": 8,
        "loss": 2.5,
    }  # fmt: skip
    text.pop("history.weight_rms.w")
    rows.append({**text, "history.weight_rms.output.weight": np.full(40, 1 / 192**0.5)})
    return plant(rows)


PLANTED = {"second_moment": (analyse_second_moment, plant_moments), "amos": (analyse_amos, plant_amos)}


@pytest.mark.parametrize("name", PLANTED)
def test_what_follows_the_laws_is_confirmed(name):
    analyse, planted = PLANTED[name]
    found = verdicts_of(analyse(name, planted(), "Why?", None))
    if name == "amos":
        assert found.pop("amos-constant") == {"confirmed", "refuted"}
    else:
        assert set(found) == {"beta2", "beta2-update", "rank-one-noise"}
    assert set().union(*found.values()) == {"confirmed"}, found


@pytest.mark.parametrize(("name", "claim"), [("second_moment", "beta2"), ("amos", "amos")])
def test_one_point_that_misses_them_refutes(name, claim):
    analyse, planted = PLANTED[name]
    verdicts = [v for v in analyse(name, planted(factor=1.2), "", None).verdicts if v.claim == claim]
    seen = [v for v in verdicts if not str(v.group.get("case")).startswith("text")]
    assert {v.verdict for v in seen} == {"refuted"}
    assert all(v.numbers["ratio"] == pytest.approx(1.2, rel=0.05) for v in seen)


def test_noise_alone_sinks_under_dampings_that_leave_weight_decay_as_it_is():
    verdicts = analyse_amos("amos", plant_amos(), "", None).verdicts
    constant = {
        v.group["optimizer.damping"]: v for v in verdicts if v.claim == "amos-constant" and "pure" in str(v.group)
    }
    assert {name: v.verdict for name, v in constant.items()} == {
        "adaptive": "confirmed", "inverse_square": "refuted", "inverse_time": "refuted",
    }  # fmt: skip
    assert constant["inverse_time"].numbers["low"] < 0.9


def test_scores_say_how_fast_each_rule_forgets_and_what_text_gave():
    scores = analyse_second_moment("m", plant_moments(), "", None).scores
    walks = scores[scores["case"] == "1 to 0.1"].set_index("rule")
    assert walks.loc["adam 0.9", "half way"] == pytest.approx(np.log(0.5) / np.log(0.9), abs=1.0)
    assert np.isnan(walks.loc["adax 0.01", "law"])  # 31 % of its weight by the end
    text = scores[scores["case"] == "text"].set_index("rule").loc["adam 0.9"]
    assert (text["lr"], text["loss"], text["late u"]) == (0.02, 2.25, 0.75)
    assert text["error"] == ".25/.25/.25"


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
@pytest.mark.parametrize("name", PLANTED)
def test_figures_keep_their_texts_apart(name, style):
    analyse, planted = PLANTED[name]
    answer = analyse(name, planted(), "Does it follow from what is measured? " * 3, None)
    with mpl.rc_context(style.rc):
        for draw in answer.figures.values():
            check_boxes(draw(style))


@pytest.mark.parametrize("name", PLANTED)
def test_committed_rows_answer_the_same(name, tmp_path, monkeypatch, capsys):
    analyse, planted = PLANTED[name]
    answer = analyse(name, planted(), "Why?", None)
    monkeypatch.setattr("analysis.answer.SWEEPS_DIR", tmp_path)
    assert "wrote" in commit_rows(answer)
    again = analyse(name, pd.read_csv(tmp_path / f"{name}.csv"), "Why?", None)
    assert [v.verdict for v in again.verdicts] == [v.verdict for v in answer.verdicts]
    pd.testing.assert_frame_equal(again.scores, answer.scores, rtol=1e-4)
    print_answer(again)
    assert answer.verdicts[0].claim in capsys.readouterr().out
    assert {path.suffix for path in write_answer(again, tmp_path / "out")} == {".png", ".svg", ".json"}


@pytest.mark.parametrize("name", PLANTED)
def test_a_table_without_such_runs_is_told(name):
    analyse, planted = PLANTED[name]
    with pytest.raises(ValueError, match="has ended"):
        analyse(name, planted().assign(status="failed"), "", None)
