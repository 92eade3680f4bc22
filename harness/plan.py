"""A plan lays the runs of a sweep into stacks: runs of one shape, trained as one program.

It is fixed once, in a file (harness/plan_file.py).
"""

import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from harness.config import PATHS, RunConfig, flatten
from harness.machine import describe_processor
from harness.model_sizes import predicts_every
from harness.protocols import PROBE_KEYS, TARGET_KEYS
from harness.records import code_sha256

# Fields of a run that its step does not depend on
COURSE = ("num_steps", "num_samples", "protocol", "schedule", *TARGET_KEYS, *PROBE_KEYS)


@dataclass(frozen=True)
class Stack:
    """Runs that differ in seed and in the optimizer's numbers only."""

    runs: dict[str, RunConfig]  # by run_id
    compiled: bool = False  # the step as one compiled graph
    micro_batch: int | None = None  # samples whose gradient is taken at once; None: the whole batch
    alone: str | None = None  # why its one run cannot be stacked with others; None: it can
    ranks: int = 1  # processes, each on a device of its own, that share every batch

    @property
    def first(self) -> RunConfig:
        """Any of them, for what they share."""
        return next(iter(self.runs.values()))

    @property
    def name(self) -> str:
        """Twelve hex digits that name these runs."""
        return hashlib.sha256(",".join(self.runs).encode()).hexdigest()[:12]

    @property
    def seeds(self) -> list[int]:
        return sorted({config.seed for config in self.runs.values()})

    def without(self, done: set[str]) -> "Stack":
        """The same stack with only the runs that are still to train."""
        return self.only([name for name in self.runs if name not in done])

    def only(self, names: Iterable[str]) -> "Stack":
        """The same stack with these runs."""
        return replace(self, runs={name: self.runs[name] for name in names})


@dataclass(frozen=True)
class Choice:
    """How the runs of a shape are trained; the fields of Stack that are not its runs."""

    width: int  # most runs in a stack
    compiled: bool = False
    micro_batch: int | None = None
    alone: str | None = None


@dataclass(frozen=True)
class Plan:
    sweep: str
    device: str  # cpu | cuda
    num_evals: int
    num_examples: int
    since: str | None  # records that ended before this time do not count; None: all do
    stacks: tuple[Stack, ...]
    noise_scale: bool = False  # measured along the way, harness/noise_scale.py
    per_tensor: bool = False  # likewise, harness/per_tensor.py
    memory: bool = False  # at the end, harness/memory.py
    save_weights: bool = False  # final parameters of every run, harness/weights.py

    @cached_property
    def columns(self) -> dict[str, type]:
        """Config columns of all runs with their types: one schema a sweep. Raises: ValueError, see column_type."""
        found: dict[str, dict[type, Any]] = {}  # column -> type -> one of its values
        for stack in self.stacks:
            for config in stack.runs.values():
                for name, value in flatten(config).items():
                    found.setdefault(name, {}).setdefault(type(value), value)
        return {name: column_type(name, values) for name, values in found.items()}


def column_type(name: str, values: Mapping[type, Any]) -> type:
    """The one type that holds a column's values; null is of every type.

    Args:
        values: by type, one of each.

    Raises: ValueError where no type holds them all.
    """
    kinds = set(values) - {type(None)}
    if kinds == {int, float}:
        return float
    if len(kinds) > 1:
        words = ", ".join(repr(value) for kind, value in values.items() if kind in kinds)
        raise ValueError(f"{name} has values of several kinds ({words}): give it numbers only, or texts only")
    return kinds.pop() if kinds else str


def make_plan(
    sweep: str,
    runs: Mapping[str, RunConfig],
    *,
    device: str,
    width: int | None,
    metrics: Mapping[str, int],
    since: str | None = None,
    save_weights: bool = False,
    data_parallel: int | None = None,
    choices: Mapping[str, Choice] | None = None,
) -> Plan:
    """Group runs by shape, and a shape's runs into stacks, seed by seed.

    Stacks are in the order of their cost, longest first: workers that take them in that order end together.

    Args:
        width: most runs in a stack; None: as chosen.
        data_parallel: ranks a stack; None: one.
        choices: by shape, see harness/measure.py; for a shape that it lacks, the default width.

    Raises: ValueError for metrics that the runs cannot have, and runs that ranks cannot share.
    """
    shapes: dict[str, list[tuple[str, RunConfig]]] = {}
    for name, config in runs.items():
        shapes.setdefault(shape_of(config), []).append((name, config))
    costs: list[tuple[float, Stack]] = []
    for shape, members in shapes.items():
        usual = Choice(width or default_width(device, members[0][1].batch_size))
        stacks = lay_stacks(members, (choices or {}).get(shape, usual))
        if data_parallel:
            stacks = [share(stack, data_parallel) for stack in stacks]
        # Compiled steps take about a third, once the first stack of them has built the code
        costs += [(cost(stack) / (3 if stack.compiled and k else 1), stack) for k, stack in enumerate(stacks)]
    costs.sort(key=lambda pair: -pair[0])
    ordered = tuple(stack for _, stack in costs)
    options = {name: bool(metrics.get(name)) for name in ("noise_scale", "per_tensor", "memory")}
    options["save_weights"] = save_weights
    if options["memory"] and any(config.protocol == "steps_to_target" for config in runs.values()):
        raise ValueError("metrics.memory=true needs runs of one length, not protocol=steps_to_target: say fixed_steps")
    plan = Plan(sweep, device, metrics["num_evals"], metrics["num_examples"], since, ordered, **options)
    assert plan.columns is not None  # raises where records could not hold the runs
    return plan


