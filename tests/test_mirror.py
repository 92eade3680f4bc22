"""Oracle: the records. The real W&B client sends to the stand-in of tests/wandb_standin.py and reads back from it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import pandas as pd
import pytest

from analysis.wandb_project import read_project
from harness import delivery
from harness.checkpoint import checkpoint_key, save_checkpoint
from harness.config import flatten, run_id
from harness.following import FOLLOWS, Starter
from harness.leases import acquire, release
from harness.metrics import METRICS
from harness.mirror import mirror as mirror_here
from harness.mirror import share_of, write_offline
from harness.outbox import Outbox
from harness.plan import Plan, Stack
from harness.program import make_program
from harness.records import (
    WrittenSummary,
    append_mirrored,
    append_summary,
    read_mirrored_entries,
    read_records,
    write_records,
)
from harness.results import summarise
from harness.train import train
from harness.wandb_client import NoAnswer, Refused, describe
from tests.reference.plain import CPU
from tests.wandb_standin import KEY, Server, serve

PLACE = "me/scaling-harness"
STEPS = [1, 2, 4, 7]
HURRIED = {  # the client would wait longer between its tries
    f"WANDB_X_{kind}_RETRY_{name}": value
    for kind in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")
    for name, value in (("MAX", "2"), ("WAIT_MIN_SECONDS", "0.1"), ("WAIT_MAX_SECONDS", "0.2"))
}
TIME = "2026-01-01T00:00:00"


def write_rows(folder, configs, *, name="stack", ended=TIME, status="done", loss=2 / 3):
    """Records with every kind of value: whole numbers that are floats, nulls, truths, lists, what is not finite."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = {name: type(value) for name, value in flatten(configs[0]).items()}
    rows = []
    for i, config in enumerate(configs):
        curve = [3.0, 2.5 + i, 1 / 3, 0.1 + 0.2] if status != "failed" else []
        diverged = status == "diverged" or i == 1
        row = {
            "run_id": run_id(config), "sweep": folder.name, "status": "diverged" if diverged else status,
            "message": "training loss not finite" if diverged else "", "loss": None if diverged else loss + i,
            "train_loss": 1.0, "num_params": 11, "update_rms": 1e-300, "weight_rms": 1e22, "noise_scale": None,
            "censored": False, "grad_norm": float("inf"), **flatten(config),
            "history.step": STEPS[: len(curve)], "history.num_samples": [8 * step for step in STEPS[: len(curve)]],
            "history.loss": curve, "history.train_loss": curve, "history.update_rms": curve,
            "history.weight_rms": [x * 5e-324 for x in curve], "history.noise_scale": [None] * len(curve),
            "history.grad_norm": [float("nan"), None, float("inf"), 1.0][: len(curve)],
            "memory.step": [5, 6], "memory.loss": [7.0, float("nan")], "memory.unseen_loss": [7.5, 1 / 7],
            "provenance.ended": ended, "provenance.host": "secret-host", "provenance.compiled": True,
            "provenance.seconds": 2.0, "provenance.width": 3,
        }  # fmt: skip
        rows.append(row)
    metrics = ["update_rms", "weight_rms", "noise_scale", "grad_norm"]
    write_records(folder, name, rows, columns=columns, metrics=metrics, memory=True)


@pytest.fixture
def server():
    found = Server()
    with serve(found):
        yield found


@pytest.fixture(scope="module")
def written(make_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "s"
    write_rows(folder, [make_run(seed=seed) for seed in range(3)])
    return folder


@pytest.fixture
def records(written, tmp_path):
    return shutil.copytree(written, tmp_path / "runs" / "s")


def start_mirror(server, folder, *arguments, key=KEY, stdin=subprocess.DEVNULL, **more):
    cwd = folder.parents[1]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(cwd / "home"), "WANDB_BASE_URL": server.address, "WANDB_API_KEY": key, **HURRIED, **more}
    command = [sys.executable, "-m", "harness.mirror", str(folder), *arguments]
    pipes = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=cwd, env=env, text=True, start_new_session=True, **pipes)


