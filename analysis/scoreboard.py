"""Every claim on every committed sweep in one table: `python -m analysis.claims [--out DIR]`."""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from analysis.analyse import analyse_runs, clean
from analysis.claims import Verdict
from analysis.groups import label_group
from harness.config import SWEEPS_DIR

COLUMNS = ("claim", "sweep", "group", "protocol", "predicted", "measured, 95 % interval", "verdict", "why")
MEASURED = ("exponent", "ratio")  # the number of a verdict that its rule judges
COLOURS = {"confirmed": "green", "refuted": "red", "inconclusive": "yellow"}


def judge_sweeps(paths: Sequence[Path]) -> Iterator[tuple[str, Verdict]]:
    """(sweep, verdict) of each committed table, a sweep after the other."""
    for path in paths:
        analysis = analyse_runs(path.stem, pd.read_csv(path))
        for answer in analysis.groups:
            for verdict in answer.verdicts:
                yield path.stem, verdict


def write_row(sweep: str, verdict: Verdict) -> tuple[str, ...]:
    """One line of the scoreboard."""
    numbers = verdict.numbers
    value = next((numbers[name] for name in MEASURED if name in numbers), np.nan)
    bounds = [numbers.get(name, np.nan) for name in ("low", "high")]
    measured = f"{value:.3g} [{bounds[0]:.3g}, {bounds[1]:.3g}]" if np.isfinite([value, *bounds]).all() else "-"
    group = label_group(verdict.group)
    return (
        verdict.claim, sweep, group, verdict.protocol, f"{numbers['predicted']:.3g}", measured, verdict.verdict,
        verdict.reason,
    )  # fmt: skip


def write_markdown(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scoreboard; with --out write scoreboard.md and scoreboard.json too."""
    parser = argparse.ArgumentParser(prog="python -m analysis.claims", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, help="folder for scoreboard.md and scoreboard.json")
    out = parser.parse_args(arguments).out
    paths = sorted(SWEEPS_DIR.glob("*.csv"))
    console = Console(width=None if Console().is_terminal else 200)
    judged = [
        pair
        for path in track(paths, description="judging", transient=True, console=Console(stderr=True))
        for pair in judge_sweeps([path])
    ]
    rows = [write_row(sweep, verdict) for sweep, verdict in judged]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        table.add_column(column)
    for row in rows:
        colour = COLOURS[row[6]]
        table.add_row(*(escape(cell) for cell in row[:6]), f"[{colour}]{row[6]}[/{colour}]", escape(row[7]))
    console.print(table)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            content = [
                {"sweep": sweep, "claim": v.claim, "group": dict(v.group), "protocol": v.protocol, "verdict": v.verdict,
                 "numbers": dict(v.numbers), "rule": v.rule, "reason": v.reason}
                for sweep, v in judged
            ]  # fmt: skip
            (out / "scoreboard.md").write_text(write_markdown(rows), encoding="utf-8")
            text = json.dumps(clean(content), indent=1, ensure_ascii=False, allow_nan=False)
            (out / "scoreboard.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            parser.exit(2, f"--out={str(out)!r} cannot be written to ({error.strerror}): give another folder\n")
        print(out / "scoreboard.md")
    return 0
