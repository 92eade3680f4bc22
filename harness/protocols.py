"""What a protocol holds fixed: how long a run is, where its curve has points, and what steps_to_target measures.

Pure functions of numbers, free of torch and of the rest of the harness.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PROTOCOLS = ("one_step", "fixed_steps", "fixed_samples", "steps_to_target")
# Of steps_to_target alone
TARGET_KEYS = ("target_loss", "target_examples", "max_steps", "eval_every", "eval_share", "smoothing")
# Of one_step alone
PROBE_KEYS = ("pool_samples", "probe_samples", "num_draws", "permute_samples")
MIN_DRAWS = 6  # with one left out, two more than the three numbers that are fitted
ENDLESS = ("constant", "inverse_sqrt", "inverse_time")  # schedules that fall towards no end
LENGTH = {
    "one_step": "num_steps", "fixed_steps": "num_steps", "fixed_samples": "num_samples", "steps_to_target": "max_steps",
}  # fmt: skip


def resolve_length(values: Mapping[str, Any]) -> dict[str, Any]:
    """num_steps and num_samples of a run; under steps_to_target the most that it may take, with its own numbers.

    Raises: ValueError for a number that the protocol needs and lacks, or has and does not take.
    """
    protocol, batch_size = values["protocol"], values["batch_size"]
    given = LENGTH[protocol]
    if values.get(given) is None:
        raise ValueError(f"protocol={protocol} needs {given}: give {given}=NUMBER")
    if protocol == "fixed_samples":
        if values["num_samples"] < batch_size:
            text = f"num_samples={values['num_samples']} is less than batch_size={batch_size}"
            raise ValueError(f"{text}: no step would be taken")
        num_steps = values["num_samples"] // batch_size
    else:
        num_steps = values[given]
    resolved: dict[str, Any] = {"num_steps": num_steps, "num_samples": num_steps * batch_size}
    for derived in {"num_steps", "num_samples"} - {given}:
        if values.get(derived) not in (None, resolved[derived]):
            text = f"{derived}={values[derived]} does not go with protocol={protocol}, which takes {given}"
            raise ValueError(f"{text}: leave it out, {derived}=null where a sweep sets it, or choose another protocol")
    return resolved | resolve_target(values) | resolve_probe(values)


def resolve_target(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of steps_to_target with their types; nothing under another protocol.

    Raises: ValueError where they lack, or stand under another protocol, or the schedule needs an end: the steps to a
    target would then be a matter of max_steps, which is to be a bound only.
    """
    if values["protocol"] != "steps_to_target":
        for key in TARGET_KEYS:
            if values.get(key) is not None:
                raise ValueError(f"{key}={values[key]} has no effect under protocol={values['protocol']}: leave it out")
        return {}
    for key in ("target_loss", "target_examples"):
        if values.get(key) is None:
            what = "a held-out loss that ends a run" if key == "target_loss" else "how many held-out examples it is of"
            text = f"protocol=steps_to_target needs {key}, {what}: give {key}=NUMBER"
            raise ValueError(f"{text} on the command line or in the sweep's YAML, beside protocol's other values")
    if values.get("eval_every") is None and values.get("eval_share") is None:
        raise ValueError("protocol=steps_to_target needs eval_every, eval_share or both: give eval_every=STEPS")
    for key, shape in (("name", "schedule"), ("weight_decay", "schedule.weight_decay")):
        name = values["schedule"].get(key)
        if name is not None and name not in ENDLESS:
            text = f"{shape}={name} falls towards an end, which protocol=steps_to_target does not have"
            raise ValueError(f"{text}: choose {shape}={', '.join(ENDLESS[:-1])} or {ENDLESS[-1]}")
    numbers = {key: values.get(key) for key in ("target_loss", "eval_share", "smoothing")}
    resolved: dict[str, Any] = {key: None if value is None else float(value) for key, value in numbers.items()}
    return resolved | {"target_examples": int(values["target_examples"])}


