"""Oracle: matplotlib's own boxes of what it drew, and planted optima for what is drawn."""

import io
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console

from analysis.analyse import analyse_runs
from analysis.claims import Verdict
from analysis.figures import FIGURES, FURTHER
from analysis.figures.scoreboard import draw_scoreboard
from analysis.figures.style import PAPER, SCREEN
from analysis.plot import main
from analysis.report import print_report
from analysis.scoreboard import judge_sweeps
from harness.config import SWEEPS_DIR
from tests.analysis.planting import BATCH_SIZES, plant_table
from tests.analysis.test_critical_batch import plant_steps

STYLES = pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])


def plant_protocols():
    """Optima that go as the root of the batch size, do not move, and runs to a target."""
    root, still = plant_table(lambda b: 0.002 * b**0.5), plant_table(lambda b: 0.02).assign(protocol="fixed_steps")
    return pd.concat([root, still, plant_steps()], ignore_index=True)


def check_boxes(figure):
    """Panels with all that belongs to them (ticks, labels, legend) and headline and caption lie apart and inside."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    drawn = [ax for ax in figure.axes if ax.get_visible()]
    boxes = [ax.get_tightbbox(renderer) for ax in drawn] + [t.get_window_extent(renderer) for t in figure.texts]
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@STYLES
@pytest.mark.parametrize("name", ["extrapolation", "slopes", "steps-examples"])
def test_further_figures_keep_their_texts_inside_and_the_caption_apart(name, style):
    applies, draw = FURTHER[name]
    analysis = analyse_runs("protocols", plant_protocols(), "Does it depend on what is held fixed? " * 3)
    assert applies(analysis)
    with mpl.rc_context(style.rc):
        check_boxes(draw(analysis, style))


@STYLES
def test_the_scoreboard_keeps_its_texts_inside(style):
    judged = list(judge_sweeps([SWEEPS_DIR / "lr_vs_bs_horizon.csv", SWEEPS_DIR / "lr_vs_bs_sgd.csv"]))
    with mpl.rc_context(style.rc):
        figure = draw_scoreboard(judged, style)
        check_boxes(figure)
    (ax,) = figure.axes
    claims = list(dict.fromkeys(verdict.claim for _, verdict in judged))
    assert [label.get_text() for label in ax.get_yticklabels()] == claims
    for row, claim in enumerate(claims):
        own = [verdict for _, verdict in judged if verdict.claim == claim]
        bounded = [v for v in own if np.isfinite([v.numbers.get("low", np.nan), v.numbers.get("high", np.nan)]).all()]
        marks = [line for line in ax.lines if line.get_marker() in "oXs" and abs(line.get_ydata()[0] - row) < 0.5]
        assert len(marks) == len(bounded)
        counted = [
            int(text.get_text()) for text in ax.texts if text.get_text().isdigit() and text.get_position()[1] == row
        ]
        assert sum(counted) == len(own)


def test_what_the_runs_do_not_bear_is_not_drawn():
    few = analyse_runs("few", plant_table(lambda b: 0.002 * b**0.5, batch_sizes=(8, 16, 32, 64)), "Few?")
    assert [name for name, (applies, _) in FURTHER.items() if applies(few)] == []


def read_texts(figure):
    return " ".join(" ".join(text.get_text() for text in figure.texts).split())


def test_captions_are_those_of_the_groups_that_are_shown():
    """Of three protocols one has a target: its figure tells its runs, the loss aimed at, and those that missed it."""
    frame = plant_protocols()
    late = (frame["protocol"] == "steps_to_target") & (frame["optimizer.lr"] > 2**-3)
    frame.loc[late, ["steps_to_target", "samples_to_target"]] = np.nan
    analysis = analyse_runs("protocols", frame, "?")
    said = read_texts(FURTHER["steps-examples"][1](analysis, SCREEN))
    assert "protocol steps_to_target · target loss 2 · at most" in said
    assert f"{late.sum()} censored · 312 runs, 3 seeds" in said
    assert "protocol fixed_samples, fixed_steps, steps_to_target" in read_texts(FURTHER["slopes"][1](analysis, SCREEN))
    assert "bars: 95 % intervals" in read_texts(FIGURES["optimum"](analysis, SCREEN))


def test_the_plane_of_steps_and_samples_holds_the_corner():
    sizes = np.array(BATCH_SIZES)
    frame = plant_table(lambda b: 0.002 * b**0.5, sd=0.02)
    steps = 100 * (1 + 5 / frame["batch_size"])  # all batch sizes far beyond the corner: samples stay above twice E_min
    frame = frame.assign(protocol="steps_to_target", steps_to_target=steps * np.exp(frame["loss"] - 2))
    analysis = analyse_runs("steps", frame, "?")
    fit = analysis.groups[0].critical_batch.fits[0]
    plane = FURTHER["steps-examples"][1](analysis, SCREEN).axes[1]
    corner = fit.params["steps_min"].value, fit.params["steps_min"].value * fit.params["critical_batch_size"].value
    assert plane.get_xlim()[0] < corner[0]
    assert plane.get_ylim()[0] < corner[1] < steps.min() * sizes[0]


def test_the_scoreboard_has_a_row_a_claim_and_a_mark_a_ratio():
    """Ratios 1.5, 1/2 and 40, which is cut off; claims of nothing and without a number are counted alone."""
    cases = [("far", "refuted", 2.0, 3.0), ("far", "refuted", 2.0, 1.0), ("far", "confirmed", 2.0, 80.0),
             ("nothing", "confirmed", 0.0, 0.1)]  # fmt: skip
    judged = [
        (f"sweep{i}", Verdict(claim, "p", {}, verdict, {"predicted": of, "ratio": x, "low": x, "high": x}, "rule"))
        for i, (claim, verdict, of, x) in enumerate(cases)
    ]
    judged += [("last", Verdict("open", "p", {}, "inconclusive", {"predicted": 1.0}, "rule"))]
    (ax,) = draw_scoreboard(judged, PAPER).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["far", "nothing", "open"]
    marks = [line for line in ax.lines if line.get_marker() in "oXs"]
    assert [float(line.get_xdata()[0]) for line in marks] == [1.5, 0.5, 16.0]
    assert [line.get_marker() for line in marks] == ["X", "X", "o"]
    assert all(abs(float(line.get_ydata()[0])) < 0.5 for line in marks)
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3 sweeps", "1", "sweep3", "1", "last"]


def test_extrapolated_laws_are_those_of_the_smaller_half():
    """sqrt from four sizes runs through the other four, a root's; the points left out are hollow."""
    analysis = analyse_runs("root", plant_table(lambda b: 0.002 * b**0.5), "A root?")
    (ax,) = FURTHER["extrapolation"][1](analysis, SCREEN).axes
    lines = {line.get_label().partition(",")[0]: line for line in ax.lines}
    x, y = lines["sqrt"].get_data()
    assert np.abs(np.log(y / (0.002 * np.sqrt(x)))).max() < 0.15
    miss = {label: float(line.get_label().split(",")[1]) for label, line in lines.items() if "," in line.get_label()}
    assert miss["sqrt"] < 0.15 < 0.9 < miss["linear"]
    hollow = [line.get_xdata()[0] for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert hollow == [128, 256, 512, 1024]


def test_paper_style_writes_a_pdf_and_the_same_bytes_twice(tmp_path):
    plant_table(lambda b: 0.002 * b**0.5).to_csv(tmp_path / "planted.csv", index=False)
    for out in ("one", "two"):
        assert main(["--runs", str(tmp_path / "planted.csv"), "--style", "paper", "--out", str(tmp_path / out)]) == 0
    for name in ("planted.pdf", "planted.png", "planted.svg", "planted-extrapolation.pdf"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert b"CreationDate" not in (tmp_path / "one" / "planted.pdf").read_bytes()


@STYLES
@pytest.mark.parametrize("columns", [{"optimizer.weight_decay"}, {"optimizer.weight_decay", "optimizer.name"}], ids=len)
def test_groups_at_one_batch_size_are_compared_by_their_loss(columns, style):
    """The table is sorted by loss and has no law; the right panel has a point a group, whose labels lie apart."""
    groups = []
    for i, decay in enumerate((0.1, 0.0, 1.0, 0.01)):
        table = plant_table(lambda b: 0.02, batch_sizes=(64,)).assign(**{"optimizer.weight_decay": decay})
        more = {"optimizer.name": f"adam{i % 2}"} if "optimizer.name" in columns else {}
        groups.append(table.assign(loss=table["loss"] + 0.1 * i, **more))
    analysis = analyse_runs("decay", pd.concat(groups, ignore_index=True), "Which?")
    print_report(analysis, Console(file=(said := io.StringIO()), width=120))
    lines = said.getvalue().splitlines()
    assert [line.split("weight_decay=")[1].split()[0] for line in lines if "weight_decay=" in line] == [
        "0.1", "0", "1", "0.01",
    ]  # fmt: skip
    assert "need more than one batch size" in said.getvalue()
    assert not any(word in said.getvalue() for word in ("inconclusive", "not fitted"))
    with mpl.rc_context(style.rc):
        figure = FIGURES[analysis.figure](analysis, style)
        check_boxes(figure)
        labels = [label.get_window_extent() for label in figure.axes[1].get_xticklabels()]
    assert len(labels) == 4
    assert not any(a.overlaps(b) for a, b in pairwise(labels))
