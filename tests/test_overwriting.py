"""Oracle: the same graph as it was recorded, bit for bit, and arguments that must not change."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from harness.overwriting import overwrite
from harness.recording import trace

NUMBERS = torch.linspace(-2, 3, 64 * 128).view(64, 128)


def backward_of_a_network(inputs):
    module = nn.Sequential(nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 5))
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    params = {name: torch.randn(3, *shape, generator=generator) / 10 for name, shape in shapes.items()}
    names = list(params)

    def loss(own, x):
        return nn.functional.cross_entropy(functional_call(module, own, (x,)), torch.arange(64) % 5)

    def function(x, *values):
        grads, value = vmap(grad_and_value(loss), in_dims=(0, None))(dict(zip(names, values, strict=True)), x)
        return [value, *grads.values()]

    return function, (inputs, *params.values())


def check(function, tensors, at_least=0, at_most=10**6):
    """The rewritten graph gives the same bits twice over and leaves its arguments alone."""
    plain, changed = trace(function, tensors), trace(function, tensors)
    count = overwrite(changed.graph)
    changed.recompile()
    before = [tensor.clone() for tensor in tensors]
    expected = [tensor.clone() for tensor in plain(*tensors)]
    for _ in range(2):
        for ours, theirs in zip(changed(*tensors), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))
    assert at_least <= count <= at_most, changed.code
    return changed


def test_a_networks_backward_is_the_same_to_the_bit():
    # two biases, two relus and their two gradients; the third bias' result is too small
    changed = check(*backward_of_a_network(NUMBERS), at_least=6)
    assert changed.code.count("relu_.default") == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: [x + 1],  # an argument of the caller's
        lambda x: [x.view(-1) + 1],  # a view of one
        lambda x: [(y := x * 2), y + 1],  # returned besides
        lambda x: [(y := x * 2).view(-1), y + 1],  # a view of it is returned
        lambda x: [y := x.exp(), (y + 1).sum() + y.sum()],  # read later
        lambda x: [(z := (y := x.exp()).view(-1)[:7]) + 0, y + 1 + z.sum()][::-1],  # a view of it was read before
        lambda x: [x.exp()[:1].expand(64, 128) + x],  # one number stands for many
        lambda x: [x.exp().t() + x.exp().t().contiguous()],  # lies otherwise in memory
        lambda x: [x.exp() > 0, (x.exp() > 0) + x],  # another type
        lambda x: [torch.relu(y := x.exp() - 2), y.sum()],
        lambda x: [y for part in (x * 2).split(32) for y in (part + 1, part)],
        lambda x: [(y := x * 2).mul_(3), y + 1],
        lambda x: [(y := x.exp())[:32] + y[16:48]],  # two views that overlap
    ],
)
def test_what_is_read_elsewhere_is_not_written_over(function):
    check(function, (NUMBERS.clone(),))


def test_chains_share_one_memory():
    check(lambda x: [torch.relu((x.exp() + 1) * x / 3)], (NUMBERS,), at_least=4)


def test_small_tensors_stay_as_they_are():
    check(lambda x: [x.exp() + 1], (torch.ones(8),), at_most=0)
