"""Neural n-gram language model.

Shapes: B batch, T context, E embedding, D hidden width, V symbols.
"""

import torch
from torch import Tensor, nn


class NGram(nn.Module):
    """Embeddings of the context, one hidden layer, logits.

        logits = W2 tanh(norm(W1 [e(x_1) ... e(x_T)] + b1)) + b2

    `norm` is off or RMSNorm without gain; with it W1 and b1 together are scale-invariant. The gain is left out since it
    would be a second, redundant scale.

    Source: Bengio et al. 2003 (A Neural Probabilistic Language Model).
    """

    def __init__(
        self, *, context: int, num_symbols: int, num_outputs: int, embedding: int, hidden: int, norm: bool
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_symbols, embedding)
        self.hidden = nn.Linear(context * embedding, hidden)
        self.norm = nn.RMSNorm(hidden, elementwise_affine=False) if norm else nn.Identity()
        self.output = nn.Linear(hidden, num_outputs)

    def forward(self, symbols_BT: Tensor) -> Tensor:
        features_BD = self.hidden(self.embedding(symbols_BT).flatten(-2))
        logits_BV: Tensor = self.output(torch.tanh(self.norm(features_BD)))
        return logits_BV
