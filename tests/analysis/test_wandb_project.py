"""Oracle: the same planted runs as a csv. The real W&B client asks a server on loopback, which counts."""

import json
import re
import socket
import subprocess
import sys

import pytest
from planting import plant_table

from analysis import plot
from analysis.plot import main
from analysis.recommend import main as recommend
from analysis.wandb_cache import read_kept
from analysis.wandb_project import place_of, read_project
from harness import wandb_client
from harness.nested import nest
from tests.wandb_standin import KEY, Project, Server, plant_run, serve

SOURCE = "wandb:me/sweeps"
PLANTED = plant_table(lambda b: 0.002 * b**0.5, num_seeds=3, batch_sizes=(8, 16, 32, 64, 128, 256, 512))  # 273 runs


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The planted sweep on a server, in a folder and an environment of its own."""
    found = Project()
    plant(found, PLANTED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb_client, "RETRIES", 1)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_DIR", raising=False)
    server = Server({"me/sweeps": found, "me/empty": Project()})
    with serve(server) as address:
        monkeypatch.setenv("WANDB_BASE_URL", address)
        found.server = server
        yield found


def plant(project, frame):
    """Records as harness/tracking.py sends them, without run_id: the nested config, and a summary with the outcome."""
    for row in frame.to_dict("records"):
        outcome = {name: row.pop(name) for name in ("loss", "status")}
        config = nest({name: value for name, value in row.items() if not name.startswith("provenance.")})
        plant_run(project, config, {**outcome, "num_samples": row["num_samples"]})


def node(project, number):
    return project.runs[f"run{number:04d}"].node


def test_our_project_draws_as_its_csv_and_asks_for_nothing_twice(project, tmp_path, capsys):
    PLANTED.to_csv("planted.csv", index=False)
    assert main(["--runs", "planted.csv", "--out", "csv"]) == 0
    assert main(["--runs", SOURCE, "--out", "wandb"]) == 0
    said = capsys.readouterr()
    assert "273 runs of wandb:me/sweeps (273 fetched now)" in said.out
    assert said.err == ""
    assert (tmp_path / "wandb/planted.json").read_text() == (tmp_path / "csv/planted.json").read_text()
    assert sum(map(len, project.fetched)) == 273
    assert len(project.fetched) == 3
    project.fetched.clear()
    assert "(0 fetched now)" in read_project(SOURCE)[1]
    assert project.fetched == []
    assert not (tmp_path / "home").exists()
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_only_new_and_changed_runs_are_fetched_and_deleted_ones_forgotten(project):
    node(project, 5)["state"] = "running"
    read_project(SOURCE)
    project.fetched.clear()
    node(project, 5).update({"state": "finished", "heartbeatAt": "2026-01-02T00:00:00Z"})
    plant_run(project, {"batch_size": 8, "optimizer": {"lr": 0.5}}, {"loss": 2.5})
    gone = "run0007"
    del project.runs[gone]
    frame, _ = read_project(SOURCE)
    assert project.fetched == [["run0005", "run0273"]]
    assert len(frame) == 273
    assert gone not in read_kept(place_of("me", "sweeps"))


def test_a_download_that_broke_goes_on_where_it_was(project):
    project.broken_after = 1
    frame, sentence = read_project(SOURCE)
    assert len(frame) == 100
    assert re.search("all kept from before, since W&B does not answer.*out of order.*goes on from here", sentence)
    assert len(read_kept(place_of("me", "sweeps"))) == 100
    project.broken_after = None
    frame, sentence = read_project(SOURCE)
    assert "(173 fetched now)" in sentence
    assert sorted(name for names in project.fetched for name in names) == list(project.runs)
    assert len(frame) == 273


def test_without_network_the_kept_runs_are_used_and_it_is_said(project, monkeypatch, capsys):
    read_project(SOURCE)
    place = place_of("me", "sweeps")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert main(["--runs", SOURCE]) == 2
    assert one_line(capsys).startswith("error: wandb:me/sweeps: W&B does not answer (")
    place_of("me", "sweeps").parent.mkdir(parents=True)
    place.rename(place_of("me", "sweeps"))
    frame, sentence = read_project(SOURCE)
    assert len(frame) == 273
    assert "all kept from before, since W&B does not answer" in sentence


def one_line(capsys):
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("wandb:me", "is not wandb:ENTITY/PROJECT"),
        ("wandb:me/../x", "is not wandb:ENTITY/PROJECT"),
        ("wandb:me/other", "W&B has no project me/other that this account can see"),
        ("wandb:me/empty", "has no runs"),
    ],
)
def test_mistakes_are_told_in_one_line(project, capsys, source, message):
    assert main(["--runs", source]) == 2
    assert message in one_line(capsys)
    assert recommend(["--runs", source, "batch_size=8"]) == 2
    assert message in one_line(capsys)


def test_a_refused_key(project, capsys):
    project.server.refused = True
    assert main(["--runs", SOURCE]) == 2
    assert "refuses the API key: run `wandb login" in one_line(capsys)


def test_no_account(project, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")  # in a process of its own, since the client remembers a key
    command = [sys.executable, "-W", "error", plot.__file__, "--runs", SOURCE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "there is no W&B account: run `wandb login`, or set WANDB_API_KEY" in done.stderr


def test_foreign_columns_states_and_names(project, tmp_path, capsys):
    rows = PLANTED[PLANTED["seed"] == 0]
    project.runs.clear()
    for i, row in enumerate(rows.to_dict("records")):
        plant_run(
            project,
            {"bs": row["batch_size"], "args": {"peak_lr": row["optimizer.lr"]}, "loss": "mse", "layers": [1, 2]},
            {"eval/loss": row["loss"], "loss": row["loss"] + 1, "epoch": i % 3},
        )
    node(project, 0)["state"] = "crashed"
    node(project, 1)["state"] = "running"
    node(project, 2)["summaryMetrics"] = json.dumps({"eval/loss": "NaN"})
    frame, _ = read_project(SOURCE)
    assert set(frame["config.loss"]) == {"mse"}
    assert frame["status"].tolist()[:3] == ["failed", "running", "done"]
    columns = "batch_size=bs,lr=args.peak_lr,loss=eval/loss"
    assert main(["--runs", SOURCE, "--columns", columns, "--out", "out"]) == 0
    said = capsys.readouterr().out
    assert "1 failed run is left out" in said
    assert "1 running run is left out" in said
    assert "1 run says done but has no finite loss: taken as diverged" in said
    content = json.loads((tmp_path / "out/sweeps.json").read_text())
    assert [o["batch_size"] for o in content["optima"]] == [8, 16, 32, 64, 128, 256, 512]


def test_a_torn_cache_is_fetched_again(project):
    read_project(SOURCE)
    place = place_of("me", "sweeps")
    place.write_bytes(place.read_bytes()[:1000])
    assert "(273 fetched now)" in read_project(SOURCE)[1]


def test_thousands_of_runs(project, monkeypatch):
    monkeypatch.setattr("analysis.wandb_cache.SAVE_EVERY", 0.5)
    project.runs.clear()
    for i in range(1200):
        plant_run(project, {"batch_size": 8, "lr": 0.1 + i}, {"loss": 2.0})
    frame, _ = read_project(SOURCE)
    assert project.listings == 2
    assert len(project.fetched) == 12
    assert frame["lr"].tolist() == [0.1 + i for i in range(1200)]
