"""Next-token prediction on token shards.

Shapes: B samples, T context.
"""

from pathlib import Path

import numpy as np
import torch

from harness.config import Part
from harness.model_sizes import predicts_every
from harness.tasks.modules import module_task
from harness.tasks.order import shuffled
from harness.tasks.random import HELDOUT
from harness.tasks.types import Batch, Task
from harness.tasks.windows import next_symbol_loss, split_windows
from harness.token_files import Windows, load_tokens


def tokens_task(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Predict a token from the `context` tokens before it; loss is cross-entropy in nats a token.

    A model that predicts every position does so from the tokens of the window before each. Windows follow one another,
    so that an epoch has every token but a shard's first as a target once; a model that predicts the last position
    alone meets one in T of them.

    Sample i of a seed is the window at place i mod N of a permutation of all N that (seed, i // N) names: no window
    twice in an epoch, no state, any order, the same for every batch size. Held-out windows come in the order of one
    permutation, at most as many as there are. Shards stay on disk; a batch is gathered from the mapped files.
    """
    context, num_symbols = int(str(task["context"])), int(str(task["num_symbols"]))
    tokens = load_tokens(task, runs_dir)
    shape = {"context": context, "num_symbols": num_symbols, "num_outputs": num_symbols}
    every = predicts_every(task, model)

    def read(windows: Windows, number_B: np.ndarray) -> Batch:
        read_BT1 = torch.from_numpy(windows.read(number_B))
        if device.type == "cuda":  # from pinned memory the copy runs beside the steps that the device still takes
            read_BT1 = read_BT1.pin_memory()
        return split_windows(read_BT1.to(device, non_blocking=True), every)

    def sample(seed: int, start: int, n: int) -> Batch:
        return read(tokens.train, shuffled(seed, np.arange(start, start + n), len(tokens.train)))

    def heldout(n: int) -> Batch:
        n = min(n, len(tokens.heldout))
        return read(tokens.heldout, shuffled(0, np.arange(n), len(tokens.heldout), HELDOUT))

    return module_task(task, model, device, next_symbol_loss, sample=sample, heldout=heldout, **shape)
