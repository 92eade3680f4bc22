"""Oracle: a checkpoint whose H and Sigma are known, with planted measurements right or wrong by a known factor."""

import json
from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

from analysis import answer as answers
from analysis.answer import commit_rows, print_answer, write_answer
from analysis.figures.noise_scale import draw_probed
from analysis.figures.one_step import draw_forms, draw_scores
from analysis.figures.style import PAPER, SCREEN
from analysis.laws.moments import sign_mean, signal_to_noise, softsign_square
from analysis.laws.one_step import Local, sgd_closed, sign_correlated, sign_independent
from analysis.one_step import FORMS, LISTS, check_muon, is_probed, keys_of, label_checkpoint, score_forms, spread_probes
from analysis.plot import main
from analysis.probe_claims import PROBE_CLAIMS, check_probes
from analysis.probes import analyse_probes
from harness.records import PROBE, PROBES, probe_path
from tests.analysis.test_figures import check_boxes

SIZES = [1, 4, 16, 64, 256, 1024, 4096]
ROWS, COLUMNS = 6, 4  # of the one matrix that all parameters are
N = ROWS * COLUMNS
SIMPLE = ("sgd", "sgd_momentum_0.9", "signsgd", "softsign_0.03", "softsign_1", "adam_0.9", "muon")


def plant_local(correlated=True):
    rng = np.random.default_rng(0)
    loads = rng.uniform(0.5, 1.0, size=N)
    noise = np.diag(rng.uniform(0.5, 1.5, size=N)) + 4 * np.outer(loads, loads) * correlated
    hessian = 0.05 * np.eye(N) + 0.5 * np.outer(loads, loads) / N
    gradient = 0.08 * loads * rng.lognormal(0, 0.5, size=N)
    return Local(gradient, gradient, np.diag(noise).copy(), np.arange(N), np.ones(N), hessian, noise)


def plant_records(folder, factor=1.0, steps=(150, 600)):
    """Records of two checkpoints and their arrays; the measured optimum is `factor` times the right form's."""
    local = plant_local()
    arrays = {
        "gradient": local.gradient_N, "pool_gradient": local.pool_gradient_N, "variance": local.variance_N,
        "columns": local.columns_C, "probability": local.probability_C, "hessian": local.hessian_CN,
        "noise": local.noise_CN, "place.w": np.array([0, ROWS, COLUMNS]),
        "gram.w": np.eye(COLUMNS) * local.variance_N.mean() * ROWS,
    }  # fmt: skip
    right = {"signsgd": "correlated", "adam_0.9": "correlated"}
    g, hessian = local.gradient_N, local.hessian_CN
    scales = {
        "grad_sq": g @ g, "grad_curvature": g @ hessian @ g, "noise_curvature": float(np.sum(hessian * local.noise_CN)),
    }  # fmt: skip
    rng = np.random.default_rng(1)
    lists = {name: [] for name in LISTS}
    for name in SIMPLE:
        for size in SIZES:
            form = FORMS.get(name, {}).get(right.get(name, "independent"))
            lr = form(local, size) if form else 0.1 * size**0.5
            beta1 = 0.9 if name == "sgd_momentum_0.9" else 0.0
            lr = (
                sgd_closed(**scales, batch_size=size, beta1=beta1)
                if name in ("sgd", "sgd_momentum_0.9", "softsign_1")
                else lr
            )
            measured = factor * lr * np.exp(0.02 * rng.normal())
            curvature = 2.0
            row = {
                "optimizer": name, "batch_size": size, "overlap": lr * curvature, "overlap_se": 0.01 * lr * curvature,
                "curvature": curvature, "curvature_gauss_newton": 1.1 * curvature, "third": 0.0, "lr": measured,
                "lr_se": 0.02, "decrease": 0.5 * size**0.25, "decrease_se": 0.01,
            }  # fmt: skip
            for column in LISTS:
                lists[column].append(row.get(column.removeprefix("probe."), 0.1))
            a = signal_to_noise(local.pool_gradient_N, local.variance_N, size)
            b = np.abs(signal_to_noise(np.full(N, 0.03), local.variance_N, size))
            arrays[f"mean.{name}.{size}"] = sign_mean(a)
            arrays[f"square.{name}.{size}"] = softsign_square(a, b)
    columns = {
        name: 2.0 for name, kind in PROBE.items() if str(kind) == "double" and name not in LISTS
    } | {f"probe.{name}": value for name, value in scales.items()}  # fmt: skip
    columns["probe.noise_trace"] = 17 * 16.0 * scales["grad_sq"]
    (folder / PROBES).mkdir(parents=True)
    records = []
    for step in steps:
        save_file(arrays, probe_path(folder, f"run{step}"))
        records.append({
            "run_id": f"run{step}", "sweep": "one", "status": "done", "protocol": "one_step", "seed": 0,
            "task.name": "teacher_student", "num_steps": step, "permute_samples": False, "message": "",
            "pool_samples": 10**9, "batch_size": 64, **lists, **columns,
        })  # fmt: skip
    records.append({**records[0], "run_id": "gone", "status": "diverged", **dict.fromkeys(LISTS), "num_steps": 9})
    return pd.DataFrame(records)


