"""Write and read records: the truth about what was trained. The only owner of paths under runs_dir.

`runs_dir/NAME/*.parquet` holds one immutable file a stack and one row a run: scalars as columns, the learning curve as
list columns `history.*`. A file appears whole under its final name or not at all, and nothing is ever overwritten.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.config import CONF_DIR, ROOT, Part
from harness.corpus import Corpus, from_bytes, read_corpus, to_bytes
from harness.index import read_file, read_table
from harness.store import append_line, publish, read_lines, writable_folder
from harness.unfinished import read_running

if TYPE_CHECKING:
    import pandas as pd

ENDED = ("done", "diverged")  # a run that ended is not trained again
STATUSES = ("running", *ENDED, "failed")
MIRRORED = "mirrored.jsonl"
QUESTIONS = "questions.jsonl"
SUMMARIES = "summaries.jsonl"
CORPORA = ".corpus"
WEIGHTS = "weights"
PROBES = "probes"

RESULTS: dict[str, pa.DataType] = {
    "run_id": pa.string(),
    "sweep": pa.string(),
    "status": pa.string(),
    "message": pa.string(),
    "loss": pa.float64(),
    "train_loss": pa.float64(),
    "num_params": pa.int64(),
    "num_params_non_embedding": pa.int64(),
    "flops_per_token": pa.int64(),  # of a model that tells it
    # Of protocol steps_to_target, harness/protocols.py; null elsewhere
    "steps_to_target": pa.float64(),
    "samples_to_target": pa.float64(),
    "censored": pa.bool_(),
}
# Of protocol one_step, harness/probe.py: numbers of a checkpoint, and a list entry an optimizer and batch size
PROBE_ROWS = (
    "overlap", "overlap_se", "curvature", "curvature_se", "curvature_gauss_newton", "curvature_gauss_newton_se",
    "third", "third_se", "lr", "lr_se", "decrease", "decrease_se",
)  # fmt: skip
PROBE_SCALES = (
    "grad_sq", "grad_sq_se", "noise_trace", "noise_trace_se", "grad_curvature", "grad_curvature_se",
    "grad_curvature_gauss_newton",
    "noise_curvature", "noise_curvature_se", "noise_curvature_gauss_newton", "noise_curvature_gauss_newton_se",
    "trace", "trace_se", "trace_gauss_newton", "trace_gauss_newton_se",
)  # fmt: skip
PROBE: dict[str, pa.DataType] = {
    "probe.optimizer": pa.list_(pa.string()), "probe.batch_size": pa.list_(pa.int64()),
    **{f"probe.{name}": pa.list_(pa.float64()) for name in PROBE_ROWS},
    **{f"probe.{name}": pa.float64() for name in PROBE_SCALES},
}  # fmt: skip
# Of metrics.per_tensor, harness/per_tensor.py: a column METRIC.TENSOR each
LAGS = (1, 4, 16)
PER_TENSOR = (
    "update_rms", "weight_rms", "max_weight", "second_moment_rms", "live_rms", "live_share", "zero_grad_share",
    "radial", "spectral_norm", "rank_one_error", "rank_one_share", *(f"update_autocorrelation_{lag}" for lag in LAGS),
)  # fmt: skip
# Of metrics.memory, harness/memory.py: an entry a bin of steps
MEMORY: dict[str, pa.DataType] = {
    "memory.step": pa.list_(pa.int64()),
    "memory.loss": pa.list_(pa.float64()),
    "memory.unseen_loss": pa.list_(pa.float64()),
}
PROVENANCE: dict[str, pa.DataType] = {
    f"provenance.{name}": kind
    for name, kind in {
        "plan": pa.string(), "stack": pa.string(), "width": pa.int64(), "device": pa.string(), "host": pa.string(),
        "python": pa.string(), "torch": pa.string(), "code_sha256": pa.string(), "own_code_sha256": pa.string(),
        "compiled": pa.bool_(), "started": pa.string(), "ended": pa.string(), "seconds": pa.float64(),
        "flops_per_second": pa.float64(),  # of the device, while it takes steps
        "mfu": pa.float64(),  # that as a share of what the device could do, where that is known
        "ranks": pa.int64(),  # processes that shared every batch, launcher.data_parallel
        "job": pa.string(),  # of a cluster: launcher, id, log below the sweep's folder
    }.items()
}  # fmt: skip
ARROW_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


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
    attempt: int | None = None,
    memory: bool = False,
) -> Path | None:
    """One file for a stack's rows; a later attempt at the same stack gets the next number.

    Args:
        stack: name of the stack, the start of the file's name.
        attempt: exactly this number, or None is returned and nothing written where another published it: of two
            workers that were given one number only one can publish. By default the next free one.
        rows: column -> value, one mapping a run; a column that a row lacks is null.
        columns: config columns of the whole sweep with their types, so that all its files share one schema.
        metrics: names measured along training, each a final value and a `history.*` list.
        memory: whether it has the columns of metrics.memory.

    Raises: StoreError when it cannot be written.
    """
    kinds = RESULTS | {name: ARROW_TYPES[kind] for name, kind in columns.items()}
    kinds |= {name: pa.float64() for name in metrics}
    kinds |= PROBE if "num_draws" in columns else {}
    kinds |= MEMORY if memory else {}
    for name in ("step", "num_samples"):
        kinds[f"history.{name}"] = pa.list_(pa.int64())
    for name in ("loss", "train_loss", *metrics):
        kinds[f"history.{name}"] = pa.list_(pa.float64())
    table = pa.Table.from_pylist([dict(row) for row in rows], schema=pa.schema(list((kinds | PROVENANCE).items())))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    if attempt is not None:
        path = folder / f"stack-{stack}-{attempt}.parquet"
        return path if publish(path, buffer.getvalue()) else None
    attempt = count_attempts(folder, stack)
    while not publish(path := folder / f"stack-{stack}-{attempt}.parquet", buffer.getvalue()):
        attempt += 1
    return path


def count_attempts(folder: Path, stack: str) -> int:
    """How many record files a stack has: the number of its next one."""
    return 1 + max((int(path.stem.rpartition("-")[2]) for path in folder.glob(f"stack-{stack}-*.parquet")), default=-1)


def read_ended(folder: Path, since: str | None = None, stack: str | None = None) -> set[str]:
    """The run_ids that need no training any more.

    Args:
        since: only those that ended at that time or later.
        stack: only look into this stack's own files, which is quick.
    """
    columns = ["run_id", "status", "provenance.ended"]
    if stack is None:
        table = read_table(folder, columns)
        rows = [] if table is None else table.to_pylist()
    else:
        paths = sorted(folder.glob(f"stack-{stack}-*.parquet"))
        rows = [row for path in paths for row in read_file(path, columns).to_pylist()]
    return {
        row["run_id"] for row in rows if row["status"] in ENDED and (since is None or row["provenance.ended"] >= since)
    }


def count_weights(folder: Path, run_ids: Iterable[str]) -> int:
    """How many of some runs have their final parameters saved."""
    return sum((Path(folder) / WEIGHTS / f"{name}.safetensors").exists() for name in run_ids)


def probe_path(folder: Path, run_id: str) -> Path:
    """Where the arrays of a probed checkpoint are."""
    return Path(folder) / PROBES / f"{run_id}.safetensors"


def count_measured(folder: Path, run_ids: Iterable[str], option: str) -> int:
    """How many of some runs were trained with an option of metrics: noise_scale, per_tensor or memory."""
    begin = {"noise_scale": "history.noise_scale", "per_tensor": "history.weight_rms.", "memory": "memory.loss"}[option]
    table = read_table(Path(folder))
    columns = [] if table is None else [name for name in table.column_names if name.startswith(begin)]
    measured: set[str] = set()
    for name in columns:  # models of a sweep may differ in their tensors
        assert table is not None
        measured |= set(table.filter(pc.is_valid(table[name]))["run_id"].to_pylist())
    return len(measured & set(run_ids))


def read_attempts(folder: Path) -> set[tuple[str, str]]:
    """(run_id, time it ended) of the attempt at each run that counts: an ended one, and of those the newest."""
    table = read_table(folder, columns=["run_id", "status", "provenance.ended"])
    best: dict[str, tuple[bool, str]] = {}
    for row in [] if table is None else table.to_pylist():
        rank = row["status"] in ENDED, row["provenance.ended"]
        best[row["run_id"]] = max(rank, best.get(row["run_id"], rank))
    return {(name, ended) for name, (_, ended) in best.items()}


def read_mirrored(folder: Path, project: str, entity: str, *, online: bool) -> set[tuple[str, str]]:
    """The attempts that a W&B project has, or also those that lie offline for it, from the mirror's log."""
    entries = read_mirrored_entries(folder, project, entity)
    return {(entry["run_id"], entry["ended"]) for entry in entries if entry["mode"] == "online" or not online}


