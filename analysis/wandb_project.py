"""A W&B project as a table of runs: `wandb:ENTITY/PROJECT`."""

import json
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
from omegaconf import OmegaConf
from rich.console import Console

from analysis.wandb_cache import OWN, KeptRun, fetch_runs, read_kept
from harness.config import CONF_DIR, PARTS, say_count
from harness.nested import flatten_mapping
from harness.records import MEMORY, PROBE, PROVENANCE, RESULTS, STATUSES
from harness.wandb_client import NoAnswer

PREFIX = "wandb:"
OUTCOMES = set(RESULTS) - {"run_id", "sweep"}
STATES = {"finished": "done", "running": "running", "pending": "running", "preempting": "running"}  # others failed
KINDS = RESULTS | PROVENANCE | MEMORY | PROBE  # of columns that are no config
SUMMARY = "content_sha256"  # in the config of a sweep's summary run alone, which is no training run
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
    kept = {name: run for name, run in read_kept(path).items() if SUMMARY not in json.loads(run.config)}
    if not kept:
        raise ValueError(f"{source} has no runs: train some, or check the name")
    rows = [to_row(run) for run in sorted(kept.values(), key=lambda run: (run.created, run.id))]
    frame = pd.DataFrame(rows)
    if frame["run_id"].notna().all() and all(is_ours(run) for run in kept.values()):
        frame = with_types(frame)
    return frame, f"{project}: {say_count(len(rows), 'run')} of {source} ({how}), kept in {path}"


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
    ours = set(OWN) <= set(config)
    row: dict[str, object] = {f"config.{name}" if name in OUTCOMES else name: value for name, value in config.items()}
    for name, value in summary.items():
        if ours or name in OUTCOMES:
            row.setdefault(name, value)
        else:
            row[f"summary.{name}"] = value
    if row.get("status") not in STATUSES:
        row["status"] = STATES.get(run.state, "failed")
    row.setdefault("run_id", run.id)
    return row | (read_curves(run.history) | read_lists(run.summary) if ours else {})


def is_ours(run: KeptRun) -> bool:
    return set(OWN) <= set(json.loads(run.config))


def read_curves(text: str) -> dict[str, object]:
    """The learning curve as records have it: `history.NAME`, an array with NaN where a point does not tell."""
    points = json.loads(text)
    names = dict.fromkeys(name for point in points for name in point if not name.startswith("_"))
    curves: dict[str, object] = {f"history.{name}": to_array([point.get(name) for point in points]) for name in names}
    for name in ("step", "num_samples"):
        values = [point["_step" if name == "step" else name] for point in points]
        curves[f"history.{name}"] = np.array(values, dtype=np.int64)
    return curves


def read_lists(text: str) -> dict[str, object]:
    """Columns of a summary that are lists: of metrics.memory and of probes."""
    values = json.loads(text)
    lists: dict[str, object] = {}
    for name, kind in KINDS.items():
        if pa.types.is_list(kind) and name in values:
            numbers = not pa.types.is_string(kind.value_type)
            whole = np.int64 if pa.types.is_integer(kind.value_type) else np.float64
            lists[name] = to_array(values[name], whole) if numbers else np.array(values[name], dtype=object)
    return lists


def to_array(values: list[object], kind: type = np.float64) -> np.ndarray:
    numbers = [SPELLED.get(x, x) if isinstance(x, str) else float("nan") if x is None else x for x in values]
    return np.array(numbers, dtype=kind)


def with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Our own runs with the columns and types that records have: JSON makes 1 of 1.0, and what is null was not sent."""
    missing = [*RESULTS, *(name for name in PROVENANCE if name != "provenance.host")]
    missing += [name.removeprefix("history.") for name in frame.columns if name.startswith("history.")]
    left = [name for name in dict.fromkeys(missing) if name not in frame.columns and name != "step"]
    frame = pd.concat([frame, pd.DataFrame(None, frame.index, left, dtype=object)], axis=1)
    measured = {name.removeprefix("history.") for name in frame.columns if name.startswith("history.")}
    floats = float_options() | measured | {name for name, kind in KINDS.items() if kind == pa.float64()}
    whole = {name for name, kind in KINDS.items() if kind == pa.int64()}
    texts = {name for name, kind in KINDS.items() if kind == pa.string()}
    for name in frame.columns:
        if (name in floats and name != "num_samples") or name.startswith("groups."):
            frame[name] = frame[name].astype(float)
        elif name in whole:  # pandas reads whole numbers of which some are null as floats
            frame[name] = frame[name].astype(np.int64 if frame[name].notna().all() else float)
        elif (name in texts or name not in KINDS) and frame[name].isna().all():  # records keep an unused option as text
            frame[name] = frame[name].astype(pd.Series(["text"]).dtype)
    return frame


@lru_cache(maxsize=1)
def float_options() -> set[str]:
    """Config columns that are no whole numbers, by the YAML files of the parts."""
    found = {"max_norm", "target_loss", "eval_share", "smoothing"}
    for part in PARTS:
        for path in (CONF_DIR / part).glob("*.yaml"):
            options = flatten_mapping(OmegaConf.to_container(OmegaConf.load(path)), f"{part}.")  # type: ignore[arg-type]
            found |= {name for name, value in options.items() if isinstance(value, float)}
    return found


def read_values(text: str) -> dict[str, object]:
    """Scalars by dotted name; lists as their JSON; W&B's own names, which begin with _, left out."""
    values: Mapping[str, object] = flatten_mapping(json.loads(text))
    found = {}
    for name, value in values.items():
        if not name.startswith("_"):
            plain = json.dumps(value) if isinstance(value, list) else value
            found[name] = SPELLED.get(plain, plain) if isinstance(plain, str) else plain
    return found
