"""Oracle: every optimizer with the options of its YAML, alone, for the same in a stack, recorded or in machine code.

Two tasks: weights that are one vector, and a network that has matrices beside its vectors.
"""

import os
import subprocess
import sys

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from harness import recording
from harness.config import ROOT, make_run_config, run_id
from harness.machine import has_compiler
from harness.optimizers import OPTIMIZERS, state_sizes
from harness.plan import Stack
from harness.program import make_program
from harness.train import train
from tests.reference.plain import CPU

TASKS = {"noisy_quadratic": "none", "teacher_student": "perceptron"}
SMALL = {"dimension": 6, "num_inputs": 5, "teacher_hidden": 3, "hidden": 4, "num_heldout": 1}
STEPS = 12


def part(group, name):
    values = OmegaConf.to_container(OmegaConf.load(ROOT / "conf" / group / f"{name}.yaml"))
    return {key: SMALL.get(key, value) for key, value in values.items()}


def make_runs(name, task, lrs=(1.0, 0.5, 0.25), **options):
    optimizer = {**part("optimizer", name), **options}
    same = {
        "task": part("task", task), "model": part("model", TASKS[task]), "schedule": part("schedule", "linear"),
        "protocol": "fixed_steps", "num_samples": None, "num_steps": STEPS, "batch_size": 4, "seed": 0,
        "precision": "float64",
    }  # fmt: skip
    runs = [make_run_config({**same, "optimizer": {**optimizer, "lr": share * optimizer["lr"]}}) for share in lrs]
    return {run_id(run): run for run in runs}


def trained(runs, folder=None, *, compiled=False):
    """All progress of interest after the last step but one: the last is measured, and never compiled."""
    stack = Stack(runs, compiled=compiled)
    program = make_program(stack, CPU, folder)
    first = None
    for now in train(program, stack, num_evals=1, num_examples=1):
        kept = {name: (value.shape, value.dtype, value.is_contiguous()) for name, value in now.state.items()}
        first = first or kept
        assert kept == first, "another shape would be recorded or compiled anew"
        if now.step == STEPS - 1:
            params_RN = now.params_RN.clone()
    assert {name: shape.numel() // len(runs) for name, (shape, *_) in first.items()} == state_sizes(
        program.optimizer, program.layout
    )
    assert bool((now.diverged_at_R == 0).all())
    return params_RN


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_stack_recorded_or_not_is_its_runs_alone(monkeypatch, name, task):
    runs = make_runs(name, task)
    mapped = trained(runs)
    for lane, (key, run) in enumerate(runs.items()):
        torch.testing.assert_close(trained({key: run})[0], mapped[lane], rtol=0, atol=1e-12)
    assert not torch.equal(mapped[0], mapped[1])  # they moved
    monkeypatch.setattr("harness.program.WORTH_RECORDING", 1)
    traced = []
    monkeypatch.setattr(recording, "trace", lambda *args, real=recording.trace: traced.append(args) or real(*args))
    assert torch.equal(trained(runs), mapped)
    assert len(traced) == 1, "recorded once for all steps"


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler on this machine")
def test_machine_code_of_one_that_knows_tensors_is_built_once_and_agrees(monkeypatch, tmp_path):
    runs = make_runs("adafactor", "teacher_student")
    built = []
    monkeypatch.setattr(recording, "build", lambda *args, real=recording.build: built.append(args) or real(*args))
    torch.testing.assert_close(trained(runs, tmp_path, compiled=True), trained(runs), rtol=0, atol=1e-12)
    assert len(built) == 1, "once for all steps"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """One command that trains a run of each."""
    folder = tmp_path_factory.mktemp("optimizers")
    words = ["task=noisy_quadratic", "task.dimension=6", "model=none", "batch_size=4", "num_samples=24"]
    words += ["sweep.name=all", f"sweep.grid.optimizer.name=[{','.join(OPTIMIZERS)}]", "tracker=none"]
    quiet = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words], cwd=folder, capture_output=True, text=True, env=quiet, timeout=300
    )
    frame = pd.concat(map(pd.read_parquet, (folder / "runs" / "all").glob("stack-*.parquet")))
    return done, frame.set_index("optimizer.name")


def test_one_command_trains_them_all(command):
    done, frame = command
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(frame.index) == sorted(OPTIMIZERS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_the_command_trained_is_better_than_its_start(command, name):
    row = command[1].loc[name]
    start = 0.5 * sum(i**-0.5 for i in range(1, 7))  # of 1/2 sum h_i, before the first step
    assert row["status"] == "done"
    assert row["loss"] < start
