"""Oracle: an undisturbed sweep, the file system, and log.jsonl. Real kills of whole processes, at seeded moments.

KILLS=50 pytest tests/test_survival.py  does the long form of the first test.
"""

import ctypes
import os
import random
import resource
import shlex
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch

from harness import job, probe, worker
from harness.config import run_id
from harness.leases import acquire
from harness.log import count_trainings, read_log, trained_twice
from harness.plan import make_plan
from harness.plan_file import open_plan
from harness.process import end_on_signals
from harness.records import probe_path, read_records
from harness.worker import run_stack

KILLS = int(os.environ.get("KILLS", "4"))
QUIET = {**os.environ, "WANDB_MODE": "disabled", "MPLBACKEND": "agg"}
NUM_SAMPLES, STEP = (4096, 1.0) if KILLS < 20 else (16384, 0.25)  # so that a sweep lasts for its kills
NUM_RUNS = round(8 / STEP) * 3 * 2
SWEEP = [
    "sweep=smoke", f"sweep.grid.optimizer.lr=[log2,-8,-0.125,{STEP}]", "sweep.grid.seed=[0,1,2]", "tracker=none",
    "task.num_heldout=64", "metrics.num_examples=32", "model.hidden=8", "model.embedding=4", "launcher.width=4",
    "launcher.compile=never",
    "launcher.workers=2", "launcher.checkpoint=0.2", f"num_samples={NUM_SAMPLES}",
]  # fmt: skip
BITS = ["loss", "train_loss", "grad_norm", "weight_rms", "update_rms", "num_params", "message", "status"]


def start(folder, *overrides, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "harness", *overrides],
        cwd=folder, env=QUIET, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        **options,
    )  # fmt: skip


def finish(process, code=0):
    out, errors = process.communicate(timeout=300)
    assert process.returncode == code, out + errors
    assert "Traceback" not in errors, errors
    return out, errors


def columns_of(frame):
    """What must be equal bit for bit: every result and every curve, of every run."""
    frame = frame.sort_values("run_id").reset_index(drop=True)
    curves = [name for name in frame if name.startswith("history.")]
    return frame[["run_id", *BITS]].assign(**{name: [list(x) for x in frame[name]] for name in curves})


def workers_of(folder):
    """Processes whose lease lies in the folder, as they say themselves in the log."""
    pids = {entry["pid"] for entry in read_log(folder) if entry["event"] == "start"}
    # by now a number may belong to another process: a worker's working folder is its launcher's
    return [pid for pid in pids if working_folder(pid) == folder.parents[1]]


def working_folder(pid):
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def test_kills_at_random_moments_lose_nothing_and_train_nothing_twice(tmp_path):
    chance = random.Random(3)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    for folder in (undisturbed, disturbed):
        folder.mkdir()
    finish(start(undisturbed, *SWEEP))
    folder = disturbed / "runs" / "smoke"
    kills = commands = 0
    process = None
    while kills < KILLS:
        if process is None or process.poll() is not None:
            if process is not None:
                process.communicate()
            process = start(disturbed, *SWEEP)
            commands += 1
        # from the moment at which something is trained: killing a command that still imports shows little
        began = len(read_log(folder))
        deadline = time.monotonic() + 20
        while len(read_log(folder)) == began and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.5))
        victim = chance.choice(["worker", "launcher", "both"])
        alive = workers_of(folder)
        hit = victim in ("worker", "both") and bool(alive) and kill(chance.choice(sorted(alive)))
        if victim in ("launcher", "both"):
            hit = kill(process.pid) or hit
            process.wait()
        kills += bool(hit)
        assert commands < 20 * KILLS
        records = read_records(folder) if list(folder.glob("*.parquet")) else pd.DataFrame()
        if len(records) == NUM_RUNS:
            break
    reached = kills
    process.communicate(timeout=300)
    while process.returncode != 0:  # what a signal ended twice is told as failed: the same command goes on
        process = start(disturbed, *SWEEP)
        process.communicate(timeout=300)
    log = read_log(folder)
    print(f"{reached} kills, {commands} commands, {sum(e['event'] == 'start' for e in log)} trainings,", end=" ")
    print(f"{sum(e['event'] == 'start' and e['step'] > 0 for e in log)} of them from a checkpoint,", end=" ")
    print(
        f"{sum(e['event'] == 'taken over' for e in log)} taken over, {sum(e['event'] == 'halved' for e in log)} halved"
    )
    every = pd.concat([pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))])
    assert len(every) == every["run_id"].nunique() == NUM_RUNS
    assert trained_twice(log) == []
    assert not list((folder / ".leases").glob("[!.]*"))
    assert not list((folder / ".checkpoints").glob("*.safetensors"))
    pd.testing.assert_frame_equal(
        columns_of(every), columns_of(read_records(undisturbed / "runs" / "smoke")), check_exact=True
    )
    assert reached >= KILLS, "the sweep was over too soon: the test must kill more often"
    assert any(entry["event"] == "start" and entry["step"] > 0 for entry in log)
    assert set(count_trainings(read_log(undisturbed / "runs" / "smoke")).values()) == {1}


