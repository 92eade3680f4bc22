"""Oracle: the same graph as it was recorded, bit for bit, and arguments that must not change."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad_and_value, vmap

from harness.overwriting import overwrite, rewrite
from harness.recording import trace

NUMBERS = torch.linspace(-2, 3, 64 * 128).view(64, 128)


class Symmetric(nn.Module):
    """A weight and its transpose, added: their gradients are one tensor seen in two ways."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(128, 128))

    def forward(self, x):
        return x @ (self.weight + self.weight.T)


class FirstToken(nn.Module):
    """Adds the first position to all."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 16)

    def forward(self, x):
        h = self.layer(x.view(64, 8, 16))
        return (h + h[:, :1]).flatten(1)


class Cell(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(128, 96)

    def forward(self, x):
        return self.cell(x)[0]


class Images(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Unflatten(1, (2, 8, 8)), nn.Conv2d(2, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(),
        )  # fmt: skip


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 64, dropout=0.1, batch_first=True)

    def forward(self, x):
        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            return self.layer(x.view(64, 8, 16)).flatten(1)


def mlp():
    layers = nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, 5)
    return nn.Sequential(*layers)


def backward_of(make):
    """Loss and gradients of three runs of a module as a function of inputs and parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = make()
        params = {name: torch.randn(3, *p.shape) / 10 for name, p in module.named_parameters()}
    names = list(params)

    def loss(own, x):
        return nn.functional.cross_entropy(functional_call(module, own, (x,)), torch.arange(64) % 5)

    def function(x, *values):
        own = dict(zip(names, values, strict=True))
        grads, value = vmap(grad_and_value(loss), in_dims=(0, None), randomness="different")(own, x)
        return [value, *grads.values()]

    return function, (NUMBERS, *params.values())


def check(function, tensors, at_least=0, at_most=10**6):
    """The rewritten graph gives the same bits twice over and leaves its arguments alone, without the net below it."""
    plain, changed = trace(function, tensors), trace(function, tensors)
    count = rewrite(changed.graph)
    changed.recompile()
    before = [tensor.clone() for tensor in tensors]
    torch.manual_seed(1)
    expected = [tensor.clone() for tensor in plain(*tensors)]
    for _ in range(2):
        torch.manual_seed(1)
        for ours, theirs in zip(changed(*tensors), expected, strict=True):
            assert torch.equal(ours, theirs)
    assert all(torch.equal(*pair) for pair in zip(tensors, before, strict=True))
    assert at_least <= count <= at_most, changed.code
    return changed


@pytest.mark.parametrize(
    ("make", "at_least"), [(mlp, 6), (Symmetric, 0), (FirstToken, 1), (Cell, 1), (Images, 2), (Attention, 3)]
)
def test_a_modules_backward_is_the_same_to_the_bit(make, at_least):
    check(*backward_of(make), at_least=at_least)


def test_biases_relus_and_their_gradients_are_written_over():
    changed = check(*backward_of(mlp))  # the third bias' result is too small
    assert changed.code.count("relu_.default") == changed.code.count("threshold_backward.grad_input") == 2
    assert changed.code.count("add.out") >= 2


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
        lambda x: [(y := x.exp()) + y[:, :1]],  # a tensor and a part of itself
        lambda x: [(y := x.exp()) + y[:1]],
        lambda x: [(y := x.exp()) + y.view(128, 64).view(64, 128)],
        lambda x: [(c := (y := x.exp()).unsafe_chunk(2, 1)) and (y + 1).sin(), c[0].sin()],  # views that do not say so
    ],
)
def test_what_is_read_elsewhere_is_not_written_over(function):
    check(function, (NUMBERS.clone(),))


def test_chains_share_one_memory():
    check(lambda x: [torch.relu((x.exp() + 1) + x)], (NUMBERS,), at_least=3)


def test_small_tensors_stay_as_they_are():
    check(lambda x: [x.exp() + 1], (torch.ones(8),), at_most=0)


@pytest.mark.parametrize(
    "function", [lambda x: [((y := x.exp()) + 1).sin(), y.sin()], lambda x: [(y := x.exp())[:32] + y[16:48]]]
)
def test_a_rewriting_that_is_wrong_is_not_taken(function, monkeypatch):
    monkeypatch.setattr("harness.overwriting.owner", lambda node: node)  # nothing shares memory, it is said
    graph = trace(function, (NUMBERS,))
    if "slice" not in graph.code:  # nor is anything read later
        monkeypatch.setattr("harness.overwriting.rewrite", spoil)
    assert overwrite(graph, (NUMBERS,)) is graph


def spoil(graph):
    add = next(node for node in graph.nodes if node.op == "call_function" and "add" in node.name)
    add.target, add.kwargs = torch.ops.aten.add.out, {"out": add.args[0]}
    return 1
