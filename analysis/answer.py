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
from analysis.claims import COLOURS, Verdict, read_measured, show_measured
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


MOST = 8  # verdicts that are printed one by one


def print_answer(answer: Answer, *, whole: bool = False) -> None:
    """The scores, then the verdicts: one by one with every claim's rule where they are few, else a line a claim.

    Args:
        whole: one by one whatever their number.
    """
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
    if whole or len(answer.verdicts) <= MOST:
        print_verdicts(answer, console)
    else:
        print_counts(answer, console)


def print_counts(answer: Answer, console: Console) -> None:
    """A line a claim: how many of its verdicts are which, and where all of them stand."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("claim", "measured", *COLOURS):
        table.add_column(name, justify="right" if name in COLOURS else "left")
    for claim in dict.fromkeys(verdict.claim for verdict in answer.verdicts):
        own = [verdict for verdict in answer.verdicts if verdict.claim == claim]
        values = [value for value in (read_measured(verdict)[0] for verdict in own) if np.isfinite(value)]
        spread = f"{min(values):.3g} to {max(values):.3g}" if values else "-"
        counts = (sum(verdict.verdict == word for verdict in own) for word in COLOURS)
        table.add_row(claim, spread, *(str(count or "") for count in counts))
    console.print(table)
    text = f"{len(answer.verdicts)} verdicts; each with its interval, reason and rule: python analysis/plot.py"
    console.print(f"{text} {answer.sweep} --all, or {answer.sweep}.json beside the figure", style="dim", markup=False)


def show_cell(x: object) -> str:
    """A number to four digits; nothing where a line has none."""
    if pd.isna(x):  # type: ignore[call-overload]
        return ""
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def print_verdicts(answer: Answer, console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("claim", "of", "measured [95 %] or worst (range)", "verdict", "why"):
        table.add_column(name)
    for verdict in answer.verdicts:
        colour = COLOURS[verdict.verdict]
        table.add_row(
            verdict.claim, escape(answer.label(verdict.group)), escape(show_measured(verdict)),
            f"[{colour}]{verdict.verdict}[/{colour}]", escape(verdict.reason),
        )  # fmt: skip
    console.print(table)
    for claim, rule in dict.fromkeys((verdict.claim, verdict.rule) for verdict in answer.verdicts):
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
    text = json.dumps(to_json(answer), indent=1, ensure_ascii=False, allow_nan=False)
    path = out_dir / f"{answer.sweep}.json"
    publish(path, lambda at: at.write_text(text + "\n", encoding="utf-8"))
    return [*paths, path]


def to_json(answer: Answer) -> dict[str, object]:
    """The content of NAME.json. Numbers have 9 digits; what is not known is null."""
    content = clean({
        "sweep": answer.sweep, "protocol": answer.protocol, "question": answer.question,
        "scores": answer.scores.to_dict("records"), "verdicts": [verdict_to_json(v) for v in answer.verdicts],
    })  # fmt: skip
    assert isinstance(content, dict)
    return content


def commit_rows(answer: Answer) -> str:
    """Write sweeps/NAME.csv from the answer's rows. Returns: a sentence on what was written."""
    rows = answer.rows
    kept = [column for column in rows.columns if is_committed(rows[column])]
    target = SWEEPS_DIR / f"{answer.sweep}.csv"
    publish(target, lambda path: rows[kept].to_csv(path, index=False, lineterminator="\n", float_format="%.9g"))
    runs = say_count(rows["run_id"].nunique(), "run")
    return f"wrote {target}: {say_count(len(rows), 'row')} of {runs}, {len(kept)} columns"
