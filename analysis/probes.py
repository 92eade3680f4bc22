"""Answer of a sweep of probed checkpoints: scores, verdicts, figures, the committed table."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.analyse import clean, verdict_to_json
from analysis.claims import COLOURS, Verdict, read_measured
from analysis.figures.one_step import draw_forms, draw_scales, draw_scores
from analysis.figures.style import SCREEN, Style
from analysis.one_step import keys_of, label_checkpoint, score_forms, spread_probes
from analysis.probe_claims import check_probes
from analysis.write import is_committed, publish, save_figure
from harness.config import SWEEPS_DIR


@dataclass(frozen=True)
class ProbeAnswer:
    """Rows of spread_probes, scores of score_forms, verdicts."""

    sweep: str
    question: str
    rows: pd.DataFrame
    scores: pd.DataFrame
    verdicts: Sequence[Verdict]


def analyse_probes(sweep: str, frame: pd.DataFrame, question: str = "", folder: Path | None = None) -> ProbeAnswer:
    """Predict, score and judge. Raises: ValueError where no checkpoint has ended."""
    rows = spread_probes(frame, folder)
    return ProbeAnswer(sweep, question or sweep, rows, score_forms(rows, keys_of(rows)), check_probes(rows))


def print_probes(answer: ProbeAnswer) -> None:
    """Median and worst of predicted over measured, a line a checkpoint, optimizer and form; then the verdicts."""
    console = Console(highlight=False)
    console = Console(highlight=False, width=None if console.is_terminal else 120)
    console.print(f"\n{answer.question}", markup=False)
    keys = keys_of(answer.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("checkpoint", "optimizer", "form", "points", "median", "worst"):
        table.add_column(name, justify="right" if name in ("points", "median", "worst") else "left")
    for _, row in answer.scores.iterrows():
        label = label_checkpoint({key: row[key] for key in keys})
        numbers = (f"{row[name]:.3g}" for name in ("median", "worst"))
        table.add_row(label, row["optimizer"], row["form"], str(row["points"]), *numbers)
    console.print(table)
    console.print("median, worst: predicted over measured learning rate, batch sizes from 16 that are scored")
    print_verdicts(answer.verdicts, console)


def print_verdicts(verdicts: Sequence[Verdict], console: Console) -> None:
    """A line a claim and checkpoint; every claim's rule once."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("claim", "checkpoint", "measured, 95 %", "verdict", "why"):
        table.add_column(name)
    for verdict in verdicts:
        value, low, high = read_measured(verdict)
        measured = f"{value:.3g} [{low:.3g}, {high:.3g}]" if np.isfinite([value, low, high]).all() else "-"
        colour = COLOURS[verdict.verdict]
        table.add_row(
            verdict.claim, label_checkpoint(verdict.group), escape(measured), f"[{colour}]{verdict.verdict}[/{colour}]",
            escape(verdict.reason),
        )  # fmt: skip
    console.print(table)
    for claim, rule in {verdict.claim: verdict.rule for verdict in verdicts}.items():
        console.print(f"{claim}: {escape(rule)}", style="dim")


def commit_probes(answer: ProbeAnswer) -> str:
    """Write sweeps/NAME.csv: a row a checkpoint, optimizer and batch size, predictions among them.

    Returns: a sentence on what was written.
    """
    rows = answer.rows
    kept = [column for column in rows.columns if is_committed(rows[column])]
    target = SWEEPS_DIR / f"{answer.sweep}.csv"
    order = [*keys_of(rows), "probe.optimizer", "probe.batch_size"]
    table = rows.sort_values(order, kind="stable")[kept]
    publish(target, lambda path: table.to_csv(path, index=False, lineterminator="\n", float_format="%.6g"))
    return f"wrote {target}: {len(table)} points of {rows['run_id'].nunique()} checkpoints, {len(kept)} columns"


def write_probes(answer: ProbeAnswer, out_dir: Path, style: Style = SCREEN) -> list[Path]:
    """NAME.png, .svg and .json: scores; NAME-scales; and NAME-TASK (-permuted): forms against batch size."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{str(out_dir)!r} cannot be written to ({error.strerror}): give another folder") from error
    rows, title = answer.rows, answer.question
    with mpl.rc_context(style.rc):  # type: ignore[arg-type]
        paths = save_figure(draw_scores(rows, title, style), out_dir / answer.sweep, style)
        paths += save_figure(draw_scales(rows, title, style), out_dir / f"{answer.sweep}-scales", style)
        for (task, permuted), part in rows.groupby(["task.name", rows.get("permute_samples", False)], sort=False):
            name = f"{answer.sweep}-{task}" + ("-permuted" if permuted else "")
            paths += save_figure(draw_forms(part, title, style), out_dir / name, style)
    content = {
        "sweep": answer.sweep, "protocol": "one_step", "question": answer.question,
        "scores": answer.scores.to_dict("records"), "verdicts": [verdict_to_json(v) for v in answer.verdicts],
    }  # fmt: skip
    text = json.dumps(clean(content), indent=1, ensure_ascii=False, allow_nan=False)
    path = out_dir / f"{answer.sweep}.json"
    publish(path, lambda at: at.write_text(text + "\n", encoding="utf-8"))
    return [*paths, path]
