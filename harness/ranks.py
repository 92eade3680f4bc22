"""Ranks: the processes that share a stack, each taking its part of every batch, as harness/rank.py starts them.

Every rank takes the mean gradient of its part for all runs of the stack, these are averaged once a step, and then every
rank makes the same update: parameters and state are the same on all of them, bit for bit.

Shapes: R runs of the stack, N parameters of one run, B batch.
"""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from harness.tasks import Batch

PATIENCE = timedelta(minutes=10)  # for a rank that is silent and lives: the first may be saving a checkpoint
BACKENDS = {"cpu": "gloo", "cuda": "nccl"}


def leave(code: int) -> NoReturn:
    """End this process without the interpreter's own end: a thread of gloo may still let go of a tensor, for which it
    would need the interpreter, and what is left of that then aborts the process.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class RankLost(Exception):
    """Another rank is gone or silent: this one cannot go on."""


class Ranks:
    """One rank's view of all of them.

    Attributes:
        rank: 0 is the one that holds the lease, reports and writes.
        stopped: whether a rank was asked to end; from the same step on for all of them.
    """

    def __init__(self, store: dist.Store, rank: int, count: int, device: torch.device, stop: threading.Event) -> None:
        self.store, self.rank, self.count, self.stop = store, rank, count, stop
        self.stopped = False
        store.set(f"pid {rank}", str(os.getpid()))
        dist.init_process_group(
            BACKENDS[device.type], store=dist.PrefixStore("group", store), rank=rank, world_size=count, timeout=PATIENCE
        )  # fmt: skip

    def part(self, batch: Batch, dim: int) -> Batch:
        """This rank's samples of a batch, of which `dim` counts them."""
        size = batch[0].shape[dim] // self.count
        return tuple(part.narrow(dim, self.rank * size, size) for part in batch)

    def average(self, grad_RN: Tensor, loss_R: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients and losses over all ranks, the same bits on each; whether to stop travels along.

        g = (1 / K) sum_k g_k,    K ranks with equal parts of the batch

        Raises: RankLost.
        """
        sizes = [grad_RN.numel(), loss_R.numel(), 1]
        flag = grad_RN.new_full((1,), float(self.stop.is_set()))
        message = torch.cat([grad_RN.reshape(-1), loss_R.to(grad_RN.dtype), flag])
        self.call(dist.all_reduce, message)
        grad, loss, flag = message.split(sizes)
        self.stopped = self.stopped or bool(flag > 0)
        return grad.view_as(grad_RN) / self.count, loss / self.count

    def agree(self, value_R: Tensor) -> None:
        """Take the first rank's numbers, where what all do next depends on them. Raises: RankLost."""
        self.call(lambda tensor: dist.broadcast(tensor, 0), value_R)

    def call(self, collective: Callable[[Tensor], Any], tensor: Tensor) -> None:
        try:
            collective(tensor)
        except RuntimeError as error:
            raise RankLost(str(error)) from error

    def reseed(self, seed: int, step: int) -> None:
        """Random numbers of its own for every rank but the first: else dropout would hit all parts of a batch alike."""
        if self.rank:
            torch.manual_seed((seed + 0x9E3779B97F4A7C15 * (self.rank + self.count * step)) % 2**63)

    def begin(self, runs: Iterable[str], step: int) -> None:
        """Of the first rank: which runs are trained, from the checkpoint of which step."""
        self.store.set("begin", json.dumps({"runs": list(runs), "step": step}))

    def told(self) -> tuple[list[str], int] | None:
        """What the first rank begins with; None where there is nothing to train."""
        begun = json.loads(self.store.get("begin"))
        return (begun["runs"], begun["step"]) if begun["runs"] else None

    def pids(self) -> list[int]:
        """Of all ranks on this machine, in their order."""
        return [int(self.store.get(f"pid {rank}")) for rank in range(self.count)]

    def end(self) -> None:
        """Let go of the others, whether training began or not."""
        if self.rank == 0 and not self.store.check(["begin"]):
            self.begin([], 0)
        dist.destroy_process_group()
