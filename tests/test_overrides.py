"""Oracle: grids written out by hand, in which one sees which override would reach a run."""

import pytest

from harness.overrides import check_overrides

PLAIN = {"grid": {"seed": [0, 1], "optimizer": {"lr": [0.1, 0.2]}}}
NAMED = {
    "grid": {"seed": [0], "optimizer": {"lr": [0.1]}},
    "grids": {
        "a": {"optimizer": {"lr": [0.2]}, "schedule": {"name": ["constant"]}},
        "b": {"optimizer": {"name": ["sgd"]}},
    },
}
OWN = {"grid": {}, "grids": {"a": {"optimizer": {"lr": [0.2]}}, "b": {"optimizer": {"lr": [0.1]}}}}


@pytest.mark.parametrize(
    ("sweep", "typed", "cure"),
    [
        (PLAIN, "optimizer.lr=0.1", "'sweep.grid.optimizer.lr=[0.1]'"),
        (PLAIN, "optimizer.lr=[0.1,0.3]", "'sweep.grid.optimizer.lr=[0.1,0.3]'"),
        (PLAIN, "+seed=7", "'sweep.grid.seed=[7]'"),
        (NAMED, "optimizer.lr=1", "'sweep.grid.optimizer.lr=[1]' and 'sweep.grids.a.optimizer.lr=[1]'"),
        (OWN, "optimizer.lr=1", "'sweep.grids.a.optimizer.lr=[1]' and 'sweep.grids.b.optimizer.lr=[1]'"),
        ({"grid": {"optimizer": {"name": ["adam", "sgd"]}}}, "optimizer=lion", "'sweep.grid.optimizer.name=[lion]'"),
        ({"grid": {"protocol": ["fixed_steps"]}}, "protocol=fixed_samples", "'sweep.grid.protocol=[fixed_samples]'"),
    ],
)
def test_what_no_run_would_take_is_an_error_with_its_cure(sweep, typed, cure):
    with pytest.raises(ValueError, match="would reach no run") as raised:
        check_overrides([typed], sweep, "mine")
    assert str(raised.value).endswith(f"write {cure}")


def test_what_some_grids_do_not_take_is_told():
    (note, *others) = check_overrides(["schedule=linear"], NAMED, "mine")
    assert note.startswith("note: schedule=linear reaches no run of sweep.grids.a,")
    assert note.endswith("'sweep.grids.a.schedule.name=[linear]'")
    assert len(others) == 1
    assert "sweep.name=NAME" in others[0]


def test_what_reaches_every_run_is_not_told():
    typed = ["num_samples=512", "model.hidden=8", "sweep.grid.optimizer.lr=[0.5]", "tracker=none", "~sweep.budget"]
    assert check_overrides([*typed, "sweep.name=other"], PLAIN, "mine") == []
    assert check_overrides(["task.path=mine", "sweep.grid.seed=[7]", "refresh=true"], PLAIN, "mine") == []


@pytest.mark.parametrize("typed", ["num_samples=512", "model.hidden=8", "precision=float64", "optimizer.beta1=0.5"])
def test_runs_that_a_sweep_does_not_ask_about_are_told(typed):
    (note,) = check_overrides([typed, "tracker=none"], PLAIN, "mine")
    assert note == (
        f"note: with {typed} these are not the runs that sweep=mine asks about; sweep.name=NAME keeps their records "
        "and figures apart"
    )


def test_another_optimizer_is_told_of_its_learning_rates():
    notes = check_overrides(["optimizer=lion", "sweep.name=other"], PLAIN, "mine")
    told = "note: the learning rates of sweep=mine may not be lion's; "
    assert notes == [told + "sweeps/optimizers.yaml has a grid for every optimizer"]
    typed = ["optimizer=lion", "sweep.name=other", "sweep.grid.optimizer.lr=[1]"]
    assert check_overrides(typed, PLAIN, "mine") == []
    (note,) = check_overrides(["optimizer=lion"], {"grid": {}}, None)
    assert "conf/optimizer/lion.yaml" in note
    assert check_overrides(["optimizer=lion", "optimizer.lr=0.1"], {"grid": {}}, None) == []
