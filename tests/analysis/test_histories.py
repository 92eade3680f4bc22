"""Oracle: planted learning curves: which are drawn, how thick, where they end; a folder of written files."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from planting import plant_table

from analysis.analyse import analyse_runs
from analysis.figures.histories import LOSS, SAMPLES, draw_histories, has_histories, span, thin
from analysis.figures.style import round_numbers, short_number
from analysis.plot import main
from analysis.write import write_further

POINTS = np.array([4096, 8192, 16384, 32768])
STRETCH = np.array([2.0, 1.5, 1.2, 1.0])


def plant(batch_sizes=(8, 16, 32), **changed):
    frame = plant_table(lambda b: 0.002 * b**0.5, batch_sizes=batch_sizes).assign(**changed)
    frame[SAMPLES] = [POINTS] * len(frame)
    frame[LOSS] = [loss * STRETCH for loss in frame["loss"]]
    return frame


def lines_of(ax):
    [collection] = [artist for artist in ax.collections if isinstance(artist, LineCollection)]
    return collection.get_segments(), list(collection.get_linewidths())


def test_a_panel_a_batch_size_with_seed_means_and_the_best_thick():
    analysis = analyse_runs("s", plant())
    *panels, _ = draw_histories(analysis).axes
    assert [ax.get_title() for ax in panels] == ["batch size 8", "batch size 16", "batch size 32"]
    for ax, optimum in zip(panels, analysis.groups[0].optima, strict=True):
        rows = analysis.runs.frame[analysis.runs.frame["batch_size"] == optimum.batch_size]
        means = rows.groupby("optimizer.lr")["loss"].mean()
        segments, widths = lines_of(ax)
        assert len(segments) == 13
        for segment, mean in zip(segments, means, strict=True):
            np.testing.assert_allclose(segment, np.column_stack([POINTS, mean * STRETCH]))
        thick = means.index[int(np.argmax(widths))]
        assert sorted(widths)[-2] < max(widths)
        assert abs(np.log2(thick / optimum.lr)) <= 0.75 / 2 + 1e-9
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_a_run_that_diverged_ends_with_a_cross():
    frame = plant()
    rows = (frame["batch_size"] == 16) & (frame["optimizer.lr"] == frame["optimizer.lr"].max())
    frame.loc[rows, ["status", "loss"]] = ["diverged", np.nan]
    lengths = iter((0, 1, 3))
    length_of = [next(lengths) if broken else 4 for broken in rows]
    frame[SAMPLES] = [POINTS[:length] for length in length_of]
    frame[LOSS] = [loss[:length] for loss, length in zip(frame[LOSS], length_of, strict=True)]
    _, ax, *_ = draw_histories(analyse_runs("s", frame)).axes
    crosses = [line for line in ax.lines if line.get_marker() == "x"]
    assert sorted(line.get_xdata()[0] for line in crosses) == [4096, 16384]
    assert [text.get_text() for text in ax.texts] == ["× 1 diverged before the first point"]
    assert len(lines_of(ax)[0]) == 12 + 3


def test_much_is_thinned_out_and_told():
    few = plant(batch_sizes=(8, 16, 32, 64, 128, 256))
    many = pd.concat([few.assign(**{"optimizer.eps": eps}) for eps in (1e-8, 1e-6, 1e-4, 1e-2)], ignore_index=True)
    fig = draw_histories(analyse_runs("s", many))
    panels = [ax for ax in fig.axes[:-1] if ax.get_visible()]
    assert len(panels) == 12
    footer = fig.texts[-1].get_text().replace("\n", " ")
    assert "4 of 6 batch sizes shown" in footer
    assert "3 of 4 groups shown" in footer
    assert "protocol fixed_samples" in footer
    assert "fixed_samples" in fig.texts[0].get_text()
    assert thin(range(10), 4) == [0, 3, 6, 9]


def test_groups_with_batch_sizes_of_their_own_leave_panels_empty():
    sizes = {"adam": (16, 32), "sgd": (8, 16)}
    frame = pd.concat([plant(own).assign(**{"optimizer.name": name}) for name, own in sizes.items()], ignore_index=True)
    *panels, _ = draw_histories(analyse_runs("s", frame)).axes
    assert [ax.get_visible() for ax in panels] == [False, True, True, True, True, False]
    shown = [ax for ax in panels if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == [
        "adam\nbatch size 16",
        "batch size 32",
        "sgd\nbatch size 8",
        "batch size 16",
    ]
    assert [bool(ax.get_ylabel()) for ax in shown] == [True, False, True, False]
    assert all(ax.get_xlabel() == "training samples" and len(lines_of(ax)[0]) == 13 for ax in shown)


def test_seeds_whose_curves_have_other_points_are_drawn_each():
    frame = plant(batch_sizes=(8, 16, 32))
    length_of = [3 if seed == 0 else 4 for seed in frame["seed"]]
    frame[SAMPLES] = [POINTS[:length] for length in length_of]
    frame[LOSS] = [loss[:length] for loss, length in zip(frame[LOSS], length_of, strict=True)]
    ax = draw_histories(analyse_runs("s", frame)).axes[0]
    assert len(lines_of(ax)[0]) == 13 * 3


def test_files_are_written_where_there_are_histories_and_left_out_where_not(tmp_path, capsys):
    analysis = analyse_runs("s", plant())
    assert [path.name for path in write_further(analysis, tmp_path)] == ["s-curves.png", "s-curves.svg"]
    assert (tmp_path / "s-curves.png").read_bytes().startswith(b"\x89PNG")
    first = (tmp_path / "s-curves.svg").read_bytes()
    write_further(analysis, tmp_path)
    assert (tmp_path / "s-curves.svg").read_bytes() == first
    bare = analyse_runs("s", plant_table(lambda b: 0.002 * b**0.5))
    assert not has_histories(bare)
    assert [path.name for path in write_further(bare, tmp_path)] == ["s-extrapolation.png", "s-extrapolation.svg"]
    assert not has_histories(analyse_runs("s", plant().assign(**{SAMPLES: None, LOSS: None})))
    plant().to_parquet(tmp_path / "t.parquet")
    assert main(["t", "--runs", str(tmp_path / "t.parquet"), "--out", str(tmp_path)]) == 0
    assert f"{tmp_path}/t-curves.png" in capsys.readouterr().out


def test_limits_hold_the_curves_and_not_the_wildest():
    calm = [(0.1, np.arange(10.0), np.linspace(3, 2, 10), False)] * 12
    low, high = span([*calm, (1.0, np.arange(10.0), np.full(10, 1e6), False), (2.0, np.ones(1), np.ones(1), True)])
    assert 1.9 < low < 2
    assert 2.7 < high < 3  # their first quarter need not be whole
    assert span([]) == pytest.approx((1 / 1.03, 1.05))


@pytest.mark.parametrize(("low", "high"), [(1, 1e6), (480, 4300), (2.4, 7.9), (10, 11), (0.01, 0.5)])
def test_ticks_are_round_few_and_enough(low, high):
    ticks = round_numbers(low, high, most=5)
    assert 3 <= len(ticks) <= 5
    assert all(low <= tick <= high for tick in ticks)


def test_short_numbers():
    assert [short_number(x) for x in (500, 1500, 32768, 2e6)] == ["500", "1.5k", "32.77k", "2M"]