LONG = [
    "sweep=smoke", "optimizer=sgd", "sweep.grid.optimizer.lr=[0.01,0.1,0.2,1e38]", "sweep.grid.seed=[0]",
    "sweep.grid.batch_size=[32]", "num_samples=65536", "task.num_heldout=64", "metrics.num_examples=32",
    "model.hidden=8", "model.embedding=4", "tracker=none", "launcher.workers=1", "launcher.checkpoint=0.1",
]  # fmt: skip


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)
    return found


def checkpoints(folder):
    return sorted((folder / "runs" / "smoke" / ".checkpoints").glob("*.safetensors"))


def records(folder):
    files = sorted((folder / "runs" / "smoke").glob("*.parquet"))
    return pd.concat([pd.read_parquet(path) for path in files])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(start(folder, *LONG))
    frame = records(folder).sort_values("optimizer.lr")
    assert frame["status"].tolist() == ["done"] * 3 + ["diverged"]  # a lane that is NaN costs its neighbours nothing
    return columns_of(frame)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_saves_what_is_trained(undisturbed, tmp_path, number):
    process = start(tmp_path, *LONG)
    wait_for(lambda: checkpoints(tmp_path))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors.strip() == "interrupted: what was trained is kept; the same command goes on from there"
    folder = tmp_path / "runs" / "smoke"
    assert [entry["event"] for entry in read_log(folder)] == ["start", "stopped"]
    reached = read_log(folder)[-1]["step"]
    running = read_records(folder, running=True)
    assert running["status"].tolist() == ["running"] * 4
    assert set(running["message"]) == {f"step {reached}"}
    assert list((folder / ".leases").iterdir()) == []
    finish(start(tmp_path, *LONG))
    assert [entry.get("step") for entry in read_log(folder) if entry["event"] == "start"] == [0, reached]
    pd.testing.assert_frame_equal(columns_of(records(tmp_path)), undisturbed, check_exact=True)
    assert checkpoints(tmp_path) == []


