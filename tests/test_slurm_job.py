"""Oracle: what real processes see and leave, with stand-ins for SLURM's commands and for the workers' Python."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from harness.config import CONF_DIR, ROOT, run_id
from harness.launchers import check_cluster, check_launcher, choose_place, slurm
from harness.launchers.jobs import cancel_jobs, find_jobs
from harness.launchers.placed import NoCluster, Note, all_notes, keep_notes, read_exit
from harness.launchers.slurm import launch_slurm, slurm_cluster
from harness.plan import make_plan
from harness.plan_file import open_plan
from harness.store import StoreError

pytest.importorskip("submitit")

# $4 is the stack: one is killed, one ends well, the others go on until they are asked for a checkpoint
WORKER = """echo "$4 $5 $CUDA_VISIBLE_DEVICES $HARNESS_JOB" >>"$SEEN"
case $4 in
  1) kill -9 $$;;
  2) exit 0;;
esac
trap 'exit 3' TERM
while :; do sleep 0.05; done"""
JOB = """
import signal, sys
from harness.launchers.slurm_job import StackJob
plan, python, stacks, fruitless = sys.argv[1:]
sys.executable = python
job = StackJob(plan, [int(x) for x in stacks], "cuda", 4, 60.0, 60.0, 5.0, fruitless=int(fruitless))
def requeue(*_):
    again = job.checkpoint()
    print("again", again and (again.function.stacks, again.function.fruitless), flush=True)
signal.signal(signal.SIGUSR2, requeue)
job()
"""


def stand_in(folder, monkeypatch, **programs):
    """Programs of these names, first and only ones on the path beside the system's own."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def plan(make_run, tmp_path):
    configs = [make_run(optimizer={"lr": 0.001 * (i + 1)}, num_samples=16) for i in range(4)]
    runs = {run_id(config): config for config in configs}
    (tmp_path / "s" / ".jobs").mkdir(parents=True)
    metrics = {"num_evals": 1, "num_examples": 8}
    return open_plan(
        tmp_path / "s",
        "0123",
        runs,
        (),
        lambda lacking: make_plan("s", lacking, device="cuda", width=1, metrics=metrics),
    )


def options(**changed):
    """Those of conf/launcher/slurm.yaml."""
    return {**OmegaConf.to_container(OmegaConf.load(Path(CONF_DIR) / "launcher" / "slurm.yaml")), **changed}


def wait_for(condition):
    deadline = time.monotonic() + 120
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def start_job(plan, tmp_path, monkeypatch):
    """A job of a node with four devices; stand-ins for its workers."""
    stand_in(tmp_path / "bin", monkeypatch, python=WORKER, scontrol="echo JobId=7 JobState=RUNNING")
    (tmp_path / "seen").touch()
    own = {"SLURM_JOB_ID": "7", "CUDA_VISIBLE_DEVICES": "0,1,2,3", "SEEN": str(tmp_path / "seen")}
    started = []

    def start(stacks, fruitless=0):
        command = [sys.executable, "-c", JOB, str(plan[0]), str(tmp_path / "bin" / "python"), stacks, str(fruitless)]
        environment = {**os.environ, **own, "PYTHONPATH": str(ROOT)}
        environment.pop("SLURM_ARRAY_JOB_ID", None)
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_four_workers_see_a_device_each_and_one_that_dies_is_noticed_while_others_go_on(start_job, plan, tmp_path):
    (path, laid), job = plan, start_job("0123")
    names = [stack.name for stack in laid.stacks]
    wait_for(lambda: read_exit(path.parent, "7", names[1]) is not None)
    assert job.poll() is None
    assert read_exit(path.parent, "7", names[1]) == -signal.SIGKILL
    seen = wait_for(lambda: len(lines := sorted((tmp_path / "seen").read_text().splitlines())) == 4 and lines)
    assert seen == [f"{i} cuda:0 {i} slurm 7 .jobs/7_0_log.out" for i in range(4)]
    job.send_signal(signal.SIGTERM)  # preempted: only what was still in training is queued again
    out, _ = job.communicate(timeout=60)
    assert "again ([0, 3], 0)" in out
    assert [read_exit(path.parent, "7", name) for name in names] == [3, -signal.SIGKILL, None, 3]


def test_a_job_that_never_gets_further_is_not_queued_again_for_ever(start_job, plan, tmp_path):
    (path, laid), job = plan, start_job("03", fruitless=2)
    wait_for(lambda: len((tmp_path / "seen").read_text().splitlines()) == 2)
    job.send_signal(signal.SIGTERM)
    assert "again ([0, 3], 3)" in job.communicate(timeout=60)[0]
    job = start_job("03", fruitless=3)
    wait_for(lambda: len((tmp_path / "seen").read_text().splitlines()) == 4)
    job.send_signal(signal.SIGTERM)
    assert "again None" in job.communicate(timeout=60)[0]
    assert [read_exit(path.parent, "7", laid.stacks[i].name) for i in (0, 3)] == [1, 1]


