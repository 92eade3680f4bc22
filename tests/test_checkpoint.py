"""Oracle: the same stack trained without a break. Files are damaged byte by byte; equality is bit for bit."""

import copy
import resource

import pandas as pd
import pytest
import torch

from harness.checkpoint import checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.plan import Plan, Stack
from harness.program import make_program
from harness.store import StoreError
from harness.train import train
from harness.unfinished import read_running, remove_ended
from tests.reference.plain import CPU

ADAM = [{"lr": lr} for lr in (0.001, 0.01, 0.1, 1.0)]
SGD = [
    {"name": "sgd", "lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0} for lr in (0.01, 0.1, 1e38, 0.2)
]


def stack_of(make_run, optimizers):
    configs = [make_run(num_samples=160, optimizer=o, seed=i % 2) for i, o in enumerate(optimizers)]
    return Stack({run_id(config): config for config in configs})


def plan_of(stack, since=None):
    return Plan("s", "cpu", 4, 16, since, (stack,))


def go(stack, resume=None):
    return train(make_program(stack, CPU), stack, num_evals=4, num_examples=16, resume=resume)


def save(folder, stack, steps, since=None):
    key = checkpoint_key(plan_of(stack, since), stack, CPU)
    return [save_checkpoint(folder, stack.name, "s", stack, now, key) for now in go(stack) if now.step in steps]


def load(folder, stack, told=None, plan=None):
    told = [] if told is None else told
    return load_checkpoint(folder, stack, checkpoint_key(plan or plan_of(stack), stack, CPU), CPU, told.append)


def last(stack, resume=None):
    *_, now = go(stack, resume)
    return now


def assert_same(a, b, lanes=slice(None)):
    """Everything that a step changes, and every point of the curves; NaN is equal to NaN."""
    for name in ("params_RN", "diverged_at_R", "loss_sum_R"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name)[lanes], rtol=0, atol=0, equal_nan=True)
    assert a.state.keys() == b.state.keys()
    for name, value in a.state.items():
        torch.testing.assert_close(value, b.state[name][lanes], rtol=0, atol=0, equal_nan=True)
    assert (a.step, a.since, a.history.keys()) == (b.step, b.since, b.history.keys())
    for name, points in a.history.items():
        for x, y in zip(points, b.history[name], strict=True):
            assert repr(x) == repr(y[lanes] if isinstance(y, list) else y), name


@pytest.mark.parametrize("optimizers", [ADAM, SGD], ids=["adam", "sgd with a run that diverges"])
@pytest.mark.parametrize("step", [1, 7, 10, 20])
def test_what_goes_on_from_a_checkpoint_is_what_never_stopped(make_run, tmp_path, optimizers, step):
    stack = stack_of(make_run, optimizers)
    for now in go(stack):
        if now.step == step:
            torch.manual_seed(step)  # as dropout would leave it
            random = torch.get_rng_state()
            save_checkpoint(tmp_path, "x", "s", stack, now, checkpoint_key(plan_of(stack), stack, CPU))
            break
    torch.manual_seed(0)
    loaded = load(tmp_path, stack)
    assert loaded.step == step
    assert torch.equal(torch.get_rng_state(), random)
    if step < 20:
        loaded = last(stack, loaded)
    assert_same(loaded, last(stack))


def test_half_a_stack_goes_on_from_the_whole_ones(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    save(tmp_path, stack, {7})
    names = list(stack.runs)
    for lanes in (slice(0, 2), slice(2, 4), slice(1, 2)):
        half = stack.only(names[lanes])
        assert_same(last(half, load(tmp_path, half)), last(stack), lanes)


def test_another_key_is_not_gone_on_from(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    save(tmp_path, stack, {7})
    plan = plan_of(stack)
    for field, value in (("num_evals", 5), ("num_examples", 17), ("noise_scale", True), ("since", "2026-01-01")):
        other = Plan(**{**{name: getattr(plan, name) for name in plan.__dataclass_fields__}, field: value})
        assert load(tmp_path, stack, plan=other) is None
    wider = stack_of(make_run, [*ADAM, {"lr": 0.5}])
    assert load(tmp_path, wider) is None
    assert load(tmp_path, stack) is not None


def test_the_newest_two_are_kept_and_those_of_ended_runs_go(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    paths = save(tmp_path, stack, {2, 4, 6, 8})
    assert sorted((tmp_path / ".checkpoints").iterdir()) == paths[2:]
    names = list(stack.runs)
    remove_ended(tmp_path, names[:3], None)
    assert len(list((tmp_path / ".checkpoints").iterdir())) == 2
    remove_ended(tmp_path, names, None)
    assert list((tmp_path / ".checkpoints").iterdir()) == []


def test_what_ended_of_a_refresh_drops_the_checkpoints_of_older_ones_only(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    plain, older, newer = (
        save(tmp_path, stack, {step}, since)[0] for step, since in ((2, None), (4, "2026-01-01"), (6, "2026-01-03"))
    )
    remove_ended(tmp_path, stack.runs, None)
    assert sorted((tmp_path / ".checkpoints").iterdir()) == sorted([older, newer])
    save(tmp_path, stack, {2})
    assert plain.exists()
    remove_ended(tmp_path, stack.runs, "2026-01-02")
    assert list((tmp_path / ".checkpoints").iterdir()) == [newer]


def test_every_damage_is_noticed(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    older, newest = save(tmp_path, stack, {4, 6})
    content = newest.read_bytes()
    # the length, the header's braces, the history in it, the tensors from the first to the last byte; and torn files
    places = [0, 7, 8, 30, 400, len(content) // 2, len(content) - 1]
    damaged = [content[:p] + bytes([content[p] ^ 4]) + content[p + 1 :] for p in places]
    for bad in [*damaged, b"", content[:5], content[:300], content[:-1]]:
        newest.write_bytes(bad)
        told = []
        now = load(tmp_path, stack, told)
        assert now is not None
        assert now.step == 4
        assert len(told) == 1
        assert f"{newest} is damaged" in told[0]
    older.write_bytes(b"")
    newest.write_bytes(b"")
    assert load(tmp_path, stack) is None


def test_runs_in_training_are_rows_with_their_curves(make_run, tmp_path):
    stack = stack_of(make_run, SGD)
    save(tmp_path, stack, {7, 11})
    rows = read_running(tmp_path)
    states = {now.step: copy.deepcopy(now.history) for now in go(stack)}
    assert [row["run_id"] for row in rows] == list(stack.runs)
    for lane, (row, config) in enumerate(zip(rows, stack.runs.values(), strict=True)):
        assert (row["status"], row["message"]) == ("running", "step 11")
        assert row["optimizer.lr"] == config.optimizer["lr"]
        if lane == 2:  # it diverged: its curve ends there
            assert row["history.loss"] == []
            continue
        assert row["history.step"] == [5, 10]
        assert row["history.loss"] == [point[lane] for point in states[11]["loss"]]
        assert row["loss"] == states[11]["loss"][-1][lane]
    assert len(pd.DataFrame(rows)) == 4


def test_a_full_disk_is_told_and_leaves_what_was_there(make_run, tmp_path):
    stack = stack_of(make_run, ADAM)
    (before,) = save(tmp_path, stack, {4})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(StoreError, match="cannot write .*File too large.*free some space"):
            save(tmp_path, stack, {6})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / ".checkpoints").iterdir()) == [before]
