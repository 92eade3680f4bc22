"""Oracle: the same training, never interrupted; bit for bit, where steps are recorded or compiled and where random
numbers, a user's own state or a damaged file could get between.
"""

import sys
import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch._inductor.config as inductor

from harness.checkpoint import as_begun, checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.imports import own_code_sha256
from harness.machine import has_compiler
from harness.measure import facts_path
from harness.plan import Choice, Stack, make_plan, shape_of
from harness.plan_file import open_plan
from harness.program import WORTH_RECORDING, make_program
from harness.recording import COMPILED
from harness.records import read_records
from harness.stackable import why_alone
from harness.train import train
from harness.worker import run_stack

CPU = torch.device("cpu")
METRICS = {"num_evals": 2, "num_examples": 16}
MODULE = """
import torch
from torch import nn
class Dropped(nn.Sequential):
    def __init__(self, num_inputs, num_outputs, inplace=False):
        first = [nn.Dropout(0.3, inplace=True)] if inplace else []
        super().__init__(*first, nn.Linear(num_inputs, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, num_outputs))
class Normed(nn.Sequential):
    def __init__(self, num_inputs, num_outputs):
        super().__init__(nn.Linear(num_inputs, 6), nn.BatchNorm1d(6), nn.Linear(6, num_outputs))
"""
TASK = {
    "name": "teacher_student", "num_inputs": 4, "power": 1.0, "teacher": 0, "teacher_hidden": 3, "label_noise": 0.5,
    "num_heldout": 32,
}  # fmt: skip
needs_compiler = pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler on this machine")


