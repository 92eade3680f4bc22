"""Oracle: W&B's own offline file, read record by record with its protocol buffers, against the parquet record.

The file's framing (32 KiB blocks, 7-byte record heads) is private to W&B: it is read here only, as a cross-check.
"""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

from harness.config import ROOT, flatten, run_id
from harness.metrics import METRICS
from harness.noise_scale import NOISE_SCALES
from harness.plan import Stack
from harness.program import make_program
from harness.records import read_mirrored, write_records
from harness.results import summarise
from harness.train import train
from tests.reference.plain import CPU

CURVE = {"step": [1, 2, 4], "num_samples": [8, 16, 32], "loss": [3.0, 2.5, 1 / 3], "train_loss": [3.5, 2.0, 0.1 + 0.2]}


def read_offline(path: Path) -> list[Record]:
    data, place, records, part = path.read_bytes(), 7, [], b""
    while place < len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        part += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or last of several
            records.append(Record.FromString(part))
            part = b""
    return records


def items(entries: Any) -> dict[str, Any]:
    return {".".join(e.nested_key) or e.key: json.loads(e.value_json) for e in entries}


def write_rows(folder, configs, status="done", ended="2026-01-01T00:00:00"):
    columns = {name: type(value) for name, value in flatten(configs[0]).items()}
    rows = [
        {
            "run_id": run_id(c), "sweep": "s", "status": status, "message": "", "loss": 2 / 3, "num_params": 11,
            "grad_norm": 0.5, **flatten(c), **{f"history.{k}": v for k, v in CURVE.items()},
            "history.grad_norm": [1.0, 0.75, 0.5], "history.noise_scale": [None, 40.0, None], "provenance.ended": ended,
            "radial.hidden.weight": 0.25, "history.radial.hidden.weight": [None, 0.125, 0.25],
            "memory.loss": [7.0, 8.0], "memory.step": [5, 6], "memory.unseen_loss": [7.5, 8.5],
            "provenance.host": "secret-host",
        }
        for c in configs
    ]  # fmt: skip
    metrics = ["grad_norm", "noise_scale", "radial.hidden.weight"]
    write_records(folder, "stack", rows, columns=columns, metrics=metrics, memory=True)


