"""An index of a sweep's record files: thousands of small ones read as one.

`runs_dir/NAME/.index/HASH.parquet` holds the rows of record files with, in its metadata, the size and time of every
file that it has taken in. The truth stays in the record files: a file that is not in the index, or no longer the one
that is, is read itself, and rows of a file that is gone are left out. Without an index all is slower and the same.
"""

import hashlib
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.store import StoreError, publish, subfolder

INDEX = ".index"
WORTH_IT = 100  # files that no index holds: below, reading them costs less than writing one
FILE = "index.file"  # the column that says which file a row is from
FILES = b"harness.files"

Stamps = dict[str, list[int]]  # file name -> [bytes, modification time in ns]


def read_table(folder: Path, columns: list[str] | None = None) -> pa.Table | None:
    """All record files of a sweep as one table; None where there is none.

    Raises: ValueError for a file that is no parquet.
    """
    there = stamp_files(folder)
    if not there:
        return None
    index = read_index(folder, columns) if len(there) >= WORTH_IT else None
    held: Stamps = {} if index is None else json.loads(index.schema.metadata[FILES])
    same = {name for name, stamp in there.items() if held.get(name) == stamp}
    new = sorted(set(there) - same)
    if len(new) >= WORTH_IT:
        whole = write_index(folder, there)
        return whole.select(columns or [name for name in whole.column_names if name != FILE])
    tables = [read_file(folder / name, columns) for name in new]
    if index is not None and same:
        rows = index if len(same) == len(held) else index.filter(pc.is_in(index[FILE], pa.array(sorted(same))))
        tables.insert(0, rows.drop_columns([FILE]).replace_schema_metadata(None))
    return pa.concat_tables(tables, promote_options="permissive")


def stamp_files(folder: Path) -> Stamps:
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if entry.name.endswith(".parquet") and not entry.name.startswith(".")]
            stats = {entry.name: entry.stat() for entry in found}
    except FileNotFoundError:
        return {}
    return {name: [stat.st_size, stat.st_mtime_ns] for name, stat in sorted(stats.items())}


def read_file(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        # One thread: starting several costs more than a small file's reading
        return pq.read_table(path, columns=columns, partitioning=None, use_threads=False)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}. Move it away; its runs will be trained again") from error


def read_index(folder: Path, columns: list[str] | None) -> pa.Table | None:
    """The newest index that can be read, with the column FILE."""
    for path in sorted((folder / INDEX).glob("*.parquet"), key=modified, reverse=True):
        try:
            wanted = None if columns is None else [*columns, FILE]
            table = pq.read_table(path, columns=wanted, partitioning=None)
            if FILES in (table.schema.metadata or {}) and FILE in table.column_names:
                return table
        except (pa.ArrowInvalid, OSError):
            continue  # damaged, or replaced while it was opened: the record files are there
    return None


def modified(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def write_index(folder: Path, there: Stamps) -> pa.Table:
    """All rows of these files; kept as an index of a name of its own in place of older ones, where one can write."""
    old = read_index(folder, None)
    held: Stamps = {} if old is None else json.loads(old.schema.metadata[FILES])
    same = {name for name, stamp in there.items() if held.get(name) == stamp}
    tables = []
    if old is not None:
        tables.append(old.filter(pc.is_in(old[FILE], pa.array(sorted(same), pa.string()))))
    for name in sorted(set(there) - same):
        table = read_file(folder / name, None)
        tables.append(table.append_column(FILE, pa.array([name] * table.num_rows, pa.string())))
    whole = pa.concat_tables([table.replace_schema_metadata(None) for table in tables], promote_options="permissive")
    text = json.dumps(there)
    buffer = io.BytesIO()
    pq.write_table(whole.replace_schema_metadata({FILES: text.encode()}), buffer)
    try:
        place = subfolder(folder, INDEX)
        path = place / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.parquet"
        if publish(path, buffer.getvalue()):
            for other in place.glob("*.parquet"):
                if other != path:
                    other.unlink(missing_ok=True)
    except (StoreError, OSError):
        pass  # records of somebody else's may be read where nothing can be written
    return whole
