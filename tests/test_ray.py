"""Oracle: the same sweep by launcher=local under the same plan, and what workers say of their own environment."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from harness.launchers.ray_head import run_head
from harness.log import count_trainings, read_log, trained_twice

pytest.importorskip("ray", reason="launcher=ray is an extra: pip install -e '.[ray]'")

QUIET = {**os.environ, "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
SWEEP = [
    "sweep=smoke", "optimizer=sgd", "sweep.grid.optimizer.lr=[0.01,0.1,0.2,1e38]", "sweep.grid.seed=[0]",
    "sweep.grid.batch_size=[32]", "num_samples=65536", "task.num_heldout=64", "metrics.num_examples=32",
    "model.hidden=8", "model.embedding=4", "tracker=none", "launcher.width=2", "launcher.compile=never",
    "launcher.checkpoint=0.1",
]  # fmt: skip
DATA = """
import json, os, pathlib
import torch

def images():
    seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OF_MINE")}
    pathlib.Path("seen").mkdir(exist_ok=True)
    pathlib.Path("seen", f"{os.getpid()}.json").write_text(json.dumps(seen))
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return x[:48], x[:48].sum(1).long() % 2, x[48:], x[48:].sum(1).long() % 2

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
"""


def start(folder, *overrides, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *overrides], cwd=folder, env=QUIET | environment, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process, code=0):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, out + errors
    assert "Traceback" not in errors, errors
    return out, errors


def records(folder):
    return pd.concat(map(pd.read_parquet, (folder / "runs" / "smoke").glob("stack-*.parquet")))


def bits(frame):
    """All that must be equal: config, results and curves; not where and when."""
    frame = frame.sort_values("run_id").reset_index(drop=True)
    curves = [name for name in frame if name.startswith("history.")]
    frame = frame.assign(**{name: [list(x) for x in frame[name]] for name in curves})
    return frame[[name for name in frame if not name.startswith("provenance.")]]


def wait_for(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)
    return found


def test_a_sweep_by_ray_has_the_bits_of_a_local_one_though_a_worker_is_killed(tmp_path):
    """Also: SIGTERM to the command first lets its tasks save checkpoints, from which the next command goes on."""
    local, by_ray = tmp_path / "local", tmp_path / "ray"
    for folder in (local, by_ray):
        folder.mkdir()
    here = start(local, *SWEEP)
    process = start(by_ray, *SWEEP, "launcher=ray", "launcher.head_cpus=2")
    folder = by_ray / "runs" / "smoke"
    finish(here)
    begun = wait_for(lambda: [entry for entry in read_log(folder) if entry["event"] == "start"])
    wait_for(lambda: list((folder / ".checkpoints").glob(f"{begun[0]['stack']}*.safetensors")))
    os.kill(begun[0]["pid"], signal.SIGKILL)
    finish(process)
    plans = [sorted((at / "runs" / "smoke").glob("plan-*-0.json")) for at in (local, by_ray)]
    assert plans[0][0].read_bytes() == plans[1][0].read_bytes()
    log = read_log(folder)
    assert [entry["event"] for entry in log].count("halved") == 1
    assert any(entry["event"] == "start" and entry["step"] > 0 for entry in log), "none went on from a checkpoint"
    assert not [path for path in (folder / ".jobs").glob("*.log") if "Fatal" in path.read_text()]
    assert trained_twice(log) == []
    assert set(count_trainings(log).values()) == {1}
    pd.testing.assert_frame_equal(bits(records(by_ray)), bits(records(local)), check_exact=True)
    assert sorted(records(local)["status"]) == ["diverged", "done", "done", "done"]


def test_a_cluster_at_an_address_tries_a_task_again_whose_own_process_is_killed(tmp_path, monkeypatch):
    own = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with run_head(1, 0) as address:
        process = start(tmp_path, *SWEEP, "launcher=ray", f"launcher.address={address}", **own)
        folder = tmp_path / "runs" / "smoke"
        begun = wait_for(lambda: [entry for entry in read_log(folder) if entry["event"] == "start"])
        wait_for(lambda: list((folder / ".checkpoints").glob(f"{begun[0]['stack']}*.safetensors")))
        with open(f"/proc/{begun[0]['pid']}/stat") as file:
            task = int(file.read().rpartition(")")[2].split()[1])
        os.kill(task, signal.SIGKILL)  # Ray's, and the worker ends with it
        finish(process)
    log = read_log(folder)
    assert [entry["stack"] for entry in log if entry["event"] == "start"].count(begun[0]["stack"]) == 2
    assert trained_twice(log) == []
    assert sorted(records(tmp_path)["status"]) == ["diverged", "done", "done", "done"]


def test_four_devices_go_to_four_tasks_which_save_checkpoints_when_the_command_is_ended(tmp_path):
    (tmp_path / "mine.py").write_text(DATA)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "net.yaml").write_text("name: mine:Net\n")
    typed = [
        "--config-dir", "conf", "sweep.name=smoke", "optimizer=sgd", "sweep.grid.optimizer.lr=[0.01,0.02,0.03,0.04]",
        "model=net", "task=tensors", "task.data=mine:images", "task.num_heldout=16", "metrics.num_examples=16",
        "num_samples=16777216", "tracker=none", "launcher=ray", "launcher.compile=never", "launcher.checkpoint=0.1",
        "launcher.width=1", "launcher.device=cpu", "launcher.num_cpus=0.1", "launcher.num_gpus=1",
        "launcher.head_gpus=4", "launcher.runtime_env={env_vars: {OF_MINE: told}}",
    ]  # fmt: skip
    process = start(tmp_path, *typed)
    folder = tmp_path / "runs" / "smoke"
    checkpoints = folder / ".checkpoints"
    wait_for(
        lambda: process.poll() is not None or len({path.name[:12] for path in checkpoints.glob("*.safetensors")}) == 4
    )
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)
    log = read_log(folder)
    assert [entry["event"] for entry in log] == ["start"] * 4 + ["stopped"] * 4
    assert {entry["stack"] for entry in log if entry["event"] == "stopped" and entry["step"] > 0} == {
        entry["stack"] for entry in log
    }
    assert not list((folder / ".leases").glob("[!.]*"))
    seen = [json.loads(path.read_text()) for path in (tmp_path / "seen").glob("*.json")]
    in_tasks = [one["CUDA_VISIBLE_DEVICES"] for one in seen if one["OF_MINE"] == "told"]
    assert sorted(in_tasks) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["launcher.num_gpus=1", "launcher.head_gpus=0"], "no node of Ray has that many"),
        (["launcher.num_gpus=2"], "launcher.num_gpus=2 is not 0 or 1"),
        (["launcher.address=127.0.0.1:1"], "start a cluster with ray start"),
    ],
    ids=lambda x: x[0] if isinstance(x, list) else "",
)
def test_mistakes_take_one_line(tmp_path, typed, words):
    _, errors = finish(start(tmp_path, *SWEEP, "launcher=ray", *typed), 2)
    assert len(errors.strip().splitlines()) == 1, errors
    assert words in errors
