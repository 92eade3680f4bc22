"""The report on the terminal: optima with intervals, laws, verdicts, and what to do about edges."""

import sys
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from analysis.analyse import Analysis, GroupAnswer, has_one_size
from analysis.claims import CLAIMS, COLOURS, Verdict
from analysis.critical_batch import CriticalBatch
from analysis.fit import Estimate
from analysis.greedy import describe_greedy
from analysis.groups import select_group
from analysis.objectives import TARGET, is_steps, show_objective
from analysis.optimum import Optimum

UNKNOWN = (
    ": give the table a column protocol (fixed_samples, fixed_steps or steps_to_target), "
    "or name the one it has by --columns protocol=COLUMN"
)

# There the steps together must cover a distance, steps * lr * mean update, and the mean update of a sign-like optimizer
# grows as the root of the batch size while noise rules: the optimum falls as the root, with no surge at all
NO_SURGE = (
    "surge is best, and no evidence of a surge: at a fixed number of steps a falling optimum needs none "
    "(protocol=fixed_samples can tell)"
)


def print_report(analysis: Analysis, console: Console | None = None) -> None:
    """Print what the runs say, group by group."""
    console = console or Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    console.print(f"\n[bold]{escape(analysis.question)}[/bold]")
    console.print(escape(analysis.caption), style="dim")
    for note in analysis.runs.notes:
        console.print(f"note: {escape(note)}", style="yellow")
    if analysis.figure == "curves":
        print_losses(analysis, console)
    elif has_one_size(analysis.runs):
        console.print("laws and claims need more than one batch size: add some, e.g. sweep.grid.batch_size=[16,32,64]")
    if analysis.figure == "groups":
        print_groups(analysis, console)
        return
    told: set[str] = set()  # rules, once each
    for answer in analysis.groups:
        rows = select_group(analysis.runs.frame, answer.group)
        if answer.label:
            console.print(f"\n[bold cyan]{escape(answer.label)}[/bold cyan]")
        console.print(
            build_optima_table("batch size", [(str(o.batch_size), o) for o in answer.optima], steps=is_steps(rows))
        )
        print_edges(answer, console)
        if has_one_size(analysis.runs):
            continue
        if any(not fit.refused for fit in answer.fits):
            console.print(build_laws_table(answer))
        print_refusals(answer, console)
        if answer.comparison.best:
            console.print(f"law: {escape(answer.comparison.text)}")
            if answer.comparison.best == "surge" and (rows["protocol"] == "fixed_steps").all():
                console.print(NO_SURGE, style="yellow")
        if answer.critical_batch:
            print_critical_batch(answer.critical_batch, console)
        if answer.greedy:
            console.print(describe_greedy(answer.greedy))
        for verdict in answer.verdicts:
            print_verdict(verdict, console)
            if verdict.rule not in told:
                console.print(f"  rule: {escape(verdict.rule)}", style="dim")
            told.add(verdict.rule)
        if not answer.verdicts:
            text = f"no claim speaks about these runs ({', '.join(CLAIMS)} does not)"
            cure = UNKNOWN if analysis.runs.protocol == "unknown" else ""
            console.print(f"{text} under protocol {analysis.runs.protocol}{cure}", style="dim")


