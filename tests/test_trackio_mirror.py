"""Oracle: trackio's own database, read with sqlite3, against the parquet records."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from harness.config import flatten, run_id
from harness.leases import acquire, release
from harness.records import write_records
from harness.trackio_mirror import check_installed

ROOT = Path(__file__).resolve().parents[1]
CURVE = {"step": [1, 2, 4], "num_samples": [8, 16, 32], "loss": [3.0, 2.5, 1 / 3], "train_loss": [3.5, 2.0, 0.1 + 0.2]}


def write_rows(folder, configs, status="done", ended="2026-01-01T00:00:00", loss=2 / 3):
    columns = {name: type(value) for name, value in flatten(configs[0]).items()}
    rows = [
        {
            "run_id": run_id(c), "sweep": "s", "status": status, "message": "", "loss": loss, "num_params": 11,
            "grad_norm": 0.5, **flatten(c), **{f"history.{k}": v for k, v in CURVE.items()},
            "history.grad_norm": [1.0, None, 0.5], "provenance.ended": ended, "provenance.host": "secret-host",
        }
        for c in configs
    ]  # fmt: skip
    write_records(folder, "k", rows, columns=columns, metrics=["grad_norm"])
    return rows


def send(folder, store):
    environment = os.environ | {"TRACKIO_DIR": str(store), "HF_HOME": str(store / "home"), "HF_HUB_OFFLINE": "1",
                                "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = [sys.executable, "-m", "harness.trackio_mirror", str(folder), "local", "planted"]
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return done.stdout.strip().splitlines()[-1]


def read(store):
    """(run id, step) -> metrics, and run id -> config."""
    with sqlite3.connect(store / "planted.db") as base:
        rows = base.execute("SELECT run_id, step, metrics FROM metrics").fetchall()
        configs = {name: json.loads(text) for name, text in base.execute("SELECT run_id, config FROM configs")}
    assert len({row[:2] for row in rows}) == len(rows), "a row is there twice"
    return {(name, step): json.loads(text) for name, step, text in rows}, configs


def test_a_run_is_there_once_however_often_it_is_sent(tmp_path, make_run):
    pytest.importorskip("trackio", reason="an extra: pip install -e '.[trackio]'")
    folder, store = tmp_path / "s", tmp_path / "store"
    folder.mkdir()
    configs = [make_run(seed=seed) for seed in range(3)]
    rows = write_rows(folder, configs)
    assert send(folder, store).startswith("trackio: 3 runs kept")
    assert send(folder, store).startswith("trackio: 3 runs kept")
    points, kept = read(store)
    assert set(kept) == {f"s-{row['run_id']}" for row in rows}
    for row in rows:
        for i, step in enumerate(CURVE["step"]):
            told = points[f"s-{row['run_id']}", step]
            for name in ("num_samples", "loss", "train_loss"):
                assert told[name] == CURVE[name][i]
        assert "grad_norm" not in points[f"s-{row['run_id']}", 2]
        assert points[f"s-{row['run_id']}", 4]["final/loss"] == 2 / 3
        config = kept[f"s-{row['run_id']}"]
        assert config["optimizer"]["lr"] == row["optimizer.lr"]
        assert config["_Group"] == "s"
        assert config["status"] == "done"
    assert b"secret-host" not in (store / "planted.db").read_bytes()
    # a later attempt at one run replaces it; an earlier one, or one that failed, does not
    write_rows(folder, configs[:1], status="diverged", ended="2026-01-02T00:00:00", loss=float("inf"))
    write_rows(folder, configs[1:2], status="failed", ended="2026-01-03T00:00:00")
    assert send(folder, store).startswith("trackio: 3 runs kept")
    points, kept = read(store)
    assert len(kept) == 3
    assert len(points) == 9
    assert kept[f"s-{run_id(configs[0])}"]["status"] == "diverged"
    assert kept[f"s-{run_id(configs[1])}"]["status"] == "done"


def test_a_folder_of_its_name_is_not_trackio(tmp_path, monkeypatch):
    (tmp_path / "trackio").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "trackio", raising=False)
    with pytest.raises(ValueError, match="pip install"):
        check_installed()


def test_of_two_one_sends(tmp_path, make_run):
    pytest.importorskip("trackio", reason="an extra: pip install -e '.[trackio]'")
    folder, store = tmp_path / "s", tmp_path / "store"
    folder.mkdir()
    write_rows(folder, [make_run()])
    (folder / ".mirror").mkdir()
    lease, _ = acquire(folder / ".mirror", "trackio", ["trackio"], 60.0)
    with pytest.raises(subprocess.CalledProcessError) as ended:
        send(folder, store)
    assert ended.value.returncode == 3
    assert "sends these runs to trackio just now" in ended.value.stderr
    release(lease)
    assert send(folder, store).startswith("trackio: 1 run kept")
