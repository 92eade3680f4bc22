"""The runs of a W&B project as kept on disk: fetched page by page through the client, only what is new or has changed.

The listing of a project is light (names, states and heartbeats, a thousand runs a page). Of it only runs that are not
kept, or whose state or heartbeat has moved since, are asked for their config and summary, and those that this project
sent for their points, one request a run. What came is kept even if the rest does not: the next call goes on.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from harness.wandb_client import connect, failures_in_one_line

LISTED, FETCHED = 1000, 100  # runs a request
SAVE_EVERY = 2.0  # seconds of fetching that a kill may cost
SAMPLED = 10_000  # points that the server tells unsampled in one request
OWN = ("run_id", "sweep", "protocol")  # a run whose config has these is one of ours


@dataclass(frozen=True)
class KeptRun:
    """One run as W&B has it; config and summary as JSON, since their keys and types differ from run to run.

    Attributes:
        stamp: what changes when the run does: state, heartbeat and number of logged points.
        history: its points, a list of JSON objects; empty for runs that are not ours.
    """

    id: str
    created: str
    state: str
    stamp: str
    config: str
    summary: str
    history: str


SCHEMA = pa.schema([(field.name, pa.string()) for field in fields(KeptRun)])


def read_kept(path: Path) -> dict[str, KeptRun]:
    """Runs that were kept, by their id; none where there is no file yet, or one that cannot be read."""
    try:
        rows = pq.read_table(path).to_pylist()
        return {row["id"]: KeptRun(**row) for row in rows}
    except (OSError, pa.ArrowInvalid, KeyError, TypeError):
        return {}  # a cache: what cannot be read is fetched again


def write_kept(path: Path, kept: Mapping[str, KeptRun]) -> None:
    """Replace the file in one piece."""
    table = pa.Table.from_pylist([asdict(run) for run in kept.values()], schema=SCHEMA)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): W&B runs are kept there, free it") from None
    finally:
        temporary.unlink(missing_ok=True)


def fetch_runs(entity: str, project: str, path: Path, console: Console) -> int:
    """Bring the kept runs of a project up to date; runs that were deleted there are forgotten.

    Returns: how many runs were asked for their config and summary.
    Raises: NoAnswer; what had come until then is kept.
    """
    kept = read_kept(path)
    with settle_client(path.parent), Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"asking W&B for the runs of {entity}/{project}", total=None)
        api = connect(entity, project)
        place = f"{entity}/{project}"
        with failures_in_one_line():
            listed = list_runs(api, place)
            wanted = [name for name, mark in listed.items() if name not in kept or kept[name].stamp != mark]
            kept = {name: kept[name] for name in listed if name in kept}
            bar.update(task, description=f"fetching runs of {place}", total=len(wanted))
            saved = time.monotonic()
            try:
                for start in range(0, len(wanted), FETCHED):
                    names = {"name": {"$in": wanted[start : start + FETCHED]}}
                    for run in api.runs(place, filters=names, per_page=FETCHED, lazy=False):
                        kept[run.id] = keep(run)
                        bar.advance(task)
                    if time.monotonic() - saved > SAVE_EVERY:
                        write_kept(path, kept)
                        saved = time.monotonic()
            finally:
                write_kept(path, kept)
    return len(wanted)


def list_runs(api: Any, place: str) -> dict[str, str]:
    """The stamp of every run of a project by its id.

    Raises: ValueError where there is no such project.
    """
    try:
        return {run.id: stamp(run) for run in api.runs(place, per_page=LISTED, lazy=True)}
    except ValueError as error:
        if "Could not find project" not in str(error):
            raise
        raise ValueError(f"W&B has no project {place} that this account can see: check ENTITY and PROJECT") from None


def stamp(run: Any) -> str:
    """What differs when a run has changed."""
    return f"{run.state} {run.heartbeatAt} {run.historyLineCount}"


def keep(run: Any) -> KeptRun:
    config, summary = (json.dumps(dict(values)) for values in (run.config, run.summary_metrics))
    points = fetch_points(run) if set(OWN) <= set(run.config) else []
    return KeptRun(run.id, str(run.created_at), run.state, stamp(run), config, summary, json.dumps(points))


def fetch_points(run: Any) -> list[dict[str, Any]]:
    """All points of a run, in order and none of them twice."""
    count = int(run.historyLineCount or 0)
    points = run.history(samples=count, pandas=False) if 0 < count <= SAMPLED else []
    if len(points) != count:  # it may sample nevertheless; pages come slower
        points = list(run.scan_history())
    by_step = {point["_step"]: point for point in points}
    return [by_step[step] for step in sorted(by_step)]


@contextmanager
def settle_client(folder: Path) -> Iterator[None]:
    """Let the client write beside the kept runs: its log would go to the home folder, and of every run that it lists it
    makes an empty folder."""
    before = {name: os.environ.get(name) for name in ("WANDB_DIR", "WANDB_CACHE_DIR")}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["WANDB_DIR"] = scratch
        os.environ.setdefault("WANDB_CACHE_DIR", str(folder.resolve() / ".client"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value
