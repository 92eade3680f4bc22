"""A shape of runs as one program: the step of one run, mapped over R runs, recorded, perhaps compiled.

Shapes: R runs of the stack, N parameters of one run, B batch.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from harness.attention import StackedAttention
from harness.autocorrelation import direction
from harness.config import RunConfig
from harness.groups import clip, group_index, lr_multiplier, numbers_at
from harness.lanes import compiled_evaluation, compiled_step, examples_at_once, recorded_step
from harness.metrics import METRICS
from harness.noise_scale import PIECES, measure_parts
from harness.optimizers import Optimizer, State, make_optimizer, state_sizes
from harness.parameters import Layout, flatten_params, layout_of, unflatten_params
from harness.per_tensor import measure_tensors
from harness.plan import Stack
from harness.ranks import Ranks
from harness.recording import record
from harness.schedules import scheduled
from harness.tasks import Batch, Params, Task, make_task

WORTH_RECORDING = 150  # steps; recording one takes as long as they save
Numbers = Mapping[str, Tensor]
Loss = Callable[[Mapping[str, Tensor], Batch], Tensor]
Measure = Callable[[Tensor, Tensor, Tensor, State, Numbers], dict[str, Tensor]]
TENSORS = "tensors"  # what is measured tensor by tensor, one number a column


@dataclass(frozen=True)
class Program:
    """The functions that one shape of runs comes down to, each for R runs at once.

    step(params_RN, state, diverged_at_R, loss_sum_R, hyper, at, batch)
        -> (params_RN, state, diverged_at_R, loss_sum_R, measured)

    `hyper` holds the runs' numbers, one a run; `at` holds what changes with the step: its number, from 1, and what the
    schedule multiplies hyperparameters with, one a run. `measured_step` is the same and measures, `tensors_step` also
    tensor by tensor, harness/per_tensor.py. `direction` is harness/autocorrelation.py's (old_RN, new_RN, hyper, at) ->
    -lr u_RN. `examine` evaluates any number of runs, without machine code; it and `evaluate` are given at most
    `examples_at_once`. `noise_parts` gives what noise scales are made of, harness/noise_scale.py; None for a module
    that cannot be stacked. Where `ranks` share a stack, steps are given the whole batch and take their rank's part.
    """

    task: Task
    layout: Layout
    optimizer: Optimizer
    step: Callable[..., tuple]
    measured_step: Callable[..., tuple]
    tensors_step: Callable[..., tuple]
    direction: Callable[[Tensor, Tensor, Numbers, Numbers], Tensor]
    evaluate: Callable[[Tensor, Batch], Tensor]
    examine: Callable[[Tensor, Batch], Tensor]
    noise_parts: Callable[[Tensor, Batch], dict[str, Tensor]] | None
    examples_at_once: int
    ranks: Ranks | None = None


def make_program(
    stack: Stack,
    device: torch.device,
    runs_dir: Path | None = None,
    *,
    note: Callable[[dict[str, Any]], None] = lambda fact: None,
    ranks: Ranks | None = None,
) -> Program:
    """The program of a stack: its runs' seeds matter only in whether they all read one batch, their numbers not at all.

    Args:
        runs_dir: where the data that a sweep stored lie, and machine code is kept; None: read data anew.
        note: told of a build of machine code that was not there, as harness/measure.py keeps facts.
        ranks: of a stack that several processes share; None: this one alone takes its steps.
    """
    assert ranks is None or not (stack.compiled or stack.alone), "ranks take mapped steps, perhaps recorded"
    config = stack.first
    task = make_task(config, device, runs_dir)
    layout = layout_of(task.init(0), task.embeddings, task.lr_multipliers)
    optimizer = make_optimizer(config.optimizer, layout)
    states = tuple(state_sizes(optimizer, layout))
    index_N, multiplier_N = group_index(layout, device), lr_multiplier(layout, device)
    loss = in_precision(task.loss, config, device)
    heldout_loss = in_precision(task.heldout_loss or task.loss, config, device)
    if stack.alone:
        loss, heldout_loss = on_copies(loss), on_copies(heldout_loss)
    batch_dim, at_once = None if len(stack.seeds) == 1 else 0, examples_at_once(config)
    each = one_by_one if stack.alone else vmap_runs

    def evaluate(params_N: Tensor, batch: Batch) -> Tensor:
        return heldout_loss(unflatten_params(params_N, layout), batch)

    moving = {"step": None} | dict.fromkeys(scheduled(config.schedule), 0)

    def step_with(measure: Measure) -> Callable[..., tuple]:
        if ranks is not None:
            update = update_of_one_run(optimizer, index_N, measure=measure, multiplier_N=multiplier_N)
            return each(update, in_dims=(0, 0, 0, 0, 0, moving, 0))
        step = step_of_one_run(
            loss, layout, optimizer, index_N, stack.micro_batch, measure=measure, alone=stack.alone is not None,
            multiplier_N=multiplier_N,
        )  # fmt: skip
        return each(step, in_dims=(0, 0, 0, 0, 0, moving, batch_dim))

    def measure_all(*given: Any) -> dict[str, Tensor]:
        return measure_whole(*given) | {TENSORS: measure_tensors(layout, *given)}

    def direction_of_one_run(old_N: Tensor, new_N: Tensor, hyper: Numbers, at: Numbers) -> Tensor:
        return direction(old_N, new_N, numbers_at(hyper, at, index_N, multiplier_N))

    step = step_with(lambda *given: {})
    measured_step, tensors_step = (torch.no_grad()(step_with(measure)) for measure in (measure_whole, measure_all))
    direction_of_all = torch.no_grad()(each(direction_of_one_run, in_dims=(0, 0, 0, moving)))
    examine = evaluate_all = torch.no_grad()(each(evaluate, in_dims=(0, None)))
    if stack.compiled and runs_dir is not None:
        step = compiled_step(step, states, stack, runs_dir, device, note)
        evaluate_all = compiled_evaluation(evaluate_all, at_once, runs_dir, note)
    elif stack.alone is None and config.num_steps >= WORTH_RECORDING:
        step = recorded_step(step, states, stack)
    else:
        step = torch.no_grad()(step)
    steps: tuple[Callable[..., tuple], ...] = (step, measured_step, tensors_step)
    if ranks is not None:
        one = gradient_of_one_run(loss, layout, stack.micro_batch)
        take = torch.no_grad()(vmap_runs(one, in_dims=(0, batch_dim)))
        if config.num_steps >= WORTH_RECORDING:
            take = recorded_gradient(take)
        steps = tuple(step_of_ranks(ranks, take, update, 0 if batch_dim is None else 1) for update in steps)
    parts = None if stack.alone else noise_parts(loss, layout, stack.micro_batch, batch_dim)
    step, measured_step, tensors_step = steps
    return Program(
        task, layout, optimizer, step, measured_step, tensors_step, direction_of_all, evaluate_all, examine, parts,
        at_once, ranks,
    )  # fmt: skip


def step_of_one_run(
    loss: Loss, layout: Layout, optimizer: Optimizer, index_N: Tensor, micro_batch: int | None,
    *, measure: Measure, alone: bool = False, multiplier_N: Tensor | None = None,
) -> Callable[..., tuple]:  # fmt: skip
    """One training step of one run, a pure function. A run whose loss is not finite stays where it is from then on.

    Args:
        measure: (params_N, grad_N, update_N, new state, numbers of the step) -> what is measured of it.
    """
    take = gradient_of_one_run(loss, layout, micro_batch, alone=alone)
    update = update_of_one_run(optimizer, index_N, measure=measure, multiplier_N=multiplier_N)

    def step(
        params_N: Tensor, state: State, diverged_at: Tensor, loss_sum: Tensor, hyper: Numbers, at: Numbers, batch: Batch
    ) -> tuple[Tensor, State, Tensor, Tensor, dict[str, Tensor]]:
        return update(params_N, state, diverged_at, loss_sum, hyper, at, take(params_N, batch))

    return step


def gradient_of_one_run(
    loss: Loss, layout: Layout, micro_batch: int | None, *, alone: bool = False
) -> Callable[[Tensor, Batch], tuple[Tensor, Tensor]]:
    """(params_N, batch) -> gradient and value of the mean loss."""

    def take(params_N: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        grads, train_loss = gradient(loss, unflatten_params(params_N, layout), batch, micro_batch, alone=alone)
        return flatten_params(grads), train_loss

    return take


def update_of_one_run(
    optimizer: Optimizer, index_N: Tensor, *, measure: Measure, multiplier_N: Tensor | None = None
) -> Callable[..., tuple]:
    """What a step does once gradient and loss are there: step_of_one_run with these in place of the batch."""

    def update(
        params_N: Tensor, state: State, diverged_at: Tensor, loss_sum: Tensor, hyper: Numbers, at: Numbers,
        gradient_and_loss: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, State, Tensor, Tensor, dict[str, Tensor]]:  # fmt: skip
        grad_N, train_loss = gradient_and_loss
        taken_N = clip(grad_N, hyper["max_norm"]) if "max_norm" in hyper else grad_N
        hyper = numbers_at(hyper, at, index_N, multiplier_N)
        update_N, state = optimizer.update(taken_N, state, params_N, hyper)
        measured = measure(params_N, grad_N, update_N, state, hyper)
        dies = (diverged_at == 0) & ~torch.isfinite(train_loss)
        diverged_at = torch.where(dies, at["step"].to(diverged_at.dtype), diverged_at)
        params_N = torch.where(diverged_at == 0, params_N + update_N, params_N)
        return params_N, state, diverged_at, loss_sum + train_loss, measured

    return update


def step_of_ranks(ranks: Ranks, take: Callable, update: Callable[..., tuple], dim: int) -> Callable[..., tuple]:
    """A step of R runs whose gradient ranks share: of this one's part of the batch, averaged, then the same update.

    Args:
        take: (params_RN, part of the batch) -> gradients and losses of all runs.
        dim: of a batch's tensors, that counts samples.
    """

    def step(params_RN: Tensor, *given: Any) -> tuple:
        found = ranks.average(*take(params_RN, ranks.part(given[-1], dim)))
        return update(params_RN, *given[:-1], found)

    return step


def recorded_gradient(take: Callable[[Tensor, Batch], tuple[Tensor, Tensor]]) -> Callable:
    recorded = record(lambda params_RN, *batch: list(take(params_RN, batch)))
    return lambda params_RN, batch: recorded(params_RN, *batch)


def measure_whole(
    params_N: Tensor, grad_N: Tensor, update_N: Tensor, state: State, hyper: Numbers
) -> dict[str, Tensor]:
    return {name: metric(params_N, grad_N, update_N) for name, metric in METRICS.items()}


def noise_parts(
    loss: Loss, layout: Layout, micro_batch: int | None, batch_dim: int | None
) -> Callable[[Tensor, Batch], dict[str, Tensor]]:
    """What noise scales are made of, for R runs; without the Hessian where torch has no rule for a module's second
    derivative. Takes none of training's random numbers.
    """

    at_once = None if micro_batch is None else max(1, micro_batch // PIECES)

    def measure(params_N: Tensor, batch: Batch, hessian: bool) -> dict[str, Tensor]:
        def grad(params_N: Tensor, piece: Batch) -> Tensor:
            return flatten_params(gradient(loss, unflatten_params(params_N, layout), piece, at_once)[0])

        return measure_parts(grad, params_N, batch, hessian=hessian)

    ways = [vmap_runs(partial(measure, hessian=hessian), (0, batch_dim)) for hessian in (True, False)]

    @torch.no_grad()
    def call(params_RN: Tensor, batch: Batch) -> dict[str, Tensor]:
        devices = [params_RN.device] if params_RN.is_cuda else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about itself
            try:
                return dict(ways[0](params_RN, batch))
            except torch.OutOfMemoryError:
                raise
            except (RuntimeError, NotImplementedError):
                if len(ways) == 1:
                    raise
                del ways[0]
        return call(params_RN, batch)

    return call


def gradient(
    loss: Loss, params: Params, batch: Batch, micro_batch: int | None, *, alone: bool = False
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Gradient and value of the mean loss of a batch; taken piece by piece and added up where memory asks for it."""
    size = len(batch[0])
    differentiate = plain_grad_and_value if alone else grad_and_value
    if micro_batch is None or micro_batch >= size:
        return differentiate(loss)(params, batch)
    grads, total = {name: torch.zeros_like(tensor) for name, tensor in params.items()}, None
    for first in range(0, size, micro_batch):
        piece = tuple(part[first : first + micro_batch] for part in batch)
        share = len(piece[0]) / size
        piece_grads, piece_loss = differentiate(loss)(params, piece)
        grads = {name: torch.add(grads[name], piece_grads[name], alpha=share) for name in grads}
        total = piece_loss * share if total is None else total + piece_loss * share
    assert total is not None, "a batch has at least one sample"
    return grads, total


