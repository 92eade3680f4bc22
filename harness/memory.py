"""How much of each part of a run its final model remembers: its loss on the samples that it was trained on, by step.

    memory.step          last step of each of 32 bins of equal numbers of steps
    memory.loss          loss of the final model on the samples of a bin
    memory.unseen_loss   the same on as many samples that come after the run's last one in the stream

Both losses are less the task's floor where it has one: what the samples' own noise costs whoever predicts best. It
takes no random numbers and changes nothing.

Shapes: R runs of the stack, N parameters of one run, L those of its runs that share a seed.
"""

import itertools
from typing import Any

import torch
from torch import Tensor

from harness.plan import Stack
from harness.program import Program
from harness.tasks import Batch

BINS = 32


def measure_memory(program: Program, stack: Stack, params_RN: Tensor) -> list[dict[str, list[Any]]]:
    """The columns of every run, in the stack's order; a pass forward over its samples and one over as many others.

        memory of a bin = mean of unseen_loss - loss

    Args:
        params_RN: where training ended.

    Valid when: samples come once: streams of text and tensors draw from finite data with replacement, so that few
        of many may be drawn.
    Source: Feldman, arXiv 1906.05271 (memorization); kexue.fm/archives/11459 (against the position in the run).
    """
    steps, size = stack.first.num_steps, stack.first.batch_size
    edges = bin_edges(steps)
    seeds = [config.seed for config in stack.runs.values()]
    columns: list[dict[str, list[Any]]] = [
        {"memory.step": edges[1:], "memory.loss": [], "memory.unseen_loss": []} for _ in seeds
    ]
    for seed in stack.seeds:
        lanes = [lane for lane, own in enumerate(seeds) if own == seed]
        params_LN = params_RN[lanes]
        for first, last in itertools.pairwise(edges):
            for name, start in (("memory.loss", first), ("memory.unseen_loss", steps + first)):
                batch = program.task.sample(seed, start * size, (last - first) * size)
                for lane, loss in zip(lanes, excess_loss(program, params_LN, batch).tolist(), strict=True):
                    columns[lane][name].append(loss)
    return columns


def bin_edges(steps: int) -> list[int]:
    """Steps after which bins end, 0 first: BINS of them, or one a step."""
    count = min(BINS, steps)
    return [round(i * steps / count) for i in range(count + 1)]


@torch.no_grad()
def excess_loss(program: Program, params_LN: Tensor, batch: Batch) -> Tensor:
    """Mean loss of some runs on a batch, in float64, less the task's floor where it has one."""
    total_L = params_LN.new_zeros(len(params_LN), dtype=torch.float64)
    for first in range(0, len(batch[0]), program.examples_at_once):
        piece = tuple(part[first : first + program.examples_at_once] for part in batch)
        excess_L = program.examine(params_LN, piece).double()
        if program.task.floor is not None:
            excess_L = excess_L - program.task.floor(piece).double()
        total_L += excess_L * len(piece[0])
    return total_L / len(batch[0])
