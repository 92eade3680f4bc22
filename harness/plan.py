"""A plan lays the runs of a sweep into stacks: runs of one shape, trained as one program.

It is fixed once: `runs_dir/NAME/plan-REQUEST-0.json` is created exclusively, and whoever trains, now or after a crash,
obeys the file that is there. What must change later (a stack halved, runs whose records were deleted) is a new
revision, `plan-REQUEST-1.json` and so on, of which the highest is obeyed.
"""

import hashlib
import importlib.metadata
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.config import PATHS, RunConfig, flatten, make_run_config, nest, run_id
from harness.machine import describe_processor
from harness.protocols import TARGET_KEYS
from harness.records import code_sha256
from harness.store import publish

HEAD = ("sweep", "device", "num_evals", "num_examples", "since")  # of a plan's file, before its stacks


# Fields of a run that its step does not depend on
COURSE = ("num_steps", "num_samples", "protocol", "schedule", *TARGET_KEYS)


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
    save_weights: bool = False  # final parameters of every run, harness/weights.py

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
    save_weights: bool = False,
    choices: Mapping[str, Choice] | None = None,
) -> Plan:
    """Group runs by shape, and a shape's runs into stacks, seed by seed.

    Stacks are in the order of their cost, longest first: workers that take them in that order end together.

    Args:
        width: most runs in a stack; None: as chosen.
        choices: by shape, see harness/measure.py; for a shape that it lacks, the default width.
    """
    shapes: dict[str, list[tuple[str, RunConfig]]] = {}
    for name, config in runs.items():
        shapes.setdefault(shape_of(config), []).append((name, config))
    costs: list[tuple[float, Stack]] = []
    for shape, members in shapes.items():
        usual = Choice(width or default_width(device, members[0][1].batch_size))
        stacks = lay_stacks(members, (choices or {}).get(shape, usual))
        # Compiled steps take about a third, once the first stack of them has built the code
        costs += [(cost(stack) / (3 if stack.compiled and k else 1), stack) for k, stack in enumerate(stacks)]
    costs.sort(key=lambda pair: -pair[0])
    ordered = tuple(stack for _, stack in costs)
    return Plan(sweep, device, metrics["num_evals"], metrics["num_examples"], since, ordered, save_weights)


