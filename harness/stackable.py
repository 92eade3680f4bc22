"""Whether a shape of runs can be stacked: tried, with two runs on a few samples, and the reason told in one line."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.func import vmap

from harness.config import RunConfig
from harness.machine import is_out_of_memory
from harness.plan import Stack
from harness.program import WORTH_RECORDING, make_program
from harness.schedules import scheduled
from harness.tasks import make_task
from harness.train import draw_batches, stack_hyperparameters, start

NUM_SAMPLES = 4

# What torch says -> what it means for whoever wrote the module
REASONS = {
    "data-dependent": "it decides by the values of a tensor (if, while, .item())",
    "tracing tensor": "it decides by the values of a tensor (if, while, .item())",
    ".item()": "it decides by the values of a tensor (if, while, .item())",
    "dynamic shape": "the shape of a result depends on the values of a tensor",
    "aten::lstm": "torch has no rule for stacking an LSTM",
    "aten::gru": "torch has no rule for stacking a GRU",
    "aten::rnn": "torch has no rule for stacking an RNN",
    "inplace arithmetic": "it writes in place into a tensor that all runs of a stack would share",
    "in-place operation": "it writes in place into a tensor that all runs of a stack would share",
}


def why_alone(config: RunConfig, device: torch.device, runs_dir: Path | None = None) -> str | None:
    """Why runs of this shape cannot be stacked, in one line; None when they can.

    Also None when a run alone fails in the same way: then the module is wrong, whoever trains it says so, and running
    one by one would be no cure. What shows only on a GPU or at the full batch size is not found here.
    """
    batch_size = min(config.batch_size, NUM_SAMPLES)
    few = replace(config, num_steps=WORTH_RECORDING, num_samples=WORTH_RECORDING * batch_size, batch_size=batch_size)
    lr = float(str(few.optimizer["lr"]))
    faster = replace(few, optimizer={**few.optimizer, "lr": 2 * lr})
    pairs = [few, replace(few, seed=few.seed + 1)], [few, faster]  # a batch a run, and one for both
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about operations that it maps slowly
        try:
            for pair, steps in zip(pairs, (("measured_step", "step"), ("measured_step",)), strict=True):
                stack = Stack({str(i): config for i, config in enumerate(pair)})
                try_step(stack, device, runs_dir, steps)  # recording takes longest: once is enough
            return None
        except Exception as error:  # whatever a user's module raises
            if is_out_of_memory(error):
                return None
            reason = describe(error)
        try:
            try_step(Stack({"0": few}, alone=reason), device, runs_dir)
            return statistics_reason(few, device, runs_dir) or reason
        except Exception:
            return None
        finally:
            torch.set_rng_state(state)


def try_step(
    stack: Stack, device: torch.device, runs_dir: Path | None, steps: Sequence[str] = ("measured_step", "step")
) -> None:
    """One step of each kind and one evaluation, recorded and mapped as in training.

    Raises: whatever the module raises, and SharedState where a stack's runs would share what a step changes.
    """
    program = make_program(stack, device, runs_dir)
    now = start(program, stack)
    buffers = {name: buffer.clone() for name, buffer in (program.task.buffers or {}).items()}
    batch, heldout = next(draw_batches(program.task, stack)), program.task.heldout(NUM_SAMPLES)
    inputs = [part.clone() for part in (*batch, *heldout)]
    one = torch.ones((), dtype=now.params_RN.dtype, device=device)
    at = {"step": one} | {name: one.expand(len(stack.runs)) for name in scheduled(stack.first.schedule)}
    hyper = stack_hyperparameters(stack, now.params_RN)
    state = vmap(program.optimizer.init)(now.params_RN)
    for step in steps:
        getattr(program, step)(now.params_RN, state, now.diverged_at_R, now.loss_sum_R, hyper, at, batch)
    program.evaluate(now.params_RN, heldout)
    if not all(map(same, (*batch, *heldout), inputs)):
        raise SharedState("it writes in place into its input, which the runs of a stack share")
    for name, buffer in (program.task.buffers or {}).items():
        if stack.alone is None and not same(buffer, buffers[name]):
            raise SharedState(f"a step changes its buffer {name}, and a stack would need that once a run")


class SharedState(Exception):
    """Told as it is."""


def statistics_reason(config: RunConfig, device: torch.device, runs_dir: Path | None) -> str | None:
    """Of the reasons to run alone the one with a cure that keeps its layers."""
    module = make_task(config, device, runs_dir).module
    for name, part in module.named_modules() if module is not None else ():
        if isinstance(part, torch.nn.modules.batchnorm._BatchNorm) and part.track_running_stats:
            return f"its {type(part).__name__} {name} keeps running statistics; GroupNorm or LayerNorm would stack"
    return None


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def describe(error: Exception) -> str:
    """One line: plain words for a known case, else the first line of what was raised."""
    text = " ".join(str(error).split())
    if not isinstance(error, SharedState):
        for words, reason in REASONS.items():
            if words in text:
                return reason
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, SharedState) else f"{type(error).__name__}: {first}"
