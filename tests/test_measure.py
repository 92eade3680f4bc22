"""Oracle: planted facts with the better choice known by hand; real measurements only for their form."""

import itertools
import json
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from harness import measure
from harness.config import run_id
from harness.estimate import probe
from harness.machine import has_compiler
from harness.measure import MEASURED, Machine, choose, choose_all, note_fact, questions, read_facts
from harness.plan import Choice, Stack, make_plan, name_program
from harness.program import make_program
from harness.train import train

ONE_CPU = Machine("cpu", workers=2, compile="auto", width=None, micro_batch=None, memory_share=0.8)
BUILD = 8.0


def members_of(make_run, count=24, **changed):
    configs = [
        make_run(num_samples=8192, seed=i % 2, optimizer={"lr": 0.001 * (1 + i // 2)}, **changed) for i in range(count)
    ]
    return [(run_id(config), config) for config in configs]


def traced(**seconds_by_width):
    return [
        {"what": "traced", "width": int(width[1:]), "seconds": seconds, "bytes": 10**6, "free_bytes": None}
        for width, seconds in seconds_by_width.items()
    ]


@pytest.fixture(autouse=True)
def compiler(monkeypatch):
    has_compiler.cache_clear()
    monkeypatch.setenv("CXX", "true")  # any program that starts
    yield
    has_compiler.cache_clear()


def test_the_fastest_width_is_taken(make_run):
    members = members_of(make_run, 4)
    assert choose(members, traced(w12=3e-4, w24=2e-4), ONE_CPU, BUILD).width == 24
    assert choose(members, traced(w12=2e-4, w24=3e-4), ONE_CPU, BUILD).width == 12


def test_machine_code_is_built_where_it_pays(make_run):
    # 24 runs of 1024 steps; guessed share .4: saves .6 * 24576 * t seconds against 8 of each build, step and evaluation
    members = members_of(make_run)
    break_even = 2 * BUILD / (0.6 * 24 * 1024)
    assert not choose(members, traced(w24=0.9 * break_even), ONE_CPU, BUILD).compiled
    assert choose(members, traced(w24=1.1 * break_even), ONE_CPU, BUILD).compiled


def test_what_was_measured_stands_in_place_of_guesses(make_run):
    members = members_of(make_run)
    facts = traced(w24=2e-3)
    slower = [{"what": "compiled", "width": 12, "seconds": 2.2e-3}]
    assert choose(members, facts, ONE_CPU, BUILD).compiled
    assert not choose(members, facts + slower, ONE_CPU, BUILD).compiled
    # code that is there costs nothing: the smallest gain is taken
    few = members_of(make_run, 4)
    there = [{"what": "built", "kind": name_program(Stack(dict(few))), "seconds": 9.0}]
    assert not choose(few, traced(w24=1e-4), ONE_CPU, BUILD).compiled
    assert choose(few, traced(w24=1e-4) + there, ONE_CPU, BUILD).compiled
    assert choose(few, there, ONE_CPU, BUILD).compiled
    assert not choose(few, [], ONE_CPU, BUILD).compiled


def test_machine_code_is_built_once_earlier_sweeps_would_have_paid_for_it(make_run):
    members, facts = members_of(make_run), traced(w24=4e-4)
    run_steps = 24 * 1024  # 9.8 s of a sweep without it; .6 of that is saved, twice not enough for two builds of 8 s
    before = [{"what": "recorded", "width": 24, "seconds": run_steps * 4e-4, "run_steps": run_steps}]
    for known in (facts, before):  # what training took stands in for what was not measured beforehand
        choices = [choose(members, known + before * n, ONE_CPU, BUILD).compiled for n in range(3)]
        assert choices == ([False, False, True] if known is facts else [False, True, True])


def test_the_user_decides(make_run):
    members, facts = members_of(make_run), traced(w24=1e-3)
    assert not choose(members, facts, Machine("cpu", 2, "never", None, None, 0.8), BUILD).compiled
    always = choose(members, traced(w24=1e-9), Machine("cpu", 2, "always", 5, 3, 0.8), BUILD)
    assert (always.compiled, always.width, always.micro_batch) == (True, 5, 3)


def test_without_a_compiler_nothing_is_compiled(make_run, monkeypatch):
    for broken in ("no-such-compiler", "false"):
        has_compiler.cache_clear()
        monkeypatch.setenv("CXX", broken)
        assert not choose(members_of(make_run), traced(w24=1.0), ONE_CPU, BUILD).compiled


def test_a_build_that_failed_is_not_tried_again(make_run):
    failed = [{"what": "unbuildable", "reason": "no"}]
    assert not choose(members_of(make_run), traced(w24=1.0) + failed, ONE_CPU, BUILD).compiled


def test_steps_too_long_to_try_leave_the_usual_width_that_fits(make_run):
    members = members_of(make_run)
    facts = traced(w1=None, w12=None)
    assert choose(members, facts, ONE_CPU, BUILD) == Choice(24)
    assert choose(members, facts, replace(ONE_CPU, memory=10**7), BUILD).width == 4
    too_long = probe(members[0][1], "cpu", None, memory=3 * 10**6)  # not even 12 fit
    assert [(fact["width"], fact["seconds"]) for fact in too_long] == [(1, None)]


def test_what_is_measured_is_what_training_takes(make_run, tmp_path):
    members = members_of(make_run, 12)
    facts = {fact["width"]: fact for fact in probe(members[0][1], "cpu", tmp_path, 1e9)}
    stack = Stack(dict(members))
    program, times = make_program(stack, torch.device("cpu")), []
    for now in train(program, stack, num_evals=1, num_examples=8):
        times.append(time.perf_counter())
        if now.step == 200:
            break
    step = statistics.median(b - a for a, b in itertools.pairwise(times)) / 12
    assert 0.4 < facts[12]["seconds"] / step < 2.5


def test_stacks_fit_into_memory(make_run):
    members = members_of(make_run)
    # 20 MB for two workers, .8 of it: 8 runs of 1 MB
    assert choose(members, traced(w24=1e-6), replace(ONE_CPU, memory=20 * 10**6), BUILD).width == 8
    half = replace(ONE_CPU, memory=20 * 10**6, memory_share=0.4)
    assert choose(members, traced(w24=1e-6), half, BUILD).width == 4
    assert choose(members, traced(w24=1e-6), replace(ONE_CPU, memory=1), BUILD).width == 1
    assert 10**6 < ONE_CPU.memory < 10**15


def test_what_cannot_stack_runs_alone_and_says_why(make_run):
    members = members_of(make_run, 3)
    choice = choose(members, [{"what": "alone", "reason": "an if on data"}], ONE_CPU, BUILD)
    plan = make_plan(
        "s", dict(members), device="cpu", width=None, metrics={"num_evals": 1, "num_examples": 1},
        choices={measure.shape_of(members[0][1]): choice},
    )  # fmt: skip
    assert [(len(stack.runs), stack.alone) for stack in plan.stacks] == [(1, "an if on data")] * 3


def test_facts_are_kept_by_shape_whatever_the_number_of_steps(make_run, tmp_path):
    fact = {"what": "trained", "width": 3, "seconds": 1.0}
    note_fact(tmp_path, make_run(), "cpu", fact)
    assert read_facts(tmp_path, make_run(num_samples=4096, seed=5, optimizer={"lr": 0.5}), "cpu") == [fact]
    assert read_facts(tmp_path, make_run(batch_size=16), "cpu") == []
    assert read_facts(tmp_path, make_run(model={"hidden": 8}), "cpu") == []
    assert read_facts(tmp_path, make_run(), "cuda") == []


def test_another_version_of_the_code_asks_again_whether_a_module_stacks(make_run, tmp_path, monkeypatch):
    config = make_run(model={"name": "tests.test_measure:Net"})
    members = [(run_id(config), config)]
    for what in ("alone", "unbuildable"):
        note_fact(tmp_path, config, "cpu", {"what": what, "reason": "no"})
    assert [fact["what"] for fact in read_facts(tmp_path, config, "cpu")] == ["alone", "unbuildable"]
    assert questions(members, read_facts(tmp_path, config, "cpu"), ONE_CPU) == set()
    monkeypatch.setattr("harness.measure.code_sha256", lambda: "another")
    assert read_facts(tmp_path, config, "cpu") == []
    assert questions(members, traced(w24=1e-4), ONE_CPU) == {"stackable"}


def test_a_shape_is_measured_once_and_a_small_one_not_at_all(make_run, tmp_path):
    small = {run_id(config): config for config in [make_run(), make_run(seed=1)]}
    choose_all(small, ONE_CPU, tmp_path)
    assert not (tmp_path / MEASURED).exists()
    large = dict(members_of(make_run))
    (choice,) = choose_all(large, ONE_CPU, tmp_path).values()
    (path,) = (tmp_path / MEASURED).iterdir()
    facts = [json.loads(line) for line in path.read_text().splitlines()]
    assert [fact["width"] for fact in facts] == [1, 12, 24]
    assert choice.width in (12, 24) or choice.compiled
    before = path.read_text()
    choose_all(large, ONE_CPU, tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(("device", "processes"), [("cpu", 3), ("cuda", 1)])
def test_what_is_timed_on_one_gpu_is_timed_by_one_process(make_run, tmp_path, monkeypatch, device, processes):
    asked = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, workers, mp_context):
            asked.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(measure, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(measure, "probe_shape", lambda *arguments: [])
    machine = Machine(device, 3, "auto", None, None, 0.8)
    assert measure.measure([(make_run(), {"traced"})] * 2, machine, tmp_path) == [[], []]
    assert asked == [processes]


def test_what_cannot_be_measured_is_left_to_training(make_run, tmp_path):
    assert probe(make_run(model={"embedding": 10**11}), "cpu", tmp_path, 1e9) == []
