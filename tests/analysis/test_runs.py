"""Oracle: tables written by hand, damaged one way each, and the message that a user must get for it."""

import numpy as np
import pandas as pd
import pytest
from planting import plant_table

from analysis import tables
from analysis.runs import tidy_runs
from analysis.tables import choose_table, count_missing, parse_columns, read_table, rename_columns
from analysis.write import is_committed
from harness.records import PER_TENSOR

HEADER = "batch_size,lr,loss,seed\n"
ROWS = "".join(f"8,{lr},{2 + (lr - 0.02) ** 2},0\n" for lr in (0.01, 0.02, 0.04))

DAMAGED = {
    "empty": ("", "is empty"),
    "header only": (HEADER, "is empty"),
    "no loss": (
        "batch_size,lr,losss\n8,0.1,2.0\n",
        r"no column 'loss' \(did you mean losss\?\).*--columns loss=COLUMN",
    ),
    "no lr": (
        "batch_size,peak_lr,loss\n8,0.1,2.0\n",
        r"no column 'optimizer.lr' \(did you mean peak_lr\?\).*--columns lr=",
    ),
    "no batch size": ("bs,lr,loss\n8,0.1,2.0\n", "no column 'batch_size'.*bs, "),
    "text in lr": (HEADER + ROWS + "8,fast,2.0,0\n", "run 4: optimizer.lr is 'fast', which is no number"),
    "text in loss": (HEADER + ROWS + "8,0.1,good,0\n", "run 4: loss is 'good'"),
    "empty lr": (HEADER + ROWS + "8,,2.0,0\n", "run 4: optimizer.lr is empty"),
    "negative lr": (HEADER + ROWS + "8,-0.1,2.0,0\n", "optimizer.lr=-0.1 is not a number above zero"),
    "infinite lr": (HEADER + ROWS + "8,inf,2.0,0\n", "optimizer.lr=inf is not a number above zero"),
    "half a batch": (HEADER + ROWS + "8.5,0.1,2.0,0\n", "batch_size=8.5 is not a whole number above zero"),
    "half a seed": (HEADER + ROWS + "8,0.1,2.0,0.5\n", "seed=0.5 is not a whole number"),
    "rows longer than the header": (HEADER + "8,0.1,2.0,0,7,9\n", "cannot be read as csv"),
    "unknown status": (
        "batch_size,lr,loss,status\n8,0.1,2.0,dune\n",
        r"status='dune' is not one of .*\(did you mean done\?\)",
    ),
    "nothing finished": (
        "batch_size,lr,loss,status\n8,0.1,2.0,failed\n8,0.2,,running\n",
        "no finished runs .1 failed, 1 running",
    ),
    "all diverged": (HEADER + "8,0.1,nan,0\n8,0.2,inf,0\n", "no finished runs .2 diverged"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_table_is_told_in_one_line(tmp_path, kind):
    content, message = DAMAGED[kind]
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        tidy_runs(rename_columns(read_table(path), {}), "table.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "does not exist"),
        ("a.txt", b"x", "is not one of"),
        ("a.parquet", b"no parquet", "cannot be read as parquet"),
    ],
)
def test_unreadable_source(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_table(tmp_path / name)


def test_columns_are_parsed_and_renamed():
    assert parse_columns("lr=peak_lr, loss=eval") == {"lr": "peak_lr", "loss": "eval"}
    frame = pd.DataFrame({"batch_size": [8], "peak_lr": [0.1], "eval": [2.0], "loss": [9.0]})
    renamed = rename_columns(frame, {"lr": "peak_lr", "loss": "eval"})
    assert renamed["loss"].tolist() == [2.0]
    assert renamed["optimizer.lr"].tolist() == [0.1]
    with pytest.raises(ValueError, match=r"'peek_lr', which t.csv lacks \(did you mean peak_lr\?\)"):
        rename_columns(frame, {"lr": "peek_lr"}, "t.csv")
    with pytest.raises(ValueError, match="lr=peak_lr"):
        parse_columns("lr:peak_lr")


def test_short_names_and_defaults():
    runs = tidy_runs(pd.DataFrame({"batch_size": [8.0] * 3, "lr": [0.1, 0.2, 0.3], "loss": [1.0, np.inf, np.nan]}))
    assert runs.frame["status"].tolist() == ["done", "diverged", "diverged"]
    assert runs.frame["seed"].tolist() == [0, 0, 0]
    assert runs.protocol == "unknown"
    assert runs.groups == ()


def test_failed_and_running_runs_are_left_out_and_counted():
    frame = plant_table(lambda b: 0.01)
    frame.loc[:1, "status"], frame.loc[2, "status"] = "failed", "running"
    runs = tidy_runs(frame)
    assert len(runs.frame) == len(frame) - 3
    assert "2 failed runs are left out" in runs.notes
    assert "1 running run is left out" in runs.notes


def test_a_done_run_without_a_finite_loss_is_taken_as_diverged():
    frame = plant_table(lambda b: 0.01)
    frame.loc[0, "loss"] = np.nan
    runs = tidy_runs(frame)
    assert (runs.frame["status"] == "diverged").sum() == 1
    assert any("taken as diverged" in note for note in runs.notes)


def join(tables_by_value, column):
    return pd.concat([t.assign(**{column: value}) for value, t in tables_by_value.items()], ignore_index=True)


def test_what_varies_beyond_batch_size_lr_and_seed_is_a_group():
    small, large = plant_table(lambda b: 0.01), plant_table(lambda b: 0.02)
    assert tidy_runs(small).groups == ()
    assert tidy_runs(join({1e-8: small, 1e-4: large}, "optimizer.eps")).groups == ("optimizer.eps",)
    assert tidy_runs(join({64: small, 128: large}, "width")).groups == ("width",)


def test_a_name_settles_the_columns_that_come_with_it():
    both = join({"adam": plant_table(lambda b: 0.01), "sgd": plant_table(lambda b: 0.5)}, "optimizer.name")
    both["optimizer.momentum"] = np.where(both["optimizer.name"] == "sgd", 0.0, np.nan)
    both["optimizer.lr"] *= np.where(both["optimizer.name"] == "sgd", 1.1, 1.0)  # grids without a common lr
    assert tidy_runs(both).groups == ("optimizer.name",)


def test_measurements_and_followers_are_no_groups():
    frame = plant_table(lambda b: 0.01)
    frame["accuracy"] = np.linspace(0, 1, len(frame))
    frame["optimizer.beta2"] = 1 - 0.001 * frame["batch_size"] / 8
    runs = tidy_runs(frame)
    assert runs.groups == ()
    assert "column accuracy is taken as a measurement, not as a group" in runs.notes
    assert "optimizer.beta2 follows batch_size" in runs.notes


def test_columns_of_tensors_are_no_groups_and_their_last_values_are_committed(tmp_path):
    frame = plant_table(lambda b: 0.01)
    plain = tidy_runs(frame)
    for i, metric in enumerate(PER_TENSOR):
        # The share of rows that were hit, say, is one for all learning rates of a seed and batch size
        frame[f"{metric}.layers.0.hidden.weight"] = 0.25 + 0.125 * (frame["seed"] + i)
    frame["radial.output.bias"] = np.nan
    frame["history.radial.layers.0.hidden.weight"] = [[0.5, 0.25]] * len(frame)
    runs = tidy_runs(frame)
    assert (runs.groups, runs.notes) == (plain.groups, plain.notes)
    kept = [name for name in frame.columns if is_committed(frame[name])]
    assert {f"{metric}.layers.0.hidden.weight" for metric in PER_TENSOR} <= set(kept)
    assert not {"radial.output.bias", "history.radial.layers.0.hidden.weight"} & set(kept)
    frame[kept].to_csv(tmp_path / "s.csv", index=False)
    again = read_table(tmp_path / "s.csv")
    measured = [name for name in kept if ".layers." in name]
    pd.testing.assert_frame_equal(again[measured], frame[measured])
    assert (tidy_runs(again).groups, count_missing(frame, again)) == (plain.groups, 0)


@pytest.mark.parametrize("protocol", ["fixed_samples", "fixed_steps"])
def test_two_horizons_are_two_groups(protocol):
    short, long = plant_table(lambda b: 0.01), plant_table(lambda b: 0.005)
    for frame, factor in ((short, 1), (long, 4)):
        fixed = 32768 * factor if protocol == "fixed_samples" else 100 * factor
        steps, samples = (
            (fixed // frame["batch_size"], fixed)
            if protocol == "fixed_samples"
            else (fixed, fixed * frame["batch_size"])
        )
        frame["num_steps"], frame["num_samples"], frame["protocol"] = steps, samples, protocol
    groups = tidy_runs(pd.concat([short, long], ignore_index=True)).groups
    assert groups == (("num_samples",) if protocol == "fixed_samples" else ("num_steps",))


def test_a_repeated_run_is_reported_and_more_so_if_it_disagrees():
    frame = plant_table(lambda b: 0.01)
    same = tidy_runs(pd.concat([frame, frame.iloc[:2]], ignore_index=True))
    assert same.notes == ("2 runs repeat a configuration: the last of each is used",)
    other = tidy_runs(pd.concat([frame, frame.iloc[:1].assign(loss=9.0)], ignore_index=True))
    assert "1 of them disagree, by up to" in other.notes[0]
    assert len(same.frame) == len(other.frame) == len(frame)


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone with a committed answer: its sweeps folder, a runs_dir and the table."""
    sweeps, runs_dir = tmp_path / "sweeps", tmp_path / "runs"
    sweeps.mkdir()
    (runs_dir / "planted").mkdir(parents=True)
    monkeypatch.setattr(tables, "SWEEPS_DIR", sweeps)
    frame = plant_table(lambda b: 0.01, num_seeds=2).assign(**{"provenance.ended": "2026-01-01"})
    frame.drop(columns=["provenance.ended", "provenance.host"]).to_csv(sweeps / "planted.csv", index=False)
    return runs_dir, frame


def test_records_are_taken_if_they_cover_the_committed_grid_on_any_corpus(clone):
    runs_dir, frame = clone
    assert "committed answer" in choose_table("planted", runs_dir)[1]
    local = frame.assign(**{"task.corpus_sha256": "another", "run_id": [f"x{i}" for i in range(len(frame))]})
    local.to_parquet(runs_dir / "planted" / "stack-a-0.parquet")
    taken, sentence = choose_table("planted", runs_dir)
    assert "local records" in sentence
    assert len(taken) == len(frame)


@pytest.mark.parametrize("damage", ["a run is missing", "a run has failed", "another horizon"])
def test_records_that_do_not_cover_the_grid_leave_the_committed_answer(clone, damage):
    runs_dir, frame = clone
    if damage == "a run is missing":
        frame = frame.iloc[1:]
    elif damage == "a run has failed":
        frame.loc[0, "status"] = "failed"
    else:
        frame.loc[0, ["num_samples", "num_steps"]] = 4096, 512
    frame.to_parquet(runs_dir / "planted" / "stack-a-0.parquet")
    sentence = choose_table("planted", runs_dir)[1]
    assert "committed answer" in sentence
    assert "lack 1 of its" in sentence


def test_equal_configurations_match_whatever_their_type_in_the_file():
    local = pd.DataFrame(
        {
            "status": ["done"],
            "batch_size": [8],
            "optimizer.lr": [1 / 3],
            "model.norm": [False],
            "optimizer.eps": [None],
        }
    )
    committed = pd.DataFrame(
        {"batch_size": [8.0], "optimizer.lr": [0.333333333], "model.norm": [False], "optimizer.eps": [np.nan]}
    )
    assert count_missing(local, committed) == 0
    assert count_missing(local, committed.assign(batch_size=16)) == 1


def test_an_unknown_sweep_names_the_nearest(clone):
    runs_dir, _ = clone
    (tables.SWEEPS_DIR / "planted.yaml").write_text("")
    with pytest.raises(ValueError, match=r"'plantd' is not one of the sweeps planted \(did you mean planted\?\)"):
        choose_table("plantd", runs_dir)


def test_an_option_that_came_later_and_is_off_makes_no_group():
    frame = pd.DataFrame({"batch_size": 8, "lr": [0.1, 0.2, 0.4] * 2, "loss": 1.0, "seed": [0] * 3 + [1] * 3})
    frame["optimizer.eps_inside"] = [None] * 3 + [False] * 3
    assert tidy_runs(frame).groups == ()
    assert count_missing(frame.assign(status="done"), frame.assign(**{"optimizer.eps_inside": False})) == 0
    frame["optimizer.eps_inside"] = [None] * 3 + [True] * 3
    assert tidy_runs(frame).groups == ("optimizer.eps_inside",)


def test_runs_that_diverged_early_belong_to_the_horizon_of_their_cell():
    frame = plant_table(lambda b: 0.002 * b**0.5)
    frame.loc[frame["batch_size"] > 64, "num_samples"] *= 4  # one horizon a batch size, and a second at 1024
    frame = pd.concat([frame, frame[frame["batch_size"] == 1024].assign(num_samples=32768)], ignore_index=True)
    bad = (frame["optimizer.lr"] > 2**-3) & (frame["batch_size"] != 1024)
    frame.loc[bad, "loss"], frame.loc[bad, "status"], frame.loc[bad, "num_samples"] = np.nan, "diverged", 999
    runs = tidy_runs(frame)
    assert runs.groups == ("num_samples",)
    assert set(runs.frame["num_samples"]) == {32768, 131072}
    assert (runs.frame["status"] == "diverged").sum() == bad.sum()
    lost = (frame["optimizer.lr"] > 2**-3) & (frame["batch_size"] == 1024) & (frame["num_samples"] == 32768)
    frame.loc[lost, "loss"], frame.loc[lost, "status"], frame.loc[lost, "num_samples"] = np.nan, "diverged", 999
    runs = tidy_runs(frame)
    assert set(runs.frame["num_samples"]) == {32768, 131072}
    assert f"{lost.sum()} runs that diverged do not tell which num_samples" in " ".join(runs.notes)


@pytest.mark.filterwarnings("error")
def test_runs_that_repeat_a_diverged_one_are_compared_without_its_loss():
    frame = plant_table(lambda b: 0.002 * b**0.5)
    again = frame[:2].assign(loss=np.nan, status="diverged")
    both = tidy_runs(pd.concat([frame, again, again.tail(1)], ignore_index=True))
    assert "3 runs repeat a configuration: the last of each is used; 2 of them disagree" in both.notes
