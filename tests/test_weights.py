"""Oracle: the state of the program in memory, torch's own state_dict, and the loss that the record holds."""

from functools import partial

import pytest
import torch
from torch.func import functional_call

from harness.config import make_run_config, run_id
from harness.models import make_model
from harness.parameters import unflatten_params
from harness.plan import Stack, make_plan
from harness.plan_file import name_request, open_plan, read_plan, read_stack
from harness.program import make_program
from harness.results import summarise
from harness.tasks import make_task
from harness.train import train
from harness.weights import load_weights, save_weights
from tests.reference.plain import CPU
from tests.test_main import TINY, harness, records


def trained_stack(make_run, *lrs):
    sgd = {"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}
    configs = [make_run(num_samples=80, optimizer={**sgd, "lr": lr}) for lr in lrs]
    stack = Stack({run_id(config): config for config in configs})
    program = make_program(stack, CPU)
    *_, now = train(program, stack, num_evals=2, num_examples=16)
    return stack, program, now, [summarise(now, lane, 1.0) for lane in range(len(lrs))]


def test_files_hold_the_state_of_the_program_and_what_the_runs_were(make_run, tmp_path):
    stack, program, now, rows = trained_stack(make_run, 0.1, 1e38, 0.2)
    save_weights(tmp_path, "s", stack, program, now, rows)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["weights"]
    for lane, (name, config) in enumerate(stack.runs.items()):
        params, about = load_weights(tmp_path / "weights" / f"{name}.safetensors")
        expected = unflatten_params(now.params_RN[lane], program.layout)
        assert params.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(params[key], tensor, rtol=0, atol=0)
        assert make_run_config(about["config"]) == config
        assert (about["run_id"], about["sweep"]) == (name, "s")
    assert now.diverged_at_R.tolist()[1] > 0
    steps, statuses = [], []
    for name in stack.runs:
        params, about = load_weights(tmp_path / "weights" / f"{name}.safetensors")
        assert all(tensor.isfinite().all() for tensor in params.values()) or about["status"] == "diverged"
        steps.append(about["step"])
        statuses.append(about["status"])
    assert statuses == ["done", "diverged", "done"]
    assert steps == [10, int(now.diverged_at_R[1]) - 1, 10]


def test_a_module_takes_them(make_run, tmp_path):
    stack, program, now, rows = trained_stack(make_run, 0.1)
    save_weights(tmp_path, "s", stack, program, now, rows)
    params, _ = load_weights(next((tmp_path / "weights").iterdir()))
    model = make_model(stack.first.model, context=8, num_symbols=256, num_outputs=256)
    model.load_state_dict(params)
    contexts = program.task.heldout(4)[0]
    torch.testing.assert_close(model(contexts), functional_call(model, params, (contexts,)), rtol=0, atol=0)


def test_a_later_training_replaces_them(make_run, tmp_path):
    stack, program, now, rows = trained_stack(make_run, 0.1)
    save_weights(tmp_path, "s", stack, program, now, rows)
    now.params_RN = now.params_RN + 1
    save_weights(tmp_path, "s", stack, program, now, rows)
    [path] = (tmp_path / "weights").iterdir()
    first = next(iter(program.layout.names))
    expected = unflatten_params(now.params_RN[0], program.layout)[first]
    torch.testing.assert_close(load_weights(path)[0][first], expected, rtol=0, atol=0)


def test_the_plan_tells_the_worker_and_older_plans_are_found(make_run, tmp_path):
    runs = {run_id(config): config for config in [make_run()]}
    options = {"device": "cpu", "width": 3, "metrics": {"num_evals": 4, "num_examples": 16}, "since": None}
    plain, wanted = (name_request("s", runs, **options, save_weights=x) for x in (False, True))
    assert plain == name_request("s", runs, **options) != wanted
    path, plan = open_plan(tmp_path, wanted, runs, (), partial(make_plan, "s", **options, save_weights=True))
    assert plan.save_weights
    assert read_plan(path) == plan
    assert read_stack(path, 0)[0].save_weights
    path.write_text(path.read_text().replace('"save_weights": true, ', ""))
    assert "save_weights" not in path.read_text()
    assert not read_plan(path).save_weights


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    small = ["sweep.grid.optimizer.lr=[0.01,0.02,1e38]", "sweep.grid.seed=[0]", "optimizer=sgd", "tracker=none"]
    return folder, small, harness(folder, *TINY, *small, "save_weights=true")


def test_the_loss_of_the_record_follows_from_the_file(kept):
    folder, _, done = kept
    frame = records(folder).set_index("run_id")
    assert "save_weights" not in done.stderr
    assert {p.stem for p in (folder / "runs" / "smoke" / "weights").iterdir()} == set(frame.index)
    assert set(frame["status"]) == {"done", "diverged"}
    for name, row in frame.iterrows():
        params, about = load_weights(folder / "runs" / "smoke" / "weights" / f"{name}.safetensors")
        assert about["status"] == row["status"]
        if row["status"] == "done":
            config = make_run_config(about["config"])
            task = make_task(config, CPU, folder / "runs")
            loss = task.loss(params, task.heldout(64)).item()
            assert loss == pytest.approx(row["loss"], rel=1e-5)
            assert run_id(config) == name


def test_runs_from_before_are_told(kept, tmp_path):
    _, small, _ = kept
    harness(tmp_path, *TINY, *small)
    assert not (tmp_path / "runs" / "smoke" / "weights").exists()
    again = harness(tmp_path, *TINY, *small, "save_weights=true")
    assert "6 runs were trained before without save_weights and have none: refresh=true" in again.stderr
    assert harness(tmp_path, *TINY, *small, "save_weights=true", "refresh=true").stderr == ""
    assert len(list((tmp_path / "runs" / "smoke" / "weights").iterdir())) == 6
