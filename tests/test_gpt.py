"""Oracle: tests/reference/gpt.py on the same weights, torch's counter of FLOPs, torch.optim with an lr a tensor."""

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from harness.config import CONF_DIR
from harness.model_sizes import size_of_gpt, spend_budget
from harness.models import make_model
from harness.parameters import unflatten_params
from harness.plan import Stack
from harness.program import make_program
from harness.tasks import make_task
from harness.train import train
from tests.reference.gpt import logits_of
from tests.reference.plain import CPU, plain_optimizer, plain_step

SMALL = {
    "name": "gpt", "width": 24, "depth": 2, "num_heads": 3, "activation": "swiglu", "qk_norm": True, "tied": False,
    "init_std": 0.2, "parametrization": "standard", "base_width": 8,
}  # fmt: skip
SHAPE = {"context": 9, "num_symbols": 11, "num_outputs": 11}
KINDS = {
    "swiglu": {}, "gelu": {"activation": "gelu"}, "no qk norm": {"qk_norm": False}, "tied": {"tied": True},
    "one head": {"num_heads": 1, "depth": 1},
}  # fmt: skip


def make(seed=0, **changed):
    torch.manual_seed(seed)
    return make_model({**SMALL, **changed}, **SHAPE)


def windows(count=4):
    return torch.randint(0, 11, (2, count, 9), generator=torch.Generator().manual_seed(1)).unbind()


@pytest.mark.parametrize("changed", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-7)])
def test_logits_and_loss_are_those_of_the_reference(changed, dtype, tolerance):
    """In float64 what is left is of the angles, which are kept in float32."""
    module = make(**changed).to(dtype)
    with torch.no_grad():
        for name, gain in module.named_parameters():
            if "norm" in name:  # gains begin at one, where a product with them would not be missed
                gain.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(len(name)))
    params = {name: p.detach().double().numpy() for name, p in module.named_parameters()}
    symbols, targets = windows()
    how = {**SMALL, **changed}
    own = {key: how[key] for key in ("num_heads", "activation", "qk_norm")}
    expected = np.stack([logits_of(params, window, **own) for window in symbols.numpy()])
    logits = module(symbols)
    assert np.abs(logits.detach().numpy() - expected).max() < tolerance * np.abs(expected).max()
    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    z = np.log(np.exp(expected).sum(-1)) - np.take_along_axis(expected, targets.numpy()[..., None], -1)[..., 0]
    assert float(loss.detach()) == pytest.approx(z.mean(), rel=tolerance)


@pytest.mark.parametrize("changed", KINDS.values(), ids=KINDS)
def test_size_and_cost_follow_from_the_config(changed):
    module = make(**changed)
    size = size_of_gpt({**SMALL, **changed}, context=9, num_symbols=11)
    counts = {name: p.numel() for name, p in module.named_parameters()}
    assert size.num_params == sum(counts.values())
    assert size.num_params_non_embedding == sum(counts.values()) - counts["embedding.weight"]
    symbols, targets = windows()
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it does not count a CPU's fused one
        F.cross_entropy(module(symbols).flatten(0, -2), targets.flatten()).backward()
    assert counter.get_total_flops() == size.flops_per_token * symbols.numel() == module.flops_per_token * 36


def test_sizes_of_the_yaml_files_are_what_their_first_lines_say():
    said = {"nano": 42e3, "micro": 133e3, "1m": 0.86e6, "10m": 10.0e6, "30m": 28.6e6, "124m": 124e6}
    for name, number in said.items():
        path = CONF_DIR / "model" / f"gpt_{name}.yaml"
        model = OmegaConf.to_container(OmegaConf.load(path))
        size = size_of_gpt(model, context=1024, num_symbols=50304 if name == "124m" else 256)
        assert size.num_params == pytest.approx(number, rel=0.01), name
        digits = f"{number / 1e6:.3g}".lstrip("0") if number > 1e6 or name == "1m" else f"{number / 1e3:.3g}"
        assert digits in path.read_text().splitlines()[0]


def test_matrices_are_drawn_as_told_and_scaled_with_width_under_mup():
    for parametrization, width, times in (("standard", 64, 1), ("mup", 64, 4), ("mup", 16, 1)):
        model = make(width=width, num_heads=2, base_width=16, parametrization=parametrization, init_std=0.1)
        for name, p in model.named_parameters():
            if p.dim() < 2:
                assert bool((p == 1).all())
                continue
            std = 0.1 / times**0.5 if name.startswith("blocks") else 0.1
            std /= 2 if name.endswith(("out.weight", "down.weight")) else 1  # sqrt(2 depth)
            assert float(p.detach().std()) == pytest.approx(std, rel=6 / (2 * p.numel()) ** 0.5), name
        multipliers = model.lr_multipliers()
        assert set(multipliers.values()) <= {1 / times}
        hidden = {name for name, p in model.named_parameters() if name.startswith("blocks") and p.dim() == 2}
        assert set(multipliers) == (hidden if times > 1 else set())
    symbols, _ = windows(1)
    wide, base = (make(base_width=b, parametrization="mup", num_heads=2) for b in (6, 24))
    state = wide.state_dict()
    base.load_state_dict(state)
    torch.testing.assert_close(wide(symbols), base(symbols) / 4)  # of the same weights


