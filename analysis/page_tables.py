"""What a page shows of a sweep, as tables of text: optima, laws, scores, verdicts, config, where runs are from."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import pandas as pd

from analysis.analyse import Analysis, GroupAnswer, has_one_size
from analysis.answer import Answer, show_cell
from analysis.claim_words import CLAIM_WORDS
from analysis.claims import Verdict, show_measured
from analysis.critical_batch import CriticalBatch
from analysis.greedy import describe_greedy
from analysis.groups import MEASURED_PREFIXES, NOT_GROUPS, is_configuration, label_group, select_group
from analysis.objectives import is_steps, show_objective
from analysis.optimum import Optimum
from analysis.report import format_estimate
from harness.config import PATHS, say_count

MOST_VALUES = 14  # of an axis that are written out
ANALYSED_WITH = ("numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class PageTable:
    """A table of text.

    Attributes:
        right: which columns hold numbers.
        notes: lines below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: tuple[bool, ...]
    notes: tuple[str, ...] = ()


def make_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Iterable[str] = ()
) -> PageTable:
    """A table whose columns of numbers are found by what is in them."""
    cells = tuple(tuple(row) for row in rows)
    right = tuple(all(is_number(row[i]) for row in cells) for i in range(len(columns)))
    return PageTable(title, tuple(columns), cells, right, tuple(note for note in notes if note))


