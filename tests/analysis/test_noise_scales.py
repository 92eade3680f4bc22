"""Oracle: planted noise scales; the runs' running average, written apart in harness; the committed probes' ratios."""

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from planting import plant_table

from analysis.analyse import analyse_runs
from analysis.figures import FURTHER
from analysis.figures.noise_scale import COLOURS, UPDATES, draw_noise_scales, draw_probed, has_noise_scales
from analysis.figures.style import PAPER, SCREEN
from analysis.noise_scales import MEASURED, bound_ratio, pool_parts, read_checkpoints, read_scales
from analysis.one_step import spread_probes
from analysis.plot import main
from harness.config import SWEEPS_DIR
from harness.noise_scale import NOISE_SCALES, ratio_of_means
from tests.analysis.test_figures import check_boxes

STEPS = np.array([100, 150, 200, 400])
NOT = np.array([1.0, np.nan, 1.0, 1.0])  # the second point is no measured one
STYLES = pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
PANEL_SIZES = (8, 16, 32)


def plant(simple=100.0, noise=20.0, updates=90.0, **changed):
    """Runs with B_simple = simple and so on, at every measured point of every run, but for seed 1: three times that.

    Its denominators are a third: averaged raw, seeds 0 and 1 give 2 / (1 + 1/3) = 1.5 times the value.
    """
    frame = plant_table(lambda b: 0.002 * b**0.5, batch_sizes=PANEL_SIZES, num_seeds=2).assign(**changed)
    share = np.where(frame["seed"] == 1, 3.0, 1.0)
    frame["history.num_samples"] = [STEPS * size for size in frame["batch_size"]]
    frame["history.step"] = [STEPS] * len(frame)
    frame["history.loss"] = [loss * np.array([3.0, 2.0, 1.5, 1.0]) for loss in frame["loss"]]
    for value, (own, parts) in zip((simple, noise, updates), MEASURED.values(), strict=True):
        frame[own] = [value * each * np.where(STEPS == 150, 1.0, NOT) for each in share]
        if parts:
            frame[parts[0]] = [value * NOT for _ in share]
            frame[parts[1]] = [NOT / each for each in share]
    return frame


def lines_of(ax, quantity):
    return [line for line in ax.lines if line.get_color() == COLOURS[quantity]]


def test_columns_are_those_that_runs_write():
    ours = {name for own, parts in MEASURED.values() for name in (own, *(parts or ()))}
    assert ours == {f"history.{name}" for name in NOISE_SCALES}


def test_one_seed_pooled_is_its_own_running_average():
    rng = np.random.default_rng(0)
    above, below = rng.normal(3, 2, 12), rng.normal(1, 1, 12)
    expected = [ratio_of_means(above[: p + 1], below[: p + 1]) for p in range(12)]
    assert np.isnan(expected).any()
    assert not np.isnan(expected).all()
    np.testing.assert_allclose(pool_parts(above[None], below[None]), expected, rtol=1e-12)


def test_seeds_are_averaged_before_they_are_divided():
    above, below = np.array([[2.0, 2.0], [4.0, 4.0]]), np.array([[-1.0, -1.0], [2.0, 2.0]])
    np.testing.assert_allclose(pool_parts(above, below), 6.0)
    assert np.isnan(pool_parts(above[:1], below[:1])).all()


def test_points_where_nothing_was_measured_are_left_out_and_seeds_apart_stay_apart():
    frame = plant()
    cell = frame[(frame["batch_size"] == 8) & (frame["optimizer.lr"] == frame["optimizer.lr"].min())]
    simple, noise, updates = read_scales(cell)
    assert (simple.quantity, noise.quantity, updates.quantity) == tuple(MEASURED)
    assert list(simple.step_P) == [100, 200, 400]
    np.testing.assert_allclose(simple.pooled_P, 150.0)
    np.testing.assert_allclose(noise.pooled_P, 30.0)
    assert len(updates.pooled_P) == 0
    assert [float(value_P[0]) for _, value_P in updates.seeds] == [90.0, 270.0]
    cell = cell.assign(**{"history.step": [STEPS, STEPS + 1]})
    assert [len(scales.pooled_P) for scales in read_scales(cell)] == [0, 0, 0]


@pytest.mark.parametrize(("above", "below"), [(50.0, 0.1), (50.0, 0.03)])
def test_intervals_of_ratios_cover_and_are_open_where_the_denominator_may_be_nothing(above, below):
    rng, errors, inside, open_ended = np.random.default_rng(1), (5.0, 0.02), [], []
    for _ in range(4000):
        found = above + errors[0] * rng.normal(), below + errors[1] * rng.normal()
        if min(found) > 0:
            low, high = bound_ratio(*found, *errors)
            assert 0 <= low <= found[0] / found[1] <= high
            inside.append(low <= above / below <= high)
            open_ended.append(np.isinf(high))
    assert np.mean(inside) == pytest.approx(0.95, abs=0.025)
    assert (np.mean(open_ended) > 0.5) == (below < 0.1)
    # no error of the denominator: the interval of the numerator, divided
    assert bound_ratio(50.0, 2.0, 5.0, 0.0) == pytest.approx((25 - 1.959964 * 2.5, 25 + 1.959964 * 2.5))


