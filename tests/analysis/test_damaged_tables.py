"""Oracle: one good table, damaged in one way at a time, through the command that a user types."""

import numpy as np
import pandas as pd
import pytest

from analysis.plot import main
from analysis.rates import find_clusters
from analysis.runs import tidy_runs
from analysis.tables import read_table, rename_columns

RNG = np.random.default_rng(0)
GOOD = pd.DataFrame(
    [
        (b, lr, seed, 2 + 0.1 * (np.log2(lr) + 8 - 0.5 * np.log2(b / 16)) ** 2 + RNG.normal(0, 0.003))
        for b in (16, 32, 64) for lr in 0.0005 * 2.0 ** np.arange(7) for seed in (0, 1, 2)
    ],
    columns=["batch_size", "lr", "seed", "loss"],
)  # fmt: skip
TEXT = GOOD.to_csv(index=False)


def with_columns(**columns):
    return GOOD.assign(**columns).to_csv(index=False)


def with_cell(column, value):
    frame = GOOD.astype(object)
    frame.loc[3, column] = value
    return frame.to_csv(index=False)


MISTAKES = {
    "no loss": (GOOD.drop(columns="loss").to_csv(index=False), "no column 'loss'"),
    "text as loss": (with_cell("loss", "abc"), "run 4: loss is 'abc', which is no number"),
    "long text": (with_cell("loss", "x" * 200000), "which is no number"),
    "one lr": (with_columns(lr=0.001), "needs at least 3 learning rates"),
    "all diverged": (with_columns(loss=np.nan), "no finished runs (63 diverged)"),
    "all losses huge": (with_columns(loss=1e308), "no finished runs (63 diverged)"),
    "empty": ("", "is empty: it needs a header line"),
    "header only": ("batch_size,lr,seed,loss\n", "is empty: it needs one row a run"),
    "semicolons": (TEXT.replace(",", ";"), "separated by semicolons: save it with commas"),
    "tabs": (TEXT.replace(",", "\t"), "separated by tabs"),
    "decimal commas": (TEXT.replace(",", ";").replace(".", ","), "with points in numbers"),
    "lr 0": (with_cell("lr", 0), "optimizer.lr=0 is not a number above zero"),
    "negative lr": (with_cell("lr", -1), "optimizer.lr=-1 is not a number above zero"),
    "true as loss": (with_columns(loss=True), "loss holds true and false"),
    "true as lr": (with_columns(lr=True), "optimizer.lr holds true and false"),
    "two columns lr": (TEXT.replace("seed", "lr", 1), "names 'lr' twice"),
    "two columns loss": (TEXT.replace("seed", "loss", 1), "names 'loss' twice"),
    "binary": (bytes(range(256)) * 20, "no text in UTF-8"),
    "UTF-16": (TEXT.encode("utf-16"), "no text in UTF-8"),
    "latin-1": ("batch_size,lr,loss,größe\n8,0.1,1,2\n".encode("latin-1"), "no text in UTF-8"),
    "infinite batch size": (with_cell("batch_size", "inf"), "batch_size=inf is not a whole number"),
    "huge batch size": (with_cell("batch_size", 1e300), "batch_size=1e+300 is not a whole number"),
    "huge seed": (with_cell("seed", 1e300), "seed=1e+300 is not a whole number"),
    "foreign status": (with_columns(status="finished"), "(did you mean done?)"),
}
NOTES = {
    "one loss of 1e308": (with_cell("loss", 1e308), "1 loss is beyond 1e+100: taken as diverged"),
    "one loss missing": (with_cell("loss", ""), "1 run has no loss and no status"),
    "one loss for all": (with_columns(loss=2.0), "all 63 losses are the same"),
    "a run twice": (TEXT + "16,0.0005,0,9.0\n", "1 of them disagree"),
    "seeds missing": (GOOD.drop(index=[5, 30]).to_csv(index=False), "batch size 16: lr 0.001 has 2 of 3 seeds"),
    "rates apart by rounding": (with_columns(lr=GOOD["lr"] * (1 + 1e-6 * GOOD["seed"])), "taken as rounded"),
    "byte order mark": ("\ufeff" + TEXT, None),
}


def run(folder, content, capsys, *arguments):
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = main(["--runs", str(path), "--out", str(folder / "figures"), *arguments])
    return code, capsys.readouterr()


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_damaged_table_is_told_in_one_line(tmp_path, capsys, kind):
    content, words = MISTAKES[kind]
    code, printed = run(tmp_path, content, capsys)
    assert code == 2
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 400
    assert words in printed.err
    assert not (tmp_path / "figures").exists()


def test_a_torn_parquet_is_told_in_one_line(tmp_path, capsys):
    path = tmp_path / "torn.parquet"
    GOOD.to_parquet(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert main(["--runs", str(path)]) == 2
    assert "cannot be read as parquet" in capsys.readouterr().err


@pytest.mark.parametrize("columns", ["lr=lr,loss=lr", "lr=lr,lr=loss"])
def test_a_column_mapped_twice_is_told(tmp_path, capsys, columns):
    code, printed = run(tmp_path, TEXT, capsys, "--columns", columns)
    assert code == 2
    assert "--columns names 'lr' twice" in printed.err


@pytest.mark.parametrize("kind", NOTES)
def test_what_is_mended_is_told_in_a_note(tmp_path, kind):
    content, words = NOTES[kind]
    (tmp_path / "table.csv").write_text(content)
    runs = tidy_runs(rename_columns(read_table(tmp_path / "table.csv"), {}), "table.csv")
    assert runs.frame["optimizer.lr"].nunique() == 7
    if words is None:
        assert runs.notes == ()
    else:
        assert any(words in note for note in runs.notes), runs.notes


def test_rates_of_a_fine_grid_stay_apart_and_rounded_ones_are_joined():
    fine = np.array([0.1, 0.1005, 0.101])  # steps of half a percent
    assert [len(cluster) for cluster in find_clusters(fine)] == [1, 1, 1]
    rounded = np.array([0.00123, 0.001234, 0.0024, 0.0025])
    assert [len(cluster) for cluster in find_clusters(rounded)] == [2, 1, 1]
