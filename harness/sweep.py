"""Axes -> runs. A sweep is a question with the runs that answer it."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import SYNONYMS, check_limits, closest
from harness.config import PARTS, RunConfig, make_run_config, match_type, match_types, run_id
from harness.corpus import TEXT_TASKS, read_corpus
from harness.imports import check_imports
from harness.model_sizes import BUDGETS
from harness.nested import flatten_mapping, nest
from harness.token_files import tokens_sha256

# group choices -> (values with the user's overrides, the defaults of those choices)
Compose = Callable[[Mapping[str, str]], tuple[dict[str, Any], dict[str, Any]]]

MAX_POINTS = 100_000  # of one axis
AXIS_FORMS = "a list of values, [logspace, LOW, HIGH, COUNT] or [log2, FIRST, LAST, STEP]"
ADAPTIVE = "optimizer.lr"  # the axis that may be [adaptive, TOL, START, START, ...]
USUAL_BUDGET = 4.8  # learning rates in every cell, for every seed: two fifths of the steps of a grid of 12


@dataclass(frozen=True)
class Adaptive:
    """A grid whose learning rates follow from its results, see analysis/adaptive.py.

    Attributes:
        tol: wanted half-width of a 95 % interval of the optimum, in ln lr.
        start: learning rates to begin with.
        budget: steps that all its runs together may take.
        cells: one run of every combination of the other axes, at the first seed and start value.
    """

    tol: float
    start: tuple[float, ...]
    seeds: tuple[int, ...]
    budget: float
    cells: tuple[RunConfig, ...]


@dataclass(frozen=True)
class Sweep:
    name: str
    question: str
    runs: dict[str, RunConfig]  # by run_id, in the order of the grid
    adaptive: Adaptive | None = None  # then runs are those that its results have asked for so far
    answer: str | None = None  # what is asked, as analysis/answers.py names it


def make_sweep(compose: Compose) -> Sweep:
    """Every combination of the axes in sweep.grid, laid over the composed values.

    Where sweep.grids names several grids, the union of their runs: each is sweep.grid with the axes that it adds or
    replaces, since the best learning rates of two optimizers may lie far apart. An axis `X.name` chooses from a config
    group (X=adam, X=sgd, ...) and composes anew once a choice; all other axes set values. Two points of the grid that
    are the same run count once.

    Raises: ValueError for an axis or value that the config does not have.
    """
    values, _ = compose({})
    sweep = values["sweep"]
    if not re.fullmatch(r"[A-Za-z0-9_-]+", str(sweep["name"])):
        raise ValueError(f"sweep.name={sweep['name']!r} names a folder: give letters, digits, _ and - only")
    runs: dict[str, RunConfig] = {}
    for axes in read_grids(sweep):
        runs |= lay_grid(axes, compose)
    adaptive = read_adaptive(sweep, runs)
    return Sweep(
        str(sweep["name"]), str(sweep["question"] or ""), {} if adaptive else runs, adaptive, sweep.get("answer")
    )


def read_adaptive(sweep: Mapping[str, Any], runs: Mapping[str, RunConfig]) -> Adaptive | None:
    """What an adaptive axis asks for, from the runs of its start values; None where there is no such axis.

    Raises: ValueError for several grids, or a budget without such an axis.
    """
    axis = flatten_mapping(sweep["grid"]).get(ADAPTIVE)
    budget = sweep.get("budget")
    if not (isinstance(axis, list) and axis[:1] == ["adaptive"]):
        if budget is not None:
            raise ValueError(f"sweep.budget={budget} is for sweep.grid.{ADAPTIVE}=[adaptive, TOL, START, START, ...]")
        return None
    if budget is not None and not (isinstance(budget, int | float) and 0 < budget < math.inf):
        raise ValueError(f"sweep.budget={budget} is not a number > 0: the steps that all runs together may take")
    if sweep.get("grids"):
        raise ValueError(f"sweep.grids and an adaptive {ADAPTIVE} do not go together: give the sweeps a name each")
    start = tuple(read_axis(ADAPTIVE, axis))
    seeds = tuple(dict.fromkeys(run.seed for run in runs.values()))
    first = [run for run in runs.values() if run.optimizer["lr"] == start[0] and run.seed == seeds[0]]
    usual = USUAL_BUDGET * len(seeds) * sum(run.num_steps for run in first)
    return Adaptive(float(axis[1]), start, seeds, float(budget or usual), tuple(first))


def lay_grid(axes: Mapping[str, list[Any]], compose: Compose) -> dict[str, RunConfig]:
    """Every combination of some axes, by run_id."""
    choosing = [path for path in axes if is_choice(path)]
    runs: dict[str, RunConfig] = {}
    for choice in itertools.product(*(axes[path] for path in choosing)):
        chosen = {path.removesuffix(".name"): name for path, name in zip(choosing, choice, strict=True)}
        values = match_types(*compose(chosen))
        check_imports(values)
        add_corpus(values)
        setting = {path: axis for path, axis in axes.items() if not is_choice(path)}
        for path in setting:
            check_axis(path, values)
        flat = flatten_mapping(values)
        for point in itertools.product(*setting.values()):
            changed = {path: match_type(path, x, flat[path]) for path, x in zip(setting, point, strict=True)}
            config = make_run_config(add_tokens(nest(flat | changed)))
            runs[run_id(config)] = config
    return runs


def read_grids(sweep: Mapping[str, Any]) -> list[dict[str, list[Any]]]:
    """The axes of every grid of a sweep: of sweep.grid alone, or of each in sweep.grids over it."""
    shared, named = flatten_mapping(sweep["grid"]), sweep.get("grids") or {None: {}}
    if not all(isinstance(grid, Mapping) for grid in named.values()):
        raise ValueError("sweep.grids holds grids by a name of yours: give sweep.grids.NAME.AXIS=[...]")
    return [read_axes(nest(shared | flatten_mapping(grid))) for grid in named.values()]


def is_choice(path: str) -> bool:
    """Whether an axis chooses from a config group instead of setting a value."""
    return path == "protocol" or path in {f"{part}.name" for part in PARTS}


def add_corpus(values: dict[str, Any]) -> None:
    """Text is part of a run's identity by its sha256, so a changed corpus is another run."""
    if values["task"]["name"] in TEXT_TASKS:
        values["task"]["corpus_sha256"] = read_corpus(values["task"]).sha256


