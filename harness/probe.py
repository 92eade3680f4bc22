"""Measurements at a frozen checkpoint: gradient, noise and curvature, and what one step of an optimizer does there.

The loss is that of samples that no batch is drawn from (the evaluation samples), in eval mode, so that the gradient g
in u.g has nothing in common with the noise in u. Batches are drawn with replacement from a pool of other samples.

Shapes: N parameters, M samples of the pool, K draws, C columns of H and Sigma, E learning rates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.config import RunConfig
from harness.curvature import (
    derivatives_along,
    gauss_newton_along,
    hessian_products,
    losses_along,
    pieces_of,
    sample_gradients,
)
from harness.draws import (
    PROBED,
    Pool,
    Probed,
    draw_gradients,
    matrices_of,
    overlaps_off,
    permute_samples,
    squares_off,
)
from harness.one_step import find_minimum, mean_by_controls
from harness.parameters import Layout, unflatten_params
from harness.program import Program
from harness.records import PROBES, probe_path
from harness.store import publish, subfolder
from harness.tasks import Batch, Task

BATCH_SIZES = [4**k for k in range(8)]
FIRST_SAMPLE = 2**40  # of those that are measured with: far beyond training's
ALL_COLUMNS = 4096  # parameters up to which H and Sigma are kept whole
NUM_COLUMNS = 256  # of larger models
RATES = 2.0 ** torch.arange(-2.0, 2.25, 0.5, dtype=torch.float64)  # times the predicted learning rate
CHEAP_DRAWS = 128  # more draws for E[u.g], which needs products alone
CHANGES = 3  # times that the learning rates are moved where the minimum lies at their edge


@dataclass(frozen=True)
class Checkpoint:
    """A task at frozen parameters, with the samples that are set aside for measuring.

    Attributes:
        loss: in eval mode, the mean over a batch.
        pool: per-sample gradients that batches are drawn from.
        samples: the evaluation samples.
        gradient_N: of the loss on them.
    """

    task: Task
    layout: Layout
    params_N: Tensor
    loss: Callable[[Mapping[str, Tensor], Batch], Tensor]
    pool: Pool
    samples: Batch
    gradient_N: Tensor


def freeze(
    task: Task, layout: Layout, params_N: Tensor, pool_batch: Batch, samples: Batch, *, permute: bool = False
) -> Checkpoint:
    """Gradients of the pool's samples one by one, and of the evaluation samples as one.

    Args:
        permute: the order of the pool's samples is another in every coordinate, so that their noise is uncorrelated.
    """
    loss = task.heldout_loss or task.loss
    grads_MN = sample_gradients(loss, params_N, layout, pool_batch)
    if permute:
        grads_MN = permute_samples(grads_MN, torch.Generator().manual_seed(0))
    gradient_N = torch.zeros_like(params_N)
    for share, piece in pieces_of(samples):
        with torch.enable_grad():
            own_N = params_N.detach().clone().requires_grad_()
            loss(unflatten_params(own_N, layout), piece).backward()
        assert own_N.grad is not None, "the loss depends on the parameters"
        gradient_N += share * own_N.grad
    return Checkpoint(task, layout, params_N, loss, Pool.of(grads_MN), samples, gradient_N)


def measure_scales(at: Checkpoint, num_draws: int, generator: torch.Generator) -> dict[str, float]:
    """Sizes of gradient, noise and curvature, each with its standard error as NAME_se where it is a sampled mean.

    The numbers, with p the mean gradient of the pool's M samples:

        grad_sq = g.g = p.g, the other g of the evaluation samples, so that its own noise is in neither
        grad_curvature = g.H g = p.H p - tr(Sigma H) / M: H is of the evaluation samples, and would know their g
        noise_trace = tr Sigma      noise_curvature = tr(Sigma H), from single samples' deviations d off p, drawn as
                                    often as they are large: tr Sigma times the mean of d.H d / d.d
        trace = tr H, by Rademacher vectors (Hutchinson)                  ..._gauss_newton: with G for H
    """
    pool, count = at.pool, len(at.pool.grads_MN)
    size_M = pool.noise_sq().double()
    chance_M = size_M if size_M.any() else torch.ones_like(size_M)
    drawn_K = torch.multinomial(chance_M.cpu(), 8 * num_draws, replacement=True, generator=generator).to(size_M.device)
    deviations_KN = pool.grads_MN[drawn_K] - pool.mean_N
    signs_KN = torch.randint(0, 2, (num_draws, len(at.params_N)), generator=generator).to(at.params_N) * 2 - 1
    found = mean_and_error("grad_sq", (pool.grads_MN @ at.gradient_N).double())
    # The evaluation samples' noise is as large a sample. To second order p.g scatters by tr(Sigma^2) / (M M') too: the
    # scatter of a sample's product with g holds that, and the factor enlarges it: the error is a bit too large
    found["grad_sq_se"] *= (1 + count / len(at.samples[0])) ** 0.5
    found |= mean_and_error("noise_trace", size_M)
    for name, kind in (("", bend_along), ("_gauss_newton", bend_of_outputs_along)):
        found |= mean_and_error(f"trace{name}", kind(at, signs_KN))
        noise = mean_and_error(f"noise_curvature{name}", kind(at, deviations_KN) / chance_M[drawn_K])
        found |= {key: found["noise_trace"] * value for key, value in noise.items()}
        found[f"grad_curvature{name}"] = float(kind(at, pool.mean_N[None])) - found[f"noise_curvature{name}"] / count
    return found | {"grad_curvature_se": error_of_bend(at)}


def error_of_bend(at: Checkpoint) -> float:
    """Standard error of p.H p: of p by its samples, of H by sixteenths of the evaluation samples."""
    pool, count = at.pool, len(at.samples[0])
    product_N = hessian_products(at.loss, at.params_N, at.layout, at.samples, pool.mean_N[None])[0]
    by_gradient = 2 * mean_and_error("", (pool.grads_MN @ product_N).double())["_se"]
    parts_K = torch.stack([
        derivatives_along(at.loss, at.params_N, at.layout, part, pool.mean_N[None])[0, 1]
        for _, part in pieces_of(at.samples, max(1, count // 16))
    ])  # fmt: skip
    return float(np.hypot(by_gradient, mean_and_error("", parts_K)["_se"]))


def bend_along(at: Checkpoint, directions_KN: Tensor) -> Tensor:
    """u.H u."""
    return derivatives_along(at.loss, at.params_N, at.layout, at.samples, directions_KN)[:, 1]


def bend_of_outputs_along(at: Checkpoint, directions_KN: Tensor) -> Tensor:
    """u.G u."""
    return gauss_newton_along(at.task, at.params_N, at.layout, at.samples, directions_KN)[:, 0]


def mean_and_error(name: str, values_K: Tensor) -> dict[str, float]:
    error = values_K.std() / len(values_K) ** 0.5
    return {name: float(values_K.mean()), f"{name}_se": float(error)}


def measure_step(
    at: Checkpoint, probed: Probed, batch_size: int, num_draws: int, generator: torch.Generator
) -> tuple[dict[str, float], Tensor, Tensor]:
    """One optimizer at one batch size: what its update looks like, and the learning rate that is best for one step.

        overlap = E[u.g]      curvature = E[u.H u], curvature_gauss_newton     third = E[(d/dt)^3 L(params + t u)]
        lr, lr_se      argmin over lr of E L(params - lr u) - L(params), and the standard error of its logarithm
        decrease       minus that minimum

    The mean over K draws has a control variate: u.g of each draw is taken out and its mean over many more draws put
    in, since dot products are cheap and nearly all of the scatter of a small step is in them. Means over draws have
    controls of their own, whose means are known from the pool: of E[u.g] what is linear in the batch's gradient, so
    that of SGD and Adam nothing else is left; of all else its squares.

        E dL(lr) = mean_k[L(params - lr u_k) - L(params) + lr u_k.g] - lr E[u.g]

    Returns: these numbers, and mean and mean square of u, entry by entry.
    Source: kexue.fm/archives/11260; the control variate is this project's own.
    """
    many = draw_gradients(at.pool, batch_size, CHEAP_DRAWS + num_draws, generator, probed.beta1)
    directions_KN = probed.direction(many, at.pool, batch_size, at.layout)
    overlap_K = (directions_KN @ at.gradient_N).double().cpu()
    found = mean_by_controls("overlap", overlap_K.numpy(), overlaps_off(at.pool, at.gradient_N, many, batch_size))
    moments = directions_KN.mean(0), directions_KN.square().mean(0)
    off_KC = squares_off(at.pool, many[:num_draws], batch_size, probed.beta1)
    directions_KN, own_K = directions_KN[:num_draws].contiguous(), overlap_K[:num_draws]
    derivatives_K3 = derivatives_along(at.loss, at.params_N, at.layout, at.samples, directions_KN).cpu().numpy()
    found |= mean_by_controls("curvature", derivatives_K3[:, 1], off_KC)
    found |= mean_by_controls("curvature_gauss_newton", bend_of_outputs_along(at, directions_KN).cpu().numpy(), off_KC)
    found |= mean_by_controls("third", derivatives_K3[:, 2], off_KC)
    return found | measure_minimum(at, directions_KN, own_K, off_KC, found), *moments


def measure_minimum(
    at: Checkpoint, directions_KN: Tensor, own_K: Tensor, off_KC: np.ndarray, found: Mapping[str, float]
) -> dict[str, float]:
    """lr and decrease of measure_step with their standard errors; NaN where no learning rate that was tried is best."""
    bend = found["curvature"] if found["curvature"] > 0 else found["curvature_gauss_newton"]
    centre = abs(found["overlap"]) / abs(bend) if bend else float("nan")
    before = float(losses_along(at.loss, at.params_N, at.layout, at.samples, torch.zeros_like(directions_KN[:1])))
    for _ in range(CHANGES):
        rates_E = centre * RATES
        moved = torch.stack([
            losses_along(at.loss, at.params_N, at.layout, at.samples, -float(lr) * directions_KN) for lr in rates_E
        ]).cpu()  # fmt: skip
        change_KE = (moved - before).T + rates_E * own_K[:, None]
        minimum = find_minimum(rates_E.numpy(), change_KE.numpy(), off_KC, found["overlap"], found["overlap_se"])
        if minimum.side == 0:
            return {
                "lr": minimum.lr, "lr_se": minimum.lr_se, "decrease": minimum.decrease,
                "decrease_se": minimum.decrease_se,
            }  # fmt: skip
        centre *= 4.0**minimum.side
    return dict.fromkeys(("lr", "lr_se", "decrease", "decrease_se"), float("nan"))


def keep_arrays(at: Checkpoint, generator: torch.Generator) -> dict[str, Tensor]:
    """What predictions are made from: gradients, variances, and columns of H, of G and of Sigma.

    All columns of a small model; of a large one some, drawn with the probabilities that are kept beside them, more
    often where noise is large.
    """
    size, pool, device = len(at.params_N), at.pool, at.params_N.device
    if size <= ALL_COLUMNS:
        columns_C = torch.arange(size, device=device)
        probability_C = torch.ones(size, dtype=torch.float64, device=device)
    else:
        weight_N = pool.variance_N.double().sqrt() + at.gradient_N.double().abs()
        chance_N = weight_N / weight_N.sum() / 2 + 0.5 / size
        columns_C = torch.multinomial(chance_N.cpu(), NUM_COLUMNS, replacement=True, generator=generator).to(device)
        probability_C = chance_N[columns_C] * NUM_COLUMNS
    units_CN = torch.zeros(len(columns_C), size, dtype=at.params_N.dtype, device=device)
    units_CN[torch.arange(len(columns_C), device=device), columns_C] = 1
    arrays = {
        "gradient": at.gradient_N, "pool_gradient": pool.mean_N, "variance": pool.variance_N,
        "columns": columns_C, "probability": probability_C,
        "hessian": hessian_products(at.loss, at.params_N, at.layout, at.samples, units_CN),
        "noise": pool.mean_over(lambda noise_MN: noise_MN[:, columns_C].T @ noise_MN),
    }  # fmt: skip
    for name, (start, rows, cols) in matrices_of(at.layout).items():
        place = slice(start, start + rows * cols)
        arrays[f"gram.{name}"] = pool.mean_over(partial(gram_of, place=place, rows=rows, cols=cols))
        arrays[f"place.{name}"] = torch.tensor([start, rows, cols])  # where it lies among the N, and its size
    return {name: tensor.cpu().contiguous() for name, tensor in arrays.items()}


def gram_of(noise_MN: Tensor, place: slice, rows: int, cols: int) -> Tensor:
    """Sum over samples of the smaller Gram matrix: N N^T of a wide matrix N, else N^T N.

    N is the place in a sample's noise that is a matrix. A batch's G^T G with more columns than rows is never of full
    rank, but its mean may be, so that the mean says nothing of a root of it; that of the smaller side is both.
    """
    noise = noise_MN[:, place].reshape(-1, rows, cols)
    stacked = (noise.mT if rows < cols else noise).flatten(0, 1)
    return stacked.T @ stacked


def probe(
    at: Checkpoint, batch_sizes: list[int], num_draws: int, seed: int, between: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Everything: scales, lists with an entry an optimizer and batch size, and arrays.

    Arrays beside those of keep_arrays: mean.OPTIMIZER.B and square.OPTIMIZER.B, of the updates' entries.

    Args:
        between: called before every optimizer and batch size, and before the arrays; ends the probe by what it raises.
    """
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    arrays: dict[str, Tensor] = {}
    # On the CPU and from the start: small tensors kept on the way would each lie in the hole that a large one left, and
    # spoil it
    moments_S2N = torch.zeros(len(PROBED) * len(batch_sizes), 2, len(at.params_N), dtype=at.params_N.dtype)
    with torch.no_grad():
        scales = measure_scales(at, num_draws, generator)
        for name, probed in PROBED.items():
            if name == "muon" and not matrices_of(at.layout):
                continue
            for batch_size in batch_sizes:
                between()
                row, mean_N, square_N = measure_step(at, probed, batch_size, num_draws, generator)
                kept_2N = moments_S2N[len(rows)]
                kept_2N[0], kept_2N[1] = mean_N, square_N
                arrays |= {f"mean.{name}.{batch_size}": kept_2N[0], f"square.{name}.{batch_size}": kept_2N[1]}
                rows.append({"optimizer": name, "batch_size": batch_size, **row})
        between()
        arrays |= keep_arrays(at, generator)
    single = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in arrays.items()}
    return scales | {key: [row[key] for row in rows] for key in rows[0]}, single