def test_an_interrupted_refresh_goes_on_from_its_checkpoint(undisturbed, tmp_path):
    refresh = [*LONG, "refresh=true"]
    process = start(tmp_path, *refresh)
    wait_for(lambda: checkpoints(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    folder = tmp_path / "runs" / "smoke"
    reached = read_log(folder)[-1]["step"]
    finish(start(tmp_path, *refresh))
    begun = [entry for entry in read_log(folder) if entry["event"] == "start"]
    assert [entry["step"] for entry in begun] == [0, reached]
    assert len({entry["since"] for entry in begun}) == 1
    pd.testing.assert_frame_equal(columns_of(records(tmp_path)), undisturbed, check_exact=True)
    assert checkpoints(tmp_path) == []


def test_a_signal_while_a_checkpoint_is_probed_is_heeded_between_batch_sizes(make_run, tmp_path, monkeypatch):
    config = make_run(
        task={"num_heldout": 8, "context": 2}, model={"embedding": 2, "hidden": 2}, protocol="one_step",
        num_samples=None, num_steps=2, pool_samples=16, probe_samples=8, num_draws=6,
    )  # fmt: skip
    runs = {run_id(config): config}
    metrics = {"num_evals": 1, "num_examples": 8}
    measured, stop, told, handlers = [], threading.Event(), [], {}

    def measure_step(*arguments):
        measured.append(arguments[2])
        if len(measured) == 3 and stop_here:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    real = probe.measure_step
    monkeypatch.setattr(probe, "measure_step", measure_step)

    def work(name):
        folder = tmp_path / name / "s"
        folder.mkdir(parents=True, exist_ok=True)
        lay = partial(make_plan, "s", device="cpu", width=1, metrics=metrics)
        path, _ = open_plan(folder, "0123", runs, (), lay)
        done = run_stack(path, 0, "cpu", report=told.append, stop=stop, checkpoint=60.0, lease=60.0)
        return done, folder

    stop_here = False
    assert work("undisturbed")[0]
    whole, stop_here = len(measured), True
    try:
        handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        end_on_signals(stop)
        measured.clear()
        done, folder = work("stopped")
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert not done
    assert told[-1] == {"stopped": 2}
    assert len(measured) == 3
    assert list((folder / ".leases").iterdir()) == list(folder.glob("*.parquet")) == []
    assert read_records(folder, running=True)["message"].tolist() == ["step 2"]
    stop.clear()
    stop_here = False
    measured.clear()
    assert work("stopped")[0]
    assert len(measured) == whole
    assert [entry.get("step") for entry in read_log(folder)] == [0, 2, 2, None]
    other = tmp_path / "undisturbed" / "s"
    assert probe_path(folder, *runs).read_bytes() == probe_path(other, *runs).read_bytes()
    one, two = (read_records(at).filter(like="probe.") for at in (folder, other))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert list((folder / ".checkpoints").iterdir()) == []


@pytest.mark.parametrize("damage", ["torn", "flipped", "header"])
def test_a_damaged_checkpoint_is_told_and_an_older_one_serves(undisturbed, tmp_path, damage):
    process = start(tmp_path, *LONG)
    wait_for(lambda: len(checkpoints(tmp_path)) == 2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    older, newest = checkpoints(tmp_path)
    content = bytearray(newest.read_bytes())
    place = {"torn": -1, "flipped": -100, "header": 12}[damage]
    content[place] ^= 255
    newest.write_bytes(content[:-1000] if damage == "torn" else content)
    _, errors = finish(start(tmp_path, *LONG))
    lines = errors.strip().splitlines()
    assert len(lines) == 1
    assert f"{newest.name} is damaged" in lines[0]
    went_on = [entry["step"] for entry in read_log(tmp_path / "runs" / "smoke") if entry["event"] == "start"][-1]
    assert went_on == int(older.stem.rpartition("-")[2])
    pd.testing.assert_frame_equal(columns_of(records(tmp_path)), undisturbed, check_exact=True)


def test_a_worker_that_signals_end_is_halved_once_and_then_fails_with_a_command_that_works(tmp_path):
    folder = tmp_path / "runs" / "smoke"
    process = start(tmp_path, *LONG)
    for count in (1, 2):
        wait_for(lambda count=count: sum(entry["event"] == "start" for entry in read_log(folder)) == count)
        (pid,) = workers_of(folder)
        assert kill(pid)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1, out + errors
    assert "Traceback" not in errors
    lines = errors.strip().splitlines()
    assert lines[0] == "2 runs failed: their worker was ended by signal 9, often for want of memory"
    assert [len(e["run_ids"]) for e in read_log(folder) if e["event"] == "start"] == [4, 2, 2]
    assert len(records(tmp_path)) == 2
    command = shlex.split(lines[1].partition(": ")[2])
    assert command[:3] == ["python", "-m", "harness"]
    finish(start(tmp_path, *command[3:]))
    assert len(records(tmp_path)) == 3
    finish(start(tmp_path, *LONG))
    assert sorted(records(tmp_path)["status"]) == ["diverged", "done", "done", "done"]
    assert trained_twice(read_log(folder)) == []


@pytest.mark.parametrize("seeds", ["[0,1]", "[0,1,2]"], ids=["the same sweep", "a larger one"])
def test_two_launchers_at_once_train_every_run_once(tmp_path, seeds):
    small = [*SWEEP, "sweep.grid.optimizer.lr=[log2,-8,-1,1]", "launcher.checkpoint=60"]
    first = start(tmp_path, *small, "sweep.grid.seed=[0,1]")
    second = start(tmp_path, *small, f"sweep.grid.seed={seeds}")
    finish(first)
    finish(second)
    frame = records(tmp_path)
    assert len(frame) == frame["run_id"].nunique() == 16 * len(seeds.split(","))
    log = read_log(tmp_path / "runs" / "smoke")
    assert set(count_trainings(log).values()) == {1}
    assert trained_twice(log) == []
    assert len({entry["pid"] for entry in log}) > 2


def test_a_full_disk_is_one_line_and_the_command_goes_on_later(tmp_path):
    (tmp_path / "novel.txt").write_text("It was a dark and stormy night. " * 100)
    own = [*LONG, "task=text", "task.path=novel.txt", "num_samples=16384"]
    process = start(tmp_path, *own, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)))
    _, errors = finish(process, 1)
    warnings = [line for line in errors.strip().splitlines() if line.startswith("warning: no checkpoint: cannot write")]
    others = [line for line in errors.strip().splitlines() if line not in warnings]
    assert len(warnings) <= 1
    assert len(others) == 1
    assert others[0].startswith("error: cannot write ")
    assert "free some space" in others[0]
    assert not list((tmp_path / "runs" / "smoke").glob("*.parquet"))
    assert not list((tmp_path / "runs" / "smoke").rglob(".*.tmp"))
    finish(start(tmp_path, *own))
    assert len(records(tmp_path)) == 4


def test_a_vanished_runs_dir_is_one_line_and_brought_back_it_goes_on(tmp_path, undisturbed):
    process = start(tmp_path, *LONG, "launcher.lease=1", "launcher.checkpoint=100")
    wait_for(lambda: read_log(tmp_path / "runs" / "smoke"))
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    _, errors = finish(process, 1)
    assert errors.strip() == "error: runs/smoke has vanished: bring runs_dir back, or give another runs_dir=FOLDER"
    assert not (tmp_path / "runs").exists()
    (tmp_path / "elsewhere").rename(tmp_path / "runs")
    finish(start(tmp_path, *LONG))
    pd.testing.assert_frame_equal(columns_of(records(tmp_path)), undisturbed, check_exact=True)


def test_a_torn_record_is_told_and_its_runs_alone_are_trained_again(tmp_path):
    small = [*LONG, "num_samples=1024", "launcher.width=2"]
    finish(start(tmp_path, *small))
    torn, whole = sorted((tmp_path / "runs" / "smoke").glob("*.parquet"))
    torn.write_bytes(torn.read_bytes()[:-100])
    _, errors = finish(start(tmp_path, *small), 2)
    assert len(errors.strip().splitlines()) == 1
    assert f"{torn.name} cannot be read" in errors
    assert "Move it away; its runs will be trained again" in errors
    torn.rename(tmp_path / "torn")
    content = whole.read_bytes()
    out, _ = finish(start(tmp_path, *small))
    assert "training 2 runs" in out
    assert whole.read_bytes() == content
    assert len(records(tmp_path)) == records(tmp_path)["run_id"].nunique() == 4


def test_a_read_only_runs_dir_is_one_line(tmp_path):
    folder = tmp_path / "runs" / "smoke"
    folder.mkdir(parents=True)
    folder.chmod(0o555)

    def obey_permissions():
        if os.geteuid() == 0:  # root writes everywhere unless it gives up CAP_DAC_OVERRIDE (1): PR_CAPBSET_DROP is 24
            assert ctypes.CDLL(None).prctl(24, 1, 0, 0, 0) == 0

    _, errors = finish(start(tmp_path, *LONG, preexec_fn=obey_permissions), 2)
    folder.chmod(0o755)
    assert errors.strip() == (
        "error: runs_dir='runs' cannot be written to (Permission denied): give another runs_dir=FOLDER"
    )
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build reserves more addresses than the test leaves")
def test_out_of_memory_halves_until_it_fits(tmp_path):
    large = [*LONG, "sweep.grid.optimizer.lr=[0.01,0.1,0.2,0.3]", "model.hidden=100000", "num_samples=64"]
    limit = 5_000_000 * 1024  # bytes of addresses: room for one or two of these runs at a time, not for four
    finish(start(tmp_path, *large, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))))
    log = read_log(tmp_path / "runs" / "smoke")
    assert next(entry["message"] for entry in log if entry["event"] == "halved") == "out of memory"
    assert max(entry["runs"] for entry in log if entry["event"] == "end") < 4
    assert records(tmp_path)["status"].tolist() == ["done"] * 4
    assert trained_twice(log) == []


