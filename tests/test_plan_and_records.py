"""Oracle: what the test itself wrote, counts by hand, and pyarrow, pandas or the file system as readers."""

import hashlib
import json
import threading
from functools import partial

import pandas as pd
import pyarrow.parquet as pq
import pytest

from harness.config import run_id
from harness.corpus import read_corpus
from harness.launch import since_when, train_missing
from harness.plan import Stack, make_plan, shape_of
from harness.plan_file import name_request, open_plan, read_plan, read_stack, revise
from harness.records import (
    append_mirrored,
    load_corpus,
    publish,
    read_ended,
    read_mirrored,
    read_records,
    store_corpus,
    writable_folder,
    write_records,
)
from harness.sweep import Sweep

METRICS = {"num_evals": 2, "num_examples": 16}


def by_id(configs):
    return {run_id(config): config for config in configs}


@pytest.fixture
def runs(make_run):
    return by_id(
        make_run(batch_size=b, seed=s, optimizer={"lr": lr})
        for b in (8, 16) for s in (0, 1) for lr in (0.001, 0.01, 0.1)
    )  # fmt: skip


def test_stacks_hold_one_shape_and_every_run_once(runs):
    plan = make_plan("s", runs, device="cpu", width=3, metrics=METRICS)
    assert sorted(name for stack in plan.stacks for name in stack.runs) == sorted(runs)
    assert [len(stack.runs) for stack in plan.stacks] == [3] * 4
    for stack in plan.stacks:
        assert len({shape_of(config) for config in stack.runs.values()}) == 1
        assert len({config.seed for config in stack.runs.values()}) == 1
    assert [stack.first.batch_size for stack in plan.stacks] == [8, 8, 16, 16]  # longest first


def test_what_shapes_the_program_is_not_mixed(make_run):
    configs = [
        make_run(), make_run(model={"norm": True}), make_run(precision="float64"), make_run(num_samples=512),
        make_run(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": True, "weight_decay": 0.0}),
        make_run(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0}),
        make_run(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}),
    ]  # fmt: skip
    plan = make_plan("s", by_id(configs), device="cpu", width=None, metrics=METRICS)
    assert sorted(len(stack.runs) for stack in plan.stacks) == [1, 1, 1, 1, 1, 2]


def dropouts(make_run, values):
    """Runs of a user's module, one of whose options is null in its YAML: nothing gives its values one type."""
    return by_id(make_run(model={"name": "nets:Net", "dropout": value}) for value in values)


