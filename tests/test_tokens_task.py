"""Oracle: counting (every window exactly once an epoch), plain loops over the tokens, exact distributions."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import chi2

from harness.config import run_id
from harness.plan import Stack
from harness.program import make_program
from harness.shards import PREPARE, write_shard
from harness.sweep import make_sweep
from harness.tasks import make_task
from harness.tasks.order import shuffled
from harness.tasks.random import HELDOUT
from harness.token_files import tokens_sha256
from harness.train import draw_batches, train

CPU = torch.device("cpu")
CONTEXT, NUM_SYMBOLS = 5, 300


@pytest.fixture(scope="module")
def tokens():
    return [np.random.default_rng(i).integers(0, NUM_SYMBOLS, 1111) for i in range(2)]


@pytest.fixture
def make_tokens_run(tmp_path, tokens, make_run):
    for i, part in enumerate(tokens):
        write_shard(tmp_path / f"{i}.bin", [part], np.uint16)
    names = {"name": "tokens", "path": str(tmp_path), "heldout_path": None, "loss": None, "every_position": None}
    task = {**names, "context": CONTEXT, "num_symbols": NUM_SYMBOLS, "num_heldout": 10}

    def make(task_changed=None, **changed):
        return make_run(task=task | (task_changed or {}), **changed)

    return make


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 65536, 65537, 100_003])
@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_every_window_comes_once_an_epoch(seed, size):
    epochs = shuffled(seed, np.arange(3 * size), size).reshape(3, size)
    assert all(np.array_equal(np.sort(epoch), np.arange(size)) for epoch in epochs)
    if size >= 1000:
        others = [*epochs, shuffled(seed - 1 if seed else 1, np.arange(size), size), np.arange(size)]
        others.append(shuffled(seed, np.arange(size), size, HELDOUT))
        for one, other in itertools.combinations(others, 2):
            same = (one == other).sum()  # of independent orders: Poisson of mean 1
            assert same < 10


@pytest.mark.parametrize("size", [7, 1000, 3 * 2**40])
def test_an_entry_is_the_same_whatever_is_asked_beside_it(size):
    index = np.concatenate([np.arange(50), size - 1 + np.arange(50), 2 * size - np.arange(3)])
    index += 10**6 * size  # far from the first epoch: what lies before it costs nothing
    whole = shuffled(3, index, size)
    assert whole.min() >= 0
    assert whole.max() < size
    assert [int(shuffled(3, np.array([i]), size)[0]) for i in index] == whole.tolist()
    backwards = shuffled(3, index[::-1], size)
    assert np.array_equal(backwards[::-1], whole)
    assert len(shuffled(3, index[:0], size)) == 0


@pytest.mark.parametrize("size", [5, 24, 100])
def test_every_place_is_as_likely_for_every_window(size):
    """Chi-square over 10,000 epochs of where an entry goes, and of pairs of neighbours, at one in a million."""
    epochs = shuffled(1, np.arange(10_000 * size), size).reshape(-1, size)
    for place in (0, size // 2, size - 1):
        counts = np.bincount(epochs[:, place], minlength=size)
        assert ((counts - 10_000 / size) ** 2 / (10_000 / size)).sum() < chi2.ppf(1 - 1e-6, size - 1)
    gaps = np.bincount((epochs[:, 1] - epochs[:, 0]) % size, minlength=size)
    expected = 10_000 / (size - 1)
    assert gaps[0] == 0
    assert ((gaps[1:] - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, size - 2)


def plain_windows(tokens):
    """The windows to train on, and the held-out ones, from the definition."""
    every = [[part[k : k + CONTEXT + 1].tolist() for k in range(0, len(part) - CONTEXT, CONTEXT)] for part in tokens]
    last = len(every[-1]) // 16
    return [*every[0], *every[1][:-last]], every[1][-last:]


def test_an_epoch_has_every_window_once_and_none_that_is_held_out(make_tokens_run, tokens):
    train_windows, heldout_windows = plain_windows(tokens)
    task = make_task(make_tokens_run({"num_heldout": 10**6}), CPU)
    inputs, targets = task.sample(4, 0, 2 * len(train_windows))
    assert inputs.dtype == targets.dtype == torch.int64
    rows = [[*x, y] for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)]
    epochs = rows[: len(train_windows)], rows[len(train_windows) :]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(train_windows)
    assert epochs[0] != epochs[1]
    inputs, targets = task.heldout(10**6)
    rows = [[*x, y] for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)]
    assert sorted(rows) == sorted(heldout_windows)
    assert [[*x, y] for x, y in zip(*(part.tolist() for part in task.heldout(5)), strict=True)] == rows[:5]


def test_a_sample_is_the_same_at_any_batch_size(make_tokens_run):
    batches = {}
    for size in (1, 8, 64):
        config = make_tokens_run(batch_size=size, num_samples=1024)
        drawn = list(draw_batches(make_task(config, CPU), Stack({"a": config})))
        batches[size] = [torch.cat([batch[part] for batch in drawn]) for part in (0, 1)]
    for size in (8, 64):
        assert all(torch.equal(a, b) for a, b in zip(batches[1], batches[size], strict=True))


def test_long_windows_are_drawn_in_smaller_pieces(make_run):
    class Counting:
        drawn = ()

        def sample(self, seed, start, n):
            self.drawn = (*self.drawn, n)
            return (torch.zeros(n, 1),)

    for context, most in ((8, 16384), (64, 16384), (1024, 1024), (2**21, 8)):
        config, task = make_run(task={"context": context}, num_samples=40_000), Counting()
        assert len(list(draw_batches(task, Stack({"a": config})))) == 5000
        assert max(task.drawn) == most


def test_the_loss_of_every_position(make_tokens_run, tokens):
    model = {"name": "torch.nn:Embedding", "num_embeddings": NUM_SYMBOLS, "embedding_dim": NUM_SYMBOLS}
    task = make_task(make_tokens_run({"every_position": True}, model=model, precision="float64"), CPU)
    params, batch = task.init(0), task.sample(0, 0, 6)
    total = 0.0
    for symbols, following in zip(*(part.tolist() for part in batch), strict=True):
        assert symbols[1:] == following[:-1]
        for symbol, target in zip(symbols, following, strict=True):
            z = params["weight"][symbol].numpy()
            total += np.log(np.exp(z).sum()) - z[target]
    assert float(task.loss(params, batch)) == pytest.approx(total / (6 * CONTEXT), rel=1e-12)


def test_identity_is_by_content_and_not_by_place(make_tokens_run, tmp_path):
    config = make_tokens_run()
    named = {"tokens_sha256": tokens_sha256(config.task, tmp_path / "runs")}
    elsewhere = make_tokens_run(named | {"path": "elsewhere", "heldout_path": "there"})
    assert run_id(make_tokens_run(named)) == run_id(elsewhere) != run_id(config)
    assert run_id(make_tokens_run(named | {"context": 6})) != run_id(elsewhere)
    make_task(make_tokens_run(named), CPU)
    with pytest.raises(ValueError, match="no longer those that the run names .*plan the sweep again"):
        make_task(make_tokens_run({"tokens_sha256": "0" * 64}), CPU)


def test_stacked_is_alone(make_tokens_run):
    configs = [
        make_tokens_run(seed=seed, optimizer={"lr": lr}, precision="float64", num_samples=256)
        for seed in (0, 1)
        for lr in (0.003, 0.01)
    ]
    stack = Stack({run_id(config): config for config in configs})
    *_, together = train(make_program(stack, CPU), stack, num_evals=4, num_examples=8)
    for lane, config in enumerate(configs):
        own = Stack({run_id(config): config})
        *_, alone = train(make_program(own, CPU), own, num_evals=4, num_examples=8)
        torch.testing.assert_close(together.params_RN[lane], alone.params_RN[0], rtol=0, atol=1e-12)


def harness(folder, *given):
    done = subprocess.run(
        [sys.executable, "-m", "harness", "task=tokens", "model=ngram", "tracker=none", *given],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "WANDB_MODE": "offline"},
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_a_sweep_from_the_command(make_tokens_run, tmp_path, tokens):
    make_tokens_run()
    (tmp_path / "more").mkdir()
    table = pd.DataFrame({"input_ids": [list(map(int, part)) for part in tokens]})
    table.to_parquet(tmp_path / "more" / "a.parquet")
    small = ["task.context=5", "task.num_symbols=300", "task.num_heldout=10", "num_samples=512", "batch_size=32"]
    for path in ("*.bin", "more"):
        given = ["sweep.name=mine", f"task.path={path}", *small, "sweep.grid.optimizer.lr=[0.003,0.01]"]
        code, said, error = harness(tmp_path, *given)
        assert code == 0, error
        assert "2 runs" in said
    frame = pd.concat(map(pd.read_parquet, (tmp_path / "runs" / "mine").glob("stack-*.parquet")))
    assert len(frame) == frame["run_id"].nunique() == 4
    assert frame["loss"].between(4.5, 6.5).all()
    sha = {name: tokens_sha256({"path": str(tmp_path / name), "heldout_path": None, "num_symbols": 300, "context": 5},
                               tmp_path / "runs") for name in ("*.bin", "more")}  # fmt: skip
    assert set(frame["task.tokens_sha256"]) == set(sha.values())
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("*.bin"):
        path.rename(tmp_path / "moved" / path.name)
    code, said, error = harness(tmp_path, "sweep.name=mine", "task.path=moved", *small, given[-1])
    assert "all 2 runs are done" in said


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"path": "none"}, "task.path='none' does not exist"),
        ({"num_symbols": 299}, "0.bin has a token 299, and task.num_symbols=299 allows 0 to 298"),
        ({"grid": [300, 200]}, "give task.num_symbols=300 or more"),
        ({"context": 1111}, "no whole window of 1112 tokens"),
        ({"num_symbols": 1}, "task.num_symbols=1 is not a whole number from 2"),
        ({"every_position": True}, "model=ngram predicts the last position alone"),
    ],
)
def test_a_sweep_with_a_mistake_is_not_laid_out(make_tokens_run, tmp_path, changed, words):
    config = make_tokens_run()

    def compose(chosen):
        grid = {"task": {"num_symbols": changed["grid"]}} if "grid" in changed else {"seed": [0]}
        values = {name: getattr(config, name) for name in ("task", "model", "optimizer", "schedule", "protocol")}
        values |= {"num_samples": 256, "num_steps": None, "batch_size": 8, "seed": 0, "precision": "float32"}
        values |= {"runs_dir": str(tmp_path / "runs"), "sweep": {"name": "s", "question": "q", "grid": grid}}
        task = {**config.task, **{name: x for name, x in changed.items() if name != "grid"}}
        return {**values, "task": task}, values

    with pytest.raises(ValueError) as told:
        make_sweep(compose)
    assert words in str(told.value)


def test_a_mistake_is_told_before_training(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    code, said, error = harness(tmp_path, "task.path=notes.txt")
    assert (code, said) == (2, "")
    assert error.startswith("error: notes.txt is no token shard")
    assert error.endswith(f"a text becomes shards by {PREPARE}\n")
    assert not list((tmp_path / "runs").glob("*/*.parquet"))
