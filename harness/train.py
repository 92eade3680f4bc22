"""train(stack): the one loop. Every run of the stack takes the same step of one program.

Shapes: R runs of the stack, N parameters of one run, B batch.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from harness.autocorrelation import autocorrelations, steps_correlated, steps_kept
from harness.metrics import METRICS
from harness.noise_scale import (
    NOISE_SCALES,
    PARTS,
    RATIOS,
    UPDATE_RMS,
    noise_scale_of_update_rms,
    ratio_of_means,
    steps_measured,
)
from harness.optimizers import State
from harness.parameters import flatten_params
from harness.per_tensor import name_columns
from harness.plan import Stack
from harness.program import TENSORS, Program
from harness.protocols import Smoother, evaluation_steps
from harness.records import LAGS
from harness.schedules import multiplier_tables
from harness.tasks import Batch, Task

DRAWN_AT_ONCE = 16384  # samples: few calls, little memory
SYMBOLS_AT_ONCE = 2**20  # of samples that are long windows


@dataclass
class Progress:
    """A stack in training: all that a step changes, and the learning curves so far. Going on from it is exact."""

    step: int
    params_RN: Tensor
    state: State
    # The step, from 1, at which a run's loss was not finite; 0 while it is; -(k + 1) where it was found at or below its
    # target after step k (steps_to_target). A run of either kind stays where it is, whatever its neighbours do.
    diverged_at_R: Tensor
    loss_sum_R: Tensor  # training losses since the last point of the curves, in float64
    since: int = 0  # steps behind that sum
    history: dict[str, list[Any]] = field(default_factory=dict)  # name -> one number or R numbers a point
    # What a module that is trained alone changes itself (BatchNorm's running statistics): live
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    directions: dict[int, Tensor] = field(default_factory=dict)  # step -> -lr u_RN, harness/autocorrelation.py


def train(
    program: Program,
    stack: Stack,
    *,
    num_evals: int,
    num_examples: int,
    noise_scale: bool = False,
    per_tensor: bool = False,
    resume: Progress | None = None,
) -> Iterator[Progress]:
    """Train all runs of a stack; yields after every step the one Progress that it keeps changing.

    Under steps_to_target it ends when every run has reached its target or diverged.

    Args:
        num_evals: points of the learning curve, evenly spaced over the steps, the last one at the end; steps_to_target
            has its own.
        num_examples: held-out examples for each point; steps_to_target has its own, target_examples.
        noise_scale: measure noise scales at points of the curve.
        per_tensor: measure tensor by tensor at points of the curve.
        resume: where to go on from; None: from the first step.
    """
    first = stack.first
    now = resume or start(program, stack)
    if program.ranks:
        program.ranks.reseed(int(stack.name, 16), now.step)
    if stack.alone is not None:
        live = program.task.buffers or {}
        for name, saved in now.buffers.items():
            live[name].copy_(saved)
        now.buffers = live
    hyper = stack_hyperparameters(stack, now.params_RN)
    # On the device from the start: a copy from the host in every step would make a GPU wait
    tables = multiplier_tables(first.schedule, first.num_steps, [run.hyperparameters for run in stack.runs.values()])
    multipliers = {
        name: torch.tensor(rows, dtype=torch.float64).to(now.params_RN).expand(-1, len(stack.runs)).contiguous()
        for name, rows in tables.items()
    }
    numbers = torch.arange(1, first.num_steps + 1).to(now.params_RN)
    points = set(evaluation_steps(first.protocol, first.num_steps, num_evals, first.eval_every, first.eval_share))
    noisy = steps_measured(points) if noise_scale else None
    correlated = steps_correlated(points) if per_tensor else set()
    kept = steps_kept(correlated)
    heldout = program.task.heldout(first.target_examples or num_examples)
    goal = Goal(stack, now.history) if first.protocol == "steps_to_target" else None
    if goal and now.step == 0:
        nothing = {name: [math.nan] * len(stack.runs) for name in ("train_loss", *METRICS)}
        nothing |= dict.fromkeys(NOISE_SCALES if noise_scale else (), [math.nan] * len(stack.runs))
        columns = name_columns(program.layout) if per_tensor else ()
        nothing |= dict.fromkeys(columns, [math.nan] * len(stack.runs))
        add_point(now, first.batch_size, evaluate_alike(program, now, heldout).tolist(), nothing)
        goal.mark(now)
    if goal and has_ended(now):
        yield now
        return
    for step, batch in enumerate(draw_batches(program.task, stack, now.step), start=now.step + 1):
        take = program.step
        if step in points:
            take = program.tensors_step if per_tensor else program.measured_step
        old_RN = now.params_RN.clone() if step in kept else None
        parts = program.noise_parts(now.params_RN, batch) if program.noise_parts and step in (noisy or ()) else {}
        at = {"step": numbers[step - 1]} | {name: rows_R[step - 1] for name, rows_R in multipliers.items()}
        now.params_RN, now.state, now.diverged_at_R, now.loss_sum_R, measured = take(
            now.params_RN, now.state, now.diverged_at_R, now.loss_sum_R, hyper, at, batch
        )
        if old_RN is not None:
            now.directions[step] = program.direction(old_RN, now.params_RN, hyper, at)
        now.step = step
        now.since += 1
        if step in points:
            heldout_loss_R = evaluate_alike(program, now, heldout)
            row = {"train_loss": (now.loss_sum_R / now.since).tolist()}
            row |= {name: value_R.tolist() for name, value_R in measured.items() if name != TENSORS}
            row |= noise_scales(stack, now, parts) if noise_scale else {}
            row |= tensor_columns(program, now, measured[TENSORS]) if per_tensor else {}
            if step in correlated:  # of these only the last may be a lag before a later point
                last = step + max(LAGS) in correlated
                now.directions = {step: now.directions[step]} if last else {}
            add_point(now, first.batch_size, heldout_loss_R.tolist(), row)
            now.loss_sum_R.zero_()
            now.since = 0
            if goal:
                goal.mark(now)
        yield now
        if goal and step in points and has_ended(now):
            return


def noise_scales(stack: Stack, now: Progress, parts: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The columns of harness/noise_scale.py at a point of the curves, NaN where they cannot be told.

    Args:
        parts: as measured before this step; none where nothing was.
    """
    configs = list(stack.runs.values())
    nothing = [math.nan] * len(configs)
    row = {name: parts[name].tolist() if parts else nothing for name in PARTS}
    for name, pair in RATIOS.items():
        above, below = (zip(*now.history.get(part, ()), row[part], strict=True) for part in pair)  # a curve a run
        row[name] = [ratio_of_means(*curves) for curves in zip(above, below, strict=True)]
    row[UPDATE_RMS] = nothing
    if stack.first.optimizer["name"] in ("adam", "adamw"):
        betas = [(config.hyperparameters["beta1"], config.hyperparameters["beta2"]) for config in configs]
        row[UPDATE_RMS] = noise_scale_of_update_rms(now.state, betas, now.step, stack.first.batch_size)
    return row


