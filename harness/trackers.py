"""Trackers as the command uses them: a process beside training that mirrors records, and W&B's summary run."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checks import check_choice
from harness.config import TRACKER_MODES
from harness.following import FOLLOWS, name_command
from harness.records import read_attempts, read_mirrored, read_summary
from harness.trackio_mirror import check_installed
from harness.wandb_client import may_have_account, own_folder, read_mode

MIRRORS = {"wandb": "harness.mirror", "trackio": "harness.trackio_mirror"}  # tracker -> the process that mirrors
TOLD = {"wandb": (0, 3), "trackio": (0, 3)}  # exit codes that have been told in a line; 3: not all is there yet
QUIET = 3.0  # seconds at the end in which nobody wonders what is waited for
PLACES = {"wandb": "W&B", "trackio": "trackio"}


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


@dataclass
class Mirror:
    """The process that mirrors a sweep's folder, as the command sees it; None where there is nothing to send yet."""

    folder: Path
    tracker: dict[str, Any]
    process: "subprocess.Popen[bytes] | None" = None
    summary: str = ""

    def say_trained(self) -> None:
        """From now on it need not be modest: nothing is trained any more."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already, and has told why
                self.process.stdin.write(b"\n")
                self.process.stdin.flush()

    def keep_summary(self, content: dict[str, Any]) -> None:
        """The content of the W&B run NAME-summary, to be written at the end, unless W&B was told the same before."""
        written = read_summary(self.folder, *place_of(self.tracker))
        there = written is not None and (written.sent or written.directory.is_dir())
        if not (there and written is not None and written.sha256 == content["content_sha256"]):
            self.summary = json.dumps(content)

    def finish(self) -> None:
        """Let it send what is left, and tell how it ended."""
        assert self.process is not None, "it was started"
        self.say_trained()
        try:
            self.process.communicate(self.summary.encode(), QUIET)
        except subprocess.TimeoutExpired:  # no spinner: the mirror writes to the same terminal
            print(f"waiting for what the {PLACES[self.tracker['name']]} mirror still does ...", flush=True)
            self.process.communicate()
        report(self.tracker["name"], command_of(self.folder, self.tracker), self.process.returncode)


def command_of(folder: Path, tracker: dict[str, Any]) -> list[str]:
    options = [str(tracker.get(key) or "") for key in ("mode", "project", "entity")]
    return [sys.executable, "-m", MIRRORS[tracker["name"]], str(folder), *options]


def start_mirror(folder: Path, tracker: dict[str, Any]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command_of(folder, tracker), stdin=subprocess.PIPE, env={**os.environ, FOLLOWS: "1"})


@contextmanager
def mirroring(folder: Path, tracker: dict[str, Any], *, missing: bool) -> Iterator[Mirror]:
    """While the body runs, a process of its own sends to the tracker what is published; after it, it gets to finish.

    Args:
        missing: whether something will be trained.
    """
    mirror = Mirror(folder, tracker)
    if tracker["name"] == "none" or (tracker["name"] == "wandb" and choose_destination(tracker) == "disabled"):
        yield mirror
        why = "tracker=none" if tracker["name"] == "none" else "WANDB_MODE=disabled"
        print(f"records: {folder}; none were sent to W&B ({why})", flush=True)
        return
    if missing or tracker["name"] != "wandb" or is_behind(folder, tracker):
        mirror.process = start_mirror(folder, tracker)
    try:
        yield mirror
    except BaseException:
        if mirror.process is not None and mirror.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already: what ended the body is to be told
                mirror.process.stdin.close()
            text = f"the {PLACES[tracker['name']]} mirror (pid {mirror.process.pid}) still sees to what was trained"
            print(f"records: {folder}; {text}", file=sys.stderr, flush=True)
        raise
    if mirror.process is None and not mirror.summary:
        print(f"records: {folder}; {describe_place(folder, tracker)}", flush=True)
        return
    print(f"records: {folder}", flush=True)  # the mirror says where it sends them
    mirror.process = mirror.process or start_mirror(folder, tracker)  # another analysis of the same runs
    mirror.finish()


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
