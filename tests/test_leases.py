"""Oracle: the rules themselves, held against real processes, real clocks of the file system and a real SIGKILL."""

import errno
import json
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.leases import Held, acquire, find_live, is_held, keep_alive, machine, read_leases, release, started

HOLD = """
import sys, time
from pathlib import Path
from harness.leases import acquire
lease, _ = acquire(Path(sys.argv[1]), "s", ["a", "b"], 60)
print(lease.path, flush=True)
time.sleep(60)
"""


def take(folder, stack="s", runs=("a", "b"), seconds=60.0):
    got = acquire(folder, stack, runs, seconds)
    assert not isinstance(got, Held), got
    return got


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_held_lease_is_refused_and_names_its_holder(holder, tmp_path):
    got = acquire(tmp_path, "s", ["a", "b"], 60)
    assert isinstance(got, Held)
    assert f"pid {holder.pid} on " in got.holder


def test_runs_in_common_are_refused_whatever_the_stack_is_called(holder, tmp_path):
    assert isinstance(acquire(tmp_path, "other", ["b", "c"], 60), Held)
    take(tmp_path, "other", ["c"])


@pytest.mark.parametrize("reaped", [True, False], ids=["reaped", "zombie"])
def test_the_lease_of_a_killed_process_is_free_at_once(holder, tmp_path, reaped):
    holder.kill()
    if reaped:
        holder.wait()
    deadline = time.monotonic() + 5
    while isinstance(got := acquire(tmp_path, "s", ["a", "b"], 60), Held) and time.monotonic() < deadline:
        time.sleep(0.01)
    lease, stale = got
    assert lease.path.name == "s-1"
    assert [former.path.name for former in stale] == ["s-0"]
    assert [path.name for path in (tmp_path / ".leases").iterdir()] == ["s-1"]


def elsewhere(lease):
    """The same lease as if it had been taken on another machine, where no process can be looked at."""
    lease.path.write_text(json.dumps(lease.content | {"machine": "another"}))
    return lease


def test_another_machines_lease_lasts_until_it_was_not_touched_for_long(tmp_path):
    lease = elsewhere(take(tmp_path, seconds=5)[0])
    os.utime(lease.path, (time.time() - 4, time.time() - 4))
    assert isinstance(acquire(tmp_path, "s", ["a"], 5), Held)
    os.utime(lease.path, (time.time() - 6, time.time() - 6))
    # the holder said 5 s: who is more impatient must not disown one that touches less often
    assert isinstance(acquire(tmp_path, "s", ["a"], 60), Held)
    _, stale = take(tmp_path, seconds=1)
    assert [former.path for former in stale] == [lease.path]


def test_a_holders_own_seconds_count_for_the_impatient(tmp_path):
    lease = elsewhere(take(tmp_path, seconds=60)[0])
    os.utime(lease.path, (time.time() - 30, time.time() - 30))
    assert isinstance(acquire(tmp_path, "s", ["a"], 1), Held)


def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    lease, _ = take(tmp_path)
    lease.path.write_text(json.dumps(lease.content | {"started": "1"}))
    take(tmp_path)


def test_a_lease_is_touched_and_its_loss_is_noticed(tmp_path):
    lease, _ = take(tmp_path, seconds=0.4)
    old = time.time() - 100
    os.utime(lease.path, (old, old))
    lost, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=keep_alive, args=(lease, lost.set, done), daemon=True)
    thread.start()
    deadline = time.monotonic() + 5
    while lease.path.stat().st_mtime < old + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert not lost.is_set()
    # a successor of the same name: the file is there, and is not ours
    lease.path.write_text(json.dumps(lease.content | {"token": "another's"}))
    assert lost.wait(5)
    thread.join()
    assert not is_held(lease)
    release(lease)
    assert lease.path.exists(), "who lost a lease must not give its successor's back"


def race(folder, stack, barrier, results):
    barrier.wait()
    got = acquire(folder, stack, ["a", "b"], 60)
    results.put(None if isinstance(got, Held) else got[0].path.name)
    barrier.wait()  # nobody ends, and frees its lease by that, before all have tried


def at_once(folder, names, target=race):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(names)), context.Queue()
    processes = [context.Process(target=target, args=(folder, name, barrier, results)) for name in names]
    for process in processes:
        process.start()
    got = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return [name for name in got if name]


@pytest.mark.parametrize("stale", [False, True], ids=["free", "stale"])
def test_of_many_at_once_one_gets_it(tmp_path, stale):
    if stale:
        lease, _ = take(tmp_path)
        lease.path.write_text(json.dumps(lease.content | {"started": "1"}))
    assert at_once(tmp_path, ["s"] * 6) == [f"s-{int(stale)}"]


def persist(folder, stack, barrier, results):
    """Try until the lease is there, and hold it for a moment; the result is whether nobody else had one meanwhile."""
    barrier.wait()
    deadline = time.monotonic() + 40
    while isinstance(got := acquire(folder, stack, [stack, "shared"], 60), Held):
        if time.monotonic() > deadline:
            results.put("never")
            return
        time.sleep(random.uniform(0, 0.05))
    try:
        (folder / "inside").touch(exist_ok=False)
    except FileExistsError:
        results.put("two at a time")
        return
    time.sleep(0.05)
    (folder / "inside").unlink()
    release(got[0])
    results.put("alone")


def test_of_many_stacks_that_share_a_run_one_at_a_time_gets_it_and_all_in_the_end(tmp_path):
    assert at_once(tmp_path, [f"s{i}" for i in range(6)], persist) == ["alone"] * 6


def test_leases_can_be_looked_at_where_nothing_can_be_written(tmp_path, monkeypatch):
    lease = elsewhere(take(tmp_path)[0])
    os.utime(lease.path, (time.time() - 30, time.time() - 30))

    def refuse(*args, **kwargs):  # what a read-only mount answers, to deleting a file that is not there too
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "touch", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    (found,) = read_leases(tmp_path)
    assert found.age == pytest.approx(30, abs=5)


def test_a_released_lease_leaves_nothing(tmp_path):
    lease, stale = take(tmp_path)
    assert stale == []
    assert find_live(tmp_path, ["a"], 60) is not None
    release(lease)
    assert find_live(tmp_path, ["a"], 60) is None
    assert list((tmp_path / ".leases").iterdir()) == []


def test_a_process_is_told_by_its_boot_and_start():
    assert machine() is not None
    assert started(os.getpid()) == started(os.getpid()) is not None
    assert started(2**22 + 1) is None
