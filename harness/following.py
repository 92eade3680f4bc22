"""How a mirror's process lives beside training: at low priority, deaf to Ctrl-C, until its command has trained.

`python -m harness.following MODULE [ARGUMENTS]` is a module as a program that a mirror starts: its standard input is a
pipe to which nobody writes, and when it closes, by whatever end of the mirror, the program and its children are killed.
A client that went on sending would otherwise meet the next mirror, and points would be there twice.
"""

import os
import runpy
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


def end_with_starter() -> None:
    """For a thread, in the first process of a session of its own."""
    os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock would abort a process that ends by itself
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    del sys.argv[0]  # the module finds its name and arguments as if it had been started itself
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