def test_a_stack_that_was_published_before_its_lease_was_taken_is_not_trained_again(make_run, tmp_path):
    # the moment between a launcher's look and its worker's lease, in which another may publish
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    runs = {run_id(config): config for config in [make_run(num_samples=64), make_run(num_samples=64, seed=1)]}
    metrics = {"num_evals": 1, "num_examples": 8}
    path, _ = open_plan(
        folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=metrics)
    )
    told = []
    for _ in range(2):
        assert run_stack(path, 0, "cpu", report=told.append, stop=threading.Event(), checkpoint=60.0, lease=60.0)
    assert told[-1] == {"elsewhere": 2}
    assert [entry["event"] for entry in read_log(folder)] == ["start", "end"]
    assert len(list(folder.glob("*.parquet"))) == 1


def test_temporary_files_of_killed_writers_go_after_an_hour(make_run, tmp_path):
    folder = tmp_path / "runs" / "s"
    runs = {run_id(config): config for config in [make_run(num_samples=64)]}
    metrics = {"num_evals": 1, "num_examples": 8}
    places = [folder, *(folder / name for name in (".leases", ".checkpoints", "weights", ".index"))]
    torn = [place / ".x.tmp" for place in places] + [tmp_path / "runs" / ".compiled" / f".{'0' * 32}.pt2"]
    kept = [torn[-1].with_name("code.pt2"), torn[-1].with_name(".young.pt2"), folder / "weights" / ".young.tmp"]
    for path in torn + kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in [*torn, kept[0]]:
        os.utime(path, (time.time() - 4000, time.time() - 4000))
    path, _ = open_plan(
        folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=metrics)
    )
    assert run_stack(path, 0, "cpu", report=list, stop=threading.Event(), checkpoint=60.0, lease=60.0)
    assert [path for path in torn + kept if path.exists()] == kept


