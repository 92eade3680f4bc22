"""Plans as files: created exclusively, obeyed by whoever trains, revised and never rewritten.

`runs_dir/NAME/plan-REQUEST-0.json` is the first, and whoever trains, now or after a crash, obeys the file that is
there. What must change later (a stack halved, runs whose records were deleted) is a new revision,
`plan-REQUEST-1.json` and so on, of which the highest is obeyed.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config import RunConfig, flatten, make_run_config, run_id
from harness.nested import nest
from harness.plan import Plan, Stack
from harness.store import publish

HEAD = ("sweep", "device", "num_evals", "num_examples", "since")  # of a plan's file, before its stacks
OPTIONS = (
    "noise_scale",
    "per_tensor",
    "memory",
    "save_weights",
)  # in its head too; false where an older plan lacks them


def name_request(
    sweep: str,
    run_ids: Iterable[str],
    *,
    device: str,
    width: int | None,
    metrics: Mapping[str, int],
    since: str | None,
    **how: str | float | None,
) -> str:
    """Twelve hex digits that name what was asked for: the same command finds its plan again, whatever it holds now.

    Args:
        how: further settings that a plan follows; those that are null or false count as not there.
    """
    how |= {name: metrics.get(name) for name in ("noise_scale", "per_tensor", "memory")}
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
    head = {key: getattr(plan, key) for key in (*HEAD, *OPTIONS)}
    columns = {name: kind.__name__ for name, kind in plan.columns.items()}
    lines = []
    for stack in plan.stacks:
        rows = [flatten(config) for config in stack.runs.values()]
        shared = {name: value for name, value in rows[0].items() if all(row[name] == value for row in rows)}
        lanes = {name: [row[name] for row in rows] for name in rows[0] if name not in shared}
        how = {"compiled": stack.compiled, "micro_batch": stack.micro_batch, "alone": stack.alone}
        how |= {"ranks": stack.ranks} if stack.ranks > 1 else {}
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
    return Plan(**head, stacks=stacks, **{key: content.get(key, False) for key in OPTIONS})


def read_entry(entry: Mapping[str, Any], path: Path) -> Stack:
    runs = {}
    for lane, name in enumerate(entry["run_ids"]):
        flat = entry["shared"] | {column: values[lane] for column, values in entry["lanes"].items()}
        runs[name] = make_run_config(nest(flat))
        assert run_id(runs[name]) == name, f"{path} does not hold the run {name} that it names"
    return Stack(runs, entry["compiled"], entry["micro_batch"], entry["alone"], entry.get("ranks", 1))
