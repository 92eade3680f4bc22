"""Whether activations move by as much at every width: `python scripts/coordinate_check.py [--out DIR] [--lr LR]`.

Trains model=gpt for a few steps of Adam at one learning rate, at several widths, with the standard parametrization and
with mup, and measures the root mean square of what each layer puts out, and of how far that has moved since the first
step. Under mup neither should grow with width. Writes coordinate_check.csv, .png and .svg.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pandas as pd
import torch
from rich.progress import track
from torch import Tensor
from torch.nn import functional as F

from analysis.figures.coordinate_check import draw_coordinate_check
from analysis.figures.style import SCREEN
from analysis.write import save_figure
from harness.models.gpt import GPT
from harness.tasks import make_task

WIDTHS, HEAD, CONTEXT, BATCH, DEPTH = (16, 32, 64, 128, 256), 16, 32, 16, 2
NUM_STEPS, SEEDS = 5, (0, 1)
CPU = torch.device("cpu")


def make_model(width: int, parametrization: str, seed: int) -> GPT:
    torch.manual_seed(seed)
    return GPT(
        context=CONTEXT, num_symbols=256, num_outputs=256, width=width, depth=DEPTH, num_heads=width // HEAD,
        activation="swiglu", qk_norm=True, tied=False, init_std=0.02, parametrization=parametrization,
        base_width=WIDTHS[0],
    )  # fmt: skip


def outputs_of(model: GPT, symbols_BT: Tensor) -> dict[str, Tensor]:
    """What each part of the model puts out."""
    seen: dict[str, Tensor] = {}
    parts = {"embedding": model.embedding, "logits": model}
    for i, block in enumerate(model.blocks, start=1):
        parts |= {f"attention {i}": block.attention, f"feed-forward {i}": block.layer}  # type: ignore[dict-item]
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.detach()}))
        for name, part in parts.items()
    ]
    with torch.no_grad():
        model(symbols_BT)
    for hook in hooks:
        hook.remove()
    return seen


def measure(
    batches: list[tuple[Tensor, ...]], width: int, parametrization: str, seed: int, lr: float
) -> list[dict[str, Any]]:
    """A row a part and step: root mean square of its output on the first batch, and of the change since step 0."""
    model = make_model(width, parametrization, seed)
    multipliers = model.lr_multipliers()
    groups = [{"params": [p], "lr": lr * multipliers.get(name, 1.0)} for name, p in model.named_parameters()]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    rows, first = [], outputs_of(model, batches[0][0])
    for step, (symbols_BT, targets_BT) in enumerate(batches):
        now = outputs_of(model, batches[0][0])
        rows += [
            {"parametrization": parametrization, "width": width, "seed": seed, "step": step, "part": name,
             "rms": float(out.square().mean().sqrt()), "change": float((out - first[name]).square().mean().sqrt())}
            for name, out in now.items()
        ]  # fmt: skip
        optimizer.zero_grad()
        F.cross_entropy(model(symbols_BT).flatten(0, -2), targets_BT.flatten()).backward()
        optimizer.step()
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR")
    parser.add_argument("--lr", type=float, default=0.01, help="of Adam; constant")
    options = parser.parse_args()
    if not options.lr > 0:
        print(f"--lr={options.lr} is not a number > 0", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    cases = [(w, p, s) for p in ("standard", "mup") for w in WIDTHS for s in SEEDS]
    rows = [row for case in track(cases, "training") for row in measure(draw_batches(), *case, options.lr)]
    table = pd.DataFrame(rows)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "coordinate_check.csv"
    table.to_csv(path, index=False)
    figure = draw_coordinate_check(table, f"Adam at lr {options.lr:g}, batches of {BATCH} windows", SCREEN)
    print("\n".join(map(str, [path, *save_figure(figure, options.out / "coordinate_check", SCREEN)])))
    return 0


def draw_batches() -> list[tuple[Tensor, ...]]:
    """The same for every width."""
    from harness.config import make_run_config

    config = make_run_config({
        "task": {"name": "python_source", "context": CONTEXT, "num_heldout": 16},
        "model": {"name": "gpt", "width": 16, "depth": 1, "num_heads": 1, "activation": "gelu", "qk_norm": True,
                  "tied": False, "init_std": 0.02, "parametrization": "standard", "base_width": 16},
        "optimizer": {"name": "adam", "lr": 0.01}, "schedule": {"name": "constant", "warmup": 0.0},
        "protocol": "fixed_steps", "num_steps": NUM_STEPS, "num_samples": None, "batch_size": BATCH, "seed": 0,
        "precision": "float32",
    })  # fmt: skip
    task = make_task(config, CPU)
    return [task.sample(0, step * BATCH, BATCH) for step in range(NUM_STEPS)]


if __name__ == "__main__":
    sys.exit(main())
