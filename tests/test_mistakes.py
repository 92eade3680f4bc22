"""Oracle: what a person needs who mistyped: one line that names the mistake and the cure, exit code 2, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import forking

ROOT = Path(__file__).resolve().parents[1]

HARNESS = [
    (["sweep=lr_vs_bz"], "did you mean lr_vs_bs"),
    (["sweep=null"], "leave the word out; without a sweep one run is trained"),
    (["optimizer.lrr=0.1"], "did you mean lr"),
    (["optimzer.lr=0.1"], "did you mean optimizer"),
    (["optimizer=adamx"], "did you mean ada"),
    (["optimizer.name=sgd"], "write optimizer=sgd"),
    (["sweep=smoke", "sweep.grid.optimizer.lrr=[0.1]"], "did you mean optimizer.lr"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[]"], "is not an axis"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[logspace,1,2]"], "needs three numbers"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[adaptive]"], "at least two different learning rates"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[adaptive,0.1,0.01,0.01]"], "at least two different learning rates"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[adaptive,0,0.01,0.1]"], "needs numbers > 0"),
    (["sweep=smoke", "sweep.grid.batch_size=[adaptive,0.1,8,16]"], "only sweep.grid.optimizer.lr can be adaptive"),
    (["sweep=smoke", "sweep.budget=100"], "is for sweep.grid.optimizer.lr=[adaptive"),
    (["sweep=smoke", "sweep.grid.optimizer.lr=[adaptive,0.1,0.01,0.1]", "sweep.budget=-1"], "sweep.budget=-1 is not"),
    (["sweep=lr_vs_bs_quadratic", "sweep.grid.optimizer.lr=[adaptive,0.1,0.01,0.1]"], "do not go together"),
    (["sweep=smoke", "sweep.grid.batch_size=[0]"], "batch_size=0 is not a whole number >= 1"),
    (["optimizer.lr=-0.1"], "optimizer.lr=-0.1 is not a number > 0"),
    (["batch_size=0"], "batch_size=0 is not a whole number >= 1"),
    (["batch_size=many"], "batch_size='many' is not a whole number"),
    (["sweep=smoke", "optimizer.lr=0.1"], "write 'sweep.grid.optimizer.lr=[0.1]'"),
    (["sweep=smoke", "optimizer.lr=[0.1,0.2]"], "write 'sweep.grid.optimizer.lr=[0.1,0.2]'"),
    (["sweep=smoke", "seed=3"], "write 'sweep.grid.seed=[3]'"),
    (["sweep=optimizers", "optimizer=sgd"], "'sweep.grids.adam.optimizer.name=[sgd]' and "),
    (["sweep=lr_vs_bs_quadratic", "batch_size=8"], "write 'sweep.grid.batch_size=[8]'"),
    (["sweep=lr_vs_bs_protocols", "protocol=fixed_steps"], "would reach no run, since sweep=lr_vs_bs_protocols has an"),
    (["optimizer.lr=[0.1,0.2]"], "an axis is 'sweep.grid.optimizer.lr=[0.1,0.2]'"),
    (["max_norm=[1,2]"], "an axis is 'sweep.grid.max_norm=[1,2]'"),
    (["optimizer.nmae=adam"], "did you mean name"),
    (["protocol=steps_to_target"], "on the command line or in the sweep's YAML"),
    (["sweep=smoke", "protocol=steps_to_target", "target_loss=3"], "num_samples=null where a sweep sets it"),
    (["task=tensors"], "and a model of your own: --config-dir DIR model=NAME"),
    (["optimizer.lr=fast"], "optimizer.lr='fast' is not a number"),
    (["task=text"], "task.path is not set: give task.path=VALUE"),
    (["task=tokens"], "task.path is not set: give task.path=VALUE"),
    (["task=text", "task.path=/nowhere"], "task.path='/nowhere' does not exist"),
    (["runs_dir=/proc/nowhere"], "give another runs_dir"),
    (["figures_dir=/proc/nowhere", "runs_dir=r"], "figures_dir='/proc/nowhere' cannot be written to"),
    (["sweep=smoke", "model=mlp"], "model.embedding is not an option of mlp"),
    (["num_steps=5"], "num_steps=5 does not go with protocol=fixed_samples"),
    (["tracker.mode=sometimes"], "tracker.mode='sometimes' is not one of auto, offline, online"),
    (["-m", "optimizer.lr=0.1,0.2"], "give an axis"),
    (["model=my.nets:Net"], "with name: my.nets:Net, then model=NAME"),
    (["model.name=my.nets:Net"], "with name: my.nets:Net, then model=NAME"),
    (["smoke"], "write KEY=VALUE"),
    (["sweep=smoke", "sweep.grid.seed=[0,"], "lists in quotes"),
    (["optimizer.lr=0.1,0.2"], "or an axis"),
    (["sweep=smoke", "sweep.grid.lr=[0.1]"], "did you mean optimizer.lr"),
    (["sweep=smoke", "sweep.grid.optimizer.learning_rate=[0.1]"], "did you mean optimizer.lr"),
    (["sweep=smoke", "sweep.grid.learning_rate=[0.1]"], "did you mean optimizer.lr"),
    (["optimizer.learning_rate=0.1"], "did you mean lr"),
    (["runs_dir="], "runs_dir is empty"),
    (["task.num_heldout=999999999"], "a whole number from 1 to 10,000,000"),
    (["launcher.device=tpu"], "launcher.device='tpu' is not one of auto, cpu, cuda"),
    (["schedule.warmup=2"], "schedule.warmup=2.0 is not a number in [0, 1]"),
    (["sweep=smoke", "run_id=123"], "run_id='123' is not one of"),
    (["batch_size"], "batch_size"),
    (["task=noisy_quadratic"], "choose model=none"),
    (["task=teacher_student", "model=none"], "choose model=perceptron"),
    (["model=none"], "choose model=ngram or mlp"),
    (["schedule=inverse_time"], "e.g. optimizer=adamw"),
    (["schedule.weight_decay=linaer"], "did you mean linear"),
    (["task=noisy_quadratic", "model=none", "task.noise=isotropc"], "did you mean isotropic"),
    (["sweep=smoke", "--dry-run"], "settings have no dashes, write KEY=VALUE, as in dry_run=VALUE"),
    (["--optimizer.lr=0.1"], "--optimizer.lr=0.1 is no flag: settings have no dashes, write optimizer.lr=0.1"),
    (["launcher=ray", "launcher.cancel=true"], "launcher.cancel is of launcher=slurm; tasks of Ray end with their"),
    (["optimiser=sgd"], "optimiser is not a key here (did you mean optimizer?); there are"),
    (["launcher.data_parallel=3", "runs_dir=r"], "batch_size=64 does not divide by launcher.data_parallel=3"),
]

TABLES = {
    "empty.csv": "",
    "no_loss.csv": "batch_size,optimizer.lr\n8,0.1\n",
    "words.csv": "batch_size,optimizer.lr,loss\n8,0.1,low\n",
}
PLOT = [
    (["--runs", "missing.csv"], "missing.csv"),
    (["--runs", "empty.csv"], "empty.csv"),
    (["--runs", "no_loss.csv"], "loss"),
    (["--runs", "words.csv"], "loss"),
    (["lr_vs_bz"], "did you mean lr_vs_bs"),
    (["--runs", "no_loss.csv", "--columns", "loss"], "--columns"),
    (["--style=nice"], "invalid choice"),
    (["smoke", "--out", "words.csv"], "'words.csv' is a file: give a folder"),
    (
        ["--runs", "words.csv", "--columns", "learning_rate=lr"],
        "none of our columns (did you mean lr?): they are batch",
    ),
]


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    with forking(tmp_path_factory.mktemp("printed")) as commands:
        yield commands


def check(command, folder, words):
    """Of a command in a process of its own, from its start."""
    environment = {**os.environ, "MPLBACKEND": "agg"}
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, env=environment)
    check_done(done, words)


def check_done(done, words):
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert words in lines[0], lines[0]


@pytest.mark.parametrize(("arguments", "words"), HARNESS, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_harness(commands, arguments, words, tmp_path):
    check_done(commands.run(["-m", "harness", *arguments], tmp_path), words)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(("arguments", "words"), PLOT, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_plot(commands, arguments, words, tmp_path):
    for name, content in TABLES.items():
        (tmp_path / name).write_text(content)
    check_done(commands.run([str(ROOT / "analysis" / "plot.py"), *arguments], tmp_path), words)
    assert {p.name for p in tmp_path.iterdir()} == set(TABLES)


def test_a_typo_in_a_sweep_of_ones_own(tmp_path):
    (tmp_path / "sweep").mkdir()
    text = "# @package _global_\noptimizer:\n  weight_decy: 0.1\nsweep:\n  name: mine\n"
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    command = ["-m", "harness", "--config-dir", str(tmp_path), "sweep=mine", "optimizer=adamw"]
    check(command, tmp_path, "optimizer.weight_decy is not an option of adamw")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sweep: [", "mine.yaml"),
        ("# @package _global_\nseed: 1\n", "sets no sweep.name: add `name: mine` under `sweep:`"),
        (
            "# @package _global_\ndefaults:\n  - override /optimzer: sgd\nsweep:\n  name: mine\n",
            "sweep/mine.yaml overrides /optimzer, which is no group: there are task, model, optimizer, schedule, "
            "protocol, launcher, tracker (did you mean optimizer?)",
        ),
        ("sweep:\n  name: mine\n", "sweep"),
        (
            "defaults:\n  - override /optimizer: sgd\nsweep:\n  name: mine\n",
            "sweep/mine.yaml does not begin with the line # @package _global_: add it",
        ),
    ],
    ids=["syntax", "no name", "no group", "no package", "no package and a choice"],
)
def test_a_broken_sweep_of_ones_own(tmp_path, text, words):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(text)
    check(["-m", "harness", "--config-dir", str(tmp_path), "sweep=mine"], tmp_path, words)


def test_a_figure_folder_that_is_a_file(tmp_path):
    (tmp_path / "table.csv").write_text("batch_size,optimizer.lr,loss\n8,0.1,1\n8,0.2,0.9\n8,0.4,1\n8,0.8,2\n")
    command = [str(ROOT / "analysis" / "plot.py"), "--runs", "table.csv", "--out", "table.csv/x"]
    check(command, tmp_path, "cannot be written to")


def test_a_corpus_that_cannot_be_read_is_told(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "loop").symlink_to("loop")
    check(
        ["-m", "harness", "task=text", "task.path=texts"],
        tmp_path,
        "task.path='texts' holds no files",
    )


def test_a_package_of_the_same_name_is_told_before_training(tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("")
    check(["-m", "harness", "sweep=smoke"], tmp_path, "the name analysis belongs to")
