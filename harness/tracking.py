"""One run for Weights & Biases, written as the client's own offline run. The records are the truth, W&B is the mirror.

What is sent later, and how it is made sure of, is in harness/delivery.py: nothing here waits for a network.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from harness.config import PATHS, nest
from harness.records import PROVENANCE, RESULTS
from harness.wandb_client import has_account, own_folder

HISTORY = "history."
LISTS = ("memory.", "probe.")  # measured, but no curve of training: lists in the summary
HIDDEN = ("provenance.host",)  # of where it was trained; nobody's business on a server


def choose_mode(mode: str) -> str:
    """WANDB_MODE where it is set, else what was asked for, else online where there is an account.

    Raises: NoAnswer for a key that is none.
    """
    if os.environ.get("WANDB_MODE"):
        return os.environ["WANDB_MODE"]
    if mode != "auto":
        return mode
    return "online" if has_account() else "offline"


def wandb_id(row: Mapping[str, Any]) -> str:
    """Sweep plus run_id, since two sweeps may share a run; what is sent again goes on with the same W&B run."""
    return f"{row['sweep']}-{row['run_id']}"


def points_of(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A run's learning curve, one mapping a point with `step` and what was measured there.

    What could not be told at a point is left out, but of a metric that never could be told, which is null.
    """
    curves = {name.removeprefix(HISTORY): x for name, x in row.items() if name.startswith(HISTORY) and x is not None}
    steps = curves.get("step") or []
    untold = {name for name, values in curves.items() if all(value is None for value in values)}
    return [
        {name: values[i] for name, values in curves.items() if values[i] is not None or name in untold}
        for i in range(len(steps))
    ]


def split_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A record's columns as the config and the summary of its W&B run, both under the columns' names.

    The summary has what is known only after training: final loss, status, update_rms, weight_rms and the other metrics'
    last values, and where it was trained.
    """
    curves = {name.removeprefix(HISTORY) for name in row if name.startswith(HISTORY)} - {"num_samples", "step"}
    after = (set(RESULTS) | set(PROVENANCE) | curves) - {"run_id", "sweep"}
    summary = {
        name: value
        for name, value in row.items()
        if value is not None and (name in after or name.startswith(LISTS)) and name not in HIDDEN
    }
    left_out = after | set(PATHS)
    config = {
        name: value for name, value in row.items() if name not in left_out and not name.startswith((HISTORY, *LISTS))
    }
    return config, summary


def write_fragment(row: Mapping[str, Any], *, project: str, entity: str | None, start: int = 0) -> Path:
    """A record, or a run in training, as a directory of the client's with its points from number `start` on.

    Fragments of one run that are sent one after the other make one W&B run: its config, tags and summary are the newest
    fragment's. A diverged run is marked in its tags and in its summary's status. Curves are drawn against num_samples;
    W&B's own step is the run's.
    Returns: the directory.
    """
    config, summary = split_row(row)
    points = points_of(row)
    with wandb.init(
        id=wandb_id(row),
        name=run_name(row),
        project=project,
        entity=entity,
        group=str(row["sweep"]),
        job_type=str(row["protocol"]),
        tags=[str(row[name])[:64] for name in ("status", "optimizer.name", "model.name", "task.name")],
        config=nest(config),
        resume="allow",
        reinit="create_new",
        mode="offline",
        dir=str(own_folder().parent.resolve()),  # the client loses what it writes to a relative one
        settings=LEAN,
    ) as run:
        run.define_metric("num_samples", summary="none")
        # without "none" the last point would stand in the summary for what a run has not: a diverged one's loss
        run.define_metric("*", step_metric="num_samples", summary="none")
        for point in points[start:]:
            run.log({name: value for name, value in point.items() if name != "step"}, step=int(point["step"]))
        run.summary.update(summary)
        return Path(run.dir).parent


def run_name(row: Mapping[str, Any]) -> str:
    return f"{row['optimizer.name']} batch_size={row['batch_size']} lr={row['optimizer.lr']:.3g} seed={row['seed']}"


# Hundreds of short runs are written by one process, one open at a time: leave out all that describes that process
LEAN = wandb.Settings(
    silent=True,
    console="off",
    save_code=False,
    disable_git=True,
    host="",  # nobody's business on a server, as in HIDDEN
    x_disable_stats=True,
    x_disable_machine_info=True,
    x_disable_meta=True,
    x_save_requirements=False,  # the one that matters: 60 -> 12 ms a run
)
