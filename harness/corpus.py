"""Text corpora as bytes: which files, which of them are held out, and a sha256 that names the whole.

Free of torch, so that a run's identity can be computed without loading it.
"""

import hashlib
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

TEXT_TASKS = ("python_source", "text")  # tasks on a corpus
HELDOUT_SHARE = 1 / 16
LENGTH_BYTES = 8
NOT_LIBRARY = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    train: bytes
    heldout: bytes
    sha256: str


def python_source_files() -> tuple[Path, list[Path]]:
    """The standard library's folder and its *.py files, without tests and third-party packages."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [p for p in root.rglob("*.py") if not NOT_LIBRARY & set(p.relative_to(root).parts)]
    if not files:
        raise ValueError(f"no Python sources under {root}: use task=text task.path=FOLDER instead")
    return root, files


def text_files(path: str) -> tuple[Path, list[Path]]:
    """A file, or all files under a folder whose path has no hidden part."""
    root = Path(path).expanduser()
    if root.is_file():
        return root.parent, [root]
    if not root.is_dir():
        raise ValueError(f"task.path={path!r} does not exist: give a text file or a folder of them")
    files = [p for p in root.rglob("*") if p.is_file()]
    files = [p for p in files if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    if not files:
        raise ValueError(f"task.path={path!r} holds no files: give a text file or a folder of them")
    return root, files


def read_corpus(task: Mapping[str, Any]) -> Corpus:
    """The corpus of a text task's config; every process reads it once.

    Raises: ValueError when it cannot be read or is too short to hold one window in each part.
    """
    path = str(task["path"]) if "path" in task else None
    corpus = _read(path)
    for part, data in (("training", corpus.train), ("held-out", corpus.heldout)):
        if len(data) <= task["context"]:
            raise ValueError(
                f"the {part} part of the corpus has {len(data)} bytes, one window takes {task['context'] + 1}: "
                "give a longer text in task.path or a smaller task.context"
            )
    return corpus


@lru_cache(maxsize=4)
def _read(path: str | None) -> Corpus:
    root, files = python_source_files() if path is None else text_files(path)
    try:
        texts = {p.relative_to(root).as_posix(): p.read_bytes() for p in files}
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}; make it readable or leave it out") from error
    return split_corpus(texts)


def split_corpus(texts: Mapping[str, bytes]) -> Corpus:
    """Split by file: in the order of a hash of their names, files are held out until 1/16 of all bytes is.

    A single file gives its last sixteenth. Names decide, so a split is the same on every machine.
    """
    total = sum(map(len, texts.values()))
    names = sorted(texts, key=lambda name: hashlib.sha256(name.encode()).digest())
    if len(names) == 1:
        text = texts[names[0]]
        cut = total - int(total * HELDOUT_SHARE)
        train, heldout = text[:cut], text[cut:]
    else:
        count, size = 0, 0
        while count < len(names) - 1 and size < total * HELDOUT_SHARE:
            size += len(texts[names[count]])
            count += 1
        heldout = b"\n".join(texts[name] for name in names[:count])
        train = b"\n".join(texts[name] for name in sorted(names[count:]))
    return from_bytes(len(train).to_bytes(LENGTH_BYTES, "big") + train + heldout)


def to_bytes(corpus: Corpus) -> bytes:
    """One file's content for a corpus: length of the training part, training part, held-out part."""
    return len(corpus.train).to_bytes(LENGTH_BYTES, "big") + corpus.train + corpus.heldout


def from_bytes(content: bytes) -> Corpus:
    """The inverse of to_bytes; the sha256 of that content names the corpus."""
    cut = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "big")
    return Corpus(content[LENGTH_BYTES:cut], content[cut:], hashlib.sha256(content).hexdigest())
