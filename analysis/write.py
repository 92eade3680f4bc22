"""Write figures with their JSON, and the committed answer of a sweep. Every file appears whole."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.analyse import Analysis, to_json
from analysis.figures import FIGURES
from analysis.figures.histories import draw_histories, has_histories
from analysis.figures.style import STYLE
from analysis.runs import tidy_runs
from analysis.tables import count_missing, read_table
from harness.config import PATHS, SWEEPS_DIR

PROVENANCE_KEPT = ("provenance.torch", "provenance.code")


def write_figure(analysis: Analysis, out_dir: Path) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.json, the same bytes for the same runs, and return their paths."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{str(out_dir)!r} cannot be written to ({error.strerror}): give another folder") from error
    png, svg, text = (out_dir / f"{analysis.sweep}.{suffix}" for suffix in ("png", "svg", "json"))
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        save_figure(FIGURES[analysis.figure](analysis), png, svg)
    content = json.dumps(to_json(analysis), indent=1, ensure_ascii=False, allow_nan=False)
    publish(text, lambda path: path.write_text(content + "\n", encoding="utf-8"))
    return [png, svg, text]


def write_histories(analysis: Analysis, out_dir: Path) -> list[Path]:
    """Write NAME-curves.png and .svg of a sweep over learning rates, where its runs bring their learning curves."""
    if analysis.figure != "optimum" or not has_histories(analysis):
        return []
    paths = [out_dir / f"{analysis.sweep}-curves.{suffix}" for suffix in ("png", "svg")]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        save_figure(draw_histories(analysis), *paths)
    return paths


def save_figure(figure: Figure, png: Path, svg: Path) -> None:
    publish(png, lambda path: figure.savefig(path, format="png", metadata={"Software": None}))
    publish(svg, lambda path: figure.savefig(path, format="svg", metadata={"Date": None}))


def commit_answer(name: str, frame: pd.DataFrame) -> str:
    """Write sweeps/NAME.csv from records: a row an ended run, scalar columns, nothing that names a host,
    path or user.

    Returns: a sentence on what was written.
    """
    runs = tidy_runs(frame, name)
    order = runs.frame.sort_values([*runs.groups, "batch_size", "optimizer.lr", "seed"], kind="stable").index
    ended = frame.loc[order]
    kept = [column for column in ended.columns if is_committed(ended[column])]
    target = SWEEPS_DIR / f"{name}.csv"
    lost = count_missing(ended, read_table(target)) if target.exists() else 0
    publish(target, lambda path: ended[kept].to_csv(path, index=False, lineterminator="\n"))
    sentence = f"wrote {target}: {len(ended)} runs, {len(kept)} columns"
    return sentence + (f"; {lost} runs of the answer before are not in it" if lost else "")


def is_committed(column: pd.Series) -> bool:
    """Whether a column of records belongs in a committed answer."""
    name = str(column.name)
    if name.startswith("history.") or name == "message" or name in PATHS:
        return False
    if name.startswith("provenance.") and not name.startswith(PROVENANCE_KEPT):
        return False
    if column.isna().all():
        return False  # an option that no run has
    return not any(isinstance(value, str) and value.startswith(("/", "~", "\\")) for value in column)


def publish(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the target and move into place: readers see the old file or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
