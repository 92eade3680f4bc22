"""Oracle: what the stand-in of tests/wandb_standin.py holds, the file system, exit codes. Whole commands throughout."""

import json
import os
import subprocess
import sys

import pytest

from harness import trackers
from harness.records import read_records, read_summary
from harness.request import check_settings
from harness.trackers import choose_destination, write_summary_run
from tests.test_mirror import HURRIED, same_rows
from tests.wandb_standin import KEY, Server, serve

ONE_CORNER = [
    "sweep=smoke", "num_samples=256", "task.num_heldout=64", "metrics.num_examples=32", "model.hidden=8",
    "sweep.grid.optimizer.lr=[log2,-8,-4,2]", "sweep.grid.batch_size=[32]",
]  # fmt: skip
PLACE = "me/scaling-harness"


@pytest.fixture
def server():
    found = Server()
    with serve(found):
        yield found


def harness(folder, server, *overrides, code=0, **more):
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(folder / "home"), "MPLBACKEND": "agg", **HURRIED, **more}
    env |= {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY} if server else {"NETRC": str(folder / "none")}
    command = [sys.executable, "-m", "harness", *ONE_CORNER, *overrides]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
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
    assert harness(tmp_path, server).stdout.endswith("records: runs/smoke; W&B has them already\n")


def test_offline_runs_are_sent_by_the_same_command_once_there_is_an_account(server, tmp_path):
    offline = harness(tmp_path, None)
    count = len(read_records(tmp_path / "runs" / "smoke"))
    assert f"W&B: {count} runs and the sweep's summary kept offline in wandb" in offline.stdout
    assert "kept offline in wandb; with an account `" in harness(tmp_path, None).stdout.splitlines()[-1]
    assert f"W&B: {count} runs and the sweep's summary sent" in harness(tmp_path, server).stdout
    assert len(server.runs(PLACE)) == count + 1


@pytest.mark.parametrize("how", ["trackio", "disabled"])
def test_whoever_wants_no_wandb_gets_nothing_of_it(how, tmp_path):
    tracker = {"name": "trackio" if how == "trackio" else "wandb", "mode": "auto", "project": "p", "entity": None}
    if how == "disabled":
        done = harness(tmp_path, None, WANDB_MODE="disabled")
        assert done.stdout.endswith("records: runs/smoke; none were sent to W&B (WANDB_MODE=disabled)\n")
        assert not (tmp_path / "wandb").exists()
    else:
        assert choose_destination(tracker) == "disabled"


def test_a_summary_that_cannot_be_written_leaves_the_sweep_ended_well(tmp_path):
    (tmp_path / "wandb").write_text("in the way")
    done = harness(tmp_path, None)
    assert "no W&B summary run: " in done.stderr
    assert "figures/smoke.png" in done.stdout


def test_a_summary_whose_directory_is_gone_is_written_again(tmp_path, monkeypatch):
    written = []

    def run(command, **more):
        written.append(json.loads(more["input"])["content_sha256"])
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(trackers.subprocess, "run", run)
    tracker = {"name": "wandb", "mode": "offline", "project": "p", "entity": None}
    note = {"id": "s-summary", "sha256": "x", "project": "p", "entity": "", "mode": "offline"}
    for directory, count in ((tmp_path, 0), (tmp_path / "gone", 1)):
        (tmp_path / "summaries.jsonl").write_text(json.dumps(note | {"directory": str(directory)}) + "\n")
        write_summary_run({"sweep": "s", "content_sha256": "x"}, tmp_path, tracker)
        assert len(written) == count


def test_a_mode_that_is_none_is_told_before_training(monkeypatch):
    launcher = {"name": "local", "device": "cpu", "compile": "auto"}
    settings = {"metrics": {}, "launcher": launcher, "dry_run": False}
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ValueError, match="WANDB_MODE='sometimes' is not one of online, offline, disabled"):
        check_settings(settings | {"tracker": {"name": "wandb", "mode": "auto"}})
    check_settings(settings | {"tracker": {"name": "none"}})
