"""What is measured tensor by tensor: columns METRIC.TENSOR, the tensor by its module's name. One run in, numbers out.

Directions over time, update_autocorrelation_LAG.TENSOR, are harness/autocorrelation.py's. As of the run as a whole
(harness/metrics.py), weights are those before the step. u is the direction of the step,

    update = -lr (u + weight_decay weights),

with the learning rate of that step divided out and the share of weight decay taken out: unlike update_rms of the run as
a whole, update_rms.TENSOR is about 1 or below for Adam and 1 for a sign, whatever the schedule.

Shapes: N parameters of one run, n entries of one tensor, C columns.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from harness.parameters import Layout
from harness.records import PER_TENSOR

MOST = 64  # tensors: a deep model's columns must stay few enough to be looked at, and to be a table's
SQUARINGS = 5  # as 32 steps of power iteration
OF_MATRICES = ("spectral_norm", "rank_one_error", "rank_one_share")
STEPWISE = tuple(name for name in PER_TENSOR if not name.startswith("update_autocorrelation"))


def measured_tensors(layout: Layout) -> list[int]:
    """Indices of the tensors that have columns: those of more than one entry, of which the MOST largest."""
    several = [i for i, size in enumerate(layout.sizes) if size > 1]
    return sorted(sorted(several, key=lambda i: -layout.sizes[i])[:MOST])


def name_columns(layout: Layout, metrics: tuple[str, ...] = PER_TENSOR) -> list[str]:
    """METRIC.TENSOR, metric by metric; OF_MATRICES of tensors with two dimensions or more only."""
    return [
        f"{metric}.{layout.names[i]}"
        for metric in metrics
        for i in measured_tensors(layout)
        if metric not in OF_MATRICES or len(layout.shapes[i]) > 1
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
    pieces = zip(*(split(layout, value_N) for value_N in (params_N, grad_N, update_N)), strict=True)
    moments, correction = second_moments(layout, state), state.get("correction2", torch.ones_like(params_N[0]))
    # Within a tensor they are one number
    lrs, decays = (
        [value[0] if value.dim() else value for value in split(layout, hyper[name])] if name in hyper else None
        for name in ("lr", "weight_decay")
    )
    assert lrs is not None, "every optimizer has a learning rate"
    rows = {}
    for i, (w, g, update) in enumerate(pieces):
        if i not in measured_tensors(layout):
            continue
        minus_lr_u = update if decays is None else torch.addcmul(update, w, lrs[i] * decays[i])
        row = {
            "update_rms": rms(minus_lr_u) / lrs[i], "weight_rms": rms(w), "max_weight": w.norm(torch.inf),
            "zero_grad_share": (g == 0).to(w.dtype).mean(),
            **measure_adaptive(w, g, moments[i], correction),
        }  # fmt: skip
        if len(layout.shapes[i]) > 1:
            first = layout.shapes[i][0]
            row["spectral_norm"] = spectral_norm(w.reshape(first, -1))
            row |= measure_rank_one(w, moments[i], first)
        rows[layout.names[i]] = row
    columns = (name.split(".", 1) for name in name_columns(layout, STEPWISE))
    return torch.stack([rows[tensor][metric] for metric, tensor in columns])


def measure_adaptive(w: Tensor, g: Tensor, v: Tensor | None, correction: Tensor) -> dict[str, Tensor]:
    """What a second moment tells of one tensor; NaN where the optimizer keeps none. w, g, v are (n,).

        second_moment_rms = sqrt(mean(v / correction))
        live              = entries with v > 0: they had a gradient (of late: without any v underflows in the end, in
                            float32 at beta2 = .95 after 1,700 steps or more)
        radial            = a . w / (|a| |w|),    a = g / sqrt(v), 0 where v is (g is too)

    Source of radial, by which a tensor is told that has an outward force (the random walk of AdamW's weights,
        kexue.fm/archives/11307 and 11404, has none): Adam's own direction would not do, since it correlates with the
        weights under pure noise too, from beta1 > 0 on.
    """
    if v is None:
        return dict.fromkeys(
            ("second_moment_rms", "live_rms", "live_share", "radial"), torch.full_like(w[0], torch.nan)
        )
    live = (v > 0).to(w.dtype)
    live_share = live.mean()
    a = g * v.clamp(min=torch.finfo(v.dtype).tiny).rsqrt()
    return {
        "second_moment_rms": (v.mean() / correction).sqrt(),
        "live_rms": rms(w * live) / live_share.sqrt(),
        "live_share": live_share,
        "radial": cosine(a, w),
    }


def measure_rank_one(w: Tensor, v: Tensor | None, num_rows: int) -> dict[str, Tensor]:
    """How well sums over rows and columns alone would keep a second moment; NaN where the optimizer has none.

        w_ij = row_i col_j / total
        rank_one_error = std(log(w / v)),    rank_one_share = 1 - var(log(w / v)) / var(log v)

    over entries with v > 0. 0 and 1 for v of rank one, so for Adafactor's own. A bias correction cancels.

    Source: Shazeer & Stern, arXiv 1804.04235 (w, closest in the I-divergence); kexue.fm/archives/7302.
    """
    if v is None:
        return dict.fromkeys(("rank_one_error", "rank_one_share"), torch.full_like(w[0], torch.nan))
    v_nm = v.reshape(num_rows, -1)
    live_nm, tiny = v_nm > 0, torch.finfo(v.dtype).tiny
    # Shares: a product of two sums would underflow where gradients are small
    row_n, col_m = v_nm.sum(1) / v_nm.sum(), v_nm.sum(0)
    log_w_nm = row_n.clamp(min=tiny).log()[:, None] + col_m.clamp(min=tiny).log()
    log_v_nm = v_nm.clamp(min=tiny).log()

    def variance(x_nm: Tensor) -> Tensor:
        x_nm, count = torch.where(live_nm, x_nm, 0.0), live_nm.sum()
        return torch.where(live_nm, x_nm - x_nm.sum() / count, 0.0).square().sum() / count

    left = variance(log_w_nm - log_v_nm)
    return {"rank_one_error": left.sqrt(), "rank_one_share": 1 - left / variance(log_v_nm)}


def spectral_norm(matrix: Tensor) -> Tensor:
    """The largest singular value by 2^SQUARINGS steps of power iteration: an approximation from below.

        x = (A^T A)^(2^SQUARINGS) x_0 with one fixed x_0,    |A x| / |x|

    The power is had by squaring the smaller of both Gram matrices. Short by 1 % on average, seldom by 5 %, where
    singular values lie dense below the largest (a matrix as it is drawn), by nothing where one stands out.

    Source: Golub & Van Loan, Matrix Computations, section 7.3.1.
    """
    matrix = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    tiny = torch.finfo(matrix.dtype).tiny  # of a matrix of zeros the norm is 0
    power = matrix.mT @ matrix
    for _ in range(SQUARINGS):
        power = power / power.norm().clamp(min=tiny)
        power = power @ power
    # Structureless, and no random number of training's: cos k^2
    start = torch.arange(1, len(power) + 1, dtype=torch.float64, device=matrix.device).square().cos()
    # Sums and no products of matrix and vector, whose last bits depend on how many runs are stacked
    x = (power * start.to(matrix.dtype)).sum(1)
    return (matrix * x).sum(1).norm() / x.norm().clamp(min=tiny)


def second_moments(layout: Layout, state: Mapping[str, Tensor]) -> list[Tensor | None]:
    """A tensor's running mean of squared gradients, as it stands in the state; None where there is none.

    SGD, say, has none, Muon none of its matrices, and Amos one number a tensor. AdaX's is corrected as it stands;
    Adafactor's is made of its rows and columns.
    """
    if "mean_sq_rows" in state:
        return factored_moments(layout, state)
    v = state.get("exp_avg_sq", state.get("mean_sq"))
    if v is not None and v is state.get("mean_sq") and len(v) != layout.num_params:
        v = None
    if v is None:
        return [None] * len(layout.sizes)
    if len(v) == layout.num_params:
        return list(split(layout, v))
    own = [kind != "matrix" for kind in layout.kinds]
    pieces = iter(torch.split(v, [size for size, has in zip(layout.sizes, own, strict=True) if has]))
    return [next(pieces) if has else None for has in own]


def factored_moments(layout: Layout, state: Mapping[str, Tensor]) -> list[Tensor | None]:
    """Adafactor's v = row col / mean(row) of tensors of two dimensions or more, and of vectors as it stands."""
    shapes = [(shape[0], math.prod(shape[1:])) if len(shape) > 1 else None for shape in layout.shapes]
    rows = iter(torch.split(state["mean_sq_rows"], [shape[0] for shape in shapes if shape]))
    cols = iter(torch.split(state["mean_sq_cols"], [shape[1] for shape in shapes if shape]))
    sizes = [size for size, shape in zip(layout.sizes, shapes, strict=True) if not shape]
    whole = iter(torch.split(state["mean_sq_others"], sizes))
    return [outer(next(rows), next(cols)) if shape else next(whole) for shape in shapes]


def outer(row: Tensor, col: Tensor) -> Tensor:
    return ((row / row.mean())[:, None] * col).reshape(-1)


def split(layout: Layout, value: Tensor) -> tuple[Tensor, ...]:
    """One piece a tensor; a number that is one for all entries stays as it is."""
    return tuple(torch.split(value, layout.sizes, dim=-1)) if value.dim() else (value,) * len(layout.sizes)


def rms(x: Tensor) -> Tensor:
    return x.norm(dim=-1) / x.shape[-1] ** 0.5  # in one pass over memory


def cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
