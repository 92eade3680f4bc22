"""Oracle: torch.optim over 50 steps in float64, on noisy gradients of a quadratic.

Decoupled decay where torch has none (sgd, signsgd): shrink the parameter by 1 - lr weight_decay, then torch's step.
The sign is torch's Adam with beta1 = beta2 = eps = 0; that of an average is the sign of torch's sum of momenta, and the
soft one the sine of the angle between eps and g. Epsilon inside the root, which torch does not have: weighted sums over
all gradients so far, with no recursion. Muon: torch.optim.Muon on the matrices, its rounding to bfloat16 taken out, and
torch.optim.AdamW on the rest; its iteration: a polynomial of singular values, and the polar factor by SVD.
"""

from unittest import mock

import pytest
import torch

from harness.optimizers import make_optimizer, muon
from tests.reference.optimizer_paths import LAYOUT, check_path
from tests.reference.optimizers import SHAPES


def torch_sgd(p, h):
    return torch.optim.SGD([p], lr=h["lr"], momentum=h["momentum"], nesterov=h["nesterov"])


def torch_sign(p, h):
    return torch.optim.Adam([p], lr=h["lr"], betas=(0.0, 0.0), eps=0.0)


def torch_adam(p, h):
    return torch.optim.Adam([p], lr=h["lr"], betas=(h["beta1"], h["beta2"]), eps=h["eps"])


def torch_adamw(p, h):
    betas = (h["beta1"], h["beta2"])
    return torch.optim.AdamW([p], lr=h["lr"], betas=betas, eps=h["eps"], weight_decay=h["weight_decay"])


class SignOfTorchsMomentum:
    """Signum from torch.optim.SGD's momentum buffer, which is (1 - momentum) times less averaged: the same sign."""

    def __init__(self, p, h):
        self.p, self.lr = p, h["lr"]
        self.shadow = torch.nn.Parameter(torch.zeros_like(p))
        self.sgd = torch.optim.SGD([self.shadow], lr=1.0, momentum=h["momentum"])

    @torch.no_grad()
    def step(self):
        before = self.shadow.detach().clone()
        self.shadow.grad = self.p.grad.clone()
        self.sgd.step()
        self.p -= self.lr * torch.sign(before - self.shadow)


class SineOfTheAngle:
    def __init__(self, p, h):
        self.p, self.h = p, h

    @torch.no_grad()
    def step(self):
        angle = torch.atan2(self.p.grad, torch.tensor(self.h["eps"], dtype=torch.float64))
        self.p -= self.h["lr"] * torch.sin(angle)


class WeightedSums:
    """Adam with eps^2 added to the weighted mean of squares, from all gradients so far."""

    def __init__(self, p, h):
        self.p, self.h, self.gradients = p, h, []

    @torch.no_grad()
    def step(self):
        self.gradients.append(self.p.grad.clone())
        count = len(self.gradients)
        means = []
        for beta, power in ((self.h["beta1"], 1), (self.h["beta2"], 2)):
            weights = [beta ** (count - 1 - s) for s in range(count)]
            total = sum(w * g**power for w, g in zip(weights, self.gradients, strict=True))
            means.append(total / sum(weights))
        self.p -= self.h["lr"] * means[0] / torch.hypot(means[1].sqrt(), torch.tensor(self.h["eps"]).double())


def torch_rmsprop(p, h):
    return torch.optim.RMSprop([p], lr=h["lr"], alpha=h["beta2"], eps=h["eps"])


class TorchsMuon:
    """torch.optim.Muon on views of the matrices, torch.optim.AdamW on the rest."""

    def __init__(self, p, h):
        self.p = p
        self.views = dict(zip(SHAPES, torch.split(p.detach(), LAYOUT.sizes), strict=True))
        matrices = [self.views["wide"].view(2, 4), self.views["kernel"].view(3, 2)]
        rest = [self.views["bias"], self.views["table"]]
        same = {"lr": h["lr"], "weight_decay": h["weight_decay"]}
        self.muon = torch.optim.Muon(
            matrices, momentum=h["momentum"], nesterov=h["nesterov"], adjust_lr_fn=h["scaling"], **same
        )
        self.adamw = torch.optim.AdamW(rest, betas=(h["beta1"], h["beta2"]), eps=h["eps"], **same)

    def step(self):
        grads = dict(zip(SHAPES, torch.split(self.p.grad, LAYOUT.sizes), strict=True))
        parts = [*self.muon.param_groups[0]["params"], *self.adamw.param_groups[0]["params"]]
        for part, name in zip(parts, ("wide", "kernel", "bias", "table"), strict=True):
            part.grad = grads[name].view(part.shape)
        with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
            self.muon.step()
        self.adamw.step()


