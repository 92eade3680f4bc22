"""What a sweep says as plain tables and charts, for a W&B run of its own: no figure of ours, no client of W&B's."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.analyse import Analysis, clean, to_json
from analysis.answer import Answer
from analysis.answer import to_json as answer_to_json
from analysis.claims import Verdict, show_measured
from analysis.figures.finding import Label, state_finding, state_verdicts
from analysis.groups import key_group, label_group
from analysis.objectives import is_steps
from analysis.summary_charts import Chart, chart_losses, chart_optima, chart_weight_rms
from analysis.summary_tables import (
    tabulate,
    tabulate_cells,
    tabulate_fits,
    tabulate_verdicts,
    tabulate_weight_rms,
    to_rows,
)
from analysis.write import is_committed
from harness.config import say_count


@dataclass(frozen=True)
class Summary:
    """The analysis of one sweep.

    Attributes:
        text: the finding and every verdict, in Markdown.
        tables: optima, fits, cells and verdicts, or scores and verdicts; weight_rms where it is predicted.
        best: learning rates nearest to each located optimum, as (group, batch size, lr).
        measured: columns that some run has measured.
        files: name -> text of what is kept as an artifact: NAME.csv, NAME.json.
    """

    sweep: str
    question: str
    protocol: str
    text: str
    tables: Mapping[str, pd.DataFrame]
    charts: Sequence[Chart]
    best: Sequence[tuple[Mapping[str, object], int, float]]
    groups: Sequence[str]
    measured: frozenset[str]
    files: Mapping[str, str]
    provenance: Mapping[str, object]


def summarise(said: Analysis | Answer, frame: pd.DataFrame) -> Summary:
    """What a sweep says, of either kind.

    Args:
        frame: the runs that were analysed, as records have them.
    """
    return summarise_answer(said, frame) if isinstance(said, Answer) else summarise_analysis(said, frame)


def summarise_analysis(analysis: Analysis, frame: pd.DataFrame) -> Summary:
    """Of a sweep about an optimum.

    Args:
        frame: the runs that were analysed, as records have them.
    """
    content = to_json(analysis)
    verdicts = [verdict for answer in analysis.groups for verdict in answer.verdicts]
    optima, cells = tabulate(content["optima"]), tabulate_cells(analysis)
    tables = {"optima": optima, "fits": tabulate_fits(content["fits"]), "cells": cells}
    rms = tabulate_weight_rms(frame)
    tables |= {"verdicts": tabulate_verdicts(verdicts)} | ({"weight_rms": rms} if len(rms) else {})
    steps = is_steps(analysis.runs.frame)
    charts = [*chart_optima(analysis), *chart_losses(cells, "ln steps" if steps else "loss"), *chart_weight_rms(rms)]
    found = [o for answer in analysis.groups for o in answer.optima if o.status == "interior"]
    lrs = {(key_group(o.group), o.batch_size): o for o in found}
    best = []
    for (_, batch_size), o in lrs.items():
        own = cells[(cells["group"] == label_group(o.group)) & (cells["batch_size"] == batch_size)]["lr"]
        if len(own):
            best.append((o.group, batch_size, float(own.iloc[int(np.argmin(np.abs(np.log(own / o.lr))))])))
    shown = state_verdicts(verdicts)
    text = write_text([part for part in state_finding(analysis) if part not in shown], verdicts, label_group)
    return Summary(
        analysis.sweep, analysis.question, analysis.runs.protocol, text, tables, charts, best, analysis.runs.groups,
        find_measured(frame), name_files(analysis.sweep, frame, content), trace(frame),
    )  # fmt: skip


def summarise_answer(answer: Answer, frame: pd.DataFrame) -> Summary:
    """Of a sweep that asks for something else: its scores and verdicts."""
    verdicts = tabulate_verdicts(answer.verdicts)
    tables = {"scores": tabulate(clean(answer.scores.to_dict("records"))), "verdicts": verdicts}
    rms = tabulate_weight_rms(frame)
    tables |= {"weight_rms": rms} if len(rms) else {}
    files = name_files(answer.sweep, answer.rows, answer_to_json(answer))
    text = write_text([answer.note], answer.verdicts, answer.label)
    return Summary(
        answer.sweep, answer.question, answer.protocol, text, tables, chart_weight_rms(rms), [], [],
        find_measured(frame), files, trace(frame),
    )  # fmt: skip


def write_text(finding: Sequence[str], verdicts: Sequence[Verdict], label: Label) -> str:
    """The finding, then a line a verdict, in Markdown."""
    lines = [f"- {part}" for part in finding if part]
    for v in verdicts:
        of = f" ({text})" if (text := label(v.group)) else ""
        why = f": {v.reason}" if v.reason else ""
        lines.append(f"- claim **{v.claim}**{of} under {v.protocol}: **{v.verdict}**, {show_measured(v)}{why}")
    return "\n".join(lines)


def find_measured(frame: pd.DataFrame) -> frozenset[str]:
    return frozenset(str(name) for name in frame.columns if frame[name].notna().any())


def name_files(sweep: str, rows: pd.DataFrame, content: Mapping[str, object]) -> dict[str, str]:
    """NAME.csv, the runs as a committed table has them, and NAME.json."""
    kept = [name for name in rows.columns if is_committed(rows[name])]
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return {f"{sweep}.csv": rows[kept].to_csv(index=False, lineterminator="\n"), f"{sweep}.json": text}


def trace(frame: pd.DataFrame) -> dict[str, object]:
    """Where the numbers come from, without hosts, paths or users: code, torch, and how many runs ended how."""
    found: dict[str, object] = {"num_runs": len(frame)}
    if "status" in frame.columns:
        found["statuses"] = {str(k): int(n) for k, n in frame["status"].value_counts().sort_index().items()}
    for name in ("code_sha256", "own_code_sha256", "torch"):
        if (column := f"provenance.{name}") in frame.columns:
            found[name] = sorted(frame[column].dropna().astype(str).unique())
    return found


def to_payload(summary: Summary, figures: Sequence[Path]) -> dict[str, object]:
    """The summary as plain JSON, as harness/summary_run.py takes it."""
    tables = {name: {"columns": list(map(str, t.columns)), "data": to_rows(t)} for name, t in summary.tables.items()}
    charts = [{"key": c.key, "title": c.title, "x": c.x, "y": c.y, "data": to_rows(c.points)} for c in summary.charts]
    content: dict[str, object] = {
        "sweep": summary.sweep, "question": summary.question, "protocol": summary.protocol, "text": summary.text,
        "tables": {name: table for name, table in tables.items() if table["columns"]}, "charts": charts,
        "figures": [str(path) for path in figures], "files": dict(summary.files),
        "provenance": dict(summary.provenance),
    }  # fmt: skip
    return content | {"content_sha256": hash_content(content, figures)}


def hash_content(content: Mapping[str, object], figures: Sequence[Path]) -> str:
    """sha256 of all that a summary says, with the figures' bytes and not their paths."""
    plain = {key: value for key, value in content.items() if key != "figures"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode())
    for path in figures:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def describe(summary: Summary) -> str:
    """What the summary holds, in a line."""
    tables = ", ".join(f"{name} ({say_count(len(table), 'row')})" for name, table in summary.tables.items())
    return f"{tables}; {say_count(len(summary.charts), 'chart')}"
