"""Oracle: documents that the test writes, joined by plain loops; a command that nobody disturbs."""

import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.shards import open_shard

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "prepare_tokens.py"


def command(*given):
    return [sys.executable, str(SCRIPT), *map(str, given)]


def prepare(*given, cwd=None):
    return subprocess.run(command(*given), capture_output=True, text=True, cwd=cwd)


def read(folder):
    """All tokens of a part, and how many each of its shards has."""
    shards = [open_shard(path) for path in sorted(folder.glob("*.bin"))]
    tokens = [np.concatenate(shard.pieces) for shard in shards]
    return (np.concatenate(tokens).tolist() if tokens else []), [len(part) for part in tokens]


def documents(count):
    generator = np.random.default_rng(3)
    return [" ".join(generator.choice(["one", "two", "drei"], generator.integers(1, 60))) for _ in range(count)]


def split(texts, share):
    """Documents of the two parts, by the first 8 bytes of their sha256."""
    shares = [int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 16**16 for text in texts]
    return {
        "train": [text for text, own in zip(texts, shares, strict=True) if own >= share],
        "heldout": [text for text, own in zip(texts, shares, strict=True) if own < share],
    }


def write(folder, texts, form):
    folder.mkdir()
    if form == "txt":
        for i, text in enumerate(texts):
            (folder / f"{i:04d}.txt").write_text(text)
    elif form == "jsonl":
        (folder / "a.jsonl").write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in texts))
    else:
        pd.DataFrame({"text": texts}).to_parquet(folder / "a.parquet", row_group_size=40)


