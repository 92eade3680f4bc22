"""Oracle: torch's attention, written out by itself, of one run at a time in float64; a plain loop with torch.optim."""

import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.attention import FUSED_FROM, StackedAttention, fused
from harness.curvature import tangent
from harness.parameters import unflatten_params
from harness.plan import Stack
from harness.program import make_program, vmap_runs
from harness.train import train
from tests.reference.plain import plain_module, plain_optimizer, plain_step
from tests.test_gpt import SMALL

CPU = torch.device("cpu")
LENGTHS = [9, FUSED_FROM + 3]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(q_BHTK, k_BHTK, v_BHTK, weights_BHTK, **how):
    out_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, **how)
    return (weights_BHTK * out_BHTK.square()).sum()


def one_by_one(function, *inputs):
    with sdpa_kernel(SDPBackend.MATH):
        rows = [function(*row) for row in zip(*inputs, strict=True)]
    return [torch.stack(parts) for parts in zip(*rows, strict=True)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("how", [{"is_causal": True}, {}, {"scale": 0.3}], ids=["causal", "all", "scaled"])
def test_value_and_gradient_of_every_run_are_torchs(length, how):
    inputs = [normal(3, 2, 2, length, 4, seed=i) for i in range(4)]
    take = torch.func.grad_and_value(lambda *x: loss(*x, **how), argnums=(0, 1, 2))
    *found, value = flat(vmap_runs(take, (0, 0, 0, 0))(*inputs))
    *expected, wanted = one_by_one(lambda *row: flat(take(*row)), *inputs)
    torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def flat(pair):
    return [*pair[0], pair[1]]


@pytest.mark.parametrize("length", LENGTHS)
def test_runs_may_share_what_they_attend_to_and_be_mapped_twice(length):
    """As per-sample gradients of every run: keys and values of one, queries of all runs and samples."""
    q_RSHTK, k_SHTK = normal(3, 4, 2, length, 4), normal(4, 2, length, 4, seed=1)
    weights = torch.ones(1, 2, length, 4, dtype=torch.float64)

    def take(q_HTK, k_HTK):
        return grad(lambda q: loss(q[None], k_HTK[None], k_HTK[None], weights, is_causal=True))(q_HTK)

    found = vmap_runs(vmap(take), (0, None))(q_RSHTK, k_SHTK)
    for row_SHTK, queries_SHTK in zip(found, q_RSHTK, strict=True):
        (expected,) = one_by_one(lambda q, k: (take(q, k),), queries_SHTK, k_SHTK)
        torch.testing.assert_close(row_SHTK, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_gradients_are_differentiated_again(length):
    inputs = [normal(2, 1, 1, length, 4, seed=i) for i in range(3)]
    weights = torch.ones(1, 1, length, 4, dtype=torch.float64)

    def product(q, k, along):
        return tangent(grad(lambda q: loss(q, k, k, weights, is_causal=True)), q, along)

    (expected,) = one_by_one(lambda *row: (product(*row),), *inputs)
    found = vmap_runs(product, (0, 0, 0))(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_what_it_does_not_know_is_left_to_torch(length):
    q, k, v, _ = (normal(2, 1, 2, length, 4, seed=i) for i in range(4))
    mask = torch.ones(length, length, dtype=torch.bool).tril().flip(0)
    mask[0] = False  # one that looks at nothing: torch gives zeros
    for how in (
        {"is_causal": True, "attn_mask": None, "dropout_p": 0.0},
        {"attn_mask": mask},
        {"attn_mask": mask.double()},
    ):
        call = lambda *x, how=how: F.scaled_dot_product_attention(*x, **how)  # noqa: E731
        (expected,) = one_by_one(lambda *row, call=call: (call(*row),), q, k, v)
        torch.testing.assert_close(vmap_runs(call, (0, 0, 0))(q, k, v), expected, rtol=1e-12, atol=1e-12)
    assert not torch.equal(expected, torch.zeros_like(expected))
    few = k[:, :, :, :5]  # other positions than queries
    (expected,) = one_by_one(lambda *row: (F.scaled_dot_product_attention(*row),), q, few, few)
    torch.testing.assert_close(vmap_runs(F.scaled_dot_product_attention, (0, 0, 0))(q, few, few), expected)


def test_bits_do_not_depend_on_the_runs_beside():
    inputs = [normal(5, 2, 2, FUSED_FROM, 4, seed=i).float() for i in range(3)]
    attend = vmap_runs(lambda *x: F.scaled_dot_product_attention(*x, is_causal=True), (0, 0, 0))
    together = attend(*inputs)
    for run in range(5):
        assert torch.equal(attend(*(x[run : run + 1] for x in inputs))[0], together[run])


def test_the_kernel_is_taken_from_its_length_on(monkeypatch):
    taken = []
    monkeypatch.setattr("harness.attention.fused", lambda q, *x, **how: taken.append(q.shape) or fused(q, *x, **how))
    for length in (FUSED_FROM - 1, FUSED_FROM):
        x = normal(3, 2, 2, length, 4)
        with StackedAttention():
            vmap(F.scaled_dot_product_attention)(x, x, x)
    assert taken == [(6, 2, FUSED_FROM, 4)]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("layout", ["columns", "every other", "gradient"])
def test_numbers_that_do_not_lie_side_by_side(length, layout):
    """The kernel itself takes for granted that those of a head do."""
    wide = [normal(3, 2, 2, 4, 2 * length, seed=i) for i in range(4)]
    if layout == "every other":
        inputs = [x.reshape(3, 2, 2, length, 8)[..., ::2] for x in wide]
    else:
        inputs = [x[..., :length].transpose(-1, -2) for x in wide]
    if layout == "gradient":
        inputs[:3] = [x.contiguous() for x in inputs[:3]]

    def weighed(q_BHTK, k_BHTK, v_BHTK, weights_BHTK):
        out_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        return (weights_BHTK * out_BHTK).transpose(-1, -2).square().sum()

    take = torch.func.grad_and_value(weighed, argnums=(0, 1, 2))
    found = flat(vmap_runs(take, (0, 0, 0, 0))(*inputs))
    expected = one_by_one(lambda *row: flat(take(*row)), *inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", LENGTHS)
def test_a_loss_may_differentiate_attention_itself(length):
    """A penalty on how the output follows the queries: the kernel's gradient has no gradient."""
    inputs = [normal(2, 1, 2, length, 4, seed=i) for i in range(3)]

    def penalty(q, k, v):
        return grad(lambda q: F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum())(q).square().sum()

    (expected,) = one_by_one(lambda *row: (grad(penalty)(*row),), *inputs)
    torch.testing.assert_close(vmap_runs(grad(penalty), (0, 0, 0))(*inputs), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_autocast_takes_products_in_bfloat16(length):
    inputs = [normal(3, 2, 2, length, 4, seed=i).float() for i in range(4)]

    def take(*row):
        def autocast_loss(*x):
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
                return loss(*x, is_causal=True).float()

        return flat(torch.func.grad_and_value(autocast_loss, argnums=(0, 1, 2))(*row))

    found = vmap_runs(take, (0, 0, 0, 0))(*inputs)
    whole = torch.func.grad_and_value(lambda *x: loss(*x, is_causal=True), argnums=(0, 1, 2))
    gradients = one_by_one(lambda *row: whole(*row)[0], *inputs)
    for one, other in zip(found[:3], gradients, strict=True):  # the value is a sum in which terms cancel
        assert one.dtype == torch.float32
        assert 1e-5 < float((one - other).norm() / other.norm()) < 0.02  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("context", LENGTHS)
def test_a_transformer_in_bfloat16_follows_float32_on_a_cpu(make_run, context):
    losses = []
    for precision in ("float32", "bfloat16"):
        config = make_run(model=SMALL, task={"context": context}, num_samples=160, batch_size=4, precision=precision)
        stack = Stack({"0": config, "1": config})
        *_, now = train(make_program(stack, CPU), stack, num_evals=4, num_examples=16)
        assert now.params_RN.dtype == torch.float32
        losses.append(now.history["loss"])
    torch.testing.assert_close(torch.tensor(losses[1]), torch.tensor(losses[0]), rtol=0.02, atol=0)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("compiled", [False, True], ids=["recorded", "compiled"])
def test_long_windows_in_a_stack_train_as_alone(make_run, tmp_path, compiled):
    configs = [
        make_run(
            model=SMALL | {"init_std": 0.1}, task={"context": FUSED_FROM}, optimizer={"lr": lr}, batch_size=2,
            num_samples=320, schedule={"name": "constant", "warmup": 0.0}, precision="float64",
        )
        for lr in (0.001, 0.003)
    ]  # fmt: skip
    stack = Stack({str(i): config for i, config in enumerate(configs)}, compiled=compiled)
    program = make_program(stack, CPU, tmp_path)
    found = {}
    for now in train(program, stack, num_evals=1, num_examples=8):
        found[now.step] = now.params_RN.clone(), now.loss_sum_R.clone()
        if now.step == 50:
            break
    assert bool(list(tmp_path.rglob("*.pt2"))) == compiled
    for lane, config in enumerate(configs):
        module = plain_module(config)
        optimizer, total = plain_optimizer(config, module), 0.0
        for t in range(50):
            total += plain_step(module, optimizer, program.task.sample(0, 2 * t, 2))
            params_RN, loss_sum_R = found[t + 1]
            assert float(loss_sum_R[lane]) == pytest.approx(total, rel=1e-9)
            if t == 0:
                own = {name: p.detach() for name, p in module.named_parameters()}
                for name, value in unflatten_params(params_RN[lane], program.layout).items():
                    torch.testing.assert_close(value, own[name], rtol=0, atol=1e-10)