def read_mirrored_entries(folder: Path, project: str, entity: str) -> Iterator[dict[str, Any]]:
    """The mirror's log of one W&B project; a torn line does not count: that run is sent again.

    Args:
        entity: as asked for; nothing is the account's own, and counts for itself.
    """
    for entry in read_lines(Path(folder) / MIRRORED):
        known = {"run_id", "ended", "mode"} <= set(entry)
        if known and (entry.get("project"), entry.get("entity")) == (project, entity):
            yield entry


def append_mirrored(
    folder: Path, run_id: str, ended: str, mode: str, *, project: str, entity: str, **more: Any
) -> None:
    """Note an attempt as sent (mode online) or as an offline directory.

    Args:
        more: points, how many rows of history its W&B run has; directory, the offline one that has all of them.
    """
    entry = {"run_id": run_id, "ended": ended, "mode": mode, "project": project, "entity": entity, **more}
    append_line(Path(folder) / MIRRORED, entry)


@dataclass(frozen=True)
class WrittenSummary:
    """The newest of a sweep's W&B summary runs for one project.

    Attributes:
        id: of the W&B run.
        sha256: of what it was written from.
        directory: the client's offline one.
        sent: whether W&B has it.
    """

    id: str
    sha256: str
    directory: Path
    sent: bool


