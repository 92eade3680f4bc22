"""Rows of an embedding that are hit rarely: gradients that are noise at a hit and exactly zero between hits.

Shapes: B samples, R rows of one gap, W width of a row, D all entries.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.config import Part
from harness.tasks.random import HELDOUT, TRAINING, draw, draw_normal
from harness.tasks.types import Batch, Params, Task


def token_walk(task: Part, model: Part, device: torch.device, runs_dir: Path | None = None) -> Task:
    """Embedding rows of tokens by frequency, whose gradients carry no information.

        loss(w, batch) = sum_r w_r . mean_b h_br c_br,      c ~ N(0, I),  h = 1 where sample b hits row r, else 0

    Tensor `gap_G` holds the rows of tokens that are hit once in G samples, G = 1, factor, factor^2, ... (num_gaps of
    them): with as many tokens in each, frequencies fall as in Zipf's law. Held-out loss is zero.

    start: every weight's, 0 where it is null. Tiger needs another: its steps are a share of the rows' size.

    spacing: regular      at samples G, 2 G, ...: all rows of a gap at once. Weights before step k G (batch size 1) are
                          those just before a hit
             random       independently with probability 1 / G

    Valid when: any.
    Source: kexue.fm/archives/9736 (tokens that are not hit under Lion and Tiger).
    """
    rows, width, factor = (int(str(task[name])) for name in ("rows", "width", "factor"))
    gaps = [factor**k for k in range(int(str(task["num_gaps"])))]
    per_gap = rows * width
    regular = task["spacing"] == "regular"
    origin = float(str(task["start"])) if task.get("start") is not None else 0.0

    def init(seed: int) -> Params:
        return {f"gap_{gap}": torch.full((rows, width), origin, dtype=torch.float64) for gap in gaps}

    def sample(seed: int, start: int, n: int) -> Batch:
        coefficients = draw_normal(seed, TRAINING, start, n, per_gap * len(gaps)).reshape(n, len(gaps), rows, width)
        if regular:
            index = np.arange(start + 1, start + n + 1)
            hits = np.stack([index % gap == 0 for gap in gaps], 1)[:, :, None]
        else:
            raw = draw(seed, HELDOUT, start * len(gaps) * rows, n * len(gaps) * rows)
            share = (raw >> np.uint64(12)).astype(np.float64).reshape(n, len(gaps), rows) * 2.0**-52
            hits = share < 1 / np.array(gaps)[None, :, None]
        return (torch.from_numpy(coefficients * hits[..., None]).to(device),)

    def heldout(n: int) -> Batch:
        return (torch.zeros(1, len(gaps), rows, width, dtype=torch.float64, device=device),)

    def loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        (coefficients_BGRW,) = batch
        return (coefficients_BGRW.mean(0) * torch.stack([params[f"gap_{gap}"] for gap in gaps])).sum()

    return Task(init, sample, loss, heldout, embeddings=frozenset(f"gap_{gap}" for gap in gaps))
