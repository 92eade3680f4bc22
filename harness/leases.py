"""Leases: who trains a stack now. Without file locks, so that they hold on a network file system.

`runs_dir/NAME/.leases/STACK-GENERATION` is created exclusively by whoever trains the stack, touched every few seconds
while it is held, and deleted when the records are published. It is stale when it was not touched for `seconds` by the
clock of the file system (the hosts' clocks may differ), or at once when its process was one of this machine and is
gone. A stale one is taken over by creating the next generation; a former holder that was only asleep finds its file
gone, and ends. Stacks of two plans may share runs: a lease is refused while another live one has a run in common.
"""

import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.store import publish, subfolder

LEASES = ".leases"
BEAT = 5.0  # most seconds between two touches


@dataclass(frozen=True)
class Lease:
    """A lease as it lies in its file; `age` is the time since it was last touched when it was read."""

    path: Path
    content: dict[str, Any]
    age: float

    @property
    def holder(self) -> str:
        return f"pid {self.content['pid']} on {self.content['host']}"

    def is_live(self, seconds: float) -> bool:
        """Whether its holder may still be at work."""
        if self.age >= max(seconds, self.content["seconds"]):
            return False
        here, home = machine(), self.content["machine"]
        return here is None or home != here or started(self.content["pid"]) == self.content["started"]


@dataclass(frozen=True)
class Held:
    """A lease that another holds."""

    holder: str


def acquire(folder: Path, stack: str, run_ids: Iterable[str], seconds: float) -> tuple[Lease, list[Lease]] | Held:
    """Take the lease of a stack: it and the stale ones that it took over, or Held by another.

    Whoever got it must look at what has ended only now: the former holder may have published a moment ago.

    Raises: StoreError when .leases cannot be written.
    """
    place, runs = subfolder(folder, LEASES), sorted(run_ids)
    if live := find_live(folder, runs, seconds):
        return Held(live.holder)
    generation = 1 + max((int(path.name.rpartition("-")[2]) for path in place.glob(f"{stack}-*")), default=-1)
    content = {
        "token": uuid.uuid4().hex, "host": platform.node(), "machine": machine(), "pid": os.getpid(),
        "started": started(os.getpid()), "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds, "run_ids": runs,
    }  # fmt: skip
    own = Lease(place / f"{stack}-{generation}", content, 0.0)
    if not publish(own.path, json.dumps(content).encode()):
        return Held("another process")
    # Again, now that others can see ours: of two that came at once at least one sees the other
    if live := find_live(folder, runs, seconds, but=own):
        own.path.unlink(missing_ok=True)
        return Held(live.holder)
    stale = [lease for lease in read_leases(folder) if lease.path != own.path and shares(lease, runs)]
    for lease in stale:
        lease.path.unlink(missing_ok=True)
    return own, stale


def is_held(lease: Lease) -> bool:
    """Whether a lease is still ours: nobody took it over."""
    content = read_content(lease.path)
    return content is not None and content["token"] == lease.content["token"]


def release(lease: Lease) -> None:
    if is_held(lease):
        lease.path.unlink(missing_ok=True)


def keep_alive(lease: Lease, lost: Callable[[], None], done: threading.Event) -> None:
    """Touch a lease every few seconds until `done`; calls `lost` once if another took it over. For a thread."""
    while not done.wait(min(BEAT, lease.content["seconds"] / 4)):
        if not is_held(lease):
            if not done.is_set():
                lost()
            return
        try:
            os.utime(lease.path)
        except OSError:
            continue  # a file system that is away for a moment; when it stays away others take over


def find_live(folder: Path, run_ids: Iterable[str], seconds: float, but: Lease | None = None) -> Lease | None:
    """A live lease with one of these runs."""
    runs = set(run_ids)
    for lease in read_leases(folder):
        if (but is None or lease.path != but.path) and shares(lease, runs) and lease.is_live(seconds):
            return lease
    return None


def shares(lease: Lease, run_ids: Iterable[str]) -> bool:
    return not set(run_ids).isdisjoint(lease.content["run_ids"])


def read_leases(folder: Path) -> Iterator[Lease]:
    """All leases of a sweep with their age by the file system's clock."""
    place = folder / LEASES
    paths = [path for path in sorted(place.glob("*")) if not path.name.startswith(".")]
    if not paths:
        return
    now = file_system_time(place)
    for path in paths:
        content = read_content(path)
        try:
            age = now - path.stat().st_mtime
        except FileNotFoundError:
            continue
        if content is not None:
            yield Lease(path, content, age)


def read_content(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None  # released; a file is never there in part
    return content


def file_system_time(place: Path) -> float:
    """The time that a file touched now gets; the local clock's where none can be written, as for a mere look."""
    probe = place / f".clock.{uuid.uuid4().hex}.tmp"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with suppress(OSError):  # a read-only file system refuses even where there is nothing to delete
            probe.unlink(missing_ok=True)


def machine() -> str | None:
    """Names the boot and the process namespace in which a pid means one process; None where that cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Two containers of one machine count their processes apart
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def started(pid: int) -> str | None:
    """When a process began, in ticks since boot: with it a pid that is used again is told apart. None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
