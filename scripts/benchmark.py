"""The whole main job against the same 192 runs as plain loops: `python scripts/benchmark.py [PAIRS]`.

Runs in turn, each as a process of its own: `python -m harness sweep=lr_vs_bs` (W&B mirror and figure included) for the
first time ever, in an empty folder with nothing measured or compiled before; scripts/plain_loops.py; and the harness
again, warm: shapes are measured and machine code is there, no run is done. Prints the wall time from process start to
the printed table, and to the exit, with ratios within each round: they hold where a machine's speed drifts, single
times do not.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

PLAIN = Path(__file__).with_name("plain_loops.py")
HARNESS = [sys.executable, "-m", "harness", "sweep=lr_vs_bs"]
LAST_OF_TABLE = "1024 "  # the table of optima ends with the largest batch size
# Products only: training 6, evaluating 2 FLOPs a sample and weight of the two matrices, 128 x 64 and 64 x 256
FLOPS = 192 * (128 * 64 + 64 * 256) * (6 * 32768 + 2 * (16384 + 8 * 1024))


def time_job(command: list[str], folder: Path) -> tuple[float, float]:
    """Seconds until the table's last line is printed, and until the process ends."""
    (folder / "tmp").mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "offline", "TMPDIR": str(folder / "tmp")}
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    table = float("nan")
    for line in process.stdout:
        if line.strip().startswith(LAST_OF_TABLE):
            table = time.perf_counter() - began
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
    return table, time.perf_counter() - began


def core_peak() -> float:
    """FLOP/s of one core on large products in float32."""
    torch.set_num_threads(1)
    matrix = torch.randn(1024, 1024)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * 1024**3 / min(times)


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        warm_folder = Path(name)
        time_job([*HARNESS, "launcher.compile=always", "tracker=none"], warm_folder)
        for number in range(rounds):
            shutil.rmtree(warm_folder / "runs" / "lr_vs_bs")
            with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as other:
                times = {
                    "first ever": time_job(HARNESS, Path(first)),
                    "plain": time_job([sys.executable, str(PLAIN)], Path(other)),
                    "warm": time_job(HARNESS, warm_folder),
                }
            words = [f"{kind} {table:.1f} s ({full:.1f} s to the exit)" for kind, (table, full) in times.items()]
            share = FLOPS / times["warm"][0] / cores / core_peak()
            print(f"round {number + 1}: {', '.join(words)}; warm reaches {share:.0%} of the cores' peak", flush=True)
            for kind in ("first ever", "warm"):
                for i, end in enumerate(("table", "exit")):
                    ratios.setdefault(f"{kind}, to the {end}", []).append(times["plain"][i] / times[kind][i])
    for kind, values in ratios.items():
        print(f"plain loops / {kind}: median {statistics.median(values):.2f} of {sorted(round(v, 2) for v in values)}")


if __name__ == "__main__":
    main()
