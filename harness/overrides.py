"""What was typed against what a sweep sets itself: an override that an axis hides is an error, not a silence."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import PARTS, RunConfig
from harness.nested import flatten_mapping
from harness.sweep import read_grids

OTHERS = (*PARTS, *RunConfig.__dataclass_fields__)  # what makes other runs than those that a sweep asks about
WHOSE = "sweeps/optimizers.yaml has a grid for every optimizer"


def check_overrides(typed: Sequence[str], sweep: Mapping[str, Any], chosen: str | None) -> list[str]:
    """Hold what was typed against the axes of a sweep.

    Args:
        typed: overrides of the command line, KEY=VALUE.
        sweep: the composed values under `sweep`.
        chosen: the option of `sweep=`, None without one.
    Returns: a line on every override that some grids do not take, and on learning rates laid out for another optimizer.
    Raises: ValueError for an override that no run would take, since every grid has an axis of that name.
    """
    given = dict(text.lstrip("+").split("=", 1) for text in typed if "=" in text and not text.startswith("~"))
    where = f"sweep={chosen}" if chosen else "sweep.grid"
    notes = []
    for key, value in given.items():
        axis = f"{key}.name" if key in PARTS else key
        if not (hidden := find_axes(axis, sweep)):
            continue
        shown = value if value.startswith("[") else f"[{value}]"
        cure = " and ".join(f"'{place}.{axis}={shown}'" for place in hidden)
        if len(hidden) < len(sweep.get("grids") or {}) and "sweep.grid" not in hidden:
            notes.append(f"note: {key}={value} reaches no run of {', '.join(hidden)}, which has an axis {axis}: {cure}")
            continue
        raise ValueError(f"{key}={value} would reach no run, since {where} has an axis {axis}: write {cure}")
    return [*notes, *describe_optimizer(given, sweep, chosen)]


def find_axes(axis: str, sweep: Mapping[str, Any]) -> list[str]:
    """The grids that have an axis, as overrides name them: sweep.grid, or sweep.grids.NAME of those of their own."""
    grids = sweep.get("grids") or {}
    if not any(axis in axes for axes in read_grids(sweep)):
        return []
    own = [name for name, grid in grids.items() if axis in flatten_mapping(grid)]
    shared = axis in flatten_mapping(sweep["grid"]) and len(own) < max(1, len(grids))
    return [*(["sweep.grid"] if shared else []), *(f"sweep.grids.{name}" for name in own)]


def describe_optimizer(given: Mapping[str, str], sweep: Mapping[str, Any], chosen: str | None) -> list[str]:
    """Lines on an optimizer that was typed: where its runs are mixed with others, and learning rates are another's."""
    notes = []
    changed = [
        f"{key}={value}" for key, value in given.items() if key.partition(".")[0] in OTHERS and not key.endswith("path")
    ]
    if chosen and changed and "sweep.name" not in given:
        text = f"note: with {', '.join(changed)} these are not the runs that sweep={chosen} asks about"
        notes.append(f"{text}; sweep.name=NAME keeps their records and figures apart")
    rates = ("optimizer.lr", "sweep.grid.optimizer.lr")
    if "optimizer" in given and not any(key in given for key in rates) and "optimizer.name" not in str(sweep["grid"]):
        optimizer = given["optimizer"]
        if "optimizer.lr" in flatten_mapping(sweep["grid"]):
            notes.append(f"note: the learning rates of sweep={chosen} may not be {optimizer}'s; {WHOSE}")
        elif not chosen:
            notes.append(f"note: {optimizer} at the learning rate of conf/optimizer/{optimizer}.yaml; {WHOSE}")
    return notes
