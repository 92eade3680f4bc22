"""Adafactor: Adam's mean square kept as sums over rows and columns.

Shapes: N parameters of one run; one matrix is rows x cols.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def adafactor(*, relative_step: bool, layout: Layout) -> tuple[Callable, Callable]:
    """Gradients over the root of a mean square whose rows and columns alone are remembered; no momentum.

        rate = step^-beta2_decay                          1 - rate is what Adam calls beta2: 0 at first, then to 1
        R <- R + rate (mean over cols of (g^2 + eps1) - R)              C likewise over rows
        v = R C / mean(R)                                 vectors: v <- v + rate (g^2 + eps1 - v)
        u = g / sqrt(v);  u <- u / max(1, RMS(u) / clip)  RMS of the tensor
        update = -lr (size u + weight_decay param),       size = max(eps2, RMS(param)) if relative_step, else 1

    The source's relative step is also min(1e-2, 1 / sqrt(step)), which is a schedule: near to schedule=inverse_sqrt
    schedule.timescale=1e4 at lr = 1e-2. Every tensor of two or more dimensions is factored, tables of embeddings too; a
    kernel of more than two (convolution) is taken as first dimension x all others, where torch.optim.Adafactor factors
    the last two. Decay is that of lr alone.

    Valid when: v is near to rank one. With relative_step tensors that start at zero move by lr eps2 at first.
    Source: Shazeer & Stern, arXiv 1804.04235, algorithms 4 to 6; kexue.fm/archives/7302.
    """
    shapes = [(shape[0], math.prod(shape[1:])) if len(shape) >= 2 else None for shape in layout.shapes]
    rows = [shape[0] for shape in shapes if shape]
    cols = [shape[1] for shape in shapes if shape]
    others = [size for shape, size in zip(shapes, layout.sizes, strict=True) if not shape]

    def init(param: Tensor) -> State:
        sizes = {"mean_sq_rows": rows, "mean_sq_cols": cols, "mean_sq_others": others}
        return {name: param.new_zeros(sum(size)) for name, size in sizes.items()}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        squares = torch.split(grad.square() + hyper["eps1"], layout.sizes)
        matrices = [square.view(shape) for square, shape in zip(squares, shapes, strict=True) if shape]
        vectors = [square for square, shape in zip(squares, shapes, strict=True) if not shape]
        nothing, rate = grad[:0], hyper["step"] ** -hyper["beta2_decay"]
        fresh = {
            "mean_sq_rows": torch.cat([nothing, *(square.mean(1) for square in matrices)]),
            "mean_sq_cols": torch.cat([nothing, *(square.mean(0) for square in matrices)]),
            "mean_sq_others": torch.cat([nothing, *vectors]),
        }
        state = {name: torch.lerp(state[name], fresh[name], rate) for name in fresh}
        row_pieces, col_pieces = torch.split(state["mean_sq_rows"], rows), torch.split(state["mean_sq_cols"], cols)
        factored = zip(row_pieces, col_pieces, strict=True)
        whole = iter(torch.split(state["mean_sq_others"], others))
        updates = []
        for piece, old, shape in zip(
            torch.split(grad, layout.sizes), torch.split(param, layout.sizes), shapes, strict=True
        ):
            if shape:
                row, col = next(factored)
                # Two roots and not that of a product, which underflows where a row has hardly any gradient
                step = (piece.view(shape) * (row / row.mean()).rsqrt()[:, None] * col.rsqrt()).reshape(-1)
            else:
                step = piece * next(whole).rsqrt()
            scale = 1 / (rms(step) / hyper["clip"]).clamp(min=1.0)
            updates.append(step * (scale * torch.maximum(rms(old), hyper["eps2"]) if relative_step else scale))
        return torch.addcmul(torch.cat(updates), param, hyper["weight_decay"]) * -hyper["lr"], state

    return init, update


def rms(tensor: Tensor) -> Tensor:
    """Root mean square over entries. Source: arXiv 1804.04235."""
    return tensor.square().mean().sqrt()