def add_tokens(values: dict[str, Any]) -> dict[str, Any]:
    """Token shards too, after they were found fit for the run: its vocabulary, its context."""
    if values["task"]["name"] == "tokens":
        check_limits({"task": values["task"]})
        values["task"]["tokens_sha256"] = tokens_sha256(values["task"], Path(values["runs_dir"]))
    return values


def describe_repeats(grid: Mapping[str, Any]) -> list[str]:
    """A line for every axis that lists a value twice."""
    lists = {path: axis for path, axis in flatten_mapping(grid).items() if isinstance(axis, list)}
    twice = {path: [x for x in axis if axis.count(x) > 1] for path, axis in lists.items()}
    return [f"sweep.grid.{path} lists {found[0]} twice: it counts once" for path, found in twice.items() if found]


def describe_cuts(values: Mapping[str, Any], runs: Iterable[RunConfig]) -> list[str]:
    """A line for every budget of samples that is no whole number of steps: runs take the steps that it holds."""
    asked = {x for axes in read_grids(values["sweep"]) for x in axes.get("num_samples", [values["num_samples"]])}
    taken = {(run.batch_size, run.num_samples) for run in runs if run.protocol == "fixed_samples"}
    lines = []
    for budget in sorted(x for x in asked if x is not None):
        cut = [f"{count} at batch size {size}" for size, count in sorted(taken) if budget - size < count < budget]
        if cut:
            text = ", ".join(cut[:3]) + ", ..." * (len(cut) > 3)
            lines.append(f"num_samples={budget:.0f} is no whole number of steps: runs take {text}")
    return lines


