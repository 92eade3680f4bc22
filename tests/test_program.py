"""Oracle: torch.optim with param_groups, torch's clip_grad_norm_ and autocast on a plain module, and the step that is
neither recorded nor compiled.
"""

import dataclasses
from unittest import mock

import pytest
import torch
from torch.func import grad
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from harness.config import run_id
from harness.machine import has_compiler
from harness.parameters import flatten_params
from harness.plan import Stack, lanes_at_once, make_plan, name_program, shape_of
from harness.program import gradient, make_program
from harness.recording import COMPILED, add_rows, may_pass, name_of, record, replayed, trace, writing
from harness.train import evaluate, stack_hyperparameters, start, train
from tests.reference.plain import CPU, plain_module, plain_step
from tests.test_gpt import SMALL

ADAMW = {"name": "adamw", "lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
MUON = {"name": "muon", "momentum": 0.95, "nesterov": True, "scaling": "match_rms_adamw", "beta1": 0.9, "beta2": 0.95,
        "eps": 1e-8, "weight_decay": 0.1}  # fmt: skip
aten = torch.ops.aten
CONSTANT = {"schedule": {"name": "constant", "warmup": 0.0}, "num_samples": 160, "precision": "float64"}


def make_stack(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def last(stack, runs_dir=None, **options):
    *_, progress = train(make_program(stack, CPU, runs_dir, **options), stack, num_evals=2, num_examples=16)
    return progress


def test_groups_have_their_own_learning_rate_and_decay(make_run):
    groups = {"embedding": {"lr": 3.0, "weight_decay": 0.5}, "vector": {"weight_decay": 0.0}}
    config = make_run(optimizer=ADAMW, groups=groups, **CONSTANT)
    other = make_run(optimizer=ADAMW, groups={**groups, "embedding": {"lr": 1.0, "weight_decay": 0.2}}, **CONSTANT)
    progress = last(make_stack([other, config]))
    module = plain_module(config)
    named = dict(module.named_parameters())
    kinds = [("embedding.weight",), ("hidden.bias", "output.bias"), ("hidden.weight", "output.weight")]
    numbers = [(0.03, 0.5), (0.01, 0.0), (0.01, 0.1)]
    optimizer = torch.optim.AdamW(
        [
            {"params": [named[name] for name in names], "lr": lr, "weight_decay": decay}
            for names, (lr, decay) in zip(kinds, numbers, strict=True)
        ],
        betas=(0.9, 0.95),
    )
    task = make_program(make_stack([config]), CPU).task
    for t in range(20):
        plain_step(module, optimizer, task.sample(0, 8 * t, 8))
    torch.testing.assert_close(progress.params_RN[1], flatten_params(named).detach(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("how", ["mapped", "recorded", "compiled"])
def test_muon_in_a_stack_is_torchs_muon_alone(make_run, tmp_path, how):
    if how == "compiled" and not has_compiler():
        pytest.skip("there is no C++ compiler on this machine")
    steps = {"mapped": 20, "recorded": 160, "compiled": 20}[how]
    constant = {"schedule": {"name": "constant", "warmup": 0.0}, "precision": "float64", "num_samples": 8 * steps}
    groups = {"embedding": {"lr": 0.5}, "vector": {"weight_decay": 0.0}}
    configs = [make_run(optimizer={**MUON, "lr": lr}, groups=groups, **constant) for lr in (0.001, 0.01, 0.1)]
    stack = make_stack(configs, compiled=how == "compiled")
    program = make_program(stack, CPU, tmp_path)
    states = train(program, stack, num_evals=1, num_examples=16)
    now = next(now for now in states if now.step == 19)  # the last of them is measured, not compiled
    for lane, config in enumerate(configs):
        module, lr = plain_module(config), config.optimizer["lr"]
        named = dict(module.named_parameters())
        muon = torch.optim.Muon(
            [named["hidden.weight"], named["output.weight"]],
            lr=lr, momentum=0.95, weight_decay=0.1, adjust_lr_fn="match_rms_adamw",
        )  # fmt: skip
        rest = [
            {"params": [named["embedding.weight"]], "lr": lr / 2, "weight_decay": 0.1},
            {"params": [named["hidden.bias"], named["output.bias"]], "lr": lr, "weight_decay": 0.0},
        ]
        adamw = torch.optim.AdamW(rest, betas=(0.9, 0.95))
        for t in range(19):
            muon.zero_grad()
            plain_step(module, adamw, program.task.sample(0, 8 * t, 8))
            with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):  # its rounding
                muon.step()
        torch.testing.assert_close(now.params_RN[lane], flatten_params(named).detach(), rtol=0, atol=1e-11)


def test_muons_step_in_float32_is_that_in_float64(make_run):
    programs = {}
    for precision in ("float32", "float64"):
        configs = [make_run(optimizer={**MUON, "lr": lr}, precision=precision) for lr in (0.001, 0.01, 0.1)]
        programs[precision] = make_program(make_stack(configs), CPU), make_stack(configs)
    program, stack = programs["float32"]
    checked = []
    for now in train(program, stack, num_evals=1, num_examples=16):
        if now.step % 40 == 0:
            held = (now.params_RN, now.state, now.diverged_at_R, now.loss_sum_R)
            at = {"step": torch.tensor(now.step + 1.0), "lr": torch.ones(3)}
            arguments = (*held, stack_hyperparameters(stack, now.params_RN), at)
            exact = tree_map(lambda x: x.double() if x.is_floating_point() else x, arguments)
            batch = program.task.sample(0, 8 * now.step, 8)
            seen, expected = program.step(*arguments, batch), programs["float64"][0].step(*exact, batch)
            scale = max(1.0, float(expected[0].abs().max()))
            torch.testing.assert_close(seen[0].double(), expected[0], rtol=0, atol=1e-6 * scale)
            checked.append(now.step)
    assert checked == [40, 80, 120]


def test_clipping_is_torchs(make_run):
    sgd = {"name": "sgd", "lr": 0.5, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    limits = (0.1, 1.0, 100.0)
    configs = [make_run(optimizer=sgd, max_norm=limit, **CONSTANT) for limit in limits]
    progress = last(make_stack(configs))
    task = make_program(make_stack(configs), CPU).task
    for lane, config in enumerate(configs):
        module = plain_module(config)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
        for t in range(20):
            symbols, following = task.sample(0, 8 * t, 8)
            optimizer.zero_grad()
            F.cross_entropy(module(symbols), following).backward()
            torch.nn.utils.clip_grad_norm_(module.parameters(), limits[lane])
            optimizer.step()
        expected = flatten_params(dict(module.named_parameters())).detach()
        torch.testing.assert_close(progress.params_RN[lane], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("micro_batch", [1, 3, 8, 20])
def test_a_gradient_in_pieces_is_the_gradient(make_run, micro_batch):
    config = make_run(precision="float64")
    program = make_program(make_stack([config]), CPU)
    params = program.task.init(0)
    batch = program.task.sample(0, 0, 8)
    pieces, loss = gradient(program.task.loss, params, batch, micro_batch)
    whole = grad(program.task.loss)(params, batch)
    assert abs(float(loss - program.task.loss(params, batch))) < 1e-13
    for name in params:
        torch.testing.assert_close(pieces[name], whole[name], rtol=0, atol=1e-14)


def test_training_in_pieces_is_training(make_run):
    configs = [make_run(optimizer={"lr": lr}, **CONSTANT) for lr in (0.001, 0.01)]
    whole, pieces = last(make_stack(configs)), last(make_stack(configs, micro_batch=3))
    torch.testing.assert_close(whole.params_RN, pieces.params_RN, rtol=0, atol=1e-10)
    assert not torch.equal(whole.params_RN, pieces.params_RN)  # it was another order of summation


def test_bfloat16_multiplies_in_bfloat16_and_keeps_the_rest(make_run):
    config = make_run(precision="bfloat16", num_samples=64)
    program = make_program(make_stack([config, make_run(precision="bfloat16", num_samples=64, seed=1)]), CPU)
    params = program.task.init(0)
    assert {tensor.dtype for tensor in params.values()} == {torch.float32}
    batch = program.task.heldout(16)
    module = plain_module(dataclasses.replace(config, precision="float32"), params)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = F.cross_entropy(module(batch[0]).float(), batch[1])
    stacked = program.evaluate(torch.stack([flatten_params(params)] * 2), batch)
    assert stacked.dtype == torch.float32
    assert float((stacked - expected).abs().max()) < 1e-3
    with torch.no_grad():
        exact = F.cross_entropy(module(batch[0]), batch[1])
    assert float((stacked - exact).abs().max()) > 1e-6  # it did round


def test_a_recorded_function_gives_the_same_bits():
    def function(x, y):
        return [torch.vmap(grad(lambda a, b: torch.tanh(a * b).sum()))(x, y), x @ y.T]

    x, y = torch.randn(3, 5), torch.randn(3, 5)
    recorded = record(function)
    for scale in (1.0, 2.0):
        for seen, expected in zip(recorded(scale * x, y), function(scale * x, y), strict=True):
            assert torch.equal(seen, expected)
    assert recorded(x[:2], y[:2])[1].shape == (2, 2)  # another shape is recorded anew


def test_what_a_replayed_function_gives_can_be_kept_and_given_back():
    def function(x, y):
        return [x - 0.1 * torch.tanh(x * y), y]

    given = torch.randn(3, 5), torch.randn(3, 5)
    replay = replayed(trace(function, given), given)
    first = replay(*given)
    kept = [tensor.clone() for tensor in first]
    second = replay(*first)
    for seen, expected in zip(second, function(*function(*given)), strict=True):
        torch.testing.assert_close(seen, expected)
    assert all(torch.equal(seen, expected) for seen, expected in zip(first, kept, strict=True))


def test_what_is_written_in_place_is_read_first():
    def function(x, y, z, t):
        return [x + 1, x, y[0].expand(3, 3), x.T]  # an optimizer's previous parameters, and views of arguments

    def given():
        return tuple(torch.arange(9.0).view(3, 3) * factor for factor in (1, 2, 3, 4))

    changed = given()
    writing(trace(function, given()))(*changed)
    traced = trace(writing(trace(function, given())), given())
    again = given()
    traced(*again)
    for seen, other, expected in zip(changed, again, function(*given()), strict=True):
        assert torch.equal(seen, expected)
        assert torch.equal(other, expected)


def test_operations_are_named_by_what_they_do_and_their_constants():
    def graph_of(function):
        return trace(function, (torch.ones(4),))

    one, two = torch.tensor([1.0]), torch.tensor([2.0])
    functions = [lambda x: [x + one], lambda x: [x + two], lambda x: [x * one], lambda x: [x + one]]
    names = [name_of(graph_of(function), (torch.ones(4),)) for function in functions]
    assert len(set(names)) == 3
    assert names[0] == names[3]
    assert names[0] != name_of(graph_of(functions[0]), (torch.ones(5),))


def test_machine_code_is_named_by_all_that_it_depends_on(make_run):
    stacks = [
        make_stack([make_run()]), make_stack([make_run(), make_run(seed=1)]),
        make_stack([make_run(), make_run(optimizer={"lr": 0.1})]), make_stack([make_run()], micro_batch=4),
        make_stack([make_run(batch_size=16)]), make_stack([make_run(model={"hidden": 8})]),
        make_stack([make_run(max_norm=1.0)]), make_stack([make_run(precision="float64")]),
        make_stack([make_run(optimizer=ADAMW)]),
        make_stack([make_run(optimizer=ADAMW, schedule={"weight_decay": "linear"})]),
    ]  # fmt: skip
    names = [name_program(stack) for stack in stacks]
    assert len(set(names)) == len(names)
    assert names[0] == name_program(make_stack([make_run(num_samples=4096, seed=7, optimizer={"lr": 0.5})]))


@pytest.mark.parametrize("shape", [(5, 7), (9,)])
def test_the_gradient_of_an_embedding_has_torchs_bits(shape):
    indices, grad = torch.randint(6, shape), torch.randn(*shape, 4)
    arguments = (6, -1, False)
    assert torch.equal(add_rows(grad, indices, *arguments), aten.embedding_dense_backward(grad, indices, *arguments))
    assert add_rows(grad, indices, 6, 0, False) is NotImplemented  # torch's own is recorded
    transposed = torch.randint(6, shape[::-1]).permute(*reversed(range(len(shape))))

    def backward(grad, indices):
        return [aten.embedding_dense_backward(grad, indices, *arguments)]

    seen = trace(backward, (grad, indices))(grad, transposed)[0]  # recorded with other strides
    assert torch.equal(seen, backward(grad, transposed)[0])


@pytest.mark.parametrize("lanes", [4, 2], ids=["all lanes at once", "two at a time"])
def test_where_machine_code_cannot_be_kept_steps_are_recorded_and_it_is_told(make_run, tmp_path, monkeypatch, lanes):
    monkeypatch.setattr("harness.lanes.lanes_at_once", lambda stack: lanes)
    (tmp_path / COMPILED).write_text("not a folder")
    configs = [make_run(num_samples=8 * 150, optimizer={"lr": 0.001 * (i + 1)}) for i in range(4)]
    told = []
    seen = last(make_stack(configs, compiled=True), tmp_path, note=told.append)
    assert {fact["what"] for fact in told} == {"unbuilt"}
    assert "FileExistsError" in told[0]["reason"]
    assert torch.equal(seen.params_RN, last(make_stack(configs)).params_RN)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (OSError(28, "No space left on device"), True),
        (RuntimeError("OSError: [Errno 28] No space left on device"), True),
        (RuntimeError("g++: fatal error: Killed signal terminated program cc1plus"), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("CppCompileError: error: expected ';'"), False),
        (NotImplementedError("no lowering for aten.x"), False),
    ],
)
def test_a_build_that_failed_by_a_full_disk_or_want_of_memory_may_pass(error, passes):
    assert may_pass(error) is passes


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler on this machine")
def test_compiled_steps_agree_and_are_built_once(make_run, tmp_path):
    configs = [make_run(num_samples=80, precision="float64", optimizer={"lr": lr}) for lr in (0.001, 0.01)]
    built = []
    plain = last(make_stack(configs))
    first = last(make_stack(configs, compiled=True), tmp_path, note=built.append)
    again = last(make_stack(configs, compiled=True), tmp_path, note=built.append)
    assert len(built) == 1
    assert list((tmp_path / COMPILED).glob("*.pt2"))
    torch.testing.assert_close(first.params_RN, plain.params_RN, rtol=0, atol=1e-11)
    assert torch.equal(first.params_RN, again.params_RN)
    assert first.history["step"] == plain.history["step"]


@pytest.mark.skipif(not has_compiler(), reason="there is no C++ compiler on this machine")
@pytest.mark.parametrize("seeds", [(0, 0, 0, 0), (0, 0, 1, 1)], ids=["one batch for all", "a batch each"])
def test_a_few_lanes_at_a_time_have_the_bits_of_all_at_once(make_run, tmp_path, monkeypatch, seeds):
    configs = [make_run(num_samples=80, seed=s, optimizer={"lr": 0.001 * (i + 1)}) for i, s in enumerate(seeds)]
    stack = make_stack(configs, compiled=True)
    seen = []
    for lanes in (4, 2):
        monkeypatch.setattr("harness.lanes.lanes_at_once", lambda stack, lanes=lanes: lanes)
        seen.append(last(stack, tmp_path / str(lanes)))
    assert torch.equal(seen[0].params_RN, seen[1].params_RN)
    assert all(torch.equal(seen[0].state[name], seen[1].state[name]) for name in seen[0].state)
    assert seen[0].history == seen[1].history
    plain = last(make_stack(configs))
    torch.testing.assert_close(seen[1].params_RN, plain.params_RN, rtol=0, atol=1e-4)


def test_long_windows_are_evaluated_few_at_a_time(make_run):
    stack = make_stack([make_run(model=SMALL, task={"context": 2048, "num_heldout": 10}, batch_size=1)])
    program = make_program(stack, CPU)
    heldout = program.task.heldout(10)
    sizes = []
    noting = dataclasses.replace(
        program, evaluate=lambda p, batch: sizes.append(len(batch[0])) or program.evaluate(p, batch)
    )
    now = start(program, stack)
    loss_R = evaluate(noting, now, heldout)
    assert sizes == [4, 4, 2]
    module = plain_module(stack.first)
    with torch.no_grad():
        expected = F.cross_entropy(module(heldout[0]).flatten(0, 1), heldout[1].flatten())
    assert float(loss_R) == pytest.approx(float(expected), rel=1e-6)


def test_lanes_at_a_time_are_equal_parts_of_a_stack(make_run):
    def lanes(width, batch_size, micro_batch=None, **changed):
        config = make_run(batch_size=batch_size, num_samples=8192, **changed)
        return lanes_at_once(Stack({str(i): config for i in range(width)}, micro_batch=micro_batch))

    assert [lanes(12, size) for size in (8, 128, 256, 512, 1024, 4096)] == [12, 12, 6, 4, 2, 2]
    assert [lanes(width, 512) for width in (1, 2, 5, 6, 9, 11)] == [1, 2, 5, 3, 3, 11]
    assert lanes(12, 1024, micro_batch=256) == 6
    every = {"model": SMALL, "task": {"context": 32}}  # the positions of a window count
    assert [lanes(12, size, **every) for size in (1, 8, 16, 64)] == [12, 4, 2, 2]


def test_numbers_do_not_shape_the_program_but_their_presence_does(make_run):
    configs = [
        make_run(max_norm=1.0), make_run(max_norm=2.0), make_run(), make_run(groups={"vector": {"lr": 2.0}}),
        make_run(groups={"vector": {"lr": 3.0}}), make_run(groups={"vector": {"lr": None}}),
    ]  # fmt: skip
    shapes = [shape_of(config) for config in configs]
    assert [shapes.index(shape) for shape in shapes] == [0, 0, 2, 3, 3, 2]
    assert len({run_id(config) for config in configs}) == 5
    runs = {run_id(config): config for config in configs}
    plan = make_plan("s", runs, device="cpu", width=None, metrics={"num_evals": 1, "num_examples": 1})
    assert sorted(len(stack.runs) for stack in plan.stacks) == [1, 2, 2]


def test_decay_that_no_optimizer_applies_is_told(make_run):
    with pytest.raises(ValueError, match="groups.vector.weight_decay=0.1 has no effect on optimizer=adam"):
        make_run(groups={"vector": {"weight_decay": 0.1}})
