"""Oracle: what the stand-in of tests/wandb_standin.py holds, the file system, exit codes. Whole commands throughout."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from matplotlib import get_configdir
from wandb.sdk.lib.urls import DEFAULT_BASE_URL

from harness.__main__ import tell_wandb
from harness.records import (
    WrittenSummary,
    append_mirrored,
    append_summary,
    read_attempts,
    read_records,
    read_summary,
)
from harness.request import check_settings
from harness.trackers import Mirror, choose_destination, describe_place, is_behind, mirroring
from tests.test_mirror import HURRIED, same_rows, write_rows
from tests.wandb_standin import KEY, Server, serve

ONE_CORNER = [
    "sweep=smoke", "num_samples=256", "task.num_heldout=64", "metrics.num_examples=32", "model.hidden=8",
    "sweep.grid.optimizer.lr=[log2,-8,-4,2]", "sweep.grid.batch_size=[32]",
]  # fmt: skip
PLACE = "me/scaling-harness"
WANDB = {"name": "wandb", "mode": "auto", "project": "p", "entity": None}


@pytest.fixture
def server():
    found = Server()
    with serve(found):
        yield found


@pytest.fixture
def records(make_run, tmp_path):
    folder = tmp_path / "runs" / "s"
    write_rows(folder, [make_run(seed=seed) for seed in range(2)])
    return folder


def harness(folder, server):
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(folder / "home"), "MPLBACKEND": "agg", **HURRIED}
    env |= {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY, "MPLCONFIGDIR": get_configdir()}
    command = [sys.executable, "-m", "harness", *ONE_CORNER]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_a_network_that_is_cut_during_training_costs_nothing_and_all_is_delivered_later(server, tmp_path):
    server.cut_after = 3  # it answers at first
    done = harness(tmp_path, server)
    assert "figures/smoke.png" in done.stdout
    assert "nothing is lost, `python -m harness.mirror runs/smoke online scaling-harness` sends the rest" in done.stdout
    folder = tmp_path / "runs" / "smoke"
    count = len(read_records(folder))
    server.cut, server.cut_after = False, None
    # the command again trains nothing and sends what is missing, the summary too
    again = harness(tmp_path, server)
    assert "nothing to train" in again.stdout
    assert f"W&B: {count} runs and the sweep's summary sent to scaling-harness" in again.stdout
    assert server.runs(PLACE).pop("smoke-summary").node["jobType"] == "summary"
    same_rows(server, folder)
    assert read_summary(folder, "scaling-harness", "").sent


def test_offline_runs_are_to_be_sent_once_there_is_an_account(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert is_behind(records, WANDB)
    note(records, "offline")
    assert not is_behind(records, WANDB)
    assert describe_place(records, WANDB).startswith("kept offline in wandb; with an account `python -m harness.mirror")
    for host, known in (("elsewhere.org", False), ("api.wandb.ai", True), (urlsplit(DEFAULT_BASE_URL).hostname, True)):
        (tmp_path / "netrc").write_text(f"machine {host}\n  login user\n  password secret\n")
        assert is_behind(records, WANDB) == known
    assert not is_behind(records, WANDB | {"mode": "offline"})
    note(records, "online")
    assert not is_behind(records, WANDB)
    assert describe_place(records, WANDB) == "W&B has them already"
    assert is_behind(records, WANDB | {"project": "other"})
    written = WrittenSummary("s-summary", "x", tmp_path, sent=False)
    append_summary(records, written, project="p", entity="")
    assert is_behind(records, WANDB)
    append_summary(records, replace(written, sent=True), project="p", entity="")
    assert not is_behind(records, WANDB)


def note(folder, mode):
    for name, ended in read_attempts(folder):
        append_mirrored(folder, name, ended, mode, project="p", entity="")


def test_whoever_wants_no_wandb_gets_nothing_of_it(records, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert choose_destination(WANDB | {"name": "trackio"}) == choose_destination(WANDB | {"name": "none"}) == "disabled"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert choose_destination(WANDB) == "disabled"
    with mirroring(records, WANDB, missing=True):
        pass
    assert capsys.readouterr().out == f"records: {records}; none were sent to W&B (WANDB_MODE=disabled)\n"
    assert not (tmp_path / "wandb").exists()


def test_a_summary_that_cannot_be_made_is_told_in_a_line(records, capsys):
    tell_wandb("no analysis", read_records(records), [], Mirror(records, WANDB))
    assert capsys.readouterr().err.startswith("no W&B summary run: AttributeError: ")


def test_a_summary_whose_directory_is_gone_is_written_again(tmp_path):
    note = {"id": "s-summary", "sha256": "x", "project": "p", "entity": "", "mode": "offline"}
    for directory, again in ((tmp_path, False), (tmp_path / "gone", True)):
        (tmp_path / "summaries.jsonl").write_text(json.dumps(note | {"directory": str(directory)}) + "\n")
        mirror = Mirror(tmp_path, WANDB)
        mirror.keep_summary({"sweep": "s", "content_sha256": "x"})
        assert bool(mirror.summary) == again


def test_a_mode_that_is_none_is_told_before_training(monkeypatch):
    launcher = {"name": "local", "device": "cpu", "compile": "auto"}
    settings = {"metrics": {}, "launcher": launcher, "dry_run": False}
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="WANDB_MODE='sometimes' is not one of online, offline, disabled"):
        check_settings(settings | {"tracker": {"name": "wandb", "mode": "auto"}})
    check_settings(settings | {"tracker": {"name": "none"}})
