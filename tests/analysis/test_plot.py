"""Oracle: the contracts of the command (files, keys of the JSON, exit codes) on a planted optimum."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from planting import BATCH_SIZES, plant_table

from analysis import plot, tables, write
from analysis.analyse import analyse_runs
from analysis.drawing import draw
from analysis.figures import FIGURES
from analysis.figures.style import PAPER, SCREEN
from analysis.laws import LAWS
from analysis.plot import main

SCRIPT = Path(plot.__file__)


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "planted.csv"
    plant_table(lambda b: 0.002 * b**0.5).to_csv(path, index=False)
    return path


def run_script(*arguments, cwd):
    command = [sys.executable, "-W", "error", str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False)


def test_command_from_a_folder_with_a_foreign_analysis_package(table, tmp_path):
    (tmp_path / "analysis").mkdir()
    (tmp_path / "analysis" / "__init__.py").write_text("raise RuntimeError('a foreign package was imported')")
    done = run_script("--runs", table, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "sqrt is best" in done.stdout
    assert "confirmed" in done.stdout
    assert done.stderr == ""
    drawn = {f"planted.{s}" for s in ("png", "svg", "json")} | {f"planted-extrapolation.{s}" for s in ("png", "svg")}
    assert {p.name for p in (tmp_path / "figures").iterdir()} == drawn
    assert (tmp_path / "figures/planted.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "figures/planted.svg").read_bytes()) > 10_000
    content = json.loads((tmp_path / "figures/planted.json").read_text())
    assert {"sweep", "protocol", "optima", "fits", "best_law", "verdicts"} <= set(content)
    assert content["sweep"] == "planted"
    assert content["protocol"] == "fixed_samples"
    assert content["best_law"] == "sqrt"
    assert [o["batch_size"] for o in content["optima"]] == list(BATCH_SIZES)
    for o in content["optima"]:
        assert o["low"] < 0.002 * o["batch_size"] ** 0.5 < o["high"]
        assert o["status"] == "interior"
        assert o["num_runs"] == 39
    for fit in content["fits"]:
        assert {"law", "params", "aicc", "rmse_log"} <= set(fit)
        assert all(set(value) == {"value", "low", "high"} for value in fit["params"].values())
    assert content["verdicts"][0]["verdict"] == "confirmed"


def test_mistake_is_one_line_and_exit_code_two(tmp_path, monkeypatch, capsys):
    done = run_script("no_such_sweep", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "'no_such_sweep' is not one of the sweeps" in done.stderr
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["--runs", "absent.csv"],
        ["--runs", "."],
        ["--columns", "lr"],
        ["a", "--runs", "b.csv"],
    ):
        assert main(arguments) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["--nonsense"])
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_same_runs_give_the_same_bytes(table, tmp_path):
    for out in ("a", "b"):
        assert main(["--runs", str(table), "--out", str(tmp_path / out)]) == 0
    for suffix in ("json", "svg", "png"):
        first, second = ((tmp_path / out / f"planted.{suffix}").read_bytes() for out in ("a", "b"))
        assert first == second


def test_foreign_columns(table, tmp_path, capsys):
    frame = pd.read_csv(table).rename(columns={"optimizer.lr": "peak_lr", "loss": "eval"})
    frame[["batch_size", "peak_lr", "eval", "seed"]].to_csv(tmp_path / "foreign.csv", index=False)
    arguments = ["--runs", str(tmp_path / "foreign.csv"), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "--columns" in capsys.readouterr().err
    assert main([*arguments, "--columns", "lr=peak_lr,loss=eval"]) == 0
    content = json.loads((tmp_path / "foreign.json").read_text())
    assert content["best_law"] == "sqrt"
    assert content["protocol"] == "unknown"
    assert "--columns protocol=COLUMN" in " ".join(capsys.readouterr().out.split())


def test_groups_are_columns_of_the_optima_and_fits(tmp_path):
    both = pd.concat(
        [
            plant_table(lambda b: 0.002 * b**0.5),
            plant_table(lambda b: 0.004 * b**0.5).assign(**{"optimizer.eps": 1e-4}),
        ]
    )
    drawn = draw("two", both.reset_index(drop=True), tmp_path, "A question?")
    content = json.loads(drawn.paths[2].read_text())
    assert {o["optimizer.eps"] for o in content["optima"]} == {1e-8, 1e-4}
    assert {fit["optimizer.eps"] for fit in content["fits"]} == {1e-8, 1e-4}
    assert content["question"] == "A question?"
    claims = [verdict["claim"] for verdict in content["verdicts"]]
    assert claims == ["sde-slope", "eps-slope"]  # the first is about a small eps only, the second about both


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
@pytest.mark.parametrize("count", [3, 6])
def test_figure_keeps_its_text_inside_and_apart(count, style):
    groups = [
        plant_table(lambda b: 0.002 * b**0.5, num_seeds=2).assign(**{"optimizer.name": f"o{i}"}) for i in range(count)
    ]
    with mpl.rc_context(style.rc):
        figure = FIGURES["optimum"](
            analyse_runs("many", pd.concat(groups, ignore_index=True), "Does it fit? " * 12), style
        )
        figure.draw_without_rendering()
        boxes = [ax.get_tightbbox() for ax in figure.axes]
    assert len(boxes) == (6 if count == 3 else 2)
    for i, box in enumerate(boxes):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


def make_histories(num_runs=4):
    samples = np.arange(1, 20) * 800
    return pd.DataFrame(
        {
            "batch_size": 32, "optimizer.lr": 0.01, "seed": range(num_runs), "loss": 2.0,
            "protocol": "fixed_samples", "history.num_samples": [samples] * num_runs,
            "history.loss": [2 + np.exp(-samples / 6000)] * num_runs,
        }
    )  # fmt: skip


def test_runs_without_learning_rates_are_drawn_as_curves(tmp_path):
    drawn = draw("one", make_histories(), tmp_path)
    content = json.loads(drawn.paths[2].read_text())
    assert content["figure"] == "curves"
    assert content["optima"] == content["fits"] == content["verdicts"] == []
    with pytest.raises(ValueError, match="at least 3 learning rates"):
        draw("one", make_histories().drop(columns=["history.loss"]), tmp_path)


def test_commit_writes_an_answer_that_draws_the_same_and_names_nobody(tmp_path, monkeypatch, capsys):
    sweeps, folder = tmp_path / "sweeps", tmp_path / "runs" / "planted"
    sweeps.mkdir()
    folder.mkdir(parents=True)
    for module in (tables, write, plot):
        monkeypatch.setattr(module, "SWEEPS_DIR", sweeps)
    monkeypatch.chdir(tmp_path)
    frame = plant_table(lambda b: 0.002 * b**0.5, num_seeds=2).sample(frac=1, random_state=0)
    frame = frame.assign(
        **{
            "provenance.ended": "x",
            "message": "",
            "history.loss": [[2.0]] * len(frame),
            "path": "/home/me/text",
        }
    )
    frame.to_parquet(folder / "stack-a-0.parquet")
    assert main(["planted", "--commit", "--out", "first"]) == 0
    committed = pd.read_csv(sweeps / "planted.csv")
    assert len(committed) == len(frame)
    assert {"provenance.torch", "optimizer.lr", "loss", "status", "run_id"} <= set(committed.columns)
    assert not {"provenance.host", "provenance.ended", "history.loss", "message", "path"} & set(committed.columns)
    assert "somebody" not in (sweeps / "planted.csv").read_text()
    keys = ["batch_size", "optimizer.lr", "seed"]
    assert committed[keys].equals(committed.sort_values(keys)[keys].reset_index(drop=True))
    merged = committed.merge(frame, on="run_id", suffixes=("", "_record"))
    assert (merged["loss"] == merged["loss_record"]).all()
    (folder / "stack-a-0.parquet").unlink()
    assert main(["--out", "second"]) == 0
    assert "the committed answer" in capsys.readouterr().out
    assert (tmp_path / "first/planted.json").read_text() == (tmp_path / "second/planted.json").read_text()


def test_commit_needs_a_name(capsys):
    assert main(["--commit"]) == 2
    assert "needs a NAME" in capsys.readouterr().err


@pytest.mark.parametrize("status", ["diverged", "done"])
def test_a_group_without_any_finite_objective_leaves_the_figure_to_the_others(tmp_path, status):
    good, bad = (plant_table(lambda b: 0.002 * b**0.5).assign(protocol="steps_to_target") for _ in range(2))
    good, bad = good.assign(steps_to_target=100 * good["loss"]), bad.assign(steps_to_target=np.nan, status=status)
    frame = pd.concat([good, bad.assign(**{"optimizer.name": "sgd"})], ignore_index=True)
    drawn = draw("half", frame, tmp_path)
    assert all(path.exists() for path in drawn.paths)
    assert sum(o.status == "interior" for answer in drawn.analysis.groups for o in answer.optima) == len(BATCH_SIZES)


@pytest.mark.parametrize("column", ["objective", "low", "law", "batch_sizes", "group"])
def test_a_group_column_may_bear_any_name(tmp_path, column):
    frame = pd.concat([plant_table(lambda b, k=k: k * b**0.5).assign(**{column: f"at {k}"}) for k in (0.001, 0.002)])
    drawn = draw("named", frame, tmp_path)
    content = json.loads(drawn.paths[-1].read_text())
    assert [answer.group for answer in drawn.analysis.groups] == [{column: "at 0.001"}, {column: "at 0.002"}]
    for o in content["optima"]:
        assert o["low"] < o["lr"] < o["high"]
        assert {o.get(column), o.get(f"group.{column}")} & {"at 0.001", "at 0.002"}
    assert {fit["law"] for fit in content["fits"]} >= {"sqrt", "power"}


def test_groups_of_one_label_stay_apart():
    """model.width=64 is not task.width=64, and 1.0000001 is not 1.0000002, though both are printed as 1."""
    root, four = plant_table(lambda b: 0.002 * b**0.5), plant_table(lambda b: 0.008 * b**0.5)
    widths = [root, four.assign(**{"model.width": 64}), root.assign(**{"task.width": 64})]
    answers = analyse_runs("s", pd.concat(widths, ignore_index=True)).groups
    labels = {"model.width=64", "task.width=64", "without model.width, task.width"}
    assert {answer.label for answer in answers} == labels
    near = [root.assign(**{"model.x": 1.0000001}), four.assign(**{"model.x": 1.0000002})]
    answers = (*answers, *analyse_runs("s", pd.concat(near, ignore_index=True)).groups)
    assert [len(answer.optima) for answer in answers] == [len(BATCH_SIZES)] * 5


def test_at_fixed_steps_the_surge_law_is_said_to_be_no_evidence_of_a_surge(tmp_path, capsys):
    surge = LAWS["surge"]
    frame = plant_table(
        lambda b: float(surge.predict(np.array([float(b)]), lr_max=0.05, kappa=20.0, beta_noise=0.3)[0]), sd=0.02
    )
    for protocol, told in (("fixed_samples", False), ("fixed_steps", True)):
        frame.assign(protocol=protocol).to_csv(tmp_path / "surge.csv", index=False)
        assert main(["--runs", str(tmp_path / "surge.csv"), "--out", str(tmp_path)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        assert "law: surge is best" in said
        assert ("no evidence of a surge" in said) == told


def test_a_sweep_without_finished_runs_is_named_and_the_others_are_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame = plant_table(lambda b: 0.002 * b**0.5, num_seeds=2).assign(**{"provenance.ended": "x"})
    for name, status in (("broken", "failed"), ("whole", "done")):
        (tmp_path / "runs" / name).mkdir(parents=True)
        frame.assign(status=status).to_parquet(tmp_path / "runs" / name / "stack-a-0.parquet")
    assert main(["--runs", "runs"]) == 0
    assert capsys.readouterr().err.startswith("broken has no finished runs")
    assert (tmp_path / "figures" / "whole.png").exists()
    assert main(["broken", "--runs", "runs"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
