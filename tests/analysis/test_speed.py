"""Oracle: the clock. Seconds of processor time, which a busy machine does not stretch as it does seconds on the wall."""

import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from planting import plant_table

from analysis import plot

LRS = tuple(2.0 ** (-12 + 0.5 * i) for i in range(21))
LAWS = {"adam": lambda b: 0.002 * b**0.5, "sgd": lambda b: 0.02 / (1 + 100 / b)}
COLUMNS = {
    "batch_size": "bs", "optimizer.lr": "peak_lr", "loss": "eval/loss", "seed": "rng", "optimizer.name": "opt",
}  # fmt: skip


def measure(folder, *arguments):
    """Processor seconds of a plot.py of its own, on one thread, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-W", "error", plot.__file__, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{' '.join(arguments)[:40]}: {seconds:.1f} s of processor time")
    return seconds, done.stdout


def test_two_thousand_runs_in_foreign_columns_are_loaded_fitted_and_drawn_in_20_seconds(tmp_path):
    parts = [
        plant_table(law, num_seeds=6, lrs=LRS, seed=i).assign(**{"optimizer.name": name})
        for i, (name, law) in enumerate(LAWS.items())
    ]
    frame = pd.concat(parts, ignore_index=True)[list(COLUMNS)].rename(columns=COLUMNS)
    frame.assign(wall=np.random.default_rng(0).normal(size=len(frame))).to_csv(tmp_path / "foreign.csv", index=False)
    assert len(frame) == 2016
    names = ",".join(f"{ours}={theirs}" for ours, theirs in COLUMNS.items())
    seconds, said = measure(tmp_path, "--runs", "foreign.csv", "--columns", names)
    assert "sqrt is best" in said
    assert "noise_scale is best; every rival is worse" in said
    assert seconds < 20


@pytest.mark.parametrize("name", ["lr_vs_bs"])
def test_a_committed_sweep_is_drawn_in_5_seconds(tmp_path, name):
    seconds, said = measure(tmp_path, name)
    assert "the committed answer" in said
    assert seconds < 5
