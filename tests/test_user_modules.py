"""Oracle: a plain loop with torch.optim over the same initial values and samples, and the user's code as they wrote it.

The modules are written into a folder and used by import path, from the command down.
"""

import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from harness.checkpoint import load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.models import make_model
from harness.parameters import flatten_params
from harness.plan import Stack
from harness.program import make_program
from harness.results import summarise
from harness.stackable import why_alone
from harness.tasks import make_task
from harness.train import evaluate, train
from harness.weights import load_weights, save_weights

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]

MODULES = '''
from dataclasses import dataclass
import torch
from torch import nn
from torch.nn import functional as F

@dataclass
class Config:
    vocab_size: int
    width: int
    dropout: float

@dataclass
class Output:
    logits: torch.Tensor

class LanguageModel(nn.Module):
    """As transformers has them: a config object, dropout, attention, tied weights, an output object, a causal mask."""
    def __init__(self, config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.full((), 0.5))
    def forward(self, input_ids):
        x = self.dropout(self.embedding(input_ids))
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        x = x + self.dropout(F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0])
        return Output(self.head(x) * self.scale)

def language_model(num_symbols, width, dropout):
    return LanguageModel(Config(num_symbols, width, dropout))

def next_byte(outputs, targets):
    return F.cross_entropy(outputs.logits[:, -1], targets)

def images():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, 8, 8, generator=g)
    y = (x[:, 0].mean((1, 2)) > 0).long() + 2 * (x[:, 1].mean((1, 2)) > 0).long()
    return x[:150], y[:150], x[150:], y[150:]

def heights():
    x, y, a, b = images()
    return x, y.double(), a, b.double()

class Net(nn.Module):
    def __init__(self, width=4, norm="group", p=0.0):
        super().__init__()
        norms = {"group": lambda: nn.GroupNorm(2, width), "batch": lambda: nn.BatchNorm2d(width)}
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), norms[norm](), nn.ReLU())
        self.pool = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(p))
        self.classifier = nn.Linear(4 * width, 4)
    def forward(self, x):
        return self.classifier(self.pool(self.features(x)))

class Decides(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if y.sum() > 0 else 2 * y

class Shifts(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5))

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.out = nn.LSTM(24, 6, batch_first=True), nn.Linear(6, 4)
    def forward(self, x):
        return self.out(self.lstm(x.reshape(-1, 8, 24))[0][:, -1])

class Counts(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        if self.training:
            self.seen += 1
        return super().forward(x)

class Untrained(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("mix", torch.randn(4))
        self.register_buffer("unsaved", torch.randn(4), persistent=False)
        self.classifier.bias.requires_grad_(False)
    def forward(self, x):
        return super().forward(x) * self.mix

class One(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(192, 1)
    def forward(self, x):
        return self.out(x.flatten(1))

class Raises(Net):
    def forward(self, x):
        raise KeyError("no such thing")

class Large(Net):
    def forward(self, x):
        if torch._C._functorch.is_batchedtensor(x):  # two runs do not fit, one does
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80000000000 bytes.")
        return super().forward(x)

class Wrong(Net):
    def forward(self, x):
        return self.classifier(x)

def not_a_module(**options):
    return 3

def each_loss(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")
'''
TENSORS = {"name": "tensors", "data": "user_nets:images", "loss": None, "num_heldout": 50}
TEXT = {"name": "user_nets:language_model", "width": 8}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a user's module lies, on the path as the current directory of a command is."""
    path = tmp_path_factory.mktemp("mine")
    (path / "user_nets.py").write_text(MODULES)
    sys.path.insert(0, str(path))
    yield path
    sys.path.remove(str(path))
    sys.modules.pop("user_nets", None)


@pytest.fixture
def make_user(make_run, folder):
    def make(model, **changed):
        return make_run(**{"task": dict(TENSORS), "num_samples": 48, "model": model, **changed})

    return make


