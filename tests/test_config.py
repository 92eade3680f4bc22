"""Oracle: a known hash input, written out by hand, and the words that a user should read."""

import dataclasses
import hashlib
import json

import pytest

from harness.checks import check_choice, closest
from harness.config import flatten, match_types, run_id, say_count
from harness.nested import nest
from harness.rounds import count_heldout


def test_run_id_is_the_hash_of_the_canonical_json(make_run):
    config = make_run(optimizer={"lr": 0.1 + 0.2})
    written = {
        "batch_size": 8, "model.embedding": 16, "model.hidden": 64, "model.name": "ngram", "num_samples": 1024,
        "num_steps": 128, "optimizer.beta1": "0.9", "optimizer.beta2": "0.95", "optimizer.eps": "1e-08",
        "optimizer.lr": "0.3", "optimizer.name": "adam", "precision": "float32", "protocol": "fixed_samples",
        "schedule.name": "linear", "schedule.warmup": "0", "seed": 0, "task.context": 8,
        "task.corpus_sha256": config.task["corpus_sha256"], "task.name": "python_source", "task.num_heldout": 2048,
    }  # fmt: skip
    text = json.dumps(written, sort_keys=True, separators=(",", ":"))
    assert run_id(config) == hashlib.sha256(text.encode()).hexdigest()[:12]


def test_an_option_that_is_off_changes_no_identity(make_run):
    config = make_run()
    later = dataclasses.replace(config, model={**config.model, "new_option": None, "new_flag": False})
    assert run_id(later) == run_id(config)
    assert run_id(dataclasses.replace(config, model={**config.model, "new_option": 0.0})) != run_id(config)


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"batch_size": 16}, {"optimizer": {"lr": 0.02}}, {"precision": "float64"}, {"model": {"norm": True}},
     {"task": {"corpus_sha256": "0"}}, {"protocol": "fixed_steps", "num_steps": 128}],
)  # fmt: skip
def test_whatever_changes_the_numbers_changes_the_identity(make_run, changed):
    assert run_id(make_run(**changed)) != run_id(make_run())


def test_where_a_text_lies_is_no_part_of_its_identity(make_run):
    named = {"name": "text", "context": 8, "num_heldout": 8, "corpus_sha256": "0"}
    assert run_id(make_run(task={**named, "path": "a"})) == run_id(make_run(task={**named, "path": "./a"}))


def test_protocols_resolve_steps_and_samples(make_run):
    config = make_run(num_samples=100, batch_size=8)
    assert (config.num_steps, config.num_samples) == (12, 96)
    config = make_run(protocol="fixed_steps", num_steps=5, num_samples=None, batch_size=8)
    assert (config.num_steps, config.num_samples) == (5, 40)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": {"lr": -1.0}}, "optimizer.lr=-1.0 is not a number > 0"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr=nan is not a number > 0"),
        ({"optimizer": {"beta1": 1.0}}, "optimizer.beta1=1.0 is not a number in [0, 1)"),
        ({"batch_size": 0}, "batch_size=0 is not a whole number >= 1"),
        ({"batch_size": 2048}, "num_samples=1024 is less than batch_size=2048"),
        ({"precision": "float16"}, "precision='float16' is not one of bfloat16, float32, float64"),
        ({"protocol": "fixed_step"}, "did you mean fixed_steps?"),
        ({"protocol": "fixed_steps"}, "protocol=fixed_steps needs num_steps"),
        ({"num_steps": 5}, "num_steps=5 does not go with protocol=fixed_samples"),
        ({"protocol": "fixed_steps", "num_steps": 5, "num_samples": 7}, "num_samples=7 does not go with"),
        ({"seed": 10**20}, "is not a whole number from 0 to"),
    ],
)
def test_bad_values_are_told(make_run, changed, words):
    with pytest.raises(ValueError, match=words.replace("[", r"\[").replace(")", r"\)").replace("?", r"\?")):
        make_run(**changed)


def test_types_follow_the_defaults():
    defaults = {"optimizer": {"name": "adam", "lr": 0.1, "flag": False}, "batch_size": 8, "free": None, "width": None}
    given = {"optimizer": {"name": "adam", "lr": 1, "flag": True}, "batch_size": 16.0, "free": "x", "width": 2.0}
    matched = match_types(given, defaults)
    assert matched == {**given, "optimizer": {"name": "adam", "lr": 1.0, "flag": True}, "batch_size": 16, "width": 2}
    assert isinstance(matched["width"], int)
    assert isinstance(matched["optimizer"]["lr"], float)
    assert isinstance(matched["batch_size"], int)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"batch_size": "many"}, "batch_size='many' is not a whole number"),
        ({"batch_size": 8.5}, "batch_size=8.5 is not a whole number"),
        ({"optimizer": {"lr": True}}, "optimizer.lr=True is not a number"),
        ({"optimizer": {"flag": 1}}, "optimizer.flag=1 is not true or false"),
        ({"optimizer": {"lrr": 0.1}}, "optimizer.lrr is not an option of adam .did you mean lr"),
        ({"optimizer": 3}, "optimizer=3 is not a group of values"),
        ({"optimizer": {"name": "sgd"}}, "write optimizer=sgd"),
    ],
)
def test_unknown_keys_and_types_are_refused(given, words):
    defaults = {"optimizer": {"name": "adam", "lr": 0.1, "flag": False}, "batch_size": 8}
    with pytest.raises(ValueError, match=words):
        match_types(given, defaults)


def test_choices_and_nearest_names():
    check_choice("x", "a", ["a", "b"])
    with pytest.raises(ValueError, match=r"optimizer='adamx' is not one of adam, sgd \(did you mean adam\?\)"):
        check_choice("optimizer", "adamx", ["sgd", "adam"])
    assert closest("zzz", ["adam"]) == ""


def test_columns_and_back(make_run):
    flat = flatten(make_run())
    assert flat["optimizer.lr"] == 0.01
    assert nest(flat)["optimizer"] == dict(make_run().optimizer)


def test_an_adaptive_grid_counts_the_heldout_examples_that_a_target_is_met_on(make_run):
    target = {"protocol": "steps_to_target", "target_loss": 2.5, "target_examples": 512, "max_steps": 64,
              "eval_every": 8, "num_samples": None, "schedule": {"name": "constant"}}  # fmt: skip
    assert count_heldout(make_run()) == 2048
    assert count_heldout(make_run(**target)) == 512
    assert count_heldout(make_run(**target, task={"num_heldout": 1})) == 1


def test_counts_agree_with_their_nouns():
    assert (say_count(1, "run"), say_count(2, "run"), say_count(0, "run is", "runs are")) == (
        "1 run",
        "2 runs",
        "0 runs are",
    )
