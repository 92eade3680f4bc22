"""How a mirror's process lives beside its command: deaf to Ctrl-C, told over standard input how far that is.

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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.leases import Held, acquire, keep_alive, release
from harness.store import subfolder

PLACE, LEASE = ".mirror", 60.0  # where the lease of who sends lies, and the seconds after which it is stale
TURN = 3.0  # seconds to wait for another that sends, when training has ended
NOT_YET = 3  # exit code: something is not sent yet
FOLLOWS = "HARNESS_MIRROR_FOLLOWS"  # set by the command: standard input tells how far it is


@dataclass
class Starter:
    """What a mirror's command has told it: a line once all is trained, then a summary or nothing, then its end.

    Attributes:
        trained: training lacks no time any more that is taken from the machine.
        closed: nothing will come any more.
        summary: JSON for harness/summary_run.py, whole once `closed` is set.
    """

    trained: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)
    summary: str = ""

    def listen(self) -> None:
        """For a thread."""
        told = b""
        # os.read, since a process that ends by itself may be aborted for the lock that sys.stdin.read() holds
        while part := os.read(sys.stdin.fileno(), 65536):
            told += part
            if b"\n" in part:
                self.trained.set()
        self.trained.set()
        self.summary = told.partition(b"\n")[2].decode().strip()
        self.closed.set()


def begin_following() -> Starter:
    """Typed by hand or in a script a mirror has nobody to wait for: all is trained, and nothing will come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends training; what was trained is still sent
    starter = Starter()
    if os.environ.pop(FOLLOWS, ""):
        threading.Thread(target=starter.listen, daemon=True).start()
    else:
        starter.trained.set()
        starter.closed.set()
    return starter


def check_folder(name: str) -> Path:
    """The folder of one sweep; that of a sweep whose first runs train has a plan.

    Raises: ValueError for one that is not there, and for a folder of sweeps in the place of one sweep's.
    """
    folder = Path(name)
    if not folder.is_dir():
        raise ValueError(f"there is no folder {name!r}: give a sweep's, e.g. runs/smoke")
    sweeps = sorted({path.parent.name for path in folder.glob("*/*.parquet")})
    own = any(next(folder.glob(pattern), None) for pattern in ("*.parquet", "plan-*.json", "*.jsonl"))
    if sweeps and not own:
        raise ValueError(f"{folder} is no sweep's folder: give one of {', '.join(str(folder / s) for s in sweeps)}")
    return folder


def name_command(folder: Path, project: str, entity: str | None) -> str:
    """What is typed to send a folder's runs to W&B with an account."""
    command = ["python", "-m", "harness.mirror", str(folder), "online", project]
    return shlex.join([*command, entity] if entity else command)


@contextmanager
def sole_sender(folder: Path, name: str, closed: threading.Event) -> Iterator[Held | None]:
    """Hold the lease of this name on sending a folder's runs, since two that send at once would send points twice.

    Gives: who else has it, where it has it still when `closed` is set.
    Raises: StoreError where nothing can be written.
    """
    place = subfolder(folder, PLACE)
    until = None
    while isinstance(found := acquire(place, name, [name], LEASE), Held):
        if closed.is_set():
            until = until or time.monotonic() + TURN
            if time.monotonic() > until:
                yield found
                return
            time.sleep(0.5)
        else:
            closed.wait(TURN)
    own, done = found[0], threading.Event()
    beat = threading.Thread(target=keep_alive, args=(own, end_at_once, done), daemon=True)
    beat.start()
    try:
        yield None
    finally:
        done.set()
        release(own)


def end_at_once() -> None:
    """Of one that slept so long that another took over: going on, both would send what it has in hand."""
    print("another process sends the rest, since this one had stopped for long", file=sys.stderr, flush=True)
    os._exit(NOT_YET)


def say_kept(folder: Path, project: str, entity: str | None) -> str:
    """What is told of runs and a summary that were not sent."""
    command = name_command(folder, project, entity)
    return f"the records are kept in {folder}; `{command}` sends them, the sweep's own command its summary too"


def end_with_starter() -> None:
    """For a thread, in the first process of a session of its own."""
    os.read(sys.stdin.fileno(), 1)  # see Starter.listen
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    threading.Thread(target=end_with_starter, daemon=True).start()
    del sys.argv[0]  # the module finds its name and arguments as if it had been started itself
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