@pytest.fixture
def make(make_run, tmp_path, monkeypatch):
    (tmp_path / "going_on_nets.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("going_on_nets", None)

    def make_one(name, **changed):
        model = {"name": f"going_on_nets:{name}"}
        return make_run(task=TASK, model=model, num_samples=8 * (WORTH_RECORDING + 10), **changed)

    return make_one


def stack_of(*configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def follow(stack, runs_dir, resume=None):
    return train(make_program(stack, CPU, runs_dir), stack, num_evals=2, num_examples=16, resume=resume)


def assert_goes_on(stack, folder, runs_dir, *, at=50):
    """Train twice without a stop, then once from a checkpoint: three times the same."""
    *_, whole = follow(stack, runs_dir)
    for now in follow(stack, runs_dir):
        if now.step == at:
            save_checkpoint(folder, stack.name, "s", stack, now, {})
    assert torch.equal(now.params_RN, whole.params_RN), "training again is training"
    resumed = load_checkpoint(folder, stack, {}, CPU, print)
    *_, end = follow(stack, runs_dir, resumed)
    assert torch.equal(end.params_RN, whole.params_RN)
    assert end.history == whole.history


def test_dropout_goes_on_with_the_same_masks_where_steps_are_recorded(make, tmp_path):
    assert_goes_on(stack_of(make("Dropped"), make("Dropped", seed=1)), tmp_path, None)


@needs_compiler
def test_dropout_goes_on_with_the_same_masks_where_steps_are_compiled(make, tmp_path):
    assert_goes_on(stack_of(make("Dropped"), make("Dropped", seed=1), compiled=True), tmp_path, tmp_path)


@needs_compiler
def test_compiled_steps_go_on_and_damaged_machine_code_is_built_again(make_run, tmp_path):
    stack = stack_of(
        *(make_run(num_samples=8 * 160, optimizer={"lr": lr}, model={"hidden": 8}) for lr in (0.001, 0.01)),
        compiled=True,
    )
    assert_goes_on(stack, tmp_path, tmp_path)
    (path,) = (tmp_path / COMPILED).glob("*.pt2")
    *_, before = follow(stack, tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    *_, after = follow(stack, tmp_path)
    assert torch.equal(after.params_RN, before.params_RN)
    assert path.stat().st_size > 1000


def test_without_a_working_compiler_steps_are_recorded_and_it_is_told(make_run, tmp_path):
    told = []
    stack = stack_of(make_run(num_samples=8 * 160, model={"hidden": 7}), compiled=True)
    with inductor.patch({"cpp.cxx": (None, "false")}):
        program = make_program(stack, CPU, tmp_path, note=told.append)
        *_, now = train(program, stack, num_evals=2, num_examples=16)
    *_, recorded = follow(stack_of(*stack.runs.values()), None)
    assert [fact["what"] for fact in told] == ["unbuildable"]
    assert torch.equal(now.params_RN, recorded.params_RN)


def test_a_run_alone_whose_last_step_is_saved_has_its_own_statistics(make, tmp_path):
    config = make("Normed")
    losses = []
    for stopped in (False, True):
        folder = tmp_path / str(stopped) / "s"
        folder.mkdir(parents=True)
        runs = {run_id(config): config}
        choices = {shape_of(config): Choice(1, alone="its BatchNorm1d keeps running statistics")}
        lay = partial(make_plan, "s", device="cpu", width=None, metrics=METRICS, choices=choices)
        path, plan = open_plan(folder, "0123", runs, (), lay)
        stack = plan.stacks[0]
        if stopped:
            *_, now = follow(stack, None)
            assert now.step == config.num_steps
            save_checkpoint(folder, stack.name, "s", stack, now, checkpoint_key(plan, stack, CPU))
        run_stack(path, 0, "cpu", report=lambda message: None, stop=threading.Event(), checkpoint=60.0, lease=60.0)
        losses.append(read_records(folder)["loss"].tolist())
    assert losses[0] == losses[1]


def test_what_is_known_of_a_module_ends_when_its_source_changes(make, tmp_path):
    config = make("Dropped")
    stack = stack_of(config)
    plan = make_plan("s", stack.runs, device="cpu", width=1, metrics=METRICS)
    before = own_code_sha256(config), facts_path(tmp_path, config, "cpu"), checkpoint_key(plan, stack, CPU)
    (tmp_path / "going_on_nets.py").write_text(MODULE + "\n# another\n")
    after = own_code_sha256(config), facts_path(tmp_path, config, "cpu"), checkpoint_key(plan, stack, CPU)
    assert all(x != y for x, y in zip(before, after, strict=True))


def test_what_cannot_stack_only_where_runs_share_a_batch_is_found(make, make_run):
    config = make_run(task=TASK, model={"name": "going_on_nets:Dropped", "inplace": True})
    assert "in place" in (why_alone(config, CPU) or "")
    assert why_alone(make("Dropped"), CPU) is None


@pytest.mark.parametrize("buildable", [pytest.param(True, marks=needs_compiler), False])
def test_what_really_ran_is_in_the_record_and_gone_on_with(make, tmp_path, buildable):
    folder = tmp_path / "s"
    folder.mkdir()
    config = make("Dropped", optimizer={"lr": 0.01})
    runs = {run_id(config): config}
    choices = {shape_of(config): Choice(1, compiled=True)}
    lay = partial(make_plan, "s", device="cpu", width=None, metrics=METRICS, choices=choices)
    path, plan = open_plan(folder, "0123", runs, (), lay)
    if not buildable:
        (tmp_path / COMPILED).write_text("not a folder")

    def work(steps):
        """As a worker that is asked to end after some steps."""
        stop, told = threading.Event(), []
        if steps == 1:
            stop.set()
        run_stack(path, 0, "cpu", report=told.append, stop=stop, checkpoint=60.0, lease=60.0)
        return told

    assert {"stopped": 1} in work(1)
    stack = plan.stacks[0]
    begun = as_begun(folder, plan, stack, CPU)
    assert begun.compiled == buildable
    assert load_checkpoint(folder, begun, checkpoint_key(plan, begun, CPU), CPU, print) is not None
    if not buildable:
        (tmp_path / COMPILED).unlink()  # what could be built now is not: it goes on as it began
    work(None)
    record = read_records(folder)
    assert record["provenance.compiled"].tolist() == [buildable]
    assert record["provenance.own_code_sha256"].tolist() == [own_code_sha256(config)]
    *_, whole = follow(replace(stack, compiled=buildable), tmp_path)
    assert record["history.loss"][0].tolist() == [loss for (loss,) in whole.history["loss"]]
