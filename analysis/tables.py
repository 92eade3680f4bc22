"""Read a table of runs from records, a csv, a parquet file or a W&B project, and give its columns our names."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis.groups import CONFIG_NAMES, CONFIG_PREFIXES
from analysis.wandb_project import is_project, read_project
from harness.checks import closest
from harness.config import SWEEPS_DIR, say_count
from harness.records import ENDED, read_records

SHORT_NAMES = {
    "lr": "optimizer.lr",
    "eps": "optimizer.eps",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "optimizer": "optimizer.name",
    "model": "model.name",
    "task": "task.name",
}
OURS = (
    "batch_size", "loss", *SHORT_NAMES, "seed", "status", "num_samples", "num_steps", "num_params", *CONFIG_NAMES,
    "max_norm", "steps_to_target", "max_steps", "train_loss", "run_id", "sweep",
)  # fmt: skip


def read_source(text: str) -> tuple[pd.DataFrame, str]:
    """The runs that a command line names: wandb:ENTITY/PROJECT, a folder of records, a file, or a committed sweep.

    Returns: the table and a sentence that says where it comes from.
    """
    if is_project(text):
        return read_project(text)
    path = Path(text)
    if path.exists() or path.suffix:
        return read_table(path), f"{path.stem}: {path}"
    return choose_table(text, Path("runs"))


def read_table(source: Path) -> pd.DataFrame:
    """Read one table: a folder of records, FILE.csv or FILE.parquet. Its content is not checked."""
    if source.is_dir():
        inside = [] if any(source.glob("*.parquet")) else sorted({p.parent for p in source.glob("*/*.parquet")})
        if inside:
            raise ValueError(f"{source} holds a folder a sweep: give one of {', '.join(map(str, inside))}")
        return read_records(source)
    if not source.exists():
        raise ValueError(f"--runs={str(source)!r} does not exist: give a folder of records, FILE.csv or FILE.parquet")
    if source.suffix not in (".csv", ".parquet"):
        raise ValueError(f"--runs={str(source)!r} is not one of a folder of records, FILE.csv, FILE.parquet")
    try:
        if source.suffix == ".parquet":
            frame = pd.read_parquet(source)
        else:
            check_text(source)
            with warnings.catch_warnings():
                # pandas only warns when rows are longer than the header, and then shifts the columns
                warnings.simplefilter("error", pd.errors.ParserWarning)
                frame = pd.read_csv(source, index_col=False)
    except pd.errors.EmptyDataError:
        raise ValueError(f"{source} is empty: it needs a header line and one row a run") from None
    except (ValueError, OSError, pd.errors.ParserWarning) as error:
        raise ValueError(f"{source} cannot be read as {source.suffix[1:]}: {' '.join(str(error).split())}") from None
    if frame.empty:
        raise ValueError(f"{source} is empty: it needs one row a run under its header line")
    return frame


def check_text(source: Path) -> None:
    """Raises: ValueError for a file that is no text, is not separated by commas, or names a column twice."""
    with source.open("rb") as file:
        head = file.read(1 << 16)
    if b"\0" in head or head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("it is no text in UTF-8 (binary, or UTF-16): save it as csv in UTF-8")
    try:
        line = head.decode("utf-8-sig", errors="strict" if len(head) < 1 << 16 else "ignore").split("\n", 1)[0]
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8: save it as csv in UTF-8") from None
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        if separator in line and "," not in line:
            cure = "save it with commas, and with points in numbers"
            raise ValueError(f"its columns are separated by {name}: {cure}")
    names = [name.strip().strip('"') for name in line.split(",")]
    if twice := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
        raise ValueError(f"its header names {twice[0]!r} twice: rename or drop one of them")


def parse_columns(text: str) -> dict[str, str]:
    """Turn `lr=peak_lr,loss=eval` into {our name: the table's name}."""
    columns: dict[str, str] = {}
    for pair in text.split(","):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise ValueError(f"--columns has {pair!r}, which is not OURS=THEIRS: write it like lr=peak_lr,loss=eval")
        if ours not in OURS and not ours.startswith((*CONFIG_PREFIXES, "groups.")):
            raise ValueError(
                f"--columns: {ours!r} is none of our columns{closest(ours, OURS)}: they are {', '.join(OURS)}, and "
                f"what begins with {', '.join(CONFIG_PREFIXES)}"
            )
        if ours in columns or theirs in columns.values():
            raise ValueError(f"--columns names {ours if ours in columns else theirs!r} twice: give every column once")
        columns[ours] = theirs
    return columns


def rename_columns(frame: pd.DataFrame, columns: Mapping[str, str], source: str = "the table") -> pd.DataFrame:
    """Rename foreign columns to ours. A short name of ours (lr, eps, optimizer ...) stands for its full name.

    A column that already bears a name which `columns` gives to another one is dropped. What a foreign W&B run measured
    may be named without its `summary.`.
    """
    renamed = {}
    for ours, theirs in columns.items():
        found = theirs if theirs in frame.columns else f"summary.{theirs}"
        if found not in frame.columns:
            raise ValueError(
                f"--columns names {theirs!r}, which {source} lacks{closest(theirs, list(frame.columns))}: "
                f"its columns are {list_columns(frame)}"
            )
        renamed[found] = SHORT_NAMES.get(ours, ours)
    clash = [name for name in renamed.values() if name in frame.columns and name not in renamed]
    frame = frame.drop(columns=clash).rename(columns=renamed)
    short = {name: full for name, full in SHORT_NAMES.items() if name in frame.columns and full not in frame.columns}
    return frame.rename(columns=short)


def list_columns(frame: pd.DataFrame, limit: int = 12) -> str:
    """The first names of a table's columns, for a message."""
    names = [str(name) for name in frame.columns]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def choose_table(name: str, runs_dir: Path) -> tuple[pd.DataFrame, str]:
    """Table of a committed sweep: local records if they cover the committed grid, else the committed csv.

    Returns: the table and a sentence that says which one was taken and why.
    """
    committed_path = SWEEPS_DIR / f"{name}.csv"
    folder = runs_dir / name
    has_records = folder.is_dir() and any(folder.glob("*.parquet"))
    if not committed_path.exists():
        if has_records:
            return read_records(folder), f"{name}: local records in {folder} (no answer is committed)"
        if (SWEEPS_DIR / f"{name}.yaml").exists():
            raise ValueError(f"sweep {name!r} has not run yet: run `python -m harness sweep={name}` first")
        names = sorted(path.stem for path in SWEEPS_DIR.glob("*.yaml"))
        raise ValueError(f"{name!r} is not one of the sweeps {', '.join(names) or '(none)'}{closest(name, names)}")
    committed = read_table(committed_path)
    if not has_records:
        return committed, f"{name}: the committed answer {committed_path.name} (no local records in {folder})"
    local = read_records(folder)
    missing = count_missing(local, committed)
    if missing:
        return committed, (
            f"{name}: the committed answer {committed_path.name} (local records in {folder} lack {missing} "
            f"of its {len(committed)} runs)"
        )
    count = say_count(len(local), "run")
    return local, f"{name}: local records in {folder}, {count}, among them the {len(committed)} committed ones"


def count_missing(local: pd.DataFrame, committed: pd.DataFrame) -> int:
    """How many committed runs have no ended local run of the same configuration.

    Compared are the configuration columns that both tables have. run_id and the corpus hash are not compared,
    since the corpus differs between builds of Python.
    """
    ended = local[local["status"].isin(ENDED)] if "status" in local.columns else local
    keys = [name for name in committed.columns if name in ended.columns and is_compared(str(name))]
    have = {tuple(canonical(value) for value in row) for row in ended[keys].itertuples(index=False)}
    want = [tuple(canonical(value) for value in row) for row in committed[keys].itertuples(index=False)]
    return sum(row not in have for row in want)


def is_compared(column: str) -> bool:
    """Whether a column tells two runs apart, the corpus hash aside."""
    if column.startswith(("probe.", "predicted.", "check.")):
        return False
    if column == "task.corpus_sha256":
        return False
    scalars = ("batch_size", "seed", "protocol", "precision", "num_steps", "num_samples", "max_steps")
    return column in scalars or column.startswith(("model.", "task.", "optimizer.", "schedule."))


def canonical(value: object) -> str:
    """One text for equal values, whatever their type after a trip through csv: 9 digits, and "" for none and false,
    which are one in a run's identity."""
    if value is None or value is pd.NA or value != value or str(value) == "False":
        return ""
    try:
        return f"{float(str(value)):.9g}"
    except ValueError:
        return str(value)
