"""Oracle: torch's gradient of the loss of the whole batch, taken by one process; the same stack trained by one process;
processes that are killed.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.func import grad

from harness.config import run_id
from harness.launchers import choose_place, local
from harness.launchers.placed import see_devices
from harness.log import count_trainings, read_log, trained_twice
from harness.parameters import flatten_params
from harness.plan import Choice, Plan, Stack, make_plan, shape_of
from harness.plan_file import read_plan, to_json
from harness.program import make_program
from harness.records import read_records
from harness.tasks import make_task
from tests.test_survival import finish, kill, start, wait_for
from tests.two_ranks import follow_steps

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
LONG_ENOUGH = 240  # seconds: ranks import torch each
GPT = {
    "name": "gpt", "width": 16, "depth": 1, "num_heads": 2, "activation": "swiglu", "qk_norm": True, "tied": False,
    "init_std": 0.1, "parametrization": "mup", "base_width": 8,
}  # fmt: skip
SGD = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}


def stack_of(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


@pytest.fixture(scope="module")
def stacks(make_run):
    """name -> stack; a first step of SGD with learning rate 1 moves parameters by the gradient."""
    short = {"optimizer": SGD, "num_samples": 32}
    found = {}
    for precision in ("float32", "float64"):
        same = {**short, "precision": precision}
        found[f"single {precision}"] = [make_run(**same)]
        found[f"one seed {precision}"] = [make_run(**{**same, "optimizer": {**SGD, "lr": lr}}) for lr in (1.0, 0.5)]
        found[f"seeds {precision}"] = [make_run(**same, seed=seed) for seed in (0, 1, 2)]
    long = {"num_samples": 8 * 160}  # long enough to be recorded
    found["adam"] = [make_run(**long, optimizer={"lr": lr}) for lr in (0.001, 0.01)]
    found["adam, seeds"] = [make_run(**long, seed=seed) for seed in (0, 1)]
    found["clipped"] = [make_run(**long, max_norm=x, optimizer={**SGD, "lr": 0.1}) for x in (0.05, 0.5)]
    found["diverging"] = [make_run(**long, optimizer={**SGD, "lr": lr}) for lr in (0.1, 1e38)]
    transformer = {"model": GPT, "task": {"context": 9}, "num_samples": 8 * 160}
    found["gpt"] = [make_run(**transformer, optimizer={"lr": lr}) for lr in (0.001, 0.01)]
    for precision in ("float32", "float64"):
        plain = {**transformer, "model": {**GPT, "base_width": 16}, "optimizer": SGD, "num_samples": 32}
        found[f"gpt {precision}"] = [make_run(**plain, precision=precision)]
    pieces = stack_of([make_run(**long)], micro_batch=3)
    return {name: stack_of(configs) for name, configs in found.items()} | {"pieces": pieces}


@pytest.fixture(scope="module")
def trained(stacks, tmp_path_factory):
    """What each of two processes made of every stack."""
    folder = tmp_path_factory.mktemp("ranks")
    shared = tuple(replace(stack, ranks=2) for stack in stacks.values())
    plan = folder / "plan-0123-0.json"
    plan.write_text(to_json(Plan("s", "cpu", 1, 16, None, shared)))
    assert read_plan(plan).stacks == shared
    command = [sys.executable, str(ROOT / "tests" / "two_ranks.py")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [
        subprocess.Popen([*command, str(rank), "2", str(plan), str(folder)], env=env, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        for process in running:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
    finally:
        for process in running:
            process.kill()
            process.communicate()
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


def test_all_ranks_keep_the_same_bits(trained):
    one, other = trained
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name].nan_to_num(7.0), other[name].nan_to_num(7.0)), name


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["single", "one seed", "seeds", "gpt"])
def test_the_averaged_gradient_is_that_of_one_process(stacks, trained, kind, precision):
    name = f"{kind} {precision}"
    stack, moved_RN = stacks[name], trained[0][f"{list(stacks).index(name)}.params"][0]
    assert len(moved_RN) == len(stack.runs)
    for config, moved_N in zip(stack.runs.values(), moved_RN, strict=True):
        task = make_task(config, CPU)
        params = task.init(config.seed)
        gradient_N = flatten_params(grad(task.loss)(params, task.sample(config.seed, 0, config.batch_size)))
        lr = config.hyperparameters["lr"]
        found_N = (flatten_params(params) - moved_N) / lr
        tolerance = 1e-6 if precision == "float32" else 1e-12
        torch.testing.assert_close(found_N, gradient_N, rtol=0, atol=tolerance)
        assert gradient_N.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["adam", "adam, seeds", "clipped", "diverging", "pieces", "gpt"])
def test_fifty_losses_are_those_of_one_process(stacks, trained, name):
    losses = trained[0][f"{list(stacks).index(name)}.losses"]
    _, expected = follow_steps(stacks[name])
    assert losses.shape == (50, len(stacks[name].runs))
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4, equal_nan=True)
    assert losses[:, 0].isfinite().all()
    assert (name == "diverging") == bool(losses.isnan().any())


def test_a_part_that_is_not_finite_and_a_wish_to_stop_reach_all(trained):
    for found in trained:
        assert found["grad"].tolist() == [[3.5, 3.5]]
        assert found["loss"].tolist() == [float("inf")]


TINY = [
    "optimizer=sgd", "optimizer.lr=0.1", "batch_size=32", "num_samples=262144", "task.num_heldout=64",
    "metrics.num_examples=32", "model.hidden=8", "model.embedding=4", "tracker=none", "launcher.workers=1",
    "launcher.checkpoint=0.1", "launcher.data_parallel=2",
]  # fmt: skip


def test_a_killed_rank_and_a_stopped_command_go_on_from_their_checkpoints(tmp_path):
    folder = tmp_path / "runs" / "single"

    def begun():
        return [entry for entry in read_log(folder) if entry["event"] == "start"]

    def checkpoint_after(count):
        """Pids of the ranks once there are so many starts, and a checkpoint later than the last of them."""
        wait_for(lambda: len(begun()) == count, LONG_ENOUGH)
        step = begun()[-1]["step"]
        files = ".checkpoints/*.safetensors"
        wait_for(lambda: any(int(p.stem.rpartition("-")[2]) > step for p in folder.glob(files)), LONG_ENOUGH)
        return begun()[-1]["ranks"]

    process = start(tmp_path, *TINY)
    pids = checkpoint_after(1)
    assert len(set(pids)) == 2
    assert kill(pids[1])
    pids = checkpoint_after(2)  # tried once more, as after the death of any worker
    assert kill(pids[0])
    killed = time.monotonic()
    out, errors = process.communicate(timeout=60)
    assert time.monotonic() - killed < 30  # of a busy machine
    assert process.returncode == 1, out + errors
    lines = errors.strip().splitlines()
    assert lines[0] == "1 run failed: rank 0 of 2 was ended by signal 9, often for want of memory"
    assert "Traceback" not in errors
    assert [entry["message"].split(",")[0] for entry in read_log(folder) if entry["event"] in ("halved", "failed")] == [
        "rank 1 of 2 was ended by signal 9", "rank 0 of 2 was ended by signal 9",
    ]  # fmt: skip

    process = start(tmp_path, *TINY)
    pids = checkpoint_after(3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.strip() == "interrupted: what was trained is kept; the same command goes on from there"
    reached = read_log(folder)[-1]
    assert reached["event"] == "stopped"
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)

    finish(start(tmp_path, *TINY))
    steps = [entry["step"] for entry in begun()]
    assert len(steps) == 4
    assert steps == sorted(set(steps))
    assert steps[3] == reached["step"]
    frame = read_records(folder)
    assert frame["status"].tolist() == ["done"]
    assert frame["provenance.ranks"].tolist() == [2]
    assert trained_twice(read_log(folder)) == []
    assert set(count_trainings(read_log(folder)).values()) == {1}


def test_what_is_measured_is_what_one_process_measures(tmp_path):
    metrics = [f"metrics.{name}=true" for name in ("noise_scale", "per_tensor", "memory")]
    short = [*TINY, "num_samples=6400", "launcher.checkpoint=60", *metrics]
    frames = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        finish(start(folder, *short, f"launcher.data_parallel={ranks}"))
        frames.append(read_records(folder / "runs" / "single"))
    one, two = frames
    assert two["provenance.ranks"].tolist() == [2]
    measured = [name for name in one if name.startswith(("history.", "memory."))]
    assert {"history.noise_scale", "memory.loss"} <= set(measured)
    assert len(measured) > 50
    for name in measured:
        scale = np.nan_to_num(np.abs(one[name][0])).max()
        np.testing.assert_allclose(two[name][0], one[name][0], rtol=2e-3, atol=1e-3 * scale, err_msg=name)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=30", "launcher.data_parallel=4"], "batch_size=30 does not divide by launcher.data_parallel=4"),
        (["launcher.data_parallel=2", "launcher.compile=always"], "machine code takes whole steps of one process"),
        (["launcher.data_parallel=0"], "launcher.data_parallel=0 is not a whole number >= 1"),
    ],
)
def test_mistakes_are_one_line_before_training(tmp_path, overrides, words):
    _, errors = finish(start(tmp_path, "tracker=none", *overrides), 2)
    (line,) = errors.strip().splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert not list(tmp_path.rglob("log.jsonl"))


def test_more_ranks_than_gpus(monkeypatch):
    monkeypatch.setattr(local, "GPU_NODES", ("/dev/null",))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    launcher = {"name": "local", "device": "cuda", "workers": None, "data_parallel": 4}
    with pytest.raises(ValueError, match=r"launcher.data_parallel=4 needs as many GPUs, one a rank, .* finds 2: give"):
        choose_place(launcher)
    assert choose_place({**launcher, "data_parallel": 2}) == ("cuda", 2, 1)
    assert see_devices("cuda", 1, 4, None, 2) == ("cuda:0", {"CUDA_VISIBLE_DEVICES": "2,3"})


def test_what_is_trained_alone_is_not_shared(make_run):
    config = make_run()
    choices = {shape_of(config): Choice(1, alone="its BatchNorm1d keeps running statistics")}
    metrics = {"num_evals": 1, "num_examples": 8}
    with pytest.raises(ValueError, match=r"launcher.data_parallel=2 needs runs that can be stacked.*BatchNorm1d"):
        make_plan(
            "s", {run_id(config): config}, device="cpu", width=1, metrics=metrics, data_parallel=2, choices=choices
        )


def test_without_ranks_a_plan_and_a_program_say_nothing_of_them(make_run):
    stack = stack_of([make_run()])
    assert "ranks" not in to_json(Plan("s", "cpu", 1, 16, None, (stack,)))
    assert make_program(stack, CPU).ranks is None
