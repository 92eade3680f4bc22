"""Numbers of their own for kinds of parameters (embeddings, vectors, matrices), and for tensors that a model names.

Shapes: N parameters of one run, G = 3 kinds.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.config import GROUPS
from harness.parameters import Layout


def group_index(layout: Layout, device: torch.device) -> Tensor:
    """Which kind each of the N entries belongs to, as an index into GROUPS."""
    index = torch.tensor([GROUPS.index(kind) for kind in layout.kinds], device=device)
    return index.repeat_interleave(torch.tensor(layout.sizes, device=device))


def lr_multiplier(layout: Layout, device: torch.device) -> Tensor | None:
    """What each of the N entries' lr is multiplied with, as its model says; None where all keep theirs."""
    if set(layout.lr_multipliers) <= {1.0}:
        return None
    numbers = torch.tensor(layout.lr_multipliers, device=device, dtype=torch.float64)
    return numbers.repeat_interleave(torch.tensor(layout.sizes, device=device))


def spread_over_groups(hyper: Mapping[str, Tensor], index_N: Tensor) -> dict[str, Tensor]:
    """One run's numbers, with lr and weight_decay as one number an entry where a kind has its own.

    `groups.KIND.lr` multiplies lr; `groups.KIND.weight_decay` stands in place of weight_decay. Both are (N,) then, else
    0-d as they were.
    """
    spread = dict(hyper)
    for name in ("lr", "weight_decay"):
        own = {kind: hyper[key] for kind in GROUPS if (key := f"groups.{kind}.{name}") in hyper}
        if own:
            usual = hyper[name]
            numbers = [
                usual if kind not in own else own[kind] * usual if name == "lr" else own[kind] for kind in GROUPS
            ]
            spread[name] = torch.stack(numbers)[index_N]
    return spread


def numbers_at(
    hyper: Mapping[str, Tensor], at: Mapping[str, Tensor], index_N: Tensor, multiplier_N: Tensor | None = None
) -> dict[str, Tensor]:
    """One run's numbers at a step: each kind's own, times what the schedule multiplies them with, and the step's."""
    hyper = spread_over_groups(hyper, index_N)
    if multiplier_N is not None:
        hyper["lr"] = hyper["lr"] * multiplier_N.to(hyper["lr"].dtype)
    return hyper | {name: hyper[name] * at[name] for name in at if name != "step"} | {"step": at["step"]}


def clip(grad_N: Tensor, max_norm: Tensor) -> Tensor:
    """The gradient, scaled down to norm max_norm where it is longer.

        g min(1, max_norm / (|g| + 1e-6))

    Source: Pascanu et al., arXiv 1211.5063; the constant as in torch.nn.utils.clip_grad_norm_.
    """
    return grad_N * (max_norm / (grad_N.norm() + 1e-6)).clamp(max=1.0)
