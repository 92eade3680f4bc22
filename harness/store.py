"""Files under runs_dir: written whole or not at all, never over one another, and with one clear line when they cannot.

Everything that a sweep keeps goes through here. The two primitives, a link that refuses to replace and one write to a
file opened for appending, need no file locks. The first holds on a network file system; appended lines of two hosts may
tear there, so nothing but notes is kept in lines.
"""

import errno
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

TEMPORARY_KEPT = 3600.0  # seconds that a temporary file of another process is left alone


class StoreError(Exception):
    """A file under runs_dir could not be written; the text says which, why, and the cure."""


def unwritable(path: Path, error: OSError) -> StoreError:
    """What to tell when a write failed."""
    if not path.parent.exists():
        return StoreError(f"{path.parent} has vanished: bring runs_dir back, or give another runs_dir=FOLDER")
    cure = "free some space there, or give another runs_dir=FOLDER"
    return StoreError(f"cannot write {path} ({error.strerror}): {cure}; what is finished is kept")


def writable_folder(setting: str, *parts: str) -> Path:
    """A folder that can be written to, created if it is not there: runs_dir and the sweep's name, or figures_dir.

    Raises: ValueError, with the setting's name, when it cannot be written to.
    """
    folder = Path(*parts)
    if not parts[0]:
        raise ValueError(f"{setting} is empty: give {setting}=FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"{setting}={parts[0]!r} cannot be written to ({error.strerror})"
        raise ValueError(f"{reason}: give another {setting}=FOLDER") from error
    return folder


def subfolder(folder: Path, name: str) -> Path:
    """A folder in a sweep's folder, created if need be; the sweep's folder itself is not brought back.

    Raises: StoreError.
    """
    path = folder / name
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    return path


def publish(path: Path, content: bytes | Callable[[Path], None]) -> bool:
    """Write a file whole or not at all, and never over another: True if it is new, False if one was there.

    The content is synced under a temporary name first and then linked: a link, unlike a rename, refuses to replace.

    Args:
        content: bytes, or a function that writes a file of the name that it is given.

    Raises: StoreError when it cannot be written.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        if callable(content):
            content(temporary)
            temporary.chmod(0o644)  # whatever the writer thinks of others
        with temporary.open("r+b" if callable(content) else "xb") as file:
            if not callable(content):
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return True


def remove_torn(folder: Path) -> None:
    """Delete what writers that were killed left half written; a young file may belong to one that still writes."""
    # Ours, those of safetensors, and machine code
    for path in [*folder.glob(".*.tmp"), *folder.glob(".tmp*"), *folder.glob(".*.pt2")]:
        try:
            if time.time() - path.stat().st_mtime > TEMPORARY_KEPT:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer, or another cleaner, was quicker


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one JSON line by one write at the file's end, so that lines of several writers do not mix.

    Raises: StoreError when it cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            # A writer killed within its write leaves a line without an end: the next one begins on a line of its own
            size = os.fstat(descriptor).st_size
            torn = size > 0 and not ends_line(path, size)
            content = (b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n"
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, "the disk is full")
        finally:
            os.close(descriptor)
    except OSError as error:
        raise unwritable(path, error) from error


def ends_line(path: Path, size: int) -> bool:
    with path.open("rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The entries of a file of JSON lines; torn lines are passed over."""
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # its writer was killed within it
        if isinstance(entry, dict):
            yield entry