def lay_stacks(members: Iterable[tuple[str, RunConfig]], choice: Choice) -> list[Stack]:
    """The stacks of one shape's runs: as many as needed, of even widths (14 runs at width 12 are 7 + 7)."""
    ordered = sorted(members, key=lambda member: (member[1].seed, tuple(member[1].hyperparameters.values())))
    count = -(-len(ordered) // choice.width)
    edges = [round(i * len(ordered) / count) for i in range(count + 1)]
    how = (choice.compiled, choice.micro_batch, choice.alone)
    return [Stack(dict(ordered[a:b]), *how) for a, b in itertools.pairwise(edges)]


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
    width = [len(stack.runs), len(stack.seeds) == 1]
    return hashlib.sha256(json.dumps([kind, width, code_sha256(), name_place()]).encode()).hexdigest()[:16]


def name_place() -> str:
    """Names where machine code runs: a processor, a version of torch."""
    place = [importlib.metadata.version("torch"), describe_processor()]
    return hashlib.sha256(json.dumps(place).encode()).hexdigest()[:16]


def cost(stack: Stack) -> float:
    """Relative time of a stack: a step costs its samples and, about as much as 32 more, its overhead."""
    return len(stack.runs) * stack.first.num_steps * (stack.first.batch_size + 32)


def name_request(
    sweep: str,
    run_ids: Iterable[str],
    *,
    device: str,
    width: int | None,
    metrics: Mapping[str, int],
    since: str | None,
    **how: str | int | None,
) -> str:
    """Twelve hex digits that name what was asked for: the same command finds its plan again, whatever it holds now.

    Args:
        how: further settings that a plan follows; those that are null or false count as not there.
    """
    how = {key: value for key, value in how.items() if value is not None and value is not False}
    asked = [sweep, list(run_ids), device, width, metrics["num_evals"], metrics["num_examples"], since, how]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def open_plan(
    folder: Path, request: str, runs: Mapping[str, RunConfig], ended: Collection[str], lay: Callable[..., Plan]
) -> tuple[Path, Plan]:
    """The plan of a request: its newest revision, or its first one, created exclusively.

    Args:
        request: its name, see name_request.
        runs: all that were asked for; those that did not end and are in no stack (a plan holds only what was missing
            when it was made, and records may be deleted) are laid into stacks of a new revision.
        lay: runs -> Plan, see make_plan.

    Raises: StoreError when it cannot be written.
    """
    while True:
        path = newest_revision(folder, request)
        plan = read_plan(path) if path else None
        planned = {name for stack in plan.stacks for name in stack.runs} if plan else set()
        missing = {name: config for name, config in runs.items() if name not in ended and name not in planned}
        if path and plan and not missing:
            return path, plan
        laid = lay(missing)
        if plan:
            laid = replace(plan, stacks=plan.stacks + laid.stacks)
        new = next_revision(path) if path else folder / f"plan-{request}-0.json"
        if publish(new, to_json(laid).encode()):
            return new, laid
        # Another launcher was quicker: its plan is obeyed


def revise(path: Path, plan: Plan, index: int, ended: Collection[str] = ()) -> tuple[Path, Plan]:
    """A new revision in which the runs of stack `index` that did not end are two stacks; returns the newest one.

    The first half stands where the stack stood and the second at the end, so that all other indices stay. Whoever
    comes second finds the stack halved already and changes nothing.

    Raises: StoreError when it cannot be written.
    """
    wanted = plan.stacks[index].name
    while True:
        newest = newest_revision(path.parent, path.stem.split("-")[1])
        if newest is not None and newest != path:
            path, plan = newest, read_plan(newest)
        stack = plan.stacks[index]
        names = list(stack.without(set(ended)).runs)
        if stack.name != wanted or len(names) < 2:
            return path, plan
        first, second = (stack.only(half) for half in (names[: len(names) // 2], names[len(names) // 2 :]))
        new = replace(plan, stacks=(*plan.stacks[:index], first, *plan.stacks[index + 1 :], second))
        if publish(next_revision(path), to_json(new).encode()):
            return next_revision(path), new


def newest_revision(folder: Path, request: str) -> Path | None:
    """The file that is obeyed."""
    return max(folder.glob(f"plan-{request}-*.json"), key=revision_of, default=None)


def newest_since(folder: Path, name: Callable[..., str]) -> str | None:
    """The `since` of the newest plan of a request that has one; `name(since=...)` is that of the request with it."""
    plans = ((path.stem.split("-")[1], json.loads(path.read_bytes())["since"]) for path in folder.glob("plan-*-0.json"))
    return max((since for named, since in plans if since is not None and named == name(since=since)), default=None)


def next_revision(path: Path) -> Path:
    return path.with_name(f"{path.stem.rpartition('-')[0]}-{revision_of(path) + 1}.json")


def revision_of(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def to_json(plan: Plan) -> str:
    """A line a stack: what its runs share and, apart, the columns in which they differ."""
    head = {key: getattr(plan, key) for key in (*HEAD, "save_weights")}
    columns = {name: kind.__name__ for name, kind in plan.columns.items()}
    lines = []
    for stack in plan.stacks:
        rows = [flatten(config) for config in stack.runs.values()]
        shared = {name: value for name, value in rows[0].items() if all(row[name] == value for row in rows)}
        lanes = {name: [row[name] for row in rows] for name in rows[0] if name not in shared}
        how = {"compiled": stack.compiled, "micro_batch": stack.micro_batch, "alone": stack.alone}
        lines.append(json.dumps({"run_ids": list(stack.runs), **how, "shared": shared, "lanes": lanes}))
    start = json.dumps(head | {"columns": columns})
    return start[:-1] + ', "stacks": [\n' + ",\n".join(lines) + "\n]}\n"


def read_plan(path: Path) -> Plan:
    """All of a plan."""
    content = json.loads(path.read_bytes())
    return read_head(content, tuple(read_entry(entry, path) for entry in content["stacks"]))


def read_stack(path: Path, index: int) -> tuple[Plan, dict[str, type]]:
    """A plan with one of its stacks only, and the columns of all: of a large plan a worker needs no more."""
    content = json.loads(path.read_bytes())
    plan = read_head(content, (read_entry(content["stacks"][index], path),))
    kinds = {kind.__name__: kind for kind in (str, int, float, bool)}
    return plan, {name: kinds[kind] for name, kind in content["columns"].items()}


def read_head(content: Mapping[str, Any], stacks: tuple[Stack, ...]) -> Plan:
    head = {key: content[key] for key in HEAD}
    return Plan(**head, stacks=stacks, save_weights=content.get("save_weights", False))


def read_entry(entry: Mapping[str, Any], path: Path) -> Stack:
    runs = {}
    for lane, name in enumerate(entry["run_ids"]):
        flat = entry["shared"] | {column: values[lane] for column, values in entry["lanes"].items()}
        runs[name] = make_run_config(nest(flat))
        assert run_id(runs[name]) == name, f"{path} does not hold the run {name} that it names"
    return Stack(runs, entry["compiled"], entry["micro_batch"], entry["alone"])
