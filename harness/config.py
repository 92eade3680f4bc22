"""Typed configs: YAML -> RunConfig -> run_id.

A part (task, model, optimizer, schedule) is a flat mapping whose keys and types are those of its YAML file in conf/:
whoever adds an option writes it there once, and a key or a type that the file does not have is refused.
"""

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.model_sizes import BUDGETS, EVERY_POSITION, check_heads, spend_budget
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
# What a task feeds its model, and what a model takes; names that are not here are the user's own affair
FEEDS = {
    "python_source": "symbols", "text": "symbols", "tokens": "symbols", "teacher_student": "vectors",
    "noisy_quadratic": "nothing", "random_walk": "nothing", "token_walk": "nothing", "tensors": "your own tensors",
}  # fmt: skip
TAKES = {"ngram": "symbols", "mlp": "symbols", "gpt": "symbols", "perceptron": "vectors", "none": "nothing"}
CHOICES = {  # options that are one of several words
    "model.activation": ("swiglu", "gelu"),
    "model.parametrization": ("standard", "mup"),
    "task.noise": ("isotropic", "proportional", "correlated"),
    "task.spacing": ("regular", "random"),
    "optimizer.scaling": ("original", "match_rms_adamw"),
    "optimizer.damping": ("adaptive", "inverse_square", "inverse_time"),
    "schedule.weight_decay": ("constant", "linear", "cosine", "wsd", "inverse_sqrt", "inverse_time"),
}
SYNONYMS = {"learning_rate": "lr", "epsilon": "eps", "wd": "weight_decay", "bs": "batch_size"}  # words of others
PATHS = ("task.path", "task.heldout_path")  # where something lies on this machine: no part of a run's identity

_finite = ("a finite number", lambda v: True)
_positive = ("a number > 0", lambda v: v > 0)
_not_negative = ("a number >= 0", lambda v: v >= 0)
_average = ("a number in [0, 1)", lambda v: 0 <= v < 1)
_share = ("a number in [0, 1]", lambda v: 0 <= v <= 1)
_count = ("a whole number >= 1", lambda v: v >= 1 and v == int(v))
_symbols = ("a whole number from 2 to 2^32", lambda v: 2 <= v <= 2**32 and v == int(v))
_examples = ("a whole number from 1 to 10,000,000", lambda v: 1 <= v <= 10**7 and v == int(v))
_none_or_one = ("0 or 1, GPUs of a stack", lambda v: v in (0, 1))
_natural = ("a whole number from 0 to 2^63 - 1", lambda v: 0 <= v < 2**63 and v == int(v))
LIMITS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "batch_size": _count, "num_steps": _count, "num_samples": _count, "seed": _natural,
    "num_heldout": _examples, "context": _count, "num_symbols": _symbols, "num_evals": _count,
    "num_examples": _examples,
    "target_examples": _examples, "pool_samples": _examples, "probe_samples": _examples, "num_draws": _count,
    "embedding": _count, "hidden": _count, "depth": _count, "workers": _count, "width": _count,
    "num_heads": _count, "init_std": _positive, "base_width": _count,
    "num_tokens": _count, "tokens_per_param": _positive,
    "max_norm": _positive, "micro_batch": _count, "data_parallel": _count,
    "target_loss": _finite, "max_steps": _count, "eval_every": _count, "eval_share": _positive, "smoothing": _positive,
    "checkpoint": _positive, "lease": _positive,
    "gpus_per_node": _natural, "cpus_per_task": _count, "stacks_per_gpu": _count, "mem_gb": _positive,
    "timeout_min": _count, "signal_delay_s": _count, "array_parallelism": _count,
    "num_cpus": _positive, "num_gpus": _none_or_one, "retries": _natural, "head_cpus": _count, "head_gpus": _natural,
    "lr": _positive, "eps": _not_negative, "weight_decay": _not_negative,
    "beta1": _average, "beta2": _average, "momentum": _average,
    "accumulate": _count, "shrink": _share, "gamma": _not_negative, "dual_lr": _not_negative, "dual_steps": _count,
    "eps1": _not_negative, "eps2": _not_negative, "beta2_decay": _not_negative, "clip": _positive,
    "c_coef": _not_negative, "d_coef": _not_negative, "alignment": _not_negative,
    "warmup": _share, "decay": _share, "final": _share,
    "dimension": _count, "num_inputs": _count, "teacher_hidden": _count, "teacher": _natural,
    "power": _not_negative, "std": _not_negative, "label_noise": _not_negative, "correlation": _average,
    "coupling": _positive, "num_gaps": _count, "rows": _count,
    "factor": ("a whole number >= 2", lambda v: v >= 2 and v == int(v)),
    "mean": _finite, "start": _finite, "std_after": _not_negative, "change_at": _natural, "timescale": _positive,
}  # fmt: skip


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


