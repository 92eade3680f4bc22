"""Oracle: the same stack on the CPU, in float64; a run alone; float32 for bfloat16. For machines with a GPU."""

import time

import pytest
import torch

from harness.checkpoint import checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.parameters import flatten_params
from harness.plan import Plan, Stack
from harness.probe import freeze, probe
from harness.program import make_program
from harness.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU on this machine"),
]
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def configs(make_run):
    return [make_run(precision="float64", optimizer={"lr": lr}, seed=s) for lr in (0.001, 0.01) for s in (0, 1)]


def make_stack(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def last(stack, device, runs_dir=None):
    *_, now = train(make_program(stack, device, runs_dir), stack, num_evals=4, num_examples=64)
    return now


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
def test_a_stack_on_a_gpu_is_the_stack_on_the_cpu(configs, tmp_path, compiled):
    stack = make_stack(configs, compiled=compiled)
    here, there = last(make_stack(configs), CPU), last(stack, GPU, tmp_path)
    torch.testing.assert_close(there.params_RN.cpu(), here.params_RN, rtol=0, atol=1e-9)
    assert there.history["step"] == here.history["step"]
    torch.testing.assert_close(
        torch.tensor(there.history["loss"]), torch.tensor(here.history["loss"]), rtol=1e-9, atol=0
    )


def test_a_resumed_stack_is_the_undisturbed_one(configs, tmp_path):
    stack = make_stack(configs)
    key = checkpoint_key(Plan("s", "cuda", 4, 64, None, (stack,)), stack, GPU)
    whole = last(stack, GPU)
    program = make_program(stack, GPU)
    for now in train(program, stack, num_evals=4, num_examples=64):
        if now.step == 50:
            save_checkpoint(tmp_path, stack.name, "s", stack, now, key)
            break
    resumed = load_checkpoint(tmp_path, stack, key, GPU, print)
    assert resumed is not None
    *_, now = train(program, stack, num_evals=4, num_examples=64, resume=resumed)
    assert torch.equal(now.params_RN, whole.params_RN)
    assert now.history == whole.history


def test_a_probe_on_a_gpu_is_the_probe_on_the_cpu(make_run):
    config = make_run(task={"num_heldout": 8, "context": 2}, model={"embedding": 2, "hidden": 2}, precision="float64")
    found = {}
    for device in (CPU, GPU):
        program = make_program(Stack({run_id(config): config}), device)
        params_N = flatten_params(program.task.init(0))
        assert params_N.device.type == device.type
        pool, samples = program.task.sample(0, 0, 64), program.task.sample(0, 64, 32)
        at = freeze(program.task, program.layout, params_N, pool, samples, permute=True)
        found[device] = probe(at, [4, 16], 8, 0)
    (here, arrays), (there, others) = found[CPU], found[GPU]
    assert there.keys() == here.keys()
    for name, value in here.items():
        if name != "optimizer":
            assert there[name] == pytest.approx(value, rel=1e-3, nan_ok=True), name
    for name, tensor in arrays.items():
        torch.testing.assert_close(others[name], tensor, rtol=1e-4, atol=1e-4)


def transformers(make_run, precision, count=8):
    """Runs of one transformer at some learning rates."""
    return [
        make_run(
            task={"context": 32}, optimizer={"lr": 0.001 * 2 ** (i / 2)}, precision=precision, num_samples=1600,
            model={
                "name": "gpt", "width": 64, "depth": 2, "num_heads": 4, "activation": "swiglu", "qk_norm": True,
                "tied": False, "init_std": 0.02, "parametrization": "standard", "base_width": 64,
            },
        )
        for i in range(count)
    ]  # fmt: skip


def test_transformers_in_a_stack_train_as_each_alone(make_run):
    configs = transformers(make_run, "float32", count=4)
    together = last(make_stack(configs), GPU)
    for lane, config in enumerate(configs):
        alone = last(make_stack([config]), GPU)
        assert [point[lane] for point in together.history["loss"]] == pytest.approx(
            [point[0] for point in alone.history["loss"]], rel=1e-4
        )


def test_bfloat16_follows_float32(make_run):
    whole, half = (last(make_stack(transformers(make_run, kind)), GPU) for kind in ("float32", "bfloat16"))
    assert half.params_RN.dtype == torch.float32  # only products are taken in bfloat16
    torch.testing.assert_close(
        torch.tensor(half.history["loss"]), torch.tensor(whole.history["loss"]), rtol=0.01, atol=0
    )
    assert not torch.equal(half.params_RN, whole.params_RN)


def test_a_stack_takes_less_time_than_its_runs_one_after_the_other(make_run):
    configs = transformers(make_run, "float32")

    def seconds(stacks):
        programs = [(make_program(stack, GPU), stack) for stack in stacks]
        for program, stack in programs:  # what is recorded once
            list(train(program, stack, num_evals=1, num_examples=64))
        began = time.perf_counter()
        for program, stack in programs:
            *_, now = train(program, stack, num_evals=1, num_examples=64)
            assert now.history["loss"]  # read back, so the device is done
        return time.perf_counter() - began

    together, alone = [make_stack(configs)], [make_stack([config]) for config in configs]
    pairs = [(seconds(together), seconds(alone)) for _ in range(3)]
    assert min(pair[0] for pair in pairs) < 1.1 * min(pair[1] for pair in pairs)  # "never slower", to what clocks tell
