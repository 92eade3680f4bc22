"""Texts -> token shards for task=tokens.

    python scripts/prepare_tokens.py TEXT [TEXT ...] --out DIR --bytes
    python scripts/prepare_tokens.py TEXT [TEXT ...] --out DIR --tokenizer TOKENIZER.json

A TEXT is a file or a folder. A document is a line of .jsonl, a row of .parquet (both by --column), or any other file;
of a file above 16 MB, pieces of at most that, cut after a line. A hash of its content sends a document to DIR/train or
DIR/heldout, so that copies of one never part. Its tokens and the end token follow those of the document before it, and
every --shard-tokens of them are a shard: uint16 behind llm.c's header, or uint32 for more than 65,536 symbols.

Killed, the same command goes on behind the last whole shard (what lies before is read again, and not tokenized), and
DIR holds the same bytes in the end. With --bytes there are 256 symbols, and the end token is the byte 0.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import Progress

from harness.config import say_count
from harness.corpus import text_files
from harness.shards import BUFFER_BYTES, HEADER_BYTES, kind_for, write_shard
from harness.store import StoreError, append_line, publish, read_lines, remove_torn

PARTS = ("train", "heldout")
SETTINGS, PROGRESS = "settings.json", "progress.jsonl"
PIECE_BYTES = 2**24
BATCH_BYTES, BATCH_DOCUMENTS = 2**22, 1024  # tokenized at once, by all cores
END = "<|endoftext|>"


class Symbols(NamedTuple):
    """A vocabulary: what a document's text becomes, the end token included."""

    name: str
    size: int
    encode: Callable[[Sequence[bytes]], list[np.ndarray]]