@pytest.fixture(scope="module")
def answer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    return analyse_probes("one", plant_records(folder), "Does it follow?", folder)


def test_a_row_an_optimizer_and_batch_size_with_what_the_laws_say(answer):
    rows, local = answer.rows, plant_local()
    assert is_probed(rows)
    assert len(rows) == 2 * len(SIMPLE) * len(SIZES)
    signs = rows[(rows["probe.optimizer"] == "signsgd") & (rows["num_steps"] == 150)]
    for column, law in (("correlated", sign_correlated), ("independent", sign_independent)):
        assert np.allclose(signs[f"predicted.{column}"], [law(local, b) for b in SIZES])
    assert signs["predicted.closed"].isna().all()
    assert np.allclose(rows["predicted.sampled"], rows["probe.overlap"] / rows["probe.curvature"])
    assert np.allclose(rows["predicted.third"], rows["predicted.sampled"])
    assert np.allclose(rows["predicted.gauss_newton"], rows["predicted.sampled"] / 1.1)


def test_the_third_derivative_moves_the_optimum_as_the_cubic_does():
    rows = pd.DataFrame({
        "status": "done", "probe.optimizer": ["sgd"] * 3, "probe.batch_size": 4, "probe.overlap": 1.0,
        "probe.curvature": [2.0, 2.0, 1.0],
        "probe.curvature_gauss_newton": np.nan, "probe.third": [0.0, -3.0, 9.0],
        "probe.grad_sq": 1.0, "probe.grad_curvature": 2.0, "probe.noise_curvature": 8.0, "pool_samples": 4,
    })  # fmt: skip
    third = spread_probes(rows)["predicted.third"]
    assert third[0] == 0.5
    assert 1 - 2.0 * third[1] - 1.5 * third[1] ** 2 == pytest.approx(0)  # zero of the cubic's slope
    assert np.isnan(third[2])  # it falls for ever


def test_sgds_form_needs_no_arrays(tmp_path):
    records = plant_records(tmp_path, steps=(150,))
    rows = spread_probes(records)
    sgd = rows[rows["probe.optimizer"] == "sgd"]
    assert np.allclose(sgd["predicted.closed"], sgd["probe.lr"], rtol=0.1)
    momentum = rows[rows["probe.optimizer"] == "sgd_momentum_0.9"]
    assert np.allclose(momentum["predicted.closed"], momentum["probe.lr"], rtol=0.1)
    assert np.allclose(momentum["predicted.no_momentum"], sgd["predicted.closed"])
    assert "predicted.correlated" not in rows.columns