def test_a_panel_a_batch_size_with_pooled_seeds_thick_and_each_seed_thin():
    analysis = analyse_runs("s", plant())
    panels = draw_noise_scales(analysis).axes
    assert [ax.get_title().split(",")[0] for ax in panels] == [f"batch size {size}" for size in PANEL_SIZES]
    for ax, optimum in zip(panels, analysis.groups[0].optima, strict=True):
        assert abs(np.log2(float(ax.get_title().split("lr ")[1]) / optimum.lr)) < 0.75
        for quantity, value in (("B_simple", 100), ("B_noise", 20)):
            *thin, thick = sorted(lines_of(ax, quantity), key=lambda line: line.get_linewidth())
            assert sorted(float(line.get_ydata()[0]) for line in thin) == [value, 3 * value]
            np.testing.assert_allclose(thick.get_ydata(), 1.5 * value)
            assert list(thick.get_xdata()) == [100, 200, 400]
        assert {line.get_linestyle() for line in lines_of(ax, UPDATES) if len(line.get_xdata())} == {"--"}
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_groups_have_rows_and_runs_that_diverged_or_are_short_have_none():
    frame = pd.concat([plant(), plant(noise=5.0, **{"optimizer.name": "sgd"})], ignore_index=True)
    frame.loc[frame["batch_size"] == 32, list(MEASURED["B_simple"][1])] = None
    frame.loc[frame["batch_size"] == 32, [own for own, _ in MEASURED.values()]] = None
    titles = [ax.get_title() for ax in draw_noise_scales(analyse_runs("s", frame)).axes if ax.get_visible()]
    assert [title.split(",")[0] for title in titles] == ["adam\nbatch size 8", "batch size 16", "sgd\nbatch size 8",
                                                         "batch size 16"]  # fmt: skip
    assert not has_noise_scales(analyse_runs("s", frame[frame["batch_size"] == 32]))
    assert not has_noise_scales(analyse_runs("s", plant_table(lambda b: 0.002 * b**0.5)))


@STYLES
def test_texts_lie_apart(style):
    frame = pd.concat([plant(), plant(**{"optimizer.name": "sgd"})], ignore_index=True)
    with mpl.rc_context(style.rc):
        check_boxes(draw_noise_scales(analyse_runs("s", frame, "How does it go along training? " * 5), style))


def test_checkpoints_are_the_ratios_of_the_committed_table_and_stand_over_their_own_training():
    table = pd.read_csv(SWEEPS_DIR / "one_step.csv")
    rows = spread_probes(table)
    once = table[(table["task.name"] == "python_source") & (table["num_steps"] == 600)].iloc[0]
    simple, noise = [each for each in read_checkpoints(rows[rows["task.name"] == "python_source"]) if each.step == 600]
    assert simple.value == pytest.approx(once["probe.noise_trace"] / once["probe.grad_sq"])
    assert noise.value == pytest.approx(once["probe.noise_curvature"] / once["probe.grad_curvature"])
    assert simple.low < simple.value < simple.high < np.inf
    longest = table[table["num_steps"] == 2000].drop_duplicates("run_id")
    own = plant().iloc[: len(longest)].assign(run_id=longest["run_id"].to_numpy())
    for histories, count in ((rows, 0), (own, 1)):
        panels = draw_probed(rows, histories, "Does it?").axes
        assert [ax.get_title() for ax in panels] == ["python_source", "teacher_student", "teacher_student, permuted"]
        assert [sum(line.get_marker() == "s" for line in ax.lines) for ax in panels] == [3, 3, 3]
        assert [bool(lines_of(ax, UPDATES)) for ax in panels] == [bool(count)] * 3
        assert [text.get_text() for text in panels[0].get_xticklabels()] == ["150", "600", "2000"]


def test_files_are_written_of_grids_and_of_single_runs(tmp_path, capsys):
    assert "noise_scale" in FURTHER
    plant().to_parquet(tmp_path / "t.parquet")
    plant().iloc[:1].to_parquet(tmp_path / "one.parquet")
    for name in ("t", "one"):
        assert main([name, "--runs", str(tmp_path / f"{name}.parquet"), "--out", str(tmp_path)]) == 0
        assert f"{tmp_path}/{name}-noise_scale.svg" in capsys.readouterr().out
    assert (tmp_path / "t-noise_scale.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "one-curves.png").exists()
