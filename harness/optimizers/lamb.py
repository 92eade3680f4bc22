"""LAMB: Adam's directions, with steps that are a share of each tensor's own length.

Shapes: N parameters of one run, T its named tensors.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.optimizers.adam import init_moments, update_moments
from harness.parameters import Layout, rms_of_tensors, spread_over_tensors

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]


def lamb(*, adapt_vectors: bool = False, layout: Layout) -> tuple[Callable, Callable]:
    """AdamW's direction, stretched for every tensor to the length of what it changes.

        m, v, c_i as in adam
        u = (m / c1) / (sqrt(v / c2) + eps) + weight_decay param
        update = -lr ratio u,      ratio = |param| / |u| of the tensor, 1 where either is 0
        adapt_vectors false: ratio = 1 for biases and gains

    Decay is part of what is stretched: what it takes a step depends on u. Lengths are not bounded (the source's phi is
    the identity). The source adapts every layer; its authors' code leaves biases and gains as they are, which otherwise
    would take long to leave the neighbourhood of zero.

    Valid when: as Adam. At ratio 1 it is AdamW.
    Source: You et al., arXiv 1904.00962, algorithm 2.
    """
    adapted = [adapt_vectors or kind != "vector" for kind in layout.kinds]

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        state = update_moments(grad, state, hyper)
        denominator = state["exp_avg_sq"].sqrt().mul_(state["correction2"].rsqrt()).add_(hyper["eps"])
        adam_direction = torch.div(state["exp_avg"], denominator).mul_(1 / state["correction1"])
        direction = torch.addcmul(adam_direction, param, hyper["weight_decay"])
        # Lengths of one tensor: their ratio is that of root mean squares
        size_T, step_T = rms_of_tensors(param, layout), rms_of_tensors(direction, layout)
        ratio_T, one = torch.where((size_T > 0) & (step_T > 0), size_T / step_T, 1.0), param.new_ones(())
        ratios = [ratio if own else one for ratio, own in zip(ratio_T.unbind(), adapted, strict=True)]
        return direction * spread_over_tensors(torch.stack(ratios), layout) * -hyper["lr"], state

    return init_moments, update
