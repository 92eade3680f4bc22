"""Oracle: gradient descent on a quadratic in closed form, crossings interpolated by hand, the undisturbed stack."""

import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from harness.checkpoint import checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.plan import Plan, Stack
from harness.program import make_program
from harness.protocols import Smoother, evaluation_steps, find_crossing, measure_target
from harness.results import outcome, summarise
from harness.train import evaluate, train
from tests.reference.plain import CPU
from tests.test_main import QUIET

QUADRATIC = {"name": "noisy_quadratic", "dimension": 5, "power": 1.0, "noise": "isotropic", "std": 0.0,
             "correlation": 0.5, "start": 1.0, "num_heldout": 1}  # fmt: skip
H = np.arange(1, 6) ** -1.0
TARGET = {"target_loss": 0.2, "target_examples": 16, "max_steps": 200, "eval_every": 7, "eval_share": None,
          "smoothing": None}  # fmt: skip


@pytest.fixture
def make_target(make_run):
    def make(lr=0.1, **changed):
        sgd = {"name": "sgd", "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
        parts = {"task": QUADRATIC, "model": {"name": "none"}, "optimizer": sgd, "precision": "float64"}
        schedule = {"name": "constant", "warmup": 0.0, "weight_decay": None}
        lengths = {"protocol": "steps_to_target", "num_samples": None}
        return make_run(**{**parts, "schedule": schedule, **lengths, **TARGET, **changed})

    return make


def exact_loss(step, lr):
    return float(np.sum(H * (1 - lr * H) ** (2 * step)) / 2)


def stack_of(*configs):
    return Stack({run_id(config): config for config in configs})


def go(stack, resume=None):
    program = make_program(stack, CPU)
    return program, train(program, stack, num_evals=4, num_examples=16, resume=resume)


def rows_of(stack, resume=None):
    program, steps = go(stack, resume)
    *_, now = steps
    losses = evaluate(program, now, program.task.heldout(1)).tolist()
    rows = [summarise(now, lane, loss) for lane, loss in enumerate(losses)]
    return now, [row | outcome(config, row) for config, row in zip(stack.runs.values(), rows, strict=True)]


def test_the_crossing_is_that_of_gradient_descent_in_closed_form(make_target):
    lrs = (0.05, 0.1, 0.5, 1.0)
    _, rows = rows_of(stack_of(*(make_target(lr=lr, eval_every=1) for lr in lrs)))
    for lr, row in zip(lrs, rows, strict=True):
        after = next(t for t in range(201) if exact_loss(t, lr) <= 0.2)
        before, here = exact_loss(after - 1, lr), exact_loss(after, lr)
        assert row["steps_to_target"] == pytest.approx(after - 1 + (before - 0.2) / (before - here), rel=1e-12)
        assert row["samples_to_target"] == pytest.approx(8 * row["steps_to_target"], rel=1e-12)
        assert row["censored"] is False
        assert row["status"] == "done"
        assert row["loss"] == pytest.approx(here, rel=1e-12)  # the run stays where it was found
        assert row["history.step"] == list(range(after + 1))


def test_the_resolution_is_the_evaluation_interval(make_target):
    _, [row] = rows_of(stack_of(make_target(lr=0.1)))
    first = next(t for t in range(0, 201, 7) if exact_loss(t, 0.1) <= 0.2)
    before, here = exact_loss(first - 7, 0.1), exact_loss(first, 0.1)
    assert row["steps_to_target"] == pytest.approx(first - 7 + 7 * (before - 0.2) / (before - here), rel=1e-12)
    exact = next(t for t in np.arange(0, 200, 0.01) if exact_loss(t, 0.1) <= 0.2)
    assert 0 < row["steps_to_target"] - exact < 1  # a chord of a convex curve lies above it


def test_who_comes_late_is_censored_and_who_diverges_diverged(make_target):
    now, rows = rows_of(stack_of(make_target(lr=0.1), make_target(lr=1e-4), make_target(lr=1e200)))
    assert [row["status"] for row in rows] == ["done", "done", "diverged"]
    assert [row["censored"] for row in rows] == [False, True, False]
    assert [row["steps_to_target"] is None for row in rows] == [False, True, True]
    assert rows[1]["loss"] == pytest.approx(exact_loss(200, 1e-4), rel=1e-12)
    assert rows[1]["history.step"][-1] == now.step == 200


def test_a_stack_ends_with_its_last_run_and_a_record_knows_nothing_of_its_neighbours(make_target):
    fast, slow = make_target(lr=1.0), make_target(lr=0.1)
    now, [together, late] = rows_of(stack_of(fast, slow))
    alone_now, [alone] = rows_of(stack_of(fast))
    assert alone == together or repr(alone) == repr(together)
    assert alone_now.step == 7 * math.ceil(alone["steps_to_target"] / 7) < now.step
    assert now.step == 7 * math.ceil(late["steps_to_target"] / 7) < 200


def test_a_target_met_at_the_start_is_no_step_at_all(make_target):
    now, [row, other] = rows_of(stack_of(make_target(lr=0.1, target_loss=5.0), make_target(lr=0.2, target_loss=5.0)))
    assert now.step == 0
    assert (row["steps_to_target"], row["samples_to_target"], row["censored"]) == (0.0, 0.0, False)
    assert row["history.step"] == other["history.step"] == [0]


def test_the_crossing_is_taken_on_examples_that_the_run_id_names(make_target):
    vectors = {"name": "teacher_student", "num_inputs": 4, "teacher_hidden": 4, "teacher": 0, "power": 1.0,
               "label_noise": 0.5, "num_heldout": 64}  # fmt: skip
    model = {"name": "perceptron", "hidden": 4, "depth": 1}
    stacks = [
        stack_of(make_target(task=vectors, model=model, target_loss=0.0, max_steps=7, target_examples=count))
        for count in (16, 64)
    ]
    ends = []
    for stack, num_examples in [(stacks[0], 16), (stacks[0], 3), (stacks[1], 16)]:
        program = make_program(stack, CPU)
        *_, now = train(program, stack, num_evals=4, num_examples=num_examples)
        ends.append(now.history["loss"])
        count = stack.first.target_examples
        assert ends[-1][-1] == evaluate(program, now, program.task.heldout(count)).tolist()
    assert ends[0] == ends[1] != ends[2]


@pytest.mark.parametrize("step", [1, 7, 20, 42, 57])
def test_what_goes_on_from_a_checkpoint_is_what_never_stopped(make_target, tmp_path, step):
    noisy = {**QUADRATIC, "std": 1.0}
    lrs = (0.02, 0.1, 0.3, 1e200)
    stack = stack_of(*(make_target(lr=lr, task=noisy, eval_every=3, smoothing=4.0) for lr in lrs))
    key = checkpoint_key(Plan("s", "cpu", 4, 16, None, (stack,)), stack, CPU)
    for now in go(stack)[1]:
        if now.step == step:
            save_checkpoint(tmp_path, "x", "s", stack, now, key)
            break
    told = []
    resumed = load_checkpoint(tmp_path, stack, key, CPU, told.append)
    assert resumed.step == step
    assert not told
    (last, rows), (whole, undisturbed) = rows_of(stack, resumed), rows_of(stack)
    assert repr(rows) == repr(undisturbed)
    assert last.step == whole.step
    torch.testing.assert_close(last.params_RN, whole.params_RN, rtol=0, atol=0, equal_nan=True)
    half = stack.only(list(stack.runs)[1:3])  # half a stack goes on from the whole one's
    _, part = rows_of(half, load_checkpoint(tmp_path, half, key, CPU, told.append))
    assert repr(part) == repr(undisturbed[1:3])


def test_the_smoothed_loss_is_a_weighted_mean_that_halves():
    losses = [4.0, 3.0, 5.0, 1.0]
    weights = np.array([0.5 ** (k / 2) for k in (3, 2, 1, 0)])
    smoother = Smoother(2.0)
    *_, last = (smoother.take(loss) for loss in losses)
    assert last == pytest.approx(weights @ losses / weights.sum(), rel=1e-14)
    assert [Smoother(None).take(loss) for loss in losses] == losses


def test_crossings_by_hand():
    assert find_crossing([0, 4, 8], [3.0, 2.0, 1.0], 1.25) == 7.0
    assert find_crossing([0, 4, 8], [3.0, 1.0, 2.0], 1.0) == 4.0  # the first one, and at the target is there
    assert find_crossing([0, 4], [3.0, 2.0], 1.9) is None
    assert find_crossing([0, 4], [math.inf, 1.0], 1.5) == 4.0
    assert find_crossing([0, 4, 8], [3.0, math.nan, 1.0], 1.5) == 8.0
    # with half-life 1: 3, (1.5 + 0) / 1.5 = 1, so the target 2 is met half-way
    assert find_crossing([0, 10], [3.0, 0.0], 2.0, 1.0) == pytest.approx(5.0)
    diverged = measure_target([0, 4], [3.0, 1.0], target=2.0, half_life=None, batch_size=8, done=False)
    assert diverged == {"steps_to_target": None, "samples_to_target": None, "censored": False}


def test_evaluations_keep_their_interval_or_their_share():
    assert evaluation_steps("steps_to_target", 20, 4, eval_every=8) == [0, 8, 16, 20]
    steps = evaluation_steps("steps_to_target", 4096, 4, eval_share=0.05)
    assert steps[:20] == list(range(20))
    assert steps[-1] == 4096
    gaps = np.diff(steps)
    assert (gaps <= np.maximum(1, 0.05 * np.array(steps[:-1]))).all()
    assert len(steps) < 150
    assert max(np.diff(evaluation_steps("steps_to_target", 4096, 4, 10, 0.05))) == 10
    assert evaluation_steps("fixed_steps", 10, 4) == [2, 5, 8, 10]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_loss": None}, "needs target_loss, a held-out loss that ends a run: give target_loss=NUMBER"),
        (
            {"target_examples": None},
            "needs target_examples, how many held-out examples it is of: give target_examples=NUMBER",
        ),
        ({"target_examples": 0}, "target_examples=0 is not a whole number from 1"),
        ({"max_steps": None}, "needs max_steps"),
        ({"eval_every": None}, "needs eval_every, eval_share or both"),
        ({"schedule": {"name": "linear", "warmup": 0.0}}, "schedule=linear falls towards an end"),
        (
            {"schedule": {"name": "constant", "warmup": 0.0, "weight_decay": "cosine"}},
            "schedule.weight_decay=cosine falls towards an end",
        ),
        ({"num_steps": 5}, "num_steps=5 does not go with protocol=steps_to_target, which takes max_steps"),
        ({"protocol": "fixed_steps", "num_steps": 5}, "target_loss=0.2 has no effect under protocol=fixed_steps"),
        ({"eval_every": 0}, "eval_every=0 is not a whole number >= 1"),
    ],
)
def test_mistakes_are_told(make_target, changed, message):
    adamw = {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}
    with pytest.raises(ValueError, match=message):
        make_target(optimizer=adamw, **changed)


