"""From directories of the W&B client to its server, and the server's word that they are there.

The client's own `wandb beta sync` sends, in a process that can be ended. Its exit code and its marks say nothing: cut
off in the middle it marks a directory as synced, and sends a directory that is sent twice as twice as many points. So
what counts is what the server lists. Every point is a row of its own and rows come in order: where the server has k of
them, the next fragment begins with point k, whatever was lost on the way.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records import WrittenSummary
from harness.rows import identify_run, points_of
from harness.summary_run import ARTIFACT, name_artifact
from harness.tracking import write_fragment
from harness.wandb_client import NoAnswer, connect, failures_in_one_line, few_retries, hide_key

TOGETHER = 100  # runs a process of the client sends, and the server is asked about
AT_ONCE = 8  # of them at a time
CONFIRMED_WITHIN = 10.0  # seconds that the server may take to list what it took
PATIENCE, PATIENCE_EACH = 90.0, 2.0  # seconds a process of the client may take, and a run


@dataclass(frozen=True)
class There:
    """What the server has of a run: rows of its history and its summary."""

    rows: int
    summary: Mapping[str, Any]


def ask(project: str, entity: str | None, names: Sequence[str]) -> dict[str, There]:
    """What the server has of these runs.

    Raises: NoAnswer.
    """
    api = connect(entity)
    found: dict[str, There] = {}
    with failures_in_one_line():
        place = f"{entity or api.default_entity}/{project}"
        for first in range(0, len(names), TOGETHER):
            filters = {"name": {"$in": list(names[first : first + TOGETHER])}}
            try:
                for run in api.runs(place, filters=filters, per_page=TOGETHER, lazy=False):
                    found[run.id] = There(int(run.historyLineCount or 0), dict(run.summary_metrics))
            except ValueError as error:
                if "Could not find project" not in str(error):
                    raise
                return {}
    return found


def has_arrived(row: Mapping[str, Any], there: There | None) -> bool:
    """Whether all points of a record, or of a run in training, are there, and the summary is this attempt's."""
    ended = row.get("provenance.ended")
    if there is None or there.rows < len(points_of(row)):
        return False
    return ended is None or there.summary.get("provenance.ended") == ended


def deliver(
    rows: Sequence[Mapping[str, Any]],
    *,
    project: str,
    entity: str | None,
    kept: Mapping[tuple[str, str], Path],
    stop: Callable[[], bool] = lambda: False,
) -> set[str]:
    """Send records, or runs in training, of which the server has not all.

    Args:
        kept: whole attempts that lie offline, by run_id and the time they ended: sent as they are where the server has
            nothing of the run.
        stop: asked between parts of TOGETHER runs whether the rest is left for another time.

    Returns: names of W&B runs that are there now, by the server's word.
    Raises: NoAnswer.
    """
    arrived: set[str] = set()
    for first in range(0, len(rows), TOGETHER):
        if first and stop():
            break
        part = {identify_run(row): row for row in rows[first : first + TOGETHER]}
        there = ask(project, entity, list(part))
        lacking = {name: row for name, row in part.items() if not has_arrived(row, there.get(name))}
        arrived |= set(part) - set(lacking)
        if not lacking:
            continue
        written: list[Path] = []
        try:
            folders = []
            for name, row in lacking.items():
                path = kept.get(attempt_of(row)) if name not in there else None
                if path is None or not path.is_dir():
                    begin = there[name].rows if name in there else 0
                    path = write_fragment(row, project=project, entity=entity, start=begin)
                    written.append(path)
                folders.append(path)
            error = send_folders(folders, project, entity)
            waiting = wait_until_listed(lacking, project, entity)
        finally:
            for path in written:  # from the record it can be written again, and hundreds would lie there
                shutil.rmtree(path, ignore_errors=True)
        arrived |= set(lacking) - waiting
        if waiting == set(lacking):  # nothing goes through now
            if error and not arrived:
                raise NoAnswer(f"W&B does not list what it was sent; its client says: {error}")
            break
    return arrived


def wait_until_listed(rows: Mapping[str, Mapping[str, Any]], project: str, entity: str | None) -> set[str]:
    """Ask the server until it has all of some runs, or for a while; returns those that it has not.

    Raises: NoAnswer.
    """
    waiting, until = set(rows), time.monotonic() + CONFIRMED_WITHIN
    while True:
        there = ask(project, entity, sorted(waiting))
        waiting -= {name for name in waiting if has_arrived(rows[name], there.get(name))}
        if not waiting or time.monotonic() > until:
            return waiting
        time.sleep(1)


def attempt_of(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["run_id"], row.get("provenance.ended") or ""


def deliver_summary(summary: WrittenSummary, sweep: str, *, project: str, entity: str | None) -> bool:
    """Send a sweep's summary run from its offline directory, unless the server has it; whether it is there.

    It is there when the run's summary tells its sha256 and the artifact with the sweep's files does so too: the client
    ends a run without a word although its artifact was refused. Sent again for that, it has its row twice.

    Raises: NoAnswer.
    """
    for turn in range(2):
        there = ask(project, entity, [summary.id]).get(summary.id)
        told = there is not None and there.summary.get("content_sha256") == summary.sha256
        if told and has_artifact(summary, sweep, project=project, entity=entity):
            return True
        if turn or not summary.directory.is_dir():
            break
        send_folders([summary.directory], project, entity)
    return False


def has_artifact(summary: WrittenSummary, sweep: str, *, project: str, entity: str | None) -> bool:
    """Whether the newest version of a sweep's artifact is whole and the one that a summary was written with.

    Raises: NoAnswer.
    """
    api = connect(entity)
    with failures_in_one_line():
        name = f"{entity or api.default_entity}/{project}/{name_artifact(sweep)}:latest"
        if not api.artifact_exists(name, type=ARTIFACT):
            return False
        artifact = api.artifact(name, type=ARTIFACT)
        return bool(artifact.state == "COMMITTED" and artifact.metadata.get("content_sha256") == summary.sha256)


def send_folders(folders: Iterable[Path], project: str, entity: str | None) -> str:
    """Let the client send directories; what became of it, the server has to say.

    Returns: the client's last error, or nothing.
    """
    paths = [str(folder) for folder in folders]
    command = [sys.executable, "-m", "harness.following", "wandb", "beta", "sync", "--no-skip-synced"]
    command += ["-n", str(AT_ONCE), "-p", project]
    command += ["-e", entity] if entity else []
    environment = {**os.environ, **few_retries()}
    for name in ("WANDB_MODE", "WANDB_SILENT"):
        environment.pop(name, None)
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            [*command, *paths],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,
        )
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):  # the rest is sent another time
                process.wait(PATIENCE + PATIENCE_EACH * len(paths))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        words.seek(0)
        lines = [line.strip() for line in words.read().decode(errors="replace").splitlines() if "error" in line.lower()]
    return hide_key(lines[-1].removeprefix("wandb: ERROR "))[:200] if lines else ""


def mark_sent(places: Iterable[Path], name: str) -> None:
    """Mark all fragments of a W&B run as the client does, so that `wandb sync` by hand sends none of them again."""
    for place in places:
        for path in place.glob(f"offline-run-*-{name}/run-{name}.wandb"):
            path.with_suffix(".wandb.synced").touch()
