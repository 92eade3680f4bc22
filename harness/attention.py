"""Attention in stacks on a CPU, where torch has no rule for mapping its fused kernel over runs.

Shapes: R runs, B batch, H heads, T positions, K numbers of a head.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import sdpa_flop_count

# Positions from which the fused kernel is faster than matrix products, which write down all pairs of positions.
# Measured on two cores, a stack's step over that of a plain loop: .96 and 1.04 of the speed at 32 positions, 1.06 and
# 1.10 at 64, 1.04 and 1.01 at 128, 1.04 and .89 at 256, .97 and .79 at 512
FUSED_FROM = 128

fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class StackedAttention(TorchFunctionMode):
    """F.scaled_dot_product_attention within a stack: self-attention, causal or not, as is fastest.

        softmax(q k^T / sqrt(K)) v

    What has a mask, dropout, another scale or grouped heads is left to torch.

    Args:
        differentiable: as often as one likes, and forwards; the fused kernel is so once.
    """

    def __init__(self, *, differentiable: bool = False) -> None:
        super().__init__()
        self.differentiable = differentiable

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or len(args) != 3 or not kwargs.keys() <= {"is_causal"}:
            return func(*args, **kwargs)
        q_BHTK, k_BHTK, v_BHTK = args
        alike = q_BHTK.dim() == 4 and q_BHTK.shape == k_BHTK.shape == v_BHTK.shape
        if not alike or torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        is_causal = kwargs.get("is_causal", False)
        if q_BHTK.shape[-2] < FUSED_FROM or self.differentiable:
            return written_out(q_BHTK, k_BHTK, v_BHTK, is_causal)
        return Fused.apply(q_BHTK, k_BHTK, v_BHTK, is_causal)[0]


def written_out(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, is_causal: bool) -> Tensor:
    """As torch writes it out, without its care for positions that may look at nothing: here each sees itself."""
    scores_BHTT = (q_BHTK * q_BHTK.shape[-1] ** -0.5) @ k_BHTK.transpose(-2, -1)
    if is_causal:
        length = q_BHTK.shape[-2]
        scores_BHTT = scores_BHTT + q_BHTK.new_full((length, length), -torch.inf).triu(1)
    return torch.softmax(scores_BHTT, -1) @ v_BHTK


class Fused(Function):
    """The fused kernel; runs are taken as more of the batch."""

    @staticmethod
    def forward(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
        out_BHTK, normalizer_BHT = fused(q_BHTK, k_BHTK, v_BHTK, 0.0, is_causal)
        return out_BHTK, normalizer_BHT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.is_causal = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad_BHTK: Tensor, _: Any) -> tuple[Any, ...]:
        return *FusedBackward.apply(grad_BHTK, *ctx.saved_tensors, ctx.is_causal), None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        return fold_runs(Fused, info, in_dims, inputs)


class FusedBackward(Function):
    """Its gradient, a function of its own so that it can be mapped too."""

    @staticmethod
    def forward(grad_BHTK: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        *saved, is_causal = inputs
        return tuple(fused_backward(grad_BHTK, *saved, 0.0, is_causal))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # nothing for a second derivative, which there is not

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        return fold_runs(FusedBackward, info, in_dims, inputs)


def fold_runs(function: type[Function], info: Any, in_dims: Any, inputs: Any) -> tuple[Any, Any]:
    """R runs of batch B as one batch of R B."""
    *tensors, is_causal = inputs
    count = info.batch_size
    stacked = (
        tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    )
    out = function.apply(*(tensor.flatten(0, 1) for tensor in stacked), is_causal)
    return tuple(part.unflatten(0, (count, -1)) for part in out), (0,) * len(out)


def count_fused(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))


def count_fused_backward(grad_shape: Any, q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * int(sdpa_flop_count(q_shape, k_shape, v_shape))  # as without the kernel, which takes scores once more


FLOPS = {fused: count_fused, fused_backward: count_fused_backward}  # for torch's counter, which does not know them