def stack_of(*configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def trained(stack, runs_dir=None):
    program = make_program(stack, CPU, runs_dir)
    *_, now = train(program, stack, num_evals=2, num_examples=16)
    return program, now


def plain(config, criterion):
    """The module after a plain loop with torch.optim.Adam, the same samples and first values."""
    task = make_task(config, CPU)
    shape = {"num_symbols": 256} if config.task["name"] == "python_source" else {}
    module = make_model(config.model, **shape).to(torch.float64)
    module.load_state_dict(task.init(config.seed), strict=False)
    hyper = config.optimizer
    betas = (hyper["beta1"], hyper["beta2"])
    optimizer = torch.optim.Adam(module.parameters(), lr=hyper["lr"], betas=betas, eps=hyper["eps"])
    for t in range(config.num_steps):
        optimizer.param_groups[0]["lr"] = hyper["lr"] * (1 - t / config.num_steps)
        inputs, targets = task.sample(config.seed, t * config.batch_size, config.batch_size)
        optimizer.zero_grad()
        criterion(module(inputs), targets).backward()
        optimizer.step()
    return module


def check_against_plain(configs, criterion, **how):
    """Every lane ends where its plain loop does, in its held-out loss too."""
    program, now = trained(stack_of(*configs, **how))
    heldout = program.task.heldout(50)
    loss_R = evaluate(program, now, heldout)
    for lane, config in enumerate(configs):
        module = plain(config, criterion)
        assert float(evaluate(program, now, heldout)[lane]) == float(loss_R[lane]), "evaluation changes nothing"
        expected = flatten_params(dict(module.named_parameters())).detach()
        torch.testing.assert_close(now.params_RN[lane], expected, rtol=0, atol=1e-9)
        with torch.no_grad():
            alone = criterion(module.eval()(heldout[0].clone()), heldout[1])
        assert float(loss_R[lane]) == pytest.approx(float(alone), rel=1e-8)
    return program


def grid(make, model, **changed):
    return [
        make(model, seed=seed, optimizer={"lr": lr}, precision="float64", **changed)
        for seed in (0, 1) for lr in (0.01, 0.003)
    ]  # fmt: skip


def test_a_tied_attention_model_with_an_output_object_is_its_plain_loop(make_run, folder):
    import user_nets

    task = {"name": "python_source", "context": 8, "num_heldout": 64, "loss": "user_nets:next_byte"}
    configs = grid(lambda model, **x: make_run(model=model, task=task, num_samples=48, **x), TEXT | {"dropout": 0.0})
    program = check_against_plain(configs, user_nets.next_byte)
    names = program.layout.names
    assert names == ("embedding.weight", "qkv.weight", "qkv.bias")  # the tied head is no second parameter
    assert program.task.embeddings == {"embedding.weight"}
    assert why_alone(configs[0], CPU) is None


def test_only_stacks_write_attention_out(make_run, folder):
    task = {"name": "python_source", "context": 8, "num_heldout": 64, "loss": "user_nets:next_byte"}
    config = make_run(model=TEXT | {"dropout": 0.0}, task=task, num_samples=8)

    class Kernels(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            fused.append("flash_attention" in str(func))
            return func(*args, **(kwargs or {}))

    curves = []
    for alone in ("by its own wish", None):
        fused = []
        with Kernels():
            _, now = trained(stack_of(config, alone=alone))
        assert any(fused) == bool(alone)
        curves.append(now.history["loss"][-1][0])
    assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_images_through_convolutions_are_their_plain_loop(make_user):
    configs = grid(make_user, {"name": "user_nets:Net", "width": 4, "norm": "group"})
    check_against_plain(configs, nn.functional.cross_entropy)
    assert why_alone(configs[0], CPU) is None


def test_batch_normalisation_alone_is_its_plain_loop(make_user):
    model = {"name": "user_nets:Net", "width": 4, "norm": "batch"}
    config = make_user(model, precision="float64")
    reason = why_alone(config, CPU)
    assert reason == "its BatchNorm2d features.1 keeps running statistics; GroupNorm or LayerNorm would stack"
    program = check_against_plain([config], nn.functional.cross_entropy, alone=reason)
    module = plain(config, nn.functional.cross_entropy)
    assert set(program.task.buffers) == {
        f"features.1.{x}" for x in ("running_mean", "running_var", "num_batches_tracked")
    }
    for name, buffer in module.named_buffers():
        torch.testing.assert_close(program.task.buffers[name], buffer, rtol=0, atol=1e-10)
    program.task.init(0)
    assert not program.task.buffers["features.1.running_mean"].any(), "a run begins with fresh buffers"


def test_running_statistics_go_on_from_a_checkpoint(make_user, tmp_path):
    stack = stack_of(make_user({"name": "user_nets:Net", "norm": "batch"}), alone="running statistics")
    for now in train(make_program(stack, CPU), stack, num_evals=2, num_examples=16):
        if now.step == 3:
            save_checkpoint(tmp_path, stack.name, "s", stack, now, {})
    program = make_program(stack, CPU)
    resumed = load_checkpoint(tmp_path, stack, {}, CPU, print)
    assert resumed is not None
    *_, end = train(program, stack, num_evals=2, num_examples=16, resume=resumed)
    assert torch.equal(end.params_RN, now.params_RN)
    assert len(now.buffers) == 3
    assert all(torch.equal(end.buffers[name], buffer) for name, buffer in now.buffers.items())
    assert end.history == now.history


def check_saved(stack, criterion, tmp_path, **shape):
    """What is saved of every run makes a fresh module, of another seed, the one that was trained."""
    program, now = trained(stack)
    losses = evaluate(program, now, heldout := program.task.heldout(50)).tolist()
    rows = [summarise(now, lane, loss) for lane, loss in enumerate(losses)]
    save_weights(tmp_path, "s", stack, program, now, rows)
    states = []
    for (name, config), loss in zip(stack.runs.items(), losses, strict=True):
        params, _ = load_weights(tmp_path / "weights" / f"{name}.safetensors")
        module = make_model(config.model, **shape).to(torch.float64).eval()
        module.load_state_dict(params)
        assert criterion(module(heldout[0]), heldout[1]).item() == pytest.approx(loss, rel=1e-12)
        states.append(params)
    return states


def test_saved_weights_are_tied_as_the_module_is(make_run, folder, tmp_path):
    import user_nets

    task = {"name": "python_source", "context": 8, "num_heldout": 64, "loss": "user_nets:next_byte"}
    configs = grid(lambda model, **x: make_run(model=model, task=task, num_samples=48, **x), TEXT | {"dropout": 0.0})
    for params in check_saved(stack_of(*configs), user_nets.next_byte, tmp_path, num_symbols=256):
        assert set(params) == {"embedding.weight", "head.weight", "qkv.weight", "qkv.bias", "scale"}
        assert torch.equal(params["embedding.weight"], params["head.weight"])


def test_saved_weights_have_what_is_not_trained(make_user, tmp_path):
    stack = stack_of(*grid(make_user, {"name": "user_nets:Untrained"}))
    first, *others = check_saved(stack, nn.functional.cross_entropy, tmp_path)
    assert "unsaved" not in first
    assert all(torch.equal(first[key], x[key]) for x in others for key in ("mix", "classifier.bias"))
    assert not any(torch.equal(first["classifier.weight"], x["classifier.weight"]) for x in others)


def test_saved_weights_have_running_statistics(make_user, tmp_path):
    config = make_user({"name": "user_nets:Net", "norm": "batch"}, precision="float64")
    [params] = check_saved(stack_of(config, alone="running statistics"), nn.functional.cross_entropy, tmp_path)
    expected = plain(config, nn.functional.cross_entropy).state_dict()
    assert params.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(params[name], tensor, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Decides", "it decides by the values of a tensor"),
        ("Counts", "it writes in place"),
        ("Shifts", "it writes in place into its input"),
        ("Recurrent", "torch has no rule for stacking an LSTM"),
    ],
)
def test_what_cannot_stack_says_why_and_trains_alone(make_user, name, words):
    config = make_user({"name": f"user_nets:{name}"}, precision="float64")
    reason = why_alone(config, CPU)
    assert reason is not None
    assert reason.startswith(words)
    assert "\n" not in reason
    check_against_plain([config], nn.functional.cross_entropy, alone=reason)


def test_a_module_that_is_wrong_either_way_is_not_taken_apart(make_user):
    assert why_alone(make_user({"name": "user_nets:Wrong"}), CPU) is None


def test_want_of_memory_is_no_reason_to_run_alone(make_user):
    assert why_alone(make_user({"name": "user_nets:Large"}), CPU) is None


def test_dropout_masks_differ_over_runs_and_steps_and_repeat(make_user):
    config = make_user({"name": "user_nets:Net", "p": 0.5}, schedule={"name": "constant", "warmup": 0.0})
    twice = {"a": config, "b": config}  # the same run on two lanes: only masks can tell them apart
    _, now = trained(Stack(twice))
    assert not torch.equal(now.params_RN[0], now.params_RN[1])
    _, again = trained(Stack(twice))
    assert torch.equal(now.params_RN, again.params_RN)
    # one state, one batch, two calls of the step: other masks
    program = make_program(stack_of(config), CPU)
    *_, now = train(program, stack_of(config), num_evals=1, num_examples=8)
    batch, one = program.task.sample(0, 0, 8), torch.ones(())
    hyper = {name: torch.tensor([value]) for name, value in config.hyperparameters.items()}
    nothing = torch.zeros_like(now.loss_sum_R)
    losses = {
        float(program.step(now.params_RN, now.state, now.diverged_at_R, nothing.clone(), hyper,
                           {"step": one, "lr": torch.zeros(1)}, batch)[3])
        for _ in range(4)
    }  # fmt: skip
    assert len(losses) > 1


def test_held_out_losses_are_taken_in_eval_mode(make_user):
    config = make_user({"name": "user_nets:Net", "p": 0.5})
    program, now = trained(stack_of(config))
    heldout = program.task.heldout(50)
    first = evaluate(program, now, heldout)
    assert torch.equal(first, evaluate(program, now, heldout))
    module = make_model(config.model).float().eval()
    nn.utils.vector_to_parameters(now.params_RN[0], module.parameters())
    expected = nn.functional.cross_entropy(module(heldout[0]), heldout[1]).detach()
    assert float(first[0]) == pytest.approx(float(expected), rel=1e-5)


def test_floating_targets_take_the_mean_squared_error_of_one_shape(make_user):
    config = make_user({"name": "user_nets:One"}, task={**TENSORS, "data": "user_nets:heights"})
    with pytest.raises(ValueError, match="make them the same, or set task.loss"):
        trained(stack_of(config))


@pytest.mark.parametrize(
    ("model", "task", "words"),
    [
        ({"name": "user_nets:Nett"}, {}, "cannot be imported"),
        ({"name": "user_nets:Net", "p": 0.5, "depth": 2}, {}, "unexpected keyword argument 'depth'"),
        ({"name": "user_nets:not_a_module"}, {}, "made a int, not a torch.nn.Module"),
        ({"name": "user_nets:language_model", "width": 8}, {}, "missing a required argument"),
        ({"name": "user_nets:Net"}, {"loss": "user_nets:each_loss"}, "return the batch's mean"),
        ({"name": "user_nets:Net"}, {"data": "user_nets:each_loss"}, "each_loss"),
    ],
)
def test_mistakes_are_told(make_user, model, task, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        trained(stack_of(make_user(model, task={**TENSORS, **task})))


def command(folder, *arguments, check=0):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *arguments, "tracker=none"],
        cwd=folder, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == check, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def conf(folder):
    (folder / "conf" / "model").mkdir(parents=True)
    texts = {
        "batch": "name: user_nets:Net\nwidth: 4\nnorm: batch\n", "raises": "name: user_nets:Raises\n",
        "mine": "name: user_nets:language_model\nwidth: 8\ndropout: 0.1\n",
        "net": "name: user_nets:Net\nwidth: 4\nnorm: group\n",
        "gone": "name: nowhere.nets:Net\n", "typo": "name: user_nets:Nett\n", "form": "name: user_nets\n",
        "option": "name: user_nets:Net\nwidht: 4\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / "conf" / "model" / f"{name}.yaml").write_text(text)
    return folder


SMALL = ["task.num_heldout=32", "metrics.num_examples=16", "sweep.grid.optimizer.lr=[0.003,0.01]",
         "sweep.grid.batch_size=[16]", "num_samples=64"]  # fmt: skip


@pytest.mark.parametrize(
    "choice",
    [["model=mine", "task.loss=user_nets:next_byte"], ["model=net", "task=tensors", "task.data=user_nets:images"]],
    ids=["language model", "images"],
)
def test_a_sweep_of_them_from_the_command(conf, choice):
    name = choice[0].replace("=", "-")
    command(conf, "--config-dir", "conf", *SMALL, *choice, f"sweep.name={name}")
    frame = pd.concat(map(pd.read_parquet, (conf / "runs" / name).glob("stack-*.parquet")))
    assert len(frame) >= 2
    assert set(frame["status"]) == {"done"}, frame["message"].tolist()
    assert frame["loss"].map(math.isfinite).all()
    assert frame["model.name"].str.startswith("user_nets:").all()


def test_one_that_raises_costs_its_own_stack_and_one_that_cannot_stack_trains_alone(conf):
    data = ["task=tensors", "task.data=user_nets:images", "sweep.name=mixed"]
    typed = ["--config-dir", "conf", *SMALL, *data, "sweep.grid.model.name=[raises,batch,net]"]
    done = command(conf, *typed, check=1)
    assert "Traceback" not in done.stderr
    assert "2 runs are trained one by one: its BatchNorm2d features.1 keeps running statistics" in done.stdout
    assert "2 runs failed: KeyError: 'no such thing' (see runs/mixed/stack-" in done.stderr
    frame = pd.concat(map(pd.read_parquet, (conf / "runs" / "mixed").glob("stack-*.parquet")))
    assert frame.groupby("status").size().to_dict() == {"done": 4, "failed": 2}
    assert sorted(frame.groupby("provenance.stack").size()) == [1, 1, 2, 2]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("  one of them alone: ")]
    alone = shlex.split(line.partition(": ")[2])
    assert alone[:3] == ["python", "-m", "harness"]
    dry = command(conf, *typed, "dry_run=true", "runs_dir=dry", check=2)
    assert "fail in their first step" in dry.stderr  # of the one that raises
    typed[-1] = "sweep.grid.model.name=[batch,net]"
    dry = command(conf, *typed, "dry_run=true", "runs_dir=dry")
    assert "2 runs are trained one by one: its BatchNorm2d features.1 keeps running statistics" in dry.stdout
    assert dry.stdout[0] != "\n"
    again = command(conf, *alone[3:], check=1)
    assert "1 run failed: KeyError: 'no such thing'" in again.stderr


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (["model=gone"], "module nowhere.nets is neither in this folder"),
        (["model=typo"], "did you mean Net?"),
        (["model=form"], "nor an import path PACKAGE.MODULE:NAME"),
        (
            ["model=option"],
            "model.widht is not an option of user_nets:Net, which takes width, norm, p (did you mean width?)",
        ),
        (["model=net", "task.loss=user_nets:next_bite"], "did you mean next_byte?"),
        (["task=tensors", "task.data=user_nets:images"], "a YAML of your own"),
        (["model=net", "task=noisy_quadratic"], "choose model=none"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_mistakes_in_a_command_take_one_line(conf, choice, words):
    done = command(conf, "--config-dir", "conf", *choice, "runs_dir=none", check=2)
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert words in lines[0]
    assert not (conf / "none").exists()


def test_the_readmes_example_runs(tmp_path):
    """Its files and its command, as they stand there."""
    section = (ROOT / "README.md").read_text().split("## A module of your own", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```(python|yaml)\n# (\S+)\n(.*?)```", section, flags=re.S)
    assert {name for _, name, _ in blocks} == {"mynets.py", "DIR/model/tiny.yaml"}
    for _, name, text in blocks:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    line = re.search(r"```\npython -m harness (.*?)```", section, flags=re.S)
    assert line is not None
    small = ["num_samples=64", "task.num_heldout=32", "metrics.num_examples=16", "sweep.grid.batch_size=[16]"]
    command(tmp_path, *shlex.split(line.group(1)), *small)
    frame = pd.concat(map(pd.read_parquet, (tmp_path / "runs" / "tiny").glob("stack-*.parquet")))
    assert set(frame["status"]) == {"done"}
    assert set(frame["model.name"]) == {"mynets:Tiny"}