class Place(NamedTuple):
    """Where a part's next shard begins: its number, and which of which document's tokens is its first."""

    shard: int = 0
    document: int = 0
    token: int = 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="a file or a folder")
    parser.add_argument("--out", required=True, metavar="DIR")
    symbols = parser.add_mutually_exclusive_group(required=True)
    symbols.add_argument("--bytes", action="store_true", help="256 symbols, no tokenizer")
    symbols.add_argument("--tokenizer", metavar="FILE", help="a JSON file of the package tokenizers")
    parser.add_argument("--end", metavar="TOKEN", help=f"the tokenizer's end token; {END} where it has that")
    parser.add_argument("--column", default="text", help="of .jsonl and .parquet (text)")
    parser.add_argument("--shard-tokens", type=int, default=10**8, metavar="N", help="tokens of a shard (100,000,000)")
    parser.add_argument("--heldout", type=float, default=1 / 64, metavar="SHARE", help="share of documents (1/64)")
    given = parser.parse_args()
    try:
        prepare(given)
    except (ValueError, StoreError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted: whole shards are kept; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def prepare(given: argparse.Namespace) -> None:
    if given.shard_tokens < 1 or given.shard_tokens >= 2**31:
        raise ValueError(f"--shard-tokens {given.shard_tokens} is not a whole number from 1 to 2,147,483,647")
    if not 0 <= given.heldout < 1:
        raise ValueError(f"--heldout {given.heldout} is not a share from 0 to less than 1")
    files = [(path.relative_to(root).as_posix(), path) for root, path in list_texts(given.texts)]
    symbols = count_bytes() if given.bytes else load_tokenizer(given.tokenizer, given.end)
    out = Path(given.out).expanduser()
    try:
        for part in PARTS:
            (out / part).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {given.out} cannot be written to ({error.strerror}): give another DIR") from error
    settings = {
        "texts": [[name, path.stat().st_size] for name, path in files], "symbols": symbols.name,
        "column": given.column, "shard_tokens": given.shard_tokens, "heldout": given.heldout,
    }  # fmt: skip
    keep_settings(out, settings)
    with Progress(console=(console := Console(stderr=True)), disable=not console.is_terminal) as bar:
        task = bar.add_task(str(out), total=sum(path.stat().st_size for _, path in files))
        write_parts(out, read_documents(files, given.column, lambda size: bar.advance(task, size)), symbols, given)
    tell(out, symbols, given)


def list_texts(texts: Sequence[str]) -> Iterator[tuple[Path, Path]]:
    """Every file with the folder that it was found in; those of a folder by name."""
    for text in texts:
        try:
            root, files = text_files(text)
        except ValueError as error:
            raise ValueError(str(error).replace("task.path=", "TEXT ")) from error
        yield from ((root, path) for path in sorted(files))


def keep_settings(out: Path, settings: dict[str, Any]) -> None:
    """Raises: ValueError where the folder was begun with others, since what is there would not fit what follows."""
    path = out / SETTINGS
    if publish(path, json.dumps(settings).encode()):
        return
    there = json.loads(path.read_text())
    if other := [name for name in settings if there.get(name) != settings[name]]:
        raise ValueError(
            f"--out {out} was begun with other settings ({' and '.join(other)}): give the same, or another DIR"
        )


def count_bytes() -> Symbols:
    def encode(texts: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(text + b"\0", np.uint8) for text in texts]

    return Symbols("bytes", 256, encode)


def load_tokenizer(name: str, end: str | None) -> Symbols:
    """Raises: ValueError where it cannot be loaded, or has no such end token."""
    try:
        from tokenizers import Tokenizer  # here, since --bytes needs it not
    except ImportError as error:
        raise ValueError("--tokenizer needs the package tokenizers: pip install -e '.[tokens]', or --bytes") from error
    try:
        content = Path(name).read_bytes()
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # of OSError's and of tokenizers' own kinds
        raise ValueError(f"--tokenizer {name} cannot be loaded ({error}): give a tokenizer.json") from error
    symbol = tokenizer.token_to_id(end or END)
    if symbol is None and end is not None:
        raise ValueError(f"--end {end!r} is no token of {name}: give one that is, or leave it out for none")
    after = [] if symbol is None else [symbol]

    def encode(texts: Sequence[bytes]) -> list[np.ndarray]:
        encodings = tokenizer.encode_batch([text.decode() for text in texts], add_special_tokens=False)
        return [np.array(encoding.ids + after, np.int64) for encoding in encodings]

    identity = f"{hashlib.sha256(content).hexdigest()}, end {symbol}"
    return Symbols(identity, max(tokenizer.get_vocab().values()) + 1, encode)


def read_documents(
    files: Sequence[tuple[str, Path]], column: str, advance: Callable[[float], None]
) -> Iterator[tuple[str, bytes]]:
    """Every document with where it is from, always in the same order.

    Raises: ValueError for a file that cannot be read as what its name says.
    """
    for name, path in files:
        read = {".jsonl": read_lines_of, ".parquet": read_rows_of}.get(path.suffix, read_pieces_of)
        try:
            for number, (text, size) in enumerate(read(path, column), 1):
                yield f"{name}, document {number}", text
                advance(size)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path} cannot be read ({error}): make it readable, or leave it out") from error


def read_pieces_of(path: Path, _: str) -> Iterator[tuple[bytes, float]]:
    """A text in pieces, each cut after its last whole line, or else character."""
    with path.open("rb") as file:
        rest = b""
        while block := file.read(PIECE_BYTES - len(rest)):
            text = rest + block
            cut = len(text)
            if cut == PIECE_BYTES:
                cut = text.rfind(b"\n") + 1 or last_character(text)
            yield text[:cut], cut
            rest = text[cut:]
        if rest:
            yield rest, len(rest)


def last_character(text: bytes) -> int:
    """Where the last character of a text in UTF-8 begins."""
    return max((i for i in range(len(text) - 4, len(text)) if text[i] & 0xC0 != 0x80), default=len(text))


def read_lines_of(path: Path, column: str) -> Iterator[tuple[bytes, float]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number} is no JSON: mend it, or leave it out") from error
            text = entry.get(column) if isinstance(entry, dict) else None
            if not isinstance(text, str):
                raise ValueError(f"{path}, line {number} has no text {column!r}: give --column NAME, or leave it out")
            yield text.encode(), len(line)


def read_rows_of(path: Path, column: str) -> Iterator[tuple[bytes, float]]:
    file = pq.ParquetFile(path, buffer_size=BUFFER_BYTES)
    kinds = {field.name: field.type for field in file.schema_arrow}
    if column not in kinds or not (pa.types.is_string(kinds[column]) or pa.types.is_large_string(kinds[column])):
        have = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ValueError(f"{path} has no column of texts {column!r} but {have}: give --column NAME")
    share = path.stat().st_size / max(1, file.metadata.num_rows)
    for batch in file.iter_batches(BATCH_DOCUMENTS, columns=[column]):
        for text in batch.column(0):
            yield (text.as_py() or "").encode(), share


