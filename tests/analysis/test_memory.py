"""Oracle: tables in which memory follows the law, written out here once more, or misses it by what is planted."""

from dataclasses import replace
from functools import cache

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.answer import commit_rows, print_answer, write_answer
from analysis.figures.style import PAPER, SCREEN
from analysis.laws.memory import batch_weights
from analysis.memory import analyse_memory
from analysis.memory_claims import compare_halves
from analysis.memory_fit import Cell, compare_shape, fit_extra, fit_multiple, whiten
from tests.analysis.test_figures import check_boxes

STEPS, BINS, LR = 256, 16, 2.0**-8
SCHEDULES = {
    "constant": lambda t, rate: np.ones_like(t), "linear": lambda t, rate: 1 - t / STEPS,
    "inverse_time": lambda t, rate: 1 / (1 + rate * t),
}  # fmt: skip


def left_of(lr, decay, beta1, extra=0.0):
    """Final weight of each batch by following it: what enters m, is divided by the correction, moves, and decays."""
    weights = np.zeros(len(lr))
    for j in range(len(lr)):
        w, m = 0.0, 1 - beta1
        for t in range(j, len(lr)):
            w = w * (1 - lr[t] * (decay + extra)) + lr[t] * m / (1 - beta1 ** (t + 1))
            m *= beta1
        weights[j] = w
    return weights


@cache
def planted_weights(schedule, decay, beta1, extra):
    lr = LR * SCHEDULES[schedule](np.arange(STEPS, dtype=float), LR * decay)
    return left_of(lr, decay, beta1, extra)


@cache
def plant(extra=0.0, noise=2e-4, seeds=4, sizes=(1,), beta1=0.9):
    """Records of runs with memory = 10 w + noise; with an extra rate of forgetting that grows as the size's root."""
    rng, rows = np.random.default_rng(0), []
    for size in sizes:
        for schedule in SCHEDULES:
            for kappa in (0.5, 3.0):
                decay = kappa / (LR * STEPS) * (2 if schedule == "linear" else 1)
                if schedule == "inverse_time":
                    decay = np.expm1(kappa) / (LR * STEPS)
                w = planted_weights(schedule, decay, beta1, extra * size**0.5).reshape(BINS, -1).mean(1)
                for seed in range(seeds):
                    rows.append({
                        "run_id": f"run{len(rows)}", "status": "done", "protocol": "fixed_steps", "seed": seed,
                        "batch_size": size, "num_steps": STEPS, "task.name": "toy", "model.name": "none",
                        "optimizer.name": "adamw", "optimizer.lr": LR, "optimizer.beta1": beta1,
                        "optimizer.beta2": 0.95, "optimizer.weight_decay": decay, "schedule.name": schedule,
                        "schedule.warmup": 0.0, "loss": 1.0,
                        "memory.step": np.arange(STEPS // BINS, STEPS + 1, STEPS // BINS),
                        "memory.loss": 1 - 10 * w + noise * rng.normal(size=BINS),
                        "memory.unseen_loss": 1 + noise * rng.normal(size=BINS),
                    })  # fmt: skip
    return pd.DataFrame(rows)


def verdicts_of(answer):
    return {(v.claim, *map(str, v.group.values())): v for v in answer.verdicts}


def test_the_weights_are_those_of_a_batch_followed_through_adam():
    lr = LR * SCHEDULES["linear"](np.arange(40.0), 0.0)
    assert batch_weights(lr, 2.0, 0.9, corrected=True) == pytest.approx(left_of(lr, 2.0, 0.9), rel=1e-10)


def test_memory_by_the_law_is_confirmed_and_flat_under_inverse_time():
    answer = analyse_memory("memory", plant(), "Why?", None)
    found = verdicts_of(answer)
    assert {v.verdict for v in answer.verdicts} == {"confirmed"}
    assert {key[0] for key in found} == {"memory", "uniform"}
    for v in answer.verdicts:
        if v.claim == "memory":
            assert v.numbers["slope"] == pytest.approx(10, rel=0.05)
            assert v.numbers["slope_low"] > 9
        else:
            assert v.numbers["low"] < v.numbers["predicted"] < v.numbers["high"]
            assert v.numbers["constant"] == pytest.approx(v.numbers["rival"], rel=0.3)


def test_what_is_forgotten_faster_is_refuted_and_its_rate_found():
    answer = analyse_memory("memory", plant(extra=2.0, sizes=(1, 4)), "Why?", None)
    found = verdicts_of(answer)
    curvature = found.pop(("memory-curvature", "toy"))
    assert {v.verdict for v in found.values() if v.claim == "memory"} == {"refuted"}
    assert found["uniform", "toy"].verdict == "refuted"
    assert all(v.numbers["slope_low"] > 0 for v in found.values() if v.claim == "memory")
    assert curvature.verdict == "confirmed"
    assert curvature.numbers["rho_small"] == pytest.approx(2.0, rel=0.1)
    assert curvature.numbers["rho_large"] == pytest.approx(4.0, rel=0.1)


def test_no_memory_is_inconclusive_or_refuted_but_never_confirmed():
    frame = plant().copy()
    rng = np.random.default_rng(1)
    frame["memory.loss"] = [1 + 2e-4 * rng.normal(size=BINS) for _ in range(len(frame))]
    answer = analyse_memory("memory", frame, "Why?", None)
    assert all(v.verdict != "confirmed" for v in answer.verdicts if v.claim == "memory")


LR_T = np.full(STEPS, LR)


def plant_cells(rng, seeds, extra=0.0, spread=0.1, noise=1e-4):
    """Cells whose amplitudes and forgetting differ from seed to seed, the same in all cells of a seed, and whose noise
    is mostly shared between cells: what batches taken for independent would miss.
    """
    amplitudes = 1 + spread * rng.normal(size=seeds)
    rates = extra * (1 + spread * rng.normal(size=seeds))
    shared = rng.normal(size=(seeds, BINS)).mean(1, keepdims=True) - rng.normal(size=(seeds, BINS))
    cells = []
    for decay in (1.0, 3.0):
        empty = Cell(LR_T, np.full(STEPS, decay), 0.0, tuple(range(seeds)), np.zeros((seeds, BINS)), noise)
        clean = [a * empty.weights(empty.decay_T + r) for a, r in zip(amplitudes, rates, strict=True)]
        own = 0.9 * shared + 0.43 * rng.normal(size=(seeds, BINS))
        cells.append(replace(empty, measured_SJ=np.array(clean) + noise * own))
    return cells


def test_whitened_noise_is_independent():
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4000, BINS)).mean(1, keepdims=True) - rng.normal(size=(4000, BINS))
    assert np.cov(whiten(drawn, 1.0).T) == pytest.approx(np.eye(BINS), abs=0.1)


