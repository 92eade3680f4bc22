"""Fifty steps on noisy gradients of a quadratic in float64, by a stack of ours and by an oracle of one run."""

import torch
from torch.func import vmap

from harness.optimizers import make_optimizer
from harness.parameters import layout_of
from tests.reference.optimizers import SHAPES

SIZE, STEPS = 23, 50
LRS = (0.003, 0.01, 0.3)
LAYOUT = layout_of({name: torch.empty(shape) for name, shape in SHAPES.items()}, embeddings={"table"})
assert LAYOUT.num_params == SIZE


def numbers(config, dtype=torch.float64):
    return {name: torch.tensor(x, dtype=dtype) for name, x in config.items() if isinstance(x, float)}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(seed=0):
    """Quadratic with curvatures over two decades, plus noise that does not depend on the path."""
    generator = torch.Generator().manual_seed(seed)
    curvature = torch.logspace(-1, 1, SIZE, dtype=torch.float64)
    noise = torch.randn(STEPS, SIZE, generator=generator, dtype=torch.float64)
    begin = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return curvature, noise, begin


def oracle_path(make, hyper, decay_before):
    """Where an oracle's fifty steps lead: make(p, hyper) -> an object whose step() reads p.grad and moves p."""
    curvature, noise, begin = gradients()
    p = torch.nn.Parameter(begin.clone())
    optimizer = make(p, hyper)
    for t in range(STEPS):
        p.grad = curvature * p.detach() + noise[t]
        if decay_before:
            with torch.no_grad():
                p.mul_(1 - hyper["lr"] * hyper["weight_decay"])
        optimizer.step()
    return p.detach()


def stack_path(config):
    """Where three runs of a stack are led by theirs, one a learning rate of LRS."""
    curvature, noise, begin = gradients()
    optimizer = make_optimizer({**config, "lr": 0.1}, LAYOUT)
    hyper = {name: value.expand(3) for name, value in numbers(config).items()}
    hyper["lr"] = torch.tensor(LRS, dtype=torch.float64)
    params = begin.repeat(3, 1)
    state = vmap(optimizer.init)(params)
    update = vmap(optimizer.update, in_dims=(0, 0, 0, dict.fromkeys(hyper, 0) | {"step": None}))
    for t in range(STEPS):
        step = torch.tensor(float(t + 1), dtype=torch.float64)
        updates, state = update(curvature * params + noise[t], state, params, hyper | {"step": step})
        params = params + updates
    return params


def check_path(config, make, decay_before, rtol=1e-11, atol=1e-12):
    params = stack_path(config)
    for lane, lr in enumerate(LRS):
        expected = oracle_path(make, {**config, "lr": lr}, decay_before)
        assert bool(expected.isfinite().all())
        torch.testing.assert_close(params[lane], expected, rtol=rtol, atol=atol)
