"""How a mirror's process lives beside training: at low priority, deaf to Ctrl-C, until its command has trained."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path

FOLLOWS = "HARNESS_MIRROR_FOLLOWS"  # set by the command: standard input is open for as long as it trains


def begin_following() -> threading.Event:
    """An event that is set once training has ended; typed by hand or in a script, at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends training; what was trained is still sent
    if hasattr(os, "nice"):
        os.nice(10)  # at 19 it gets nothing at all beside what others run
    closed = threading.Event()
    if not os.environ.pop(FOLLOWS, ""):
        closed.set()
        return closed

    def wait_for_end() -> None:
        sys.stdin.read()
        closed.set()

    threading.Thread(target=wait_for_end, daemon=True).start()
    return closed


def name_command(folder: Path, project: str, entity: str | None) -> str:
    """What is typed to send a folder's runs to W&B with an account."""
    command = ["python", "-m", "harness.mirror", str(folder), "online", project]
    return shlex.join([*command, entity] if entity else command)
