"""Oracle: plain loops over windows, positions and symbols."""

import math

import pytest
import torch

from harness.model_sizes import predicts_every
from harness.tasks import make_task
from harness.tasks.windows import next_symbol_loss, split_windows

CPU = torch.device("cpu")
OWN = "mymodels.nets:Net"


def test_each_input_is_followed_by_its_target():
    windows = torch.arange(12).reshape(3, 4) ** 2
    inputs, targets = split_windows(windows, True)
    last = split_windows(windows, False)[1]
    for window, read, following, final in zip(*(t.tolist() for t in (windows, inputs, targets, last)), strict=True):
        for t in range(3):
            assert (read[t], following[t]) == (window[t], window[t + 1])
        assert final == window[3]


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
def test_the_loss_is_the_mean_over_samples_and_positions(shape):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(*shape, 7, generator=generator, dtype=torch.float64)
    targets = torch.randint(7, shape, generator=generator)
    losses = []
    for z, target in zip(logits.reshape(-1, 7).tolist(), targets.flatten().tolist(), strict=True):
        losses.append(math.log(sum(math.exp(x) for x in z)) - z[target])
    assert float(next_symbol_loss(logits, targets)) == pytest.approx(sum(losses) / len(losses), rel=1e-12)


def test_another_number_of_positions_is_told():
    with pytest.raises(ValueError, match=r"outputs of shape \(2, 3, 7\) for targets of shape \(2,\).*every_position"):
        next_symbol_loss(torch.zeros(2, 3, 7), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "option", "every"),
    [("gpt", None, True), ("ngram", None, False), (OWN, None, False), (OWN, True, True), (OWN, False, False)],
)
def test_who_predicts_every_position(name, option, every):
    assert predicts_every({"name": "text", "every_position": option}, {"name": name}) is every


@pytest.mark.parametrize(
    ("value", "words"), [(True, "ngram predicts the last position alone"), ("yes", "'yes' is not one of true, false")]
)
def test_a_model_of_ours_says_itself_what_it_predicts(make_run, value, words):
    with pytest.raises(ValueError, match=words):
        make_run(task={"every_position": value})


def test_a_module_of_ones_own_gets_every_position(make_run):
    config = make_run(model={"name": "torch.nn:Embedding", "num_embeddings": 256, "embedding_dim": 256})
    every = make_task(make_run(model=dict(config.model), task={"every_position": True}), CPU)
    inputs, targets = every.sample(0, 0, 4)
    last = make_task(config, CPU).sample(0, 0, 4)
    assert torch.equal(inputs, last[0])
    assert torch.equal(targets[:, :-1], inputs[:, 1:])
    assert torch.equal(targets[:, -1], last[1])
    table = every.init(0)
    logits = table["weight"][inputs].log_softmax(-1)
    plain = sum(-logits[b, t, targets[b, t]] for b in range(4) for t in range(8)) / 32
    assert float(every.loss(table, (inputs, targets))) == pytest.approx(float(plain), rel=1e-5)
