"""The best learning rate at a batch size never run: `python -m analysis.recommend --runs TABLE batch_size=2048`.

The best law of the runs and every law that they cannot tell from it predict; the interval is the union of theirs. A
law's own interval comes from refits to optima drawn with their errors and covariance.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from scipy import stats

from analysis.analyse import GroupAnswer, analyse_runs
from analysis.borrow import BORROW, borrow_noise
from analysis.figures.style import short_number
from analysis.fit import Fit, fit_law
from analysis.groups import label_group, select_group
from analysis.laws import LAWS
from analysis.next_runs import propose_runs
from analysis.objectives import is_steps
from analysis.optimum import Optimum, covariance_of
from analysis.runs import LARGEST_WHOLE
from analysis.score import start_at
from analysis.tables import parse_columns, read_source, rename_columns
from harness.checks import closest, read_number
from harness.config import say_count

DRAWS = 100
SHOWN, MIN_GAIN = 4, 0.005  # next runs that are printed, and what they must take off the half-width, octaves
RULES = {"linear": 1.0, "square-root": 0.5}


@dataclass(frozen=True)
class Advice:
    """What to run at a batch size.

    Attributes:
        lr, low, high: prediction of the best law, and the union of the 95 % intervals of all that compete.
        laws: (name, lr, low, high) of each, the best first.
        beyond: batch size over the nearest one that was located; 1 and less inside the range.
        nearest: the optimum of that batch size.
        rules: rule -> (learning rate that it gives from there, loss that it costs above the predicted optimum).
    """

    batch_size: int
    lr: float
    low: float
    high: float
    laws: tuple[tuple[str, float, float, float], ...]
    beyond: float
    nearest: Optimum
    rules: dict[str, tuple[float, float]]


def advise_lr(answer: GroupAnswer, batch_size: int, *, rng: np.random.Generator | None = None) -> Advice:
    """Predict the best learning rate of one group.

        excess loss of a rule = curvature / 2 (log2 lr_rule - log2 lr)^2, with the curvature of the nearest cell

    Raises: ValueError where no law could be fitted or the cells have no error.
    Valid when: the law holds out to the batch size; nothing in the runs can tell that.
    Source: the laws' own; parametric bootstrap, e.g. Efron and Tibshirani, An Introduction to the Bootstrap, chapter 6.
    """
    located = [o for o in answer.optima if o.status == "interior" and np.isfinite(o.sd_log2)]
    if not answer.comparison.best or not located:
        raise ValueError(
            f"no law to go by: {answer.comparison.text or 'one seed gives no errors'}; run more of the sweep, or with "
            "one seed --borrow another's noise"
        )
    rng = rng or np.random.default_rng(0)
    fits = {fit.law: fit for fit in answer.fits if not fit.refused}
    names = [answer.comparison.best, *answer.comparison.not_separable]
    laws = tuple(
        predict(fits[name], answer.optima, batch_size, rng)
        for name in track(names, description="refitting", transient=True, console=Console(stderr=True))
    )
    nearest = min(located, key=lambda o: abs(np.log(o.batch_size / batch_size)))
    factor = batch_size / nearest.batch_size
    rules = {}
    for rule, power in RULES.items():
        lr = nearest.lr * factor**power
        rules[rule] = (lr, nearest.curvature / 2 * float(np.log2(lr / laws[0][1])) ** 2)
    largest, smallest = max(o.batch_size for o in located), min(o.batch_size for o in located)
    beyond = max(batch_size / largest, smallest / batch_size)
    low, high = min(law[2] for law in laws), max(law[3] for law in laws)
    return Advice(batch_size, laws[0][1], low, high, laws, beyond, nearest, rules)


def predict(
    fit: Fit, optima: Sequence[Optimum], batch_size: int, rng: np.random.Generator
) -> tuple[str, float, float, float]:
    """A law's learning rate at a batch size, with a 95 % interval."""
    law = start_at(LAWS[fit.law], fit)
    used = [o for o in optima if o.batch_size in fit.residuals]
    rest = [o for o in optima if o.batch_size not in fit.residuals]
    found = []
    for shifts in rng.multivariate_normal(np.zeros(len(used)), covariance_of(used), DRAWS, check_valid="ignore"):
        drawn = [replace(o, lr=o.lr * 2**shift) for o, shift in zip(used, shifts, strict=True)]
        values = {name: estimate.value for name, estimate in fit_law(law, [*drawn, *rest]).params.items()}
        found.append(float(np.log(law.predict(np.array([float(batch_size)]), **values)[0])))
    values = {name: estimate.value for name, estimate in fit.params.items()}
    middle = float(np.log(law.predict(np.array([float(batch_size)]), **values)[0]))
    widen = float(stats.t.ppf(0.975, min(o.dof for o in used))) * max(1.0, (fit.chi2 / fit.dof) ** 0.5)
    half = widen * float(np.std(found))
    return fit.law, float(np.exp(middle)), float(np.exp(middle - half)), float(np.exp(middle + half))