def plain_grad_and_value(loss: Loss) -> Callable[[Params, Batch], tuple[Mapping[str, Tensor], Tensor]]:
    """As torch.func.grad_and_value, by ordinary autograd: the loss may look at values and write into its buffers."""

    def call(params: Params, batch: Batch) -> tuple[Mapping[str, Tensor], Tensor]:
        with torch.enable_grad():
            leaves = {name: tensor.detach().requires_grad_() for name, tensor in params.items()}
            value = loss(leaves, batch)
            grads = torch.autograd.grad(value, list(leaves.values()), materialize_grads=True, allow_unused=True)
        return dict(zip(leaves, grads, strict=True)), value.detach()

    return call


def in_precision(loss: Loss, config: RunConfig, device: torch.device) -> Loss:
    """bfloat16: matrix products in bfloat16; parameters, their gradients and the optimizer stay in float32."""
    if config.precision != "bfloat16":
        return loss

    def autocast_loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        # Its cache of converted weights would outlive the transform that it was filled under
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            return loss(params, batch).float()

    return autocast_loss


def on_copies(loss: Loss) -> Loss:
    """For a module that writes into its input (x.sub_(0.5)): the held-out examples would move at every evaluation."""

    def copying_loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        return loss(params, tuple(part.clone() for part in batch))

    return copying_loss


