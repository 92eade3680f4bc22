"""From directories of the W&B client to its server, and the server's word that they are there.

The client's own `wandb beta sync` sends, in a process that can be ended. Its exit code and its marks say nothing: cut
off in the middle it marks a directory as synced, and sends a directory that is sent twice as twice as many points. So
what counts is what the server lists. Every point is a row of its own and rows come in order: where the server has k of
them, the next fragment begins with point k, whatever was lost on the way.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.tracking import points_of, wandb_id, write_fragment
from harness.wandb_client import connect, failures_in_one_line, few_retries

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
) -> set[str]:
    """Send records, or runs in training, of which the server has not all.

    Args:
        kept: whole attempts that lie offline, by run_id and the time they ended: sent as they are where the server has
            nothing of the run.

    Returns: names of W&B runs that are there now, by the server's word.
    Raises: NoAnswer.
    """
    arrived: set[str] = set()
    for first in range(0, len(rows), TOGETHER):
        part = {wandb_id(row): row for row in rows[first : first + TOGETHER]}
        there = ask(project, entity, list(part))
        folders = {}
        for name, row in part.items():
            if has_arrived(row, there.get(name)):
                arrived.add(name)
            elif name not in there and (path := kept.get(attempt_of(row))) is not None and path.is_dir():
                folders[name] = path
            else:
                begin = there[name].rows if name in there else 0
                folders[name] = write_fragment(row, project=project, entity=entity, start=begin)
        if not folders:
            continue
        send_folders(folders.values(), project, entity)
        waiting, until = set(folders), time.monotonic() + CONFIRMED_WITHIN
        while waiting:
            there = ask(project, entity, sorted(waiting))
            waiting -= {name for name in waiting if has_arrived(part[name], there.get(name))}
            if time.monotonic() > until:
                break
            if waiting:
                time.sleep(1)
        arrived |= set(folders) - waiting
        if waiting == set(folders):
            break  # nothing goes through now
    return arrived


def attempt_of(row: Mapping[str, Any]) -> tuple[str, str]:
    return row["run_id"], row.get("provenance.ended") or ""


def deliver_folders(
    folders: Iterable[Path], sha256: Mapping[str, str], *, project: str, entity: str | None
) -> list[Path]:
    """Send offline runs that are no records, as they are: a sweep's summary run.

    Their id is the end of the directory's name, after its time; of several the newest is sent.

    Args:
        sha256: by id, what the newest one's summary has as `content_sha256`: one arrived when the server has it.

    Returns: those that did not arrive.
    Raises: NoAnswer.
    """
    newest = {name: folder for folder in sorted(folders) if (name := folder.name.split("-", 3)[3]) in sha256}
    for turn in range(2):
        there = ask(project, entity, sorted(newest))
        arrived = {name for name in there if there[name].summary.get("content_sha256") == sha256[name]}
        newest = {name: folder for name, folder in newest.items() if name not in arrived}
        if not newest or turn:
            break
        send_folders(newest.values(), project, entity)
    return list(newest.values())


def send_folders(folders: Iterable[Path], project: str, entity: str | None) -> None:
    """Let the client send directories; what became of it, the server has to say."""
    paths = [str(folder) for folder in folders]
    command = [sys.executable, "-m", "wandb", "beta", "sync", "--no-skip-synced", "-n", str(AT_ONCE), "-p", project]
    command += ["-e", entity] if entity else []
    environment = {**os.environ, **few_retries(), "WANDB_SILENT": "true"}
    environment.pop("WANDB_MODE", None)
    process = subprocess.Popen(
        [*command, *paths],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):  # the rest is sent another time
            process.wait(PATIENCE + PATIENCE_EACH * len(paths))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def mark_sent(folder: Path, name: str) -> None:
    """Mark all fragments of a W&B run as the client does, so that `wandb sync` by hand sends none of them again."""
    for path in folder.glob(f"offline-run-*-{name}/run-{name}.wandb"):
        path.with_suffix(".wandb.synced").touch()
