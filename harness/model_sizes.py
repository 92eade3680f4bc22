"""How large a GPT is, what a token costs, and how long a budget of tokens lasts, by configs alone: free of torch.

Shapes: L layers (depth), D width, F width of the feed-forward layer, T context, V symbols.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVERY_POSITION = ("gpt",)  # models that predict the symbol after each of their inputs, and not only after the last
BUDGETS = ("num_tokens", "tokens_per_param")  # in place of num_samples
NUM_BYTES = 256  # symbols of a task that names no vocabulary


def predicts_every(task: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether a model predicts the symbol after each of its inputs, and not only the one after the last."""
    return model["name"] in EVERY_POSITION or bool(task.get("every_position"))


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


def check_heads(model: Mapping[str, Any]) -> None:
    """Raises: ValueError for a GPT whose heads do not share its width evenly, or have an odd width of their own."""
    if model["name"] != "gpt":
        return
    width, num_heads = model["width"], model["num_heads"]
    if width % num_heads or (width // num_heads) % 2:
        fitting = [n for n in range(1, width // 2 + 1) if width % n == 0 and (width // n) % 2 == 0]
        text = f"model.num_heads={num_heads} does not split model.width={width} into heads of an even width"
        cure = f"choose one of {', '.join(map(str, fitting))}" if fitting else "choose an even width"
        raise ValueError(f"{text}: {cure}")


def size_of_gpt(model: Mapping[str, Any], *, context: int, num_symbols: int) -> ModelSize:
    """Parameters and cost of model=gpt.

        matrices  = L (4 D^2 + k D F) + D V,       k = 3 for swiglu, 2 for gelu; the head is one of them
        gains     = (2 L + 1) D
        flops     = 6 matrices + 12 L D T

    A multiplication and an addition for each entry, thrice: forward and twice backward; for attention the whole square,
    of which the mask leaves half.

    Source: Kaplan et al., arXiv 2001.08361, table 1; Chowdhery et al., arXiv 2204.02311, appendix B.
    """
    width, depth = int(model["width"]), int(model["depth"])
    count = 2 if model["activation"] == "gelu" else 3
    hidden = depth * (4 * width**2 + count * width * feed_forward_width(width, str(model["activation"])))
    head, gains = width * num_symbols, (2 * depth + 1) * width
    own = hidden + gains + (0 if model["tied"] else head)
    return ModelSize(own + num_symbols * width, own, 6 * (hidden + head) + 12 * depth * width * context)


def vocabulary(task: Mapping[str, Any]) -> int:
    """Number of symbols that a task of symbols feeds its model."""
    return int(task.get("num_symbols") or NUM_BYTES)


def spend_budget(values: Mapping[str, Any]) -> dict[str, Any]:
    """A run's values with num_samples from its budget in tokens; unchanged where none is given.

        num_samples = num_tokens / context,    num_tokens = tokens_per_param num_params

    Raises: ValueError for several budgets, or a model whose tokens or parameters cannot be counted.
    """
    given = {name: values[name] for name in BUDGETS if values.get(name) is not None}
    rest = {name: value for name, value in values.items() if name not in BUDGETS}
    if not given:
        return rest
    name, number = next(iter(given.items()))
    if len(given) > 1 or values.get("num_samples") is not None:
        raise ValueError(f"{name}={number} is one of several budgets: give one of {', '.join(BUDGETS)} and num_samples")
    task, model = values["task"], values["model"]
    if not predicts_every(task, model):
        text = f"{name}={number} counts predicted tokens, and model={model['name']} predicts one a sample"
        raise ValueError(f"{text}: give num_samples")
    if name == "tokens_per_param":
        if model["name"] != "gpt":
            text = f"tokens_per_param={number} needs a model whose parameters follow from its config"
            raise ValueError(f"{text}: choose model=gpt, or give num_tokens")
        size = size_of_gpt(model, context=task["context"], num_symbols=vocabulary(task))
        number *= size.num_params
    return rest | {"num_samples": max(1, round(number / task["context"]))}
