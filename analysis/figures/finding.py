"""The finding below a figure's question, in one or two lines, made from the numbers that the figure shows."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from analysis.analyse import Analysis, GroupAnswer
from analysis.claims import Verdict, read_measured
from analysis.figures.style import INK, LINE, TOP, Style, count_letters, fold
from analysis.groups import label_group

LINES, SIZE = 2, 9.5  # what the heading leaves room for, and points
MOST_GROUPS = 4  # whose exponents are told one by one
LEADING = 3  # groups of lowest loss that are named
Label = Callable[[Mapping[str, object]], str]


def write_finding(fig: Figure, parts: Sequence[str], style: Style) -> None:
    """Parts of the finding below the question, as many as fit; the others stand in the sweep's JSON."""
    if not style.heading or not parts:
        return
    width, height = fig.get_size_inches()
    letters = count_letters(width, SIZE)
    shown, text = 0, ""
    for count in range(1, len(parts) + 1):
        rest = len(parts) - count
        tried = " · ".join([*parts[:count], *([f"{rest} more in the JSON"] if rest else [])])
        if fold(tried, letters).count("\n") < LINES:
            shown, text = count, fold(tried, letters)
    if not shown:  # one part alone is too long
        text = "\n".join(fold(parts[0], letters).split("\n")[:LINES]) + " …"
    lines = 1 + fig.texts[0].get_text().count("\n")
    fig.text(
        0.15 / width, 1 - (TOP + LINE * lines + 0.04) / height, text, va="top", fontsize=SIZE, color=INK,
    )  # fmt: skip


def state_finding(analysis: Analysis) -> list[str]:
    """What the groups' optima say, then every claim's verdict."""
    verdicts = [verdict for answer in analysis.groups for verdict in answer.verdicts]
    if not analysis.groups:
        return []
    alike = analysis.runs.frame["protocol"].nunique() == 1
    if analysis.figure == "groups":
        return [state_lowest(analysis.groups, 0)]
    if len(analysis.groups) > MOST_GROUPS and alike and set(analysis.groups[0].group) == {"optimizer.name"}:
        sizes = sorted({o.batch_size for answer in analysis.groups for o in answer.optima})
        return [state_lowest(analysis.groups, size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    told = [state_exponent(answer) for answer in analysis.groups]
    return [*(text for text in told if text and len(told) <= MOST_GROUPS), *state_verdicts(verdicts)]


def state_exponent(answer: GroupAnswer) -> str:
    """Exponent of the power law of a group, with its interval, and which law is best.

    Nothing of the exponent where a claim judges it, over batch sizes of its own: two intervals would confuse.
    """
    if any("exponent" in verdict.numbers for verdict in answer.verdicts):
        return f"{answer.label}{': ' * bool(answer.label)}{answer.comparison.best} fits best" * bool(
            answer.comparison.best
        )
    power = next((fit.params["exponent"] for fit in answer.fits if fit.law == "power" and not fit.refused), None)
    if power is None or not np.isfinite([power.low, power.high]).all():
        return ""
    of = f"{answer.label}: " if answer.label else ""
    best = f", {answer.comparison.best} fits best" if answer.comparison.best else ""
    return f"{of}η* ∝ B^{power.value:.2f} [{power.low:.2f}, {power.high:.2f}]{best}"


def state_lowest(answers: Sequence[GroupAnswer], batch_size: int) -> str:
    """The groups of lowest loss at a batch size, 0 for the only one there is."""
    found = [(o.loss, answer.label) for answer in answers for o in answer.optima
             if o.batch_size == (batch_size or o.batch_size) and np.isfinite(o.loss)]  # fmt: skip
    if not found:
        return ""
    names = ", ".join(f"{loss:.3g} with {label}" for loss, label in sorted(found)[:LEADING])
    worst = max(found)
    last = f", highest {worst[0]:.3g} with {worst[1]}" if len(found) > LEADING else ""
    return f"lowest loss{f' at batch size {batch_size}' if batch_size else ''}: {names}{last}"


def state_verdicts(verdicts: Sequence[Verdict], label: Label = label_group) -> list[str]:
    """A part a claim: number and verdict where it is made once, else how many of its verdicts are which."""
    parts = []
    for claim in dict.fromkeys(verdict.claim for verdict in verdicts):
        own = [verdict for verdict in verdicts if verdict.claim == claim]
        if len(own) == 1:
            of = f" ({label(own[0].group)})" if own[0].group else ""
            parts.append(f"{claim}{of} {own[0].verdict}{state_number(own[0])}")
            continue
        counts = [(sum(v.verdict == name for v in own), name) for name in ("confirmed", "refuted", "inconclusive")]
        parts.append(f"{claim} " + ", ".join(f"{count} {name}" for count, name in counts if count))
    return parts


def state_number(verdict: Verdict) -> str:
    """What was measured, with its interval, beside what was predicted; nothing where no interval is known."""
    value, low, high = read_measured(verdict)
    if not np.isfinite([value, low, high]).all():
        return ""
    return f": {value:.3g} [{low:.3g}, {high:.3g}], predicted {verdict.numbers['predicted']:.3g}"
