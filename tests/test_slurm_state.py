"""Oracle: what SLURM 22.05's squeue and sacct print, taken down by hand."""

import os

from harness.launchers.slurm_state import FORGOTTEN, JobStates, State, read_sacct, read_squeue

SQUEUE = """12_3|PENDING||Priority
12_0|RUNNING|node[7-8]|None
13|COMPLETED|vm|None
14|PENDING||BeginTime
"""
SACCT = """12_0|COMPLETED|vm
12_1|CANCELLED by 1000|vm
12_2|OUT_OF_MEMORY|vm
12_[3-9]|PENDING|None assigned
"""


def test_answers_are_read():
    assert read_squeue(SQUEUE) == {
        "12_3": State("PENDING", "(Priority)"), "12_0": State("RUNNING", "on node[7-8]"),
        "13": State("COMPLETED", "on vm"), "14": State("PENDING", "(BeginTime)"),
    }  # fmt: skip
    assert {job: state.code for job, state in read_squeue(SQUEUE).items()} == {
        "12_3": None, "12_0": None, "13": 0, "14": None,
    }  # fmt: skip
    found = read_sacct(SACCT)
    assert {job: found[job].code for job in ("12_0", "12_1", "12_2")} == {"12_0": 0, "12_1": 1, "12_2": -9}


def put_first_on_path(folder, monkeypatch, **programs):
    """Stand-ins for SLURM's commands, which this machine need not have."""
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_job_that_squeue_has_forgotten_is_asked_of_sacct_and_may_be_known_to_nobody(tmp_path, monkeypatch):
    put_first_on_path(tmp_path, monkeypatch, squeue=f"printf '{SQUEUE}'", sacct=f"printf '{SACCT}'")
    states = JobStates()
    for job in ("12_0", "12_2", "99"):
        states.want(job)
    assert [states.of(job).word for job in ("12_0", "12_2", "99")] == ["RUNNING", "OUT_OF_MEMORY", FORGOTTEN]
    assert states.of("100").word == "PENDING", "one that was submitted after the question"


def test_without_accounting_a_forgotten_job_may_be_tried_again(tmp_path, monkeypatch):
    disabled = "echo Slurm accounting storage is disabled >&2; exit 1"
    put_first_on_path(tmp_path, monkeypatch, squeue="true", sacct=disabled)
    states = JobStates()
    states.want("7")
    assert states.of("7").code == 3
