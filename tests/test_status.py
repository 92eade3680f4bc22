"""Oracle: counts by hand of what the test itself wrote or started."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.config import flatten, run_id
from harness.leases import acquire
from harness.log import count_trainings, log_event, read_log, trained_twice
from harness.plan import make_plan
from harness.plan_file import open_plan
from harness.records import write_records
from harness.status import read_status

METRICS = {"num_evals": 2, "num_examples": 16}


def status(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "harness.status", *arguments],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def write(folder, configs, state, code="a" * 64, message=""):
    columns = {name: type(value) for name, value in flatten(configs[0]).items()}
    rows = [
        {
            "run_id": run_id(c), "sweep": "s", "status": state, "message": message, **flatten(c),
            "provenance.ended": "2026-01-01T00:00:00", "provenance.code_sha256": code, "provenance.seconds": 2.0,
        }
        for c in configs
    ]  # fmt: skip
    write_records(folder, f"x{state}{code[0]}", rows, columns=columns, metrics=["grad_norm"])


@pytest.fixture
def sweep(make_run, tmp_path):
    """12 runs in stacks of 2: 3 done (2 by one code, 1 by another), 1 diverged, 2 failed, 2 lost, 2 in training."""
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    configs = [make_run(optimizer={"lr": 0.001 * (i + 1)}) for i in range(12)]
    runs = {run_id(config): config for config in configs}
    open_plan(folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=METRICS))
    write(folder, configs[:2], "done")
    write(folder, configs[2:3], "done", code="b" * 64)
    write(folder, configs[3:4], "diverged")
    write(folder, configs[4:6], "failed", message="RuntimeError: no")
    _, plan = open_plan(folder, "0123", runs, (), make_plan)
    lost, training = plan.stacks[3], plan.stacks[4]
    log_event(folder, "start", lost.name, runs=2, step=0, since=None, run_ids=list(lost.runs))
    log_event(folder, "failed", lost.name, message="their worker was ended by signal 9")
    acquire(folder, training.name, training.runs, 60)
    return folder


def test_every_run_is_counted_once(sweep):
    found = read_status(sweep)
    assert found.counts == {"done": 3, "diverged": 1, "running": 2, "waiting": 2, "failed": 4}
    assert {text: len(runs) for text, runs in found.failures.items()} == {
        "RuntimeError: no": 2, "their worker was ended by signal 9": 2,
    }  # fmt: skip
    assert found.codes == {"a" * 64: 3, "b" * 64: 1}
    assert found.left == pytest.approx(2.0 * 4)  # 2 s a run, one worker, four runs of the same cost


def test_what_ended_before_a_refresh_counts_unless_it_is_under_way(make_run, tmp_path):
    config = make_run()
    runs, options = {run_id(config): config}, {"device": "cpu", "width": 2, "metrics": METRICS}
    _, plan = open_plan(
        tmp_path, "0123", runs, (), lambda missing: make_plan("s", missing, **options, since="2026-01-02")
    )
    none = dict.fromkeys(("done", "diverged", "running", "waiting", "failed"), 0)
    assert read_status(tmp_path).counts == none | {"waiting": 1}
    write(tmp_path, [config], "done")
    found = read_status(tmp_path)
    assert (found.counts, found.again) == (none | {"done": 1}, 1)
    lease, _ = acquire(tmp_path, plan.stacks[0].name, runs, 60)
    found = read_status(tmp_path)
    assert (found.counts, found.again) == (none | {"running": 1}, 0)
    # on another machine, and silent for a while
    lease.path.write_text(json.dumps(lease.content | {"machine": "another", "seconds": 1.0}))
    os.utime(lease.path, (time.time() - 90, time.time() - 90))
    assert read_status(tmp_path).counts == none | {"done": 1}
    assert read_status(tmp_path, 120.0).counts == none | {"running": 1}


def test_the_lease_that_was_typed_counts(sweep, tmp_path):
    (path,) = (sweep / ".leases").iterdir()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"machine": "another"}))
    os.utime(path, (time.time() - 90, time.time() - 90))
    assert "in training" not in status(tmp_path, "sweep=s").stdout
    assert "in training" in status(tmp_path, "sweep=s", "launcher.lease=300").stdout


def test_it_is_printed_without_torch(sweep, tmp_path):
    done = status(tmp_path, "sweep=s", "optimizer=sgd")
    assert done.returncode == 0, done.stderr
    assert re.search(r"s\W+3\W+1\W+2\W+2\W+4\b", done.stdout)
    assert f"pid {os.getpid()} on " in done.stdout
    assert "before its first checkpoint" in done.stdout
    assert "2 failed, e.g. " in done.stdout
    assert "results of different code: 3 with aaaaaaaaaaaa, 1 with bbbbbbbbbbbb" in done.stdout
    assert "about 0:00:08 left" in done.stdout
    code = "import sys, harness.status; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep=lr_vs_bz"], "did you mean lr_vs_bs?"),
        (["sweep=smoke"], "train it with python -m harness sweep=smoke, or give runs_dir=DIR"),
        (["sweep=s", "runs_dir=nowhere"], "no records of 's' in nowhere"),
        ([], "give the sweep"),
        (["sweep=s", "launcher.lease=long"], "launcher.lease='long' is no number"),
        (["smoke"], "give the sweep"),
        (["watch=perhaps"], "watch='perhaps' is not one of false, true"),
        (["sweap=smoke"], "sweap is no option here (did you mean sweep?)"),
        (["optimizer=sgd"], "no sweep is in runs"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, words):
    done = status(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_every_sweep_is_counted(sweep, tmp_path):
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "stack-x-0.parquet").write_text("no table")
    done = status(tmp_path)
    assert done.returncode == 0
    assert re.search(r"s\W+3\W+1\W+2\W+2\W+4\b", done.stdout)
    assert done.stderr.startswith("broken: ")
    assert "runs_dir=DIR" in status(tmp_path, "--help").stdout


def test_an_empty_folder_is_told(tmp_path):
    (tmp_path / "runs" / "s").mkdir(parents=True)
    said = status(tmp_path, "sweep=s").stderr
    assert said == "error: nothing of this sweep is in runs/s: train it first, or give runs_dir=DIR\n"


def event(name, stack="x", **details):
    return {"event": name, "stack": stack, "time": f"2026-01-01T00:00:0{details.pop('at', 0)}", **details}


def begin(*runs, stack="x", step=0, since=None):
    return event("start", stack, run_ids=list(runs), step=step, since=since)


@pytest.mark.parametrize(
    ("entries", "twice"),
    [
        ([begin("a", "b"), event("end"), begin("c", stack="y"), event("end", "y")], []),
        ([begin("a"), begin("a")], ["a"]),
        ([begin("a"), begin("b", "a", stack="y")], ["a"]),
        ([begin("a"), event("taken over"), begin("a", step=3), event("end")], []),
        ([begin("a"), event("taken over", "y"), begin("a")], ["a"]),
        ([begin("a"), event("halved"), begin("a", stack="y"), event("stopped", "y"), begin("a", stack="y")], []),
        ([begin("a"), event("end", at=5), begin("a")], ["a"]),
        ([begin("a"), event("end", at=5), begin("a", since="2026-01-01T00:00:04")], ["a"]),
        ([begin("a"), event("end", at=5), begin("a", since="2026-01-01T00:00:06")], []),
    ],
)
def test_trainings_begun_twice_are_found(entries, twice):
    assert trained_twice(entries) == twice


def test_trainings_are_counted_from_their_first_step():
    log = [begin("a", "b"), event("stopped"), begin("a", "b", step=7), event("end"), begin("a", since="later")]
    assert count_trainings(log) == {"a": 2, "b": 1}


def test_torn_lines_of_the_log_are_passed_over_and_lines_do_not_mix(tmp_path):
    log_event(tmp_path, "end", "x")
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"event": "sta')
    code = "import sys; from pathlib import Path; from harness.log import log_event\n" + (
        "for i in range(200): log_event(Path(sys.argv[1]), 'end', sys.argv[2] * 500)"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [writer.wait() for writer in writers] == [0, 0]
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert sum(entry["stack"] in ("a" * 500, "b" * 500) for entry in read_log(tmp_path)) == 400
    assert [line for line in lines if line and not is_json(line)] == ['{"event": "sta']


def is_json(line):
    try:
        json.loads(line)
    except json.JSONDecodeError:
        return False
    return True


def test_the_harness_files_are_no_part_of_status():
    text = (Path(__file__).resolve().parents[1] / "harness" / "status.py").read_text()
    assert "publish" not in text
    assert "append_line" not in text
