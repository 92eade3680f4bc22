"""Learning-rate multiplier against step. Pure functions of the step index, free of torch."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from harness.config import check_choice


def constant(step: int, num_steps: int) -> float:
    """1 throughout."""
    return 1.0


def linear(step: int, num_steps: int) -> float:
    """1 - t/T: ends at 1/T, not 0, so no step is wasted; the path it travels is (T+1)/2 peaks."""
    return 1 - step / num_steps


def cosine(step: int, num_steps: int, *, final: float) -> float:
    """final + (1 - final) (1 + cos(pi t/T)) / 2."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / num_steps)) / 2


def wsd(step: int, num_steps: int, *, decay: float) -> float:
    """1, then linear over the last share `decay` of the steps: (T - t) / (decay T)."""
    return min(1.0, (num_steps - step) / (decay * num_steps)) if decay > 0 else 1.0


SCHEDULES: dict[str, Callable[..., float]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "wsd": wsd,
}


def lr_multipliers(schedule: Mapping[str, Any], num_steps: int) -> list[float]:
    """The multiplier of the peak learning rate at every step t = 0 ... T-1.

    Warm-up multiplies the schedule by (t+1)/W over the first W = ceil(warmup T) steps, so the last of them reaches
    the schedule itself and none is zero.
    """
    check_choice("schedule.name", schedule["name"], SCHEDULES)
    shape = SCHEDULES[schedule["name"]]
    options = {key: value for key, value in schedule.items() if key not in ("name", "warmup")}
    warmup_steps = math.ceil(schedule["warmup"] * num_steps)
    return [
        shape(step, num_steps, **options) * min(1.0, (step + 1) / max(1, warmup_steps)) for step in range(num_steps)
    ]
