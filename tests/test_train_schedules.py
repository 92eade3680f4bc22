"""Oracle: a plain loop of decoupled SGD on a random walk, with the schedules written out by hand."""

import math

import pytest
import torch

from harness.config import run_id
from harness.plan import Stack
from harness.program import make_program
from harness.tasks import make_task
from harness.train import train

CPU = torch.device("cpu")
WALK = {"name": "random_walk", "dimension": 5, "mean": 0.3, "std": 2.0, "start": 0.5, "num_heldout": 1}
STEPS = 20


def lr_by_hand(name, t, rate):
    return {
        "inverse_time": 1 / (1 + rate * t), "inverse_sqrt": (1 + 2 * rate * t) ** -0.5,
        "cosine": 0.1 + 0.9 * (1 + math.cos(math.pi * t / STEPS)) / 2,
    }[name]  # fmt: skip


@pytest.mark.parametrize("decay", [None, "linear", "inverse_sqrt"])
@pytest.mark.parametrize(
    "options",
    [{"name": "inverse_time"}, {"name": "inverse_sqrt", "timescale": None}, {"name": "cosine", "final": 0.1}],
    ids=lambda o: o["name"],
)
def test_lr_and_weight_decay_follow_their_schedules_run_by_run(make_run, options, decay):
    lanes = [
        make_run(
            task=WALK, model={"name": "none"}, precision="float64", batch_size=4, num_samples=4 * STEPS,
            schedule={**options, "warmup": 0.0, "weight_decay": decay},
            optimizer={"name": "sgd", "lr": lr, "momentum": 0.0, "nesterov": False, "weight_decay": weight_decay},
        )
        for lr in (0.1, 0.3) for weight_decay in (0.0, 0.5)
    ]  # fmt: skip
    stack = Stack({run_id(config): config for config in lanes})
    *_, progress = train(make_program(stack, CPU), stack, num_evals=1, num_examples=1)
    for lane, config in enumerate(lanes):
        lr, weight_decay = config.optimizer["lr"], config.optimizer["weight_decay"]
        task = make_task(config, CPU)
        w = task.init(0)["w"].clone()
        for t in range(STEPS):
            gradient = task.sample(0, 4 * t, 4)[0].mean(0)
            shrink = {None: 1.0, "linear": 1 - t / STEPS, "inverse_sqrt": (1 + 2 * lr * weight_decay * t) ** -0.5}
            decay_t = weight_decay * shrink[decay]
            w = w - lr * lr_by_hand(options["name"], t, lr * weight_decay) * (gradient + decay_t * w)
        torch.testing.assert_close(progress.params_RN[lane], w, rtol=0, atol=1e-14)
