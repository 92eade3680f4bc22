"""What a sweep that is not about an optimum answers: scores, verdicts, figures, and the table that is committed."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.analyse import clean, verdict_to_json
from analysis.claims import COLOURS, Verdict, read_measured
from analysis.figures.finding import state_verdicts, write_finding
from analysis.figures.style import SCREEN, Style
from analysis.groups import label_group
from analysis.write import is_committed, publish, save_figure
from harness.config import SWEEPS_DIR, say_count

Draw = Callable[[Style], Figure]


@dataclass(frozen=True)
class Answer:
    """The answer of one sweep.

    Attributes:
        rows: what is committed, a row a run, or a point of one; enough to answer again without records.
        scores: what is printed, a line a case; `note` below it says what its numbers are.
        figures: suffix -> figure; that without a suffix bears the sweep's name alone.
    """

    sweep: str
    question: str
    protocol: str
    rows: pd.DataFrame
    scores: pd.DataFrame
    note: str
    verdicts: Sequence[Verdict]
    figures: Mapping[str, Draw]
    label: Callable[[Mapping[str, object]], str] = field(default=label_group)  # of a verdict's group, in few words


def print_answer(answer: Answer) -> None:
    """The scores, then a line a verdict, then every claim's rule once."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=None if console.is_terminal else 120)
    console.print(f"\n{answer.question}", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in answer.scores.columns:
        number = pd.api.types.is_numeric_dtype(answer.scores[name])
        table.add_column(str(name), justify="right" if number else "left")
    for _, row in answer.scores.iterrows():
        cells = (show_cell(x) for x in row)
        table.add_row(*map(escape, cells))
    console.print(table)
    console.print(answer.note, markup=False)
    print_verdicts(answer, console)


def show_cell(x: object) -> str:
    """A number to four digits; nothing where a line has none."""
    if pd.isna(x):  # type: ignore[call-overload]
        return ""
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def print_verdicts(answer: Answer, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("claim", "of", "measured, 95 %", "verdict", "why"):
        table.add_column(name)
    for verdict in answer.verdicts:
        value, low, high = read_measured(verdict)
        measured = f"{value:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite([value, low, high]).all() else "-"
        colour = COLOURS[verdict.verdict]
        table.add_row(
            verdict.claim, escape(answer.label(verdict.group)), escape(measured),
            f"[{colour}]{verdict.verdict}[/{colour}]", escape(verdict.reason),
        )  # fmt: skip
    console.print(table)
    for claim, rule in {verdict.claim: verdict.rule for verdict in answer.verdicts}.items():
        console.print(f"{claim}: {escape(rule)}", style="dim")


def write_answer(answer: Answer, out_dir: Path, style: Style = SCREEN) -> list[Path]:
    """NAME.png, .svg and .json, and NAME-SUFFIX.png and .svg; their paths, pictures first."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{str(out_dir)!r} cannot be written to ({error.strerror}): give another folder") from error
    paths: list[Path] = []
    with mpl.rc_context(style.rc):  # type: ignore[arg-type]
        for suffix, draw in answer.figures.items():
            name = f"{answer.sweep}-{suffix}" if suffix else answer.sweep
            figure = draw(style)
            write_finding(figure, state_verdicts(answer.verdicts, answer.label), style)
            paths += save_figure(figure, out_dir / name, style)
    content = {
        "sweep": answer.sweep, "protocol": answer.protocol, "question": answer.question,
        "scores": answer.scores.to_dict("records"), "verdicts": [verdict_to_json(v) for v in answer.verdicts],
    }  # fmt: skip
    text = json.dumps(clean(content), indent=1, ensure_ascii=False, allow_nan=False)
    path = out_dir / f"{answer.sweep}.json"
    publish(path, lambda at: at.write_text(text + "\n", encoding="utf-8"))
    return [*paths, path]


def commit_rows(answer: Answer) -> str:
    """Write sweeps/NAME.csv from the answer's rows. Returns: a sentence on what was written."""
    rows = answer.rows
    kept = [column for column in rows.columns if is_committed(rows[column])]
    target = SWEEPS_DIR / f"{answer.sweep}.csv"
    publish(target, lambda path: rows[kept].to_csv(path, index=False, lineterminator="\n", float_format="%.9g"))
    runs = say_count(rows["run_id"].nunique(), "run")
    return f"wrote {target}: {say_count(len(rows), 'row')} of {runs}, {len(kept)} columns"
