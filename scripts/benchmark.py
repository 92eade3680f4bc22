"""The whole main job against the same 192 runs as plain loops: `python scripts/benchmark.py [PAIRS]`.

Runs `python -m harness sweep=lr_vs_bs` (W&B mirror and figure included) and scripts/plain_loops.py in turn, each as a
process of its own in an empty folder, and prints the wall time from process start to the printed table, and to the
exit, of every pair with their ratio. Ratios within a pair hold where a machine's speed drifts; single times do not.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PLAIN = Path(__file__).with_name("plain_loops.py")
LAST_OF_TABLE = "1024 "  # the table of optima ends with the largest batch size


def time_job(command: list[str]) -> tuple[float, float]:
    """Seconds until the table's last line is printed, and until the process ends."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "WANDB_MODE": "offline"}
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment)
        assert process.stdout is not None
        table = float("nan")
        for line in process.stdout:
            if line.strip().startswith(LAST_OF_TABLE):
                table = time.perf_counter() - began
        if process.wait() != 0:
            raise SystemExit(f"{' '.join(command)} ended with code {process.returncode}")
        return table, time.perf_counter() - began


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    ratios = []
    for pair in range(pairs):
        harness = time_job([sys.executable, "-m", "harness", "sweep=lr_vs_bs"])
        plain = time_job([sys.executable, str(PLAIN)])
        ratios.append((plain[0] / harness[0], plain[1] / harness[1]))
        print(
            f"pair {pair + 1}: to the table {harness[0]:.1f} s, plain {plain[0]:.1f} s, ratio {ratios[-1][0]:.2f}; "
            f"to the exit {harness[1]:.1f} s, plain {plain[1]:.1f} s, ratio {ratios[-1][1]:.2f}",
            flush=True,
        )
    table, full = (statistics.median(ratio[i] for ratio in ratios) for i in (0, 1))
    print(f"median ratio of {pairs} pairs: {table:.2f} to the table, {full:.2f} to the exit")


if __name__ == "__main__":
    main()