def tensor_columns(program: Program, now: Progress, stepwise_RC: Tensor) -> dict[str, list[float]]:
    """The columns of harness/per_tensor.py at a point of the curves, NaN where they cannot be told."""
    columns = name_columns(program.layout)
    if now.step in now.directions:
        alike_RC = autocorrelations(program.layout, now.params_RN, now.directions, now.step)
    else:
        alike_RC = stepwise_RC.new_full((len(stepwise_RC), len(columns) - stepwise_RC.shape[1]), math.nan)
    return dict(zip(columns, torch.cat([stepwise_RC, alike_RC], 1).T.tolist(), strict=True))


class Goal:
    """Which runs of a stack have reached their target: follows from the curves so far, so going on is exact."""

    def __init__(self, stack: Stack, history: dict[str, list[Any]]) -> None:
        assert stack.first.target_loss is not None, "steps_to_target has a target"
        self.target = stack.first.target_loss
        self.smoothers = [Smoother(stack.first.smoothing) for _ in stack.runs]
        for losses in history.get("loss", ()):
            self.smooth(losses)

    def smooth(self, losses: list[float]) -> list[float]:
        return [smoother.take(loss) for smoother, loss in zip(self.smoothers, losses, strict=True)]

    def mark(self, now: Progress) -> None:
        """Take in the newest point, and stop the runs that it finds at or below the target."""
        reached = [smoothed <= self.target for smoothed in self.smooth(now.history["loss"][-1])]
        reached_R = torch.tensor(reached, device=now.diverged_at_R.device)
        now.diverged_at_R = torch.where(reached_R & (now.diverged_at_R == 0), -(now.step + 1), now.diverged_at_R)