@pytest.fixture
def planned(make_run, tmp_path):
    """A plan of one stack of two runs."""
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    runs = {run_id(config): config for config in [make_run(num_samples=64), make_run(num_samples=64, seed=1)]}
    metrics = {"num_evals": 1, "num_examples": 8}
    return open_plan(
        folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=2, metrics=metrics)
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere/plan-0123-0.json", "0", "cpu"], "nowhere/plan-0123-0.json cannot be read (No such file"),
        (["", "1"], "has no stack 1"),
        (["", "0", "cpu", "soon"], "checkpoint='soon' is no number"),
        (["", "0", "cpu", "60", "-1"], "lease=-1.0 is not a number > 0"),
        (["", "first"], "usage: "),
    ],
)
def test_a_workers_mistakes_are_one_line(planned, monkeypatch, capsys, arguments, words):
    monkeypatch.setattr(sys, "argv", ["worker", arguments[0] or str(planned[0]), *arguments[1:]])
    assert worker.main() == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.parametrize("why", ["held", "halved", None])
def test_a_worker_that_left_work_says_so_by_its_exit_code(planned, monkeypatch, why):
    path, plan = planned
    monkeypatch.setattr(sys, "argv", ["worker", str(path), "0", "cpu"])
    monkeypatch.setattr(worker, "end_on_signals", lambda stop: None)
    if why == "held":
        acquire(path.parent, "other", list(plan.stacks[0].runs)[:1], 60)
    if why == "halved":
        monkeypatch.setattr(job, "train_rows", lambda job: (_ for _ in ()).throw(MemoryError()))
    assert worker.main() == (3 if why else 0)
    assert len(list(path.parent.glob("*.parquet"))) == (0 if why else 1)
    assert len(list(path.parent.glob("plan-*.json"))) == (2 if why == "halved" else 1)


def test_a_worker_says_why_its_runs_failed(planned, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["worker", str(planned[0]), "0", "cpu"])
    monkeypatch.setattr(worker, "end_on_signals", lambda stop: None)
    monkeypatch.setattr(job, "train_rows", lambda job: (_ for _ in ()).throw(KeyError("no such thing")))
    assert worker.main() == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("failed: KeyError: 'no such thing' (see ")


def test_saving_is_not_counted_as_time_of_steps(planned, monkeypatch):
    path, _ = planned
    noted = []
    monkeypatch.setattr(job, "save_checkpoint", lambda *arguments: time.sleep(2))
    monkeypatch.setattr(job, "note_speed", lambda job, seconds, steps, compiled: noted.append((seconds, steps)))
    assert run_stack(path, 0, "cpu", report=list, stop=threading.Event(), checkpoint=0.0, lease=60.0)
    ((seconds, steps),) = noted
    assert steps == 6  # of eight: the first is not counted, nor the last, a point of the curve
    assert seconds < 1
