"""Draw sweeps and print what they say: `python analysis/plot.py [NAME ...]`; no NAME means all committed."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    # a script's own folder comes first on the path; the packages are found from the folder above, before any
    # namesake
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT / "analysis"))]

import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console

from analysis.analyse import Analysis, analyse_runs
from analysis.answer import commit_rows, print_answer, write_answer
from analysis.answers import ANSWERS, choose_answer
from analysis.borrow import BORROW, borrow_noise
from analysis.figures.style import SCREEN, STYLES, Style
from analysis.page import Page, make_page, write_index, write_page
from analysis.report import print_report
from analysis.seed_noise import SeedNoise
from analysis.tables import choose_table, parse_columns, read_source, read_table, rename_columns
from analysis.wandb_project import is_project
from analysis.write import commit_answer, write_figure, write_further
from harness.config import SWEEPS_DIR, closest
from harness.records import PROBES, read_question


@dataclass(frozen=True)
class Drawn:
    """What a call of draw made: the analysis, and the paths of NAME.png, NAME.svg and NAME.json, or of more formats."""

    analysis: Analysis
    paths: tuple[Path, ...]


def draw(
    name: str,
    frame: pd.DataFrame,
    out_dir: Path,
    question: str = "",
    source: str = "",
    *,
    robust: bool = False,
    borrowed: SeedNoise | None = None,
    style: Style = SCREEN,
) -> Drawn:
    """Analyse a table of runs and write its figure and JSON.

    Args:
        name: of the sweep; the files bear it.
        frame: exactly the runs to draw, with the columns of records.
        question: title of the figure; by default the one in sweeps/NAME.yaml.
        source: what error messages call the table; by default the name.
        robust: laws that no single wild cell moves far.
        borrowed: seed noise for batch sizes with one seed.
    """
    analysis = analyse_runs(name, frame, question or find_question(name), source, robust=robust, borrowed=borrowed)
    return Drawn(analysis, tuple(write_figure(analysis, out_dir, style)))


def find_question(name: str, source: str | None = None) -> str:
    """The question that sweeps/NAME.yaml asks, else the one that lies beside the records, or nothing."""
    path = SWEEPS_DIR / f"{name}.yaml"
    if not path.exists():
        runs = Path(source or "runs")
        return read_question(runs / name) or read_question(runs)
    return str(OmegaConf.to_container(OmegaConf.load(path))["sweep"]["question"])  # type: ignore[index,call-overload]


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


def find_arrays(name: str, source: str | None) -> Path | None:
    """The folder of records that probed checkpoints' arrays lie in, if there is one."""
    runs = Path(source or "runs")
    return next((folder for folder in (runs, runs / name) if (folder / PROBES).is_dir()), None)


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
        some, pages = False, list[Page]()
        for name, frame, sentence in select_tables(options.names, runs):
            print(sentence)
            source = name if runs is None or is_project(runs) or is_runs_dir(Path(runs)) else runs
            style = STYLES[options.style]
            try:
                frame = rename_columns(frame, columns, source)
                question = find_question(name, options.runs)
                if analyse := choose_answer(name, frame, options.answer):
                    with Console(stderr=True).status(f"judging and drawing {name}"):
                        answer = analyse(name, frame, question, find_arrays(name, runs))
                    print_answer(answer, whole=options.all)
                    paths = write_answer(answer, options.out, style)
                    print("\n".join(map(str, paths)))
                    some = True
                    if options.html:
                        pages.append(make_page(answer, frame, paths, sentence))
                        print(write_page(pages[-1], options.out))
                    if options.commit:
                        print(commit_rows(answer))
                    continue
                borrowed = borrow_noise(options.borrow, columns, frame) if options.borrow else None
                how = {"robust": options.robust, "borrowed": borrowed, "style": style}
                with Console(stderr=True).status(f"fitting and drawing {name}"):
                    drawn = draw(name, frame, options.out, question, source, **how)
            except ValueError as error:
                if isinstance(error.__cause__, OSError):
                    raise  # no folder for figures: of no sweep
                text = " ".join(str(error).split())
                print(text if source in text else f"{source}: {text}", file=sys.stderr)
                continue  # the others can be drawn
            some = True
            print_report(drawn.analysis)
            further = write_further(drawn.analysis, options.out, style)
            print("\n".join(str(path) for path in (*drawn.paths, *further)))
            if options.html:
                pages.append(make_page(drawn.analysis, frame, [*drawn.paths, *further], sentence))
                print(write_page(pages[-1], options.out))
            if options.commit:
                print(commit_answer(name, frame))
        if len(pages) > 1:
            print(write_index(pages, options.out))
    except ValueError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0 if some else 2


if __name__ == "__main__":
    sys.exit(main())
