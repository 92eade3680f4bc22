"""Oracle: grids written out by hand."""

import copy

import pytest

from harness.config import run_id
from harness.sweep import describe_cuts, describe_repeats, make_sweep, read_axis

DEFAULTS = {
    "task": {"name": "python_source", "context": 8, "num_heldout": 64},
    "model": {"name": "ngram", "embedding": 4, "hidden": 8, "norm": False},
    "schedule": {"name": "constant", "warmup": 0.0},
    "protocol": "fixed_samples", "num_samples": 256, "num_steps": None,
    "batch_size": 8, "seed": 0, "precision": "float32",
}  # fmt: skip
OPTIMIZERS = {"sgd": {"name": "sgd", "lr": 0.1, "momentum": 0.0}, "signsgd": {"name": "signsgd", "lr": 0.001}}


def compose_with(grid, **changed):
    """Stands where Hydra does: the values of a group's choice."""

    def compose(chosen):
        defaults = copy.deepcopy(DEFAULTS)
        defaults["optimizer"] = dict(OPTIMIZERS[chosen.get("optimizer", "sgd")])
        values = copy.deepcopy({**defaults, **changed, "sweep": {"name": "s", "question": "q", "grid": grid}})
        return values, {**defaults, "sweep": values["sweep"]}

    return compose


@pytest.mark.parametrize(
    ("axis", "values"),
    [
        ([1, 2.5], [1, 2.5]),
        (["logspace", 0.001, 1, 4], [0.001, 0.01, 0.1, 1.0]),
        (["log2", 3, 5, 1], [8.0, 16.0, 32.0]),
        (["log2", -1, 0.5, 0.5], [0.5, 0.707106781, 1.0, 1.41421356]),
        (["log2", 0, 1, 0.75], [1.0, 1.68179283]),
    ],
)
def test_axis_forms(axis, values):
    assert read_axis("optimizer.lr", axis) == values


@pytest.mark.parametrize(
    ("axis", "words"),
    [
        ([], "is not an axis"),
        (0.1, "is not an axis"),
        ("logspace", "is not an axis"),
        (["logspace", 1, 2], "needs three numbers"),
        (["logspace", 0, 2, 3], "0 < LOW < HIGH"),
        (["log2", 3, 1, 1], "FIRST <= LAST"),
        (["log3", 1, 2, 3], "did you mean log2"),
        (["log2", 1e9, 1e9, 1], "between -1000 and 1000"),
        (["logspace", 0.1, 1, 2.5e9], "at most 100000"),
    ],
)
def test_wrong_axes_are_told(axis, words):
    with pytest.raises(ValueError, match=words):
        read_axis("optimizer.lr", axis)


