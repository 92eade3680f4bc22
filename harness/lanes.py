"""The step of a stack as recorded operations, or as machine code that takes as many lanes at a time as the cache holds.

Shapes: R runs of the stack, N parameters of one run.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import RunConfig
from harness.imports import has_own_code
from harness.model_sizes import predicts_every, vocabulary
from harness.optimizers import State
from harness.plan import Stack, lanes_at_once, name_place, name_program
from harness.recording import COMPILED, Function, record
from harness.schedules import scheduled
from harness.tasks import Batch

EXAMPLES_AT_ONCE = 256  # of a run, where losses are taken: their logits stay in the cache
LOGITS_AT_ONCE = 2**21  # of a run, of models that predict at every position of an example
Numbers = Mapping[str, Tensor]
Note = Callable[[dict[str, Any]], None]


def recorded_step(
    step: Callable[..., tuple], states: Sequence[str], stack: Stack, record: Callable[[Function], Function] = record,
    lanes: int | None = None,
) -> Callable[..., tuple]:  # fmt: skip
    """A step between named tensors by way of a recorded function between lists of them.

    Args:
        states: names of the optimizer's state.
        lanes: runs taken at a time, which divide the stack; None: all.
    """
    width = len(stack.runs)
    lanes = lanes or width
    numbers = tuple(stack.first.hyperparameters)
    moving = tuple(scheduled(stack.first.schedule))
    one_batch = len(stack.seeds) == 1  # for all runs
    ends = (3 + len(states), 3 + len(states) + len(numbers), 3 + len(states) + len(numbers) + len(moving))

    def flat(*tensors: Tensor) -> list[Tensor]:
        (params_RN, diverged_at_R, loss_sum_R), state = (
            tensors[:3],
            dict(zip(states, tensors[3 : ends[0]], strict=True)),
        )
        hyper = dict(zip(numbers, tensors[ends[0] : ends[1]], strict=True))
        # in the order of step's own in_dims, by which vmap matches the values of a dict
        at = {"step": tensors[ends[2]]} | dict(zip(moving, tensors[ends[1] : ends[2]], strict=True))
        params_RN, state, *two, _ = step(
            params_RN, state, diverged_at_R, loss_sum_R, hyper, at, tensors[ends[2] + 1 :]
        )  # fmt: skip
        return [params_RN, *two, *(state[name] for name in states)]

    recorded = record(flat)

    def call(
        params_RN: Tensor, state: State, diverged_at_R: Tensor, loss_sum_R: Tensor, hyper: Numbers, at: Numbers,
        batch: Batch,
    ) -> tuple[Tensor, State, Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
        changed = [params_RN, diverged_at_R, loss_sum_R, *(state[name] for name in states)]
        given = [*changed, *(hyper[name] for name in numbers), *(at[name] for name in moving)]
        if lanes == width:
            changed = recorded(*given, at["step"], *batch)[: len(changed)]
        else:
            for first in range(0, width, lanes):
                few = [tensor[first : first + lanes] for tensor in given]
                inputs = batch if one_batch else tuple(part[first : first + lanes] for part in batch)
                recorded(*few, at["step"], *inputs)  # in place
        params_RN, diverged_at_R, loss_sum_R, *rest = changed
        return params_RN, dict(zip(states, rest, strict=True)), diverged_at_R, loss_sum_R, {}

    return call


def compiled_step(
    step: Callable[..., tuple], states: Sequence[str], stack: Stack, runs_dir: Path, device: torch.device, note: Note
) -> Callable[..., tuple]:
    """As recorded_step, by machine code kept under runs_dir; on a CPU a few lanes at a time."""
    path = runs_dir / COMPILED / f"{name_program(stack)}.pt2"
    code = partial(record, machine_code=path, in_place=True, by_content=has_own_code(stack.first), note=note)
    lanes = lanes_at_once(stack) if device.type == "cpu" else None
    return recorded_step(step, states, stack, code, lanes)


def examples_at_once(config: RunConfig) -> int:
    """Examples of a run whose losses are taken at a time."""
    if not predicts_every(config.task, config.model):
        return EXAMPLES_AT_ONCE
    logits = int(str(config.task["context"])) * vocabulary(config.task)
    return max(1, min(EXAMPLES_AT_ONCE, LOGITS_AT_ONCE // logits))


def compiled_evaluation(
    evaluate: Callable[[Tensor, Batch], Tensor], at_once: int, runs_dir: Path, note: Note
) -> Callable[[Tensor, Batch], Tensor]:
    """Machine code for pieces of `at_once` examples; the rest, where it comes out uneven, without.

    Named by its operations: stacks of all batch sizes and optimizers share it.
    """

    def note_evaluation(fact: dict[str, Any]) -> None:
        note({**fact, "of": "evaluation"})

    def flat(params_RN: Tensor, *batch: Tensor) -> list[Tensor]:
        return [evaluate(params_RN, batch)]

    path = runs_dir / COMPILED / f"evaluation-{name_place()}.pt2"
    code = record(flat, machine_code=path, by_content=True, note=note_evaluation)

    def call(params_RN: Tensor, batch: Batch) -> Tensor:
        if len(batch[0]) != at_once:
            return evaluate(params_RN, batch)
        return code(params_RN, *(part.contiguous() for part in batch))[0]

    return call
