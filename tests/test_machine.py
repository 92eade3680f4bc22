"""Oracle: files as Linux's control groups write them, and counts by hand."""

import os
import threading

import pytest

from harness import machine
from harness.config import run_id
from harness.log import read_log
from harness.machine import available_cores, available_memory
from harness.plan import make_plan
from harness.plan_file import newest_revision, open_plan, read_plan
from harness.records import read_records
from harness.worker import run_stack

MEMORY = available_memory()
CORES = len(os.sched_getaffinity(0))
UNLIMITED = "9223372036854771712"  # as version 1 says


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "CONTROL_GROUP", tmp_path)

    def write(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/").replace("_max", ".max").replace("_cfs", ".cfs")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory_max": "1000000\n"}, 10**6),
        ({"memory_max": "max\n"}, None),
        ({"memory__memory.limit_in_bytes": "1000000\n"}, 10**6),
        ({"memory__memory.limit_in_bytes": f"{UNLIMITED}\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_memory_is_its_limit(group, files, expected):
    group(**files)
    assert available_memory() == expected or (expected is None and 0.5 < available_memory() / MEMORY < 2)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu_max": "150000 100000\n"}, 1),
        ({"cpu_max": "50000 100000\n"}, 1),
        ({"cpu_max": "6400000 100000\n"}, CORES),
        ({"cpu_max": "max 100000\n"}, CORES),
        ({"cpu__cpu_cfs_quota_us": "100000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 1),
        ({"cpu__cpu_cfs_quota_us": "-1\n", "cpu__cpu_cfs_period_us": "100000\n"}, CORES),
        ({}, CORES),
    ],
)
def test_a_containers_cores_are_its_quota(group, files, expected):
    group(**files)
    assert available_cores() == expected


def test_a_stack_that_cannot_fit_is_halved_before_it_is_begun(make_run, tmp_path, monkeypatch):
    configs = [make_run(num_samples=64, optimizer={"lr": 0.01 * (i + 1)}) for i in range(4)]
    runs, folder = {run_id(config): config for config in configs}, tmp_path / "s"
    folder.mkdir()
    metrics = {"num_evals": 1, "num_examples": 8}
    path, _ = open_plan(
        folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=4, metrics=metrics)
    )
    size = 28992 * 4 * (3 + 2)  # of a run: Adam keeps two moments. Of four runs two fit
    monkeypatch.setattr("harness.estimate.available_memory", lambda: 2.2 * size / 0.8)
    monkeypatch.setattr("harness.estimate.available_cores", lambda: 1)
    told = []
    how = {"report": told.append, "stop": threading.Event(), "checkpoint": 60.0, "lease": 60.0}
    assert run_stack(path, 0, "cpu", **how)
    assert {"halved": "out of memory"} in told
    path = newest_revision(folder, "0123")
    assert [len(stack.runs) for stack in read_plan(path).stacks] == [2, 2]
    for index in (0, 1):
        assert run_stack(path, index, "cpu", **how)
    assert read_records(folder)["status"].tolist() == ["done"] * 4
    assert [entry["event"] for entry in read_log(folder)] == ["halved", "start", "end", "start", "end"]
