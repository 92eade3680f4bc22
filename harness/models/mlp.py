"""Multilayer perceptron.

Shapes: B batch, T context, V symbols.
"""

import itertools

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """`depth` hidden ReLU layers of one width over the one-hot encoded context."""

    def __init__(self, *, context: int, num_symbols: int, num_outputs: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.num_symbols = num_symbols
        widths = [context * num_symbols] + [hidden] * depth
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))

    def forward(self, symbols_BT: Tensor) -> Tensor:
        # F.one_hot looks at its values, which vmap forbids where every run reads a batch of its own
        symbols_V = torch.arange(self.num_symbols, device=symbols_BT.device)
        one_hot_BTV = (symbols_BT[..., None] == symbols_V).to(next(self.parameters()).dtype)
        logits_BV: Tensor = self.layers(one_hot_BTV.flatten(-2))
        return logits_BV
