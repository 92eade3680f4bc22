"""Oracle: what multiprocessing and the file system do when processes are killed, played by hand."""

import multiprocessing
import os
import struct

import pytest

from harness.config import run_id
from harness.launchers import local
from harness.launchers.local import Running, read_messages, warm_up
from harness.launchers.queue import UNKNOWN, Queue
from harness.leases import acquire, release
from harness.plan import make_plan
from harness.plan_file import open_plan


def test_a_worker_whose_fork_server_is_gone_is_waited_for_and_then_tried_again(make_run, tmp_path):
    runs = {run_id(config): config for config in [make_run(), make_run(seed=1)]}
    metrics = {"num_evals": 1, "num_examples": 8}
    path, plan = open_plan(
        tmp_path, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=metrics)
    )
    queue = Queue(path, plan, [], 60.0)
    lease, _ = acquire(tmp_path, plan.stacks[0].name, runs, 60.0)  # this process lives
    assert queue.mourn(0, UNKNOWN) == {"held": lease.holder}
    assert list(queue.held) == [0]
    assert (queue.waiting, queue.died) == ([], set())
    release(lease)
    assert list(queue.mourn(0, UNKNOWN)) == ["halved"]
    assert queue.waiting == [0]
    assert [len(stack.runs) for stack in queue.plan.stacks] == [1, 1]


def test_a_worker_killed_within_a_message_has_said_nothing():
    ours, theirs = multiprocessing.Pipe()
    theirs.send({"samples": 3})
    os.write(theirs.fileno(), struct.pack("!i", 100) + b"torn")
    theirs.close()
    one = Running(7, "cpu", multiprocessing.current_process(), ours)
    assert list(read_messages(one)) == [(7, {"samples": 3})]
    assert not one.ended


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_users_own_page_size_stays(monkeypatch, own, expected):
    monkeypatch.setattr(local.multiprocessing.forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(local.multiprocessing, "set_forkserver_preload", lambda names: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GLIBC_TUNABLES", own)
    warm_up()
    assert os.environ["GLIBC_TUNABLES"] == expected
