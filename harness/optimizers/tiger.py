"""Tiger: the sign of an average of gradients, by steps that are a share of the size of what they change.

Shapes: N parameters of one run, T its named tensors.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.optimizers.sign import init_average
from harness.parameters import Layout, rms_of_tensors, spread_over_tensors

State = dict[str, Tensor]
Hyper = Mapping[str, Tensor]

SHARE_OF_VECTORS = 0.5  # what a bias or gain is thought to be as large as, whatever it starts at


def tiger(*, accumulate: int, layout: Layout) -> tuple[Callable, Callable]:
    """Signum with a learning rate relative to the size of a tensor, and with a rule for gradients that are not finite.

        m <- momentum m + (1 - momentum) g                       momentum: what the source calls beta
        update = -lr size (sign(m) + weight_decay param)         sign(0) = 0
        size = RMS(param) of the whole tensor before the step    matrices, tables of embeddings
               1/2                                               vectors: biases and gains

    accumulate k: every k steps make one of a batch k times as large, with no memory beside m. With chi_j = 1 where k
    divides j, else 0, and steps t from 1:

        m <- ((momentum - 1) chi_{t-1} + 1) m + (1 - momentum) g / k
        update as above, times chi_t

    A tensor whose gradient has an entry that is not finite keeps m, and shrinks towards its centre c:

        update = (c - param) (1 - shrink)                        c = mean of the tensor's initial values

    c is the 0 of a random matrix up to sampling, the 0 of a bias and the 1 of a gain. A loss that is not finite ends a
    run all the same (harness/program.py): the rule is for gradients that are not while the loss is. Where gradients are
    clipped, one such entry spoils all tensors, and all shrink.

    The authors' code takes the RMS of every row of a table of embeddings; their text and this do not. They decay no
    vectors: that is `groups.vector.weight_decay=0` here. They meet NaN with the rule, and not infinity.

    Valid when: no matrix starts at zero, where it would stay. As signum for rows that are rarely hit.
    Source: kexue.fm/archives/9512; accumulation: kexue.fm/archives/8634.
    """

    def sizes_of(param: Tensor) -> Tensor:
        fixed = param.new_full((), SHARE_OF_VECTORS)
        sizes = zip(rms_of_tensors(param, layout).unbind(), layout.kinds, strict=True)
        return torch.stack([fixed if kind == "vector" else size for size, kind in sizes])

    def init(param: Tensor) -> State:
        centres = [piece.mean() for piece in torch.split(param, layout.sizes)]
        return {**init_average(param), "centre": torch.stack(centres)}

    def update(grad: Tensor, state: State, param: Tensor, hyper: Hyper) -> tuple[Tensor, State]:
        finite_T = torch.stack([piece.isfinite().all() for piece in torch.split(grad, layout.sizes)])
        finite_N = spread_over_tensors(finite_T, layout)
        begins = torch.remainder(hyper["step"] - 1, accumulate) == 0
        kept = torch.where(begins, hyper["momentum"], 1.0)
        exp_avg = state["exp_avg"] * kept + grad * ((1 - hyper["momentum"]) / accumulate)
        exp_avg = torch.where(finite_N, exp_avg, state["exp_avg"])
        ends = torch.remainder(hyper["step"], accumulate) == 0
        rate_N = torch.where(ends, -hyper["lr"], 0.0) * spread_over_tensors(sizes_of(param), layout)
        move = torch.addcmul(torch.sign(exp_avg), param, hyper["weight_decay"]) * rate_N
        shrunk = (spread_over_tensors(state["centre"], layout) - param) * (1 - hyper["shrink"])
        return torch.where(finite_N, move, shrunk), {"exp_avg": exp_avg, "centre": state["centre"]}

    return init, update
