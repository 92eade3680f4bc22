"""Mirrors records to Weights & Biases: one W&B run a run. The records are the truth, W&B is the mirror."""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from harness.config import PATHS, nest
from harness.records import PROVENANCE, RESULTS

LISTS = ("history.", "memory.")  # columns that are no part of a run's config


def choose_mode(mode: str) -> str:
    """WANDB_MODE where it is set, else what was asked for, else online where there is an account."""
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if mode != "auto":
        return mode
    return "online" if wandb.login(prompt=False) else "offline"


def send_run(row: Mapping[str, Any], *, mode: str, project: str, entity: str | None) -> str | None:
    """One record -> one W&B run: the nested config, the learning curve against samples and steps, and the summary.

    What metrics.memory measured stays in the records: lists by position in the run are no summary of it.
    Its id is sweep plus run_id, since two sweeps may share a run; sending it again goes on with the same run.
    Returns: address of the project; None where the run is kept on disk.
    """
    curve = {name.removeprefix("history."): values for name, values in row.items() if name.startswith("history.")}
    measured = set(curve) - {"step", "num_samples", "loss"}
    outcome = ("loss", "status", "message", "num_params", "steps_to_target", "samples_to_target", "censored")
    summary = {name: row[name] for name in outcome if row.get(name)}
    summary |= {name: row[name] for name in measured if row.get(name) is not None}
    left_out = {*RESULTS, *PROVENANCE, *PATHS, *measured} - {"run_id", "sweep"}
    config = {name: value for name, value in row.items() if name not in left_out and not name.startswith(LISTS)}
    with wandb.init(
        id=f"{row['sweep']}-{row['run_id']}",
        name=run_name(row),
        project=project,
        entity=entity,
        group=str(row["sweep"]),
        job_type=str(row["protocol"]),
        tags=[str(row["status"]), str(row["optimizer.name"]), str(row["model.name"]), str(row["task.name"])],
        config=nest(config),
        resume="allow",
        reinit="create_new",
        mode=mode,  # type: ignore[arg-type]
        settings=LEAN,
    ) as run:
        run.define_metric("num_samples")
        run.define_metric("*", step_metric="num_samples")
        for name in measured - set(summary):  # or an earlier point's number would stand there for one that is not told
            run.define_metric(name, step_metric="num_samples", summary="none")
        steps = curve.pop("step") or []
        for i, step in enumerate(steps):
            point = {name: values[i] for name, values in curve.items() if values[i] is not None}
            run.log(point, step=int(step), commit=True)  # or the last point would replace the summary's loss
        run.summary.update(summary)
        return run.project_url if mode == "online" else None


def run_name(row: Mapping[str, Any]) -> str:
    return f"{row['optimizer.name']} batch_size={row['batch_size']} lr={row['optimizer.lr']:.3g} seed={row['seed']}"


# Hundreds of short runs are sent by one process: leave out all that describes that process
LEAN = wandb.Settings(
    silent=True,
    console="off",
    save_code=False,
    disable_git=True,
    x_disable_stats=True,
    x_disable_machine_info=True,
    x_disable_meta=True,
    x_save_requirements=False,  # the one that matters: 60 -> 12 ms a run
)
