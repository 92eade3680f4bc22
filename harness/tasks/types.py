"""What a task is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn

Params = dict[str, Tensor]
Batch = tuple[Tensor, ...]  # every tensor's first dimension counts samples


class Task(NamedTuple):
    init: Callable[[int], Params]
    sample: Callable[[int, int, int], Batch]
    loss: Callable[[Mapping[str, Tensor], Batch], Tensor]
    heldout: Callable[[int], Batch]
    heldout_loss: Callable[[Mapping[str, Tensor], Batch], Tensor] | None = None  # None: as loss
    embeddings: frozenset[str] = frozenset()  # names of the parameters that are tables of embeddings
    lr_multipliers: Mapping[str, float] | None = None  # parameter -> what its lr is multiplied with, else 1
    module: nn.Module | None = None  # what loss calls, where that is a module
    # The module's buffers, live: training alone changes them in place (BatchNorm's running statistics)
    buffers: Mapping[str, Tensor] | None = None
    # The held-out loss in two parts, where there is a module: outputs(params, batch) and criterion(outputs, targets)
    outputs: Callable[[Mapping[str, Tensor], Batch], Tensor] | None = None
    criterion: Callable[[Tensor, Tensor], Tensor] | None = None
    # What the noise of a batch's own labels costs whoever predicts best, where the task knows it
    floor: Callable[[Batch], Tensor] | None = None
