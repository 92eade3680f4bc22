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
# Measured on two cores, a plain loop's time over that of a stack with the kernel / with products, by positions:
# 32: .96 / 1.04, 64: 1.06 / 1.10, 128: 1.04 / 1.01, 256: 1.04 / .89, 512: .97 / .79
FUSED_FROM = 128

fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class StackedAttention(TorchFunctionMode):
    """F.scaled_dot_product_attention within a stack: self-attention, causal or not, as is fastest.

        softmax(q k^T / sqrt(K)) v

    What has a mask, dropout, or other shapes of keys and values is left to torch.

    Args:
        differentiable: as often as one likes, and forwards; the fused kernel is so once.
    """

    def __init__(self, *, differentiable: bool = False) -> None:
        super().__init__()
        self.differentiable = differentiable

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        take = self.attend if func is F.scaled_dot_product_attention else func
        return take(*args, **(kwargs or {}))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
        is_causal: bool = False, *, scale: float | None = None, enable_gqa: bool = False,
    ) -> Tensor:  # fmt: skip
        """As torch's function of that name."""
        if torch.is_autocast_enabled("cpu"):  # as autocast does it, which torch.func.grad does not go through here
            query, key, value = (part.to(torch.get_autocast_dtype("cpu")) for part in (query, key, value))
            with torch.autocast("cpu", enabled=False):
                return self.attend(
                    query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
                )
        alike = query.dim() == 4 and query.shape == key.shape == value.shape
        if attn_mask is not None or dropout_p or not alike:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        if query.shape[-2] < FUSED_FROM or self.differentiable:
            return written_out(query, key, value, is_causal, scale)
        out_BHTK: Tensor = Fused.apply(query, key, value, is_causal, scale)[0]
        return out_BHTK


def written_out(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, is_causal: bool, scale: float) -> Tensor:
    """As torch writes it out, without its care for positions that may look at nothing: here each sees itself."""
    if q_BHTK.dtype in (torch.bfloat16, torch.float16):
        out_BHTK = written_out(q_BHTK.float(), k_BHTK.float(), v_BHTK.float(), is_causal, scale)
        return out_BHTK.to(q_BHTK.dtype)
    scores_BHTT = (q_BHTK * scale) @ k_BHTK.transpose(-2, -1)
    if is_causal:
        length = q_BHTK.shape[-2]
        scores_BHTT = scores_BHTT + q_BHTK.new_full((length, length), -torch.inf).triu(1)
    return torch.softmax(scores_BHTT, -1) @ v_BHTK


def dense(tensor: Tensor) -> Tensor:
    """With the numbers of a head side by side, which the kernel takes for granted and does not check."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


class Fused(Function):
    """The fused kernel; runs are taken as more of the batch."""

    @staticmethod
    def forward(q_BHTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        parts = (dense(part) for part in (q_BHTK, k_BHTK, v_BHTK))
        out_BHTK, normalizer_BHT = fused(*parts, 0.0, is_causal, scale=scale)
        return out_BHTK, normalizer_BHT

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.is_causal, ctx.scale = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad_BHTK: Tensor, _: Any) -> tuple[Any, ...]:
        return *FusedBackward.apply(grad_BHTK, *ctx.saved_tensors, ctx.is_causal, ctx.scale), None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        return fold_runs(Fused, info, in_dims, inputs)


class FusedBackward(Function):
    """Its gradient, a function of its own so that it can be mapped too."""

    @staticmethod
    def forward(grad_BHTK: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        *saved, normalizer_BHT, is_causal, scale = inputs
        parts = (dense(part) for part in (grad_BHTK, *saved))
        return tuple(fused_backward(*parts, normalizer_BHT, 0.0, is_causal, scale=scale))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass  # nothing for a second derivative, which there is not

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> tuple[Any, Any]:
        return fold_runs(FusedBackward, info, in_dims, inputs)


def fold_runs(function: type[Function], info: Any, in_dims: Any, inputs: Any) -> tuple[Any, Any]:
    """R runs of batch B as one batch of R B."""
    *tensors, is_causal, scale = inputs
    count = info.batch_size
    stacked = (
        tensor.expand(count, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    )
    out = function.apply(*(tensor.flatten(0, 1) for tensor in stacked), is_causal, scale)
    return tuple(part.unflatten(0, (count, -1)) for part in out), (0,) * len(out)


def count_fused(q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(q_shape, k_shape, v_shape))


def count_fused_backward(grad_shape: Any, q_shape: Any, k_shape: Any, v_shape: Any, *_: Any, **__: Any) -> int:
    return 2 * int(sdpa_flop_count(q_shape, k_shape, v_shape))  # as without the kernel, which takes scores once more


FLOPS = {fused: count_fused, fused_backward: count_fused_backward}  # for torch's counter, which does not know them