def read_summary(folder: Path, project: str, entity: str) -> WrittenSummary | None:
    """What was written last for a W&B project."""
    found = None
    for entry in read_lines(Path(folder) / SUMMARIES):
        if not {"id", "sha256", "directory", "mode"} <= set(entry):
            continue
        if (entry.get("project"), entry.get("entity")) != (project, entity):
            continue
        written = WrittenSummary(entry["id"], entry["sha256"], Path(entry["directory"]), entry["mode"] == "online")
        if not written.sent or (found is not None and found.sha256 == written.sha256):
            found = written
    return found


def append_summary(folder: Path, summary: WrittenSummary, *, project: str, entity: str) -> None:
    """Note a summary run as written, or as sent."""
    entry = {"id": summary.id, "sha256": summary.sha256, "directory": str(summary.directory)}
    mode = "online" if summary.sent else "offline"
    append_line(Path(folder) / SUMMARIES, entry | {"mode": mode, "project": project, "entity": entity})


def keep_question(folder: Path, question: str) -> None:
    """Note what a sweep asks, so that its figure finds the title again without the sweep's file."""
    if question != read_question(folder):
        append_line(folder / QUESTIONS, {"question": question})


def read_question(folder: Path) -> str:
    """What a sweep asked when it was last trained, or nothing."""
    return next((str(entry["question"]) for entry in reversed(list(read_lines(folder / QUESTIONS)))), "")


def read_records(folder: Path, *, running: bool = False) -> "pd.DataFrame":
    """One row a run; of several attempts an ended one, and of those the newest.

    Args:
        running: also runs in training, status=running, with their curves up to the newest checkpoint.

    Raises: ValueError when there are no records, or a file of them cannot be read.
    """
    import pandas as pd  # here, since who only writes records needs it not, and it takes half a second

    table = read_table(Path(folder))
    frame = pd.DataFrame() if table is None else table.to_pandas()
    if running and (rows := read_running(Path(folder))):
        frame = pd.DataFrame([*frame.to_dict("records"), *rows])
    if frame.empty:
        raise ValueError(f"no records in {folder}: train first, or name another folder")
    frame["provenance.ended"] = frame.get("provenance.ended", None)
    order = frame["status"].map({"failed": 0, "running": 1} | dict.fromkeys(ENDED, 2))
    frame = frame.assign(order=order).sort_values(["order", "provenance.ended"], kind="stable", na_position="first")
    return frame.drop_duplicates("run_id", keep="last").drop(columns="order").reset_index(drop=True)


@lru_cache(maxsize=1)
def code_sha256() -> str:
    """Names the code that trained: a hash of all files of harness/ and conf/."""
    digest = hashlib.sha256()
    for folder in (ROOT / "harness", CONF_DIR):
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".yaml")):
            digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
