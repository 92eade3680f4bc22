"""A shape of runs as one program: the step of one run, mapped over R runs, recorded as a graph, perhaps compiled.

Shapes: R runs of the stack, N parameters of one run, B batch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from harness.metrics import METRICS
from harness.optimizers import Optimizer, State, make_optimizer
from harness.parameters import Layout, flatten_params, layout_of, unflatten_params
from harness.plan import Stack
from harness.tasks import Batch, Task, make_task


@dataclass(frozen=True)
class Program:
    """The functions that one shape of runs comes down to, each for R runs at once."""

    task: Task
    layout: Layout
    optimizer: Optimizer
    step: Callable[..., tuple]
    measured_step: Callable[..., tuple]
    evaluate: Callable[[Tensor, Batch], Tensor]


def make_program(stack: Stack, device: torch.device, runs_dir: Path | None = None) -> Program:
    """The program of a stack: its runs' seeds matter only in whether they all read one batch, their numbers not at all.

        step(params_RN, state, alive_R, hyper, batch) -> (params_RN, state, alive_R, train_loss_R, measured)

    A run whose loss is not finite keeps its parameters from then on; its neighbours never see it.

    Args:
        runs_dir: where the data that a sweep stored lie; None: read them anew.
    """
    config = stack.first
    task = make_task(config, device, runs_dir)
    layout = layout_of(task.init(0))
    optimizer = make_optimizer(config.optimizer)

    def loss(params_N: Tensor, batch: Batch) -> Tensor:
        return task.loss(unflatten_params(params_N, layout), batch)

    def step(
        params_N: Tensor, state: State, alive: Tensor, hyper: Mapping[str, Tensor], batch: Batch, *, measure: bool
    ) -> tuple[Tensor, State, Tensor, Tensor, dict[str, Tensor]]:
        grads, train_loss = grad_and_value(task.loss)(unflatten_params(params_N, layout), batch)
        grad_N = flatten_params(grads)
        update_N, state = optimizer.update(grad_N, state, params_N, hyper)
        measured = {name: metric(params_N, grad_N, update_N) for name, metric in METRICS.items()} if measure else {}
        alive = alive & torch.isfinite(train_loss)
        return torch.where(alive, params_N + update_N, params_N), state, alive, train_loss, measured

    lanes = {"lr": 0} | dict.fromkeys(config.hyperparameters, 0) | {"step": None}
    in_dims = (0, 0, 0, lanes, None if len(stack.seeds) == 1 else 0)
    steps = [
        record(
            vmap(lambda *args, measure=measure: step(*args, measure=measure), in_dims=in_dims, randomness="different"),
            compiled=stack.compiled,
        )
        for measure in (False, True)
    ]
    return Program(task, layout, optimizer, *steps, record(vmap(loss, in_dims=(0, None)), compiled=False))


def record(function: Callable, *, compiled: bool) -> Callable:
    """`function` as the plain list of operations that it comes down to, recorded at the first call of each shape.

    The same operations in the same order, so the same bits, without the time that the transforms take anew at every
    call: about 1.5 ms a step. Nothing in `function` may depend on a tensor's values.

    Args:
        compiled: fuse the operations into machine code (the last bits may differ).
    """
    recorded: dict[Any, tuple[Callable, list[Any]]] = {}

    def call(*args: Any) -> Any:
        leaves, spec = tree_flatten(args)
        shapes = tuple(leaf.shape for leaf in leaves)
        if shapes not in recorded:
            recorded[shapes] = record_once(function, leaves, spec, compiled=compiled)
        operations, out_spec = recorded[shapes]
        with torch.no_grad():
            return tree_unflatten(operations(*leaves), out_spec[0])

    return call


def record_once(function: Callable, leaves: list[Tensor], spec: Any, *, compiled: bool) -> tuple[Callable, list[Any]]:
    """The operations on flat lists of tensors, and (in a list of one) how their results nest."""
    out_spec: list[Any] = []

    def flat(*leaves: Tensor) -> list[Tensor]:
        out, nesting = tree_flatten(function(*tree_unflatten(leaves, spec)))
        out_spec[:] = [nesting]
        return out

    graph = make_fx(flat)(*leaves)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return torch.compile(graph, dynamic=False) if compiled else graph, out_spec
