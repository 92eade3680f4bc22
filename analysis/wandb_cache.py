"""The runs of a W&B project as kept on disk: fetched page by page through the client, only what is new or has changed.

The listing of a project is light (names, states and heartbeats, a thousand runs a page). Of it only runs that are not
kept, or whose state or heartbeat has moved since, are asked for their config and summary. What came is kept even if the
rest does not: the next call goes on.
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

LISTED, FETCHED = 1000, 100  # runs a request
SAVE_EVERY = 2.0  # seconds of fetching that a kill may cost
RETRIES, TIMEOUT = 4, 30  # of one request; seconds of it with its retries


class NoAnswer(Exception):
    """W&B did not answer, or not to us: why, in one line."""


@dataclass(frozen=True)
class KeptRun:
    """One run as W&B has it; config and summary as JSON, since their keys and types differ from run to run.

    Attributes:
        stamp: what changes when the run does: state, heartbeat and number of logged points.
    """

    id: str
    created: str
    state: str
    stamp: str
    config: str
    summary: str


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
    # the client starts a process of its own and takes half a second to import: nothing else pays for it
    import wandb

    kept = read_kept(path)
    try:
        with (
            settle_client(path.parent),
            Progress(console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            task = bar.add_task(f"asking W&B for the runs of {entity}/{project}", total=None)
            # as it comes the client repeats a request for minutes, and waits for that at exit
            settings = wandb.Settings(
                silent=True,
                x_graphql_retry_max=RETRIES,
                x_graphql_retry_wait_min_seconds=0.5,
                x_graphql_retry_wait_max_seconds=4,
            )
            wandb.setup(settings)
            if not wandb.login(prompt=False):
                raise NoAnswer("there is no W&B account: run `wandb login`, or set WANDB_API_KEY")
            api = wandb.Api(overrides={"entity": entity, "project": project}, timeout=TIMEOUT)
            place = f"{entity}/{project}"
            listed = {run.id: stamp(run) for run in api.runs(place, per_page=LISTED, lazy=True)}
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
    except Exception as error:
        if "Could not find project" in str(error):
            raise ValueError(
                f"W&B has no project {entity}/{project} that this account can see: check ENTITY and PROJECT"
            ) from None
        # what a failed request raises differs between releases of the client, and is not all public
        if type(error).__module__.partition(".")[0] not in ("wandb", "requests", "pydantic_core"):
            raise
        raise NoAnswer(describe(error)) from None
    return len(wanted)


def describe(error: Exception) -> str:
    """A failed request in one line."""
    text = " ".join(str(error).split())
    if any(word in text for word in ("401", "403", "not logged in", "nvalid API key", "permission")):
        return "W&B refuses the API key: run `wandb login --relogin`, or set WANDB_API_KEY"
    return f"W&B does not answer ({text[:120]}): the next call goes on from here"


def stamp(run: Any) -> str:
    """What differs when a run has changed."""
    return f"{run.state} {run.heartbeatAt} {run.historyLineCount}"


def keep(run: Any) -> KeptRun:
    config, summary = (json.dumps(dict(values)) for values in (run.config, run.summary_metrics))
    return KeptRun(run.id, str(run.created_at), run.state, stamp(run), config, summary)


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
