"""Oracle: the package pytorch-optimizer over 50 steps in float64, on noisy gradients of a quadratic; where it deviates
from what is meant, tests/reference/optimizers.py.

It takes one tensor for all parameters, or a view of each tensor where shapes matter. What it lacks is added here: steps
relative to a tensor's RMS (Tiger), decay of what was there before the step (Adafactor). What is meant deviates from it
in LAMB's bias correction, which cancels in the ratio only without eps and decay, and in Amos' closed forms.
"""

from types import SimpleNamespace

import pytest
import pytorch_optimizer as library
import torch

from harness.config import ROOT
from harness.optimizers import OPTIMIZERS, make_optimizer, state_sizes
from tests import test_optimizers
from tests.reference import optimizers as plain
from tests.reference.optimizer_paths import LAYOUT, SIZE, check_path


def on_views(p, make, each_step=lambda optimizer, tensors: None):
    """A library's optimizer on a view of each tensor."""
    tensors = list(plain.views(p.detach()).values())
    optimizer = make(tensors)

    def step():
        for tensor, grad in zip(tensors, plain.views(p.grad).values(), strict=True):
            tensor.grad = grad.clone()
        each_step(optimizer, tensors)
        optimizer.step()

    return SimpleNamespace(step=step)


def decayed(optimizer, p, rate):
    """Then take away a share of what was there before the step."""

    @torch.no_grad()
    def step():
        before = p.detach().clone()
        optimizer.step()
        p.sub_(rate * before)

    return SimpleNamespace(step=step)


def library_lion(p, h):
    return library.Lion([p], h["lr"], betas=(h["beta1"], h["beta2"]), weight_decay=h["weight_decay"])


def library_adabelief(p, h):
    betas = (h["beta1"], h["beta2"])
    return library.AdaBelief([p], h["lr"], betas=betas, eps=h["eps"], weight_decay=h["weight_decay"])


def library_tiger(p, h):
    def make(tensors):
        groups = [{"params": [tensor]} for tensor in tensors]
        return library.Tiger(groups, h["lr"], beta=h["momentum"], weight_decay=h["weight_decay"])

    def scale_rates(optimizer, tensors):
        for group, tensor in zip(optimizer.param_groups, tensors, strict=True):
            group["lr"] = h["lr"] * (0.5 if tensor.dim() == 1 else plain.rms(tensor))

    return on_views(p, make, scale_rates)


def library_lamb(p, h):
    def make(tensors):
        optimizer = library.Lamb(tensors, h["lr"], betas=(h["beta1"], h["beta2"]), eps=0.0, adam_debias=True)
        optimizer.clamp = float("inf")  # its bound on lengths
        return optimizer

    return on_views(p, make)


def library_adafactor(p, h):
    def make(tensors):
        return library.AdaFactor(
            tensors, h["lr"], betas=(None, 1 - 1e-9), decay_rate=-h["beta2_decay"], clip_threshold=h["clip"],
            scale_parameter=h["relative_step"], relative_step=False, eps1=h["eps1"], eps2=h["eps2"],
        )  # fmt: skip

    return decayed(on_views(p, make), p, h["lr"] * h["weight_decay"])


def library_amos(p, h):
    def make(tensors):
        optimizer = library.Amos(
            tensors, h["lr"], beta=h["beta2"], momentum=h["momentum"], eps=h["eps"],
            c_coef=h["c_coef"], d_coef=h["d_coef"], foreach=False,
        )  # fmt: skip
        scales = {id(tensor): 0.5 if tensor.dim() == 1 else plain.rms(tensor) for tensor in tensors}
        optimizer.get_scale = lambda tensor: scales[id(tensor)]
        return optimizer

    return on_views(p, make)


BETAS = {"beta1": 0.9, "beta2": 0.95}
LAMB = {"name": "lamb", **BETAS, "eps": 0.0, "weight_decay": 0.0, "adapt_vectors": True}
FACTOR = {"name": "adafactor", "relative_step": True, "beta2_decay": 0.8, "clip": 1.0, "eps1": 1e-30, "eps2": 1e-3,
          "weight_decay": 0.0}  # fmt: skip
AMOS = {"name": "amos", "damping": "adaptive", "beta2": 0.95, "momentum": 0.9, "eps": 1e-18, "c_coef": 0.25,
        "d_coef": 0.25, "alignment": 0.1}  # fmt: skip