def lay_stacks(members: Iterable[tuple[str, RunConfig]], choice: Choice) -> list[Stack]:
    """The stacks of one shape's runs: as many as needed, of even widths (14 runs at width 12 are 7 + 7)."""
    ordered = sorted(members, key=lambda member: (member[1].seed, tuple(member[1].hyperparameters.values())))
    count = -(-len(ordered) // choice.width)
    edges = [round(i * len(ordered) / count) for i in range(count + 1)]
    how = (choice.compiled, choice.micro_batch, choice.alone)
    return [Stack(dict(ordered[a:b]), *how) for a, b in itertools.pairwise(edges)]


def check_shares(runs: Iterable[RunConfig], ranks: int, compile: str) -> None:
    """Raises: ValueError for runs that so many ranks cannot share in equal parts, and for machine code."""
    for size in sorted({config.batch_size for config in runs}):
        if size % ranks:
            text = f"batch_size={size} does not divide by launcher.data_parallel={ranks}"
            raise ValueError(f"{text}: every rank takes an equal part; give another batch size or number of ranks")
    if compile == "always":
        text = (
            f"launcher.compile=always and launcher.data_parallel={ranks}: machine code takes whole steps of one process"
        )
        raise ValueError(f"{text}; leave one of them out")


def share(stack: Stack, ranks: int) -> Stack:
    """The stack for so many ranks. Raises: ValueError for one that they cannot share."""
    if stack.alone:
        text = f"launcher.data_parallel={ranks} needs runs that can be stacked, and these cannot: {stack.alone}"
        raise ValueError(f"{text}; leave it out, or change the module")
    return replace(stack, ranks=ranks)


def default_width(device: str, batch_size: int) -> int:
    """Runs in a stack: many where operations bound a step, fewer where its tensors would fill a CPU's cache.

    Measured on two cores with the 29k-parameter ngram: 24 against 12 runs a stack take .8 of the time at batch 8
    and 32, 1.0 at 128 and 1.4 at 512.
    """
    if device == "cuda":
        return 256
    return 24 if batch_size <= 64 else 12


def shape_of(config: RunConfig) -> str:
    """What shapes the program: all of a run but its seed and its optimizer's numbers."""
    flags = {key: value for key, value in config.optimizer.items() if not isinstance(value, float)}
    task = {key: value for key, value in config.task.items() if f"task.{key}" not in PATHS}
    same = asdict(replace(config, seed=0, optimizer=flags, task=task, max_norm=None, groups={}))
    return json.dumps(same | {"numbers": sorted(config.hyperparameters)}, sort_keys=True)


def program_of(config: RunConfig) -> dict[str, Any]:
    """What of a shape its step depends on: not how many steps there are, nor the schedule's course."""
    shape: dict[str, Any] = json.loads(shape_of(config))
    return {key: value for key, value in shape.items() if key not in COURSE}


def name_program(stack: Stack) -> str:
    """Names the machine code of a stack's step: all that it depends on, a user's own code apart."""
    config = stack.first
    kind = [program_of(config), config.schedule.get("weight_decay") is not None, stack.micro_batch]
    width = [lanes_at_once(stack), len(stack.seeds) == 1]
    return hashlib.sha256(json.dumps([kind, width, code_sha256(), name_place()]).encode()).hexdigest()[:16]


def lanes_at_once(stack: Stack) -> int:
    """Runs of a stack that machine code takes at a time: as many as a CPU's cache holds, in equal parts.

    Measured on two cores with 1 MB of cache each, ngram and a 64-128-128-10 mlp: at batch 512 and 1024, 2 to 4 at a
    time take .75 to .95 of the time of 12; at batch 8 and 64 there is no difference, and the calls count. A gpt of
    width 32 and depth 2, which keeps about twice as much of every position: of 256, 3 or 4 at a time take .85 of the
    time of 12; of 512, 1024 and 2048 two take .82 to .87.
    """
    config, width = stack.first, len(stack.runs)
    rows = min(config.batch_size, stack.micro_batch or config.batch_size)
    if predicts_every(config.task, config.model):
        rows *= 2 * int(str(config.task["context"]))
    most = max(2, min(12, 2048 // rows))
    return next((lanes for lanes in range(min(most, width), 1, -1) if width % lanes == 0), width)


def name_place() -> str:
    """Names where machine code runs: a processor, a version of torch."""
    place = [importlib.metadata.version("torch"), describe_processor()]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]


def cost(stack: Stack) -> float:
    """Relative time of a stack: a step costs its samples and, about as much as 32 more, its overhead."""
    return len(stack.runs) * stack.first.num_steps * (stack.first.batch_size + 32)
