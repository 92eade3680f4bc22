"""Oracle: arrays of random tokens that the test writes itself, byte by byte or by pyarrow, in each of the formats."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.shards import decode_pieces, kind_for, open_shard, read_windows, write_shard
from harness.token_files import CHECKED, TOKENS, open_tokens

NUM_TOKENS, CONTEXT = 5003, 7


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, 50304, NUM_TOKENS)


def counted(path, tokens, magic=20240520, version=1, count=None):
    header = np.zeros(256, "<i4")
    header[:3] = magic, version, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + np.asarray(tokens).astype({20240520: "<u2"}.get(magic, "<u4")).tobytes())


INT32 = pa.list_(pa.int32())


def rows_of(tokens, kind=INT32):
    """Documents of 0, 1, 2, ... tokens."""
    ends = np.cumsum(np.arange(len(tokens)))
    parts = np.split(tokens, ends[ends < len(tokens)])
    return pa.table({"id": range(len(parts)), "input_ids": pa.array([part.tolist() for part in parts], kind)})


def arrow(path, table, writer, rows=16, **options):
    with writer(str(path), table.schema, **options) as sink:
        sink.write_table(table, max_chunksize=rows)


LZ4 = {"options": pa.ipc.IpcWriteOptions(compression="lz4")}
FORMATS = {
    "llm.c": lambda d, t: counted(d / "a.bin", t),
    "llm.c, version 7": lambda d, t: counted(d / "a.bin", t, 20240801, 7),
    "uint32, version 1": lambda d, t: counted(d / "a.bin", t, 20240801, 1),
    "nanoGPT": lambda d, t: (d / "a.bin").write_bytes(t.astype("<u2").tobytes()),
    "arrow stream": lambda d, t: arrow(d / "a.arrow", rows_of(t), pa.ipc.new_stream),
    "arrow file": lambda d, t: arrow(d / "a.arrow", rows_of(t), pa.ipc.new_file),
    "arrow of int64": lambda d, t: arrow(d / "a.arrow", rows_of(t, pa.large_list(pa.int64())), pa.ipc.new_file),
    "arrow, flat": lambda d, t: arrow(d / "a.arrow", pa.table({"input_ids": t}), pa.ipc.new_stream, 100),
    "arrow, compressed": lambda d, t: arrow(d / "a.arrow", rows_of(t), pa.ipc.new_file, **LZ4),
    "parquet": lambda d, t: pq.write_table(rows_of(t), d / "a.parquet", row_group_size=16),
    "parquet, flat": lambda d, t: pq.write_table(pa.table({"input_ids": t}), d / "a.parquet", row_group_size=100),
    "parquet of uint16": lambda d, t: pq.write_table(rows_of(t, pa.list_(pa.uint16())), d / "a.parquet"),
}
DECODED = {name for name in FORMATS if "parquet" in name or "compressed" in name}


def task_of(path, **changed):
    return {"path": str(path), "heldout_path": None, "context": CONTEXT, "num_symbols": 50304, **changed}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_windows(tmp_path, tokens, name):
    (tmp_path / "data").mkdir()
    FORMATS[name](tmp_path / "data", tokens)
    (path,) = (tmp_path / "data").iterdir()
    assert (open_shard(path) is None) == (name in DECODED)
    for place in (path, path.parent, path.parent / "*a*"):
        found = open_tokens(task_of(place), tmp_path / "runs")
        windows = (NUM_TOKENS - 1) // CONTEXT
        assert (len(found.train), len(found.heldout)) == (windows - windows // 16, windows // 16)
        order = np.random.default_rng(1).permutation(len(found.train))
        for part, first, numbers in ((found.train, 0, order), (found.heldout, len(found.train), np.arange(3))):
            read = part.read(numbers)
            assert read.dtype == np.int64
            for window, number in zip(read, numbers, strict=True):
                start = (first + number) * CONTEXT
                assert window.tolist() == tokens[start : start + CONTEXT + 1].tolist()
    stored = list((tmp_path / "runs" / TOKENS).glob("*.bin"))
    assert len(stored) == (name in DECODED)


def test_formats_stay_mapped(tmp_path, tokens):
    for name in set(FORMATS) - DECODED:
        FORMATS[name](tmp_path, tokens)
        (path,) = tmp_path.iterdir()
        held = open_shard(path)
        before = pa.total_allocated_bytes()
        assert all(not piece.flags.owndata and not piece.flags.writeable for piece in held.pieces)
        assert pa.total_allocated_bytes() == before
        path.unlink()


@pytest.mark.parametrize("length", [1, 2, 40, 4000])
def test_a_window_goes_over_the_batches_of_a_file(tmp_path, tokens, length):
    FORMATS["arrow stream"](tmp_path, tokens)
    shard = open_shard(tmp_path / "a.arrow")
    assert len(shard.pieces) > 5
    starts = np.random.default_rng(2).integers(0, NUM_TOKENS - length + 1, 3000)
    read = read_windows(shard, starts, length)
    assert np.array_equal(read, tokens[starts[:, None] + np.arange(length)])


def test_what_is_written_is_the_format_as_it_is_described(tmp_path, tokens):
    for num_symbols, magic, version, kind in ((65536, 20240520, 1, "<u2"), (65537, 20240801, 7, "<u4")):
        write_shard(path := tmp_path / f"{magic}.bin", np.split(tokens, [7, 7, 900]), kind_for(num_symbols))
        content = path.read_bytes()
        assert np.frombuffer(content, "<i4", 256).tolist() == [magic, version, NUM_TOKENS, *[0] * 253]
        assert np.array_equal(np.frombuffer(content, kind, offset=1024), tokens)


def test_windows_of_several_shards_are_numbered_through_and_cross_none(tmp_path, tokens):
    cuts = [1000, 1004, 2011, 2011 + 7]  # of 143, 0 (too short for a window), 143, 0 and 426 windows
    parts = np.split(tokens, cuts)
    for i, part in enumerate(parts):
        counted(tmp_path / f"s{i}.bin", part)
    (tmp_path / "notes.md").write_text("passed over")
    (tmp_path / ".s9.bin").write_text("hidden")
    found = open_tokens(task_of(tmp_path), None)
    plain = [part[k * CONTEXT : k * CONTEXT + CONTEXT + 1] for part in parts for k in range((len(part) - 1) // CONTEXT)]
    last = (len(parts[-1]) - 1) // CONTEXT // 16
    assert last > 0
    assert np.array_equal(found.train.read(np.arange(len(found.train))), plain[:-last])
    assert np.array_equal(found.heldout.read(np.arange(len(found.heldout))), plain[-last:])


def test_heldout_files_are_never_trained_on(tmp_path, tokens):
    for i, part in enumerate(np.split(tokens, 3 * [0] and [2000, 4000])):
        counted(tmp_path / f"s{i}.bin", part)
    found = open_tokens(task_of(tmp_path, heldout_path=str(tmp_path / "s1.bin")), None)
    assert [shard.path.name for shard in found.train.shards] == ["s0.bin", "s2.bin"]
    assert [shard.path.name for shard in found.heldout.shards] == ["s1.bin"]
    assert len(found.heldout) == 1999 // CONTEXT
    with pytest.raises(ValueError, match="holds out all of task.path"):
        open_tokens(task_of(tmp_path / "s1.bin", heldout_path=str(tmp_path)), None)


def test_content_and_what_is_held_out_make_the_identity(tmp_path, tokens):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        changed = tokens.copy()
        changed[-1] -= folder == "c"
        for name, part in (("x.bin", changed[:2500]), ("y.bin", changed[2500:])):
            counted(tmp_path / folder / name, part)
    names = [open_tokens(task_of(tmp_path / folder), None).sha256 for folder in ("a", "b", "c")]
    assert names[0] == names[1] != names[2]
    apart = open_tokens(task_of(tmp_path / "a" / "x.bin", heldout_path=str(tmp_path / "a" / "y.bin")), None)
    assert len({*names, apart.sha256, open_tokens(task_of(tmp_path / "a" / "x.bin"), None).sha256}) == 4


def arrow_of(path, **columns):
    arrow(path, pa.table(columns), pa.ipc.new_file)


def between_batches(path):
    """A stream of two batches without what follows the first: that of one batch, without its end."""
    batch = pa.table({"input_ids": SMALL})
    arrow(path, batch, pa.ipc.new_stream, len(SMALL))
    first = path.read_bytes()[:-8]
    arrow(path, pa.concat_tables([batch, batch]), pa.ipc.new_stream, len(SMALL))
    assert path.read_bytes().startswith(first)
    path.write_bytes(first)


def cut(path, write, share):
    write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


SMALL = np.arange(5000) % 100
MISTAKES = {
    "cut off": ("a.bin", lambda p: cut(p, lambda p: counted(p, SMALL), 0.5), "5000 tokens take 11024: copy"),
    "too long": ("a.bin", lambda p: counted(p, SMALL, count=10), "10 tokens take 1044: write it again"),
    "negative": ("a.bin", lambda p: counted(p, SMALL, count=-1), "-1 tokens take"),
    "version": ("a.bin", lambda p: counted(p, SMALL, version=2), "says version 2, and 1 is read: write it again"),
    "half a header": ("a.bin", lambda p: cut(p, lambda p: counted(p, SMALL), 0.05), "a header alone takes 1024"),
    "half a number": ("a.bin", lambda p: p.write_bytes(b"abc"), "has 3 bytes, no whole number of uint16"),
    "examples": ("a.bin", lambda p: p.write_bytes((20240522).to_bytes(4, "little") * 9), "multiple-choice examples"),
    "index": ("a.idx", lambda p: p.write_bytes(b"MMIDIDX\0" * 9), "an index of Megatron's"),
    "empty": ("a.bin", lambda p: p.write_bytes(b""), "a.bin is empty: leave it out"),
    "no tokens": ("a.bin", lambda p: counted(p, []), "holds no tokens: leave it out"),
    "no rows": ("a.arrow", lambda p: arrow_of(p, input_ids=pa.array([], pa.list_(pa.int32()))), "holds no tokens"),
    "text": ("a.txt", lambda p: p.write_text("Hello"), "becomes shards by python scripts/prepare_tokens.py"),
    "foreign": ("a.npy", lambda p: np.save(p, SMALL), "is no token shard (allowed: .bin, .arrow, .parquet"),
    "cut arrow": ("a.arrow", lambda p: cut(p, lambda p: arrow_of(p, input_ids=SMALL), 0.5), "is no whole arrow file"),
    "cut stream": ("a.arrow", between_batches, "or its writer was not closed): copy it again"),
    "cut parquet": (
        "a.parquet", lambda p: cut(p, lambda p: pq.write_table(pa.table({"input_ids": SMALL}), p), 0.5),
        "is no whole parquet file",
    ),
    "renamed": ("a.parquet", lambda p: p.write_text("Hello"), "is no whole parquet file"),
    "no column": ("a.arrow", lambda p: arrow_of(p, text=["Hello"]), "has no column input_ids, but text: rename"),
    "no numbers": ("a.arrow", lambda p: arrow_of(p, input_ids=["Hello"]), "input_ids holds string: give whole"),
    "null": ("a.arrow", lambda p: arrow_of(p, input_ids=[[1, None]]), "1 tokens of input_ids are null"),
    "short": ("a.bin", lambda p: counted(p, SMALL[:9]), "the training part has no whole window of 8 tokens"),
    "shorter": ("a.bin", lambda p: counted(p, SMALL[:3]), "a.bin with 3): give longer shards, a smaller"),
    "vocabulary": ("a.bin", lambda p: counted(p, [*SMALL, 50304]), "task.num_symbols=50304 allows 0 to 50303"),
    "its cure": ("a.bin", lambda p: counted(p, [*SMALL, 50304]), "give task.num_symbols=50305 or more"),
    "below zero": ("a.arrow", lambda p: arrow_of(p, input_ids=np.array([*SMALL, -100])), "a token -100"),
    "parquet's": (
        "a.parquet", lambda p: pq.write_table(pa.table({"input_ids": [*SMALL, 70000]}), p), "a token 70000, and task",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_trained_on_is_told_in_one_line(tmp_path, name):
    file, write, words = MISTAKES[name]
    write(tmp_path / file)
    with pytest.raises(ValueError) as told:
        open_tokens(task_of(tmp_path / file), tmp_path / "runs")
    assert words in str(told.value)
    assert "\n" not in str(told.value)
    assert not list((tmp_path / "runs" / TOKENS).glob("*.bin"))
    assert not list((tmp_path / "runs" / TOKENS).glob(".*"))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: d / "missing", "does not exist: give a shard, a folder of them, or a pattern"),
        (lambda d: d / "*.bin", "does not exist"),
        (lambda d: d, "is empty: python scripts/prepare_tokens.py FILE --out DIR --bytes"),
        (lambda d: (d / "a.md").write_text("x") and d, "holds 1 other file and no shards"),
    ],
)
def test_a_path_without_shards_is_told(tmp_path, make, words):
    with pytest.raises(ValueError) as told:
        open_tokens(task_of(make(tmp_path)), None)
    assert words in str(told.value)


def test_an_empty_part_to_hold_out_is_told(tmp_path, tokens):
    counted(tmp_path / "a.bin", tokens)
    (tmp_path / "heldout").mkdir()
    with pytest.raises(ValueError, match="heldout' is empty: leave it out, and a sixteenth of the last shard is held"):
        open_tokens({**task_of(tmp_path / "a.bin"), "heldout_path": str(tmp_path / "heldout")}, None)


def test_a_file_is_gone_through_once_until_it_changes(tmp_path, tokens):
    path, runs = tmp_path / "a.bin", tmp_path / "runs"
    counted(path, tokens)
    first = open_tokens(task_of(path), runs).sha256
    noted = (runs / TOKENS / CHECKED).read_text()
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-2:] = b"\xff\xff"  # of no vocabulary
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert open_tokens(task_of(path), runs).sha256 == first  # not looked at again: same size, same time
    assert (runs / TOKENS / CHECKED).read_text() == noted
    with pytest.raises(ValueError, match="num_symbols=100 allows"):
        open_tokens(task_of(path, num_symbols=100), runs)  # known, another vocabulary is asked
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(ValueError, match="a token 65535"):
        open_tokens(task_of(path), runs)


def test_decoding_is_done_once_and_in_pieces(tmp_path, tokens):
    pq.write_table(pa.table({"input_ids": tokens}), tmp_path / "a.parquet", row_group_size=1000)
    assert max(len(piece) for piece in decode_pieces(tmp_path / "a.parquet")) <= 1024
    task = task_of(tmp_path / "a.parquet")
    first = open_tokens(task, tmp_path)
    (stored,) = (tmp_path / TOKENS).glob("*.bin")
    written = stored.stat().st_mtime_ns
    assert open_tokens(task, tmp_path).sha256 == first.sha256
    assert stored.stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="has to be decoded into runs_dir"):
        open_tokens(task, None)


MEASURE = """
import re, sys
from pathlib import Path
import numpy as np
from harness.token_files import open_tokens
task = {"path": sys.argv[1], "heldout_path": None, "context": 1024, "num_symbols": 50304}
tokens = open_tokens(task, Path(sys.argv[2]))
for first in range(0, 65536, 4096):
    numbers = np.arange(first, first + 4096) * 7919 % len(tokens.train)
    total = tokens.train.read(numbers).sum()
# ru_maxrss would begin with that of the process that started this one
highest = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
print(int(highest) / 1024, len(tokens.train), *tokens.train.read(np.array([0]))[0, :3])
"""


def test_a_shard_of_3_gb_takes_no_more_memory_than_a_small_one(tmp_path):
    """Checked, named and sampled; the file is in the system's cache, of which a process maps what it touches."""
    rss = {}
    for name, size in (("small", 2**21), ("large", 3 * 2**30)):
        path = tmp_path / f"{name}.bin"
        path.touch()
        os.truncate(path, size)
        with path.open("r+b") as file:
            file.write(np.array([20240520, 1, (size - 1024) // 2], "<i4").tobytes())
            for place in (1024, size // 2, size - 6):
                file.seek(place)
                file.write(np.array([1, 2, 50303], "<u2").tobytes())
        command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "runs")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
        rss[name], count, words = done.stdout.strip().split(" ", 2)
        assert words.split() == ["1", "2", "50303"]
        windows = ((size - 1024) // 2 - 1) // 1024
        assert int(count) == windows - windows // 16
        path.unlink()
    assert float(rss["large"]) < float(rss["small"]) + 150