CLOSED = {**AMOS, "beta2": 0.0, "momentum": 0.0, "alignment": 0.3}
TIGER = {"name": "tiger", "momentum": 0.9, "accumulate": 1, "shrink": 0.99, "weight_decay": 0.1}
EG = {"name": "eg", "gamma": 0.001, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
STIEFEL = {"name": "muon_stiefel", "momentum": 0.9, "nesterov": True, "dual_lr": 0.1, "dual_steps": 1,
           "retraction": True, **BETAS, "eps": 1e-8, "weight_decay": 0.1}  # fmt: skip
TABLE = [
    ({"name": "lion", "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.1}, library_lion, False),
    ({"name": "lion", "beta1": 0.5, "beta2": 0.8, "weight_decay": 0.0}, library_lion, False),
    ({"name": "adabelief", **BETAS, "eps": 1e-16, "weight_decay": 0.0}, library_adabelief, False),
    ({"name": "adabelief", "beta1": 0.5, "beta2": 0.999, "eps": 1e-2, "weight_decay": 0.1}, library_adabelief, False),
    (TIGER, library_tiger, False),
    (TIGER, plain.tiger, False),
    ({**TIGER, "accumulate": 3}, plain.tiger, False),
    (LAMB, library_lamb, False),
    ({**LAMB, "eps": 0.1, "weight_decay": 0.3}, plain.lamb, False),
    ({**LAMB, "eps": 0.1, "weight_decay": 0.3, "adapt_vectors": False}, plain.lamb, False),
    (FACTOR, library_adafactor, False),
    ({**FACTOR, "relative_step": False, "clip": 0.3, "beta2_decay": 0.5, "eps1": 0.1, "weight_decay": 0.2},
     library_adafactor, False),
    ({**FACTOR, "eps2": 2.0}, library_adafactor, False),
    ({"name": "adax", "beta1": 0.9, "beta2": 1e-4, "eps": 1e-12, "weight_decay": 0.05}, plain.adax, False),
    ({"name": "adax", "beta1": 0.5, "beta2": 0.2, "eps": 0.1, "weight_decay": 0.0}, plain.adax, False),
    (AMOS, library_amos, False),
    ({**AMOS, "momentum": 0.0, "c_coef": 2.0, "d_coef": 3.0}, library_amos, False),
    ({**CLOSED, "damping": "inverse_square"}, plain.amos_article, False),
    ({**CLOSED, "damping": "inverse_time"}, plain.amos_article, False),
    (EG, plain.eg, False),
    ({**EG, "momentum": 0.5, "nesterov": True, "gamma": 0.0005, "weight_decay": 0.1}, plain.eg, False),
    ({**EG, "gamma": 0.0, "momentum": 0.9, "weight_decay": 0.1}, test_optimizers.torch_sgd, True),
    (STIEFEL, plain.muon_stiefel, False),
    ({**STIEFEL, "retraction": False, "nesterov": False, "dual_steps": 4, "dual_lr": 0.3}, plain.muon_stiefel, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "make", "decay_before"), TABLE, ids=lambda x: str(x)[:60] if isinstance(x, dict) else ""
)
def test_three_runs_in_a_stack_take_the_oracles_steps(config, make, decay_before):
    check_path(config, make, decay_before, rtol=1e-10, atol=1e-11)


def test_every_optimizer_has_an_oracle_and_a_file_of_options():
    assert {config["name"] for config, *_ in TABLE + test_optimizers.TABLE} == set(OPTIMIZERS)
    assert {path.stem for path in (ROOT / "conf" / "optimizer").glob("*.yaml")} == set(OPTIMIZERS)


def test_docstrings_say_when_they_hold_and_where_they_come_from():
    for name, make in OPTIMIZERS.items():
        assert "Valid when" in make.__doc__, name
        assert "Source" in make.__doc__, name


def test_state_sizes_are_those_that_a_run_holds():
    sizes = {config["name"]: state_sizes(make_optimizer({**config, "lr": 0.1}, LAYOUT), LAYOUT) for config, *_ in TABLE}
    assert sizes["adafactor"] == {"mean_sq_rows": 2 + 3 + 2, "mean_sq_cols": 4 + 2 + 3, "mean_sq_others": 3}
    assert sizes["lion"] == {"exp_avg": SIZE}
    assert sizes["tiger"] == {"exp_avg": SIZE, "centre": 4}
    assert sizes["muon_stiefel"]["dual"] == 2 * 2 + 2 * 2