def test_a_cancelled_job_is_not_queued_again(start_job, tmp_path, monkeypatch):
    stand_in(tmp_path / "bin", monkeypatch, scontrol="echo JobId=7 JobState=COMPLETING")
    job = start_job("03")
    wait_for(lambda: len((tmp_path / "seen").read_text().splitlines()) == 2)
    job.send_signal(signal.SIGTERM)
    assert "again" not in job.communicate(timeout=60)[0]
    assert job.returncode == 0


def noted(folder, count):
    (folder / "s").mkdir()
    keep_notes(
        folder / "s",
        [Note("slurm", "plan-0123-0.json", i, f"a{i}", 0, -1, False, f"9_{i}", None) for i in range(count)],
    )
    return folder / "s"


def test_cancelling_where_slurm_does_not_answer_is_an_error_and_forgets_nothing(tmp_path, monkeypatch):
    folder = noted(tmp_path, 3)
    stand_in(tmp_path / "bin", monkeypatch, squeue="exit 1", sacct="exit 1", scancel="exit 1")
    cluster = {"slurm": slurm_cluster()}
    assert {placed.describe() for _, placed in find_jobs(folder, cluster)} == {
        "UNKNOWN (squeue does not answer; is SLURM_CONF set in this shell?)"
    }
    with pytest.raises(NoCluster, match="scancel failed"):
        cancel_jobs(folder, cluster)
    assert len(find_jobs(folder, cluster)) == 3


def test_cancelling_takes_one_order_for_all_and_passes_over_what_has_ended(tmp_path, monkeypatch):
    folder = noted(tmp_path, 3)
    squeue = "echo '9_0|RUNNING|node|None'; echo '9_2|PENDING||Priority'"  # 9_1 is forgotten
    stand_in(tmp_path / "bin", monkeypatch, squeue=squeue, sacct="exit 1", scancel=f'echo "$@" >>{tmp_path}/cancelled')
    assert cancel_jobs(folder, {"slurm": slurm_cluster()}) == 2
    assert (tmp_path / "cancelled").read_text() == "9_0 9_2\n"


def test_cancelling_finds_jobs_of_every_plan_whatever_another_launcher_did_since(tmp_path, monkeypatch):
    (tmp_path / "s").mkdir()
    for launcher, plan, job in (("slurm", "0123", "9_0"), ("slurm", "4567", "9_1"), ("ray", "0123", "x")):
        keep_notes(tmp_path / "s", [Note(launcher, f"plan-{plan}-0.json", 0, "a0", 0, -1, False, job, None)])
    squeue = "echo '9_0|RUNNING|node|None'; echo '9_1|PENDING||Priority'"
    stand_in(tmp_path / "bin", monkeypatch, squeue=squeue, sacct="exit 1", scancel=f'echo "$@" >>{tmp_path}/cancelled')
    assert cancel_jobs(tmp_path / "s", {"slurm": slurm_cluster()}) == 2
    assert (tmp_path / "cancelled").read_text() == "9_0 9_1\n"
    assert cancel_jobs(tmp_path / "s", {"slurm": slurm_cluster()}) == 0


def test_a_note_of_other_code_is_told(tmp_path):
    folder = noted(tmp_path, 1)
    (path,) = (folder / ".jobs").glob("slurm-*.json")
    path.write_text('[{"launcher": "slurm", "job": "9"}]')
    with pytest.raises(ValueError, match="is no note of jobs that this code can read"):
        cancel_jobs(folder, {"slurm": slurm_cluster()})


ANSWERS = {"srun": "true", "squeue": "true", "sacct": "exit 1"}
PENDING = ANSWERS | {"squeue": "for i in '' _0 _1 _2 _3; do echo \"41$i|PENDING||Priority\"; done"}


def test_where_a_second_array_is_refused_the_first_is_taken_back(plan, tmp_path, monkeypatch):
    count = (
        f"echo x >>{tmp_path}/sent; [ $(wc -l <{tmp_path}/sent) = 1 ] || {{ echo QOSMaxSubmitJobPerUser >&2; exit 1; }}"
    )
    stand_in(
        tmp_path / "bin", monkeypatch, **ANSWERS, scontrol="echo 'MaxArraySize = 3'",
        sbatch=f"{count}; echo Submitted batch job 41", scancel=f'echo "$@" >>{tmp_path}/cancelled',
    )  # fmt: skip
    path, laid = plan
    with pytest.raises(ValueError, match="sbatch refused the jobs: .*QOSMax"):
        list(launch_slurm(path, laid, [0, 1, 2, 3], launcher=options(gpus_per_node=1)))
    assert (tmp_path / "cancelled").read_text() == "41\n"
    assert list(all_notes(path.parent)) == []