def has_ended(now: Progress) -> bool:
    return bool((now.diverged_at_R != 0).all())


def add_point(now: Progress, batch_size: int, losses: list[float], measured: dict[str, list[float]]) -> None:
    row = {"step": now.step, "num_samples": now.step * batch_size, "loss": losses, **measured}
    for name, value in row.items():
        now.history.setdefault(name, []).append(value)


def start(program: Program, stack: Stack) -> Progress:
    """Step 0: parameters of every run's seed, fresh optimizer state."""
    params_RN = torch.stack([flatten_params(program.task.init(config.seed)) for config in stack.runs.values()])
    diverged_at_R = torch.zeros(len(stack.runs), dtype=torch.int64, device=params_RN.device)
    # dropout draws from torch's own generator: the same numbers whenever the same stack is trained
    torch.manual_seed(int(stack.name, 16))
    # One number a run is one for all under vmap until it is copied, and machine code writes into it
    state = {name: value.contiguous() for name, value in vmap(program.optimizer.init)(params_RN).items()}
    return Progress(0, params_RN, state, diverged_at_R, diverged_at_R.double())


def stack_hyperparameters(stack: Stack, like: Tensor) -> dict[str, Tensor]:
    """name -> one number a run, in the precision of the parameters."""
    rows = [config.hyperparameters for config in stack.runs.values()]
    return {name: torch.tensor([row[name] for row in rows], dtype=like.dtype, device=like.device) for name in rows[0]}


def draw_batches(task: Task, stack: Stack, done: int = 0) -> Iterator[Batch]:
    """The batch of every step after `done` steps: one for all runs where they share a seed, else each run's own."""
    config, seeds = stack.first, stack.seeds
    seed_of_run = torch.tensor([seeds.index(run.seed) for run in stack.runs.values()])
    batch_size = config.batch_size
    at_once = min(DRAWN_AT_ONCE, SYMBOLS_AT_ONCE // int(str(config.task.get("context", 1))))
    steps_at_once = max(1, at_once // (batch_size * len(stack.runs) if len(seeds) > 1 else batch_size))
    for first_step in range(done, config.num_steps, steps_at_once):
        steps = min(steps_at_once, config.num_steps - first_step)
        drawn = [task.sample(seed, first_step * batch_size, steps * batch_size) for seed in seeds]
        parts = [
            torch.stack(part).unflatten(1, (steps, batch_size)).transpose(0, 1) for part in zip(*drawn, strict=True)
        ]
        if len(seeds) == 1:
            parts = [part.squeeze(1) for part in parts]
        else:
            parts = [part[:, seed_of_run.to(part.device)].contiguous() for part in parts]
        yield from zip(*(part.unbind() for part in parts), strict=True)


@torch.no_grad()
def evaluate(program: Program, now: Progress, batch: Batch) -> Tensor:
    """Held-out loss of every run, in pieces that stay in the cache; NaN for a run that diverged."""
    total_R = torch.zeros_like(now.loss_sum_R)
    count = len(batch[0])
    for first in range(0, count, program.examples_at_once):
        piece = tuple(part[first : first + program.examples_at_once] for part in batch)
        total_R += program.evaluate(now.params_RN, piece) * len(piece[0])
    return torch.where(now.diverged_at_R <= 0, total_R / count, torch.nan)


def evaluate_alike(program: Program, now: Progress, batch: Batch) -> Tensor:
    """As evaluate, during training: where ranks share a stack, they decide by the same bits when it ends."""
    loss_R = evaluate(program, now, batch)
    if program.ranks:
        program.ranks.agree(loss_R)
    return loss_R
