"""Oracle: an undisturbed sweep, the file system, and log.jsonl. Real kills of whole processes, at seeded moments.

KILLS=50 pytest tests/test_survival.py  does the long form of the first test.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

from harness.log import count_trainings, read_log, trained_twice
from harness.records import read_records

KILLS = int(os.environ.get("KILLS", "8"))
QUIET = {**os.environ, "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
SWEEP = [
    "sweep=smoke", "sweep.grid.optimizer.lr=[log2,-8,-0.125,0.25]", "sweep.grid.seed=[0,1,2]", "tracker=none",
    f"num_samples={4096 if KILLS < 20 else 16384}", "task.num_heldout=64", "metrics.num_examples=32", "model.hidden=8", "model.embedding=4",
    "launcher.width=4", "launcher.workers=2", "launcher.checkpoint=0.2",
]  # fmt: skip
BITS = ["loss", "train_loss", "grad_norm", "weight_rms", "update_rms", "num_params", "message", "status"]


def start(folder, *overrides, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *overrides],
        cwd=folder, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        **options,
    )  # fmt: skip


def finish(process, code=0):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, out + errors
    assert "Traceback" not in errors, errors
    return out, errors


def columns_of(frame):
    """What must be equal bit for bit: every result and every curve, of every run."""
    frame = frame.sort_values("run_id").reset_index(drop=True)
    curves = [name for name in frame if name.startswith("history.")]
    return frame[["run_id", *BITS]].assign(**{name: [list(x) for x in frame[name]] for name in curves})


def workers_of(folder):
    """Processes whose lease lies in the folder, as they say themselves in the log."""
    pids = {entry["pid"] for entry in read_log(folder) if entry["event"] == "start"}
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_kills_at_random_moments_lose_nothing_and_train_nothing_twice(tmp_path):
    chance = random.Random(3)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    finish(start(undisturbed, *SWEEP))
    folder = disturbed / "runs" / "smoke"
    kills = commands = 0
    process = None
    while kills < KILLS:
        if process is None or process.poll() is not None:
            if process is not None:
                process.communicate()
            process = start(disturbed, *SWEEP)
            commands += 1
        # from the moment at which something is trained: killing a command that still imports shows little
        began = len(read_log(folder))
        deadline = time.monotonic() + 20
        while len(read_log(folder)) == began and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        victim = chance.choice(["worker", "launcher", "both"])
        alive = workers_of(folder)
        hit = victim in ("worker", "both") and bool(alive) and kill(chance.choice(sorted(alive)))
        if victim in ("launcher", "both"):
            hit = kill(process.pid) or hit
            process.wait()
        kills += bool(hit)
        assert commands < 20 * KILLS
        records = read_records(folder) if list(folder.glob("*.parquet")) else pd.DataFrame()
        if len(records) == 192:
            break
    reached = kills
    while True:  # what a signal ended twice is told as failed: the same command goes on
        if process.poll() is None and process.communicate() and process.returncode == 0:
            break
        process = start(disturbed, *SWEEP)
        process.communicate(timeout=300)
        if process.returncode == 0:
            break
    log = read_log(folder)
    print(f"{reached} kills, {commands} commands, {sum(e['event'] == 'start' for e in log)} trainings,", end=" ")
    print(f"{sum(e['event'] == 'start' and e['step'] > 0 for e in log)} of them from a checkpoint,", end=" ")
    print(
        f"{sum(e['event'] == 'taken over' for e in log)} taken over, {sum(e['event'] == 'halved' for e in log)} halved"
    )
    every = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    assert len(every) == every["run_id"].nunique() == 192
    assert trained_twice(log) == []
    assert not list((folder / ".leases").glob("[!.]*"))
    assert not list((folder / ".checkpoints").glob("*.safetensors"))
    pd.testing.assert_frame_equal(
        columns_of(every), columns_of(read_records(undisturbed / "runs" / "smoke")), check_exact=True
    )
    assert reached >= KILLS, "the sweep was over too soon: the test must kill more often"
    assert any(entry["event"] == "start" and entry["step"] > 0 for entry in log)
    assert set(count_trainings(read_log(undisturbed / "runs" / "smoke")).values()) == {1}
