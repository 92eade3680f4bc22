"""lr_vs_bs as anybody would write it: 192 plain PyTorch loops with fused Adam, spread over the cores by joblib.

The other side of scripts/benchmark.py. Same corpus, samples, initial values, schedule, points of the learning curve and
held-out examples as `python -m harness sweep=lr_vs_bs`, and a table of the best learning rates at the end.
"""

import itertools
import os

os.environ["OMP_NUM_THREADS"] = "1"  # one thread a worker, as the harness does

import pandas as pd
import torch
from joblib import Parallel, delayed
from torch.nn import functional as F

from harness.config import Part
from harness.models.ngram import NGram
from harness.tasks.text import text_task

BATCH_SIZES = [8, 16, 32, 64, 128, 256, 512, 1024]
LRS = [2 ** (-9.5 + 0.75 * i) for i in range(12)]
NUM_SAMPLES, NUM_EVALS, NUM_EXAMPLES, NUM_HELDOUT = 32768, 8, 1024, 16384
TASK: Part = {"name": "python_source", "context": 8, "num_heldout": NUM_HELDOUT}
MODEL: Part = {"name": "ngram", "embedding": 16, "hidden": 64, "norm": False}


def train_one(batch_size: int, lr: float, seed: int) -> dict[str, float]:
    torch.set_num_threads(1)
    task = text_task(TASK, MODEL, torch.device("cpu"))
    torch.manual_seed(seed)
    module = NGram(context=8, num_symbols=256, num_outputs=256, embedding=16, hidden=64, norm=False)
    optimizer = torch.optim.Adam(module.parameters(), lr=lr, betas=(0.9, 0.95), fused=True)
    num_steps = NUM_SAMPLES // batch_size
    symbols, following = task.sample(seed, 0, NUM_SAMPLES)
    heldout_symbols, heldout_following = task.heldout(NUM_HELDOUT)

    @torch.no_grad()
    def heldout_loss(count: int) -> float:
        losses = [
            F.cross_entropy(module(heldout_symbols[i : i + 512]), heldout_following[i : i + 512])
            for i in range(0, count, 512)
        ]
        return float(torch.stack(losses).mean())

    points = {round((i + 1) * num_steps / NUM_EVALS) for i in range(NUM_EVALS)}
    curve = []
    for t in range(num_steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - t / num_steps)
        rows = slice(t * batch_size, (t + 1) * batch_size)
        optimizer.zero_grad()
        F.cross_entropy(module(symbols[rows]), following[rows]).backward()
        optimizer.step()
        if t + 1 in points:
            curve.append(heldout_loss(NUM_EXAMPLES))
    return {"batch_size": batch_size, "lr": lr, "seed": seed, "loss": heldout_loss(NUM_HELDOUT)}


def main() -> None:
    grid = itertools.product(BATCH_SIZES, LRS, (0, 1))
    rows = Parallel(n_jobs=-1)(delayed(train_one)(*point) for point in grid)
    losses = pd.DataFrame(rows).groupby(["batch_size", "lr"])["loss"].mean().unstack(0)
    print(losses.idxmin())


if __name__ == "__main__":
    main()