def test_a_column_holds_the_values_of_all_runs(make_run, tmp_path):
    runs = dropouts(make_run, [0.1, 0, None])
    plan = make_plan("s", runs, device="cpu", width=None, metrics=METRICS)
    assert plan.columns["model.dropout"] is float
    rows = [{"run_id": name, "model.dropout": config.model["dropout"]} for name, config in runs.items()]
    frame = pd.read_parquet(write(tmp_path, "a", rows, plan.columns))
    assert frame["model.dropout"].tolist()[:2] == [0.1, 0.0]
    assert frame["model.dropout"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize("values", [[0.5, True, 0], ["none", 0.5], [True, 1]])
def test_a_column_of_mixed_kinds_is_told_before_anything_is_trained(make_run, values):
    with pytest.raises(
        ValueError, match=r"model.dropout has values of several kinds \(.*\): give it numbers only"
    ) as told:
        make_plan("s", dropouts(make_run, values), device="cpu", width=None, metrics=METRICS)
    assert all(repr(value) in str(told.value) for value in values)


def test_widths_are_even(make_run):
    runs = by_id(make_run(optimizer={"lr": 0.001 * (i + 1)}) for i in range(14))
    plan = make_plan("s", runs, device="cpu", width=12, metrics=METRICS)
    assert [len(stack.runs) for stack in plan.stacks] == [7, 7]


def ask(runs, width=3, since=None):
    options = {"device": "cpu", "width": width, "metrics": METRICS, "since": since}
    return name_request("s", runs, **options), partial(make_plan, "s", **options)


def open_for(folder, runs, ended=(), **options):
    request, lay = ask(runs, **options)
    return open_plan(folder, request, runs, ended, lay)


def test_a_plan_is_fixed_once_and_read_back_equal(runs, tmp_path):
    path, opened = open_for(tmp_path, runs)
    assert path.name == f"plan-{ask(runs)[0]}-0.json"
    assert opened == read_plan(path) == make_plan("s", runs, device="cpu", width=3, metrics=METRICS)
    before = path.stat().st_mtime_ns
    assert open_for(tmp_path, runs) == (path, opened)
    assert path.stat().st_mtime_ns == before
    assert open_for(tmp_path, runs, width=2)[0] != path
    assert json.loads(path.read_text())["stacks"][0]["lanes"] == {"optimizer.lr": [0.001, 0.01, 0.1]}


def test_a_worker_reads_its_stack_alone(runs, tmp_path):
    path, plan = open_for(tmp_path, runs)
    for index, stack in enumerate(plan.stacks):
        alone, columns = read_stack(path, index)
        assert alone.stacks == (stack,)
        assert columns == plan.columns


def test_what_runs_ended_meanwhile_changes_no_plan(runs, tmp_path):
    first = open_for(tmp_path, runs, ended=list(runs)[:4])
    assert sorted(name for stack in first[1].stacks for name in stack.runs) == sorted(list(runs)[4:])
    assert open_for(tmp_path, runs, ended=list(runs)[:8]) == first


def test_runs_whose_records_were_deleted_come_back_in_a_new_revision(runs, tmp_path):
    _, old = open_for(tmp_path, runs, ended=list(runs)[:4])
    path, new = open_for(tmp_path, runs, ended=list(runs)[:1])
    assert path.name.endswith("-1.json")
    assert new.stacks[: len(old.stacks)] == old.stacks
    assert sorted(name for stack in new.stacks for name in stack.runs) == sorted(list(runs)[1:])
    assert read_plan(path) == new


def test_what_is_trained_again_goes_on_until_all_of_it_ended(runs, tmp_path):
    def since_of(asked=runs, width=3):
        return since_when(tmp_path, asked, lambda since: ask(asked, width, since)[0])

    def end(names, when):
        columns = {"optimizer.lr": float}
        write(tmp_path, "a", [{"run_id": name, "provenance.ended": when} for name in names], columns)

    names = list(runs)
    open_for(tmp_path, runs)  # no refresh
    end(names, "2026-01-01T00:00:00")
    assert since_of() > "2026-02"
    for since in ("2026-01-02T00:00:00", "2026-01-03T00:00:00"):
        open_for(tmp_path, runs, since=since)
    end(names[1:], "2026-01-04T00:00:00")
    assert since_of() == "2026-01-03T00:00:00"
    assert since_of(width=2) > "2026-02"  # another request
    assert since_of({names[0]: runs[names[0]]}) > "2026-02"
    end(names[:1], "2026-01-04T00:00:00")
    assert since_of() > "2026-02"


def test_runs_that_follow_from_results_are_trained_again_under_one_time(runs, tmp_path, monkeypatch):
    """An adaptive refresh that was cut off: by the results that it had, its grid now asks for other runs."""
    monkeypatch.setattr("harness.launch.LAUNCHERS", {"none": lambda *arguments, **options: (x for x in ())})
    launcher = {"name": "none", "device": "cpu", "width": 3, "workers": 1, "compile": "never", "micro_batch": None,
                "memory_share": 0.8, "checkpoint": 60.0, "lease": 60.0}  # fmt: skip
    settings = {"launcher": launcher, "metrics": METRICS, "runs_dir": str(tmp_path), "save_weights": False}
    folder, names = tmp_path / "s", list(runs)
    folder.mkdir()
    for some in (names[:6], names[3:9]):
        sweep = Sweep("s", "?", {name: runs[name] for name in some})
        train_missing(settings, sweep, folder, again=True, asked=["a grid of its results"])
    first, second = (read_plan(path) for path in sorted(folder.glob("plan-*.json")))
    assert first.since == second.since is not None
    assert {name for stack in second.stacks for name in stack.runs} == set(names[:9])


def test_a_stack_is_halved_once_however_many_ask(runs, tmp_path):
    path, plan = open_for(tmp_path, runs)
    gone = list(plan.stacks[1].runs)[:1]
    threads = [threading.Thread(target=revise, args=(path, plan, i)) for i in (0, 0, 2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    newest, new = revise(path, plan, 1, gone)
    assert newest.name.endswith("-3.json")
    assert new == read_plan(newest)
    assert [len(stack.runs) for stack in new.stacks[:4]] == [1, 1, 1, 3]
    assert sorted(len(stack.runs) for stack in new.stacks[4:]) == [1, 2, 2]
    assert sorted(name for stack in new.stacks for name in stack.runs) == sorted(set(runs) - set(gone))
    assert revise(path, plan, 1, gone) == (newest, new)
    assert read_plan(path) == plan


def test_who_comes_second_does_not_halve_the_half(runs, tmp_path):
    path, plan = open_for(tmp_path, runs, width=6)
    revise(path, plan, 0)
    assert [len(stack.runs) for stack in revise(path, plan, 0)[1].stacks] == [3, 6, 3]


def test_publish_never_overwrites_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "x"
    results = []
    threads = [threading.Thread(target=lambda i=i: results.append((publish(path, b"%d" % i), i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [i for won, i in results if won]
    assert path.read_bytes() == b"%d" % winner
    assert list(tmp_path.iterdir()) == [path]


def write(folder, name, rows, columns=None):
    ended = {"status": "done", "message": "", "provenance.ended": "2026-01-01T00:00:00"}
    rows = [{**ended, **row} for row in rows]
    return write_records(folder, name, rows, columns=columns or {"optimizer.lr": float}, metrics=["grad_norm"])


def test_records_read_back_to_the_last_digit(tmp_path):
    curve = {"history.step": [1, 2], "history.loss": [0.1 + 0.2, 1 / 3]}
    path = write(tmp_path, "a", [{"run_id": "r", "optimizer.lr": 0.1 + 0.2, "loss": 1 / 3, **curve}])
    row = read_records(tmp_path).iloc[0]
    assert (row["optimizer.lr"], row["loss"]) == (0.1 + 0.2, 1 / 3)
    assert list(row["history.loss"]) == [0.1 + 0.2, 1 / 3]
    assert pd.read_parquet(path)["optimizer.lr"][0] == 0.1 + 0.2


def test_files_of_a_sweep_share_one_schema(tmp_path):
    columns = {"optimizer.lr": float, "optimizer.beta1": float, "model.norm": bool}
    first = write(tmp_path, "a", [{"run_id": "r", "optimizer.lr": 0.1}], columns)
    second = write(tmp_path, "b", [{"run_id": "q", "optimizer.beta1": 0.9, "model.norm": True}], columns)
    assert pq.read_schema(first) == pq.read_schema(second)


def test_attempts_are_kept_and_the_newest_that_ended_counts(tmp_path):
    write(tmp_path, "a", [{"run_id": "r", "loss": 1.0}])
    write(tmp_path, "a", [{"run_id": "r", "loss": 2.0, "provenance.ended": "2026-01-02T00:00:00"}])
    write(
        tmp_path,
        "a",
        [{"run_id": "r", "loss": 3.0, "status": "failed", "provenance.ended": "2026-01-03T00:00:00"}],
    )
    assert sorted(p.name for p in tmp_path.glob("*.parquet")) == [f"stack-a-{i}.parquet" for i in range(3)]
    assert read_records(tmp_path)["loss"].tolist() == [2.0]
    assert read_ended(tmp_path) == {"r"}
    assert read_ended(tmp_path, since="2026-01-02T12:00:00") == set()


def test_only_runs_that_ended_need_no_training(tmp_path):
    rows = [{"run_id": status, "status": status} for status in ("done", "diverged", "failed", "running")]
    write(tmp_path, "a", rows)
    assert read_ended(tmp_path) == {"done", "diverged"}
    assert read_ended(tmp_path / "nothing") == set()


def test_unreadable_records_are_told(tmp_path):
    with pytest.raises(ValueError, match="no records in"):
        read_records(tmp_path)
    (tmp_path / "stack-x-0.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(ValueError, match="stack-x-0.parquet cannot be read"):
        read_records(tmp_path)


def test_a_folder_that_cannot_be_written_is_told():
    with pytest.raises(ValueError, match="runs_dir='/proc/nowhere' cannot be written to"):
        writable_folder("runs_dir", "/proc/nowhere", "s")


def test_others_may_read_what_is_published(tmp_path):
    publish(tmp_path / "x", b"1")
    (tmp_path / "y").write_bytes(b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "y").stat().st_mode


def test_the_log_of_the_mirror_survives_a_torn_line_and_knows_projects_apart(tmp_path):
    def there(project="p", entity="", online=False):
        return read_mirrored(tmp_path, project, entity, online=online)

    assert there() == set()
    append_mirrored(tmp_path, "r", "t", "offline", project="p", entity="")
    with (tmp_path / "mirrored.jsonl").open("a") as file:
        file.write('{"run_id": "q", "en')
    assert there() == {("r", "t")}
    append_mirrored(tmp_path, "q", "u", "online", project="p", entity="")
    assert there() == {("r", "t"), ("q", "u")}
    assert there(online=True) == {("q", "u")}
    assert there("other") == there("p", "team") == set()


def test_a_stored_corpus_is_the_one_its_name_says(tmp_path):
    (tmp_path / "text").write_text("some words " * 100)
    task = {"name": "text", "path": str(tmp_path / "text"), "context": 4}
    corpus = read_corpus(task)
    store_corpus(tmp_path, corpus)
    named = {**task, "path": "/gone", "corpus_sha256": corpus.sha256}
    assert load_corpus(named, tmp_path) == corpus
    (stored,) = (tmp_path / ".corpus").iterdir()
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == stored.stem == corpus.sha256
    stored.write_bytes(stored.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no longer the one"):
        load_corpus(named, tmp_path)
    with pytest.raises(ValueError, match="no longer the one"):
        load_corpus({**task, "corpus_sha256": "0" * 64}, None)


def test_a_stack_without_what_is_done(runs):
    stack = Stack(runs)
    some = set(list(runs)[:5])
    assert set(stack.without(some).runs) == set(runs) - some
    assert stack.without(some).name != stack.name