def read_axes(grid: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The axes of a grid by their dotted path, each as a list of values."""
    return {path: read_axis(path, axis) for path, axis in flatten_mapping(grid).items()}


def check_axis(path: str, values: Mapping[str, Any]) -> None:
    """Raises: ValueError unless an axis names a value of the run."""
    fields = {
        name: value for name, value in values.items() if name in (*PARTS, *RunConfig.__dataclass_fields__, *BUDGETS)
    }
    allowed = flatten_mapping(fields)
    if path not in allowed and not is_choice(path):
        *parents, last = path.split(".")
        path_here = ".".join([*parents, SYNONYMS.get(last, last)])
        same_word = sorted(
            (name for name in allowed if name.endswith(f".{path_here}")), key=lambda name: name.count(".")
        )
        near = closest(same_word[0], same_word) if same_word else closest(path, allowed)
        raise ValueError(f"sweep.grid.{path} is not a value of a run{near}; see --cfg job for all")


def read_axis(path: str, axis: object) -> list[Any]:
    """[logspace, lo, hi, n]: n points evenly spaced in log; [log2, a, b, step]: 2^a, 2^(a+step) ... 2^b; else values.

    Raises: ValueError for an empty axis, one that is no list, or a form with wrong numbers.
    """
    where = f"sweep.grid.{path}={axis}"
    if not isinstance(axis, list) or not axis:
        raise ValueError(f"{where} is not an axis: give {AXIS_FORMS}")
    form, numbers = axis[0], axis[1:]
    if form == "adaptive" and (path == ADAPTIVE or any(isinstance(x, int | float) for x in numbers)):
        return read_start(path, where, numbers)
    if form not in ("logspace", "log2"):
        if isinstance(form, str) and not is_choice(path) and any(isinstance(x, int | float) for x in numbers):
            raise ValueError(
                f"{where}: {form!r} is not a form of axis{closest(form, ['logspace', 'log2'])}; give {AXIS_FORMS}"
            )
        return axis
    if len(numbers) != 3 or not all(isinstance(x, int | float) for x in numbers):
        raise ValueError(f"{where} needs three numbers: give {AXIS_FORMS}")
    if form == "logspace":
        low, high, count = numbers
        if low <= 0 or high <= low or count < 2 or count != int(count):
            raise ValueError(f"{where} needs 0 < LOW < HIGH and a whole COUNT >= 2")
        check_length(where, count)
        return [_round(low * (high / low) ** (i / (count - 1))) for i in range(int(count))]
    first, last, step = numbers
    if step <= 0 or last < first:
        raise ValueError(f"{where} needs FIRST <= LAST and STEP > 0")
    count = math.floor((last - first) / step + 1e-9) + 1
    check_length(where, count)
    if not -1000 < first <= last < 1000:
        raise ValueError(f"{where} holds exponents of 2: give FIRST and LAST between -1000 and 1000")
    return [_round(2.0 ** (first + i * step)) for i in range(count)]


def read_start(path: str, where: str, numbers: list[Any]) -> list[float]:
    """The start values of [adaptive, TOL, START, START, ...]."""
    if path != ADAPTIVE:
        raise ValueError(f"{where}: only sweep.grid.{ADAPTIVE} can be adaptive; give {AXIS_FORMS}")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < math.inf for x in numbers):
        raise ValueError(f"{where} needs numbers > 0: [adaptive, TOL, START, START, ...], TOL in ln lr, e.g. 0.1")
    if len(set(numbers[1:])) < 2:
        raise ValueError(f"{where} needs TOL and at least two different learning rates: [adaptive, 0.1, 1e-3, 1e-2]")
    return sorted({_round(float(x)) for x in numbers[1:]})


def check_length(where: str, count: float) -> None:
    if count > MAX_POINTS:
        raise ValueError(f"{where} has {count:.0f} points: an axis takes at most {MAX_POINTS}")


def _round(value: float) -> float:
    return float(f"{value:.9g}")
