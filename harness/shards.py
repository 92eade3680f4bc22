"""Token shards as people have them, opened by memory map and told apart by how they begin. Free of torch.

llm.c, modded-nanogpt   .bin: 256 int32, [magic, version, number of tokens, 0 ...], then uint16 or uint32 by the magic
nanoGPT                 .bin: uint16 from the first byte on, no header
Hugging Face            .arrow (file or stream) or .parquet with a column input_ids of lists or single numbers

A shard is never loaded: an array of it is a view of the file. What is compressed (parquet, some arrow files) cannot be
viewed: decode_pieces goes through it in pieces, and write_shard makes a .bin of them.

Source: dev/data/data_common.py of llm.c (headers); arrow.apache.org/docs/format/Columnar.html (IPC).
"""

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

HEADER_BYTES = 1024
KINDS: dict[int, tuple[type, tuple[int, ...]]] = {20240520: (np.uint16, (1,)), 20240801: (np.uint32, (7, 1))}
EVALUATION_MAGIC = 20240522
COLUMN = "input_ids"
SUFFIXES = (".bin", ".arrow", ".parquet")
RELEASED_ABOVE = 2**26  # bytes of a file
WINDOWS_AT_ONCE = 64  # a page that is touched may bring 2 MB of the file's cache into a process
BUFFER_BYTES = 2**20  # of a parquet file
BATCH_ROWS = 1024  # of a parquet file that are decoded at a time
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"  # that every writer leaves which was closed
MOST_TOKENS = 2**31 - 1  # that the header's int32 can count
KINDS_IN_WORDS = "a first int32 of " + " or ".join(map(str, KINDS))
PREPARE = "python scripts/prepare_tokens.py FILE --out DIR --bytes (or --tokenizer TOKENIZER.json)"


@dataclass(frozen=True)
class Shard:
    """The tokens of one file, in order: views of the mapped file, one behind the other."""

    path: Path
    mapped: mmap.mmap
    pieces: tuple[np.ndarray, ...]
    ends: np.ndarray  # of every piece, counted in tokens from the shard's beginning

    @property
    def num_tokens(self) -> int:
        return int(self.ends[-1])

    def release(self) -> None:
        """Give back the memory of what was read of a large file; the system keeps as much of it as it has room for."""
        if len(self.mapped) > RELEASED_ABOVE and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)


def make_shard(path: Path, mapped: mmap.mmap, pieces: Iterable[np.ndarray]) -> Shard:
    """Raises: ValueError for a shard without tokens."""
    kept = tuple(piece for piece in pieces if len(piece))
    if not kept:
        raise ValueError(f"{path} holds no tokens: leave it out, or write it again")
    return Shard(path, mapped, kept, np.cumsum([len(piece) for piece in kept]))


