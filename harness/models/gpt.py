"""Decoder-only transformer, as language models are trained today.

Shapes: B batch, T positions, D width, H heads, K = D / H width of a head, F width of the feed-forward layer, V symbols.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.model_sizes import check_heads, feed_forward_width, size_of_gpt

ROTARY_BASE = 10_000.0
NORM_EPS = 1e-6


class GPT(nn.Module):
    """Pre-norm transformer with RMSNorm and rotary positions; logits of the next symbol at every position.

        x = E[symbols]
        x = x + attention(norm(x));  x = x + feed_forward(norm(x))        `depth` times
        logits = norm(x) W^T

    Matrices are drawn from N(0, init_std^2), those that write into the residual stream divided by sqrt(2 depth).

    With parametrization=mup and m = width / base_width, hidden matrices are drawn with std init_std / sqrt(m) and learn
    with lr / m, and logits are divided by m: then the best lr of Adam should not move with width. Embeddings, gains and
    the head keep std and lr. It holds for widths of one head width K: let num_heads grow with width. Attention scores
    are divided by sqrt(K) as ever, which for one K is the same as by K.

    Args:
        num_heads: divides the width; the width of a head is even.
        activation: swiglu: W3 (silu(W1 x) * W2 x), F = 8/3 D rounded up to a multiple of 8; or gelu: W2 gelu(W1 x),
            F = 4 D.
        tied: the head is the table of embeddings.
        qk_norm: RMSNorm without gain on queries and keys of each head.

    Source: Vaswani et al. 2017; Su et al., arXiv 2104.09864 (rotary); Zhang, Sennrich, arXiv 1910.07467 (RMSNorm);
        Shazeer, arXiv 2002.05202 (SwiGLU); Henry et al., arXiv 2010.04245 (QK norm); Yang et al., arXiv 2203.03466,
        tables 3 and 8 (mup for Adam).
    """

    cos_TK: Tensor
    sin_TK: Tensor

    def __init__(
        self, *, context: int, num_symbols: int, num_outputs: int, width: int, depth: int, num_heads: int,
        activation: str, qk_norm: bool, tied: bool, init_std: float, parametrization: str, base_width: int,
    ) -> None:  # fmt: skip
        super().__init__()
        check_heads({"name": "gpt", "width": width, "num_heads": num_heads})
        if tied and num_outputs != num_symbols:
            raise ValueError(f"model.tied=true needs as many outputs as symbols, not {num_outputs} and {num_symbols}")
        size = size_of_gpt(
            {"width": width, "depth": depth, "activation": activation, "tied": tied},
            context=context, num_symbols=num_symbols,
        )  # fmt: skip
        self.flops_per_token = size.flops_per_token
        self.depth = depth
        self.times_base = width / base_width if parametrization == "mup" else 1.0
        self.embedding = nn.Embedding(num_symbols, width)
        make_layer = SwiGLU if activation == "swiglu" else GELULayer
        self.blocks = nn.ModuleList(
            Block(Attention(width, num_heads, qk_norm=qk_norm), make_layer(width), width) for _ in range(depth)
        )
        self.norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.head = nn.Linear(width, num_outputs, bias=False)
        self.tied = tied
        if tied:
            self.head.weight = self.embedding.weight
        cos_TK, sin_TK = rotary_angles(context, width // num_heads)
        self.register_buffer("cos_TK", cos_TK, persistent=False)
        self.register_buffer("sin_TK", sin_TK, persistent=False)
        self.draw(init_std)

    @torch.no_grad()
    def draw(self, init_std: float) -> None:
        """Fresh parameters, from torch's own generator."""
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # gains begin at one
            std = init_std
            if name.startswith("blocks."):
                std /= math.sqrt(self.times_base)
                std /= (
                    math.sqrt(2 * self.depth) if name.endswith(("attention.out.weight", "layer.down.weight")) else 1.0
                )
            nn.init.normal_(parameter, std=std)

    def lr_multipliers(self) -> dict[str, float]:
        """Parameter -> what its lr is multiplied with; those that are not named keep theirs."""
        hidden = [name for name, p in self.named_parameters() if name.startswith("blocks.") and p.dim() == 2]
        return dict.fromkeys(hidden, 1 / self.times_base) if self.times_base != 1.0 else {}

    def forward(self, symbols_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(symbols_BT)
        length = symbols_BT.shape[-1]
        angles = self.cos_TK[:length], self.sin_TK[:length]
        for block in self.blocks:
            x_BTD = block(x_BTD, angles)
        logits_BTV: Tensor = self.head(self.norm(x_BTD))
        return logits_BTV / self.times_base if self.times_base != 1.0 else logits_BTV


class Block(nn.Module):
    def __init__(self, attention: nn.Module, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.attention = attention
        self.layer_norm = nn.RMSNorm(width, eps=NORM_EPS)
        self.layer = layer

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), angles)
        out_BTD: Tensor = x_BTD + self.layer(self.layer_norm(x_BTD))
        return out_BTD


class Attention(nn.Module):
    """Causal self-attention of H heads, without biases."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, width, bias=False)
        head = width // num_heads
        self.qk_norm = nn.RMSNorm(head, eps=NORM_EPS, elementwise_affine=False) if qk_norm else nn.Identity()

    def forward(self, x_BTD: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        split = (self.num_heads, -1)
        q_BHTK, k_BHTK, v_BHTK = (
            part(x_BTD).unflatten(-1, split).transpose(-3, -2) for part in (self.query, self.key, self.value)
        )
        q_BHTK, k_BHTK = (rotate(self.qk_norm(part), *angles) for part in (q_BHTK, k_BHTK))
        mixed_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        out_BTD: Tensor = self.out(mixed_BHTK.transpose(-3, -2).flatten(-2))
        return out_BTD


class SwiGLU(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = feed_forward_width(width, "swiglu")
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down(F.silu(self.gate(x_BTD)) * self.up(x_BTD))
        return out_BTD


class GELULayer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = feed_forward_width(width, "gelu")
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out_BTD: Tensor = self.down(F.gelu(self.up(x_BTD)))
        return out_BTD


def rotary_angles(context: int, head: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position t times frequency base^(-2 j / K), j = 0 ... K/2 - 1, each twice: (T, K)."""
    frequencies = ROTARY_BASE ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    angles_TK = torch.outer(torch.arange(context, dtype=torch.float64), frequencies).repeat(1, 2)
    return angles_TK.cos().float(), angles_TK.sin().float()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn the pairs (x_j, x_(j + K/2)) by their angles."""
    first, second = x_BHTK.chunk(2, dim=-1)
    return x_BHTK * cos_TK + torch.cat([-second, first], dim=-1) * sin_TK
