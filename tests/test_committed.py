"""Oracle: the grids in sweeps/*.yaml, and what plain loops found for the same job (scripts/plain_loops.py)."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from analysis.analyse import analyse_runs
from harness.config import CONF_DIR, PARTS, make_run_config, match_types, run_id
from harness.sweep import read_grids

SWEEPS = Path(__file__).resolve().parents[1] / "sweeps"
# lr with the lowest seed-mean loss on the grid, from plain loops with torch's fused Adam
PLAIN_ARGMIN = {
    8: 0.00657,
    16: 0.00657,
    32: 0.01105,
    64: 0.01105,
    128: 0.01858,
    256: 0.03125,
    512: 0.03125,
    1024: 0.05256,
}


NEVER_RUN = {"lr_vs_bs_gpt_124m", "lr_vs_size_gpu"}  # they need GPUs: tests/test_gpt_sweeps.py composes them


@pytest.mark.parametrize(
    "path", sorted(p for p in SWEEPS.glob("*.yaml") if p.stem not in NEVER_RUN), ids=lambda p: p.stem
)
def test_the_answer_covers_the_grid_of_its_question(path):
    sweep = OmegaConf.to_container(OmegaConf.load(path))["sweep"]
    assert {"name", "question", "prediction", "source", "grid"} <= set(sweep)
    frame = pd.read_csv(path.with_suffix(".csv"))
    if any(name.startswith(("probe.", "point.", "memory.")) for name in frame.columns):  # several rows a run
        frame = frame.drop_duplicates("run_id")
    if "bin.step" in frame.columns:  # a row a bin of every run
        frame = frame.drop_duplicates("run_id")
    num_points = 0
    for axes in read_grids(sweep):
        num_points += (size := int(np.prod([len(axis) for axis in axes.values()])))
        rows = frame[np.all([frame[name].isin(axis) for name, axis in axes.items()], axis=0)]
        assert len(rows) == len(rows.drop_duplicates(list(axes))) == size
    assert len(frame) == len(frame["run_id"].unique()) == num_points
    assert set(frame["status"]) <= {"done", "diverged"}


@pytest.mark.parametrize("path", sorted(SWEEPS.glob("*.csv")), ids=lambda p: p.stem)
def test_options_that_came_later_retrain_nothing(path):
    """The run_id of a committed run follows from its columns and today's defaults for what it has no column for."""
    for row in pd.read_csv(path).sample(20, random_state=0).to_dict("records"):
        values = {}
        for part in PARTS:
            defaults = OmegaConf.to_container(OmegaConf.load(CONF_DIR / part / f"{row[f'{part}.name']}.yaml"))
            given = {name: row.get(f"{part}.{name}", default) for name, default in defaults.items()}
            values[part] = match_types({k: None if pd.isna(v) else v for k, v in given.items()}, defaults)
        if "task.corpus_sha256" in row and not pd.isna(row["task.corpus_sha256"]):
            values["task"]["corpus_sha256"] = row["task.corpus_sha256"]
        rest = {name: row[name] for name in ("protocol", "num_steps", "num_samples", "batch_size", "seed", "precision")}
        if row["protocol"] == "steps_to_target":  # the steps follow from max_steps; whole numbers with gaps are floats
            defaults = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "protocol/steps_to_target.yaml"))
            rest |= match_types({name: x for name in defaults if not pd.isna(x := row.get(name))}, defaults)
            rest |= {"num_steps": None, "num_samples": None}
        if not pd.isna(row.get("max_norm")):
            rest["max_norm"] = row["max_norm"]
        if row["protocol"] == "one_step":
            defaults = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "protocol/one_step.yaml"))
            rest |= match_types({name: x for name in defaults if not pd.isna(x := row.get(name))}, defaults)
        assert run_id(make_run_config({**values, **rest})) == row["run_id"]


def test_adams_best_learning_rate_grows_as_the_root():
    answer = analyse_runs("lr_vs_bs", pd.read_csv(SWEEPS / "lr_vs_bs.csv")).groups[0]
    assert [o.status for o in answer.optima] == ["interior"] * 8
    few = [o for o in answer.optima if o.batch_size <= 256]
    slope = np.polyfit(np.log([o.batch_size for o in few]), np.log([o.lr for o in few]), 1)[0]
    assert 0.42 < slope < 0.62
    for o in answer.optima:
        assert abs(np.log2(o.lr / PLAIN_ARGMIN[o.batch_size])) < 0.75, (
            "further than a grid step from the plain loops' best"
        )


def test_sgds_best_learning_rate_levels_off():
    answer = analyse_runs("lr_vs_bs_sgd", pd.read_csv(SWEEPS / "lr_vs_bs_sgd.csv")).groups[0]
    assert [o.status for o in answer.optima] == ["interior"] * 8
    assert answer.comparison.best == "noise_scale"