def flatten_mapping(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten_mapping(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of flatten_mapping."""
    nested: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, leaf = path.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested


def say_count(count: int, one: str, many: str = "") -> str:
    """'1 run', '2 runs'."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def say_sweep(name: str) -> str:
    """The overrides that train a sweep of this name."""
    return f"sweep={name}" if (SWEEPS_DIR / f"{name}.yaml").exists() else f"sweep=SWEEP sweep.name={name}"


def closest(word: str, allowed: Iterable[str]) -> str:
    """' (did you mean X?)' where a name is near, else nothing."""
    *parents, last = str(word).split(".")
    word = ".".join([*parents, SYNONYMS.get(last, last)])
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {near[0]}?)" if near else ""


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raises: ValueError unless value is one of the allowed ones."""
    allowed = sorted(allowed)
    if value not in allowed:
        there = ", ".join(allowed) if len(allowed) <= 20 else f"the {len(allowed)} that there are"
        raise ValueError(f"{name}={value!r} is not one of {there}{closest(str(value), allowed)}")


def check_model(task: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises: ValueError for a model that does not take what the task feeds it."""
    feeds, takes = FEEDS.get(task["name"]), TAKES.get(model["name"])
    if ":" in str(model["name"]) and feeds == "nothing":
        raise ValueError(f"task={task['name']} has its weights itself: choose model=none")
    if feeds and takes and feeds != takes:
        fitting = " or ".join(name for name in TAKES if TAKES[name] == feeds)
        if not fitting:
            text = f"task={task['name']} needs a model of your own, model={model['name']} takes {takes}"
            cure = "a YAML of your own, DIR/model/NAME.yaml with the line name: MODULE:CLASS"
            raise ValueError(
                f"{text}: write {cure}, and give --config-dir DIR model=NAME (README, A module of your own)"
            )
        given, taken = f"task={task['name']} feeds its model {feeds}", f"model={model['name']} takes {takes}"
        raise ValueError(f"{given} and {taken}: choose model={fitting}")


def check_positions(task: Mapping[str, Any], model: Mapping[str, Any]) -> None:
    """Raises: ValueError for a model of ours that is said to predict every position and does not."""
    every = task.get("every_position")
    if every is not None and not isinstance(every, bool):
        raise ValueError(f"task.every_position={every!r} is not one of true, false, null")
    if every and ":" not in str(model["name"]) and model["name"] not in EVERY_POSITION:
        text = f"task.every_position=true, and model={model['name']} predicts the last position alone"
        raise ValueError(f"{text}: leave it out, or choose model={' or '.join(EVERY_POSITION)} or a module of your own")


def check_walk(task: Mapping[str, Any]) -> None:
    """Raises: ValueError for half of a change of noise, or a matrix whose rows would not be whole."""
    given = [name for name in ("std_after", "change_at") if task.get(name) is not None]
    if len(given) == 1:
        other = "change_at" if given == ["std_after"] else "std_after"
        raise ValueError(f"task.{given[0]}={task[given[0]]} needs task.{other}: give both, or neither")
    if task["name"] == "random_walk" and task.get("width") and task["dimension"] % task["width"]:
        text = f"task.width={task['width']} does not divide task.dimension={task['dimension']}"
        raise ValueError(f"{text}: choose a width that does")


def follows_rate(name: str, schedule: Mapping[str, Any]) -> bool:
    """Whether a shape depends on the run's own lr * weight_decay, so that runs of one stack differ in it."""
    return name == "inverse_time" or (name == "inverse_sqrt" and schedule.get("timescale") is None)


def check_decay(schedule: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
    """Raises: ValueError for a schedule that needs weight decay, on an optimizer that has none."""
    needs, cure = None, "choose one that has, e.g. optimizer=adamw"
    if follows_rate(schedule["name"], schedule):
        needs = f"schedule={schedule['name']}"
        cure += " or give schedule.timescale" if schedule["name"] == "inverse_sqrt" else ""
    if schedule.get("weight_decay") is not None:
        needs = f"schedule.weight_decay={schedule['weight_decay']}"
    if needs and "weight_decay" not in optimizer:
        text = f"{needs} needs weight decay, and optimizer={optimizer['name']} has none"
        raise ValueError(f"{text}: {cure}")


def check_limits(values: Mapping[str, Any]) -> None:
    """Raises: ValueError for a known field whose value is no number or out of its range, or none of its words."""
    imported = ":" in str(values.get("model", {}).get("name"))  # its options mean what its author says
    for path, value in flatten_mapping(values).items():
        if path in CHOICES:
            if value is not None:
                check_choice(path, value, CHOICES[path])
            continue
        if path.rpartition(".")[2] not in LIMITS or value is None or (imported and path.startswith("model.")):
            continue
        words, holds = LIMITS[path.rpartition(".")[2]]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not holds(value):
            raise ValueError(f"{path}={value!r} is not {words}")


def read_number(name: str, text: str) -> float:
    """Raises: ValueError for a text that is no number, or one out of the field's range."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}={text!r} is no number")
    check_limits({name: number})
    return number


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
            raise ValueError(f"{path} is not {where}; there are {', '.join(defaults)}{closest(key, defaults)}")
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
    if default is None and isinstance(value, float) and LIMITS.get(path.rpartition(".")[2]) in (_count, _natural):
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
