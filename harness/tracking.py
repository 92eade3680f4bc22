"""One run for Weights & Biases, written as the client's own offline run. The records are the truth, W&B is the mirror.

What is sent later, and how it is made sure of, is in harness/delivery.py: nothing here waits for a network.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from harness.nested import nest
from harness.rows import identify_run, name_run, points_of, split_row
from harness.wandb_client import has_account, own_folder, read_mode


def choose_mode(mode: str) -> str:
    """online, offline or disabled: WANDB_MODE where it is set, else what was asked for; auto is online with a key.

    No server is asked: a key and no network now is online, since it is tried again and again.

    Raises: Refused for a key that is none; ValueError for a WANDB_MODE that is none.
    """
    mode = read_mode(mode)
    if mode != "auto":
        return mode
    return "online" if has_account() else "offline"


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
        id=identify_run(row),
        name=name_run(row),
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


# Hundreds of short runs are written by one process, one open at a time: leave out all that describes that process
LEAN = wandb.Settings(
    silent=True,
    console="off",
    save_code=False,
    disable_git=True,
    symlink=False,  # to the latest run, which hundreds are in turn
    host="",  # nobody's business on a server, as in HIDDEN
    x_disable_stats=True,
    x_disable_machine_info=True,
    x_disable_meta=True,
    x_save_requirements=False,  # the one that matters: 60 -> 12 ms a run
)
