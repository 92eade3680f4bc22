"""An update of the matrices of a run, beside AdamW for all else.

Shapes: N parameters of one run, M those of matrices.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from harness.optimizers.adam import adamw
from harness.parameters import Layout

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]
Shapes = Sequence[tuple[int, int]]
Init = Callable[[Tensor, Shapes], State]
Update = Callable[[Tensor, State, Tensor, Hyper, Shapes], tuple[Tensor, State]]


def matrices_beside_adamw(init_M: Init, update_M: Update, layout: Layout) -> tuple[Callable, Callable]:
    """An init/update pair of all parameters from one of the matrices.

        matrices:      update_M(grad_M, state, param_M, hyper, shapes) -> updates_M, state
        all others:    AdamW

    A matrix is what harness/groups.py calls one: every tensor of two or more dimensions that is no table of embeddings,
    an output layer too. A kernel of more than two (convolution) is taken as first dimension x all others. Numbers are
    those of both parts; lr and weight_decay have an entry a parameter where kinds have their own. Without matrices it
    is AdamW.

    Args:
        init_M: zeros of the run's precision, shapes -> state of the matrices.
    Source: Keller Jordan, kellerjordan.github.io/posts/muon, divides parameters so.
    """
    is_matrix = [kind == "matrix" for kind in layout.kinds]
    shapes = [(shape[0], math.prod(shape[1:])) for shape, own in zip(layout.shapes, is_matrix, strict=True) if own]
    sizes = [rows * cols for rows, cols in shapes]
    others = [size for size, own in zip(layout.sizes, is_matrix, strict=True) if not own]
    init_others, update_others = adamw()

    def pick(value: Tensor, own: bool) -> Tensor:
        """The entries of matrices, or all other ones; a number that is one for all entries stays as it is."""
        if value.dim() == 0:
            return value
        pieces = zip(torch.split(value, layout.sizes), is_matrix, strict=True)
        return torch.cat([value[:0], *(piece for piece, is_own in pieces if is_own == own)])

    def init(param: Tensor) -> State:
        return {**init_M(param.new_zeros(sum(sizes)), shapes), **init_others(param.new_zeros(sum(others)))}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        numbers, numbers_M = ({name: pick(value, own) for name, value in hyper.items()} for own in (False, True))
        other_updates, other_state = update_others(pick(grad, False), state, pick(param, False), numbers)
        updates_M, state_M = update_M(pick(grad, True), state, pick(param, True), numbers_M, shapes)
        own_pieces, other_pieces = iter(torch.split(updates_M, sizes)), iter(torch.split(other_updates, others))
        updates = torch.cat([next(own_pieces if own else other_pieces) for own in is_matrix])
        return updates, {**state_M, **other_state}

    return init, update


def split_matrices(values_M: Tensor, shapes: Shapes) -> list[Tensor]:
    """The matrices that lie one after the other in a vector, as views of it."""
    pieces = torch.split(values_M, [rows * cols for rows, cols in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
