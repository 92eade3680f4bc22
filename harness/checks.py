"""What users may give: ranges, words, and what goes together; a mistake is told with the value and its cure."""

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.model_sizes import EVERY_POSITION
from harness.nested import flatten_mapping

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

_finite = ("a finite number", lambda v: True)
_positive = ("a number > 0", lambda v: v > 0)
_not_negative = ("a number >= 0", lambda v: v >= 0)
_average = ("a number in [0, 1)", lambda v: 0 <= v < 1)
_share = ("a number in [0, 1]", lambda v: 0 <= v <= 1)
_part = ("a number in (0, 1]", lambda v: 0 < v <= 1)
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
    "max_norm": _positive, "micro_batch": _count, "memory_share": _part, "data_parallel": _count,
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


def is_count(path: str) -> bool:
    """Whether a field is a whole number."""
    return LIMITS.get(path.rpartition(".")[2]) in (_count, _natural)


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
