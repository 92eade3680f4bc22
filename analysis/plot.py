"""Draw sweeps and print what they say: `python analysis/plot.py [NAME ...]`; no NAME means all committed."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # a script's own folder comes first on the path; the packages are found from the folder above, before any
    # namesake
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "analysis"))]

import pandas as pd

from analysis.answers import ANSWERS
from analysis.borrow import BORROW
from analysis.drawing import Asked, Wishes, draw_all, find_arrays, find_question
from analysis.figures.style import STYLES
from analysis.page import Page, write_index
from analysis.tables import choose_table, parse_columns, read_source, read_table
from analysis.wandb_project import is_project
from harness.checks import closest
from harness.config import SWEEPS_DIR


def select_tables(names: Sequence[str], source: str | None) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """Name, table and a sentence on its source, for every sweep that is to be drawn."""
    runs = Path(source or "")
    if source is None:
        names = names or sorted(path.stem for path in SWEEPS_DIR.glob("*.csv"))
        if not names:
            raise ValueError(f"no sweep in {SWEEPS_DIR} has a committed answer: give --runs, or train one first")
        for name in names:
            yield name, *choose_table(name, Path("runs"))
    elif is_project(source):
        yield from split_sweeps(names, source)
    elif not is_runs_dir(runs):
        if len(names) > 1:
            raise ValueError(f"--runs={str(runs)!r} is one table, and {len(names)} names are given: give one name")
        name = names[0] if names else runs.resolve().stem
        yield name, read_table(runs), f"{name}: {runs}"
    else:
        names = names or sorted({path.parent.name for path in runs.glob("*/*.parquet")})
        if not names:
            raise ValueError(
                f"--runs={str(runs)!r} holds no records: give runs_dir, a folder of parquet files or a table"
            )
        for name in names:
            yield name, read_table(runs / name), f"{name}: records in {runs / name}"


def is_runs_dir(path: Path) -> bool:
    """Whether a folder holds no records itself, and so a folder a sweep."""
    return path.is_dir() and not any(path.glob("*.parquet"))


def split_sweeps(names: Sequence[str], source: str) -> Iterator[tuple[str, pd.DataFrame, str]]:
    """The sweeps of a W&B project, each for itself; all runs as one where they name no sweep."""
    frame, sentence = read_source(source)
    if "sweep" not in frame.columns:
        if len(names) > 1:
            raise ValueError(f"{source} names no sweeps, and {len(names)} names are given: give one name")
        yield names[0] if names else source.rpartition("/")[2], frame, sentence
        return
    there = sorted(str(name) for name in frame["sweep"].dropna().unique())
    for name in names or there:
        if name not in there:
            raise ValueError(f"{name!r} is not one of the sweeps of {source}: {', '.join(there)}{closest(name, there)}")
        rows = frame[frame["sweep"] == name].dropna(axis="columns", how="all").reset_index(drop=True)
        yield name, rows, f"{name}: {len(rows)} of the runs below\n{sentence}" if len(there) > 1 else sentence


class OneLineParser(argparse.ArgumentParser):
    """An argument parser that tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = OneLineParser(prog="plot.py", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="sweeps to draw; all committed ones by default")
    parser.add_argument(
        "--runs", metavar="SOURCE", help="runs_dir, a folder of records, a csv, a parquet or wandb:ENTITY/PROJECT"
    )
    parser.add_argument("--columns", default="", help="foreign column names, like lr=peak_lr,loss=eval")
    parser.add_argument("--out", type=Path, default=Path("figures"), metavar="DIR", help="where figures go")
    parser.add_argument("--style", choices=sorted(STYLES), default="screen", help="paper: print sizes, and pdf too")
    parser.add_argument("--robust", action="store_true", help="laws that no single wild batch size moves far")
    parser.add_argument("--borrow", default="", metavar="SOURCE", help=BORROW)
    parser.add_argument(
        "--answer", choices=["optimum", *ANSWERS], help="what is asked; by default sweeps/NAME.yaml's sweep.answer"
    )
    parser.add_argument("--all", action="store_true", help="print every verdict and rule, where they are many")
    parser.add_argument("--html", action="store_true", help="also NAME.html, a page that needs nothing beside it")
    parser.add_argument("--commit", action="store_true", help="write sweeps/NAME.csv from records")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 where nothing could be drawn. A mistake, and a sweep left out, is a line on stderr."""
    options = read_arguments(arguments)
    try:
        columns = parse_columns(options.columns) if options.columns else {}
        if options.commit and not options.names:
            raise ValueError("--commit needs a NAME: say which sweep's records become its committed answer")
        runs = options.runs or ("runs" if options.commit else None)
        how = Wishes(
            options.out, STYLES[options.style], columns, robust=options.robust, borrow=options.borrow,
            answer=options.answer, whole=options.all, html=options.html, commit=options.commit,
        )  # fmt: skip
        asked = []
        for name, frame, sentence in select_tables(options.names, runs):
            source = name if runs is None or is_project(runs) or is_runs_dir(Path(runs)) else runs
            question = find_question(name, options.runs)
            asked.append(Asked(name, frame, sentence, source, question, find_arrays(name, runs), how))
        some, pages = False, list[Page]()
        for told in draw_all(asked):
            print(told.out, end="", flush=True)
            print(told.err, end="", file=sys.stderr, flush=True)
            some = some or told.drawn
            pages += told.pages
        if len(pages) > 1:
            print(write_index(pages, options.out))
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0 if some else 2


if __name__ == "__main__":
    sys.exit(main())
