"""Training itself against plain loops, by model and batch size: `python scripts/benchmark_steps.py [ROUNDS]`.

24 runs (12 learning rates, 2 seeds) by the engine, as it configures itself, and one after the other as plain loops
with fused torch.optim.Adam, eager or under torch.compile, whichever is faster. One thread each, in turn, each in a
process of its own, the engine's started as its workers are. The engine's time holds all but the import of torch:
measuring the shape, building or loading the program, drawing samples, training. `cold`: nothing was ever measured,
built or compiled, so that loops under torch.compile pay for their compilation; `warm`: it was, and they do not.
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).parent))  # the mlp below is named by its import path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import RunConfig, make_run_config, run_id
from harness.launchers.local import warm_up
from harness.machine import has_compiler
from harness.measure import Machine, choose_all, note_fact
from harness.plan import Stack, lay_stacks, name_program, shape_of
from harness.process import prepare_process
from harness.program import make_program
from harness.tasks import make_task
from harness.train import train

GPT = {
    "name": "gpt", "width": 32, "depth": 2, "num_heads": 2, "activation": "swiglu", "qk_norm": True, "tied": False,
    "init_std": 0.02, "parametrization": "standard", "base_width": 32,
}  # fmt: skip
TASKS = {  # name -> task, model, batch size -> steps
    "ngram": (
        {"name": "python_source", "context": 8, "num_heldout": 512},
        {"name": "ngram", "embedding": 16, "hidden": 64, "norm": False},
        {8: 2000, 64: 1000, 512: 250},
    ),
    "mlp": (
        {"name": "tensors", "data": "benchmark_steps:digits", "num_heldout": 512},
        {"name": "benchmark_steps:MLP"},
        {8: 2000, 64: 1000, 512: 250},
    ),
    "gpt": (
        {"name": "python_source", "context": 32, "num_heldout": 128},
        GPT,
        {8: 400, 64: 40},
    ),
    "gpt 256": ({"name": "python_source", "context": 256, "num_heldout": 16}, GPT, {8: 40}),
}  # fmt: skip
DEVICE = torch.device("cpu")


class MLP(nn.Sequential):
    """64-128-128-10 with ReLU."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten noisy classes in 64 dimensions, for training and held out."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 64, generator=generator)
    labels = torch.randint(10, (9000,), generator=generator)
    inputs = centres[labels] + 2 * torch.randn(9000, 64, generator=generator)
    return inputs[:8000], labels[:8000], inputs[8000:], labels[8000:]


