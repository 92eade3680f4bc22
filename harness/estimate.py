"""What a plan would cost, for `dry_run=true`: FLOPs, memory and time, before anything is started."""

import itertools
import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from harness.attention import FLOPS
from harness.config import RunConfig, run_id
from harness.imports import has_own_code
from harness.machine import available_cores, available_memory
from harness.model_sizes import size_of_gpt, vocabulary
from harness.optimizers import state_sizes
from harness.plan import Stack
from harness.process import prepare_process
from harness.program import WORTH_RECORDING, Program, make_program
from harness.schedules import scheduled
from harness.stackable import why_alone
from harness.train import draw_batches, stack_hyperparameters, start

TIMED_STEPS = 3
ROOM = 0.8  # of the free memory for what a step must hold; what it makes besides takes the rest, or more
TIMED_AT_MOST = 1e11  # FLOPs of a step; a larger one is not tried on the machine that asks
ACTIVATIONS = 68  # bytes a layer, token and unit of width that a step of model=gpt keeps in float32


@dataclass(frozen=True)
class Estimate:
    """Of one stack."""

    flops: float  # of all steps of all runs, forward and backward
    bytes: int  # parameters, optimizer state and all that one step makes: an upper bound
    seconds: float | None  # of one worker on this machine; None where a step is too large to try here


class ByteCounter(TorchDispatchMode):
    """Adds up the bytes of every tensor that operations make, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves(out) if isinstance(x, torch.Tensor))
        return out


def wait_for(device: torch.device) -> None:
    """A GPU works behind the caller's back: wait until it is done, or only launches are timed."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_memory(program: Program, stack: Stack, device: torch.device) -> None:
    """That what a step must hold of a stack (parameters old and new, gradients, state) fits into a worker's memory.

    A bound from below, and the only one where a shape was not measured beforehand: an operating system that has run out
    ends processes of its own choice, or swaps.

    Raises: MemoryError.
    """
    states = sum(state_sizes(program.optimizer, program.layout).values())
    numbers = (3 * program.layout.num_params + states) * len(stack.runs)
    size = numbers * (8 if stack.first.precision == "float64" else 4)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory() / available_cores()
    if size > ROOM * free:
        raise MemoryError(f"a step of these {len(stack.runs)} runs takes at least {size / 1e9:.1f} GB")


def probe(
    config: RunConfig, device: str, runs_dir: Path, memory: float, questions: Collection[str] = ("stackable", "traced")
) -> list[dict[str, Any]]:
    """What harness/measure.py wants to know about a shape: time and memory of a run at the widths that fit.

    Args:
        questions: stackable: whether runs can be stacked; traced: how fast they then are.
        memory: bytes that a stack may take on a CPU; of a GPU its own free memory counts.
    """
    prepare_process(device)
    kind = torch.device(device)
    facts: list[dict[str, Any]] = []
    if "stackable" in questions and has_own_code(config):
        if reason := why_alone(config, kind, runs_dir):
            return [{"what": "alone", "reason": reason}]
        facts.append({"what": "stackable"})
    if "traced" not in questions:
        return facts
    free = torch.cuda.mem_get_info(kind)[0] if kind.type == "cuda" else None
    try:
        one = estimate_stack(stack_of(replace(config, num_steps=1), 1), kind, runs_dir, timed=False)
        for width in [1, *widths_to_try(config, device)]:
            seconds = None
            if width > 1 and width * one.bytes > (free or memory):
                break
            if width > 1 and width * one.flops <= TIMED_AT_MOST:
                cost = estimate_stack(stack_of(config, width), kind, runs_dir)
                seconds = None if cost.seconds is None else cost.seconds / config.num_steps / width
            facts.append({"what": "traced", "width": width, "seconds": seconds, "bytes": one.bytes, "free_bytes": free})
    except Exception:
        return facts  # what failed is not to be judged here: training it will say what is wrong with it
    return facts