def test_scores_are_medians_and_worst_ratios_of_scored_points(answer):
    scores = score_forms(answer.rows, keys_of(answer.rows)).set_index(["num_steps", "optimizer", "form"])
    right = scores.loc[(150, "signsgd", "correlated")]
    assert right["points"] == 5  # from batch size 16
    assert right["median"] == pytest.approx(1, abs=0.05)
    wrong = scores.loc[(150, "signsgd", "independent")]
    assert wrong["worst"] > wrong["median"] > 1
    unknown = answer.rows.assign(**{"probe.overlap_se": answer.rows["probe.overlap"]})
    assert score_forms(unknown, ["num_steps"]).empty


@pytest.mark.parametrize(("factor", "sgd", "sign"), [(1.0, "confirmed", "confirmed"), (1.8, "refuted", "confirmed")])
def test_verdicts_follow_from_planted_measurements(tmp_path, factor, sgd, sign):
    found = analyse_probes("one", plant_records(tmp_path, factor, steps=(150,)), "", tmp_path).verdicts
    verdicts = {verdict.claim: verdict for verdict in found}
    assert set(verdicts) == set(PROBE_CLAIMS)
    assert verdicts["sgd-eta"].verdict == verdicts["ema-batch"].verdict == sgd
    assert verdicts["sgd-eta"].numbers["ratio"] == pytest.approx(1 / factor, rel=0.05)
    assert verdicts["sign-erf"].verdict == verdicts["eps-moments-exact"].verdict == sign
    assert verdicts["eps-moments"].verdict == "refuted"  # the squares are the exact ones
    assert verdicts["eps-sgd"].verdict == "confirmed"
    assert verdicts["dL-mono"].verdict == "confirmed"
    assert verdicts["surge"].verdict == ("refuted" if verdicts["surge"].numbers["predicted"] < 0.8 else "inconclusive")
    assert all(verdict.protocol == "one_step" and verdict.rule for verdict in found)


@pytest.mark.parametrize("shape", [(16, 64), (64, 16)])
def test_muons_overlap_by_the_gram_matrix_of_the_smaller_side_is_that_of_simulated_batches(shape):
    rng = np.random.default_rng(0)
    size, rows = 4.0, shape[0]
    gradient, spread = rng.normal(size=shape) / 4, rng.uniform(0.5, 2.0, size=(rows, 1))  # a noise of its own a row
    drawn = gradient + spread * rng.normal(size=(400, *shape)) / size**0.5
    u, _, vt = np.linalg.svd(drawn, full_matrices=False)
    variance = np.broadcast_to(spread**2, shape)
    # E[N N^T] of independent entries is their variances' sums along a row, E[N^T N] those along a column
    gram = np.diag(variance.sum(1) if rows < shape[1] else variance.sum(0))
    local = replace(plant_local(), pool_gradient_N=gradient.ravel(), variance_N=variance.ravel())
    arrays = {"place.w": np.array([0, *shape]), "gram.w": gram}
    found = check_muon(local, size, (u @ vt).mean(0).ravel(), arrays)
    assert found["muon_gram"] == pytest.approx(1, abs=0.06)
    larger = np.diag(variance.sum(0) if rows < shape[1] else variance.sum(1))
    assert np.isnan(check_muon(local, size, (u @ vt).mean(0).ravel(), {**arrays, "gram.w": larger})["muon_gram"])


def test_every_form_of_muons_overlap_has_a_verdict_of_its_own(answer):
    rows = answer.rows[answer.rows["num_steps"] == 150].copy()
    muon = rows["probe.optimizer"] == "muon"
    planted = {"singular": 1.1, "scalar": 1.4, "gram": 0.7}
    for form, ratio in planted.items():
        rows.loc[muon, f"check.muon_{form}"] = ratio * np.exp(0.01 * np.sin(np.arange(len(SIZES))))
    found = {v.claim: v for v in check_probes(rows)}
    for form, claim, verdict in (
        ("singular", "muon", "confirmed"), ("scalar", "muon-scalar", "refuted"), ("gram", "muon-gram", "refuted"),
    ):  # fmt: skip
        assert found[claim].verdict == verdict
        assert found[claim].numbers["ratio"] == pytest.approx(planted[form], rel=0.02)
        assert found[claim].numbers["num_points"] == 5  # from batch size 16


