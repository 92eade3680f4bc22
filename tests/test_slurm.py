"""Oracle: the same sweep trained by launcher=local, and SLURM's own words. A real SLURM of one node on loopback.

Needs root, slurm-wlm and munge (scripts/slurm_test_cluster.sh); .ci/run installs them where it can.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.config import CONF_DIR, ROOT, run_id
from harness.launchers.placed import read_notes
from harness.launchers.slurm import launch_slurm
from harness.log import read_log, trained_twice
from harness.plan import make_plan
from harness.plan_file import open_plan
from harness.records import read_records

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))),
        reason="starting SLURM's daemons needs root, slurm-wlm and munge",
    ),
]
SCRIPT = ROOT / "scripts" / "slurm_test_cluster.sh"
SMALL = [
    "tracker=none", "task.num_heldout=64", "metrics.num_examples=32", "metrics.num_evals=2", "launcher.width=1",
    "launcher.compile=never",
]  # fmt: skip
# Takes a second a step while the file HOLD names is there; so few steps are not recorded, and forward runs in each
HELD = """
import os, time
from torch import nn
class Held(nn.Sequential):
    def __init__(self, num_inputs, num_outputs):
        super().__init__(nn.Linear(num_inputs, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, num_outputs))
    def forward(self, x):
        if os.path.exists(os.environ.get("HOLD", "")):
            time.sleep(1.0)
        return super().forward(x)
"""
PATIENCE = 400  # seconds: on a busy machine an import of torch alone may take a minute


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run([SCRIPT, "start", folder], check=True, timeout=90)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end, daemons are ended first
    yield folder
    signal.signal(signal.SIGTERM, before)
    subprocess.run(["scancel", "--me"], check=False, timeout=60)
    subprocess.run([SCRIPT, "stop", folder], check=True, timeout=60)
    del os.environ["SLURM_CONF"]


def harness(folder, *overrides, code=0, **environment):
    """The command, in a folder of its own; its output."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}", "MPLBACKEND": "agg", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "harness", *overrides],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def wait_for(condition, what):
    deadline = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def queue():
    """id -> state of the jobs that wait or run."""
    return dict(line.split("|") for line in slurm("squeue", "-h", "-r", "-o", "%i|%T").splitlines())


def release(job):
    """Let a job that was queued again start now, not in two minutes, with an hour's time."""
    wait_for(lambda: "JobState=PENDING" in slurm("scontrol", "show", "job", job), "it is queued again")
    time.sleep(3)  # in the second in which it was ended slurmd refuses its credential, and the job is lost
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now", "TimeLimit=60")


def numbers(folder):
    """What must be equal bit for bit."""
    frame = read_records(folder).sort_values("run_id").reset_index(drop=True)
    curves = [name for name in frame if name.startswith("history.")]
    results = frame[["run_id", "status", "message", "loss", "train_loss", "grad_norm", "weight_rms", "num_params"]]
    return results.assign(**{name: [list(x) for x in frame[name]] for name in curves}).to_dict("list")


