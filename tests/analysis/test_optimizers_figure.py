"""Oracle: planted losses of several optimizers, matplotlib's own boxes, and noise whose shared part is known."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from analysis.analyse import analyse_runs
from analysis.figures import FURTHER
from analysis.figures.optimizers import measure_losses
from analysis.figures.style import PAPER, SCREEN
from analysis.optimum import Optimum
from tests.analysis.planting import plant_table
from tests.analysis.test_figures import check_boxes

applies, draw = FURTHER["optimizers"]


def plant_optimizers(names=("worst", "best", "middle", "muon_stiefel"), extra=(0.5, 0.0, 0.2, 0.3)):
    """Tables that differ in the optimizer and in what is added to their loss, worst by .5."""
    frames = []
    for name, more in zip(names, extra, strict=True):
        table = plant_table(lambda b: 0.002 * b**0.5, batch_sizes=(16, 64, 256))
        frames.append(
            table.assign(loss=table["loss"] + more, run_id=table["run_id"] + name, **{"optimizer.name": name})
        )
    return pd.concat(frames, ignore_index=True)


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
def test_rows_go_by_loss_and_nothing_overlaps(style):
    analysis = analyse_runs("planted", plant_optimizers(), "Which optimizer gets furthest? " * 5)
    assert applies(analysis)
    with mpl.rc_context(style.rc):
        figure = draw(analysis, style)
        check_boxes(figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["best", "middle", "muon_stiefel", "worst"]
    points = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 1]
    assert len(points) == 12
    assert all(round(float(p.get_ydata()[0])) in range(4) for p in points)
    at_best = [float(p.get_xdata()[0]) for p in points if round(float(p.get_ydata()[0])) == 0]
    at_worst = [float(p.get_xdata()[0]) for p in points if round(float(p.get_ydata()[0])) == 3]
    assert np.allclose(np.subtract(sorted(at_worst), sorted(at_best)), 0.5, atol=1e-6)


def test_it_does_not_apply_to_few_optimizers_or_other_groups():
    frame = plant_optimizers()
    assert not applies(analyse_runs("planted", frame[frame["optimizer.name"].isin(["best", "worst"])]))
    tasks = pd.concat([frame, frame.assign(**{"task.name": "text"})], ignore_index=True)
    assert not applies(analyse_runs("planted", tasks))


@pytest.mark.parametrize("shared", [0.0, 0.3])
def test_bars_leave_out_what_seeds_do_to_all(shared):
    """Lifts of sd .01 of an optimizer's own; half-width t sd / sqrt(S), whatever all have in common."""
    rng = np.random.default_rng(0)
    seeds, common = tuple(range(4)), shared * rng.normal(size=4)
    optima = []
    for _ in range(30):
        lifts = common + 0.01 * rng.normal(size=4)
        optima.append(
            Optimum(16, 0.1, 0.1, 0.1, "interior", 8, 1.0, 0.1, 9.0, {}, seeds=seeds, lifts=tuple(lifts - lifts.mean()))
        )
    halves = measure_losses(optima)
    assert halves == pytest.approx([1.99 * 0.01 / 2] * 30, rel=0.1)
    assert np.isnan(measure_losses(optima[:2])).all()