def test_the_grid_is_the_product_of_its_axes():
    grid = {"batch_size": [8, 16], "seed": [0, 1], "optimizer": {"lr": [0.1, 0.2, 0.3]}}
    sweep = make_sweep(compose_with(grid))
    points = [(c.batch_size, c.seed, c.optimizer["lr"]) for c in sweep.runs.values()]
    assert points == [(b, s, lr) for b in (8, 16) for s in (0, 1) for lr in (0.1, 0.2, 0.3)]
    assert list(sweep.runs) == [run_id(c) for c in sweep.runs.values()]
    assert all(isinstance(c.batch_size, int) and c.num_steps == 256 // c.batch_size for c in sweep.runs.values())
    assert len({c.task["corpus_sha256"] for c in sweep.runs.values()}) == 1


def test_samples_that_make_no_whole_step_are_told():
    def told(budget, *sizes, **axes):
        compose = compose_with({"batch_size": list(sizes), **axes}, num_samples=budget)
        return describe_cuts(compose({})[0], make_sweep(compose).runs.values())

    assert told(256, 8, 64) == []
    assert told(250, 125, 50) == []
    start = "num_samples=250 is no whole number of steps: runs take "
    assert told(250, 8, 50) == [start + "248 at batch size 8"]
    cut = [start + "248 at batch size 8, 240 at batch size 16, 224 at batch size 32, ..."]
    assert told(250, 64, 8, 32, 16) == cut
    assert told(256, 8, num_samples=[256, 250, 100]) == [
        "num_samples=100 is no whole number of steps: runs take 96 at batch size 8",
        "num_samples=250 is no whole number of steps: runs take 248 at batch size 8",
    ]


def test_an_axis_over_names_brings_each_ones_own_options():
    sweep = make_sweep(compose_with({"optimizer": {"name": ["sgd", "signsgd"], "lr": [0.1, 0.2]}}))
    assert [dict(c.optimizer) for c in sweep.runs.values()] == [
        {"name": "sgd", "lr": 0.1, "momentum": 0.0}, {"name": "sgd", "lr": 0.2, "momentum": 0.0},
        {"name": "signsgd", "lr": 0.1}, {"name": "signsgd", "lr": 0.2},
    ]  # fmt: skip


def test_equal_points_count_once():
    assert len(make_sweep(compose_with({"optimizer": {"lr": [0.1, 0.1 + 1e-14]}})).runs) == 1


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (
            {"optimizer": {"lrr": [0.1]}},
            r"sweep.grid.optimizer.lrr is not a value of a run \(did you mean optimizer.lr\?\)",
        ),
        ({"optimizer": {"lr": ["fast"]}}, "optimizer.lr='fast' is not a number"),
        ({"optimizer": {"lr": [-0.1]}}, "optimizer.lr=-0.1 is not a number > 0"),
        ({"num_steps": [5, 6]}, "num_steps=5 does not go with protocol=fixed_samples"),
        ({"launcher": {"name": ["local"]}}, "sweep.grid.launcher.name is not a value"),
        ({"batch_size": [8.5]}, "batch_size=8.5 is not a whole number"),
        (
            {"optimizer": {"name": ["signsgd"], "momentum": [0.9]}},
            "sweep.grid.optimizer.momentum is not a value",
        ),
    ],
)
def test_wrong_grids_are_told(grid, words):
    with pytest.raises(ValueError, match=words):
        make_sweep(compose_with(grid))


def compose_grids(grids):
    def compose(chosen):
        values, defaults = compose_with({"batch_size": [8], "optimizer": {"lr": [0.1]}})(chosen)
        values["sweep"]["grids"] = grids
        return values, {**defaults, "sweep": values["sweep"]}

    return compose


def test_named_grids_are_laid_over_the_grid_one_by_one():
    grids = {
        "plain": {"optimizer": {"lr": [0.1, 0.2]}},
        "sign": {"optimizer": {"name": ["signsgd"], "lr": [0.01]}, "batch_size": [8, 16]},
        "again": {"optimizer": {"lr": [0.2]}},
    }
    sweep = make_sweep(compose_grids(grids))
    points = [(c.optimizer["name"], c.optimizer["lr"], c.batch_size) for c in sweep.runs.values()]
    assert points == [("sgd", 0.1, 8), ("sgd", 0.2, 8), ("signsgd", 0.01, 8), ("signsgd", 0.01, 16)]


@pytest.mark.parametrize(
    ("grids", "words"),
    [
        ({"a": [1, 2]}, "give sweep.grids.NAME.AXIS"),
        ({"a": {"optimizer": {"lrr": [0.1]}}}, "did you mean optimizer.lr"),
    ],
)
def test_wrong_named_grids_are_told(grids, words):
    with pytest.raises(ValueError, match=words):
        make_sweep(compose_grids(grids))


def test_a_value_listed_twice_is_told():
    grid = {"seed": [0, 0], "optimizer": {"lr": [0.1, 0.2]}, "batch_size": 8}
    assert describe_repeats(grid) == ["sweep.grid.seed lists 0 twice: it counts once"]
