"""One run as anybody would write it: a module, torch.optim, a loop. The oracle of the stacked engine.

Shares with it only what defines the run: the module's class, its initial values and the samples.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.config import RunConfig
from harness.models import make_model
from harness.tasks import make_task

CPU = torch.device("cpu")
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def plain_module(config: RunConfig, params: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The module with given parameters, or those of the run's seed."""
    module = make_model(config.model, context=config.task["context"], num_symbols=256, num_outputs=256)
    module = module.to(DTYPES[config.precision])
    module.load_state_dict(make_task(config, CPU).init(config.seed) if params is None else params)
    return module


def plain_optimizer(config: RunConfig, module: nn.Module) -> torch.optim.Optimizer:
    hyper = config.optimizer
    if hyper["name"] == "sgd":
        return torch.optim.SGD(
            module.parameters(), lr=hyper["lr"], momentum=hyper["momentum"], nesterov=hyper["nesterov"]
        )
    assert hyper["name"] == "adam", "the reference knows sgd and adam"
    betas = (hyper["beta1"], hyper["beta2"])
    return torch.optim.Adam(module.parameters(), lr=hyper["lr"], betas=betas, eps=hyper["eps"])


def plain_step(module: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]) -> float:
    optimizer.zero_grad()
    logits = module(batch[0])
    loss = F.cross_entropy(logits.flatten(0, -2), batch[1].flatten())
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def plain_run(
    config: RunConfig,
    *,
    num_steps: int | None = None,
    multiplier: Callable[[int, int], float] = lambda t, T: 1 - t / T,
) -> nn.Module:
    """The trained module; linear decay unless told otherwise."""
    module = plain_module(config)
    optimizer = plain_optimizer(config, module)
    task = make_task(config, CPU)
    for t in range(num_steps or config.num_steps):
        optimizer.param_groups[0]["lr"] = config.optimizer["lr"] * multiplier(t, config.num_steps)
        plain_step(module, optimizer, task.sample(config.seed, t * config.batch_size, config.batch_size))
    return module


@torch.no_grad()
def plain_loss(config: RunConfig, module: nn.Module, num_examples: int) -> float:
    symbols, following = make_task(config, CPU).heldout(num_examples)
    return float(F.cross_entropy(module(symbols), following))