def build_optima_table(name: str, rows: Sequence[tuple[str, Optimum]], *, steps: bool) -> Table:
    """A row an optimum. `steps`: the runs are compared by their steps to a target, and not by their loss."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (name, "best lr", "95 % interval", "steps" if steps else "loss", "runs"):
        table.add_column(column, justify="right")
    table.add_column("status")
    for label, o in rows:
        interval = f"{o.low:.3g} .. {o.high:.3g}" if np.isfinite(o.low) else "-"
        style = "" if o.status == "interior" else "yellow"
        status = f"{o.status}, borrowed" if o.borrowed else o.status
        loss = show_objective(o.loss, steps)
        table.add_row(label, f"{o.lr:.3g}", interval, loss, str(o.num_runs), status, style=style)
    return table


def print_groups(analysis: Analysis, console: Console) -> None:
    """Groups at one batch size, that of lowest loss first."""
    rows = sorted(((escape(answer.label), answer.optima[0]) for answer in analysis.groups), key=lambda row: row[1].loss)
    console.print(build_optima_table("group", rows, steps=is_steps(analysis.runs.frame)))
    for label, o in rows:
        if o.note:
            console.print(f"{label}: {escape(o.note)}", style="yellow")


def print_edges(answer: GroupAnswer, console: Console) -> None:
    """What to know or do about single cells; a remark that several share is printed once."""
    by_note: dict[str, list[str]] = {}
    for o in answer.optima:
        if o.note:
            by_note.setdefault(o.note, []).append(str(o.batch_size))
    for note, batch_sizes in by_note.items():
        console.print(f"batch size {', '.join(batch_sizes)}: {escape(note)}", style="yellow")


def build_laws_table(answer: GroupAnswer) -> Table:
    """One row a law, the best first, with its misfit and how it predicts a batch size left out and the larger half."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("law")
    table.add_column("AICc", justify="right")
    for column in ("rmse ln lr", "left out", "larger half"):
        table.add_column(column, justify="right")
    table.add_column("parameters, 95 % interval")
    scores = {score.law: score for score in answer.scores}
    for fit in sorted((fit for fit in answer.fits if not fit.refused), key=lambda fit: fit.aicc):
        params = ", ".join(f"{name} {format_estimate(e)}" for name, e in fit.params.items())
        style = "bold" if fit.law == answer.comparison.best else ""
        errors = (fit.rmse_log, scores[fit.law].left_out, scores[fit.law].extrapolated)
        shown = (f"{error:.3f}" if np.isfinite(error) else "-" for error in errors)
        table.add_row(fit.law, f"{fit.aicc:.1f}", *shown, escape(params), style=style)
    return table


def print_refusals(answer: GroupAnswer, console: Console) -> None:
    """Laws that were not fitted and parameters that the data do not set, a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for fit in answer.fits:
        for reason in (*([f"not fitted, {fit.refused}"] if fit.refused else []), *fit.notes):
            by_reason.setdefault(reason, []).append(fit.law)
    for reason, laws in by_reason.items():
        console.print(f"{', '.join(laws)}: {escape(reason)}", style="dim")


def format_estimate(estimate: Estimate) -> str:
    """Value and interval; one that spans more than a factor 1e4 says nothing and is called unbounded."""
    bounded = np.isfinite(estimate.low) and np.isfinite(estimate.high)
    if bounded and estimate.low > 0 and estimate.high / estimate.low > 1e4:
        bounded = False
    if not bounded or (estimate.low == 0.0 and estimate.value > 0):
        return f"{estimate.value:.3g} (unbounded)"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"


def print_critical_batch(found: CriticalBatch, console: Console) -> None:
    """The laws of steps against batch size, and the critical batch size by each definition."""
    for fit in found.fits:
        text = ", ".join(f"{name} {format_estimate(e)}" for name, e in fit.params.items())
        text += f", AICc {fit.aicc:.1f}, rmse of ln steps {fit.rmse_log:.3f}" if fit.params else ""
        console.print(f"steps: {fit.law.name} {escape(text or 'not fitted, ' + fit.refused)}")
    for reading in found.readings:
        said = [f"{law} {format_estimate(e)}" for law, e in reading.by_law.items()]
        said.append(f"from the points {reading.from_points:.3g}" if np.isfinite(reading.from_points) else "")
        line = ", ".join(text for text in said if text)
        console.print(f"B_crit as {reading.name} ({reading.meaning}): {escape(line)}", soft_wrap=True)
    if found.text:
        console.print(f"steps: {escape(found.text)}")


def print_verdict(verdict: Verdict, console: Console) -> None:
    """Claim, verdict and numbers."""
    colour = COLOURS[verdict.verdict]
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in verdict.numbers.items())
    reason = f" ({verdict.reason})" if verdict.reason else ""
    console.print(
        f"claim {verdict.claim} under {verdict.protocol}: "
        f"[bold {colour}]{verdict.verdict}[/bold {colour}]{escape(reason)}"
    )
    console.print(f"  {escape(numbers)}")


def print_losses(analysis: Analysis, console: Console) -> None:
    """Final losses of runs that have no learning-rate axis."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [*analysis.runs.groups, "batch_size", "optimizer.lr", "seed", "loss", "status"]
    columns += [TARGET] if TARGET in analysis.runs.frame.columns and is_steps(analysis.runs.frame) else []
    for column in columns:
        table.add_column(column, justify="right")
    for row in analysis.runs.frame[columns].itertuples(index=False):
        table.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row))
    console.print(table)
