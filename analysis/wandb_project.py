"""A W&B project as a table of runs: `wandb:ENTITY/PROJECT`."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pandas as pd
from rich.console import Console

from analysis.wandb_cache import KeptRun, NoAnswer, fetch_runs, read_kept
from harness.config import flatten_mapping, say_count
from harness.records import RESULTS, STATUSES

PREFIX = "wandb:"
OUTCOMES = set(RESULTS) - {"run_id", "sweep"}
STATES = {"finished": "done", "running": "running", "pending": "running", "preempting": "running"}  # others failed
SPELLED = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}  # numbers that JSON lacks


def is_project(source: str) -> bool:
    return source.startswith(PREFIX)


def read_project(source: str) -> tuple[pd.DataFrame, str]:
    """One row a run, the oldest first, and a sentence on what came from where.

    Raises: ValueError for a name that is none, no such project, no runs, or no answer where nothing is kept.
    """
    entity, slash, project = source.removeprefix(PREFIX).partition("/")
    if not slash or any(not part.strip() or set(part) & set("/\\") or part[0] == "." for part in (entity, project)):
        raise ValueError(f"--runs={source!r} is not wandb:ENTITY/PROJECT: write it like wandb:my-team/scaling-harness")
    path = place_of(entity, project)
    try:
        count = fetch_runs(entity, project, path, Console(stderr=True))
        how = f"{count} fetched now"
    except NoAnswer as reason:
        if not path.exists():
            raise ValueError(f"{source}: {reason}") from None
        how = f"all kept from before, since {reason}"
    kept = read_kept(path)
    if not kept:
        raise ValueError(f"{source} has no runs: train some, or check the name")
    rows = [to_row(run) for run in sorted(kept.values(), key=lambda run: (run.created, run.id))]
    return pd.DataFrame(rows), f"{project}: {say_count(len(rows), 'run')} of {source} ({how}), kept in {path}"


def place_of(entity: str, project: str) -> Path:
    """Where the runs of a project are kept: in W&B's own folder, by server."""
    server = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).netloc.replace(":", "-")
    return Path(os.environ.get("WANDB_DIR", ".")) / "wandb" / "projects" / server / entity / f"{project}.parquet"


def to_row(run: KeptRun) -> dict[str, object]:
    """Columns of one run: its config by nested key, and what it measured.

    A run that this project sent has the columns of its record. Of another's summary, `loss` and the other outcomes of a
    run have their names, and everything else is `summary.NAME`, so that no measurement passes for a setting. Where the
    config has a name that an outcome has too, it is `config.NAME`.
    """
    config, summary = (read_values(text) for text in (run.config, run.summary))
    ours = {"run_id", "sweep", "protocol"} <= set(config)
    row: dict[str, object] = {f"config.{name}" if name in OUTCOMES else name: value for name, value in config.items()}
    for name, value in summary.items():
        if ours or name in OUTCOMES:
            row.setdefault(name, value)
        else:
            row[f"summary.{name}"] = value
    if row.get("status") not in STATUSES:
        row["status"] = STATES.get(run.state, "failed")
    row.setdefault("run_id", run.id)
    return row


def read_values(text: str) -> dict[str, object]:
    """Scalars by dotted name; lists as their JSON; W&B's own names, which begin with _, left out."""
    values: Mapping[str, object] = flatten_mapping(json.loads(text))
    found = {}
    for name, value in values.items():
        if not name.startswith("_"):
            plain = json.dumps(value) if isinstance(value, list) else value
            found[name] = SPELLED.get(plain, plain) if isinstance(plain, str) else plain
    return found
