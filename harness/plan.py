"""A plan lays the runs of a sweep into stacks: runs of one shape, trained as one program.

It is fixed once: `runs_dir/NAME/plan-HASH.json` is created exclusively, and whoever trains, now or after a crash, obeys
the file that is there.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import PATHS, RunConfig, flatten, make_run_config, nest, run_id
from harness.records import publish


@dataclass(frozen=True)
class Stack:
    """Runs that differ in seed and in the optimizer's numbers only."""

    runs: dict[str, RunConfig]  # by run_id
    compiled: bool = False  # the step as one compiled graph
    micro_batch: int | None = None  # samples whose gradient is taken at once; None: the whole batch
    alone: str | None = None  # why its one run cannot be stacked with others; None: it can

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
        return replace(self, runs={name: config for name, config in self.runs.items() if name not in done})


@dataclass(frozen=True)
class Plan:
    sweep: str
    device: str  # cpu | cuda
    width: int | None  # most runs in a stack; None: default_width
    num_evals: int
    num_examples: int
    since: str | None  # records that ended before this time do not count; None: all do
    stacks: tuple[Stack, ...]

    @property
    def columns(self) -> dict[str, type]:
        """Config columns of all runs with their types: one schema a sweep."""
        found: dict[str, type] = {}
        for stack in self.stacks:
            for name, value in flatten(stack.first).items():
                if value is not None or name not in found:
                    found[name] = str if value is None else type(value)
        return found


def make_plan(
    sweep: str,
    runs: Mapping[str, RunConfig],
    *,
    device: str,
    width: int | None,
    metrics: Mapping[str, int],
    since: str | None = None,
) -> Plan:
    """Group runs by shape, and a shape's runs into stacks of at most `width`, seed by seed.

    Stacks are in the order of their cost, longest first: workers that take them in that order end together.
    """
    shapes: dict[str, list[tuple[str, RunConfig]]] = {}
    for name, config in runs.items():
        shapes.setdefault(shape_of(config), []).append((name, config))
    stacks: list[Stack] = []
    for members in shapes.values():
        members.sort(key=lambda member: (member[1].seed, tuple(member[1].hyperparameters.values())))
        # as many stacks as needed, of even widths: 14 runs at width 12 are 7 + 7
        count = -(-len(members) // (width or default_width(device, members[0][1].batch_size)))
        edges = [round(i * len(members) / count) for i in range(count + 1)]
        stacks += [Stack(dict(members[a:b])) for a, b in itertools.pairwise(edges)]
    stacks.sort(key=lambda stack: -cost(stack))
    return Plan(sweep, device, width, metrics["num_evals"], metrics["num_examples"], since, tuple(stacks))


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


def cost(stack: Stack) -> float:
    """Relative time of a stack: a step costs its samples and, about as much as 32 more, its overhead."""
    return len(stack.runs) * stack.first.num_steps * (stack.first.batch_size + 32)


def open_plan(folder: Path, plan: Plan) -> tuple[Path, Plan]:
    """Create the plan's file, or read the one that is there."""
    content = to_json(plan)
    path = folder / f"plan-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json"
    publish(path, content.encode())
    return path, read_plan(path)


def to_json(plan: Plan) -> str:
    """A stack is written as what its runs share and, apart, the columns in which they differ."""
    head = {key: value for key, value in asdict(replace(plan, stacks=())).items() if key != "stacks"}
    stacks = []
    for stack in plan.stacks:
        rows = [flatten(config) for config in stack.runs.values()]
        shared = {name: value for name, value in rows[0].items() if all(row[name] == value for row in rows)}
        lanes = {name: [row[name] for row in rows] for name in rows[0] if name not in shared}
        how = {"compiled": stack.compiled, "micro_batch": stack.micro_batch, "alone": stack.alone}
        stacks.append({"run_ids": list(stack.runs), **how, "shared": shared, "lanes": lanes})
    return json.dumps(head | {"stacks": stacks}, indent=1)


def read_plan(path: Path) -> Plan:
    content: dict[str, Any] = json.loads(path.read_text())
    stacks = []
    for entry in content.pop("stacks"):
        runs = {}
        for lane, name in enumerate(entry["run_ids"]):
            flat = entry["shared"] | {column: values[lane] for column, values in entry["lanes"].items()}
            runs[name] = make_run_config(nest(flat))
            assert run_id(runs[name]) == name, f"{path} does not hold the run {name} that it names"
        stacks.append(Stack(runs, entry["compiled"], entry["micro_batch"], entry["alone"]))
    return Plan(**content, stacks=tuple(stacks))