def print_advice(answer: GroupAnswer, advice: Advice, rows: pd.DataFrame, console: Console) -> None:
    if label_group(answer.group):
        console.print(f"\n[bold cyan]{label_group(answer.group)}[/bold cyan]")
    console.print(
        f"batch size {advice.batch_size}: lr [bold]{advice.lr:.3g}[/bold], "
        f"95 % interval {advice.low:.3g} .. {advice.high:.3g}"
    )
    for name, lr, low, high in advice.laws:
        console.print(f"  {name} says {lr:.3g} [{low:.3g}, {high:.3g}]", highlight=False, markup=False)
    if advice.beyond > 1:
        console.print(
            f"  {advice.beyond:.3g} times beyond what was run: no run tells whether the law holds out to there"
        )
    for rule, (lr, excess) in advice.rules.items():
        # the objective of a target is ln steps, and a difference of logarithms a factor
        cost = f"steps x {np.exp(min(excess, 99.0)):.3g}" if is_steps(rows) else f"loss + {excess:.2g}"
        console.print(f"  the {rule} rule from batch size {advice.nearest.batch_size} gives {lr:.3g}, {cost}")
    halves = {name: float(np.log(high / low)) / 2 for name, _, low, high in advice.laws}
    if not any(len(o.shifts) > 1 for o in answer.optima):  # its noise is borrowed: nothing of its own to go by
        console.print("  next runs: a second seed of every run, so that this table's own noise is known")
        return
    now, candidates = propose_runs(answer, rows, advice.batch_size, halves)
    console.print(f"  runs that would narrow it most for what they cost, from +- {now:.2f} octave:")
    for runs in [runs for runs in candidates if runs.half < now - MIN_GAIN][:SHOWN] or candidates[:1]:
        cost = say_count(runs.num_runs, "run") + (
            f", {short_number(runs.cost)} samples" if np.isfinite(runs.cost) else ""
        )
        console.print(f"    {runs.text}: {cost} -> +- {runs.half:.2f}", highlight=False, markup=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0, or 2 after one line on stderr for a mistake of the user's."""
    parser = argparse.ArgumentParser(prog="python -m analysis.recommend", description=__doc__.split(":")[0])
    parser.add_argument(
        "--runs",
        default="lr_vs_bs",
        help="folder of records, csv, parquet, wandb:ENTITY/PROJECT, a committed sweep",
    )
    parser.add_argument("--columns", default="", help="OURS=THEIRS,... for foreign column names")
    parser.add_argument("--borrow", default="", metavar="SOURCE", help=BORROW)
    parser.add_argument(
        "settings", nargs="+", help="batch_size=2048, and values that choose a group: num_samples=131072"
    )
    options = parser.parse_args(arguments)
    try:
        settings = dict(text.partition("=")[::2] for text in options.settings)
        wrong = next(
            (name for name in settings if "batch_size" not in settings and closest(name, ["batch_size"])), None
        )
        if wrong:
            raise ValueError(f"{wrong!r} is no setting (did you mean batch_size?): e.g. batch_size=2048")
        if not settings.get("batch_size", "").isdecimal() or int(settings["batch_size"][:20]) < 1:
            raise ValueError(
                f"batch_size={settings.pop('batch_size', '')!r} is no whole number above zero: e.g. batch_size=2048"
            )
        if len(settings["batch_size"]) > len(str(LARGEST_WHOLE)) or int(settings["batch_size"]) > LARGEST_WHOLE:
            raise ValueError(f"batch_size is larger than {LARGEST_WHOLE:.1g}, which no run has: e.g. batch_size=2048")
        batch_size = int(settings.pop("batch_size"))
        frame, sentence = read_source(options.runs)
        print(sentence)
        columns = parse_columns(options.columns) if options.columns else {}
        frame = rename_columns(frame, columns, options.runs)
        for column, text in settings.items():
            if column not in frame:
                near = closest(column, frame.columns)
                raise ValueError(
                    f"{column!r} is no column of {options.runs}{near}: give one of {', '.join(frame.columns[:12])}"
                )
            same = frame[column] == (read_number(column, text) if frame[column].dtype.kind in "if" else text)
            if not same.any():
                raise ValueError(
                    f"{column}={text} has no runs: there are {sorted(frame[column].unique().tolist())[:8]}"
                )
            frame = frame[same]
        console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
        borrowed = borrow_noise(options.borrow, columns, frame) if options.borrow else None
        analysis = analyse_runs(Path(options.runs).stem, frame, borrowed=borrowed)
        for note in analysis.runs.notes:
            console.print(f"note: {escape(note)}", style="yellow")
        refused = []
        for answer in analysis.groups:
            rows = select_group(analysis.runs.frame, answer.group)
            try:
                print_advice(answer, advise_lr(answer, batch_size), rows, console)
            except ValueError as error:
                refused.append(f"{answer.label}: {error}" if answer.label else str(error))
        if len(refused) == len(analysis.groups):
            raise ValueError("; ".join(refused[:3]) + ("; ..." if len(refused) > 3 else ""))
        for text in refused:
            console.print(f"\n[yellow]{escape(text)}[/yellow]")
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
