"""Checkpoints of a stack in training: atomic, checked when read, and exact to go on from.

One safetensors file, `runs_dir/NAME/.checkpoints/STACK-KEY-STEP.safetensors`, holds all that a step changes and the
state of torch's random numbers; its header (harness/unfinished.py reads it without torch) the history and what must be
equal to go on. A checkpoint serves every stack whose runs it covers, so half a stack goes on from the whole one's.
"""

import errno
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from harness.config import flatten
from harness.imports import has_own_code, own_code_sha256
from harness.plan import Plan, Stack
from harness.records import code_sha256
from harness.store import publish, subfolder
from harness.train import Progress
from harness.unfinished import CHECKPOINTS, Header, describe_damage, read_headers

KEPT = 2  # newest checkpoints of a stack: one may turn out damaged


def checkpoint_key(plan: Plan, stack: Stack, device: torch.device) -> dict[str, Any]:
    """What must be equal for a stack that goes on to be bit for bit the undisturbed one; run_ids apart."""
    return {
        "num_evals": plan.num_evals, "num_examples": plan.num_examples, "since": plan.since,
        "noise_scale": plan.noise_scale, "per_tensor": plan.per_tensor,
        "code_sha256": code_sha256(), "torch": torch.__version__, "device": device.type,
        "compiled": stack.compiled, "micro_batch": stack.micro_batch, "alone": stack.alone,
        "ranks": stack.ranks,
        "own_code_sha256": own_code_sha256(stack.first) if has_own_code(stack.first) else None,
    }  # fmt: skip


def save_checkpoint(
    folder: Path, name: str, sweep: str, stack: Stack, now: Progress, key: Mapping[str, Any]
) -> Path | None:
    """Write a checkpoint under the name of the planned stack, and drop its older ones; None if it is there already.

    Needs the stack's lease: nobody else writes under its name.

    Raises: StoreError when it cannot be written.
    """
    tensors = tensors_of(now)
    about = {
        "stack": name, "sweep": sweep, "step": now.step, "since": now.since, "key": dict(key),
        "run_ids": list(stack.runs), "diverged_at": now.diverged_at_R.tolist(), "history": now.history,
        "rows": [flatten(config) for config in stack.runs.values()],
    }  # fmt: skip
    text = json.dumps(about)
    sums = {"about_sha256": hash_all(text, {}), "sha256": hash_all(text, tensors)}

    def write(file: Path) -> None:
        try:  # from where they are: the bytes as one object would take the memory once more
            safetensors.torch.save_file(tensors, file, metadata={"about": text, **sums})
        except SafetensorError as error:
            raise OSError(errno.EIO, str(error)) from error

    place = subfolder(folder, CHECKPOINTS)
    prefix = f"{name}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:8]}"
    path = place / f"{prefix}-{now.step:09d}.safetensors"
    new = publish(path, write)
    for old in sorted(place.glob(f"{prefix}-*.safetensors"))[:-KEPT]:
        old.unlink(missing_ok=True)
    return path if new else None


def load_checkpoint(
    folder: Path, stack: Stack, key: Mapping[str, Any], device: torch.device, tell: Callable[[str], None]
) -> Progress | None:
    """The newest whole checkpoint that covers a stack's runs and has this key, its lanes picked; None: there is none.

    Restores torch's random numbers too. `tell` gets a line for every damaged one, which is passed over.
    """
    for header in sorted(find_checkpoints(folder, stack, key, tell), key=lambda header: -header.step):
        try:
            return read_checkpoint(header, stack, device)
        except FileNotFoundError:
            continue
        except (SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            tell(describe_damage(header.path, " ".join(str(error).split())))
            header.path.unlink(missing_ok=True)  # or the step could not be saved again
    return None


def find_checkpoints(
    folder: Path, stack: Stack, key: Mapping[str, Any], tell: Callable[[str], None] | None = None
) -> list[Header]:
    wanted = set(stack.runs)
    found = list(read_headers(folder, tell))
    return [header for header in found if header.about["key"] == key and wanted <= set(header.about["run_ids"])]


def as_begun(folder: Path, plan: Plan, stack: Stack, device: torch.device) -> Stack:
    """The stack as its checkpoints were trained: with recorded steps where its machine code could not be built."""
    recorded = replace(stack, compiled=False)
    keys = [checkpoint_key(plan, one, device) for one in (stack, recorded)]
    as_planned, as_recorded = (find_checkpoints(folder, stack, key) for key in keys)
    return recorded if as_recorded and not as_planned else stack


def read_checkpoint(header: Header, stack: Stack, device: torch.device) -> Progress:
    """Raises: SafetensorError, ValueError, KeyError for a damaged file."""
    with safetensors.safe_open(header.path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    if hash_all(metadata["about"], tensors) != metadata["sha256"]:
        raise ValueError("its content is not what its sha256 says")
    about: dict[str, Any] = json.loads(metadata["about"])
    lanes = [about["run_ids"].index(name) for name in stack.runs]
    torch.set_rng_state(tensors.pop("random.cpu"))
    if (random := tensors.pop("random.cuda", None)) is not None:
        torch.cuda.set_rng_state(random, device)
    picked = {name: tensor[lanes].to(device) for name, tensor in tensors.items()}
    state = {name.removeprefix("state."): value for name, value in picked.items() if name.startswith("state.")}
    history = {
        name: [[point[lane] for lane in lanes] if isinstance(point, list) else point for point in points]
        for name, points in about["history"].items()
    }
    buffers = {name.removeprefix("buffer."): value[0] for name, value in picked.items() if name.startswith("buffer.")}
    directions = {
        int(name.removeprefix("direction.")): value for name, value in picked.items() if name.startswith("direction.")
    }
    parts = (picked["params"], state, picked["diverged_at"], picked["loss_sum"])
    return Progress(about["step"], *parts, about["since"], history, buffers, directions)


def tensors_of(now: Progress) -> dict[str, Tensor]:
    tensors = {
        "params": now.params_RN, "diverged_at": now.diverged_at_R, "loss_sum": now.loss_sum_R,
        **{f"state.{name}": value for name, value in now.state.items()}, "random.cpu": torch.get_rng_state(),
    }  # fmt: skip
    tensors |= {f"direction.{step}": u_RN for step, u_RN in now.directions.items()}
    tensors |= {f"buffer.{name}": buffer[None] for name, buffer in now.buffers.items()}  # of its one run
    if now.params_RN.is_cuda:
        tensors["random.cuda"] = torch.cuda.get_rng_state(now.params_RN.device)
    # Clones, since the format refuses tensors that share memory
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}


def hash_all(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