@pytest.mark.parametrize("seconds", [60, 0])
def test_a_controller_that_is_out_of_reach_for_a_moment_is_asked_again(plan, tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(slurm, "ASK", 0.05)
    monkeypatch.setattr(slurm, "SILENT", seconds)
    unreachable = "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1"
    once = f"[ -e {tmp_path}/sent ] || {{ touch {tmp_path}/sent; sleep 0.1; {unreachable}; }}"
    stand_in(
        tmp_path / "bin", monkeypatch, **PENDING, scontrol="true", sbatch=f"{once}; echo Submitted batch job 41",
        scancel="true",
    )  # fmt: skip
    path, laid = plan
    launched = launch_slurm(path, laid, [0, 1], launcher=options(gpus_per_node=2, stacks_per_gpu=1, wait=False))
    if seconds:
        assert [message["queued"] for _, message in launched if "queued" in message] == ["PENDING (Priority)"] * 2
        ids = [note.id for note in all_notes(path.parent)]
        assert len(ids) == 2
        assert len(set(ids)) == 1  # two GPUs, two stacks a job
    else:
        with pytest.raises(NoCluster, match="sbatch reaches no controller .* the same command submits them later"):
            list(launched)


@pytest.mark.parametrize(("gpus", "stacks_per_gpu", "jobs"), [(1, 1, 4), (1, 2, 2), (2, 2, 1)])
def test_several_small_stacks_share_a_gpu_where_that_is_asked_for(
    plan, tmp_path, monkeypatch, gpus, stacks_per_gpu, jobs
):
    stand_in(tmp_path / "bin", monkeypatch, **PENDING, scontrol="true", sbatch="echo Submitted batch job 41")
    path, laid = plan
    asked = options(gpus_per_node=gpus, stacks_per_gpu=stacks_per_gpu, wait=False)
    list(launch_slurm(path, laid, [0, 1, 2, 3], launcher=asked))
    ids = [note.id for note in all_notes(path.parent)]
    assert len(ids) == 4
    assert len(set(ids)) == jobs


def test_jobs_that_cannot_be_noted_are_taken_back(plan, tmp_path, monkeypatch):
    def fail(*_):
        raise StoreError("disk full")

    monkeypatch.setattr("harness.launchers.remote.keep_notes", fail)
    stand_in(
        tmp_path / "bin", monkeypatch, **ANSWERS, scontrol="true", sbatch="echo Submitted batch job 41",
        scancel=f'echo "$@" >>{tmp_path}/cancelled',
    )  # fmt: skip
    path, laid = plan
    with pytest.raises(StoreError, match="disk full"):
        list(launch_slurm(path, laid, [0, 1], launcher=options(gpus_per_node=1)))
    assert (tmp_path / "cancelled").read_text() == "41_0 41_1\n"


def test_ctrl_c_says_that_jobs_go_on(plan, tmp_path, monkeypatch, capsys):
    squeue = "echo '41_0|PENDING||Priority'; echo '41_1|PENDING||Priority'"
    stand_in(
        tmp_path / "bin", monkeypatch, **{**ANSWERS, "squeue": squeue}, scontrol="true",
        sbatch="echo Submitted batch job 41",
    )  # fmt: skip

    def interrupt(_):
        raise KeyboardInterrupt

    # That module's alone: subprocess sleeps too, while it waits for squeue
    clock = SimpleNamespace(sleep=interrupt, monotonic=time.monotonic)
    monkeypatch.setattr("harness.launchers.remote.time", clock)
    path, laid = plan
    with pytest.raises(KeyboardInterrupt):
        list(launch_slurm(path, laid, [0, 1], launcher=options(gpus_per_node=1)))
    assert "launcher.cancel=true ends them" in capsys.readouterr().err
    assert [note.id for note in all_notes(path.parent)] == ["41_0", "41_1"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"signal_delay_s": 60, "timeout_min": 1}, "launcher.signal_delay_s=60 is not shorter"),
        ({"additional_parameters": "abc"}, "launcher.additional_parameters='abc' is no mapping"),
        (
            {"additional_parameters": {"clusters": "x"}},
            "has clusters, whose jobs could not be looked at from here: leave",
        ),
        ({"setup": [1]}, r"launcher.setup=\[1\] is no list of shell lines"),
    ],
)
def test_options_that_sbatch_would_misunderstand_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        check_launcher(options(**changed))


def test_a_partition_that_is_none_is_told_with_those_that_there_are(tmp_path, monkeypatch):
    stand_in(tmp_path / "bin", monkeypatch, sinfo="printf 'debug\\nhigh\\n'")
    check_cluster(options(partition=None))
    check_cluster(options(partition="high,debug"))
    with pytest.raises(ValueError, match="launcher.partition='hihg' is not one of debug, high .did you mean high"):
        check_cluster(options(partition="debug,hihg"))
    stand_in(tmp_path / "bin", monkeypatch, sinfo="exit 1")
    with pytest.raises(ValueError, match="SLURM does not answer .* is SLURM_CONF set in this shell"):
        check_cluster(options())
    check_launcher(options(partition="hihg"))  # asks no cluster: jobs are cancelled, and dry runs made, where none is


@pytest.mark.parametrize(
    ("gres", "expected"),
    [("gpu:a100:2", "cuda"), ("tmpdisk:10,gpu", "cuda"), ("scratch:100", "cpu"), (None, "cpu")],
)
def test_a_gpu_is_what_is_called_one(gres, expected):
    assert choose_place(options(gres=gres))[0] == expected
