"""The token shards that a task names: which files, sound and of its vocabulary, what is held out, and their sha256.

Free of torch, so that a run's identity can be computed without loading it. What takes a pass over a file is done once a
machine: runs_dir/.tokens/checked.jsonl keeps it by path, size and time, and runs_dir/.tokens/SHA.bin what was decoded.

Shapes: B windows, T context.
"""

import glob
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from harness.config import say_count
from harness.shards import (
    HEADER_BYTES,
    PREPARE,
    SUFFIXES,
    Shard,
    decode_pieces,
    kind_for,
    open_shard,
    read_windows,
    write_shard,
)
from harness.store import append_line, publish, read_lines, writable_folder

TOKENS = ".tokens"
CHECKED = "checked.jsonl"
HELDOUT_SHARE = 16  # one in that many of the last shard's windows
HASHED_WHOLE = 64 * 2**20  # bytes of a file; a larger one is hashed by pieces
PIECES, PIECE_BYTES = 64, 2**20
CHECKED_AT_ONCE = 2**22  # tokens
WORTH_SAYING = 2**30  # bytes that are about to be read

Known = dict[tuple[str, int, int], dict[str, Any]]  # (path, size, time of change) -> what was found out


@dataclass(frozen=True)
class Windows:
    """Windows of T + 1 tokens of some shards, numbered through; each begins with the token that the last one ends with.

    So every token but a shard's first is a target once. No window reaches into another shard.

    Attributes:
        first: of every shard, its first window here.
        ends: of every shard, how many windows there are up to its end.
    """

    shards: tuple[Shard, ...]
    first: np.ndarray
    ends: np.ndarray
    context: int

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, number_B: np.ndarray) -> np.ndarray:
        """Windows by their number: int64, (B, T + 1)."""
        windows = np.empty((len(number_B), self.context + 1), np.int64)
        shard_B = np.searchsorted(self.ends, number_B, "right")
        begins = np.concatenate([[0], self.ends[:-1]])
        for i in np.unique(shard_B):
            rows = np.flatnonzero(shard_B == i)
            start_B = (number_B[rows] - begins[i] + self.first[i]) * self.context
            windows[rows] = read_windows(self.shards[i], start_B, self.context + 1)
        return windows


@dataclass(frozen=True)
class Tokens:
    train: Windows
    heldout: Windows
    sha256: str


def load_tokens(task: Mapping[str, Any], runs_dir: Path | None) -> Tokens:
    """The shards that a run's config names.

    Raises: ValueError when they are not those of the run's sha256.
    """
    tokens = open_tokens(task, runs_dir)
    wanted = task.get("tokens_sha256")
    if wanted not in (None, tokens.sha256):
        text = f"the shards of task.path={task['path']!r} are no longer those that the run names ({wanted})"
        raise ValueError(f"{text}: bring them back, or plan the sweep again")
    return tokens


def tokens_sha256(task: Mapping[str, Any], runs_dir: Path) -> str:
    """Names a task's shards, after they were found fit for it; once a process."""
    names = ("path", "heldout_path", "num_symbols", "context")
    return _name(runs_dir, *(task[name] for name in names))


@lru_cache(maxsize=64)
def _name(runs_dir: Path, path: str, heldout_path: str | None, num_symbols: int, context: int) -> str:
    task = {"path": path, "heldout_path": heldout_path, "num_symbols": num_symbols, "context": context}
    return open_tokens(task, runs_dir).sha256


