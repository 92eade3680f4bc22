"""Trackers as the command uses them: a process beside training that mirrors records, and W&B's summary run."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from harness.checks import check_choice
from harness.config import TRACKER_MODES
from harness.following import FOLLOWS, name_command
from harness.records import read_attempts, read_mirrored, read_summary
from harness.trackio_mirror import check_installed
from harness.wandb_client import may_have_account, own_folder, read_mode

MIRRORS = {"wandb": "harness.mirror", "trackio": "harness.trackio_mirror"}  # tracker -> the process that mirrors
TOLD = {"wandb": (0, 3), "trackio": (0,)}  # exit codes that have been told in a line; 3: not all is there yet
PLACES = {"wandb": "W&B", "trackio": "trackio"}
WITHIN = 120.0  # seconds that writing a summary run may take
NO_SUMMARY = "no W&B summary run"


def check_tracker(tracker: dict[str, Any]) -> None:
    """Raises: ValueError for a mode that is none, or what is not installed."""
    if tracker["name"] == "wandb":
        check_choice("tracker.mode", tracker["mode"], TRACKER_MODES)
        read_mode(tracker["mode"])
    if tracker["name"] == "trackio":
        check_installed()


def choose_destination(tracker: dict[str, Any]) -> str:
    """Where runs are to go in the end: online, offline, or nowhere (disabled), as far as it is told in no time."""
    if tracker["name"] != "wandb":
        return "disabled"
    mode = read_mode(tracker["mode"])
    return mode if mode != "auto" else "online" if may_have_account() else "offline"


def place_of(tracker: dict[str, Any]) -> tuple[str, str]:
    """W&B's project and entity as asked for."""
    return str(tracker["project"] or ""), str(tracker["entity"] or "")


def is_behind(folder: Path, tracker: dict[str, Any]) -> bool:
    """Whether W&B lacks something of a sweep that is to be there."""
    online = choose_destination(tracker) == "online"
    written = read_summary(folder, *place_of(tracker)) if online else None
    if written is not None and not written.sent:
        return True
    return bool(read_attempts(folder) - read_mirrored(folder, *place_of(tracker), online=online))


@contextmanager
def mirroring(folder: Path, tracker: dict[str, Any], *, missing: bool) -> Iterator[None]:
    """While the body runs, a process of its own sends to the tracker what is published; after it, it gets to finish.

    Args:
        missing: whether something will be trained.
    """
    if tracker["name"] == "none" or (tracker["name"] == "wandb" and choose_destination(tracker) == "disabled"):
        yield
        why = "tracker=none" if tracker["name"] == "none" else "WANDB_MODE=disabled"
        print(f"records: {folder}; none were sent to W&B ({why})", flush=True)
        return
    command = [sys.executable, "-m", MIRRORS[tracker["name"]], str(folder)]
    command += [str(tracker.get(key) or "") for key in ("mode", "project", "entity")]
    if tracker["name"] == "wandb" and not missing and not is_behind(folder, tracker):
        yield
        if is_behind(folder, tracker):  # another analysis of the same runs
            report(tracker["name"], command, subprocess.run(command, stdin=subprocess.DEVNULL).returncode)
        print(f"records: {folder}; {describe_place(folder, tracker)}", flush=True)
        return
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env={**os.environ, FOLLOWS: "1"})
    assert process.stdin is not None
    try:
        yield
    except BaseException:
        process.stdin.close()
        text = f"a process of its own (pid {process.pid}) still sends to {PLACES[tracker['name']]} what was trained"
        print(f"records: {folder}; {text}", file=sys.stderr, flush=True)
        raise
    print(f"records: {folder}", flush=True)  # the mirror says where it sends them
    process.stdin.close()
    with Console().status(f"sending what is left to {PLACES[tracker['name']]}"):
        code = process.wait()
    report(tracker["name"], command, code)


def report(name: str, command: list[str], code: int) -> None:
    """Tell how a mirror ended that has not told it itself."""
    if code not in TOLD[name]:
        text = f"the {PLACES[name]} mirror ended with code {code}"
        print(f"{text}; send again: {shlex.join(command)}", file=sys.stderr)


def describe_place(folder: Path, tracker: dict[str, Any]) -> str:
    """Where the runs of a sweep are of which nothing new was sent."""
    project, entity = place_of(tracker)
    if not read_attempts(folder) - read_mirrored(folder, project, entity, online=True):
        return "W&B has them already"
    command = name_command(folder, project, entity)
    return f"kept offline in {own_folder()}; with an account `{command}` sends them"


def write_summary_run(content: dict[str, Any], folder: Path, tracker: dict[str, Any]) -> None:
    """Write the W&B run NAME-summary for the mirror, by a process of its own, unless W&B was told the same before."""
    project, entity = place_of(tracker)
    written = read_summary(folder, project, entity)
    there = written is not None and (written.sent or written.directory.is_dir())
    if there and written is not None and written.sha256 == content["content_sha256"]:
        return
    command = [sys.executable, "-m", "harness.summary_run", str(folder), project, entity]
    done = subprocess.run(command, input=json.dumps(content), capture_output=True, text=True, timeout=WITHIN)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        print(f"{NO_SUMMARY}: {last}; the same command tries again", file=sys.stderr)