MUON = {"name": "muon", "momentum": 0.95, "nesterov": True, "scaling": "original", "beta1": 0.9, "beta2": 0.95,
        "eps": 1e-8, "weight_decay": 0.1}  # fmt: skip
TABLE = [
    ({"name": "sgd", "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}, torch_sgd, False),
    ({"name": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 0.1}, torch_sgd, True),
    ({"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.0}, torch_sgd, False),
    ({"name": "signsgd", "weight_decay": 0.1}, torch_sign, True),
    ({"name": "adam", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}, torch_adam, False),
    ({"name": "adam", "beta1": 0.0, "beta2": 0.999, "eps": 0.1}, torch_adam, False),
    ({"name": "adamw", "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.3}, torch_adamw, False),
    ({"name": "signum", "momentum": 0.9, "weight_decay": 0.1}, SignOfTorchsMomentum, True),
    ({"name": "signum", "momentum": 0.0, "weight_decay": 0.0}, torch_sign, False),
    ({"name": "softsign", "eps": 0.5, "weight_decay": 0.1}, SineOfTheAngle, True),
    ({"name": "rmsprop", "beta2": 0.95, "eps": 0.01, "weight_decay": 0.1}, torch_rmsprop, True),
    ({"name": "adam", "beta1": 0.9, "beta2": 0.95, "eps": 0.5, "eps_inside": True}, WeightedSums, False),
    ({"name": "adam", "beta1": 0.0, "beta2": 0.0, "eps": 0.5, "eps_inside": True}, SineOfTheAngle, False),
    ({"name": "adamw", "beta1": 0.5, "beta2": 0.9, "eps": 0.5, "eps_inside": True, "weight_decay": 0.3},
     WeightedSums, True),
    (MUON, TorchsMuon, False),
    ({**MUON, "scaling": "match_rms_adamw", "nesterov": False, "momentum": 0.5, "weight_decay": 0.0},
     TorchsMuon, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "make", "decay_before"), TABLE, ids=lambda x: str(x)[:60] if isinstance(x, dict) else ""
)
def test_three_runs_in_a_stack_take_torchs_steps(config, make, decay_before):
    check_path(config, make, decay_before)


@pytest.mark.parametrize("name", ["signsgd", "softsign"])
def test_a_sign_does_not_move_where_the_gradient_is_zero(name):
    optimizer = make_optimizer({"name": name, "lr": 0.1, "weight_decay": 0.0}, LAYOUT)
    hyper = {"lr": torch.tensor(0.1), "weight_decay": torch.tensor(0.0), "eps": torch.tensor(0.0)}
    update, _ = optimizer.update(torch.tensor([0.0, -2.0]), {}, torch.ones(2), hyper)
    assert update.tolist() == pytest.approx([0.0, 0.1])


@pytest.mark.parametrize("shape", [(12, 12), (8, 30), (30, 8), (1, 9)])
def test_newton_schulz_is_a_polynomial_of_singular_values_near_the_polar_factor(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = 3.4445, -4.7750, 2.0315
    p = s / s.norm()
    assert float(p.min()) > 0.002
    for _ in range(5):
        p = a * p + b * p**3 + c * p**5
    seen = muon.orthogonalise(matrix)
    torch.testing.assert_close(seen, u @ torch.diag(p) @ vt, rtol=0, atol=1e-12)
    assert float(torch.linalg.matrix_norm(seen - u @ vt, 2)) < 0.32  # singular values between .68 and 1.21
    assert torch.equal(muon.orthogonalise(torch.zeros(shape)), torch.zeros(shape))


def test_torchs_rounding_of_muon_is_all_that_differs():
    p = torch.nn.Parameter(torch.zeros(6, 5))
    p.grad = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    torch.optim.Muon([p], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    expected = muon.orthogonalise(p.grad) * (6 / 5) ** 0.5
    torch.testing.assert_close(-p.detach(), expected, rtol=0, atol=0.03)  # bfloat16 keeps 8 bits, five times


def test_an_unknown_optimizer_is_told():
    with pytest.raises(ValueError, match=r"optimizer.name='adaam' is not one of .*did you mean adam"):
        make_optimizer({"name": "adaam"}, LAYOUT)