def test_intervals_over_seeds_hold_the_truth():
    rng = np.random.default_rng(0)
    extra, multiple = [], []
    for _ in range(40):
        found = fit_extra(plant_cells(rng, 5, extra=1.5))
        extra.append(found.low <= 1.5 <= found.high)
        found = fit_multiple(plant_cells(rng, 5))
        multiple.append(found.low <= 1 <= found.high)
    assert min(np.mean(extra), np.mean(multiple)) > 0.85
    one = fit_multiple(plant_cells(rng, 1))
    assert np.isnan([one.low, one.high]).all()


def test_a_shape_is_compared_by_the_scatter_of_seeds():
    rng = np.random.default_rng(1)
    right = [compare_shape(plant_cells(rng, 4)) for _ in range(100)]
    assert np.mean(np.array(right) < 0.05) < 0.12
    assert compare_shape(plant_cells(rng, 4, extra=4.0, noise=2e-5)) < 1e-3


def test_intervals_of_halves_hold_the_truth():
    rng, held = np.random.default_rng(2), []
    for _ in range(100):
        cells = plant_cells(rng, 5)
        w_J = cells[0].weights(cells[0].decay_T)
        _, low, high = compare_halves(cells[:1], [1.0])
        held.append(low <= w_J[: BINS // 2].sum() / w_J[BINS // 2 :].sum() <= high)
    assert 0.88 < np.mean(held) <= 1


def test_growth_that_the_seeds_do_not_tell_is_inconclusive():
    answer = analyse_memory("memory", plant(extra=2.0, sizes=(1, 4), noise=1e-2, seeds=3), "Why?", None)
    assert verdicts_of(answer)["memory-curvature", "toy"].verdict == "inconclusive"


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
def test_the_figure_keeps_its_texts_apart(style):
    answer = analyse_memory("memory", plant(extra=2.0, sizes=(1, 4)), "Does it follow from what is left? " * 3, None)
    with mpl.rc_context(style.rc):
        check_boxes(answer.figures[""](style))


def test_committed_rows_answer_the_same(tmp_path, monkeypatch, capsys):
    answer = analyse_memory("memory", plant(), "Why?", None)
    assert len(answer.rows) == len(plant()) * BINS
    monkeypatch.setattr("analysis.answer.SWEEPS_DIR", tmp_path)
    assert "wrote" in commit_rows(answer)
    again = analyse_memory("memory", pd.read_csv(tmp_path / "memory.csv"), "Why?", None)
    assert [v.verdict for v in again.verdicts] == [v.verdict for v in answer.verdicts]
    print_answer(again)
    assert "uniform" in capsys.readouterr().out
    assert {path.suffix for path in write_answer(again, tmp_path / "out")} == {".png", ".svg", ".json"}


def test_a_table_without_such_runs_is_told():
    for frame in (plant().assign(status="failed"), plant().drop(columns=["memory.step"])):
        with pytest.raises(ValueError, match=r"metrics\.memory=true"):
            analyse_memory("memory", frame, "", None)