def configs_of(name: str, batch_size: int) -> dict[str, RunConfig]:
    task, model, num_steps = TASKS[name]
    configs = [
        make_run_config({
            "task": task, "model": model, "schedule": {"name": "linear", "warmup": 0.0}, "protocol": "fixed_steps",
            "optimizer": {"name": "adam", "lr": 2.0 ** (-9.5 + 0.75 * i), "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
            "num_steps": num_steps[batch_size], "num_samples": None, "batch_size": batch_size, "seed": seed,
            "precision": "float32",
        })
        for seed in (0, 1) for i in range(12)
    ]  # fmt: skip
    return {run_id(config): config for config in configs}


def time_engine(ours: Executor, runs: dict[str, RunConfig], runs_dir: Path, compile: str = "auto") -> float:
    """Seconds of choosing, here as the launcher does it, and of training in a worker's process."""
    began = time.perf_counter()
    machine = Machine("cpu", workers=1, compile=compile, width=None, micro_batch=None, memory_share=0.8)
    choice = choose_all(runs, machine, runs_dir)[shape_of(next(iter(runs.values())))]
    ours.submit(train_stacks, lay_stacks(runs.items(), choice), runs_dir).result()
    return time.perf_counter() - began


def train_stacks(stacks: list[Stack], runs_dir: Path) -> None:
    for stack in stacks:
        program = make_program(stack, DEVICE, runs_dir, note=partial(note, stack, runs_dir))
        examples = min(512, int(str(stack.first.task["num_heldout"])))
        for _ in train(program, stack, num_evals=1, num_examples=examples):
            pass


def note(stack: Stack, runs_dir: Path, fact: dict[str, Any]) -> None:
    """As workers do (harness/job.py)."""
    note_fact(runs_dir, stack.first, "cpu", fact | {"kind": name_program(stack)})


def plain(config: RunConfig, num_steps: int, *, compiled: bool) -> float:
    """The loop that anybody would write; returns its seconds."""
    task = make_task(config, DEVICE)
    torch.manual_seed(config.seed)
    module = module_of(config)
    optimizer = torch.optim.Adam(
        module.parameters(), lr=float(str(config.optimizer["lr"])), betas=(0.9, 0.95), fused=True
    )
    lr = optimizer.param_groups[0]["lr"]

    def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(module(inputs).flatten(0, -2), targets.flatten())

    loss: Callable[[Tensor, Tensor], Tensor] = torch.compile(loss_of) if compiled else loss_of
    batch_size = config.batch_size
    if compiled:
        loss(*task.sample(config.seed, 0, batch_size)).backward()
    began = time.perf_counter()
    inputs, targets = task.sample(config.seed, 0, num_steps * batch_size)
    for t in range(num_steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - t / num_steps)
        rows = slice(t * batch_size, (t + 1) * batch_size)
        optimizer.zero_grad()
        loss(inputs[rows], targets[rows]).backward()
        optimizer.step()
    return time.perf_counter() - began


def module_of(config: RunConfig) -> nn.Module:
    from harness.models.ngram import NGram

    if config.model["name"] == "ngram":
        return NGram(context=8, num_symbols=256, num_outputs=256, embedding=16, hidden=64, norm=False)
    if config.model["name"] == "gpt":
        from harness.models import gpt

        options: dict[str, Any] = {key: value for key, value in config.model.items() if key != "name"}
        return gpt.GPT(context=int(str(config.task["context"])), num_symbols=256, num_outputs=256, **options)
    return MLP()


def time_plain(runs: dict[str, RunConfig], *, compiled: bool) -> float:
    return sum(plain(run, run.num_steps, compiled=compiled) for run in runs.values())


def compare(
    ours: Executor, theirs: Executor, runs: dict[str, RunConfig], rounds: int
) -> tuple[bool, list[float], list[float], list[float]]:
    """Whether the plain loops are compiled; their ms a step; their time over the engine's, cold and warm, by round.

    Args:
        ours, theirs: one process each, for the engine and for the plain loops.
    """
    first = next(iter(runs.values()))

    def ask(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return theirs.submit(function, *args, **kwargs).result()

    compilation = ask(compile_seconds, first) if has_compiler() else float("inf")
    a_step = {c: min(ask(plain, first, 60, compiled=c) for _ in range(3)) / 60 for c in {False, has_compiler()}}
    # what the loops would take in all, compiled or not, for the choice of the faster
    expected = {c: seconds * first.num_steps * len(runs) for c, seconds in a_step.items()}
    faster = min(expected, key=lambda c: expected[c])
    faster_cold = min(expected, key=lambda c: expected[c] + c * compilation)
    steps, cold, warm = [], [], []
    with tempfile.TemporaryDirectory() as there:
        time_engine(ours, runs, Path(there), compile="always")
        for _ in range(rounds):
            alone = {c: ask(time_plain, runs, compiled=c) for c in {faster, faster_cold}}
            with tempfile.TemporaryDirectory() as empty:
                alone_cold = alone[faster_cold] + (compilation if faster_cold else 0)
                cold.append(alone_cold / time_engine(ours, runs, Path(empty)))
            warm.append(alone[faster] / time_engine(ours, runs, Path(there)))
            steps.append(alone[faster] / len(runs) / first.num_steps * 1e3)
    return faster, steps, cold, warm


def compile_seconds(config: RunConfig) -> float:
    """What torch.compile takes for the plain loop where nothing is compiled yet, its own imports left out."""
    torch.compiler.reset()  # a program of another batch size, kept from before, would serve
    with tempfile.TemporaryDirectory() as empty:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = empty
        began = time.perf_counter()
        plain(config, 1, compiled=True)
        return time.perf_counter() - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    usual = multiprocessing.get_context("spawn")  # a Python as it starts, without the memory settings of our workers
    with ProcessPoolExecutor(1, usual, initializer=torch.set_num_threads, initargs=(1,)) as theirs:
        theirs.submit(has_compiler).result()  # started before warm_up sets what workers inherit
        warm_up()
        as_workers = multiprocessing.get_context("forkserver")
        with ProcessPoolExecutor(1, as_workers, initializer=prepare_process, initargs=("cpu",)) as ours:
            print("model   batch  plain ms a step    cold   warm   (time of the plain loops / the engine's; medians)")
            for name in sys.argv[2:] or TASKS:
                for batch_size in TASKS[name][2]:
                    compiled, steps, cold, warm = compare(ours, theirs, configs_of(name, batch_size), rounds)
                    kind = "compiled" if compiled else "eager"
                    medians = [statistics.median(values) for values in (steps, cold, warm)]
                    print(
                        f"{name:8}{batch_size:5}  {medians[0]:.3f} {kind:10} {medians[1]:6.2f} {medians[2]:6.2f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