def stack_of(make_run, **changed):
    configs = [
        make_run(
            model=SMALL | {"init_std": 0.1} | changed, task={"context": 9}, num_samples=400, optimizer={"lr": lr},
            schedule={"name": "constant", "warmup": 0.0},
        )
        for lr in (0.001, 0.003, 0.01, 0.03)
    ]  # fmt: skip
    return Stack({str(i): config for i, config in enumerate(configs)})


def alone(config, multipliers):
    """As tests/reference/plain.py, each tensor with its own lr."""
    module = make_model(config.model, context=config.task["context"], num_symbols=256, num_outputs=256)
    module.load_state_dict(
        make_task(config, CPU).init(config.seed), strict=False
    )  # a tied head has no weight of its own
    optimizer = plain_optimizer(config, module)
    (group,) = optimizer.param_groups
    names = {id(p): name for name, p in module.named_parameters()}
    optimizer.param_groups = [
        {**group, "params": [p], "lr": group["lr"] * multipliers.get(names[id(p)], 1.0)} for p in group["params"]
    ]
    return module, optimizer


@pytest.mark.parametrize("changed", [{}, {"tied": True}, {"parametrization": "mup"}], ids=["plain", "tied", "mup"])
def test_a_stack_trains_as_runs_alone_do(make_run, changed):
    stack = stack_of(make_run, **changed)
    program = make_program(stack, CPU)
    *_, progress = train(program, stack, num_evals=50, num_examples=8)
    for lane, config in enumerate(stack.runs.values()):
        module, optimizer = alone(config, make(**changed).lr_multipliers())
        losses = [plain_step(module, optimizer, program.task.sample(0, 8 * t, 8)) for t in range(50)]
        assert [point[lane] for point in progress.history["train_loss"]] == pytest.approx(losses, rel=1e-4)
        trained = unflatten_params(progress.params_RN[lane], program.layout)
        if config.optimizer["lr"] <= 0.003:
            for name, p in module.named_parameters():
                assert float((trained[name] - p.detach()).abs().max()) < 2e-5, name


def test_one_step_from_one_state_agrees_to_the_last_digits(make_run):
    stack = stack_of(make_run, width=12, num_heads=2)
    stack = Stack({name: make_run(**vars_of(config, "float64")) for name, config in stack.runs.items()})
    program = make_program(stack, CPU)
    for progress in train(program, stack, num_evals=50, num_examples=8):
        if progress.step < 3:
            for lane, config in enumerate(stack.runs.values()):
                module = make_model(config.model, context=9, num_symbols=256, num_outputs=256).double()
                module.load_state_dict(make_task(config, CPU).init(config.seed))
                optimizer = plain_optimizer(config, module)
                for t in range(progress.step):
                    plain_step(module, optimizer, program.task.sample(0, 8 * t, 8))
                trained = unflatten_params(progress.params_RN[lane], program.layout)
                for name, p in module.named_parameters():
                    assert float((trained[name] - p.detach()).abs().max()) < 1e-12, (name, progress.step)


def vars_of(config, precision):
    return {
        "model": dict(config.model), "task": {"context": 9}, "num_samples": 400, "precision": precision,
        "optimizer": {"lr": config.optimizer["lr"]}, "schedule": {"name": "constant", "warmup": 0.0},
    }  # fmt: skip


def test_budgets_in_tokens():
    values = {"model": SMALL, "task": {"context": 9}, "num_samples": None}
    assert spend_budget(values | {"num_tokens": 900})["num_samples"] == 100
    size = size_of_gpt(SMALL, context=9, num_symbols=256)
    assert spend_budget(values | {"tokens_per_param": 0.5})["num_samples"] == round(size.num_params / 18)
    assert spend_budget(values) == values
    other = {"model": {"name": "ngram"}, "task": {"context": 9}, "num_samples": None}
    for wrong, words in (
        (values | {"num_tokens": 9, "tokens_per_param": 1.0}, "num_tokens=9 is one of several budgets"),
        (values | {"num_tokens": 9, "num_samples": 8}, "give one of num_tokens, tokens_per_param and num_samples"),
        (other | {"num_tokens": 9}, "model=ngram predicts one a sample: give num_samples"),
    ):
        with pytest.raises(ValueError, match=words):
            spend_budget(wrong)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_heads": 5}, r"model.num_heads=5 does not split model.width=24 .*choose one of 1, 2, 3, 4, 6, 12"),
        ({"num_heads": 8}, "even width"),
        ({"activation": "relu"}, "model.activation='relu' is not one of gelu, swiglu"),
        ({"init_std": 0.0}, "model.init_std=0.0 is not a number > 0"),
    ],
)
def test_mistakes_are_told(make_run, changed, words):
    with pytest.raises(ValueError, match=words):
        make_run(model=SMALL | changed)
