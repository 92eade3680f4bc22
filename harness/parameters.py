"""One run's parameters as one vector, and back.

An optimizer that works entry by entry then takes one tensor a stack instead of one a layer, which is what makes a step
cheap where it is bound by the number of operations.

Shapes: N all parameters of one run, in the order of the module's own names, T its named tensors.
"""

import math
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """Where each named tensor lies in the vector, and of which kind it is."""

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    kinds: tuple[str, ...]  # of harness.config.GROUPS
    lr_multipliers: tuple[float, ...]  # what lr is multiplied with in each

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def num_params(self) -> int:
        return sum(self.sizes)

    @property
    def num_params_non_embedding(self) -> int:
        return sum(size for size, kind in zip(self.sizes, self.kinds, strict=True) if kind != "embedding")


def layout_of(
    params: Mapping[str, Tensor], embeddings: Collection[str] = (), lr_multipliers: Mapping[str, float] | None = None
) -> Layout:
    """Where named tensors lie in the vector.

    Args:
        embeddings: names of the tensors that are tables of embeddings; of the others, those with fewer than two
            dimensions are vectors.
        lr_multipliers: name -> what lr is multiplied with; 1 for those that are not named.
    """
    kinds = [
        "embedding" if name in embeddings else "vector" if tensor.dim() < 2 else "matrix"
        for name, tensor in params.items()
    ]
    multipliers = tuple((lr_multipliers or {}).get(name, 1.0) for name in params)
    return Layout(tuple(params), tuple(tensor.shape for tensor in params.values()), tuple(kinds), multipliers)


def flatten_params(params: Mapping[str, Tensor]) -> Tensor:
    """Named tensors -> params_N (a copy)."""
    return torch.cat([tensor.reshape(-1) for tensor in params.values()])


def unflatten_params(params_N: Tensor, layout: Layout) -> dict[str, Tensor]:
    """params_N -> named views of it."""
    pieces = torch.split(params_N, layout.sizes)
    return {name: piece.view(shape) for name, shape, piece in zip(layout.names, layout.shapes, pieces, strict=True)}


def rms_of_tensors(values_N: Tensor, layout: Layout) -> Tensor:
    """Root mean square of the entries of each named tensor."""
    return torch.stack([piece.square().mean() for piece in torch.split(values_N, layout.sizes)]).sqrt()


def spread_over_tensors(numbers_T: Tensor, layout: Layout) -> Tensor:
    """A number a tensor -> that number at each of its entries."""
    pairs = zip(numbers_T.unbind(), layout.sizes, strict=True)
    return torch.cat([number.expand(size) for number, size in pairs])


def number_of_tensors(number: Tensor, layout: Layout) -> Tensor:
    """A run's number -> one that goes with numbers a tensor: one for all stays so; of one an entry, each tensor's."""
    return number if number.dim() == 0 else torch.stack([piece[0] for piece in torch.split(number, layout.sizes)])
