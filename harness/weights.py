"""Final parameters of runs, kept where `save_weights=true` asks for them: one safetensors file a run.

`runs_dir/NAME/weights/RUN_ID.safetensors` holds the module's own state_dict, which `load_state_dict` takes: parameters,
tied ones under each of their names, and buffers. A task without a module has its tensors by name. As metadata there is
one JSON text `run`: run_id, sweep, status, message, step, loss and config.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from harness.parameters import unflatten_params
from harness.plan import Stack
from harness.program import Program
from harness.records import WEIGHTS
from harness.store import publish, subfolder
from harness.train import Progress


def save_weights(
    folder: Path, sweep: str, stack: Stack, program: Program, now: Progress, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write every run's state as it is now.

    The parameters of a run that diverged are those whose loss was not finite, and need not be finite themselves.
    Needs the stack's lease: what an earlier training of a run left is replaced.

    Args:
        rows: the runs' results, in the order of the stack.

    Raises: StoreError when they cannot be written.
    """
    place = subfolder(folder, WEIGHTS)
    for (name, config), params_N, row in zip(stack.runs.items(), now.params_RN.detach().cpu(), rows, strict=True):
        ended_at = abs(int(now.diverged_at_R[list(stack.runs).index(name)])) - 1
        about = {key: row[key] for key in ("status", "message", "loss")} | {"config": asdict(config)}
        about |= {"run_id": name, "sweep": sweep, "step": ended_at if ended_at >= 0 else now.step}
        state = state_of(program.task.module, {**unflatten_params(params_N, program.layout), **now.buffers})
        tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
        path = place / f"{name}.safetensors"
        path.unlink(missing_ok=True)
        publish(path, safetensors.torch.save(tensors, {"run": json.dumps(about)}))


@torch.no_grad()
def state_of(module: nn.Module | None, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The module's state_dict with these values; what they lack (frozen parameters, buffers) is as in the module."""
    if module is None:
        return values
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name in values:
            tensor.copy_(values[name])  # training reads its parameters elsewhere
    return module.state_dict()


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A run's tensors by name, and what is known of the run: run_id, sweep, status, message, step, loss, config."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["run"])  # noqa: SIM118
