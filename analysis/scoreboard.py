"""Every claim on every committed table in one table: `python -m analysis.claims [--out DIR]`."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from analysis.analyse import analyse_runs, clean
from analysis.answers import choose_answer
from analysis.claim_words import describe_claims
from analysis.claims import COLOURS, Verdict, show_measured
from analysis.figures.scoreboard import draw_scoreboard
from analysis.figures.style import STYLES
from analysis.groups import label_group
from analysis.write import save_figure
from harness.config import SWEEPS_DIR

MEASURED = "measured [95 % interval] or worst (range)"
COLUMNS = ("claim", "sweep", "group", "protocol", "predicted", MEASURED, "verdict", "why")
WIDE = 140  # characters from which on all columns are legible


def judge_sweeps(paths: Sequence[Path]) -> Iterator[tuple[str, Verdict]]:
    """(sweep, verdict) of each committed table, a sweep after the other."""
    for path in paths:
        frame = pd.read_csv(path)
        if analyse := choose_answer(path.stem, frame):
            yield from ((path.stem, verdict) for verdict in analyse(path.stem, frame, "", None).verdicts)
            continue
        analysis = analyse_runs(path.stem, frame)
        for answer in analysis.groups:
            for verdict in answer.verdicts:
                yield path.stem, verdict


def write_row(sweep: str, verdict: Verdict) -> tuple[str, ...]:
    """One line of the scoreboard."""
    numbers = verdict.numbers
    group = label_group(verdict.group)
    return (
        verdict.claim, sweep, group, verdict.protocol, f"{numbers['predicted']:.3g}", show_measured(verdict),
        verdict.verdict, verdict.reason,
    )  # fmt: skip


def write_markdown(rows: Sequence[tuple[str, ...]]) -> str:
    """What every claim says, then a line a verdict."""
    words = "## The claims in words\n\n" + describe_claims(row[0] for row in rows) + "\n## Verdicts\n\n"
    return words + write_verdicts(rows)


def write_verdicts(rows: Sequence[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def print_rows(rows: Sequence[tuple[str, ...]], console: Console) -> None:
    """The scoreboard; on a narrow terminal without protocols, and with the reasons below it instead of beside it."""
    narrow = console.width < WIDE
    shown = [column for column in COLUMNS if not (narrow and column in ("protocol", "why"))]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        table.add_column(column, no_wrap=column in ("claim", "sweep", "verdict"), overflow="fold")
    for row in rows:
        cells = dict(zip(COLUMNS, map(escape, row), strict=True))
        cells["verdict"] = f"[{COLOURS[row[6]]}]{row[6]}[/{COLOURS[row[6]]}]"
        table.add_row(*(cells[column] for column in shown))
    console.print(table)
    for claim, sweep, group, *_, why in rows if narrow else ():
        if why:
            console.print(escape(f"{claim}, {', '.join(filter(None, (sweep, group)))}: {why}"), highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the scoreboard; with --out write scoreboard.md, .json and the figure too. 2 where a table is left out."""
    parser = argparse.ArgumentParser(prog="python -m analysis.claims", description=__doc__.split(":")[0])
    parser.add_argument("--out", type=Path, help="folder for scoreboard.md, scoreboard.json and the figure")
    parser.add_argument("--style", choices=sorted(STYLES), default="screen", help="of the figure")
    options = parser.parse_args(arguments)
    out, style = options.out, STYLES[options.style]
    paths = sorted(SWEEPS_DIR.glob("*.csv"))
    console = Console(width=None if Console().is_terminal else 200)
    judged: list[tuple[str, Verdict]] = []
    failed = 0
    for path in track(paths, description="judging", transient=True, console=Console(stderr=True)):
        try:
            judged += judge_sweeps([path])
        except ValueError as error:  # the others are judged all the same
            failed = 2
            print(f"{path.name} is left out: {' '.join(str(error).split())}", file=sys.stderr)
    rows = [write_row(sweep, verdict) for sweep, verdict in judged]
    print_rows(rows, console)
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
            content = [
                {"sweep": sweep, "claim": v.claim, "group": dict(v.group), "protocol": v.protocol, "verdict": v.verdict,
                 "numbers": dict(v.numbers), "spread": v.spread, "rule": v.rule, "reason": v.reason}
                for sweep, v in judged
            ]  # fmt: skip
            (out / "scoreboard.md").write_text(write_markdown(rows), encoding="utf-8")
            text = json.dumps(clean(content), indent=1, ensure_ascii=False, allow_nan=False)
            (out / "scoreboard.json").write_text(text + "\n", encoding="utf-8")
            with mpl.rc_context(style.rc):  # type: ignore[arg-type]
                drawn = save_figure(draw_scoreboard(judged, style), out / "scoreboard", style) if judged else []
        except FileExistsError:
            parser.exit(2, f"--out={str(out)!r} is a file: give a folder\n")
        except OSError as error:
            parser.exit(2, f"--out={str(out)!r} cannot be written to ({error.strerror}): give another folder\n")
        print("\n".join(str(path) for path in (out / "scoreboard.md", *drawn)))
    return failed