def mirror(folder, cwd, **environment):
    command = [sys.executable, "-m", "harness.mirror", str(folder), "offline"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    env |= {"HOME": str(cwd / "home"), **environment}
    done = subprocess.run(command, cwd=cwd, input="", capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    return sorted((cwd / "wandb").glob("offline-run-*/*.wandb"))


def test_a_mirrored_run_is_its_record(make_run, tmp_path):
    config = make_run()
    records = tmp_path / "runs" / "s"
    records.mkdir(parents=True)
    write_rows(records, [config])
    (path,) = mirror(records, tmp_path)
    assert path.stem == f"run-s-{run_id(config)}"
    found = read_offline(path)
    (run,) = [r.run for r in found if r.WhichOneof("record_type") == "run"]
    assert (run.run_group, run.job_type, run.project) == ("s", "fixed_samples", "scaling-harness")
    assert {"done", "adam", "ngram", "python_source"} <= set(run.tags)
    sent = items(run.config.update)
    assert "memory" not in sent
    assert sent["optimizer"] == dict(config.optimizer)
    assert (sent["batch_size"], sent["seed"], sent["num_samples"]) == (8, 0, 1024)
    assert (sent["run_id"], sent["sweep"], sent["protocol"]) == (run_id(config), "s", "fixed_samples")
    history = [items(r.history.item) for r in found if r.WhichOneof("record_type") == "history"]
    for name, values in {**CURVE, "grad_norm": [1.0, 0.75, 0.5]}.items():
        assert [row["_step" if name == "step" else name] for row in history] == values
    assert [row.get("noise_scale") for row in history] == [None, 40.0, None]
    assert [row.get("radial.hidden.weight") for row in history] == [None, 0.125, 0.25]
    assert "radial" not in sent
    summary: dict[str, Any] = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    assert (summary["status"], summary["num_params"], summary["grad_norm"]) == ("done", 11, 0.5)
    assert (summary["loss"], summary["radial.hidden.weight"]) == (2 / 3, 0.25)
    assert "noise_scale" not in summary  # the record has no last value
    assert b"secret-host" not in path.read_bytes()
    assert not (tmp_path / "home" / ".cache").exists()


def test_noise_scales_of_training_arrive_under_their_names(make_run, tmp_path):
    """Every number of every column, and the last as a summary where there is one; what could not be told is no item."""
    configs = {run_id(config): config for config in [make_run(batch_size=32, num_samples=32 * 300)]}
    stack = Stack(configs)
    *_, progress = train(make_program(stack, CPU), stack, num_evals=6, num_examples=16, noise_scale=True)
    (config,) = configs.values()
    row = {"run_id": run_id(config), "sweep": "s", "num_params": 11, **flatten(config)} | summarise(progress, 0, 2.5)
    records = tmp_path / "runs" / "s"
    records.mkdir(parents=True)
    columns = {name: type(value) for name, value in flatten(config).items()}
    row["provenance.ended"] = "2026-01-01T00:00:00"
    write_records(records, "stack", [row], columns=columns, metrics=[*METRICS, *NOISE_SCALES])
    (path,) = mirror(records, tmp_path)
    found = read_offline(path)
    history = [items(r.history.item) for r in found if r.WhichOneof("record_type") == "history"]
    summary: dict[str, Any] = {}
    for record in found:
        if record.WhichOneof("record_type") == "summary":
            summary |= items(record.summary.update)
    for name in NOISE_SCALES:
        assert [point.get(name) for point in history] == row[f"history.{name}"]
        assert summary.get(name) == row[name]
    for name in ("noise_scale_trace", "noise_scale_square", "noise_scale_hessian_trace", "noise_scale_hessian_square"):
        assert [value is None for value in row[f"history.{name}"]] == [True, False] * 3
    assert any(value is not None for value in row["history.noise_scale_update_rms"])


def there(folder):
    return read_mirrored(folder, "scaling-harness", "", online=False)


def test_what_was_sent_is_not_sent_again_and_a_new_attempt_is(make_run, tmp_path):
    records = tmp_path / "runs" / "s"
    records.mkdir(parents=True)
    configs = [make_run(seed=seed) for seed in range(3)]
    write_rows(records, configs)
    assert len(mirror(records, tmp_path)) == 3
    assert len(mirror(records, tmp_path)) == 3
    assert there(records) == {(run_id(c), "2026-01-01T00:00:00") for c in configs}
    write_rows(records, configs[:1], ended="2026-01-02T00:00:00")
    mirror(records, tmp_path)
    assert (run_id(configs[0]), "2026-01-02T00:00:00") in there(records)


@pytest.mark.parametrize(
    ("asked", "variable", "mode"),
    [
        ("auto", None, "offline"),
        ("online", None, "online"),
        ("online", "offline", "offline"),
        ("auto", "disabled", "disabled"),
        ("online", "dryrun", "offline"),
        ("offline", "run", "online"),
    ],
)
def test_mode_without_an_account_is_offline(asked, variable, mode, tmp_path):
    """In a process of its own: the client remembers a key for as long as its process lives."""
    known = {name: value for name, value in os.environ.items() if name not in {"WANDB_API_KEY", "WANDB_MODE"}}
    known |= {"NETRC": str(tmp_path / "none")} | ({"WANDB_MODE": variable} if variable else {})
    command = [sys.executable, "-c", f"from harness.tracking import choose_mode; print(choose_mode({asked!r}))"]
    done = subprocess.run(command, capture_output=True, text=True, env=known, timeout=60)
    assert done.stdout.split() == [mode], done.stderr


@pytest.mark.parametrize(
    ("module", "arguments", "code", "words"),
    [
        ("mirror", ["none"], 2, "there is no folder 'none'"),
        ("mirror", [".", "sideways"], 2, "MODE='sideways' is not one of auto, offline, online"),
        ("mirror", [], 2, "usage: python -m harness.mirror FOLDER"),
        ("mirror", ["--help"], 0, "usage: python -m harness.mirror FOLDER"),
        ("trackio_mirror", ["none"], 2, "there is no folder 'none'"),
        ("trackio_mirror", ["."], 2, ". is no sweep's folder: give one of smoke"),
        ("trackio_mirror", ["--help"], 0, "usage: python -m harness.trackio_mirror FOLDER"),
    ],
)
def test_wrong_arguments_are_told(module, arguments, code, words, tmp_path):
    (tmp_path / "smoke").mkdir()
    (tmp_path / "smoke" / "stack-x-0.parquet").touch()
    command = [sys.executable, "-m", f"harness.{module}", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert done.returncode == code
    assert words in (done.stderr if code else done.stdout)
    assert "Traceback" not in done.stderr
