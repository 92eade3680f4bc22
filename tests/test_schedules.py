"""Oracle: closed forms, and torch's own schedulers for cosine."""

import math

import pytest
import torch

from harness.schedules import SCHEDULES, lr_multipliers


def test_constant_is_one():
    assert lr_multipliers({"name": "constant", "warmup": 0.0}, 5) == [1.0] * 5


def test_linear_ends_at_one_step_and_travels_half_the_path():
    path = lr_multipliers({"name": "linear", "warmup": 0.0}, 8)
    assert path == [1 - t / 8 for t in range(8)]
    assert path[-1] == 1 / 8
    assert sum(path) == (8 + 1) / 2


def test_cosine_is_torchs():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.1)
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert lr_multipliers({"name": "cosine", "warmup": 0.0, "final": 0.1}, 20) == pytest.approx(expected, abs=1e-12)


def test_wsd_stays_and_then_falls_to_zero_after_the_end():
    path = lr_multipliers({"name": "wsd", "warmup": 0.0, "decay": 0.25}, 16)
    assert path == [1.0] * 12 + [1.0, 0.75, 0.5, 0.25]
    assert lr_multipliers({"name": "wsd", "warmup": 0.0, "decay": 0.0}, 3) == [1.0] * 3


@pytest.mark.parametrize("name", SCHEDULES)
def test_warmup_rises_in_equal_steps_and_reaches_the_schedule(name):
    options = {"cosine": {"final": 0.0}, "wsd": {"decay": 0.2}}.get(name, {})
    plain = lr_multipliers({"name": name, "warmup": 0.0, **options}, 100)
    warm = lr_multipliers({"name": name, "warmup": 0.095, **options}, 100)
    ratios = [w / p for w, p in zip(warm, plain, strict=True)]
    assert ratios[:10] == pytest.approx([(t + 1) / math.ceil(9.5) for t in range(10)])
    assert warm[10:] == plain[10:]