def test_a_surge_that_is_there_is_confirmed_and_one_that_is_not_is_refuted(answer):
    rows = answer.rows[answer.rows["num_steps"] == 150].copy()
    signs = rows["probe.optimizer"] == "signsgd"
    rows.loc[signs, "predicted.independent"] = [0.1, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2]
    for measured, verdict in (([0.1, 0.3, 0.6, 0.5, 0.4, 0.3, 0.2], "confirmed"), (np.arange(1, 8) / 10, "refuted")):
        rows.loc[signs, "probe.lr"] = measured
        assert [v.verdict for v in check_probes(rows) if v.claim == "surge"] == [verdict]
    rows.loc[signs, "predicted.independent"] = np.arange(1, 8)
    assert [v.verdict for v in check_probes(rows) if v.claim == "surge"] == ["inconclusive"]


def test_a_decrease_that_falls_refutes_that_it_grows(answer):
    rows = answer.rows[answer.rows["num_steps"] == 150].copy()
    signs = rows["probe.optimizer"] == "signsgd"
    rows.loc[signs, "probe.decrease"] = [1, 2, 3, 4, 5, 4, 3]
    (verdict,) = [v for v in check_probes(rows) if v.claim == "dL-mono"]
    assert verdict.verdict == "refuted"
    assert verdict.numbers["ratio"] == pytest.approx(3 / 5)


def test_adams_peak_is_judged_against_the_noise_scale(answer):
    rows = answer.rows[answer.rows["num_steps"] == 150].copy()
    adam = rows["probe.optimizer"] == "adam_0.9"
    for peak, noise, verdict in (
        (64, 17 * 64, "confirmed"),
        (64, 17 * 2000, "refuted"),
        (4096, 17 * 4096, "inconclusive"),
    ):
        rows["probe.noise_trace"] = noise * rows["probe.grad_sq"]
        rows["probe.grad_sq_se"] = 0.01 * rows["probe.grad_sq"]
        rows.loc[adam, "probe.lr"] = [1 / (1 + abs(np.log(size / peak))) for size in SIZES]
        (found,) = [v for v in check_probes(rows) if v.claim == "adam-surge"]
        assert found.verdict == verdict, peak
    rows["probe.noise_trace"] = 17 * 2000 * rows["probe.grad_sq"]
    rows.loc[adam, "probe.lr"] = [1 / (1 + abs(np.log(size / 64))) for size in SIZES]
    rows["probe.grad_sq_se"] = 4 * rows["probe.grad_sq"]  # a gradient that is not told from zero says nothing
    (found,) = [v for v in check_probes(rows) if v.claim == "adam-surge"]
    assert (found.verdict, found.reason) == ("inconclusive", "the gradient is not told from zero")


def test_one_point_far_off_refutes_a_form_that_is_right_elsewhere(answer):
    rows = answer.rows[answer.rows["num_steps"] == 150].copy()
    for claim, optimizer in (("sign-eta", "signsgd"), ("adam-eta", "adam_0.9"), ("sampled-eta", "muon")):
        (found,) = [v for v in check_probes(rows) if v.claim == claim]
        assert found.verdict == "confirmed", claim
        wrong = rows.copy()
        own = (wrong["probe.optimizer"] == optimizer) & (wrong["probe.batch_size"] == 16)
        wrong.loc[own, "probe.lr"] *= 1.8
        (found,) = [v for v in check_probes(wrong) if v.claim == claim]
        assert found.verdict == "refuted", claim
        assert "1 of" in found.reason
        wrong.loc[own, "probe.lr_se"] = 0.24
        (found,) = [v for v in check_probes(wrong) if v.claim == claim]
        assert found.verdict != "refuted", claim


