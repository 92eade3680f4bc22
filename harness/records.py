"""Write and read records: the truth about what was trained. The only owner of paths under runs_dir.

`runs_dir/NAME/*.parquet` holds one immutable file a stack and one row a run: scalars as columns, the learning curve as
list columns `history.*`. A file appears whole under its final name or not at all, and nothing is ever overwritten.
"""

import hashlib
import io
import json
import os
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.config import CONF_DIR, ROOT, Part
from harness.corpus import Corpus, from_bytes, read_corpus, to_bytes

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("done", "diverged")  # a run that ended is not trained again
STATUSES = ("running", *ENDED, "failed")
MIRRORED = "mirrored.jsonl"
CORPORA = ".corpus"

RESULTS: dict[str, pa.DataType] = {
    "run_id": pa.string(),
    "sweep": pa.string(),
    "status": pa.string(),
    "message": pa.string(),
    "loss": pa.float64(),
    "train_loss": pa.float64(),
    "num_params": pa.int64(),
}
PROVENANCE: dict[str, pa.DataType] = {
    f"provenance.{name}": kind
    for name, kind in {
        "plan": pa.string(), "stack": pa.string(), "width": pa.int64(), "device": pa.string(), "host": pa.string(),
        "python": pa.string(), "torch": pa.string(), "code_sha256": pa.string(), "started": pa.string(),
        "ended": pa.string(), "seconds": pa.float64(),
    }.items()
}  # fmt: skip
ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def writable_folder(setting: str, *parts: str) -> Path:
    """A folder that can be written to, created if it is not there: runs_dir and the sweep's name, or figures_dir.

    Raises: ValueError, with the setting's name, when it cannot be written to.
    """
    folder = Path(*parts)
    if not parts[0]:
        raise ValueError(f"{setting} is empty: give {setting}=FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"{setting}={parts[0]!r} cannot be written to ({error.strerror})"
        raise ValueError(f"{reason}: give another {setting}=FOLDER") from error
    return folder


def publish(path: Path, content: bytes) -> bool:
    """Write a file whole or not at all, and never over another: True if it is new, False if one was there.

    The content is synced under a temporary name first and then linked: a link, unlike a rename, refuses to replace.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.tmp"
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def store_corpus(runs_dir: str | Path, corpus: Corpus) -> None:
    """Keep a corpus under its sha256 beside the records: every worker, wherever it runs, trains on that text."""
    folder = writable_folder("runs_dir", str(runs_dir), CORPORA)
    path = folder / f"{corpus.sha256}.bin"
    if not path.exists():
        publish(path, to_bytes(corpus))


def load_corpus(task: Part, runs_dir: Path | None) -> Corpus:
    """The corpus that a run's config names: the stored one, else read anew from its files.

    Raises: ValueError when its content is not what the run's sha256 says.
    """
    wanted = task.get("corpus_sha256")
    path = runs_dir / CORPORA / f"{wanted}.bin" if runs_dir is not None else None
    corpus = from_bytes(path.read_bytes()) if path is not None and path.exists() else read_corpus(task)
    if wanted not in (None, corpus.sha256):
        raise ValueError(f"the corpus is no longer the one that the run names ({wanted}): plan the sweep again")
    return corpus


def write_records(
    folder: Path,
    stack: str,
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: Mapping[str, type],
    metrics: Iterable[str],
) -> Path:
    """One file for a stack's rows; a later attempt at the same stack gets the next number.

    Args:
        stack: name of the stack, the start of the file's name.
        rows: column -> value, one mapping a run; a column that a row lacks is null.
        columns: config columns of the whole sweep with their types, so that all its files share one schema.
        metrics: names measured along training, each a final value and a `history.*` list.
    """
    kinds = RESULTS | {name: ARROW_TYPES[kind] for name, kind in columns.items()}
    kinds |= {name: pa.float64() for name in metrics}
    for name in ("step", "num_samples"):
        kinds[f"history.{name}"] = pa.list_(pa.int64())
    for name in ("loss", "train_loss", *metrics):
        kinds[f"history.{name}"] = pa.list_(pa.float64())
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(list((kinds | PROVENANCE).items())))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    attempt = 0
    while not publish(path := folder / f"stack-{stack}-{attempt}.parquet", buffer.getvalue()):
        attempt += 1
    return path


def read_table(folder: Path, columns: list[str] | None = None) -> pa.Table | None:
    """All files of a sweep as one table; None where there is none.

    Raises: ValueError for a file that is no parquet.
    """
    tables = []
    for path in sorted(Path(folder).glob("*.parquet")):
        try:
            tables.append(pq.read_table(path, columns=columns, partitioning=None))
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}. Move it away; its runs will be trained again") from error
    return pa.concat_tables(tables, promote_options="permissive") if tables else None


def read_ended(folder: Path, since: str | None = None) -> set[str]:
    """The run_ids that need no training any more; with `since`, only those that ended at that time or later."""
    table = read_table(folder, columns=["run_id", "status", "provenance.ended"])
    rows = [] if table is None else table.to_pylist()
    return {
        row["run_id"] for row in rows if row["status"] in ENDED and (since is None or row["provenance.ended"] >= since)
    }


def read_attempts(folder: Path) -> set[tuple[str, str]]:
    """(run_id, time it ended) of every record."""
    table = read_table(folder, columns=["run_id", "provenance.ended"])
    rows = [] if table is None else table.to_pylist()
    return {(row["run_id"], row["provenance.ended"]) for row in rows}


def read_mirrored(folder: Path) -> set[tuple[str, str]]:
    """The attempts that were sent to W&B, from the mirror's log; a torn line does not count."""
    log = Path(folder) / MIRRORED
    sent = set()
    for line in log.read_text().splitlines() if log.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the mirror was killed while it wrote: that run is sent again
        sent.add((entry["run_id"], entry["ended"]))
    return sent


def append_mirrored(folder: Path, run_id: str, ended: str, mode: str) -> None:
    """Note an attempt as sent, on a line of its own even after a torn one."""
    log = Path(folder) / MIRRORED
    torn = log.exists() and not log.read_bytes().endswith(b"\n") and log.stat().st_size > 0
    with log.open("a") as file:
        file.write(("\n" if torn else "") + json.dumps({"run_id": run_id, "ended": ended, "mode": mode}) + "\n")


def read_records(folder: Path) -> "pd.DataFrame":
    """One row a run; of several attempts an ended one, and of those the newest.

    Raises: ValueError when there are no records, or a file of them cannot be read.
    """
    table = read_table(folder)
    if table is None or table.num_rows == 0:
        raise ValueError(f"no records in {folder}: train first with python -m harness sweep={Path(folder).name}")
    frame = table.to_pandas()
    frame = frame.assign(ended=frame["status"].isin(ENDED)).sort_values(
        ["ended", "provenance.ended"], kind="stable", na_position="first"
    )
    return frame.drop_duplicates("run_id", keep="last").drop(columns="ended").reset_index(drop=True)


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Names the code that trained: a hash of all files of harness/ and conf/."""
    digest = hashlib.sha256()
    for folder in (ROOT / "harness", CONF_DIR):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
