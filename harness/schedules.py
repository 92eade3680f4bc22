"""Multipliers of the learning rate and of weight decay against step: pure functions of its index, free of torch."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.checks import check_choice, follows_rate


def constant(step: int, num_steps: int) -> float:
    """1 throughout."""
    return 1.0


def linear(step: int, num_steps: int) -> float:
    """1 - t/T: ends at 1/T, not 0, so no step is wasted; the path it travels is (T+1)/2 peaks."""
    return 1 - step / num_steps


def cosine(step: int, num_steps: int, *, final: float = 0.0) -> float:
    """final + (1 - final) (1 + cos(pi t/T)) / 2."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / num_steps)) / 2


def wsd(step: int, num_steps: int, *, decay: float = 0.2) -> float:
    """1, then linear over the last share `decay` of the steps: (T - t) / (decay T)."""
    return min(1.0, (num_steps - step) / (decay * num_steps)) if decay > 0 else 1.0


def inverse_sqrt(step: int, num_steps: int, *, rate: float = 0.0, timescale: float | None = None) -> float:
    """Inverse square root with the timescale of the run, 1 / (2 rate) steps, or with one that is given. Knows no end.

        1 / sqrt(1 + 2 rate t),    with timescale: 1 / sqrt(1 + t / timescale)

    With schedule.weight_decay=inverse_sqrt beside it every step counts the same in the final weights, to a factor
    e^(rate/4) over the whole run, and the RMS of weights that are noise stays at sqrt(lr / (2 weight_decay)).

    Args:
        rate: peak lr * weight_decay of the run, >= 0, per step; at 0 it is constant.
        timescale: steps, > 0; null takes the run's own.
    Returns: multiplier, dimensionless.
    Valid when: rate << 1; momentum remembers far fewer steps than the run has.
    Source: kexue.fm/archives/11459 (uniform memory where weight decay falls in proportion to lr).
    """
    return 1 / math.sqrt(1 + (2 * rate * step if timescale is None else step / timescale))


def inverse_time(step: int, num_steps: int, *, rate: float) -> float:
    """Inverse time with the timescale of the run: every step counts the same in the final weights. Knows no end.

        1 / (1 + rate t)

    Args:
        rate: peak lr * weight_decay of the run, >= 0, per step; at 0 it is constant.
    Returns: multiplier, dimensionless.
    Valid when: constant weight decay, any rate; momentum remembers far fewer steps than the run has.
    Source: kexue.fm/archives/11459 (uniform memory, lr_t weight_decay + d log lr_t / dt = 0).
    """
    return 1 / (1 + rate * step)


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
    "inverse_sqrt": inverse_sqrt,
    "inverse_time": inverse_time,
}


def lr_multipliers(schedule: Mapping[str, Any], num_steps: int, *, rate: float | None = None) -> list[float]:
    """The multiplier of the peak learning rate at every step t = 0 ... T-1.

    Warm-up multiplies the schedule by (t+1)/W over the first W = ceil(warmup T) steps, so the last of them reaches
    the schedule itself and none is zero.

    Args:
        rate: the run's own lr * weight_decay, for shapes that take it.
    """
    warmup_steps = math.ceil(schedule["warmup"] * num_steps)
    path = follow(schedule["name"], schedule, num_steps, rate)
    return [value * min(1.0, (step + 1) / max(1, warmup_steps)) for step, value in enumerate(path)]


def weight_decay_multipliers(schedule: Mapping[str, Any], num_steps: int, *, rate: float | None = None) -> list[float]:
    """The multiplier of weight decay at every step, without warm-up; 1 throughout where schedule.weight_decay is null.

    It comes beside the learning rate's: a step shrinks weights by (lr multiplier) lr (this) weight_decay.
    """
    return follow(schedule.get("weight_decay") or "constant", schedule, num_steps, rate)


def follow(name: str, schedule: Mapping[str, Any], num_steps: int, rate: float | None) -> list[float]:
    """One shape at every step, with those of its options that the schedule has, else its defaults."""
    check_choice("schedule.name", name, SCHEDULES)
    shape = SCHEDULES[name]
    given = schedule if rate is None else {**schedule, "rate": rate}
    options = {key: given[key] for key in inspect.signature(shape).parameters if key in given}
    return [shape(step, num_steps, **options) for step in range(num_steps)]


def scheduled(schedule: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the hyperparameters that a schedule multiplies."""
    return ("lr",) if schedule.get("weight_decay") is None else ("lr", "weight_decay")


def multiplier_tables(
    schedule: Mapping[str, Any], num_steps: int, runs: Sequence[Mapping[str, float]]
) -> dict[str, list[list[float]]]:
    """name of a hyperparameter -> what multiplies it, a row a step: one number for all runs, or one a run.

    Args:
        runs: the optimizer's numbers of every run, lr and, where it has one, weight_decay.
    Returns: `lr` always; `weight_decay` only where it follows a schedule.
    """
    tables = {}
    for name in scheduled(schedule):
        multipliers, shape = (
            (lr_multipliers, schedule["name"]) if name == "lr" else (weight_decay_multipliers, schedule["weight_decay"])
        )
        own = runs if follows_rate(shape, schedule) else runs[:1]
        paths = [multipliers(schedule, num_steps, rate=run["lr"] * run.get("weight_decay", 0.0)) for run in own]
        tables[name] = [list(row) for row in zip(*paths, strict=True)]
    return tables