def mirror(server, folder, *arguments, key=KEY, check=0, **more):
    process = start_mirror(server, folder, *(arguments or ("online",)), key=key, **more)
    out, err = process.communicate(timeout=240)
    assert process.returncode == check, out + err
    assert key not in out + err
    assert "Traceback" not in err
    assert all(key.encode() not in path.read_bytes() for path in folder.parents[1].rglob("*") if path.is_file())
    return out, err


def modes(folder, project="scaling-harness"):
    return {entry["mode"] for entry in read_mirrored_entries(folder, project, "")}


def same_rows(server, folder):
    """Every run is there once, and every point once and in order."""
    frame = read_records(folder)
    runs = server.runs(PLACE)
    assert sorted(runs) == sorted(f"{folder.name}-{name}" for name in frame["run_id"])
    for row in frame.to_dict("records"):
        lines = [json.loads(line) for line in runs[f"{folder.name}-{row['run_id']}"].history]
        assert [line["_step"] for line in lines] == list(row["history.step"])
        assert [line["loss"] for line in lines] == list(row["history.loss"])


def own_environment(server, cwd, monkeypatch):
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("HOME", str(cwd / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_BASE_URL", server.address)
    for name, value in HURRIED.items():
        monkeypatch.setenv(name, value)


def read_back(server, cwd, monkeypatch):
    own_environment(server, cwd, monkeypatch)
    return read_project(f"wandb:{PLACE}")[0]


def assert_same_table(found, folder):
    """Same columns, types and values, to the last bit; the host's name is not sent."""
    wanted = read_records(folder).drop(columns="provenance.host")
    left, right = (table.set_index("run_id").sort_index().sort_index(axis=1) for table in (found, wanted))
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_what_is_sent_is_read_back_to_the_last_bit_and_not_sent_again(server, records, monkeypatch):
    out, err = mirror(server, records)
    assert "W&B: 3 runs sent" in out
    assert err == ""
    same_rows(server, records)
    node = next(iter(server.runs(PLACE).values())).node
    assert (node["group"], node["jobType"], node["state"]) == ("s", "fixed_samples", "finished")
    tags = [run.node["tags"][0] for run in server.runs(PLACE).values()]
    assert sorted(tags) == ["diverged", "done", "done"]
    summaries = [json.loads(run.node["summaryMetrics"]) for run in server.runs(PLACE).values()]
    assert sorted(summary["status"] for summary in summaries) == sorted(tags)
    assert [summary["status"] for summary in summaries if "loss" not in summary] == ["diverged"]
    assert "secret-host" not in json.dumps([run.node for run in server.runs(PLACE).values()])
    assert_same_table(read_back(server, records.parents[1], monkeypatch), records)
    before = server.asked["UpsertBucket"]
    assert "W&B: 0 runs sent" in mirror(server, records)[0]
    (records / "mirrored.jsonl").unlink()  # even what was forgotten is not sent again
    assert "W&B: 3 runs sent" in mirror(server, records)[0]
    assert server.asked["UpsertBucket"] == before
    same_rows(server, records)


def test_cut_off_in_the_middle_it_is_told_and_delivered_later(server, records, monkeypatch, capfd):
    own_environment(server, records.parents[1], monkeypatch)
    monkeypatch.setattr(delivery, "PATIENCE", 6.0)
    monkeypatch.setattr(delivery, "PATIENCE_EACH", 0.0)
    monkeypatch.setattr("harness.mirror.LAST_TRIES", 1)
    server.cut_after, server.cutting = 1, "wandb-history"  # one run's points arrive, and no more
    starter = Starter()
    starter.trained.set()
    starter.closed.set()
    assert not mirror_here(records, mode="online", project="scaling-harness", entity=None, starter=starter)
    assert "nothing is lost, `python -m harness.mirror" in capfd.readouterr().out
    assert 0 < sum(len(run.history) for run in server.runs(PLACE).values()) < 12
    assert not list((records.parents[1] / "wandb").glob("offline-run-*"))  # what was written for it is no litter
    server.cut, server.cut_after = False, None
    mirror(server, records)
    same_rows(server, records)


def test_with_a_key_and_no_server_at_the_start_it_is_told_and_delivered_later(server, records, monkeypatch, capfd):
    own_environment(server, records.parents[1], monkeypatch)
    monkeypatch.setattr("harness.mirror.LAST_TRIES", 1)
    server.cut = True
    starter = Starter()
    starter.trained.set()
    starter.closed.set()
    assert not mirror_here(records, mode="auto", project="scaling-harness", entity=None, starter=starter)
    out = capfd.readouterr().out
    assert "0 runs sent, 3 runs are not there yet (W&B does not answer" in out
    assert f"nothing is lost, `python -m harness.mirror {records} online scaling-harness` sends the rest" in out
    server.cut = False
    assert "W&B: 3 runs sent" in mirror(server, records, "auto")[0]
    same_rows(server, records)


def test_what_the_client_says_of_runs_that_do_not_arrive_is_told(server, records, monkeypatch, capfd):
    own_environment(server, records.parents[1], monkeypatch)
    monkeypatch.setattr("harness.mirror.LAST_TRIES", 1)
    monkeypatch.setattr(delivery, "CONFIRMED_WITHIN", 0.5)
    server.failures, server.failing = [409] * 100, "UpsertBucket"
    starter = Starter()
    starter.trained.set()
    starter.closed.set()
    assert not mirror_here(records, mode="online", project="scaling-harness", entity=None, starter=starter)
    out = capfd.readouterr().out
    assert "3 runs are not there yet (W&B does not list what it was sent; its client says: " in out
    assert "409" in out
    assert KEY not in out


@pytest.mark.parametrize(("status", "failing"), [(500, "UpsertBucket"), (429, "file_stream")])
def test_errors_of_the_server_delay_and_lose_nothing(server, records, status, failing):
    server.failures, server.failing = [status] * 2, failing
    mirror(server, records)
    assert server.failures == []
    same_rows(server, records)


def test_a_wrong_key_is_told_in_one_line_without_the_key(server, records):
    for key in ("b" * 40, "short-secret"):
        out, err = mirror(server, records, "auto", key=key, check=3)
        said = [line for line in (out + err).splitlines() if "W&B" in line]
        assert any("refuses the API key: run `wandb login --relogin`, or set WANDB_API_KEY" in line for line in said)
        assert any(f"`python -m harness.mirror {records} online scaling-harness` sends" in line for line in said)
    assert PLACE not in server.projects


def test_only_what_refuses_a_key_is_taken_for_that():
    for text in ("HTTP 401", "403 Forbidden", "user is not logged in", "Permission denied"):
        assert isinstance(describe(ValueError(text)), Refused)
    for text in ("dial tcp 127.0.0.1:40123: connection refused", "took 14032 ms", "HTTP 500"):
        assert not isinstance(describe(ValueError(text)), Refused)
        assert isinstance(describe(ValueError(text)), NoAnswer)


def test_offline_runs_are_delivered_with_an_account_later_and_a_new_attempt_goes_on(server, records, make_run):
    write_rows(records, [make_run(seed=7)], name="other", status="failed", ended="2026-01-01")
    mirror(server, records, "online", WANDB_MODE="dryrun")  # the client's older word for offline
    write_rows(records, [make_run(seed=7)], name="other", ended="2026-01-02")
    out, _ = mirror(server, records, "offline", "scaling-harness", "me")
    assert f"`python -m harness.mirror {records} online scaling-harness me` sends them" in out
    mirror(server, records, "offline")
    assert modes(records) == {"offline"}
    assert PLACE not in server.projects
    wandb = records.parents[1] / "wandb"
    before = len(list(wandb.glob("offline-run-*")))
    mirror(server, records)
    assert modes(records) == {"offline", "online"}
    same_rows(server, records)
    assert len(list(wandb.glob("offline-run-*/*.wandb.synced"))) == len(list(wandb.glob("offline-run-*"))) == before


def test_a_second_project_gets_all_runs_too(server, records, monkeypatch):
    own_environment(server, records.parents[1], monkeypatch)
    for project in ("p", "q", "p"):
        here = Outbox(records, "offline", project, None)
        here.look()
        for row in list(here.waiting.values()):
            here.write(row)
    assert len(list((records.parents[1] / "wandb").glob("offline-run-*"))) == 6
    other = Outbox(records, "offline", "q", "team")
    other.look()
    assert len(other.waiting) == 3
    assert modes(records, "p") == modes(records, "q") == {"offline"}
    assert modes(records) == set()


def test_what_is_told_is_what_lies_there(server, records, make_run, monkeypatch):
    own_environment(server, records.parents[1], monkeypatch)
    here = Outbox(records, "offline", "p", None)
    assert here.describe() == "W&B: no run has ended yet, so none is kept"
    here.look()
    rows = list(here.waiting.values())
    for row in rows:
        here.write(row)
    command = f"with an account `python -m harness.mirror {records} online p` sends them"
    assert here.describe() == f"W&B: 3 runs kept offline in wandb; {command}"
    append_summary(records, WrittenSummary("s-summary", "0", records, sent=False), project="p", entity="")
    assert here.describe() == f"W&B: 3 runs and the sweep's summary kept offline in wandb; {command}"
    for row in rows:
        append_mirrored(records, row["run_id"], row["provenance.ended"], "online", project="p", entity="", points=4)
    assert here.describe() == f"W&B: the sweep's summary kept offline in wandb; {command}"
    append_summary(records, WrittenSummary("s-summary", "0", records, sent=True), project="p", entity="")
    assert here.describe() == "W&B: it has all runs already"


def test_of_two_mirrors_one_sends(server, records):
    place = records / ".mirror"
    place.mkdir()
    lease, _ = acquire(place, "mirror", ["mirror"], 60.0)
    _, err = mirror(server, records, check=3)
    assert f"pid {os.getpid()} on " in err
    assert "sends these runs to W&B just now" in err
    assert PLACE not in server.projects
    release(lease)


def test_asked_to_stop_it_leaves_the_rest_for_another_time(server, records, monkeypatch):
    own_environment(server, records.parents[1], monkeypatch)
    monkeypatch.setattr(delivery, "TOGETHER", 1)
    here = Outbox(records, "online", "scaling-harness", None)
    here.look()
    assert not here.send(lambda: True)
    assert (len(server.runs(PLACE)), len(here.waiting)) == (1, 2)


@pytest.mark.parametrize(("mode", "code"), [("auto", 3), ("offline", 4)])
def test_one_that_ends_before_its_command_ends_with_its_own_code(server, records, mode, code):
    """Its standard input is open still: a thread reads that."""
    (records / "stack-x-0.parquet").write_bytes(b"torn")
    key = {"auto": "no key", "offline": KEY}[mode]
    process = start_mirror(server, records, mode, key=key, stdin=subprocess.PIPE, **{FOLLOWS: "1"})
    assert process.wait(120) == code
    out, err = process.communicate()
    assert (out, err.count("\n")) == ("", 1)
    assert f"`python -m harness.mirror {records} online scaling-harness` sends them" in err
    assert "the sweep's own command its summary too" in err


class Waits(threading.Event):
    """Of a command that trains: how long its mirror would wait, which it does not."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def wait(self, timeout=None):
        self.seconds.append(timeout)
        return False


def test_while_its_command_trains_it_takes_a_twentieth_of_the_time(server, records, make_run, monkeypatch):
    own_environment(server, records.parents[1], monkeypatch)
    write_rows(records, [make_run(seed=seed) for seed in range(10, 20)], name="more")
    trained, closed = Waits(), threading.Event()
    closed.set()
    here = Outbox(records, "offline", "p", None)
    began = time.monotonic()
    write_offline(here, Starter(trained, closed))
    took = time.monotonic() - began
    assert here.count == len(trained.seconds) == 13
    assert 10 * took < sum(trained.seconds) <= 20 * took
    assert (share_of(1.0), share_of(1000.0)) == (20.0, 300.0)


@pytest.mark.parametrize("mistake", ["mode", "folder", "damage"])
def test_mistakes_and_damage_are_told_in_a_line(server, records, mistake):
    if mistake == "mode":
        out, err = mirror(server, records, "auto", check=2, WANDB_MODE="sometimes")
        assert "WANDB_MODE='sometimes' is not one of online, offline, disabled" in err
    elif mistake == "folder":
        process = start_mirror(server, records.parent)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 2
        assert f"is no sweep's folder: give one of {records}" in err
    else:
        (records / "stack-x-0.parquet").write_bytes(b"torn")
        out, err = mirror(server, records, "offline", check=4)
        assert "stack-x-0.parquet cannot be read" in err
        assert f"`python -m harness.mirror {records} online scaling-harness` sends them" in err
    assert (out, err.count("\n")) == ("", 1)


def test_killed_half_way_and_sent_again_no_row_is_lost_or_there_twice(server, make_run, tmp_path, monkeypatch):
    """RUNS=192 is the size of the main job."""
    folder = tmp_path / "runs" / "s"
    count = int(os.environ.get("RUNS", "48"))
    for first in range(0, count, 24):
        write_rows(folder, [make_run(seed=seed) for seed in range(first, first + 24)], name=f"k{first}")
    process = start_mirror(server, folder, "online")
    deadline = time.monotonic() + 120
    while count_rows(server) <= 0.4 * count * len(STEPS) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert 0.4 < count_rows(server) / (count * len(STEPS)) < 1
    out, _ = mirror(server, folder)
    assert f"W&B: {count} runs sent" in out
    same_rows(server, folder)
    assert_same_table(read_back(server, tmp_path, monkeypatch), folder)


def count_rows(server):
    return sum(len(run.history) for run in server.project(None, "scaling-harness").runs.values())


def test_runs_in_training_are_shown_and_their_records_go_on_with_them(server, make_run, tmp_path, monkeypatch):
    """What is sent from a checkpoint half-way and then from the record is one curve, the record's."""
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    configs = {run_id(config): config for config in (make_run(seed=seed) for seed in range(2))}
    stack = Stack(configs)
    key = checkpoint_key(Plan("s", "cpu", 6, 16, None, (stack,)), stack, CPU)
    for last in train(make_program(stack, CPU), stack, num_evals=6, num_examples=16):
        if last.step == stack.first.num_steps // 2:
            save_checkpoint(folder, stack.name, "s", stack, last, key)
    own_environment(server, tmp_path, monkeypatch)
    here = Outbox(folder, "online", "scaling-harness", None)
    here.show_running()
    half = {name: len(run.history) for name, run in server.runs(PLACE).items()}
    assert all(0 < count < len(last.history["step"]) for count in half.values())
    assert len(half) == 2
    assert {run.node["tags"][0] for run in server.runs(PLACE).values()} == {"running"}
    rows = [
        {"run_id": name, "sweep": "s", "num_params": 11, "provenance.ended": TIME, **flatten(config)}
        | summarise(last, lane, 2.5)
        for lane, (name, config) in enumerate(configs.items())
    ]
    columns = {name: type(value) for name, value in flatten(next(iter(configs.values()))).items()}
    write_records(folder, "stack", rows, columns=columns, metrics=[*METRICS])
    here.look()
    assert here.send()
    same_rows(server, folder)
    assert {run.node["tags"][0] for run in server.runs(PLACE).values()} == {"done"}