def resolve_probe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of one_step with their types; nothing under another protocol.

    Raises: ValueError where they lack, or stand under another protocol.
    """
    if values["protocol"] != "one_step":
        for key in PROBE_KEYS:
            if values.get(key):
                raise ValueError(f"{key}={values[key]} has no effect under protocol={values['protocol']}: leave it out")
        return {}
    for key in PROBE_KEYS[:3]:
        if values.get(key) is None:
            raise ValueError(f"protocol=one_step needs {key}: give {key}=NUMBER")
    if values["num_draws"] < MIN_DRAWS:
        text = (
            f"num_draws={values['num_draws']} leaves no standard error: a mean and two controls are fitted to the draws"
        )
        raise ValueError(f"{text}, and again to all but one: give {MIN_DRAWS} or more")
    return {key: int(values[key]) for key in PROBE_KEYS[:3]} | {"permute_samples": bool(values.get("permute_samples"))}


def evaluation_steps(
    protocol: str, num_steps: int, num_evals: int, eval_every: int | None = None, eval_share: float | None = None
) -> list[int]:
    """The steps after which a run is evaluated, rising, the last one among them.

    Evenly spaced; under steps_to_target a step follows the last one by eval_every, or by the share eval_share of it
    where that is less (at least 1): the resolution is then a share of the steps taken, alike for every batch size. It
    begins with step 0 there, since the first crossing must be interpolated from somewhere.
    """
    if protocol != "steps_to_target":
        return sorted({round((i + 1) * num_steps / num_evals) for i in range(num_evals)} - {0})
    steps = [0]
    while steps[-1] < num_steps:
        gaps = [num_steps - steps[-1]]
        gaps += [] if eval_every is None else [int(eval_every)]
        gaps += [] if eval_share is None else [max(1, math.floor(eval_share * steps[-1]))]
        steps.append(steps[-1] + min(gaps))
    return steps


@dataclass
class Smoother:
    """An average over evaluations whose weights halve every `half_life` evaluations back; None: the last one alone.

        smoothed_k = sum_j a^(k - j) loss_j / sum_j a^(k - j),    a = 2^(-1 / half_life),    j = 0 ... k

    It follows from the losses alone, so whoever goes on from a checkpoint has it by taking in the curve so far. It lags
    behind a falling loss, by about 1.4 half-lives.
    """

    half_life: float | None
    total: float = 0.0
    weight: float = 0.0

    def take(self, loss: float) -> float:
        """The smoothed loss with one more evaluation."""
        if self.half_life is None:
            return loss
        keep = 2.0 ** (-1 / self.half_life)
        self.total, self.weight = keep * self.total + loss, keep * self.weight + 1.0
        return self.total / self.weight


def find_crossing(
    steps: Sequence[int], losses: Sequence[float], target: float, half_life: float | None = None
) -> float | None:
    """The step, interpolated linearly between evaluations, at which the smoothed loss first is at or below the target.

    Returns: None where it never is; 0 where it is from the start.
    """
    smoother, before = Smoother(half_life), None
    for step, loss in zip(steps, losses, strict=True):
        smoothed = smoother.take(loss)
        if smoothed <= target:
            if before is None or not math.isfinite(before[1]):
                return float(step)
            last_step, last = before
            return last_step + (step - last_step) * (last - target) / (last - smoothed)
        before = step, smoothed
    return None


def measure_target(
    steps: Sequence[int],
    losses: Sequence[float],
    *,
    target: float,
    half_life: float | None,
    batch_size: int,
    done: bool,
) -> dict[str, Any]:
    """The columns of one run under steps_to_target, from its curve.

    A run that took all its steps above the target is censored: `censored` is true and there is no number, since all
    that is known is that it would be more than max_steps. A run that diverged has neither.
    """
    crossing = find_crossing(steps, losses, target, half_life) if done else None
    samples = None if crossing is None else crossing * batch_size
    return {"steps_to_target": crossing, "samples_to_target": samples, "censored": done and crossing is None}
