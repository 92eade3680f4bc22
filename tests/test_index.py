"""Oracle: the record files read one by one, and planted damage to the index."""

import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.index import WORTH_IT, read_table
from harness.records import read_ended, read_records, write_records

COUNT = WORTH_IT + 10


def write(folder, number, loss=0.5):
    rows = [
        {
            "run_id": f"{number}-{lane}", "status": "done", "message": "", "loss": loss + lane, "optimizer.lr": 0.1,
            "history.step": [1, 2], "history.loss": [loss, float(number)], "provenance.ended": "2026-01-01T00:00:00",
        }
        for lane in range(2)
    ]  # fmt: skip
    return write_records(folder, f"{number:06d}", rows, columns={"optimizer.lr": float}, metrics=["grad_norm"])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    for number in range(COUNT):
        write(folder, number)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written, tmp_path / "s")


def one_by_one(folder):
    whole = pd.concat([pq.read_table(path).to_pandas() for path in sorted(folder.glob("*.parquet"))])
    return listed(whole)


def listed(frame):
    frame = frame.sort_values("run_id").reset_index(drop=True)
    curves = [name for name in frame if name.startswith("history.")]
    return frame.assign(**{name: [None if x is None else list(x) for x in frame[name]] for name in curves})


def check(folder):
    pd.testing.assert_frame_equal(listed(read_table(folder).to_pandas()), one_by_one(folder), check_exact=True)
    pd.testing.assert_frame_equal(listed(read_records(folder)), one_by_one(folder), check_exact=True)
    assert read_ended(folder) == set(one_by_one(folder)["run_id"])


def indexes(folder):
    return sorted((folder / ".index").glob("*"))


def test_with_an_index_all_is_as_without(folder):
    check(folder)
    (index,) = indexes(folder)
    check(folder)
    new = write(folder, COUNT)
    check(folder)
    new.unlink()
    (folder / "stack-000003-0.parquet").unlink()
    check(folder)
    changed = folder / "stack-000004-0.parquet"
    changed.unlink()
    write(folder, 4, loss=0.25)
    check(folder)
    assert indexes(folder) == [index]


def test_many_new_files_make_a_new_index_and_the_old_one_goes(folder):
    check(folder)
    (old,) = indexes(folder)
    for path in sorted(folder.glob("stack-*.parquet")):
        shutil.copy2(path, path.with_name(path.name.replace("-0.parquet", "-1.parquet")))
    frame = read_table(folder).to_pandas()
    assert len(frame) == 4 * COUNT
    (new,) = indexes(folder)
    assert new != old
    pd.testing.assert_frame_equal(read_table(folder).to_pandas(), frame)


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None], ids=["empty", "torn", "of something else"])
def test_a_damaged_index_changes_nothing(folder, content):
    check(folder)
    (index,) = indexes(folder)
    index.write_bytes(content if content is not None else next(folder.glob("*.parquet")).read_bytes())
    check(folder)


def test_a_few_files_need_no_index(tmp_path):
    for number in range(3):
        write(tmp_path, number)
    check(tmp_path)
    assert indexes(tmp_path) == []