def test_other_protocols_have_the_run_ids_they_had(make_run, make_target):
    assert run_id(make_run(target_loss=None, max_steps=None)) == run_id(make_run())
    ids = [
        run_id(make_target(**changed))
        for changed in ({}, {"target_loss": 0.3}, {"smoothing": 2}, {"eval_every": 3}, {"target_examples": 8})
    ]
    assert len(set(ids)) == 5
    assert run_id(make_target(target_examples=16.0)) == ids[0]
    assert run_id(make_target(target_loss=1)) == run_id(make_target(target_loss=1.0))
    config = make_target(max_steps=50)
    assert (config.num_steps, config.num_samples, config.max_steps) == (50, 400, 50)


def run_harness(folder, *overrides):
    command = [sys.executable, "-m", "harness", *overrides]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=QUIET, timeout=300)


def test_a_sweep_from_the_command_to_the_figure(tmp_path):
    (tmp_path / "conf" / "sweep").mkdir(parents=True)
    (tmp_path / "conf" / "sweep" / "aim.yaml").write_text(
        """# @package _global_
defaults:
  - override /task: noisy_quadratic
  - override /model: none
  - override /optimizer: sgd
  - override /schedule: constant
  - override /protocol: steps_to_target
target_loss: 1.0
max_steps: 300
precision: float64
task: {dimension: 16, std: 0.1}
sweep:
  name: aim
  question: How many steps does SGD take to a loss of 1?
  grid:
    batch_size: [8, 16, 32]
    seed: [0, 1]
    optimizer: {lr: [0.00001, 0.2, 0.4, 0.8, 1.2, 1.6, 1.0e+200]}
"""
    )
    aim = ["--config-dir", "conf", "sweep=aim", "tracker=none"]
    done = run_harness(tmp_path, *aim)
    assert done.returncode == 0, done.stderr
    frame = pd.concat([pd.read_parquet(p) for p in (tmp_path / "runs" / "aim").glob("*.parquet")])
    assert len(frame) == 42
    assert set(frame["status"]) == {"done", "diverged"}
    assert ((frame["status"] == "diverged") == (frame["optimizer.lr"] == 1e200)).all()
    assert (frame["censored"] == (frame["optimizer.lr"] == 1e-5)).all()
    h_D, lr = np.arange(1, 17) ** -0.5, 0.4
    quiet = next(t for t in range(300) if np.sum(h_D * (1 - lr * h_D) ** (2 * t)) / 2 <= 1.0)
    assert frame[frame["optimizer.lr"] == lr]["steps_to_target"].between(quiet - 1, quiet + 1).all()
    assert (frame["samples_to_target"] / frame["batch_size"]).equals(frame["steps_to_target"])
    content = json.loads((tmp_path / "figures" / "aim.json").read_text())
    assert all(0.4 < o["lr"] < 1.7 and o["steps_to_target"] < quiet for o in content["optima"])
    assert "target loss 1" in content["caption"]
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "aim.png", "aim.svg", "aim.json", "aim-curves.png", "aim-curves.svg"
    }  # fmt: skip
    assert "all 42 runs are done" in run_harness(tmp_path, *aim).stdout
    wrong = run_harness(tmp_path, "protocol=steps_to_target", "target_loss=1")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "schedule=linear falls towards an end" in wrong.stderr
