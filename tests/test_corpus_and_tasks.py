"""Oracle: files written by the test, the interpreter's own library, and the definition of a stream by sample index."""

import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.corpus import python_source_files, read_corpus, split_corpus
from harness.tasks import make_task
from harness.tasks.random import HELDOUT, TRAINING, draw

CPU = torch.device("cpu")


def test_python_source_is_the_library_without_its_tests():
    root, files = python_source_files()
    assert root == Path(sysconfig.get_path("stdlib"))
    assert root / "argparse.py" in files
    assert not [p for p in files if "site-packages" in p.parts or "test" in p.relative_to(root).parts]


def test_split_holds_out_whole_files_and_at_least_a_sixteenth():
    texts = {f"file{i}": bytes([65 + i]) * 100 for i in range(26)}
    corpus = split_corpus(texts)
    letters = {
        part: set(data.replace(b"\n", b"")) for part, data in (("train", corpus.train), ("heldout", corpus.heldout))
    }
    assert not letters["train"] & letters["heldout"]
    assert len(letters["train"] | letters["heldout"]) == 26
    assert len(letters["heldout"]) == 2  # 26 / 16, rounded up to whole files


def test_one_file_gives_its_end():
    corpus = split_corpus({"a": b"x" * 160 + b"y" * 10})
    assert corpus.train == b"x" * 160
    assert corpus.heldout == b"y" * 10


def test_sha256_names_text_and_split():
    base = split_corpus({"a": b"hello" * 9, "b": b"there" * 9})
    assert base.sha256 == split_corpus({"b": b"there" * 9, "a": b"hello" * 9}).sha256
    assert base.sha256 != split_corpus({"a": b"hello" * 9, "b": b"thera" * 9}).sha256


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: d / "missing", "does not exist"),
        (lambda d: d, "holds no files"),
        (
            lambda d: (d / "short.txt").write_bytes(b"abc") and d / "short.txt",
            "has 3 bytes, one window takes 9",
        ),
    ],
)
def test_unusable_text_is_told(tmp_path, make, words):
    with pytest.raises(ValueError, match=words):
        read_corpus({"path": str(make(tmp_path)), "context": 8})


def test_a_sample_is_a_window_of_the_corpus(tmp_path, make_run):
    text = np.random.default_rng(0).integers(0, 256, 4000, dtype=np.uint8).tobytes()
    (tmp_path / "a.bin").write_bytes(text)
    config = make_run(task={"name": "text", "path": str(tmp_path / "a.bin"), "context": 5, "num_heldout": 8})
    task = make_task(config, CPU)
    train = text[:3750]
    symbols, following = task.sample(0, 0, 200)
    for window, byte in zip(symbols.tolist(), following.tolist(), strict=True):
        assert bytes([*window, byte]) in train
    symbols, following = task.heldout(50)
    for window, byte in zip(symbols.tolist(), following.tolist(), strict=True):
        assert bytes([*window, byte]) in text[3750:]


@pytest.mark.parametrize(("start", "n"), [(0, 64), (1, 7), (6, 1), (13, 40)])
def test_sample_i_is_the_same_in_whatever_pieces_it_is_drawn(make_run, start, n):
    task = make_task(make_run(), CPU)
    whole = task.sample(3, 0, 64)
    piece = task.sample(3, start, n)
    for a, b in zip(piece, whole, strict=True):
        assert torch.equal(a, b[start : start + n])


def test_streams_differ_by_seed_and_purpose():
    assert not np.array_equal(draw(0, TRAINING, 0, 8), draw(1, TRAINING, 0, 8))
    assert not np.array_equal(draw(0, TRAINING, 0, 8), draw(0, HELDOUT, 0, 8))


def test_draws_are_uniform():
    share = draw(5, TRAINING, 0, 100_000) / 2.0**64
    assert abs(share.mean() - 0.5) < 4 * (1 / 12 / 1e5) ** 0.5
    assert abs(np.corrcoef(share[:-1], share[1:])[0, 1]) < 4 / 1e5**0.5


def test_init_is_a_function_of_the_seed_in_the_runs_precision(make_run):
    task = make_task(make_run(), CPU)
    first, again, other = task.init(0), task.init(0), task.init(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["hidden.weight"], other["hidden.weight"])
    double = make_task(make_run(precision="float64"), CPU).init(0)
    assert all(double[name].dtype == torch.float64 and torch.equal(double[name].float(), first[name]) for name in first)