@pytest.mark.parametrize("form", ["txt", "jsonl", "parquet"])
def test_documents_follow_one_another_with_a_zero_behind_each(tmp_path, form):
    texts = [*documents(200), "", "grün"]
    write(tmp_path / "texts", texts, form)
    done = prepare(
        tmp_path / "texts", "--out", "out", "--bytes", "--shard-tokens", 1000, "--heldout", 0.2, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    for part, own in split([text for text in texts if text], 0.2).items():
        plain = b"".join(text.encode() + b"\0" for text in own)
        tokens, sizes = read(tmp_path / "out" / part)
        assert bytes(tokens) == plain
        assert sizes == [1000] * (len(plain) // 1000) + [len(plain) % 1000]
    last = "python -m harness task=tokens task.path=out/train task.heldout_path=out/heldout task.num_symbols=256"
    assert done.stdout.splitlines()[-1] == last


def test_where_no_document_fell_to_the_held_out_part_the_command_leaves_it_out(tmp_path):
    write(tmp_path / "texts", ["only one"], "txt")
    done = prepare(tmp_path / "texts", "--out", "out", "--bytes", cwd=tmp_path)
    *_, why, last = done.stdout.splitlines()
    assert why.startswith("no document fell to out/heldout: without task.heldout_path a sixteenth of the last shard")
    assert last == "python -m harness task=tokens task.path=out/train task.num_symbols=256"


def test_a_tokenizers_symbols(tmp_path):
    pytest.importorskip("tokenizers")
    vocabulary = {"[?]": 0, "one": 7, "two": 70000, "<|endoftext|>": 2, "stop": 3}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "[?]"}
    (tmp_path / "t.json").write_text(
        json.dumps({"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": model})
    )
    texts = documents(50)
    write(tmp_path / "texts", texts, "jsonl")
    for end, symbol in ((["--end", "stop"], 3), ([], 2)):
        out = tmp_path / f"out{symbol}"
        done = prepare(tmp_path / "texts", "--out", out, "--tokenizer", tmp_path / "t.json", "--heldout", 0, *end)
        assert done.stderr == ""
        plain = [n for text in texts for n in [*(vocabulary.get(word, 0) for word in text.split()), symbol]]
        assert read(out / "train")[0] == plain
        assert open_shard(out / "train" / "000000.bin").pieces[0].dtype == np.uint32
        assert done.stdout.endswith(f"{out}/train task.num_symbols=70001\n")
    (tmp_path / "latin.txt").write_bytes("grün".encode("latin-1"))
    done = prepare(tmp_path / "latin.txt", "--out", tmp_path / "no", "--tokenizer", tmp_path / "t.json")
    assert done.stderr == "error: latin.txt, document 1 is not UTF-8 (byte 2): convert it, leave it out, or --bytes\n"


def test_a_long_file_is_cut_after_a_line_or_a_character(tmp_path):
    line = b"x" * (2**20 - 1) + b"\n"
    lines, one = line * 20 + b"end", "\N{GREEK SMALL LETTER ETA}".encode() * (2**23 + 5)
    (tmp_path / "a.txt").write_bytes(lines)
    (tmp_path / "b.txt").write_bytes(b"x" + one)
    prepare(tmp_path / "a.txt", tmp_path / "b.txt", "--out", tmp_path / "out", "--bytes", "--heldout", 0)
    tokens = np.concatenate(open_shard(tmp_path / "out" / "train" / "000000.bin").pieces)
    pieces = bytes(tokens.astype(np.uint8)).split(b"\0")
    assert pieces.pop() == b""
    assert [len(piece) for piece in pieces] == [2**24, 4 * 2**20 + 3, 2**24 - 1, 12]
    assert b"".join(pieces) == lines + b"x" + one
    pieces[2].decode()


def test_killed_and_run_again_it_gives_the_same_bytes(tmp_path):
    texts = documents(10000)
    write(tmp_path / "texts", texts, "jsonl")
    given = [tmp_path / "texts", "--bytes", "--shard-tokens", 20011, "--heldout", 0.1]
    assert prepare(*given, "--out", tmp_path / "whole").returncode == 0
    out, kills = tmp_path / "killed", 0
    for wanted in (2, 20, 45):
        process = subprocess.Popen(command(*given, "--out", out), stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(out.glob("*/*.bin"))) < wanted:
            time.sleep(0.001)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills == 3
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.bin")}
    done = prepare(*given, "--out", out)
    assert done.returncode == 0
    whole = {p.relative_to(tmp_path / "whole"): p.read_bytes() for p in (tmp_path / "whole").glob("*/*.bin")}
    assert len(whole) > 55
    assert {p.relative_to(out): p.read_bytes() for p in out.glob("*/*.bin")} == whole
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert prepare(*given, "--out", out).stdout == done.stdout


@pytest.mark.parametrize(
    ("files", "given", "words"),
    [
        ({}, ["none.txt"], "TEXT 'none.txt' does not exist: give a text file or a folder"),
        ({"a.txt": ""}, ["a.txt"], "no document with a text fell to out/train: give more, or a smaller --heldout"),
        ({"a.txt": "x"}, ["a.txt", "--shard-tokens", 0], "--shard-tokens 0 is not a whole number from 1 to"),
        ({"a.txt": "x"}, ["a.txt", "--heldout", 1], "--heldout 1.0 is not a share from 0 to less than 1"),
        ({"a.txt": "x", "out": ""}, ["a.txt"], "--out out cannot be written to (Not a directory): give another DIR"),
        ({"a.jsonl": '{"text": "x"}\n{"text"'}, ["a.jsonl"], "a.jsonl, line 2 is no JSON: mend it, or leave it out"),
        ({"a.jsonl": '{"body": "x"}'}, ["a.jsonl"], "line 1 has no text 'text': give --column NAME"),
        ({"a.parquet": "PAR1"}, ["a.parquet"], "a.parquet cannot be read ("),
        ({"a.parquet": {"body": ["x"]}}, ["a.parquet"], "no column of texts 'text' but body ("),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, files, given, words):
    for name, content in files.items():
        if isinstance(content, dict):
            pd.DataFrame(content).to_parquet(tmp_path / name)
        else:
            (tmp_path / name).write_text(content)
    done = prepare(*given, "--out", "out", "--bytes", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_other_settings_are_refused(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    assert prepare("a.txt", "--out", "out", "--bytes", cwd=tmp_path).returncode == 0
    done = prepare("a.txt", "--out", "out", "--bytes", "--shard-tokens", 5, cwd=tmp_path)
    words = "error: --out out was begun with other settings (shard_tokens): give the same, or another DIR\n"
    assert (done.returncode, done.stderr) == (2, words)
    (tmp_path / "a.txt").write_text("hello!")
    assert "with other settings (texts):" in prepare("a.txt", "--out", "out", "--bytes", cwd=tmp_path).stderr


def test_a_tokenizer_that_cannot_be_had_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    (tmp_path / "tokenizers.py").write_text("raise ImportError('not here')")
    code = f"import sys, runpy; sys.path.insert(0, '.'); runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    given = ["a.txt", "--out", "out", "--tokenizer", "t.json"]
    done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "--tokenizer needs the package tokenizers: pip install -e '.[tokens]', or --bytes\n" in done.stderr
    pytest.importorskip("tokenizers")
    (tmp_path / "t.json").write_text("{}")
    assert "--tokenizer t.json cannot be loaded (" in prepare(*given, cwd=tmp_path).stderr
