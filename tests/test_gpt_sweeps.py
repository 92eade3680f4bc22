"""Oracle: counts by hand and torch's counter of FLOPs; the command itself on a shard of random tokens."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from harness.attention import FUSED_FROM
from harness.dry_run import MFU, describe_hours
from harness.estimate import estimate_by_formula, estimate_stack
from harness.machine import PEAKS, peak_flops
from harness.model_sizes import size_of_gpt
from harness.plan import Stack
from tests.test_gpt import SMALL


def harness(folder, *typed):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *typed], cwd=folder, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("micro_batch", "context"), [(None, 9), (4, 9), (None, FUSED_FROM)])
def test_the_formula_counts_what_a_step_takes(make_run, micro_batch, context):
    configs = [
        make_run(model=SMALL, task={"context": context}, num_samples=160, optimizer={"lr": lr}) for lr in (0.1, 0.2)
    ]
    stack = Stack({str(i): config for i, config in enumerate(configs)}, micro_batch=micro_batch)
    counted, told = estimate_stack(stack, torch.device("cpu"), timed=False), estimate_by_formula(stack)
    assert told.flops == counted.flops
    size = size_of_gpt(SMALL, context=context, num_symbols=256)
    windows = micro_batch or 8
    activations = context * windows * (68 * 2 * 24 + 8 * 256)
    assert told.bytes == 2 * (4 * 5 * size.num_params + activations)
    # a step keeps no more than it makes, and what it makes is several times what it has to keep
    assert counted.bytes / 12 < told.bytes < counted.bytes


def test_hours_of_a_device_are_flops_by_what_it_does_a_second():
    hours = 1e20 / (MFU * 989e12) / 3600
    assert describe_hours("H100", 1e20, "bfloat16").startswith(
        f"about {hours:.3g} hours of one H100, at 40% of its 989"
    )
    assert peak_flops("NVIDIA H200", "bfloat16") == PEAKS["H200"]["bfloat16"]
    assert peak_flops("cpu (x86_64)", "float32") is None
    with pytest.raises(ValueError, match="dry_run_device='H1000' is not one of A100, H100, H200"):
        describe_hours("H1000", 1.0, "bfloat16")
    with pytest.raises(ValueError, match="no known peak in precision=float64: choose precision=bfloat16 or float32"):
        describe_hours("A100", 1.0, "float64")


@pytest.mark.parametrize(
    ("sweep", "runs", "flops"), [("lr_vs_bs_gpt_124m", 35, "7.39e+19"), ("lr_vs_size_gpu", 36, "2.59e+19")]
)
def test_what_a_sweep_for_gpus_would_cost_is_told_without_one(tmp_path, sweep, runs, flops):
    header = np.zeros(256, np.int32)
    header[:3] = 20240520, 1, 300_000
    tokens = np.random.default_rng(0).integers(0, 50257, 300_000).astype(np.uint16)
    (tmp_path / "shard.bin").write_bytes(header.tobytes() + tokens.tobytes())
    said = harness(tmp_path, f"sweep={sweep}", "task.path=shard.bin", "dry_run=true", "dry_run_device=H100")
    assert f"{runs} runs, 0 done, {runs} to train; {flops} FLOPs" in said
    assert "hours of one H100, at 40% of its 989 TFLOP/s in bfloat16" in said


def test_size_cost_and_speed_stand_in_the_records(tmp_path):
    harness(
        tmp_path, "model=gpt_nano", "protocol=fixed_tokens", "num_tokens=32768", "task.context=16", "batch_size=16",
        "task.num_heldout=64", "metrics.num_examples=64", "metrics.num_evals=2", "tracker=none", "sweep.name=one",
    )  # fmt: skip
    (row,) = pd.read_parquet(next(tmp_path.glob("runs/one/*.parquet"))).to_dict("records")
    assert row["num_samples"] == 2048
    # L (4 D^2 + 3 D F) + D V and gains, by hand
    matrices = 2 * (4 * 32**2 + 3 * 32 * 88) + 32 * 256
    assert row["num_params_non_embedding"] == matrices + 5 * 32
    assert row["num_params"] == matrices + 5 * 32 + 32 * 256
    assert row["flops_per_token"] == 6 * matrices + 12 * 2 * 32 * 16
    assert row["provenance.flops_per_second"] > 1e8
    assert row["provenance.mfu"] is None or np.isnan(row["provenance.mfu"])
