"""How far stacks are that other hosts train, from what their workers leave in the sweep's folder."""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.index import read_file
from harness.plan import Stack
from harness.store import StoreError
from harness.unfinished import CHECKPOINTS, Header, read_header, read_headers

UNSEEN = 60.0  # seconds that a sweep's folder may be out of reach


class Watch:
    """Record files and checkpoints of a sweep, as of the last look."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = folder, time.monotonic()
        self.attempts: dict[str, list[int]] = {}  # stack name -> numbers of its record files
        self.headers: dict[Path, Header | None] = {}
        self.newest: dict[str, Header] = {}  # stack name -> its newest checkpoint
        self.told: dict[str, int] = {}  # stack name -> samples a run that were told

    def look(self) -> None:
        """Two listings of folders, and the headers of checkpoints that are new.

        Raises: StoreError where the folder cannot be read for long: a network file system may fail for a moment.
        """
        try:
            names = os.listdir(self.folder)
        except OSError as error:
            if time.monotonic() - self.seen > UNSEEN:
                text = f"{self.folder} cannot be read ({error.strerror}): bring it back"
                raise StoreError(f"{text}; jobs go on, and the same command collects them") from error
            return
        self.attempts, self.seen = {}, time.monotonic()
        for name in names:
            kind, _, rest = name.removesuffix(".parquet").partition("-")
            stack, _, number = rest.rpartition("-")
            if kind == "stack" and name.endswith(".parquet") and number.isdecimal():
                self.attempts.setdefault(stack, []).append(int(number))
        there = set((self.folder / CHECKPOINTS).glob("*.safetensors"))
        self.headers = {path: self.headers[path] if path in self.headers else read_header(path) for path in there}
        for header in self.headers.values():
            if header is not None and header.step >= self.step(str(header.about["stack"])):
                self.newest[str(header.about["stack"])] = header

    def step(self, stack: str) -> int:
        return self.newest[stack].step if stack in self.newest else -1

    def next_attempt(self, stack: str) -> int:
        """The number of its next record file."""
        return 1 + max(self.attempts.get(stack, ()), default=-1)

    def published(self, stack: str, attempt: int) -> list[Path]:
        """Its record files of this number and later ones."""
        numbers = sorted(number for number in self.attempts.get(stack, ()) if number >= attempt)
        return [self.folder / f"stack-{stack}-{number}.parquet" for number in numbers]

    def progress(self, stack: Stack) -> Iterator[dict[str, Any]]:
        """A message {"samples", "batch_size", "best_loss"} if its checkpoints have got further."""
        header, size = self.newest.get(stack.name), stack.first.batch_size
        now = header.step * size if header else 0
        if header is None or now <= self.told.get(stack.name, 0):
            return
        points = header.about["history"].get("loss", [])
        losses = [loss for loss in (points[-1] if points else []) if loss == loss]
        yield self.tell(stack, now) | {"best_loss": min(losses, default=None)}

    def finish(self, stack: Stack, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
        """The message with the samples that were not told yet of a stack that ended with these record files."""
        losses = [row["loss"] for path in paths for row in read_file(path, ["loss"]).to_pylist()]
        best = min((loss for loss in losses if loss is not None), default=None)
        yield self.tell(stack, stack.first.num_samples) | {"best_loss": best}

    def tell(self, stack: Stack, now: int) -> dict[str, Any]:
        more = now - self.told.get(stack.name, 0)
        self.told[stack.name] = now
        return {"samples": more * len(stack.runs), "batch_size": stack.first.batch_size}


def read_outcome(paths: Sequence[Path]) -> list[tuple[str, str, str]]:
    """(run_id, status, message) of every run in record files. Raises: ValueError for one that cannot be read."""
    rows = [row for path in paths for row in read_file(path, ["run_id", "status", "message"]).to_pylist()]
    return list({row["run_id"]: (row["run_id"], row["status"], row["message"] or "") for row in rows}.values())


def newest_step(folder: Path, stack: Stack) -> int:
    """The step of the newest checkpoint with runs of a stack; -1 where there is none."""
    runs = set(stack.runs)
    steps = (header.step for header in read_headers(folder) if not runs.isdisjoint(header.about["run_ids"]))
    return max(steps, default=-1)
