"""Final parameters of runs, kept where `save_weights=true` asks for them: one safetensors file a run.

`runs_dir/NAME/weights/RUN_ID.safetensors` holds the tensors under the names of the module's own parameters, so a
`state_dict` takes them, and as metadata one JSON text `run`: run_id, sweep, status, message, step, loss and config.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import safe_open
from torch import Tensor

from harness.parameters import Layout, unflatten_params
from harness.plan import Stack
from harness.records import WEIGHTS
from harness.store import publish, subfolder
from harness.train import Progress


def save_weights(
    folder: Path, sweep: str, stack: Stack, layout: Layout, now: Progress, rows: Iterable[Mapping[str, Any]]
) -> None:
    """Write every run's parameters as they are now; those of a run that diverged, too: where it last was finite.

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
        tensors = {key: tensor.contiguous().clone() for key, tensor in unflatten_params(params_N, layout).items()}
        path = place / f"{name}.safetensors"
        path.unlink(missing_ok=True)
        publish(path, safetensors.torch.save(tensors, {"run": json.dumps(about)}))


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A run's tensors by name, and what is known of the run: run_id, sweep, status, message, step, loss, config."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["run"])  # noqa: SIM118