def leave_out_empty(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Columns that hold text in some row, and their cells."""
    kept = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in kept], [[row[i] for i in kept] for row in rows]


def is_number(text: str) -> bool:
    try:
        float(text or "nan")
    except ValueError:
        return text == "-"
    return True


def tables_of_analysis(analysis: Analysis) -> list[PageTable]:
    """Optima and laws, group by group; without a learning-rate axis the runs themselves."""
    if analysis.figure == "curves":
        frame = analysis.runs.frame
        columns = [*analysis.runs.groups, "batch_size", "optimizer.lr", "seed", "loss", "status"]
        return [make_table("Runs", columns, ([show_cell(x) for x in row] for row in frame[columns].to_numpy(object)))]
    if analysis.figure == "groups":
        found = sorted(((answer.label, answer.optima[0]) for answer in analysis.groups), key=lambda pair: pair[1].loss)
        return [tabulate_optima("Best learning rates", "group", found, steps=is_steps(analysis.runs.frame))]
    tables = []
    for answer in analysis.groups:
        of = f": {answer.label}" if answer.label else ""
        steps = is_steps(select_group(analysis.runs.frame, answer.group))
        rows = [(str(o.batch_size), o) for o in answer.optima]
        tables.append(tabulate_optima(f"Best learning rates{of}", "batch size", rows, steps=steps))
        if not has_one_size(analysis.runs):
            tables.append(tabulate_laws(f"Laws{of}", answer))
        if answer.critical_batch:
            tables.append(tabulate_critical_batch(f"Critical batch size{of}", answer.critical_batch))
    return tables


def tabulate_optima(title: str, name: str, rows: Sequence[tuple[str, Optimum]], *, steps: bool) -> PageTable:
    cells = []
    for label, o in rows:
        interval = f"{o.low:.3g} to {o.high:.3g}" if np.isfinite(o.low) else "-"
        status = f"{o.status}, borrowed" if o.borrowed else o.status
        cells.append((label, f"{o.lr:.3g}", interval, show_objective(o.loss, steps), str(o.num_runs), status))
    by_note: dict[str, list[str]] = {}
    for label, o in rows:
        if o.note:
            by_note.setdefault(o.note, []).append(label)
    columns = (name, "best lr", "95 % interval", "steps" if steps else "loss", "runs", "status")
    return make_table(title, columns, cells, (f"{name} {', '.join(of)}: {note}" for note, of in by_note.items()))


def tabulate_laws(title: str, answer: GroupAnswer) -> PageTable:
    """A row a law, the best first; below, what was not fitted and why."""
    scores = {score.law: score for score in answer.scores}
    rows = []
    for fit in sorted((fit for fit in answer.fits if not fit.refused), key=lambda fit: fit.aicc):
        params = ", ".join(f"{name} {format_estimate(e)}" for name, e in fit.params.items())
        errors = (fit.rmse_log, scores[fit.law].left_out, scores[fit.law].extrapolated)
        shown = (f"{error:.3f}" if np.isfinite(error) else "-" for error in errors)
        law = f"{fit.law} (best)" if fit.law == answer.comparison.best else fit.law
        rows.append((law, f"{fit.aicc:.1f}", *shown, params))
    by_reason: dict[str, list[str]] = {}
    for fit in answer.fits:
        for reason in (*([f"not fitted, {fit.refused}"] if fit.refused else []), *fit.notes):
            by_reason.setdefault(reason, []).append(fit.law)
    notes = [answer.comparison.text, *(f"{', '.join(laws)}: {reason}" for reason, laws in by_reason.items())]
    notes += [describe_greedy(answer.greedy)] if answer.greedy else []
    columns = ("law", "AICc", "rmse of ln lr", "batch size left out", "larger half", "parameters [95 %]")
    return make_table(title, columns, rows, notes)


def tabulate_critical_batch(title: str, found: CriticalBatch) -> PageTable:
    rows = [
        (reading.name, reading.meaning, law, format_estimate(estimate),
         f"{reading.from_points:.3g}" if np.isfinite(reading.from_points) else "-")
        for reading in found.readings for law, estimate in reading.by_law.items()
    ]  # fmt: skip
    notes = [found.text]
    for fit in found.fits:
        params = ", ".join(f"{name} {format_estimate(e)}" for name, e in fit.params.items())
        notes.append(f"steps, {fit.law.name}: {params or 'not fitted, ' + fit.refused}")
    return make_table(title, ("definition", "meaning", "law", "B_crit [95 %]", "from the points"), rows, notes)


def tables_of_answer(answer: Answer) -> list[PageTable]:
    rows = ([show_cell(x) for x in row] for row in answer.scores.to_numpy(object))
    return [make_table("Scores", [str(name) for name in answer.scores.columns], rows, [answer.note])]


Label = Callable[[Mapping[str, object]], str]


def tabulate_verdicts(verdicts: Sequence[Verdict], label: Label = label_group) -> PageTable:
    """A row a verdict with all its numbers; the rule of each claim below."""
    rows = [
        (v.claim, label(v.group), v.verdict, show_measured(v), f"{v.numbers.get('predicted', np.nan):.3g}",
         ", ".join(f"{name} {value:.4g}" for name, value in v.numbers.items() if name != "predicted"), v.reason)
        for v in verdicts
    ]  # fmt: skip
    said = {v.claim: CLAIM_WORDS[v.claim] for v in verdicts if v.claim in CLAIM_WORDS}
    notes = [f"{claim}: {words.says} ({words.source})." for claim, words in said.items()]
    rules = dict.fromkeys((v.claim, v.rule) for v in verdicts)
    notes += [f"Rule of {claim}, fixed before the runs: {rule}." for claim, rule in rules]
    columns = ("claim", "of", "verdict", "measured [95 %] or worst (range)", "predicted", "numbers", "why")
    return make_table("Verdicts", *leave_out_empty(columns, rows), notes)


def tabulate_config(frame: pd.DataFrame) -> list[PageTable]:
    """The columns of the runs' config: what varies, with its values, and what all have in common."""
    names = [str(name) for name in frame.columns if is_config(frame, str(name))]
    varied, common = [], []
    for name in names:
        values = sorted({show_cell(x) for x in frame[name].dropna()}, key=in_order)
        if len(values) == 1 and frame[name].notna().all():
            common.append((name, values[0]))
        elif values:
            shown = ", ".join(values)
            if len(values) > MOST_VALUES:
                shown = f"{values[0]} to {values[-1]}"
            varied.append((name, str(len(values)), shown))
    return [
        make_table("What varies", ("column", "values", "which"), varied),
        make_table("What all runs have in common", ("column", "value"), common),
    ]


def is_config(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column is a run's config, and no measurement."""
    if name in ("batch_size", "seed", "optimizer.lr", "num_samples", "num_steps", "max_steps", "task.corpus_sha256"):
        return True
    if name in PATHS or name in NOT_GROUPS or name.startswith((*MEASURED_PREFIXES, "probe.", "predicted.", "check.")):
        return False
    return is_configuration(frame, name)


def in_order(text: str) -> tuple[bool, float, str]:
    """Numbers by size, then words."""
    return (False, float(text), text) if is_number(text) and text not in ("", "-") else (True, 0.0, text)


def list_provenance(frame: pd.DataFrame, sentence: str) -> list[tuple[str, str]]:
    """Where the numbers come from: the table, how many runs of which status, code and versions.

    Hosts and folders are not told.
    """
    told = [("table", hide_folders(sentence)), ("runs", describe_runs(frame))]
    for name, column in (
        ("protocol", "protocol"), ("device", "provenance.device"), ("trained by Python", "provenance.python"),
        ("torch", "provenance.torch"), ("sha256 of harness/ and conf/", "provenance.code_sha256"),
        ("sha256 of own modules", "provenance.own_code_sha256"),
    ):  # fmt: skip
        if column in frame.columns and (values := sorted({str(x) for x in frame[column].dropna()})):
            told.append((name, ", ".join(values)))
    if "provenance.ended" in frame.columns and frame["provenance.ended"].notna().any():
        ended = frame["provenance.ended"].dropna().astype(str)
        told.append(("ended", f"{ended.min()} to {ended.max()}"))
    told.append(("analysed with", ", ".join(f"{name} {version(name)}" for name in ANALYSED_WITH)))
    return told


def hide_folders(text: str) -> str:
    """A text whose absolute paths are names of files: where they lie is nobody's business who gets the page."""
    return re.sub(r"(?<![\w.~:])(?:~|[A-Za-z]:)?[/\\](?:[^\s,;]*[/\\])?(?=[^\s,;/\\])", "", text)


def describe_runs(frame: pd.DataFrame) -> str:
    runs = frame["run_id"].nunique() if "run_id" in frame.columns else len(frame)
    text = say_count(runs, "run")
    if runs != len(frame):
        return f"{text} in {say_count(len(frame), 'row')}"
    if "status" in frame.columns:
        counts = frame["status"].value_counts()
        text += f" ({', '.join(f'{count} {status}' for status, count in counts.items())})"
    return text
