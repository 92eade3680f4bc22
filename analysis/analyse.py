"""From a table of runs to everything a figure or a report says: optima, fits, verdicts, and their JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from analysis.claims import Verdict, check_claims
from analysis.critical_batch import CriticalBatch, measure_critical_batch, steps_to_json
from analysis.epsilon import EpsilonAnswer, ask_epsilon, check_epsilon
from analysis.fit import Comparison, Fit, compare, fit_laws
from analysis.greedy import Greedy, check_greedy, greedy_to_json, measure_greedy
from analysis.groups import key_group, label_group, read_constant, select_group
from analysis.horizons import check_horizons
from analysis.momentum import check_momentum
from analysis.objectives import describe_target, is_steps, objective_to_json
from analysis.optimum import Optimum, find_optima
from analysis.runs import Runs, tidy_runs
from analysis.score import Score, score_fits
from analysis.seed_noise import SeedNoise, describe_borrowed
from harness.config import say_count


@dataclass(frozen=True)
class GroupAnswer:
    """What the runs of one group say; critical_batch only of runs that are compared by their steps to a target.

    greedy: where these are SGD's on the noisy quadratic, what they would be at the greedy learning rate of every step.
    """

    group: Mapping[str, object]
    optima: tuple[Optimum, ...]
    fits: tuple[Fit, ...]
    comparison: Comparison
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...] = ()
    critical_batch: CriticalBatch | None = None
    greedy: Greedy | None = None

    @property
    def label(self) -> str:
        """Short text that tells the group apart; empty where there is one group only."""
        return label_group(self.group)


@dataclass(frozen=True)
class Analysis:
    """What the runs of one sweep say.

    Attributes:
        figure: optimum; eps where all groups ask about epsilon; groups where these differ at one batch size, which says
            nothing of laws; or curves where the runs have fewer than 3 learning rates.
        caption: protocol, number of runs and seeds, model, task, in a line.
        epsilon: what groups that differ in epsilon alone say together.
    """

    sweep: str
    question: str
    runs: Runs
    groups: tuple[GroupAnswer, ...]
    figure: str
    caption: str
    epsilon: tuple[EpsilonAnswer, ...] = ()


def analyse_runs(
    sweep: str,
    frame: pd.DataFrame,
    question: str = "",
    source: str = "",
    *,
    robust: bool = False,
    borrowed: SeedNoise | None = None,
) -> Analysis:
    """Optima, fits and verdicts of a table of runs, group by group.

    A table with fewer than 3 learning rates at every batch size has no optimum: with histories its learning
    curves can be drawn, without them it is a mistake. `robust` laws do not follow a single wild cell (fit.py); claims
    stay those of plain least squares. Cells with one seed take the noise that is `borrowed`, and the notes say so.
    """
    runs = tidy_runs(frame, source or sweep)
    question = question or sweep
    per_cell = runs.frame.groupby([*runs.groups, "batch_size"], dropna=False)["optimizer.lr"].nunique()
    if per_cell.max() < 3 and {"history.loss", "history.num_samples"} <= set(runs.frame.columns):
        return Analysis(sweep, question, runs, (), "curves", write_caption(runs))
    by_group: dict[str, list[Optimum]] = {}
    found = find_optima(runs, borrowed)
    if borrowed:
        runs = replace(runs, notes=(*runs.notes, describe_borrowed(borrowed, sum(bool(o.borrowed) for o in found))))
    for optimum in found:
        by_group.setdefault(key_group(optimum.group), []).append(optimum)
    answers = []
    for optima in by_group.values():
        fits = tuple(fit_laws(optima, robust=robust))
        verdicts = tuple(check_claims(runs, optima))
        scores = score_fits(fits, optima, robust=robust)
        rows = select_group(runs.frame, optima[0].group)
        critical = measure_critical_batch(optima) if is_steps(rows) else None
        greedy = measure_greedy(rows)
        verdicts += (check_greedy(greedy, optima[0].group),) if greedy else ()
        answers.append(
            GroupAnswer(optima[0].group, tuple(optima), fits, compare(fits), verdicts, scores, critical, greedy)
        )
    # as all claims, on plain fits: a robust one has no chi^2 to judge its misfit by
    plain = [(answer.group, fit_laws(answer.optima) if robust else answer.fits) for answer in answers]
    optima_of = [answer.optima for answer in answers]
    epsilon = tuple(check_epsilon(runs, optima_of))
    across = (
        *check_horizons(plain, runs.protocol), *check_momentum(runs, optima_of), *(each.verdict for each in epsilon),
    )  # fmt: skip
    if across:
        answers[-1] = replace(answers[-1], verdicts=answers[-1].verdicts + across)
    caption = write_caption(runs) + (f" · seed variance borrowed from {borrowed.source}" if borrowed else "")
    comparable = len(answers) > 1 and has_one_size(runs) and runs.frame["protocol"].nunique() == 1
    asked = "eps" if ask_epsilon([answer.group for answer in answers], epsilon) else "optimum"
    return Analysis(sweep, question, runs, tuple(answers), "groups" if comparable else asked, caption, epsilon)


def has_one_size(runs: Runs) -> bool:
    """Whether all runs have the same batch size: then no law of it can be fitted, nor a claim judged."""
    return runs.frame["batch_size"].nunique() == 1


def caption_groups(analysis: Analysis, answers: Sequence[GroupAnswer]) -> str:
    """The caption of a figure of these groups only, from their own runs."""
    frame = pd.concat([select_group(analysis.runs.frame, answer.group) for answer in answers])
    protocol = ", ".join(sorted(str(value) for value in frame["protocol"].unique()))
    sources = sorted({o.borrowed for answer in answers for o in answer.optima if o.borrowed})
    borrowed = f" · seed variance borrowed from {', '.join(sources)}" if sources else ""
    return write_caption(replace(analysis.runs, frame=frame, protocol=protocol)) + borrowed


def write_caption(runs: Runs) -> str:
    """Protocol, amount of data, number of runs and seeds, model, task and optimizer, in one line."""
    frame = runs.frame
    seeds = frame["seed"].nunique()
    parts = [f"protocol {runs.protocol}"]
    if is_steps(frame):
        parts += describe_target(frame)
    for column in () if is_steps(frame) else ("num_samples", "num_steps"):
        if (value := read_constant(frame, column)) is not None:
            parts.append(f"{int(float(str(value))):,} {column[4:]}")
    parts.append(f"{say_count(len(frame), 'run')}, {say_count(seeds, 'seed')}")
    diverged = int((frame["status"] == "diverged").sum())
    if diverged:
        parts.append(f"{diverged} diverged")
    for column in ("model.name", "task.name", "optimizer.name", "schedule.name"):
        if (value := read_constant(frame, column)) is not None:
            parts.append(f"{column.split('.')[0]} {value}")
    return " · ".join(parts)


def to_json(analysis: Analysis) -> dict[str, object]:
    """The content of NAME.json. Numbers have 9 digits; what is not known is null."""
    groups = analysis.groups
    best = {answer.comparison.best for answer in groups}
    content = {
        "sweep": analysis.sweep,
        "protocol": analysis.runs.protocol,
        "optima": [optimum_to_json(optimum, analysis.runs.protocol) for answer in groups for optimum in answer.optima],
        "fits": [
            fit_to_json(fit, score)
            for answer in groups
            for fit, score in zip((fit for fit in answer.fits if not fit.refused), answer.scores, strict=True)
        ]
        + [
            entry
            for answer in groups
            if answer.critical_batch
            for entry in (add_group(fields, answer.group) for fields in steps_to_json(answer.critical_batch))
        ],
        "best_law": next(iter(best)) or None if len(best) == 1 else None,
        "verdicts": [verdict_to_json(verdict) for answer in groups for verdict in answer.verdicts],
        "question": analysis.question,
        "figure": analysis.figure,
        "caption": analysis.caption,
        "groups": [
            {
                "group": dict(answer.group),
                "best_law": answer.comparison.best or None,
                "not_separable": list(answer.comparison.not_separable),
                "comparison": answer.comparison.text,
                "left_out": list(answer.fits[0].left_out),
                "refused": {fit.law: fit.refused for fit in answer.fits if fit.refused},
            }
            for answer in groups
        ],
        "notes": list(analysis.runs.notes),
        **({"epsilon": [each.to_json() for each in analysis.epsilon]} if analysis.epsilon else {}),
    }
    if greedy := [add_group(greedy_to_json(each.greedy), each.group) for each in groups if each.greedy]:
        content["greedy"] = greedy
    cleaned = clean(content)
    assert isinstance(cleaned, dict)
    return cleaned


def optimum_to_json(optimum: Optimum, protocol: str) -> dict[str, object]:
    """One optimum, with its group columns beside the fields."""
    fields: dict[str, object] = {
        "batch_size": optimum.batch_size, "lr": optimum.lr, "low": optimum.low, "high": optimum.high,
        "status": optimum.status, "num_runs": optimum.num_runs,
        **objective_to_json(optimum.loss, optimum.group, protocol), "sd_log2": optimum.sd_log2, "note": optimum.note,
        **({"borrowed": optimum.borrowed} if optimum.borrowed else {}),
    }  # fmt: skip
    return add_group(fields, optimum.group)


def add_group(fields: dict[str, object], group: Mapping[str, object]) -> dict[str, object]:
    """A group's columns beside the fields; one that has a field's name and says something else is group.NAME."""
    return fields | {f"group.{k}" if fields.get(k, value) != value else k: value for k, value in group.items()}


def fit_to_json(fit: Fit, score: Score) -> dict[str, object]:
    """One fit, with its group columns beside the fields."""
    params = {name: {"value": e.value, "low": e.low, "high": e.high} for name, e in fit.params.items()}
    fields: dict[str, object] = {
        "law": fit.law, "params": params, "aicc": fit.aicc, "aic": fit.aic, "rmse_log": fit.rmse_log, "chi2": fit.chi2,
        "left_out": score.left_out, "extrapolated": score.extrapolated, "drift": score.drift,
        "notes": list(fit.notes),
    }  # fmt: skip
    return add_group(fields, fit.group)


def verdict_to_json(verdict: Verdict) -> dict[str, object]:
    """One verdict, with its group columns beside the fields."""
    fields: dict[str, object] = {
        "claim": verdict.claim, "protocol": verdict.protocol, "verdict": verdict.verdict,
        "numbers": dict(verdict.numbers), "spread": verdict.spread, "rule": verdict.rule, "reason": verdict.reason,
    }  # fmt: skip
    return add_group(fields, verdict.group)


def clean(value: object) -> object:
    """Plain JSON values: 9 digits for floats, null for what is not finite, numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {str(key): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value