def open_tokens(task: Mapping[str, Any], runs_dir: Path | None) -> Tokens:
    """The shards of a task, checked; training windows and held-out ones.

    With no task.heldout_path the last sixteenth of the last shard's windows is held out. Their targets are no targets,
    and no inputs, of training; the last of training is the first one's first input. Else its files are held out, and
    not trained on even where task.path names them too.

    Raises: ValueError for shards that are torn, empty or of another vocabulary, or too short.
    """
    folder = None if runs_dir is None else writable_folder("runs_dir", str(runs_dir), TOKENS)
    known = read_checked(folder)
    files = list_files("task.path", str(task["path"]))
    apart = task.get("heldout_path")
    held = [] if apart is None else list_files("task.heldout_path", str(apart))
    resolved = {path.resolve() for path in held}
    files = [path for path in files if path.resolve() not in resolved]
    if not files:
        raise ValueError(f"task.heldout_path={apart!r} holds out all of task.path={task['path']!r}: name fewer files")
    say_what_takes_long([*files, *held], known)
    num_symbols, context = int(task["num_symbols"]), int(task["context"])
    shards = [open_checked(path, num_symbols, folder, known) for path in files]
    counts = [(shard.num_tokens - 1) // context for shard in shards]
    if held:
        others = [open_checked(path, num_symbols, folder, known) for path in held]
        heldout = lay_windows(others, [(shard.num_tokens - 1) // context for shard in others], context)
    else:
        last = min(counts[-1], max(1, counts[-1] // HELDOUT_SHARE))
        counts[-1] -= last
        heldout = lay_windows(shards[-1:], [last], context, counts[-1])
    train = lay_windows(shards, counts, context)
    for part, windows in (("training", train), ("held-out", heldout)):
        if not len(windows):
            sizes = ", ".join(f"{shard.path.name} with {shard.num_tokens}" for shard in windows.shards[:3])
            raise ValueError(
                f"the {part} part has no whole window of {context + 1} tokens (it is of {sizes}): give longer shards, "
                "a smaller task.context, or task.heldout_path"
            )
    digest = hashlib.sha256()
    for part, paths in (("train", files), ("heldout", held)):
        digest.update(part.encode())
        for path in paths:
            digest.update(bytes.fromhex(fingerprint(path, folder, known)))
    return Tokens(train, heldout, digest.hexdigest())


def lay_windows(shards: Sequence[Shard], counts: Sequence[int], context: int, first: int = 0) -> Windows:
    """So many windows of every shard, the first ones, or those from number `first` on."""
    return Windows(tuple(shards), np.full(len(shards), first), np.cumsum(counts), context)


def list_files(setting: str, path: str) -> list[Path]:
    """A file, the shards in a folder, or what a pattern finds, by name.

    Raises: ValueError where there is none.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        inside = [p for p in place.iterdir() if p.is_file() and not p.name.startswith(".")]
        files = [p for p in inside if p.suffix in SUFFIXES]
        if not files:
            kinds = ", ".join("*" + suffix for suffix in SUFFIXES)
            if inside:
                have = say_count(len(inside), "other file")
                raise ValueError(f"{setting}={path!r} holds {have} and no shards ({kinds}); {PREPARE} makes shards")
            cure = f"{PREPARE} makes shards ({kinds})"
            if setting == "task.heldout_path":
                cure = "leave it out, and a sixteenth of the last shard is held out"
            raise ValueError(f"{setting}={path!r} is empty: {cure}")
    elif place.exists():
        files = [place]
    else:
        files = [p for p in map(Path, glob.glob(str(place))) if p.is_file()]
        if not files:
            what = "a shard, a folder of them, or a pattern like 'DIR/*train*.bin'"
            raise ValueError(f"{setting}={path!r} does not exist: give {what}")
    return sorted(files)


def open_checked(path: Path, num_symbols: int, folder: Path | None, known: Known) -> Shard:
    """A shard whose every token is of the vocabulary; one that is compressed is decoded first.

    Raises: ValueError.
    """
    shard = open_shard(path)
    if shard is None:
        shard = open_decoded(path, num_symbols, folder, known)
    numbers = look_up(shard.path, "extremes", lambda: find_extremes(shard), folder, known)
    check_vocabulary(path, int(numbers[0]), int(numbers[1]), num_symbols)
    return shard


def check_vocabulary(path: Path, least: int, largest: int, num_symbols: int) -> None:
    """Raises: ValueError unless all tokens are of 0 ... num_symbols - 1."""
    if least < 0 or largest >= num_symbols:
        token = least if least < 0 else largest
        text = f"{path} has a token {token}, and task.num_symbols={num_symbols} allows 0 to {num_symbols - 1}"
        cure = "write it again" if least < 0 else f"give task.num_symbols={largest + 1} or more"
        raise ValueError(f"{text}: {cure}, or other shards: these are of another vocabulary, or no tokens at all")


def find_extremes(shard: Shard) -> list[int]:
    """The least and the largest token, a few megabytes at a time."""
    least, largest = 2**63 - 1, -(2**63)
    for piece in shard.pieces:
        for first in range(0, len(piece), CHECKED_AT_ONCE):
            part = piece[first : first + CHECKED_AT_ONCE]
            least, largest = min(least, int(part.min())), max(largest, int(part.max()))
            shard.release()
    return [least, largest]


def open_decoded(path: Path, num_symbols: int, folder: Path | None, known: Known) -> Shard:
    """The .bin beside the runs that holds a compressed file's tokens; written once, a few rows at a time.

    Raises: ValueError where there is no place for it, or a token is not of the vocabulary.
    """
    if folder is None:
        raise ValueError(f"{path} has to be decoded into runs_dir: give one, or shards that are not compressed")
    kind = kind_for(num_symbols)
    content = fingerprint(path, folder, known) + np.dtype(kind).name
    decoded = folder / f"{hashlib.sha256(content.encode()).hexdigest()}.bin"

    def pieces() -> Iterator[np.ndarray]:
        for piece in decode_pieces(path):
            if len(piece):
                check_vocabulary(path, int(piece.min()), int(piece.max()), num_symbols)
            yield piece

    if not decoded.exists():
        publish(decoded, lambda temporary: write_shard(temporary, pieces(), kind))
    shard = open_shard(decoded)
    assert shard is not None, "a .bin is never compressed"
    return shard


def fingerprint(path: Path, folder: Path | None, known: Known) -> str:
    """sha256 of a file's size and content; of one above 64 MB, of its header and 64 pieces of 1 MB, evenly spaced.

    So a large file that was changed elsewhere, at the same size, is not told from what it was: it names, and proves
    nothing.
    """
    return str(look_up(path, "sha256", lambda: hash_pieces(path), folder, known))


def hash_pieces(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        digest.update(file.read(HEADER_BYTES))
        if size <= HASHED_WHOLE:
            digest.update(file.read())
        else:
            for i in range(PIECES):
                file.seek((size - PIECE_BYTES) * i // (PIECES - 1))
                digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def read_checked(folder: Path | None) -> Known:
    """What is known of files on this machine, by their path, size and time."""
    known: Known = {}
    for entry in read_lines(folder / CHECKED) if folder is not None else ():
        if {"path", "size", "time"} <= set(entry):
            known.setdefault((entry["path"], entry["size"], entry["time"]), {}).update(entry)
    return known


def look_up(path: Path, name: str, find: Callable[[], Any], folder: Path | None, known: Known) -> Any:
    """What is known of a file as it is now, or else found and noted."""
    key = key_of(path)
    if name not in known.get(key, {}):
        found = find()
        known.setdefault(key, {})[name] = found
        if folder is not None:
            append_line(folder / CHECKED, {"path": key[0], "size": key[1], "time": key[2], name: found})
    return known[key][name]


def key_of(path: Path) -> tuple[str, int, int]:
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def say_what_takes_long(files: Sequence[Path], known: Known) -> None:
    size = sum(path.stat().st_size for path in files if key_of(path) not in known)
    if size > WORTH_SAYING:
        print(f"going through {size / 1e9:.1f} GB of shards, once on this machine", file=sys.stderr, flush=True)
