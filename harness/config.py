"""Typed configs: YAML -> RunConfig -> run_id.

A part (task, model, optimizer, schedule) is a flat mapping whose keys and types are those of its YAML file in conf/:
whoever adds an option writes it there once, and a key or a type that the file does not have is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.checks import (
    check_choice,
    check_decay,
    check_limits,
    check_model,
    check_positions,
    check_walk,
    closest,
    is_count,
)  # fmt: skip
from harness.model_sizes import BUDGETS, check_heads, spend_budget
from harness.nested import flatten_mapping
from harness.protocols import PROTOCOLS, resolve_length

ROOT = Path(__file__).resolve().parents[1]
CONF_DIR = ROOT / "conf"
SWEEPS_DIR = ROOT / "sweeps"

Scalar = str | int | float | bool | None
Part = Mapping[str, Scalar]

PARTS = ("task", "model", "optimizer", "schedule")
PRECISIONS = ("float32", "float64", "bfloat16")
GROUPS = ("embedding", "vector", "matrix")  # kinds of parameters that may have numbers of their own
UNDECAYED = {
    "muon_stiefel": ("matrix",)
}  # of an optimizer, those that it does not decay although it has a weight_decay
TRACKER_MODES = ("auto", "online", "offline")
PATHS = ("task.path", "task.heldout_path")  # where something lies on this machine: no part of a run's identity


@dataclass(frozen=True)
class RunConfig:
    """One training run: everything that changes its numbers, and nothing else.

    num_steps and num_samples are both resolved (num_samples = num_steps * batch_size); which of them was asked for is
    what `protocol` names. Under steps_to_target they are the most that a run may take, max_steps.
    """

    task: Part
    model: Part
    optimizer: Part
    schedule: Part
    protocol: str
    num_steps: int
    num_samples: int
    batch_size: int
    seed: int
    precision: str
    max_norm: float | None = None
    groups: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # kind of parameters -> its own numbers
    # Of protocol steps_to_target, see conf/protocol/steps_to_target.yaml
    target_loss: float | None = None
    target_examples: int | None = None
    max_steps: int | None = None
    eval_every: int | None = None
    eval_share: float | None = None
    smoothing: float | None = None
    # Of protocol one_step, see conf/protocol/one_step.yaml
    pool_samples: int | None = None
    probe_samples: int | None = None
    num_draws: int | None = None
    permute_samples: bool | None = None

    @property
    def hyperparameters(self) -> dict[str, float]:
        """The numbers of the update: tensors inside a stack, so a grid of them costs no second program."""
        numbers = {name: value for name, value in self.optimizer.items() if isinstance(value, float)}
        numbers |= {} if self.max_norm is None else {"max_norm": self.max_norm}
        return numbers | flatten_mapping({"groups": self.groups})


def make_run_config(values: Mapping[str, Any]) -> RunConfig:
    """The run that composed values describe; other keys than a run's are passed over.

    Raises: ValueError for a value out of its limits.
    """
    names = {field.name for field in fields(RunConfig)} | set(BUDGETS)
    values = {key: value for key, value in values.items() if key in names}
    check_limits(values)
    check_model(values["task"], values["model"])
    check_heads(values["model"])
    check_positions(values["task"], values["model"])
    check_walk(values["task"])
    check_decay(values["schedule"], values["optimizer"])
    check_choice("protocol", values["protocol"], PROTOCOLS)
    check_choice("precision", values["precision"], PRECISIONS)
    values = spend_budget(values)
    resolved = resolve_length(values)
    if values.get("max_norm") is not None:
        resolved["max_norm"] = float(values["max_norm"])
    resolved["groups"] = numbers_of_groups(values.get("groups") or {}, values["optimizer"])
    return RunConfig(**{**values, **resolved})


def numbers_of_groups(groups: Mapping[str, Any], optimizer: Part) -> dict[str, dict[str, float]]:
    """The numbers that kinds of parameters have of their own; what is null is left out.

    Raises: ValueError for a weight decay that the optimizer would not apply.
    """
    own = {kind: {name: float(x) for name, x in numbers.items() if x is not None} for kind, numbers in groups.items()}
    for kind, numbers in own.items():
        none = "weight_decay" not in optimizer or kind in UNDECAYED.get(str(optimizer["name"]), ())
        if "weight_decay" in numbers and none:
            text = (
                f"groups.{kind}.weight_decay={numbers['weight_decay']} has no effect on optimizer={optimizer['name']}"
            )
            raise ValueError(f"{text}, which has no weight decay: choose one that has, e.g. optimizer=adamw")
    return {kind: numbers for kind, numbers in own.items() if numbers}


def run_id(config: RunConfig) -> str:
    """Twelve hex digits that name a run: a hash of its canonical JSON, floats to 9 digits.

    Fields that are null or false are left out, so a new option with such a default retrains nothing; so is where
    data lie, which their sha256 names already.
    """
    canonical = {
        name: f"{value:.9g}" if isinstance(value, float) else value
        for name, value in flatten(config).items()
        if value is not None and value is not False and name not in PATHS
    }
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """A run's columns: `optimizer.lr`, `batch_size`, ... The same words as the overrides and the YAML keys.

    What is null by default and was not asked for (max_norm, ...) is no column.
    """
    values = {field.name: (getattr(config, field.name), field.default) for field in fields(config)}
    return flatten_mapping({name: x for name, (x, default) in values.items() if x is not None or default is not None})


def say_count(count: int, one: str, many: str = "") -> str:
    """'1 run', '2 runs'."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def match_types(values: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values with the types of their defaults: a whole number becomes a float where the default is one.

    Raises: ValueError for an unknown key (with the nearest right one), for a value of another type, and for a `name`
    that was set by hand, since a name is chosen together with the options that go with it.
    """
    matched: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if key not in defaults:
            where = f"an option of {defaults['name']}" if "name" in defaults and prefix else "a key here"
            raise ValueError(f"{path} is not {where}{closest(key, defaults)}; there are {', '.join(defaults)}")
        default = defaults[key]
        if isinstance(default, Mapping) and isinstance(value, Mapping):
            matched[key] = match_types(value, default, f"{path}.")
        elif key == "name" and prefix and value != default:
            if path == "model.name" and ":" in str(value):
                raise ValueError(f"model.name={value}: {describe_own_model(str(value))}")
            raise ValueError(f"{path}={value} does not choose a {prefix[:-1]}: write {prefix[:-1]}={value}")
        else:
            matched[key] = match_type(path, value, default)
    return matched


def describe_own_model(path: str) -> str:
    """How to use a module by its import path."""
    return (
        f"write conf/model/NAME.yaml (or DIR/model/NAME.yaml for --config-dir DIR) with name: {path}, then model=NAME"
    )


def match_type(path: str, value: Any, default: Any) -> Any:
    """One value with the type of its default; a default of null takes any."""
    if default is None and isinstance(value, float) and is_count(path):
        return int(value) if value.is_integer() else value
    if isinstance(value, list) and path.partition(".")[0] in (*PARTS, *RunConfig.__dataclass_fields__):
        axis = ",".join(map(str, value))
        raise ValueError(f"{path}=[{axis}] is a list where one value belongs: an axis is 'sweep.grid.{path}=[{axis}]'")
    if default is None or type(value) is type(default):
        return value
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if type(default) is float and number:
        return float(value)
    if type(default) is int and number and value == int(value):
        return int(value)
    words = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}
    raise ValueError(f"{path}={value!r} is not {words.get(type(default), 'a group of values')}")
