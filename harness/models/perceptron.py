"""Multilayer perceptron of real vectors.

Shapes: B batch, I inputs, O outputs.
"""

import itertools

import torch
from torch import Tensor, nn


class Perceptron(nn.Module):
    """`depth` hidden tanh layers of one width over a vector; the last layer is linear."""

    def __init__(self, *, num_inputs: int, num_outputs: int, hidden: int, depth: int) -> None:
        super().__init__()
        widths = [num_inputs] + [hidden] * depth + [num_outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    def forward(self, inputs_BI: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            inputs_BI = torch.tanh(layer(inputs_BI))
        outputs_BO: Tensor = last(inputs_BI)
        return outputs_BO
