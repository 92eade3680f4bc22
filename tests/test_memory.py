"""Oracle: the loss written out sample by sample on final parameters, the noise that was drawn, decay by hand."""

from functools import partial

import numpy as np
import pytest
import torch

from harness.config import run_id
from harness.memory import bin_edges, measure_memory
from harness.plan import Stack, make_plan
from harness.plan_file import name_request, open_plan, read_plan
from harness.program import make_program
from harness.tasks.random import HELDOUT, TRAINING, draw_normal
from harness.train import train
from tests.reference.plain import CPU
from tests.test_main import TINY, harness, records

WALK = {"name": "random_walk", "dimension": 24, "mean": 0.0, "std": 1.0, "start": 0.0, "num_heldout": 1}
ADAMW = {"name": "adamw", "lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 2.0}
TEACHER = {"name": "teacher_student", "num_inputs": 6, "power": 1.0, "teacher": 3, "teacher_hidden": 4,
           "label_noise": 0.5, "num_heldout": 64}  # fmt: skip
CONSTANT = {"name": "constant", "warmup": 0.0}


def walks(make_run, seeds=(0, 1), decays=(2.0, 5.0), num_steps=80):
    given = {"task": WALK, "model": {"name": "none"}, "schedule": CONSTANT, "batch_size": 3, "precision": "float64"}
    return [
        make_run(**given, optimizer={**ADAMW, "weight_decay": decay}, seed=seed, num_samples=3 * num_steps)
        for decay in decays for seed in seeds
    ]  # fmt: skip


def stack_of(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def remembered(stack):
    program = make_program(stack, CPU)
    *_, now = train(program, stack, num_evals=2, num_examples=1)
    before = now.params_RN.clone(), torch.get_rng_state()
    columns = measure_memory(program, stack, now.params_RN)
    assert torch.equal(now.params_RN, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    return columns, now, program


def test_each_bin_has_the_loss_of_its_own_samples(make_run):
    stack = stack_of(walks(make_run))
    columns, now, _ = remembered(stack)
    edges = [round(i * 80 / 32) for i in range(33)]
    for config, own, w in zip(stack.runs.values(), columns, now.params_RN.numpy(), strict=True):
        assert own["memory.step"] == edges[1:]
        for name, offset in (("memory.loss", 0), ("memory.unseen_loss", 80)):
            for k, loss in enumerate(own[name]):
                samples = [3 * (offset + t) + b for t in range(edges[k], edges[k + 1]) for b in range(3)]
                losses = [draw_normal(config.seed, TRAINING, i, 1, 24)[0] @ w for i in samples]
                assert loss == pytest.approx(np.mean(losses), abs=1e-12)


def test_stacked_and_alone_it_is_the_same(make_run):
    configs = walks(make_run)
    stacked, *_ = remembered(stack_of(configs))
    for config, own in zip(configs, stacked, strict=True):
        (alone,), *_ = remembered(stack_of([config], alone="for the test"))
        for name in own:
            assert own[name] == pytest.approx(alone[name], abs=1e-9)


def test_on_a_linear_loss_it_is_what_decay_left_of_each_step(make_run):
    """Adam at beta1 = 0 and beta2 = 0 moves by signs: a step leaves lr |c| (1 - lr decay)^age in its samples' loss."""
    lr, decay, dimension = 0.01, 4.0, 24
    optimizer = {**ADAMW, "beta1": 0.0, "beta2": 0.0, "weight_decay": decay, "lr": lr}
    given = {"task": WALK, "model": {"name": "none"}, "schedule": CONSTANT, "batch_size": 1, "precision": "float64"}
    stack = stack_of(
        [make_run(**given, optimizer=optimizer, seed=seed, num_samples=64) for seed in range(60)]
    )  # fmt: skip
    columns, *_ = remembered(stack)
    memory = -np.mean([own["memory.loss"] for own in columns], axis=0)
    left = (1 - lr * decay) ** np.arange(63, -1, -1).reshape(32, 2)
    exact = lr * dimension * (2 / np.pi) ** 0.5 * left.mean(1)
    unseen = np.array([own["memory.unseen_loss"] for own in columns])
    error = unseen.std() / 60**0.5
    assert np.abs(memory - exact).max() < 4 * error
    assert np.abs(memory - exact[::-1]).max() > 8 * error
    assert abs(unseen.mean()) < 4 * error / 32**0.5


def test_the_floor_is_the_noise_that_was_drawn(make_run):
    config = make_run(task=TEACHER, model={"name": "perceptron", "hidden": 5, "depth": 1}, precision="float64")
    task = make_program(stack_of([config]), CPU).task
    noise = 0.5 * draw_normal(0, TRAINING, 40, 16, 7)[:, -1]
    assert float(task.floor(task.sample(0, 40, 16))) == pytest.approx(np.mean(noise**2), rel=1e-12)
    assert float(task.floor(task.heldout(16))) == pytest.approx(0.0, abs=1e-24)
    assert len(draw_normal(0, HELDOUT, 0, 16, 7)) == 16


def test_losses_are_less_the_floor(make_run):
    config = make_run(task=TEACHER, model={"name": "perceptron", "hidden": 5, "depth": 1}, precision="float64")
    (own,), now, program = remembered(stack_of([config]))
    edges = bin_edges(config.num_steps)
    batch = program.task.sample(0, 0, 8 * edges[1])
    noise = 0.5 * draw_normal(0, TRAINING, 0, 8 * edges[1], 7)[:, -1]
    raw = float(program.evaluate(now.params_RN, batch)[0])
    assert own["memory.loss"][0] == pytest.approx(raw - np.mean(noise**2), rel=1e-9)


def test_few_steps_have_a_bin_each():
    assert bin_edges(5) == [0, 1, 2, 3, 4, 5]
    assert len(bin_edges(1000)) == 33


def test_a_plan_keeps_the_option_and_a_run_does_not_know_it(make_run, tmp_path):
    runs = {run_id(config): config for config in [make_run()]}
    off = {"num_evals": 4, "num_examples": 16, "memory": False}
    options = {"device": "cpu", "width": None, "since": None}
    names = [name_request("s", runs, **options, metrics={**off, "memory": on}) for on in (False, True)]
    assert names[0] == name_request("s", runs, **options, metrics={"num_evals": 4, "num_examples": 16}) != names[1]
    lay = partial(make_plan, "s", **options, metrics={**off, "memory": True})
    path, plan = open_plan(tmp_path, names[1], runs, (), lay)
    assert plan.memory
    assert read_plan(path).memory


def test_a_run_of_no_fixed_length_is_told(make_run):
    config = make_run(
        protocol="steps_to_target", target_loss=1.0, target_examples=16, max_steps=8, eval_every=2, eval_share=0.1,
        smoothing=1.0, num_samples=None, num_steps=None, schedule=CONSTANT,
    )  # fmt: skip
    metrics = {"num_evals": 4, "num_examples": 16, "memory": True}
    with pytest.raises(ValueError, match="say fixed_steps"):
        make_plan("s", {run_id(config): config}, device="cpu", width=None, metrics=metrics)


def test_records_hold_it_and_training_has_the_same_bits(tmp_path):
    for name in ("off", "on"):
        (tmp_path / name).mkdir()
    assert harness(tmp_path / "off", *TINY).returncode == 0
    assert harness(tmp_path / "on", *TINY, "metrics.memory=true").returncode == 0
    off, on = (records(tmp_path / name).set_index("run_id").sort_index() for name in ("off", "on"))
    assert list(off.index) == list(on.index)
    for name in ("loss", "train_loss", "weight_rms"):
        assert (off[name] == on[name]).all()
    assert "memory.loss" not in off
    done = on[on["status"] == "done"]
    assert (done["memory.loss"].map(len) == done["memory.step"].map(len)).all()
    assert (done["memory.step"].map(lambda steps: steps[-1]) == done["num_steps"]).all()