def stack_of(config: RunConfig, width: int) -> Stack:
    lr = float(str(config.optimizer["lr"]))
    rows = [replace(config, optimizer={**config.optimizer, "lr": lr * (1 + i / 1000)}) for i in range(width)]
    return Stack({run_id(row): row for row in rows})


def widths_to_try(config: RunConfig, device: str) -> list[int]:
    """Stacks of large batches gain nothing by being wide on a CPU: their operations are long, and fill its cache."""
    if device == "cuda":
        return [64, 256]
    return [12, 24] if config.batch_size <= 128 else [12]


def step_flops(config: RunConfig) -> float | None:
    """FLOPs of a step of one run, by the formula of its model where there is one."""
    if config.model["name"] != "gpt":
        return None
    context = int(str(config.task["context"]))
    size = size_of_gpt(config.model, context=context, num_symbols=vocabulary(config.task))
    return float(size.flops_per_token * context * config.batch_size)


def estimate_by_formula(stack: Stack) -> Estimate:
    """A stack of model=gpt whose step is too large to be tried where the question is asked.

        bytes = 4 R (3 N + S) + R B T (c L D + 8 V)

    R runs, N parameters, S numbers of optimizer state (Adam's 2 N at most), B T tokens of what is taken at once
    (launcher.micro_batch), L layers of width D, V symbols; c = 68 (34 for bfloat16). Attention's squares are left out,
    as kernels on GPUs do not keep them.

    Source: Korthikanti et al., arXiv 2205.05198, section 4.1, whose 34 bytes are of 16-bit numbers.
    """
    config, runs = stack.first, len(stack.runs)
    flops = step_flops(config)
    assert flops is not None, "only model=gpt has a formula"
    context, symbols = int(str(config.task["context"])), vocabulary(config.task)
    size = size_of_gpt(config.model, context=context, num_symbols=symbols)
    tokens = context * min(config.batch_size, stack.micro_batch or config.batch_size)
    kept = ACTIVATIONS // 2 if config.precision == "bfloat16" else ACTIVATIONS
    activations = tokens * (kept * int(str(config.model["depth"])) * int(str(config.model["width"])) + 8 * symbols)
    return Estimate(flops * runs * config.num_steps, runs * (4 * 5 * size.num_params + activations), None)


def estimate_stack(stack: Stack, device: torch.device, runs_dir: Path | None = None, *, timed: bool = True) -> Estimate:
    """Counts one step's FLOPs and, where that is cheap, times a few steps here, as training would take them."""
    if (step_flops(stack.first) or 0) * len(stack.runs) > TIMED_AT_MOST:
        return estimate_by_formula(stack)
    steps = min(stack.first.num_steps, WORTH_RECORDING)  # recorded if training's are
    short = replace(stack, runs={name: replace(config, num_steps=steps) for name, config in stack.runs.items()})
    program = make_program(short, device, runs_dir)
    now = start(program, short)
    batches = list(itertools.islice(draw_batches(program.task, short), TIMED_STEPS + 1))
    hyper = stack_hyperparameters(stack, now.params_RN)
    at = {"step": now.params_RN.new_ones(())}
    at |= {name: now.params_RN.new_ones(len(stack.runs)) for name in scheduled(stack.first.schedule)}
    args = (now.params_RN, now.state, now.diverged_at_R, now.loss_sum_R, hyper, at)
    if steps >= WORTH_RECORDING:
        program.step(*args, batches[0])  # the first call records, which would count all twice
    with FlopCounterMode(display=False, custom_mapping=FLOPS) as flop_counter, ByteCounter() as byte_counter:
        program.step(*args, batches[0])
    flops = float(flop_counter.get_total_flops())
    size = byte_counter.bytes + now.params_RN.nbytes + sum(value.nbytes for value in now.state.values())
    seconds = None
    if timed and flops <= TIMED_AT_MOST:
        wait_for(device)
        began = time.perf_counter()
        for batch in batches:
            program.step(*args, batch)
        wait_for(device)
        seconds = (time.perf_counter() - began) / len(batches) * stack.first.num_steps
    return Estimate(flops * stack.first.num_steps, size, seconds)
