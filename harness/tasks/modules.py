"""What a task needs of a module: initial values, the loss in train mode, the held-out loss in eval mode."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.config import Part
from harness.imports import load_import
from harness.models import make_model, names_of_embeddings
from harness.tasks.types import Batch, Params, Task

Criterion = Callable[[Any, Tensor], Tensor]  # (outputs, targets) -> mean loss of the batch


def module_task(
    task: Part,
    model: Part,
    device: torch.device,
    criterion: Criterion,
    *,
    sample: Callable[[int, int, int], Batch],
    heldout: Callable[[int], Batch],
    **shape: int,
) -> Task:
    """The task of training a module on batches (inputs, targets).

    What is no trained parameter (buffers, frozen parameters) comes from a module made with seed 0, the same for every
    run. Buffers that training changes belong to the one run that is trained alone; init puts them back.

    Args:
        criterion: the loss unless task.loss names another.
        shape: the task's words for the sizes of inputs and outputs.
    """
    if task.get("loss") is not None:
        criterion = load_import("task.loss", str(task["loss"]))

    def make(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make_model(model, **shape)

    module = make(0).to(device)
    if not any(p.requires_grad for p in module.parameters()):
        raise ValueError(f"model.name={model['name']!r} has no parameters to train")
    untouched = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def init(seed: int) -> Params:
        for name, buffer in module.named_buffers():
            buffer.copy_(untouched[name])
        return {name: p.detach() for name, p in make(seed).named_parameters() if p.requires_grad}

    def call(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        inputs, targets = batch
        outputs = functional_call(module, dict(params), (inputs,))
        if task.get("loss") is None and not isinstance(outputs, Tensor):
            kind = type(outputs).__name__
            raise ValueError(f"{model['name']} returns a {kind} and no tensor: give task.loss=MODULE:FUNCTION")
        value = criterion(outputs, targets)
        if value.dim():
            shape_of_loss = tuple(value.shape)
            raise ValueError(f"task.loss={task.get('loss')!r} gave shape {shape_of_loss}: return the batch's mean")
        return value

    def loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        module.train()
        return call(params, batch)

    def heldout_loss(params: Mapping[str, Tensor], batch: Batch) -> Tensor:
        module.eval()
        return call(params, batch)

    def outputs(params: Mapping[str, Tensor], batch: Batch) -> Any:
        module.eval()
        return functional_call(module, dict(params), (batch[0],))

    embeddings = names_of_embeddings(module)
    own = getattr(module, "lr_multipliers", None)  # a module may say what lr its parameters want
    return Task(
        init, sample, loss, heldout, heldout_loss, embeddings, own() if callable(own) else None, module,
        outputs=outputs, criterion=criterion,
    )  # fmt: skip
