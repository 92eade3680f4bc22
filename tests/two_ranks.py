"""One rank of a test: `python tests/two_ranks.py RANK COUNT PLAN FOLDER` trains every stack of a plan for some steps.

Leaves parameters after each step and summed losses in FOLDER/RANK.safetensors, as STACK.params and STACK.losses.
"""

import itertools
import os
import sys
import threading
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from harness.plan_file import read_plan
from harness.program import make_program
from harness.ranks import Ranks, leave
from harness.train import train

STEPS = 50


def follow_steps(stack, ranks=None):
    """params (step, R, N) and mean losses of a step (step, R), from before the first one."""
    program = make_program(stack, torch.device("cpu"), ranks=ranks)
    steps = train(program, stack, num_evals=1, num_examples=16)
    params, sums = [], [torch.zeros(len(stack.runs), dtype=torch.float64)]
    for now in itertools.islice(steps, min(STEPS, stack.first.num_steps - 1)):
        params.append(now.params_RN.clone())
        sums.append(now.loss_sum_R.clone())
    return torch.stack(params), torch.stack(sums).diff(dim=0)


def main():
    rank, count, plan, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    stop, found = threading.Event(), {}
    ranks = Ranks(dist.FileStore(str(folder / "meeting"), count), rank, count, torch.device("cpu"), stop)
    for i, stack in enumerate(read_plan(plan).stacks):
        assert stack.ranks == count
        found[f"{i}.params"], found[f"{i}.losses"] = follow_steps(stack, ranks)
    mine = torch.full((1, 2), 3.0 + rank), torch.tensor([float("inf") if rank else 1.0])
    assert not ranks.stopped
    if rank:
        stop.set()
    found["grad"], found["loss"] = ranks.average(*mine)
    assert ranks.stopped
    save_file(found, folder / f"{rank}.safetensors")
    ranks.end()
    leave(0)


if __name__ == "__main__":
    main()
