"""Oracle: what real processes do. A cluster of plain subprocesses: each stack a `python -m harness.worker` of its own.

The bits are held against the same stacks trained in this process.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.config import ROOT, run_id
from harness.launchers.jobs import cancel_jobs, find_jobs
from harness.launchers.placed import JOBS, Cluster, read_notes, see_devices
from harness.launchers.ray import with_texts
from harness.launchers.remote import launch_remote
from harness.launchers.watch import Watch
from harness.log import read_log, trained_twice
from harness.plan import make_plan
from harness.plan_file import open_plan, read_plan
from harness.records import read_records
from harness.store import StoreError
from harness.worker import run_stack

METRICS = {"num_evals": 2, "num_examples": 16}
SECONDS = 300.0  # that a test may take: a busy machine needs a minute for an import of torch


@dataclass
class Process:
    """A stack as a process; `arguments` stand after `python`."""

    id: str
    log: Path
    process: subprocess.Popen

    def ended(self):
        return self.process.poll()

    def describe(self):
        return "RUNNING here" if self.process.poll() is None else f"ENDED {self.process.poll()}"


class Processes:
    """A cluster: starts a process a stack at once, and knows them by their pids."""

    def __init__(self, *arguments):
        self.arguments, self.placed, self.submitted = arguments, {}, []

    def submit(self, plan_path, stacks):
        self.submitted.append(list(stacks))
        started = []
        for index in stacks:
            arguments = self.arguments or ("-m", "harness.worker", str(plan_path), str(index), "cpu", "0.1")
            log = plan_path.parent / f"job-{len(self.placed)}.out"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    [sys.executable, *arguments], stdout=file, stderr=file, env={**os.environ, "PYTHONPATH": str(ROOT)}
                )
            started.append(Process(str(process.pid), log, process))
            self.placed[str(process.pid)] = started[-1]
        return started

    def cluster(self, name="processes"):
        return Cluster(name, self.submit, lambda folder, note: self.placed.get(note.id), self.cancel)

    def cancel(self, ids):
        for one in ids:
            self.placed[one].process.terminate()

    def end(self):
        for placed in self.placed.values():
            placed.process.kill()
            placed.process.wait()


@pytest.fixture
def start():
    clusters = []

    def start_one(*arguments):
        clusters.append(Processes(*arguments))
        return clusters[-1]

    yield start_one
    for one in clusters:
        one.end()


@pytest.fixture
def lay(make_run):
    """A plan of stacks of two runs in a folder; `num_samples` says how long each takes."""

    def lay_one(folder, count, num_samples=256):
        folder.mkdir(parents=True)
        configs = [make_run(num_samples=num_samples, optimizer={"lr": 0.01 * (i + 1)}) for i in range(2 * count)]
        runs = {run_id(config): config for config in configs}
        return open_plan(
            folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=METRICS)
        )

    return lay_one


def launch(path, plan, cluster, *, wait=True, waiting=None):
    """The messages, without those on how jobs stand, which come every second."""
    waiting = list(range(len(plan.stacks))) if waiting is None else waiting
    launched = launch_remote(path, plan, waiting, cluster.cluster(), wait=wait, lease=60.0)
    return ((index, message) for index, message in launched if "standing" not in message)


def queued(messages):
    """Without those on how far a stack is, which come when they do."""
    return [(index, message) for index, message in messages if "samples" not in message]


def numbers(folder):
    frame = read_records(folder).sort_values("run_id").reset_index(drop=True)
    columns = ["run_id", "status", "loss", "train_loss", "grad_norm", *(x for x in frame if x.startswith("history."))]
    return [[list(x) if hasattr(x, "__len__") and not isinstance(x, str) else x for x in frame[c]] for c in columns]


def trained_here(folder, path, plan):
    for index in range(len(plan.stacks)):
        run_stack(path, index, "cpu", report=lambda _: None, stop=threading.Event(), checkpoint=60.0, lease=60.0)
    return numbers(folder)


def wait_for(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_stacks_trained_on_a_cluster_equal_those_trained_here(lay, start, tmp_path):
    path, plan = lay(tmp_path / "remote", 2)
    cluster = start()
    messages = list(launch(path, plan, cluster))
    assert cluster.submitted == [[0, 1]]  # at once, longest first
    ended = {index: message["ended"] for index, message in messages if "ended" in message}
    assert {index: [run for run, status, _ in rows if status == "done"] for index, rows in ended.items()} == {
        index: list(stack.runs) for index, stack in enumerate(plan.stacks)
    }
    assert sum(message.get("samples", 0) for _, message in messages) == 4 * 256
    assert numbers(tmp_path / "remote") == trained_here(tmp_path / "here", *lay(tmp_path / "here", 2))


def test_what_was_left_running_is_found_again_and_not_submitted_twice(lay, start, tmp_path):
    folder = tmp_path / "s"
    path, plan = lay(folder, 1, num_samples=200_000)
    cluster = start()
    assert queued(launch(path, plan, cluster, wait=False)) == [(0, {"queued": "RUNNING here"})]
    (note,) = read_notes(folder)
    assert (note.id, note.name, note.plan) == (*cluster.placed, plan.stacks[0].name, path.name)
    assert queued(launch(path, plan, cluster, wait=False)) == [(0, {"queued": "RUNNING here"})]
    assert [placed.describe() for _, placed in find_jobs(folder, {"processes": cluster.cluster()})] == ["RUNNING here"]
    wait_for(lambda: list(folder.glob(".checkpoints/*")))
    # asked to end from outside, it has saved a checkpoint, and is submitted again
    cluster.cancel([note.id])
    wait_for(lambda: cluster.placed[note.id].ended() == 3)
    *_, stopped, last = launch(path, plan, cluster, wait=False)
    assert stopped[1]["stopped"] > 0
    assert last == (0, {"queued": "RUNNING here"})
    assert cluster.submitted == [[0], [0]]
    wait_for(lambda: [entry["event"] for entry in read_log(folder)].count("start") == 2)
    assert read_log(folder)[-1]["step"] > 0
    # cancelled, it is nobody's until the next command, which submits it
    clusters = {"processes": cluster.cluster()}
    assert [cancel_jobs(folder, clusters) for _ in range(2)] == [1, 0]
    assert list(find_jobs(folder, clusters)) == []
    wait_for(lambda: read_log(folder)[-1]["event"] == "stopped")
    wait_for(lambda: cluster.placed[read_notes(folder)[0].id].ended() is not None)  # its lease is given back
    assert queued(launch(path, plan, cluster, wait=False)) == [(0, {"queued": "RUNNING here"})]
    assert cluster.submitted == [[0]] * 3
    assert not trained_twice(read_log(folder))


def test_what_another_command_cancels_is_not_submitted_again_by_one_that_waits(lay, start, tmp_path):
    folder = tmp_path / "s"
    path, plan = lay(folder, 1, num_samples=200_000)
    cluster, messages, standing = start(), [], []

    def wait_for_all():
        for index, message in launch_remote(path, plan, [0], cluster.cluster(), wait=True, lease=60.0):
            (standing if "standing" in message else messages).append((index, message))

    thread = threading.Thread(target=wait_for_all)
    thread.start()
    wait_for(lambda: list(folder.glob(".checkpoints/*")) and len(standing) > 1)
    assert cancel_jobs(folder, {"processes": cluster.cluster()}) == 1
    thread.join(SECONDS)
    assert not thread.is_alive()
    (placed,) = cluster.placed.values()
    assert messages[-1] == (0, {"cancelled": placed.id})
    assert cluster.submitted == [[0]]
    assert {message["standing"] for _, message in standing} >= {"RUNNING here"}
    assert queued(launch(path, plan, cluster, wait=False)) == [(0, {"queued": "RUNNING here"})]  # the next command


def test_a_killed_worker_has_its_stack_halved_and_all_is_trained(lay, start, tmp_path):
    folder = tmp_path / "s"
    path, plan = lay(folder, 1, num_samples=20_000)
    cluster, messages = start(), []
    launched = launch(path, plan, cluster)
    thread = threading.Thread(target=lambda: messages.extend(launched))
    thread.start()
    wait_for(lambda: list(folder.glob(".checkpoints/*")))
    (first,) = cluster.placed.values()
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    thread.join(SECONDS)
    assert not thread.is_alive()
    kinds = [kind for _, message in messages for kind in message if kind in ("halved", "ended")]
    assert kinds == ["halved", "ended", "ended"]
    newest = read_plan(max(folder.glob("plan-*.json")))
    assert [len(stack.runs) for stack in newest.stacks] == [1, 1]
    assert sorted(read_records(folder)["status"]) == ["done", "done"]
    assert not trained_twice(read_log(folder))
    assert numbers(folder) == trained_here(tmp_path / "here", *lay(tmp_path / "here", 1, num_samples=20_000))


def test_a_job_that_crashes_is_a_failure_with_its_last_words_and_tried_by_the_next_command(lay, start, tmp_path):
    path, plan = lay(tmp_path / "s", 1)
    began = time.monotonic()
    cluster = start("-c", "import sys; print('no licence'); sys.exit(7)")
    ((_, message),) = launch(path, plan, cluster)
    assert time.monotonic() - began < 30
    (placed,) = cluster.placed.values()
    reason = f"their worker ended with code 7 (job {placed.id}, ENDED 7, log {placed.log}, which ends: no licence)"
    assert message["ended"] == [(run, "failed", reason) for run in plan.stacks[0].runs]
    assert [list(message) for _, message in launch(path, plan, cluster)] == [["ended"]]
    assert cluster.submitted == [[0], [0]]


@pytest.mark.parametrize(
    ("name", "code", "state", "words"),
    [
        ("slurm", 1, "FAILED", "their job ended before a worker began, as where a line of launcher.setup fails"),
        ("slurm", 1, "CANCELLED", "their worker ended with code 1"),
        ("ray", 1, "FAILED", "their worker ended with code 1"),
    ],
)
def test_only_a_slurm_job_without_a_word_has_had_no_worker(lay, start, tmp_path, monkeypatch, name, code, state, words):
    monkeypatch.setattr("harness.launchers.remote.SHORT_PATIENCE", 0.1)
    monkeypatch.setattr(Process, "describe", lambda self: state)
    path, plan = lay(tmp_path / "s", 1)
    processes = start("-c", f"import sys; sys.exit({code})")
    *_, (_, message) = launch_remote(path, plan, [0], processes.cluster(name), wait=True, lease=60.0)
    (placed,) = processes.placed.values()
    assert message["ended"][0][2] == f"{words} (job {placed.id}, {state}, log {placed.log})"


def test_a_folder_out_of_reach_for_a_moment_ends_no_command(tmp_path):
    watch = Watch(tmp_path / "s")
    watch.look()
    watch.seen -= 61
    with pytest.raises(StoreError, match="s cannot be read .No such file or directory.: bring it back; jobs go on"):
        watch.look()
    (tmp_path / "s").mkdir()
    watch.look()


def test_variables_for_ray_are_texts():
    assert with_texts({"env_vars": {"OMP_NUM_THREADS": 1}, "pip": ["x"]}) == {
        "env_vars": {"OMP_NUM_THREADS": "1"}, "pip": ["x"],
    }  # fmt: skip
    assert with_texts(None) is None


def test_one_that_never_gets_further_is_given_up(lay, start, tmp_path, monkeypatch):
    monkeypatch.setattr("harness.launchers.remote.SHORT_PATIENCE", 0.1)
    path, plan = lay(tmp_path / "s", 1)
    cluster = start("-c", "import sys; sys.exit(3)")
    *before, (_, last) = launch(path, plan, cluster)
    assert [message for _, message in before] == [{"stopped": -1}] * 3
    assert {status for _, status, _ in last["ended"]} == {"failed"}
    assert "3 times again without getting further" in last["ended"][0][2]
    assert len(cluster.submitted) == 4
    assert len(list((tmp_path / "s" / JOBS).glob("*.json"))) == 4


@pytest.mark.parametrize(
    ("device", "gpus", "visible", "expected"),
    [
        ("cpu", 0, None, [("cpu", {"OMP_NUM_THREADS": "1"})] * 4),
        ("cuda", 4, None, [("cuda:0", {"CUDA_VISIBLE_DEVICES": str(i)}) for i in range(4)]),
        ("cuda", 2, "3,GPU-5", [("cuda:0", {"CUDA_VISIBLE_DEVICES": x}) for x in ("3", "GPU-5", "3", "GPU-5")]),
    ],
)
def test_every_worker_of_a_job_sees_its_own_device(device, gpus, visible, expected):
    assert [see_devices(device, slot, gpus, visible) for slot in range(4)] == expected
