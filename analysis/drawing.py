"""Sweeps judged and drawn: one at a time, or a process a core where there are several."""

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import track

from analysis.analyse import Analysis, analyse_runs
from analysis.answer import Answer, commit_rows, print_answer, write_answer
from analysis.answers import choose_answer
from analysis.borrow import borrow_noise
from analysis.figures.style import SCREEN, Style
from analysis.page import Page, make_page, write_page
from analysis.report import print_report
from analysis.seed_noise import SeedNoise
from analysis.tables import rename_columns
from analysis.write import commit_answer, write_figure, write_further
from harness.config import SWEEPS_DIR
from harness.records import PROBES, read_question

WORTH_PROCESSES = 3  # sweeps; to start a process takes about as long as to draw one


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


def find_arrays(name: str, source: str | None) -> Path | None:
    """The folder of records that probed checkpoints' arrays lie in, if there is one."""
    runs = Path(source or "runs")
    return next((folder for folder in (runs, runs / name) if (folder / PROBES).is_dir()), None)


@dataclass(frozen=True)
class Wishes:
    """How sweeps are to be drawn: the options of analysis/plot.py."""

    out: Path
    style: Style
    columns: Mapping[str, str]
    robust: bool
    borrow: str
    answer: str | None
    whole: bool
    html: bool
    commit: bool


@dataclass(frozen=True)
class Asked:
    """A sweep that is to be drawn, with all that this takes: it goes to a process of its own."""

    name: str
    frame: pd.DataFrame
    sentence: str  # where the table is from
    source: str  # what messages call the table
    question: str
    arrays: Path | None
    how: Wishes


@dataclass(frozen=True)
class Told:
    """What drawing a sweep printed, whether there is a figure, and its page where one was asked for."""

    out: str
    err: str
    drawn: bool
    pages: tuple[Page, ...] = ()


def draw_all(asked: Sequence[Asked]) -> Iterator[Told]:
    """Draw every sweep; what is said of them comes in the order that they were asked in.

    Raises: ValueError where figures cannot be written at all, or a process was ended from outside.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores < 2 or len(asked) < WORTH_PROCESSES:
        for one in asked:
            with Console(stderr=True).status(f"judging and drawing {one.name}"):
                told = draw_one(one)
            yield told
        return
    # One thread each: two busy processes of two threads on two cores are slower than one process
    alone = {"OMP_NUM_THREADS": "1"} | ({"FORCE_COLOR": "1"} if sys.stdout.isatty() else {})
    with set_environment(alone):
        # A signal of the terminal goes to all of its processes: these then end without a word
        pool = ProcessPoolExecutor(
            min(cores, len(asked)), multiprocessing.get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_DFL)
        )
        longest_first = sorted(range(len(asked)), key=lambda i: -len(asked[i].frame))  # so that none is left over
        begun = {i: pool.submit(draw_one, asked[i]) for i in longest_first}
    try:
        futures = [begun[i] for i in range(len(asked))]
        for future in track(futures, "judging and drawing", transient=True, console=Console(stderr=True)):
            yield future.result()
    except BrokenProcessPool as error:
        raise ValueError("a process that drew was ended from outside, or memory was short: give fewer names") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def set_environment(values: Mapping[str, str]) -> Iterator[None]:
    """What processes that are started in the body find in their environment; what the user set stays."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def draw_one(asked: Asked) -> Told:
    """Judge and draw one sweep. What is wrong with its table is told and costs no other sweep its figure.

    Raises: ValueError where figures cannot be written at all.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            pages = draw_and_say(asked)
        except ValueError as error:
            if isinstance(error.__cause__, OSError):
                raise  # no folder for figures: of no sweep
            text = " ".join(str(error).split())
            print(text if asked.source in text else f"{asked.source}: {text}", file=err)
            return Told(out.getvalue(), err.getvalue(), drawn=False)
    return Told(out.getvalue(), err.getvalue(), drawn=True, pages=tuple(pages))


def draw_and_say(asked: Asked) -> list[Page]:
    """Figures, and on standard output what they say; pages where asked for."""
    how, name = asked.how, asked.name
    print(asked.sentence)
    frame = rename_columns(asked.frame, how.columns, asked.source)
    of_page: Analysis | Answer
    if analyse := choose_answer(name, frame, how.answer):
        of_page = answer = analyse(name, frame, asked.question, asked.arrays)
        print_answer(answer, whole=how.whole)
        paths = write_answer(answer, how.out, how.style)
    else:
        borrowed = borrow_noise(how.borrow, how.columns, frame) if how.borrow else None
        drawn = draw(
            name, frame, how.out, asked.question, asked.source, robust=how.robust, borrowed=borrowed, style=how.style
        )  # fmt: skip
        of_page = drawn.analysis
        print_report(drawn.analysis)
        paths = [*drawn.paths, *write_further(drawn.analysis, how.out, how.style)]
    print("\n".join(map(str, paths)))
    pages = [make_page(of_page, frame, paths, asked.sentence)] if how.html else []
    for page in pages:
        print(write_page(page, how.out))
    if how.commit:
        print(commit_rows(of_page) if isinstance(of_page, Answer) else commit_answer(name, frame))
    return pages