def open_shard(path: Path) -> Shard | None:
    """A file's tokens, mapped; None where it is a sound one that has to be decoded first.

    Raises: ValueError for a file that is torn, empty, or no shard at all.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}): make it readable or leave it out") from error
    if size == 0:
        raise ValueError(f"{path} is empty: leave it out, or write it again")
    if head[:4] == b"PAR1" or path.suffix == ".parquet":
        open_parquet(path).close()
        return None
    if head[:6] == b"ARROW1" or path.suffix == ".arrow":
        return open_arrow(path)
    if head[:8] == b"MMIDIDX\0":
        raise ValueError(f"{path} is an index of Megatron's, which this does not read: give llm.c's .bin, or parquet")
    magic = int.from_bytes(head[:4], "little")
    if magic == EVALUATION_MAGIC:
        raise ValueError(f"{path} holds multiple-choice examples and no running text: give one with {KINDS_IN_WORDS}")
    if magic in KINDS:
        kind, count = count_tokens(path, size, head)
        offset = HEADER_BYTES
    elif path.suffix == ".bin":
        kind, count, offset = np.uint16, size // 2, 0
        if size % 2:
            text = f"{path} has {size} bytes, no whole number of uint16, and no header ({KINDS_IN_WORDS})"
            raise ValueError(f"{text}: copy it again, or write it with a header, e.g. by {PREPARE}")
    else:
        raise ValueError(
            f"{path} is no token shard (allowed: {', '.join(SUFFIXES)}, or {KINDS_IN_WORDS}): "
            f"a text becomes shards by {PREPARE}"
        )
    mapped = map_file(path)
    return make_shard(path, mapped, [np.frombuffer(mapped, np.dtype(kind).newbyteorder("<"), count, offset)])


def count_tokens(path: Path, size: int, head: bytes) -> tuple[type, int]:
    """Kind and number of the tokens behind a header that says both."""
    if size < HEADER_BYTES:
        raise ValueError(f"{path} has {size} bytes, and a header alone takes {HEADER_BYTES}: copy it again")
    magic, version, count = (int(x) for x in np.frombuffer(head, "<i4", 3))
    kind, versions = KINDS[magic]
    if version not in versions:
        allowed = " or ".join(map(str, versions))
        raise ValueError(f"{path} says version {version}, and {allowed} is read: write it again, e.g. by {PREPARE}")
    wanted = HEADER_BYTES + count * np.dtype(kind).itemsize
    if count < 0 or size != wanted:
        torn = "copy it again, it was cut off" if size < wanted and count >= 0 else "write it again"
        raise ValueError(f"{path} has {size} bytes, and its header's {count} tokens take {wanted}: {torn}")
    return kind, count


def map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def open_arrow(path: Path) -> Shard | None:
    """The lists of an arrow file or stream, one behind the other; None where its buffers are compressed."""
    mapped = map_file(path)
    file = pa.py_buffer(mapped)
    pieces = []
    try:
        for batch in read_batches(file):
            values = numbers_of(path, batch)
            if len(values) and not file.address <= values.buffers()[1].address < file.address + file.size:
                return None
            pieces.append(values.to_numpy())
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole arrow file ({first_line(error)}): copy it again") from error
    return make_shard(path, mapped, pieces)


def read_batches(file: pa.Buffer) -> Iterator[pa.RecordBatch]:
    if file[:6].to_pybytes() != b"ARROW1":
        yield from pa.ipc.open_stream(pa.BufferReader(file))
        if file[-len(STREAM_END) :].to_pybytes() != STREAM_END:  # cut between batches: arrow takes it for whole
            raise pa.ArrowInvalid("the mark at a stream's end is missing: cut off, or its writer was not closed")
        return
    reader = pa.ipc.open_file(pa.BufferReader(file))
    for i in range(reader.num_record_batches):
        yield reader.get_batch(i)


def open_parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
        check_column(path, file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no whole parquet file ({first_line(error)}): copy it again") from error
    return file


def decode_pieces(path: Path) -> Iterator[np.ndarray]:
    """The tokens of a compressed file, a few rows at a time."""
    batches: Iterable[pa.RecordBatch]
    with path.open("rb") as opened:
        is_parquet = opened.read(4) == b"PAR1"
    if is_parquet:
        batches = open_parquet(path).iter_batches(BATCH_ROWS, columns=[COLUMN])
    else:
        batches = read_batches(pa.py_buffer(map_file(path)))
    try:
        for batch in batches:
            yield numbers_of(path, batch).to_numpy()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} cannot be decoded ({first_line(error)}): copy it again") from error


def check_column(path: Path, schema: pa.Schema) -> None:
    """Raises: ValueError unless the column is one of whole numbers, or of lists of them."""
    if COLUMN not in schema.names:
        names = ", ".join(schema.names) or "none"
        text = f"{path} has no column {COLUMN}, but {names}: rename the one with tokens"
        raise ValueError(f"{text}; texts become shards by {PREPARE}")
    kind = schema.field(COLUMN).type
    inner = kind.value_type if is_list(kind) else kind
    if not pa.types.is_integer(inner):
        raise ValueError(f"{path}: {COLUMN} holds {kind}: give whole numbers, or lists of them")


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def numbers_of(path: Path, batch: pa.RecordBatch) -> pa.Array:
    """The tokens of one batch in one array.

    Raises: ValueError for a token that is null.
    """
    check_column(path, batch.schema)
    column = batch.column(batch.schema.get_field_index(COLUMN))
    values = column.flatten() if is_list(column.type) else column
    if values.null_count:
        raise ValueError(f"{path}: {values.null_count} tokens of {COLUMN} are null: leave them out")
    return values


def write_shard(path: Path, pieces: Iterable[np.ndarray], kind: type) -> None:
    """Write tokens as llm.c does, piece by piece.

    Args:
        kind: np.uint16 or np.uint32; all tokens fit.
    """
    count = 0
    with path.open("xb") as file:
        file.write(b"\0" * HEADER_BYTES)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, np.dtype(kind).newbyteorder("<")).data)
            count += len(piece)
        if count > MOST_TOKENS:
            raise ValueError(f"{count} tokens are more than a header can count, {MOST_TOKENS}: give smaller files")
        magic = next(magic for magic, (own, _) in KINDS.items() if own is kind)
        header = np.zeros(256, "<i4")
        header[:3] = magic, KINDS[magic][1][0], count
        file.seek(0)
        file.write(header.tobytes())


def kind_for(num_symbols: int) -> type:
    """The smaller kind of number that holds every token of a vocabulary."""
    return np.uint16 if num_symbols <= 2**16 else np.uint32


def read_windows(shard: Shard, starts_B: np.ndarray, length: int) -> np.ndarray:
    """Tokens start ... start+length-1 of a shard for every start: int64, (B, length)."""
    windows = np.empty((len(starts_B), length), np.int64)
    begins = shard.ends - [len(piece) for piece in shard.pieces]
    order = np.argsort(starts_B, kind="stable")
    for first in range(0, len(order), WINDOWS_AT_ONCE):
        rows = order[first : first + WINDOWS_AT_ONCE]
        piece_of_row = np.searchsorted(shard.ends, starts_B[rows], "right")
        for piece in np.unique(piece_of_row):
            own = rows[piece_of_row == piece]
            inside = starts_B[own] + length <= shard.ends[piece]
            at = starts_B[own[inside]] - begins[piece]
            windows[own[inside]] = shard.pieces[piece][at[:, None] + np.arange(length)]
            for row in own[~inside]:
                windows[row] = read_across(shard, int(starts_B[row]), length, begins)
        shard.release()
    return windows


def read_across(shard: Shard, start: int, length: int, begins: np.ndarray) -> np.ndarray:
    """A window that goes on in the next piece, or in several."""
    parts, stop = [], start + length
    piece = int(np.searchsorted(shard.ends, start, "right"))
    while start < stop:
        last = min(stop, int(shard.ends[piece]))
        parts.append(shard.pieces[piece][start - begins[piece] : last - begins[piece]].astype(np.int64))
        start, piece = last, piece + 1
    return np.concatenate(parts)


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
