"""Write figures with their JSON, and the committed answer of a sweep. Every file appears whole."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from analysis.analyse import Analysis, to_json
from analysis.figures import FURTHER, choose_figure
from analysis.figures.finding import state_finding, write_finding
from analysis.figures.style import SCREEN, Style
from analysis.runs import tidy_runs
from analysis.tables import count_missing, read_table
from harness.config import PATHS, SWEEPS_DIR, say_count

PROVENANCE_KEPT = ("provenance.torch", "provenance.code")


def write_figure(analysis: Analysis, out_dir: Path, style: Style = SCREEN) -> list[Path]:
    """Write NAME.png, NAME.svg and NAME.json, the same bytes for the same runs, and return their paths."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"{str(out_dir)!r} is a file: give a folder") from error
    except OSError as error:
        raise ValueError(f"{str(out_dir)!r} cannot be written to ({error.strerror}): give another folder") from error
    with mpl.rc_context(style.rc):  # type: ignore[arg-type]
        figure = choose_figure(analysis)(analysis, style)
        write_finding(figure, state_finding(analysis), style)
        paths = save_figure(figure, out_dir / analysis.sweep, style)
    text = out_dir / f"{analysis.sweep}.json"
    content = json.dumps(to_json(analysis), indent=1, ensure_ascii=False, allow_nan=False)
    publish(text, lambda path: path.write_text(content + "\n", encoding="utf-8"))
    return [*paths, text]


def write_further(analysis: Analysis, out_dir: Path, style: Style = SCREEN) -> list[Path]:
    """Write NAME-FIGURE.png and .svg of every further figure that the runs have the data for."""
    paths = []
    with mpl.rc_context(style.rc):  # type: ignore[arg-type]
        for name, (applies, draw) in FURTHER.items():
            if applies(analysis):
                figure = draw(analysis, style)
                write_finding(figure, state_finding(analysis), style)
                paths += save_figure(figure, out_dir / f"{analysis.sweep}-{name}", style)
    return paths


def save_figure(figure: Figure, stem: Path, style: Style) -> list[Path]:
    """Write STEM.FORMAT in each format of the style, with no date inside, and return the paths."""
    dateless = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
    paths = [stem.with_name(f"{stem.name}.{form}") for form in style.formats]
    for path, form in zip(paths, style.formats, strict=True):
        publish(path, lambda at, form=form: figure.savefig(at, format=form, metadata=dateless[form]))  # type: ignore[misc]
    return paths


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
    sentence = f"wrote {target}: {say_count(len(ended), 'run')}, {len(kept)} columns"
    return sentence + (
        f"; {say_count(lost, 'run')} of the answer before {'is' if lost == 1 else 'are'} not in it" if lost else ""
    )


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
    """Write beside the target and move into place: readers see the old file or the new one, never a part.

    Raises: ValueError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}): give another folder, or free space") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
