"""What a protocol asks to be least: the held-out loss, or for steps_to_target the number of steps, as its logarithm."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.groups import read_constant

# the column that cells are compared by, which no table has; infinite for runs that diverged or were censored
OBJECTIVE = "analysis.objective"
TARGET = "steps_to_target"


def add_objective(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    """A table of ended runs with its objective, and with `censored`: runs of a target that they did not reach.

    A censored run never counts as best and ends the window around the best: all that is known of it is that it would
    have taken more than max_steps.

    Raises: ValueError where no run has an objective.
    """
    targeted = frame["protocol"] == TARGET
    if not targeted.any():
        return frame.assign(censored=False, **{OBJECTIVE: frame["loss"]})
    if TARGET not in frame.columns:
        raise ValueError(f"{source} has runs of protocol {TARGET} and no column {TARGET!r}: give the steps they took")
    steps = pd.to_numeric(frame[TARGET], errors="coerce").where(frame["status"] == "done")
    if (steps <= 0).any():
        raise ValueError(f"{source} has runs that met their target before the first step: lower target_loss")
    objective = frame["loss"].mask(targeted, np.log(steps.fillna(np.inf)))
    if not np.isfinite(objective).any():
        raise ValueError(f"{source} has no run that reached its target: raise max_steps or target_loss")
    censored = targeted & (frame["status"] == "done") & steps.isna()
    return frame.assign(censored=censored, **{OBJECTIVE: objective})


def is_steps(frame: pd.DataFrame) -> bool:
    """Whether the runs of one group are compared by steps."""
    return bool((frame["protocol"] == TARGET).all())


def name_objective(frame: pd.DataFrame, loss: str = "final held-out loss") -> str:
    """An axis title: `loss`, or steps to the loss that was aimed at."""
    if not is_steps(frame):
        return loss
    target = read_constant(frame, "target_loss")
    return "steps to the target loss" if target is None else f"steps to loss {float(str(target)):g}"


def show_objective(value: float, steps: bool) -> str:
    """An objective for a table: a loss, or a number of steps."""
    if not math.isfinite(value):
        return "-"
    return f"{math.exp(value):.1f}" if steps else f"{value:.4f}"


def describe_target(frame: pd.DataFrame) -> list[str]:
    """What the caption says of a sweep with a target: the loss, the bound, how many runs never reached it."""
    parts = []
    for column, text in (("target_loss", "target loss {:g}"), ("max_steps", "at most {:,.0f} steps")):
        if (value := read_constant(frame, column)) is not None:
            parts.append(text.format(float(str(value))))
    if smoothing := read_constant(frame, "smoothing"):
        parts.append(f"smoothed over {float(str(smoothing)):g} evaluations")
    if count := int(frame["censored"].sum()):
        parts.append(f"{count} censored")
    return parts


def objective_to_json(value: float, group: Mapping[str, object], protocol: str) -> dict[str, float]:
    """The objective at an optimum under its own name."""
    steps = group.get("protocol", protocol) == TARGET
    return {TARGET: math.exp(value) if math.isfinite(value) else math.inf} if steps else {"loss": value}