def vmap_runs(function: Callable, in_dims: tuple) -> Callable:
    """vmap over runs. On a CPU attention is harness/attention.py's, and what that leaves to torch its matrix products:
    there is no rule for the fused kernel.
    """
    mapped = vmap(function, in_dims=in_dims, randomness="different")
    ways = [False, True]  # whether attention's gradients may be differentiated, which is slower

    def call(*args: Any) -> Any:
        if args[0].device.type != "cpu":
            return mapped(*args)
        try:
            with sdpa_kernel(SDPBackend.MATH), StackedAttention(differentiable=ways[0]):
                return mapped(*args)
        except NotImplementedError:  # of derivatives that the fused kernel has not
            if len(ways) == 1:
                raise
            del ways[0]
        return call(*args)

    return call


def one_by_one(function: Callable, in_dims: tuple) -> Callable:
    """As vmap for a single run, for models that vmap cannot take."""

    def call(*args: Any) -> Any:
        single = [first_lane(arg, dim) for arg, dim in zip(args, in_dims, strict=True)]
        return tree_map(lambda x: x[None], function(*single))

    return call


def first_lane(arg: Any, dim: Any) -> Any:
    if isinstance(dim, dict):
        return {name: first_lane(value, dim[name]) for name, value in arg.items()}
    return arg if dim is None else tree_map(lambda x: x[0], arg)