def test_a_detached_sweep_is_collected_later_and_equals_the_local_one_bit_for_bit(tmp_path):
    sweep = [
        "sweep=smoke", *SMALL, "num_samples=1024", "model.hidden=8", "sweep.grid.seed=[0]",
        "sweep.grid.batch_size=[32]", "sweep.grid.optimizer.lr=[0.01,0.03]",
    ]  # fmt: skip
    remote = [*sweep, "runs_dir=remote", "figures_dir=figures", "launcher=slurm", "launcher.wait=false"]
    said = harness(tmp_path, *remote)
    assert "2 stacks are left to the cluster" in said
    assert not list(tmp_path.glob("figures/*"))
    harness(tmp_path, *sweep, "runs_dir=local", "figures_dir=figures_local", "launcher.workers=1")
    wait_for(lambda: not queue(), "both jobs end")
    said = harness(tmp_path, *remote)
    assert "left to the cluster" not in said
    assert list(tmp_path.glob("figures/*.png"))
    local, folder = tmp_path / "local" / "smoke", tmp_path / "remote" / "smoke"
    assert [path.name for path in folder.glob("plan-*")] == [path.name for path in local.glob("plan-*")]
    assert numbers(folder) == numbers(local)
    frame = read_records(folder)
    for job in frame["provenance.job"]:
        launcher, name, log = job.split(" ")
        assert launcher == "slurm"
        assert "Job completed successfully" in (folder / log).read_text()
        assert name in log
    assert read_records(local)["provenance.job"].isna().all()
    # One more learning rate, whose job does not start; then it is cancelled, and what is done stays
    more = [*remote, "sweep.grid.optimizer.lr=[0.01,0.03,0.1]", "launcher.additional_parameters={hold: true}"]
    assert "1 stack is left to the cluster (1 pending" in harness(tmp_path, *more)
    (job,) = queue()
    status = subprocess.run(
        [sys.executable, "-m", "harness.status", "sweep=smoke", "runs_dir=remote"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert re.search(rf"slurm {job}\b.*PENDING.*JobHeldUser", status.stdout), status.stdout + status.stderr
    assert "1 stack was cancelled" in harness(tmp_path, *more, "launcher.cancel=true")
    wait_for(lambda: not queue(), "the job is gone")
    assert numbers(folder) == numbers(local)


def test_timed_out_preempted_and_cancelled_it_ends_as_if_left_alone(tmp_path):
    (tmp_path / "held_nets.py").write_text(HELD)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "held.yaml").write_text("name: held_nets:Held\n")
    sweep = [
        "--config-dir", str(tmp_path / "conf"), "task=teacher_student", "model=held", "sweep.name=held", *SMALL,
        "num_samples=960", "batch_size=8",
    ]  # fmt: skip
    harness(tmp_path, *sweep, "runs_dir=local", "figures_dir=f1", "launcher.workers=1")
    hold = tmp_path / "hold"
    hold.touch()
    remote = [
        *sweep, "runs_dir=remote", "figures_dir=f2", "launcher=slurm", "launcher.timeout_min=60",
        "launcher.wait=false", "launcher.checkpoint=1",
    ]  # fmt: skip
    harness(tmp_path, *remote, HOLD=str(hold))
    folder = tmp_path / "remote" / "held"
    (note,) = read_notes(folder)

    def begun():
        return [entry["step"] for entry in read_log(folder) if entry["event"] == "start"]

    def at_work(times):
        wait_for(lambda: len(begun()) == times, f"training is begun the {times}. time")
        before = set(folder.glob(".checkpoints/*"))
        wait_for(lambda: set(folder.glob(".checkpoints/*")) - before, "and gets further")

    at_work(1)
    spent = slurm("squeue", "-h", "-j", note.id, "-o", "%M")  # [hours:]minutes:seconds
    *_, minutes, _ = ("0:" + spent).split(":")
    slurm("scontrol", "update", f"JobId={note.id}", f"TimeLimit={int(minutes) + 2}")  # its signal comes 90 s before
    release(note.id)
    at_work(2)
    other = slurm("sbatch", "--parsable", "-p", "high", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 1")
    wait_for(lambda: queue().get(note.id) == "PENDING", "the other job takes its place")
    wait_for(lambda: other not in queue(), "the other job ends")
    release(note.id)
    at_work(3)
    # cancelled while it runs: it saves a checkpoint and is not queued again, until the same command is typed
    assert "1 stack was cancelled" in harness(tmp_path, *remote, "launcher.cancel=true")
    wait_for(lambda: not queue(), "the job ends")
    assert read_log(folder)[-1]["event"] == "stopped"
    assert "JobState=CANCELLED" in slurm("scontrol", "show", "job", note.id)
    harness(tmp_path, *remote, HOLD=str(hold))
    at_work(4)
    hold.unlink()
    wait_for(lambda: not queue(), "the job ends")
    harness(tmp_path, *remote)
    steps = begun()
    assert 0 == steps[0] < steps[1] < steps[2] < steps[3]
    assert len(steps) == 4
    assert not trained_twice(read_log(folder))
    assert numbers(folder) == numbers(tmp_path / "local" / "held")
    log = (folder / note.log).read_text()
    assert log.count("Requeued job") == 2
    assert "this job is preempted" in log


@pytest.fixture
def plan_of(make_run, tmp_path):
    """A plan of so many stacks of one run."""

    def make(count):
        configs = [make_run(optimizer={"lr": 0.001 * (i + 1)}, num_samples=16) for i in range(count)]
        runs = {run_id(config): config for config in configs}
        folder = tmp_path / "runs" / "s"
        folder.mkdir(parents=True)
        metrics = {"num_evals": 1, "num_examples": 8}
        return open_plan(
            folder, "0123", runs, (), lambda missing: make_plan("s", missing, device="cpu", width=1, metrics=metrics)
        )

    return make


def options(**changed):
    """Those of conf/launcher/slurm.yaml."""
    from omegaconf import OmegaConf

    return {**OmegaConf.to_container(OmegaConf.load(Path(CONF_DIR) / "launcher" / "slurm.yaml")), **changed}


def test_a_crashing_job_is_noticed_within_half_a_minute(plan_of):
    path, plan = plan_of(1)
    began = time.monotonic()
    launched = launch_slurm(path, plan, [0], launcher=options(setup=["echo no such module; exit 7"]))
    ((index, message),) = [(index, message) for index, message in launched if "standing" not in message]
    seconds = time.monotonic() - began
    ((_, status, reason),) = message["ended"]
    (note,) = read_notes(path.parent)
    assert (index, status) == (0, "failed")
    assert re.search(rf"job {note.id}, FAILED.*log {note.log}, which ends: no such module", reason), reason
    assert seconds < 30, seconds


def test_a_thousand_stacks_are_arrays_within_half_a_minute(plan_of):
    path, plan = plan_of(1001)
    held = options(wait=False, additional_parameters={"hold": True})
    began = time.monotonic()
    messages = list(launch_slurm(path, plan, list(range(1001)), launcher=held))
    seconds = time.monotonic() - began
    assert Counter(message["queued"] for _, message in messages) == {"PENDING (JobHeldUser)": 1001}
    assert Counter(job.partition("_")[0] for job in queue()).most_common(1)[0][1] == 1000
    assert len(queue()) == 1001
    assert seconds < 30, seconds
    print(f"1,001 stacks were submitted in {seconds:.1f} s")
    # the same again submits nothing
    assert len(list(launch_slurm(path, plan, list(range(1001)), launcher=held))) == 1001
    assert len(queue()) == 1001
    slurm("scancel", "--me")