def test_checkpoints_that_differ_in_anything_are_kept_apart(tmp_path):
    records = plant_records(tmp_path, steps=(150, 600)).head(2)
    records["num_steps"] = 150
    rows = spread_probes(records.assign(**{"optimizer.lr": [0.1, 0.2]}))
    assert keys_of(rows) == ["num_steps", "optimizer.lr"]
    assert label_checkpoint({"num_steps": 150, "optimizer.lr": 0.1}) == "step 150, optimizer.lr=0.1"
    assert keys_of(spread_probes(records)) == ["num_steps", "run_id"]


@pytest.mark.parametrize("style", [SCREEN, PAPER], ids=["screen", "paper"])
def test_figures_keep_their_texts_apart(answer, style):
    with mpl.rc_context(style.rc):
        check_boxes(draw_scores(answer.rows, "Does it follow from what is measured? " * 4, style))
        check_boxes(draw_probed(answer.rows, answer.rows, "Does it follow from what is measured? " * 4, style))
        one = answer.rows[answer.rows["num_steps"] == 150]
        check_boxes(figure := draw_forms(one, "Does it follow from what is measured? " * 4, style))
    shown = [name for name in SIMPLE if name != "softsign_1"]
    assert [ax.get_title(loc="left") for ax in figure.axes] == shown
    for ax, name in zip(figure.axes, shown, strict=True):
        rows = one[one["probe.optimizer"] == name]
        points = [line.get_data() for line in ax.lines if line.get_marker() == "o"]
        assert [float(x[0]) for x, _ in points] == SIZES
        assert [float(y[0]) for _, y in points] == list(rows["probe.lr"])
        (sampled,) = [line for line in ax.lines if line.get_alpha() == 0.35]
        assert list(sampled.get_ydata()) == list(rows["predicted.sampled"])


def test_files_and_report_and_committed_table(answer, tmp_path, capsys, monkeypatch):
    paths = write_answer(answer, tmp_path / "out")
    names = {"one.png", "one.svg", "one-noise_scale.png", "one-noise_scale.svg", "one.json"}
    assert {path.name for path in paths} == names | {
        f"one-step-{step}.{form}" for step in (150, 600) for form in ("png", "svg")
    }
    content = json.loads((tmp_path / "out" / "one.json").read_text())
    assert content["protocol"] == "one_step"
    assert len(content["verdicts"]) == 2 * len(PROBE_CLAIMS)
    print_answer(answer)
    short = capsys.readouterr().out
    verdicts = short.split(answer.note[-20:])[1]
    assert len(verdicts.strip().splitlines()) == len(PROBE_CLAIMS) + 2  # a head, a line a claim, and where all stand
    assert "one --all" in short
    print_answer(answer, whole=True)
    said = capsys.readouterr().out
    assert "sgd-eta" in said
    assert len(said.splitlines()) > len(short.splitlines()) + len(PROBE_CLAIMS)
    assert "step 600" in said
    monkeypatch.setattr(answers, "SWEEPS_DIR", tmp_path)
    assert "98 rows of 2 runs" in commit_rows(answer)
    again = analyse_probes("one", pd.read_csv(tmp_path / "one.csv"))
    assert [v.verdict for v in again.verdicts] == [v.verdict for v in answer.verdicts]
    assert main(["--runs", str(tmp_path / "one.csv"), "--out", str(tmp_path / "csv")]) == 0
    assert (tmp_path / "csv" / "one.png").exists()


def test_no_checkpoint_that_ended_is_told(tmp_path):
    with pytest.raises(ValueError, match="protocol=one_step"):
        analyse_probes("one", plant_records(tmp_path).assign(status="failed"))


def test_labels():
    assert label_checkpoint({"task.name": "t", "num_steps": 5, "permute_samples": True}) == "t, step 5, permuted"
    assert label_checkpoint({"num_steps": 5, "permute_samples": False, "seed": 1}) == "step 5, seed 1"


@pytest.mark.parametrize("check", PROBE_CLAIMS.values(), ids=PROBE_CLAIMS)
def test_claims_say_when_they_hold_and_whose_they_are(check):
    assert "Valid when:" in check.__doc__
    assert "Source:" in check.__doc__
