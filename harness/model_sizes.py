"""How large a GPT is and what a token costs, by its config alone. Free of torch, so that budgets need no model.

Shapes: L layers (depth), D width, F width of the feed-forward layer, T context, V symbols.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ModelSize:
    """Of one model.

    Attributes:
        num_params: all that is trained.
        num_params_non_embedding: without the table of embeddings; a head of its own counts, one that is tied does not.
        flops_per_token: of a training step, forward and backward.
    """

    num_params: int
    num_params_non_embedding: int
    flops_per_token: int


def feed_forward_width(width: int, activation: str) -> int:
    """8/3 D rounded up to a multiple of 8 for swiglu, 4 D for gelu: the same number of parameters, nearly."""
    return 4 * width if activation == "gelu" else -(-8 * width // (3 * 8)) * 8


def check_heads(width: int, num_heads: int) -> None:
    """Raises: ValueError unless heads share the width evenly and have an even width of their own."""
    if width % num_heads or (width // num_heads) % 2:
        fitting = [n for n in range(1, width // 2 + 1) if width % n == 0 and (width // n) % 2 == 0]
        text = f"model.num_heads={num_heads} does not split model.width={width} into heads of an even width"
        cure = f"choose one of {', '.join(map(str, fitting))}" if fitting else "choose an even width"
        raise ValueError(f"{text}: {cure}")


def size_of_gpt(model: Mapping[str, Any], *, context: int, num_symbols: int) -> ModelSize:
    """Parameters and cost of model=gpt.

        matrices  = L (4 D^2 + k D F) + D V,       k = 3 for swiglu, 2 for gelu; the head is one of them
        gains     = (2 L + 1) D
        flops     = 6 matrices + 12 L D T          a multiplication and an addition of each, thrice: forward and backward;
                                                   the whole square of attention, of which the mask leaves half

    Source: Kaplan et al., arXiv 2001.08361, table 1; Chowdhery et al., arXiv 2204.02311, appendix B.
    """
    width, depth = int(model["width"]), int(model["depth"])
    count = 2 if model["activation"] == "gelu" else 3
    hidden = depth * (4 * width**2 + count * width * feed_forward_width(width, str(model["activation"])))
    head, gains = width * num_symbols, (2 * depth + 1) * width
    own = hidden + gains + (0 if model["tied"] else head)
    return ModelSize(own + num_symbols * width, own, 6 * (hidden + head) + 12 * depth * width * context)
