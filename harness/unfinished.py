"""Checkpoints as their headers tell them: which runs a stack in training has and their curves so far. Needs no torch.

`runs_dir/NAME/.checkpoints/STACK-KEY-STEP.safetensors` is eight bytes of length, a JSON header and the tensors
(harness/checkpoint.py writes it); all that is not a tensor stands in the header as one JSON text `about`.
"""

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINTS = ".checkpoints"
LONGEST_HEADER = 1 << 28  # bytes; more is a damaged length


@dataclass(frozen=True)
class Header:
    """What a checkpoint says of itself.

    Attributes of `about`: stack, step, run_ids (in the order of the lanes), key (what must be equal to go on from it),
    since (steps behind the running sum of losses), history, diverged_at, rows (the runs' config columns).
    """

    path: Path
    about: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.about["step"])


def read_headers(folder: Path, tell: Callable[[str], None] | None = None) -> Iterator[Header]:
    """All checkpoints of a sweep whose header can be read; `tell` gets a line for every other one."""
    for path in sorted((folder / CHECKPOINTS).glob("*.safetensors")):
        header = read_header(path)
        if header is not None:
            yield header
        elif tell is not None and path.exists():
            tell(describe_damage(path, "its header cannot be read"))


def describe_damage(path: Path, reason: str) -> str:
    return f"{path} is damaged ({reason}): going on from an older checkpoint, else from the start"


def read_header(path: Path) -> Header | None:
    """A checkpoint's header; None where it is damaged or the file has gone meanwhile."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LONGEST_HEADER:
                return None
            metadata = json.loads(file.read(length))["__metadata__"]
            text = metadata["about"]
            if hashlib.sha256(text.encode()).hexdigest() != metadata["about_sha256"]:
                return None
            return Header(path, json.loads(text))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_ended(folder: Path, ended: Collection[str], since: str | None) -> None:
    """Delete the checkpoints, of this `since` or an older one, all of whose runs ended."""
    for header in read_headers(folder):
        if set(header.about["run_ids"]) <= set(ended) and (header.about["key"]["since"] or "") <= (since or ""):
            header.path.unlink(missing_ok=True)


def read_running(folder: Path) -> list[dict[str, Any]]:
    """One row a run in training, status=running, with its curve up to the newest checkpoint."""
    newest: dict[str, tuple[Header, int]] = {}
    for header in read_headers(folder):
        for lane, run in enumerate(header.about["run_ids"]):
            if run not in newest or newest[run][0].step < header.step:
                newest[run] = header, lane
    return [running_row(header.about, lane) for header, lane in newest.values()]


def running_row(about: Mapping[str, Any], lane: int) -> dict[str, Any]:
    curves = lane_history(about["history"], lane, about["diverged_at"][lane])
    finals = {name: curve[-1] for name, curve in curves.items() if curve and name not in ("step", "num_samples")}
    finite = {name: value if math.isfinite(value) else None for name, value in finals.items()}
    names = {"run_id": about["run_ids"][lane], "sweep": about["sweep"], "status": "running"}
    history = {f"history.{name}": curve for name, curve in curves.items()}
    return names | about["rows"][lane] | {"message": f"step {about['step']}"} | finite | history


def lane_history(history: Mapping[str, list[Any]], lane: int, diverged_at: int = 0) -> dict[str, list[Any]]:
    """One run's curves out of its stack's; they end before it diverged, or (a minus) when it reached its target."""
    length = sum(1 for point in history.get("step", ()) if not diverged_at or point < abs(diverged_at))
    return {
        name: [point[lane] if isinstance(point, list) else point for point in points[:length]]
        for name, points in history.items()
    }