def probe_run(
    program: Program, config: RunConfig, params_N: Tensor, folder: Path, run_id: str, between: Callable[[], None]
) -> dict[str, Any]:
    """Probe one run's checkpoint: its columns `probe.*`; the arrays go to runs_dir/NAME/probes/RUN_ID.safetensors.

    Needs the stack's lease: arrays that an earlier training of the run left are replaced.

    Args:
        between: as for probe.

    Raises: StoreError when they cannot be written, and whatever `between` does.
    """
    assert config.pool_samples is not None, "one_step has its numbers"
    assert config.probe_samples is not None
    assert config.num_draws is not None
    pool_batch = program.task.sample(config.seed, FIRST_SAMPLE, config.pool_samples)
    samples = program.task.sample(config.seed, FIRST_SAMPLE + config.pool_samples, config.probe_samples)
    sizes = [size for size in BATCH_SIZES if size <= config.pool_samples]
    with sdpa_kernel(SDPBackend.MATH):  # no other is differentiated forwards
        at = freeze(
            program.task, program.layout, params_N, pool_batch, samples, permute=bool(config.permute_samples)
        )  # fmt: skip
        found, arrays = probe(at, sizes, config.num_draws, config.seed, between)
    subfolder(folder, PROBES)
    path = probe_path(folder, run_id)
    path.unlink(missing_ok=True)
    publish(path, safetensors.torch.save(arrays))
    return {f"probe.{name}": value for name, value in found.items()}
