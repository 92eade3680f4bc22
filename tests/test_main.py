"""Oracle: the file system, exit codes and a second, undisturbed run of the same command. Whole processes throughout."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from analysis.plot import main
from harness.__main__ import draw_sweep
from harness.config import run_id
from harness.sweep import Sweep
from tests.reference.plain import plain_loss, plain_run

TINY = [
    "sweep=smoke", "num_samples=256", "task.num_heldout=64", "metrics.num_examples=32", "model.hidden=8",
    "sweep.grid.optimizer.lr=[log2,-8,-2,1]",
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[1]
QUIET = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MPLBACKEND": "agg"}


def harness(folder, *overrides, check=0):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *overrides],
        cwd=folder,
        capture_output=True,
        text=True,
        env=QUIET,
        timeout=300,
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done


def records(folder, name="smoke"):
    frame = pd.concat([pd.read_parquet(p) for p in sorted((folder / "runs" / name).glob("*.parquet"))])
    return frame.sort_values("run_id").reset_index(drop=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, harness(folder, *TINY)


def test_an_adaptive_grid_ends_and_goes_on_where_it_was_cut_off(tmp_path):
    command = [*TINY[:-1], "sweep.grid.optimizer.lr=[adaptive,9,0.01,0.08]", "tracker=none", "sweep.name=grown"]
    first = harness(tmp_path, *command)
    assert "adaptive: " in first.stdout
    table = records(tmp_path, "grown")
    cells = table.groupby("batch_size")["optimizer.lr"].nunique()
    assert (cells >= 3).all()
    assert "nothing to train" in harness(tmp_path, *command).stdout
    # as if it had been cut off after its second round: what was trained first stays, the rest follows anew
    files = sorted((tmp_path / "runs" / "grown").glob("stack-*.parquet"), key=lambda path: path.stat().st_mtime)
    for path in files[2:]:
        path.unlink()
    again = harness(tmp_path, *command)
    assert "nothing to train" not in again.stdout
    later = records(tmp_path, "grown")
    assert later["run_id"].is_unique
    pd.testing.assert_series_equal(later["run_id"], table["run_id"])
    assert again.stdout.count(" runs at batch size ") < first.stdout.count(" runs at batch size ")
    log = pd.read_json(tmp_path / "runs" / "grown" / "log.jsonl", lines=True)
    kept = set(pd.concat(pd.read_parquet(path) for path in files[:2])["run_id"])
    started = [run for runs in log[log["event"] == "start"]["run_ids"] for run in runs]
    assert all(started.count(run) == 1 for run in kept)
    assert "adaptive: the runs so far" in harness(tmp_path, *command, "dry_run=true").stdout


def test_a_sweep_is_trained_recorded_drawn_and_mirrored(trained):
    folder, done = trained
    frame = records(folder)
    assert len(frame) == 28
    assert set(frame["status"]) <= {"done", "diverged"}
    assert frame["task.corpus_sha256"].nunique() == 1
    assert frame["loss"].between(1, 20).all()
    drawn = {"smoke.png", "smoke.svg", "smoke.json", "smoke-curves.png", "smoke-curves.svg"}
    assert {p.name for p in (folder / "figures").iterdir()} == drawn
    assert "figures/smoke.png\nfigures/smoke-curves.png" in done.stdout
    offline = [p for p in (folder / "wandb").iterdir() if p.name.startswith("offline-run")]
    assert {p.name.split("-")[-1] for p in offline} == {*frame["run_id"], "summary"}


def test_further_figures_that_cannot_be_drawn_leave_the_answer(trained, tmp_path, monkeypatch, capsys):
    def fail(*arguments):
        raise ValueError("no such panel")

    folder = trained[0] / "runs" / "smoke"
    monkeypatch.setattr("analysis.write.write_further", fail)
    sweep = Sweep("smoke", "Why?", dict.fromkeys(records(trained[0])["run_id"]))
    draw_sweep({"figures_dir": str(tmp_path)}, sweep, folder)
    said = capsys.readouterr().out
    assert f"{tmp_path}/smoke.png\nno further figures: ValueError: no such panel" in said
    assert {p.name for p in tmp_path.iterdir()} == {"smoke.png", "smoke.svg", "smoke.json"}


def test_it_leaves_nothing_else(trained):
    folder, _ = trained
    assert {p.name for p in folder.iterdir()} == {"runs", "figures", "wandb"}
    kinds = {p.name.split("-")[0] for p in (folder / "runs" / "smoke").iterdir()}
    assert kinds == {"plan", "stack", "mirrored.jsonl", "summaries.jsonl", "log.jsonl", ".leases", ".mirror"}
    assert not list((folder / "runs" / "smoke" / ".leases").iterdir())
    assert not list((folder / "runs" / "smoke" / ".mirror" / ".leases").iterdir())


def test_again_trains_nothing_and_draws_the_same(trained):
    folder, first = trained
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")}
    figure = (folder / "figures" / "smoke.json").read_bytes()
    again = harness(folder, *TINY)
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*")} == before
    assert (folder / "figures" / "smoke.json").read_bytes() == figure
    assert "all 28 runs are done, nothing to train" in again.stdout
    drawn = [done.stdout.split("batch size", 1)[1].split("records: ")[0] for done in (again, first)]
    assert drawn[0] == drawn[1]
    command = "`python -m harness.mirror runs/smoke online scaling-harness`"
    kept = f"kept offline in wandb; with an account {command} sends them"
    assert f"W&B: 28 runs and the sweep's summary {kept}" in first.stdout
    *_, records_line, note = again.stdout.splitlines()
    assert records_line == f"records: runs/smoke; {kept}"
    assert note.startswith("note: with num_samples=256, ")


def test_a_sweep_of_ones_own_keeps_its_question_and_a_renamed_one_does_not_take_its_parents(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "own" / "sweep").mkdir(parents=True)
    text = (ROOT / "sweeps" / "smoke.yaml").read_text()
    text = text.replace("name: smoke", "name: mine").replace("question: ", "question: Mine? ")
    (tmp_path / "own" / "sweep" / "mine.yaml").write_text(text)
    own = ["--config-dir", "own", "sweep=mine", *TINY[1:-1], "sweep.grid.batch_size=[64]", "sweep.grid.seed=[0]"]
    own = [*own, "sweep.grid.optimizer.lr=[log2,-6,-4,1]", "tracker=none"]
    assert "Mine?" in harness(tmp_path, *own).stdout
    assert "Mine?" not in harness(tmp_path, *own, "sweep.name=other").stdout
    monkeypatch.chdir(tmp_path)
    for arguments in (["mine"], ["--runs", "runs", "mine"], ["--runs", "runs/mine"]):
        assert main(arguments) == 0
        assert "Mine?" in capsys.readouterr().out


def test_an_extended_sweep_trains_only_what_is_new(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    old = records(tmp_path)
    done = harness(tmp_path, *TINY, "sweep.grid.seed=[0,1,2]", "tracker=none")
    assert "training 14 runs" in done.stdout
    new = records(tmp_path)
    assert len(new) == 42
    pd.testing.assert_frame_equal(new[new["run_id"].isin(old["run_id"])].reset_index(drop=True), old)


def test_refresh_and_run_id_train_again_and_overwrite_nothing(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    old = records(tmp_path)
    one = old["run_id"][0]
    harness(tmp_path, *TINY, f"run_id={one}", "tracker=none")
    assert len(records(tmp_path)) == 29
    assert '"num_runs": 14' in (tmp_path / "figures" / "smoke.json").read_text()  # drawn is the sweep, not the one run
    harness(tmp_path, *TINY, "refresh=true", "tracker=none")
    new = records(tmp_path)
    assert len(new) == 57
    # a run's numbers do not depend on its neighbours, so one alone and one in its stack agree bit for bit
    assert (new.groupby("run_id")["loss"].nunique(dropna=False) == 1).all()


def test_the_final_loss_is_taken_on_all_heldout_examples(trained, make_run):
    folder, _ = trained
    row = records(folder).query("seed == 1 and batch_size == 32").iloc[0]
    part = {name.removeprefix("model."): row[name].item() for name in ("model.embedding", "model.hidden", "model.norm")}
    config = make_run(
        model=part, optimizer={"lr": float(row["optimizer.lr"])}, batch_size=32, seed=1, num_samples=256,
        task={"num_heldout": 64},
    )  # fmt: skip
    assert run_id(config) == row["run_id"]
    assert row["loss"] == pytest.approx(plain_loss(config, plain_run(config), 64), rel=1e-5)


def test_a_sweep_whose_runs_all_diverge_has_ended(tmp_path):
    done = harness(
        tmp_path, "optimizer=sgd", "optimizer.lr=1e38", "num_samples=640", "task.num_heldout=64", "tracker=none"
    )
    assert records(tmp_path, "single")["status"].tolist() == ["diverged"]
    assert "no figure: " in done.stdout


def test_one_run_without_a_sweep(tmp_path):
    done = harness(
        tmp_path,
        "num_samples=512",
        "task.num_heldout=64",
        "optimizer=sgd",
        "optimizer.lr=0.5",
        "tracker=none",
    )
    frame = records(tmp_path, "single")
    assert frame["optimizer.lr"].tolist() == [0.5]
    assert frame["optimizer.name"].tolist() == ["sgd"]
    name = f"single-{frame['run_id'][0]}"  # another run's figure is another file
    assert f"figures/{name}" in done.stdout
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {name}
    assert "note: sgd at the learning rate of" not in done.stdout
    assert done.stdout.endswith("records: runs/single; none were sent to W&B (tracker=none)\n")
    assert not (tmp_path / "wandb").exists()


def test_dry_run_starts_nothing(tmp_path):
    done = harness(tmp_path, "sweep=lr_vs_bs", "dry_run=true", "runs_dir=elsewhere")
    assert "192 runs, 0 done, 192 to train" in done.stdout
    # 2 FLOPs a multiplication, forward and twice backward, two matrices, 32,768 samples a run
    flops = 192 * 32768 * 6 * (8 * 16 * 64 + 64 * 256)
    assert f"{flops:.3g} FLOPs" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_of_what_is_trained_again_counts_all(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    one = records(trained[0])["run_id"][0]
    for override, counts in (
        ("seed", "28 runs, 28 done, 0 to train"),
        ("refresh=true", "28 runs, 0 done, 28 to train"),
        (f"run_id={one}", "1 run, 0 done, 1 to train"),
    ):
        more = [override] if "=" in override else []
        assert counts in harness(tmp_path, *TINY, "dry_run=true", *more).stdout


def test_an_override_that_some_grids_do_not_take_is_told(tmp_path):
    few = ["sweep.grid.batch_size=[64]", "sweep.grid.seed=[0]", "num_samples=1024", "task.num_heldout=64"]
    few += [f"sweep.grids.{name}.optimizer.lr=[0.01]" for name in ("adam", "decay", "average", "sign", "sgd", "tiger")]
    done = harness(tmp_path, "sweep=optimizers", *few, "schedule=cosine", "dry_run=true")
    assert "note: schedule=cosine reaches no run of sweep.grids.amos, which has an axis schedule.name" in done.stdout
    assert "sweep.name=NAME keeps their records and figures apart" in done.stdout


@pytest.mark.parametrize(
    "overrides",
    [
        ["sweep=lr_vs_bs", "sweep.grid.seed=[0,1,2]"],
        ["sweep=lr_vs_bs", "optimizer=adamw", "sweep.name=lr_vs_bs_adamw"],
        ["sweep=lr_vs_bs", "task=text", f"task.path={__file__}", "sweep.name=mine"],
        ["sweep=lr_vs_bs", "model=mlp", "sweep.grid.optimizer.name=[adam,sgd]"],
    ],
    ids=lambda o: o[-1],
)
def test_the_readmes_variants_compose(tmp_path, overrides):
    done = harness(tmp_path, *overrides, "dry_run=true", "num_samples=1024", "task.num_heldout=64")
    assert " to train; " in done.stdout
    assert overrides[-1].removeprefix("sweep.name=").split("=")[0] in done.stdout or "grid" in overrides[-1]


def test_everything_that_runs_is_committed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = {ROOT / line for line in listed.stdout.splitlines()}
    packages = [p for name in ("harness", "analysis", "conf", "sweeps") for p in (ROOT / name).rglob("*")]
    assert not [p for p in packages if p.suffix in (".py", ".yaml", ".csv") and p not in files]


def test_importing_the_command_leaves_ctrl_c_as_it_is():
    code = "import signal, harness.__main__; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "True"


def test_help_lists_what_there_is(tmp_path):
    done = harness(tmp_path, "--help")
    for word in (
        "lr_vs_bs",
        "lr_vs_bs_sgd",
        "smoke",
        "python_source",
        "ngram",
        "mlp",
        "signsgd",
        "adamw",
        "wsd",
    ):
        assert word in done.stdout


def test_a_users_own_config_folder_adds_sweeps_models_and_tasks(tmp_path):
    own = tmp_path / "own"
    for group in ("sweep", "model", "task"):
        (own / group).mkdir(parents=True)
    (own / "model" / "wide.yaml").write_text("name: ngram\nembedding: 4\nhidden: 32\nnorm: true\n")
    (own / "task" / "novel.yaml").write_text(
        f"name: text\npath: {tmp_path / 'novel.txt'}\ncontext: 4\nnum_heldout: 64\n"
    )
    (tmp_path / "novel.txt").write_text("It was a dark and stormy night. " * 200)
    (own / "sweep" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: wide\n  - override /task: novel\n"
        "num_samples: 256\nsweep:\n  name: mine\n  question: Mine?\n  grid:\n    optimizer:\n      lr: [0.01, 0.1]\n"
    )
    harness(tmp_path, "--config-dir", str(own), "sweep=mine", "sweep.grid.seed=[0,1]", "tracker=none")
    frame = records(tmp_path, "mine")
    assert len(frame) == 4
    assert set(frame["model.hidden"]) == {32}
    assert set(frame["task.name"]) == {"text"}


@pytest.mark.parametrize("victim", ["launcher", "interrupt"])
def test_what_is_finished_survives_and_the_rest_is_trained_once(trained, tmp_path, victim):
    longer = [*TINY, "num_samples=4096", "tracker=none", "launcher.workers=1", "launcher.width=4"]
    command = [sys.executable, "-m", "harness", *longer]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=QUIET,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    folder = tmp_path / "runs" / "smoke"
    deadline = time.monotonic() + 120
    while not list(folder.glob("*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.01)
    if victim == "launcher":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if victim == "interrupt" else -9)
    if victim == "interrupt":
        assert errors.decode().strip() == "interrupted: what was trained is kept; the same command goes on from there"
    kept = {p: p.read_bytes() for p in folder.glob("*.parquet")}
    assert kept
    wait_for_workers(folder)
    assert len(list(folder.glob("*.parquet"))) < 8, "the test must interrupt before the sweep is over"
    harness(tmp_path, *longer)
    frame = records(tmp_path)
    assert sorted(frame["run_id"]) == sorted(set(frame["run_id"]))
    assert len(frame) == 28
    assert all(p.read_bytes() == content for p, content in kept.items())


def wait_for_workers(folder: Path) -> None:
    """Workers whose launcher is gone must end by themselves: no file may appear any more."""
    time.sleep(1.0)
    names = sorted(p.name for p in folder.iterdir())
    time.sleep(1.5)
    assert sorted(p.name for p in folder.iterdir()) == names


def test_a_sweep_that_fails_whole_says_why_and_draws_nothing(tmp_path):
    done = harness(tmp_path, *TINY, "model.embedding=100000000000", "tracker=none", check=1)
    assert "runs failed: RuntimeError" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no figure: " in done.stdout
    assert not list((tmp_path / "figures").iterdir())


def test_a_failing_stack_costs_only_itself(tmp_path):
    done = harness(
        tmp_path,
        *TINY,
        "sweep.grid.model.embedding=[4,100000000000]",
        "sweep.grid.seed=[0]",
        "tracker=none",
        check=1,
    )
    frame = records(tmp_path)
    assert frame["status"].value_counts().to_dict() == {"done": 14, "failed": 14}
    assert "runs failed: RuntimeError" in done.stderr
    assert "Traceback" not in done.stderr
