"""Oracle: the verdicts and fits of planted tables, told in words, and matplotlib's own boxes."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse_runs
from analysis.claims import Verdict
from analysis.figures import FIGURES, choose_figure
from analysis.figures.finding import LINES, state_finding, state_verdicts, write_finding
from analysis.figures.optimizers import draw_optimizers
from analysis.figures.style import PAPER, SCREEN
from tests.analysis.planting import plant_table
from tests.analysis.test_figures import check_boxes
from tests.analysis.test_optimizers_figure import plant_optimizers

ROOT = plant_table(lambda b: 0.002 * b**0.5)


def plant_verdicts(*verdicts, claim="c", **numbers):
    return [
        Verdict(claim, "p", {"k": i}, each, {"predicted": 1.0, **numbers}, "rule") for i, each in enumerate(verdicts)
    ]


def test_a_planted_root_is_told_with_the_interval_of_its_fit():
    judged = analyse_runs("root", ROOT.assign(**{"optimizer.name": "adam"}), "A root?")
    first, second = state_finding(judged)
    assert first == "sqrt fits best"
    assert second.startswith("sde-slope confirmed: 0.")
    assert second.endswith("predicted 0.5")
    (answer,) = (analysis := analyse_runs("root", ROOT.assign(**{"optimizer.name": "muon"}), "A root?")).groups
    exponent = next(fit for fit in answer.fits if fit.law == "power").params["exponent"]
    told = f"η* ∝ B^{exponent.value:.2f} [{exponent.low:.2f}, {exponent.high:.2f}], sqrt fits best"
    assert state_finding(analysis) == [told]


def test_a_claim_made_once_is_told_in_numbers_and_one_made_often_is_counted():
    once = plant_verdicts("refuted", ratio=1.5, low=1.4, high=1.6)
    often = plant_verdicts("confirmed", "refuted", "confirmed", claim="d")
    assert state_verdicts([*once, *often]) == [
        "c (k=0) refuted: 1.5 [1.4, 1.6], predicted 1", "d 2 confirmed, 1 refuted",
    ]  # fmt: skip
    assert state_verdicts(plant_verdicts("inconclusive")) == ["c (k=0) inconclusive"]  # no number is known


@pytest.mark.parametrize("count", [1, 3, 40])
def test_what_does_not_fit_is_counted_and_nothing_overlaps(count):
    parts = [f"claim-{i} confirmed: 0.123 [0.120, 0.126], predicted 0.125" for i in range(count)]
    with mpl.rc_context(SCREEN.rc):
        figure = FIGURES["optimum"](analyse_runs("root", ROOT, "Does it go like a root? " * 8), SCREEN)
        write_finding(figure, parts, SCREEN)
        check_boxes(figure)
    text = figure.texts[-1].get_text()
    assert text.count("\n") < LINES
    told = text.replace("\n", " ").split(" · ")
    shown = sum(part.startswith("claim-") for part in told)
    assert told[:shown] == parts[:shown]
    assert told[shown:] == ([f"{count - shown} more in the JSON"] if shown < count else [])
    assert (shown == count) == (count <= 3)


def test_a_paper_has_its_own_caption():
    with mpl.rc_context(PAPER.rc):
        figure = FIGURES["optimum"](analyse_runs("root", ROOT, "?"), PAPER)
        before = len(figure.texts)
        write_finding(figure, ["found"], PAPER)
    assert len(figure.texts) == before


@pytest.mark.parametrize("count", [5, 9])
def test_every_optimizer_has_its_row_where_there_are_more_than_colours(count):
    names, extra = [f"o{i}" for i in range(count)], [0.1 * i for i in range(count)]
    analysis = analyse_runs("many", plant_optimizers(names, extra), "Which?")
    assert choose_figure(analysis) is (draw_optimizers if count > 7 else FIGURES["optimum"])
    first, second = state_finding(analysis)
    lowest = {o.batch_size: o.loss for o in analysis.groups[0].optima}
    assert first.startswith(f"lowest loss at batch size 16: {lowest[16]:.3g} with o0, ")
    assert f" with o{count - 1}" in second.partition("highest ")[2]
    if count > 7:
        rows = choose_figure(analysis)(analysis, SCREEN).axes[0]
        assert [label.get_text() for label in rows.get_yticklabels()] == names


def is_inside(ax, line):
    """Whether all points of a line that has a marker lie inside its panel."""
    pixels = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
    return all(ax.bbox.x0 <= x <= ax.bbox.x1 and ax.bbox.y0 <= y <= ax.bbox.y1 for x, y in pixels)


@pytest.mark.parametrize("kind", ["one batch size", "two groups", "one seed", "steep"])
def test_the_mark_of_every_optimum_of_a_small_table_lies_inside_its_panel(kind):
    sizes = (64,) if kind in ("one batch size", "two groups") else (16, 64)
    table = plant_table(lambda b: 0.02, batch_sizes=sizes, num_seeds=1 if kind == "one seed" else 2)
    if kind == "two groups":  # all runs of the second lie above nine tenths of those of the first
        more = table[table["optimizer.lr"].between(0.01, 0.04)]
        more = more.assign(loss=more["loss"] + 9, **{"optimizer.weight_decay": 0.1})
        table = pd.concat([table.assign(**{"optimizer.weight_decay": 0.0}), more], ignore_index=True)
    if kind == "steep":  # three learning rates, whose parabola's least lies far below them
        lrs = sorted(table["optimizer.lr"].unique())[4:7]
        table = table[table["optimizer.lr"].isin(lrs)]
        table = table.assign(loss=2 + 3 * np.abs(np.log2(table["optimizer.lr"] / 0.02)))
    analysis = analyse_runs("small", table, "?")
    figure = FIGURES[analysis.figure](analysis, SCREEN)
    figure.draw_without_rendering()
    marks = [(ax, line) for ax in figure.axes for line in ax.lines if line.get_marker() == "o" and line.get_ms() == 5]
    assert len(marks) >= sum(len(answer.optima) for answer in analysis.groups)
    assert all(is_inside(ax, line) for ax, line in marks)
