"""Oracle: W&B's own offline file, read record by record, and its media, against NAME.json and pandas on the records."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis.analyse import analyse_runs
from analysis.summary import summarise_analysis, to_payload
from analysis.wandb_project import read_project
from analysis.write import write_figure, write_further
from harness.config import SWEEPS_DIR
from harness.records import read_records, read_summary, write_records
from tests.test_tracking import items, read_offline
from tests.wandb_standin import KEY, Server, serve

KEEP = """
import json, os, sys
from pathlib import Path
from harness.summary_run import keep_summary
for name in ("CACHE", "DATA"):
    os.environ[f"WANDB_{name}_DIR"] = str(Path("wandb").resolve() / name.lower())
keep_summary(json.load(sys.stdin), Path(sys.argv[1]), project="p", entity=None)
"""
POINTS = {
    "step": [1, 2],
    "num_samples": [32, 64],
    "loss": [3.0, 2.0],
    "train_loss": [3.0, 2.0],
    "weight_rms": [0.5, 0.6],
}


def write_smoke(folder: Path) -> None:
    """Records with the losses of the committed sweep smoke."""
    frame = pd.read_csv(SWEEPS_DIR / "smoke.csv")
    folder.mkdir(parents=True)
    kinds = {"int64": int, "float64": float, "bool": bool}
    names = [n for n in frame.columns if n.startswith(("task.", "model.", "optimizer.", "schedule."))]
    names += ["protocol", "num_steps", "num_samples", "batch_size", "seed", "precision"]
    columns = {name: kinds.get(str(frame[name].dtype), str) for name in names}
    rows = []
    for row in frame.to_dict("records"):
        own = {name: value for name, value in row.items() if value == value and not str(name).startswith("provenance.")}
        curve = {f"history.{name}": values for name, values in POINTS.items()}
        told = {"provenance.ended": "2026-01-01T00:00:00", "provenance.host": "secret-host", "provenance.torch": "2.13"}
        rows.append({**own, "sweep": folder.name, **curve, **told})
    write_records(folder, "stack", rows, columns=columns, metrics=["weight_rms"])
    run_summary(folder)


def run_summary(folder: Path) -> dict[str, Any]:
    """Draw a sweep and write its summary run from where its runs_dir lies; returns what was told."""
    frame = read_records(folder)
    analysis = analyse_runs(folder.name, frame, "Why?")
    out = folder.parents[1] / "figures"
    figures = [path for path in (*write_figure(analysis, out), *write_further(analysis, out)) if path.suffix == ".png"]
    content = to_payload(summarise_analysis(analysis, frame), figures)
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(folder.parents[1] / "home")}
    command = [sys.executable, "-c", KEEP, str(folder)]
    done = subprocess.run(
        command, input=json.dumps(content), text=True, capture_output=True, cwd=folder.parents[1], env=env, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return content


def read_run(place: Path, name: str) -> dict[str, Any]:
    """The newest offline summary run: the run's record, history, summary, artifacts, and its folder."""
    path = max((place / "wandb").glob(f"offline-run-*-{name}-summary/*.wandb"))
    found: dict[str, Any] = {"history": {}, "summary": {}, "artifacts": [], "visualize": {}, "folder": path.parent}
    for record in read_offline(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found["run"] = record.run
        elif kind == "history":
            found["history"] |= nest_media(record.history.item)
        elif kind == "summary":
            found["summary"] |= items(record.summary.update)
        elif kind == "artifact":
            found["artifacts"].append(record.artifact)
        elif kind == "config":
            found["visualize"] |= items(record.config.update)
    return found


def committed_losses() -> pd.Series:
    return pd.read_csv(SWEEPS_DIR / "smoke.csv").set_index("run_id")["loss"].sort_index()


def nest_media(entries: Any) -> dict[str, Any]:
    """Values by key; of tables and images what is told of each."""
    values: dict[str, Any] = {}
    for entry in entries:
        key, *rest = list(entry.nested_key) or [entry.key]
        value = json.loads(entry.value_json)
        if rest:
            values.setdefault(key, {})[".".join(rest)] = value
        else:
            values[key] = value
    return values


def read_media(found: dict[str, Any], key: str) -> pd.DataFrame:
    content = json.loads((found["folder"] / "files" / found["history"][key]["path"]).read_text())
    return pd.DataFrame(content["data"], columns=content["columns"])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    write_smoke(folder / "runs" / "mine")
    return folder


@pytest.fixture(scope="module")
def found(place):
    return read_run(place, "mine")


def test_it_stands_beside_its_runs(found, place):
    run = found["run"]
    assert (run.run_id, run.run_group, run.job_type, run.project) == ("mine-summary", "mine", "summary", "p")
    assert list(run.tags) == ["summary"]
    assert not run.host
    assert "claim **sde-slope** under fixed_samples" in run.notes
    note = read_summary(place / "runs" / "mine", "p", "")
    assert note.directory == found["folder"]
    assert found["summary"]["content_sha256"] == note.sha256 == items(run.config.update)["content_sha256"]
    assert found["summary"]["num_runs"] == 28
    assert found["summary"]["inconclusive"] == 1
    data = found["folder"].glob("*.wandb")
    assert all(b"secret-host" not in path.read_bytes() for path in data)
    assert not (place / "home").exists()


def test_tables_are_those_of_the_analysis(found, place):
    told = json.loads((place / "figures" / "mine.json").read_text())
    optima = read_media(found, "optima")
    assert optima[["batch_size", "lr", "status"]].to_dict("records") == [
        {key: optimum[key] for key in ("batch_size", "lr", "status")} for optimum in told["optima"]
    ]
    assert {"low", "high"} <= set(optima.columns)
    cells = read_media(found, "cells").set_index(["batch_size", "lr"])
    frame = read_records(place / "runs" / "mine")
    for (batch_size, lr), losses in frame.groupby(["batch_size", "optimizer.lr"])["loss"]:
        row = cells.loc[(batch_size, float(f"{lr:.9g}"))]
        assert row["mean"] == pytest.approx(losses.sum() / len(losses), rel=1e-8)
        assert row["num_seeds"] == len(losses)
    assert read_media(found, "verdicts")["verdict"].tolist() == [verdict["verdict"] for verdict in told["verdicts"]]


def test_charts_have_their_tables_and_figures_their_bytes(found, place):
    for key in ("loss_by_lr", "optimum_by_batch_size"):
        chart = found["visualize"][f"_wandb.visualize.{key}"]["panel_config"]
        assert chart["panelDefId"] == "wandb/lineseries/v0"
        points = read_media(found, f"{key}_table")
        assert set(chart["fieldSettings"].values()) <= set(points.columns)
    points = read_media(found, "optimum_by_batch_size_table")
    optima = read_media(found, "optima")
    best = points[points["line"] == "lr"]
    located = optima[optima["status"] == "interior"]
    assert (2 ** best["y"]).tolist() == pytest.approx(located["lr"].tolist(), rel=1e-8)
    image = found["folder"] / "files" / found["history"]["figures/mine"]["path"]
    assert image.read_bytes() == (place / "figures" / "mine.png").read_bytes()


def test_the_artifact_has_runs_numbers_and_where_they_come_from(found, place):
    (artifact,) = (each for each in found["artifacts"] if each.type == "analysis")
    files = {entry.path: Path(entry.local_path).read_bytes() for entry in artifact.manifest.contents}
    assert set(files) == {"mine.csv", "mine.json", "provenance.json"}
    told = json.loads(files["provenance.json"])
    assert told["sha256"]["mine.csv"] == hashlib.sha256(files["mine.csv"]).hexdigest()
    assert told["sha256"]["mine.png"] == hashlib.sha256((place / "figures" / "mine.png").read_bytes()).hexdigest()
    assert (told["num_runs"], told["torch"]) == (28, ["2.13"])
    assert json.loads(files["mine.json"]) == json.loads((place / "figures" / "mine.json").read_text())
    assert b"secret-host" not in b"".join(files.values())
    assert str(place).encode() not in b"".join(files.values())


def send(server, place, cwd, *, code=0):
    """Send the sweep's folder from some folder to a stand-in."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(place / "home"), "WANDB_BASE_URL": server.address, "WANDB_API_KEY": KEY}
    command = [sys.executable, "-m", "harness.mirror", str(place / "runs" / "mine"), "online", "p"]
    done = subprocess.run(command, cwd=cwd, env=env, input="", text=True, capture_output=True, timeout=240)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_the_mirror_delivers_it_once_and_it_is_no_run_that_is_read_back(place, tmp_path, monkeypatch):
    server = Server()
    with serve(server) as address:
        server.failures, server.failing = [400] * 9, "mutation CreateArtifact "  # the client says nothing of it
        said = send(server, place, tmp_path, code=3)  # from another folder than it was written in
        assert "28 runs sent, its summary is not there yet (W&B does not list its summary run and artifact)" in said
        server.failures = []
        assert "0 runs and the sweep's summary sent to p" in send(server, place, place)
        sent = server.asked["UpsertBucket"]
        assert "0 runs sent to p" in send(server, place, place)
        assert server.asked["UpsertBucket"] == sent
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("WANDB_BASE_URL", address)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        assert len(read_project("wandb:me/p")[0]) == 28
    (artifact,) = (a for a in server.artifacts.values() if a.type == "analysis")
    told = json.loads((place / "figures" / "mine.json").read_text())
    assert set(artifact.files) == {"mine.csv", "mine.json", "provenance.json"}
    assert json.loads(artifact.files["mine.json"]) == told
    digest = json.loads(artifact.files["provenance.json"])["sha256"]["mine.csv"]
    assert hashlib.sha256(artifact.files["mine.csv"]).hexdigest() == digest
    sent_runs = pd.read_csv(io.BytesIO(artifact.files["mine.csv"])).set_index("run_id")["loss"].sort_index()
    pd.testing.assert_series_equal(sent_runs, committed_losses(), check_exact=True)
    run = server.runs("me/p")["mine-summary"]
    note = read_summary(place / "runs" / "mine", "p", "")
    assert note.sent
    assert json.loads(run.node["summaryMetrics"])["content_sha256"] == note.sha256
    assert (run.node["group"], run.node["jobType"]) == ("mine", "summary")
    assert len(run.history) == 2  # its one row went again with the artifact that had been lost
    assert json.loads(run.history[0])["optima"] == json.loads(run.history[1])["optima"]
    assert (
        run.files[json.loads(run.history[0])["figures/mine"]["path"]] == (place / "figures" / "mine.png").read_bytes()
    )
    assert len(server.runs("me/p")) == 29


def test_the_hash_moves_with_the_content_alone(place):
    frame = read_records(place / "runs" / "mine")
    hashes = []
    for scale, folder in ((1.0, "a"), (1.0, "b"), (1.01, "c")):
        changed = frame.assign(loss=frame["loss"] * scale)
        analysis = analyse_runs("mine", changed, "Why?")
        figures = write_figure(analysis, place / folder)[:1]
        hashes.append(to_payload(summarise_analysis(analysis, changed), figures)["content_sha256"])
    assert hashes[0] == hashes[1] != hashes[2]
