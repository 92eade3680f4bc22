"""One rank of a stack: `python -m harness.rank PLAN STACK DEVICE CHECKPOINT LEASE FOLDER`, started by torch's launcher.

The first rank is what a worker is for a stack on one device: it holds the lease, reports and writes. The others take
their part of every batch beside it and write nothing. FOLDER, the worker's, is where they find each other.
"""

import json
import os
import sys
import threading
import traceback
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from harness.checkpoint import checkpoint_key, load_checkpoint
from harness.machine import is_out_of_memory
from harness.plan_file import read_stack
from harness.process import end_on_signals, end_with, prepare_process
from harness.program import make_program
from harness.ranks import RankLost, Ranks, leave
from harness.torchrun import MEETING, NO_MEMORY, PIPE, words_path
from harness.train import train
from harness.worker import run_stack

ASKED = 20.0  # seconds after which a rank that lost another ends by itself; torch's launcher asks it to within one


def lead(plan_path: Path, index: int, device: torch.device, pace: dict[str, float], folder: Path, ranks: Ranks) -> None:
    """The first rank. Raises: RankLost."""
    pipe = Client(str(folder / PIPE), "AF_UNIX")
    threading.Thread(target=end_with, args=(pipe, ranks.stop), daemon=True).start()

    def report(message: dict[str, Any]) -> None:
        try:
            pipe.send_bytes(json.dumps(message).encode())
        except OSError:
            ranks.stop.set()  # the worker is gone

    run_stack(plan_path, index, str(device), report=report, stop=ranks.stop, ranks=ranks, **pace)


def follow(plan_path: Path, index: int, device: torch.device, ranks: Ranks) -> None:
    """Any other rank: the same steps as the first one's, of its own part of the batches. Raises: RankLost."""
    begun = ranks.told()
    if begun is None:
        return
    runs, step = begun
    plan, _ = read_stack(plan_path, index)
    folder, stack = plan_path.parent, plan.stacks[0].only(runs)
    program = make_program(stack, device, folder.parent, ranks=ranks)
    key = checkpoint_key(plan, stack, device)
    progress = load_checkpoint(folder, stack, key, device, lambda line: None) if step else None
    assert step == (progress.step if progress else 0), "all ranks go on from one checkpoint"
    steps = train(
        program, stack, num_evals=plan.num_evals, num_examples=plan.num_examples, noise_scale=plan.noise_scale,
        per_tensor=plan.per_tensor, resume=progress,
    )  # fmt: skip
    for _ in steps:
        if ranks.stopped:
            return


def main() -> int:
    plan_path, index, kind, checkpoint, lease, folder = sys.argv[1:]
    rank, count, place = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), Path(folder)
    stop = threading.Event()
    end_on_signals(stop)
    prepare_process(kind)
    device = torch.device(kind if kind == "cpu" else f"cuda:{rank}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        ranks = Ranks(dist.FileStore(str(place / MEETING), count), rank, count, device, stop)
        try:
            if rank == 0:
                pace = {"checkpoint": float(checkpoint), "lease": float(lease)}
                lead(Path(plan_path), int(index), device, pace, place, ranks)
            else:
                follow(Path(plan_path), int(index), device, ranks)
        finally:
            ranks.end()
    except RankLost:
        stop.wait(ASKED)  # until the one that is gone is found: its end is told, not this one's
        return 1
    except Exception as error:
        words_path(place, rank).write_text(f"{type(error).__name__}: {error}".splitlines()[0])
        (Path(plan_path).parent / f"rank-{rank}.log").write_text(traceback.format_exc())
        return NO_MEMORY if is_out_of_memory(error) else 1
    return 0


if __name__ == "__main__":
    leave(main())
