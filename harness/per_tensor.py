"""What is measured tensor by tensor: columns METRIC.TENSOR, the tensor by its module's name. One run in, numbers out.

Directions over time, update_autocorrelation_LAG.TENSOR, are harness/autocorrelation.py's. As of the run as a whole
(harness/metrics.py), weights are those before the step. u is the direction of the step,

    update = -lr (u + weight_decay weights),

with the learning rate of that step divided out and the share of weight decay taken out: unlike update_rms of the run as
a whole, update_rms.TENSOR is about 1 or below for Adam and 1 for a sign, whatever the schedule.

Shapes: N parameters of one run, n entries of one tensor, C columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.parameters import Layout
from harness.records import PER_TENSOR

MOST = 64  # tensors: a deep model's columns must stay few enough to be looked at, and to be a table's
ITERATIONS = 10
STEPWISE = tuple(name for name in PER_TENSOR if not name.startswith("update_autocorrelation"))


def measured_tensors(layout: Layout) -> list[int]:
    """Indices of the tensors that have columns: those of more than one entry, of which the MOST largest."""
    several = [i for i, size in enumerate(layout.sizes) if size > 1]
    return sorted(sorted(several, key=lambda i: -layout.sizes[i])[:MOST])


def name_columns(layout: Layout, metrics: tuple[str, ...] = PER_TENSOR) -> list[str]:
    """METRIC.TENSOR, metric by metric; spectral_norm of tensors with two dimensions or more only."""
    return [
        f"{metric}.{layout.names[i]}"
        for metric in metrics
        for i in measured_tensors(layout)
        if metric != "spectral_norm" or len(layout.shapes[i]) > 1
    ]


def describe_left_out(layout: Layout) -> str | None:
    """A sentence where a model has more tensors than may have columns."""
    several = sum(size > 1 for size in layout.sizes)
    return f"metrics.per_tensor: columns for the {MOST} largest of {several} tensors" if several > MOST else None


def measure_tensors(
    layout: Layout, params_N: Tensor, grad_N: Tensor, update_N: Tensor, state: Mapping[str, Tensor],
    hyper: Mapping[str, Tensor],
) -> Tensor:  # fmt: skip
    """The numbers of name_columns(layout, STEPWISE), in that order: (C,).

    Args:
        grad_N: the training batch's, before clipping.
        state: the optimizer's, after the step.
        hyper: the numbers of the step, 0-d or one an entry.
    """
    v_N, correction = second_moment(layout, params_N, state)
    decay = hyper.get("weight_decay", torch.zeros_like(hyper["lr"]))
    vectors = [split(layout, value) for value in (params_N, grad_N, update_N, v_N, hyper["lr"], decay)]
    rows = {}
    for i in measured_tensors(layout):
        w, g, update, v, lr, weight_decay = (pieces[i] for pieces in vectors)
        row = measure_tensor(w, g, -update / lr - weight_decay * w, v, correction)
        if len(layout.shapes[i]) > 1:
            row["spectral_norm"] = spectral_norm(w.reshape(layout.shapes[i][0], -1))
        rows[layout.names[i]] = row
    columns = (name.split(".", 1) for name in name_columns(layout, STEPWISE))
    return torch.stack([rows[tensor][metric] for metric, tensor in columns])


def measure_tensor(w: Tensor, g: Tensor, u: Tensor, v: Tensor, correction: Tensor) -> dict[str, Tensor]:
    """One tensor's numbers; w, g, u, v are (n,).

        second_moment_rms = sqrt(mean(v / correction))
        live              = entries with v > 0: they had a gradient (of late: without any v underflows in the end, in
                            float32 at beta2 = .95 after 1,700 steps or more)
        radial            = a . w / (|a| |w|),    a = g / sqrt(v), 0 where v is

    v is NaN, and so are these, where the optimizer keeps no second moment.

    Source of radial, by which a tensor is told that has an outward force (the random walk of AdamW's weights,
        kexue.fm/archives/11307 and 11404, has none): Adam's own direction would not do, since it correlates with the
        weights under pure noise too, from beta1 > 0 on.
    """
    live, none = v > 0, v != v
    told = torch.where(none.any(), torch.nan, torch.ones_like(v[0]))  # NaN > 0 would pass for dead
    a = torch.where(live, g * v.rsqrt(), 0.0)
    return {
        "update_rms": rms(u),
        "weight_rms": rms(w),
        "max_weight": w.abs().amax(),
        "second_moment_rms": (v.mean() / correction).sqrt(),
        "live_rms": (torch.where(live, w, 0.0).square().sum() / live.sum()).sqrt() * told,
        "live_share": live.to(w.dtype).mean() * told,
        "zero_grad_share": (g == 0).to(w.dtype).mean(),
        "radial": cosine(a, w) * told,
    }


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value by power iteration: an approximation from below.

        x <- A^T A x / |A^T A x|, ITERATIONS times from one fixed x,    |A x|

    Short by about 1 % where singular values lie dense below the largest (a matrix as it is drawn), by nothing where one
    stands out.

    Source: Golub & Van Loan, Matrix Computations, section 8.2.
    """
    # Structureless, and no random number of training's: cos k^2
    x = torch.arange(1, matrix.shape[1] + 1, dtype=torch.float64, device=matrix.device).square().cos().to(matrix.dtype)
    tiny = torch.finfo(matrix.dtype).tiny  # of a matrix of zeros the norm is 0
    for _ in range(ITERATIONS):
        x = x / x.norm().clamp(min=tiny)
        x = matrix.mT @ (matrix @ x)
    return (matrix @ (x / x.norm().clamp(min=tiny))).norm()


def second_moment(layout: Layout, like_N: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(v_N, what it is divided by to be unbiased); NaN where none is kept: for SGD, say, and for Muon's matrices.

    RMSprop divides by nothing, in its step as here.
    """
    v, one = state.get("exp_avg_sq"), torch.ones_like(like_N[0])
    if v is None:
        return torch.full_like(like_N, torch.nan), one
    if len(v) < len(like_N):
        own = iter(torch.split(v, [s for s, kind in zip(layout.sizes, layout.kinds, strict=True) if kind != "matrix"]))
        pieces = zip(split(layout, like_N), layout.kinds, strict=True)
        v = torch.cat([torch.full_like(x, torch.nan) if kind == "matrix" else next(own) for x, kind in pieces])
    return v, state.get("correction2", one)


def split(layout: Layout, value: Tensor) -> tuple[Tensor, ...]:
    """One piece a tensor; a number that is one for all entries stays as it is."""
    return tuple(torch.split(value, layout.sizes, dim=-1)) if value.dim() else (value,) * len(layout.sizes)


def rms(x: Tensor) -> Tensor:
    return x.square().mean(-1).sqrt()


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
