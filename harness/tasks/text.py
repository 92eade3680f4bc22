"""Next-byte prediction on a corpus of bytes.

Shapes: B samples, T context, V = 256 byte values.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Part
from harness.model_sizes import predicts_every
from harness.records import load_corpus
from harness.tasks.modules import module_task
from harness.tasks.random import HELDOUT, TRAINING, draw
from harness.tasks.types import Batch, Task
from harness.tasks.windows import next_symbol_loss, split_windows

NUM_BYTES = 256


def text_task(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Predict a byte from the `context` bytes before it; loss is cross-entropy in nats a byte.

    A model that predicts every position does so from the bytes of the window before each.

    Sample i of a seed starts at a position drawn with replacement by a counter-based generator, so it is a function of
    (seed, i) alone: no state, any order, the same for every batch size.
    """
    context = int(str(task["context"]))
    corpus = load_corpus(task, runs_dir)
    train, heldout_bytes = (_to_tensor(data, device) for data in (corpus.train, corpus.heldout))
    shape = {"context": context, "num_symbols": NUM_BYTES, "num_outputs": NUM_BYTES}
    every = predicts_every(task, model)
    window_T = torch.arange(context + 1, device=device)

    def read(data: Tensor, draws: np.ndarray) -> Batch:
        positions = torch.from_numpy((draws % np.uint64(len(data) - context)).astype(np.int64)).to(device)
        return split_windows(data[positions[:, None] + window_T].long(), every)

    def sample(seed: int, start: int, n: int) -> Batch:
        return read(train, draw(seed, TRAINING, start, n))

    def heldout(n: int) -> Batch:
        return read(heldout_bytes, draw(0, HELDOUT, 0, n))

    return module_task(task, model, device, next_symbol_loss, sample=sample, heldout=heldout, **shape)


def _to_tensor(data: bytes, device: torch.device) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)
