"""Oracle: closed forms, and torch's own schedulers for cosine."""

import math

import pytest
import torch

from harness.checks import CHOICES
from harness.schedules import SCHEDULES, lr_multipliers, multiplier_tables, weight_decay_multipliers


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
    plain = lr_multipliers({"name": name, "warmup": 0.0, **options}, 100, rate=0.1)
    warm = lr_multipliers({"name": name, "warmup": 0.095, **options}, 100, rate=0.1)
    ratios = [w / p for w, p in zip(warm, plain, strict=True)]
    assert ratios[:10] == pytest.approx([(t + 1) / math.ceil(9.5) for t in range(10)])
    assert warm[10:] == plain[10:]


def weigh_updates(lrs, decays):
    """Of w <- (1 - lr_t decay_t) w + lr_t u_t, what u_t weighs in the final w: lr_t prod_{s>t} (1 - lr_s decay_s)."""
    weights, left = [], 1.0
    for lr, decay in zip(reversed(lrs), reversed(decays), strict=True):
        weights.append(lr * left)
        left *= 1 - lr * decay
    return weights[::-1]


def test_inverse_sqrt_falls_with_the_root_of_the_step():
    schedule = {"name": "inverse_sqrt", "warmup": 0.0, "timescale": 1.0}
    assert lr_multipliers(schedule, 4, rate=0.3) == pytest.approx([1, 2**-0.5, 3**-0.5, 0.5])
    path = lr_multipliers({**schedule, "timescale": 10.0}, 1000)
    assert path[30] == 0.5
    assert path[999] / path[249] == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize("given", [{}, {"timescale": None}], ids=["left out", "null"])
def test_inverse_sqrt_takes_the_timescale_of_the_run(given):
    schedule = {"name": "inverse_sqrt", "warmup": 0.0, "weight_decay": "inverse_sqrt", **given}
    path = lr_multipliers(schedule, 5, rate=0.5)
    assert path == pytest.approx([1, 2**-0.5, 3**-0.5, 4**-0.5, 5**-0.5])
    assert path == weight_decay_multipliers(schedule, 5, rate=0.5)
    assert lr_multipliers(schedule, 5, rate=0.1) == lr_multipliers({**schedule, "timescale": 5.0}, 5)
    assert lr_multipliers(schedule, 5, rate=0.0) == [1.0] * 5  # no weight decay


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.2])
def test_inverse_sqrt_of_lr_and_decay_weighs_every_update_alike(rate):
    """Oracle: neighbours' weights have the ratio (1 - (rate / (x + rate))^2)^(-1/2), x = 1 + 2 rate t, whose product
    over a long run is e^(rate/4); with u_t independent, of variance 1, the variance of w stays at lr / (2 decay).
    """
    lr, num_steps = 0.02, 4000
    schedule = {"name": "inverse_sqrt", "warmup": 0.0, "weight_decay": "inverse_sqrt"}
    lrs = [lr * m for m in lr_multipliers(schedule, num_steps, rate=rate)]
    decays = [rate / lr * m for m in weight_decay_multipliers(schedule, num_steps, rate=rate)]
    weights = weigh_updates(lrs, decays)
    assert max(weights) / min(weights) == pytest.approx(math.exp(rate / 4), abs=0.1 * rate)
    assert max(weights) == weights[0]
    variance = lr / (2 * rate / lr)
    for lr_t, decay_t in zip(lrs, decays, strict=True):
        variance = (1 - lr_t * decay_t) ** 2 * variance + lr_t**2
    assert variance == pytest.approx(lr / (2 * rate / lr), rel=rate)
    alone = weigh_updates(lrs, [rate / lr] * num_steps)  # constant decay forgets the first ones
    assert alone[0] < 0.9 * alone[-1]


@pytest.mark.parametrize("rate", [0.005, 0.5])
def test_inverse_time_weighs_every_update_alike(rate):
    lr, num_steps = 0.01, 400
    lrs = [lr * m for m in lr_multipliers({"name": "inverse_time", "warmup": 0.0}, num_steps, rate=rate)]
    weights = weigh_updates(lrs, [rate / lr] * num_steps)
    assert weights == pytest.approx([weights[0]] * num_steps)  # exactly
    assert lrs[0] / lrs[-1] == pytest.approx(1 + rate * 399)


def test_weight_decay_follows_its_own_schedule_without_warmup():
    schedule = {"name": "cosine", "warmup": 0.5, "final": 0.1, "weight_decay": None}
    assert weight_decay_multipliers(schedule, 4) == [1.0] * 4
    assert weight_decay_multipliers({**schedule, "weight_decay": "linear"}, 4) == [1, 0.75, 0.5, 0.25]
    plain = lr_multipliers({"name": "cosine", "warmup": 0.0, "final": 0.1}, 4)
    assert weight_decay_multipliers({**schedule, "weight_decay": "cosine"}, 4) == plain


def test_tables_have_a_number_a_run_only_where_runs_differ():
    runs = [{"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.2, "weight_decay": 0.5}, {"lr": 0.2, "weight_decay": 0.0}]
    assert multiplier_tables({"name": "linear", "warmup": 0.0}, 2, runs) == {"lr": [[1.0], [0.5]]}
    both = multiplier_tables({"name": "inverse_time", "warmup": 0.0, "weight_decay": "linear"}, 2, runs)
    assert both["lr"] == [[1, 1, 1], pytest.approx([1 / 1.05, 1 / 1.1, 1])]
    assert both["weight_decay"] == [[1], [0.5]]
    assert multiplier_tables({"name": "inverse_time", "warmup": 0.0}, 2, [{"lr": 0.1}]) == {"lr": [[1], [1]]}
    root = {"name": "inverse_sqrt", "warmup": 0.0, "weight_decay": "inverse_sqrt"}
    own = [[1, 1, 1], pytest.approx([1.1**-0.5, 1.2**-0.5, 1])]
    assert multiplier_tables(root, 2, runs) == {"lr": own, "weight_decay": own}
    assert multiplier_tables({**root, "timescale": 1 / 3}, 2, runs)["lr"] == [[1], [0.5]]


def test_weight_decay_may_follow_every_schedule():
    assert set(CHOICES["schedule.weight_decay"]) == set(SCHEDULES)


@pytest.mark.parametrize(
    "schedule",
    [{"name": "inverse_time"}, {"name": "inverse_sqrt"}, {"name": "linear", "weight_decay": "linear"}],
)
def test_a_schedule_of_decay_needs_decay(make_run, schedule):
    with pytest.raises(ValueError, match="needs weight decay, and optimizer=adam has none: .*adamw"):
        make_run(schedule={**schedule, "warmup": 0.0})
    make_run(schedule={**schedule, "warmup": 0.0}, optimizer={"weight_decay": 0.1})


def test_inverse_sqrt_without_decay_takes_a_timescale(make_run):
    with pytest.raises(ValueError, match=r"optimizer=adam has none: .*or give schedule\.timescale"):
        make_run(schedule={"name": "inverse_sqrt", "warmup": 0.0, "timescale": None})
    make_run(schedule={"name": "inverse_sqrt", "warmup": 0.0, "timescale": 100.0})


def test_an_unknown_schedule_of_decay_is_told(make_run):
    with pytest.raises(ValueError, match="schedule.weight_decay='linaer' is not one of .*did you mean linear"):
        make_run(schedule={"name": "linear", "warmup": 0.0, "weight_decay": "linaer"})
