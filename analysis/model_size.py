"""Laws in model and data size from a table of runs: `python -m analysis.model_size --runs TABLE [COLUMN=VALUE ...]`.

A cell is one (num_params, num_samples, batch_size). Its optimum is that of every sweep (optimum.py), with the variance
over seeds pooled over all cells. Fitted are
    loss = E + A/N^alpha + B/D^beta and lr = c N^a D^b    to the batch size of lowest loss of every (N, D),
    lr = c N^a D^b B^p                                    to all cells, where the batch size varies.
The lowest of several batch sizes is biased low by less than its own error. Each law is scored by every model size left
out, and by the largest one predicted from all smaller ones.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from analysis.analyse import clean
from analysis.fit import Estimate
from analysis.fit_points import PointFit, Points, fit_points, predict_point
from analysis.laws.sizes import POINT_LAWS, PointLaw
from analysis.minima import pool_rates, pool_values
from analysis.optimum import Optimum
from analysis.report import format_estimate
from analysis.runs import tidy_runs
from analysis.size_cells import find_size_optima, sizes_of
from analysis.tables import parse_columns, read_source, rename_columns

MISFIT = 3.0  # chi2 per degree of freedom from which on a law is said to misfit


@dataclass(frozen=True)
class SizeAnswer:
    """One law of model and data size and how it predicts.

    Attributes:
        left_out: root mean square of ln(measured / law) at each model size left out; NaN where the rest bear no law.
        largest: for every point of the largest model: its variables, measured, and predicted from smaller models.
    """

    fit: PointFit
    left_out: float
    largest: tuple[tuple[tuple[float, ...], float, Estimate], ...]


def analyse_sizes(
    frame: pd.DataFrame, source: str = "the table", *, robust: bool = False, notes: list[str] | None = None
) -> list[SizeAnswer]:
    """Fit and score the laws of model and data size; `notes` is given what was left out or assumed.

    Raises: ValueError where sizes are missing or another column varies, or no cell has an optimum.
    """
    notes = [] if notes is None else notes
    runs = tidy_runs(frame, source)
    notes += runs.notes
    optima = find_size_optima(runs, source, notes)
    best: dict[tuple[float, ...], Optimum] = {}
    for o in optima:
        kept = best.setdefault(sizes_of(o), o)
        best[sizes_of(o)] = min(kept, o, key=lambda each: each.loss)
    lowest = list(best.values())
    tasks = [("loss_power", loss_points(lowest)), ("lr_power", lr_points(lowest, "lr_power"))]
    if len({o.batch_size for o in optima}) > 1:
        tasks.append(("lr_power_batch", lr_points(optima, "lr_power_batch")))
    console = Console(stderr=True)
    steps = track(tasks, description="fitting", transient=True, console=console)
    return [score_sizes(POINT_LAWS[name], points, robust) for name, points in steps]


def loss_points(optima: Sequence[Optimum]) -> Points:
    """Loss at the optimum of every (N, D), with its error over seeds; none is known with one seed."""
    x, loss = np.array([sizes_of(o) for o in optima]).T, np.array([o.loss for o in optima])
    return Points(x, loss, *pool_values(optima, log=False))


def lr_points(optima: Sequence[Optimum], law: str) -> Points:
    """Optimum learning rate of every cell that its interval locates inside the grid."""
    located = [o for o in optima if o.status == "interior"]
    rows = [(*sizes_of(o), float(o.batch_size))[: len(POINT_LAWS[law].variables)] for o in located]
    x = np.array(rows).reshape(len(rows), -1).T if rows else np.empty((len(POINT_LAWS[law].variables), 0))
    lr = np.array([o.lr for o in located])
    if not located or len(located[0].seeds) < 2:
        return Points(x, lr, np.ones(len(lr)), np.eye(len(lr)), np.nan)
    sd = np.array([o.sd_log2 for o in located]) * np.log(2)
    return Points(x, lr, sd, pool_rates(located), min(o.dof for o in located))


def score_sizes(law: PointLaw, points: Points, robust: bool) -> SizeAnswer:
    """Fit a law and score it by model size."""
    fit = fit_points(law, points, robust=robust)
    if fit.refused:
        return SizeAnswer(fit, np.nan, ())
    n = points.x[0]
    missed: list[float] = []
    largest: tuple[tuple[tuple[float, ...], float, Estimate], ...] = ()
    for size in np.unique(n):
        rest, gone = fit_points(law, points.select(n != size), robust=robust), points.select(n == size)
        if rest.refused:
            missed += [np.nan] * len(gone.y)
            continue
        predicted = predict_point(rest, gone.x)
        missed += [float(np.log(y / e.value)) for y, e in zip(gone.y, predicted, strict=True)]
        if size == n.max():
            largest = tuple(zip(map(tuple, gone.x.T.tolist()), gone.y.tolist(), predicted, strict=True))
    return SizeAnswer(fit, float(np.sqrt(np.mean(np.square(missed)))), largest)


def print_sizes(answers: Sequence[SizeAnswer], console: Console) -> None:
    """Parameters with intervals, scores, and the largest model as predicted from the smaller ones."""
    for answer in answers:
        fit = answer.fit
        if fit.refused:
            console.print(f"\n{fit.law.name}: not fitted, {fit.refused}", markup=False)
            continue
        console.print(f"\n{fit.law.response} = {fit.law.equation}, {len(fit.residuals)} points", markup=False)
        for name, estimate in fit.params.items():
            console.print(f"  {name} {format_estimate(estimate)}", markup=False)
        chi2 = f"chi2 {fit.chi2:.3g} for {len(fit.residuals) - len(fit.params)} degrees of freedom, "
        console.print(
            f"  {chi2 if np.isfinite(fit.chi2) else ''}AIC {fit.aic:.1f}, AICc {fit.aicc:.1f}, rmse of ln "
            f"{fit.rmse_log:.4f}, a model size left out {answer.left_out:.4f}"
        )
        if text := describe_misfit(answer, answers):
            console.print(f"  {text}", style="yellow", markup=False)
        for x, y, e in answer.largest:
            at = ", ".join(f"{name} {value:.4g}" for name, value in zip(fit.law.variables, x, strict=True))
            error = f"ln(measured / predicted) {np.log(y / e.value):+.4f}"
            said = f"{e.value:.4g} [{e.low:.4g}, {e.high:.4g}]"
            console.print(
                f"  from smaller models, {at}: {said}, measured {y:.4g}, {error}", markup=False, soft_wrap=True
            )


def describe_misfit(answer: SizeAnswer, answers: Sequence[SizeAnswer]) -> str:
    """A warning where a law misses by more than the errors of its points explain, and the law that fits better."""
    now = misfit(answer)
    if not now > MISFIT:
        return ""
    same = [a for a in answers if a.fit.law.response == answer.fit.law.response and misfit(a) < now]
    best = min(same, key=misfit, default=None)
    rest = f"{best.fit.law.name} fits better ({misfit(best):.3g})" if best else "no law here fits better"
    return f"misfits: chi2 is {now:.3g} per degree of freedom, and 1 is expected; {rest}"


def misfit(answer: SizeAnswer) -> float:
    """chi2 per degree of freedom; NaN where a law was not fitted or no error is known."""
    dof = len(answer.fit.residuals) - len(answer.fit.params)
    return answer.fit.chi2 / dof if not answer.fit.refused and dof > 0 else np.nan


def sizes_to_json(answers: Sequence[SizeAnswer]) -> object:
    """Everything that print_sizes shows, as plain values."""
    return clean([
        {
            "law": a.fit.law.name, "refused": a.fit.refused, "chi2": a.fit.chi2, "aic": a.fit.aic, "aicc": a.fit.aicc,
            "rmse_log": a.fit.rmse_log, "left_out": a.left_out,
            "params": {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in a.fit.params.items()},
            "largest": [
                {**dict(zip(a.fit.law.variables, x, strict=True)), "measured": y, "predicted": e.value, "low": e.low,
                 "high": e.high} for x, y, e in a.largest
            ],
        }
        for a in answers
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line on stderr for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m analysis.model_size", description=__doc__.split(":")[0])
    parser.add_argument(
        "--runs", required=True, help="folder of records, csv, parquet, wandb:ENTITY/PROJECT, a committed sweep"
    )
    parser.add_argument("--columns", default="", help="OURS=THEIRS,... for foreign column names")
    parser.add_argument("--robust", action="store_true", help="let no single cell pull the fit far")
    parser.add_argument("--out", type=Path, help="also write what is printed to this file, as JSON")
    parser.add_argument("settings", nargs="*", help="COLUMN=VALUE: only runs with it")
    options = parser.parse_args(arguments)
    try:
        frame, sentence = read_source(options.runs)
        print(sentence)
        frame = rename_columns(frame, parse_columns(options.columns) if options.columns else {}, options.runs)
        for setting in options.settings:
            column, _, text = setting.partition("=")
            if column not in frame:
                raise ValueError(f"{column!r} is no column of {options.runs}: give one of {', '.join(frame.columns)}")
            kept = frame[frame[column].astype(str) == text]
            if kept.empty:
                raise ValueError(f"{setting} has no runs: there are {sorted(frame[column].astype(str).unique())[:8]}")
            frame = kept
        notes: list[str] = []
        answers = analyse_sizes(frame, options.runs, robust=options.robust, notes=notes)
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        for note in notes:
            console.print(f"note: {note}", style="yellow", markup=False)
        print_sizes(answers, console)
        if options.out:
            content = json.dumps(sizes_to_json(answers), indent=1, allow_nan=False)
            options.out.write_text(content + "\n", encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