def write_parts(out: Path, documents: Iterator[tuple[str, bytes]], symbols: Symbols, given: argparse.Namespace) -> None:
    """Shard after shard of both parts, from where an earlier command came to."""
    began = read_places(out)
    places, kind = dict(began), kind_for(symbols.size)
    waiting: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}

    def publish_shard(part: str, tokens: list[np.ndarray]) -> None:
        publish(out / part / f"{places[part].shard:06d}.bin", lambda path: write_shard(path, tokens, kind))

    for batch in batches_of(documents, min(place.document for place in began.values()), given.heldout):
        wanted = [entry for entry in batch if entry[0] >= began[entry[1]].document]
        for (number, part, _, _), encoded in zip(wanted, encode(symbols, wanted), strict=True):
            first = began[part].token if number == began[part].document else 0
            tokens, held = encoded[first:], sum(map(len, waiting[part]))
            while held + len(tokens) >= given.shard_tokens:
                last = given.shard_tokens - held
                publish_shard(part, [*waiting[part], tokens[:last]])
                first, held, tokens, waiting[part] = first + last, 0, tokens[last:], []
                places[part] = Place(places[part].shard + 1, number, first)
                append_line(out / PROGRESS, {"part": part, **places[part]._asdict()})
            waiting[part].append(tokens.astype(kind))
    for part, rest in waiting.items():
        if any(map(len, rest)):
            publish_shard(part, rest)


def read_places(out: Path) -> dict[str, Place]:
    """Where the next shard of each part begins."""
    places = dict.fromkeys(PARTS, Place())
    for entry in read_lines(out / PROGRESS):
        if {"part", *Place._fields} == set(entry) and entry["shard"] > places[entry["part"]].shard:
            places[entry["part"]] = Place(*(entry[name] for name in Place._fields))
    for part in PARTS:
        remove_torn(out / part)
    return places


def batches_of(
    documents: Iterator[tuple[str, bytes]], begin: int, share: float
) -> Iterator[list[tuple[int, str, str, bytes]]]:
    """Documents from number `begin` on, with their part, as many as are tokenized at once."""
    batch: list[tuple[int, str, str, bytes]] = []
    size = 0
    for number, (name, text) in enumerate(documents):
        if number < begin or not text:
            continue
        hashed = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
        batch.append((number, PARTS[hashed < share], name, text))
        size += len(text)
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    yield batch


def encode(symbols: Symbols, batch: Sequence[tuple[int, str, str, bytes]]) -> list[np.ndarray]:
    try:
        return symbols.encode([text for *_, text in batch])
    except UnicodeDecodeError as error:
        name = next(name for _, _, name, text in batch if text == error.object)
        raise ValueError(f"{name} is not UTF-8 (byte {error.start}): convert it, leave it out, or --bytes") from error


def tell(out: Path, symbols: Symbols, given: argparse.Namespace) -> None:
    """What was made, and the command that trains on it."""
    if not list((out / "train").glob("*.bin")):
        raise ValueError(f"no document with a text fell to {out / 'train'}: give more, or a smaller --heldout")
    options = []
    for part, word, option in zip(PARTS, ("train on", "hold out"), ("path", "heldout_path"), strict=True):
        shards = list((out / part).glob("*.bin"))
        size = np.dtype(kind_for(symbols.size)).itemsize
        tokens = sum((path.stat().st_size - HEADER_BYTES) // size for path in shards)
        print(f"{out / part}: {say_count(len(shards), 'shard')}, {tokens:,} tokens to {word}")
        options += [f"task.{option}={out / part}"] if shards else []
    if given.heldout and len(options) == 1:
        text = "without task.heldout_path a sixteenth of the last shard is held out"
        print(f"no document fell to {out / 'heldout'}: {text}")
    print(f"python -m harness task=tokens {' '.join(options)} task.num_symbols={symbols.size}")


if __name__ == "__main__":
    sys.exit(main())
