"""Oracle: torch.optim step by step on a plain module, its parameters, gradients and moments kept, and numpy on them;
torch.linalg for spectral norms; closed forms for signs, momentum under noise, and which rows of a table were hit.
"""

import copy
import math

import numpy as np
import pytest
import torch

from harness.autocorrelation import steps_correlated, steps_kept
from harness.checkpoint import checkpoint_key, load_checkpoint, save_checkpoint
from harness.config import run_id
from harness.machine import has_compiler
from harness.parameters import layout_of
from harness.per_tensor import MOST, OF_MATRICES, describe_left_out, measured_tensors, name_columns, spectral_norm
from harness.plan import Plan, Stack, make_plan
from harness.plan_file import name_request, read_plan, to_json
from harness.program import make_program
from harness.records import LAGS, PER_TENSOR, count_measured, write_records
from harness.results import summarise
from harness.tasks import make_task
from harness.train import train
from tests.reference.plain import CPU, plain_module, plain_step

ADAMW = {"name": "adamw", "lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.2}
SIGN = {"name": "signsgd", "lr": 0.01, "weight_decay": 0.1}
MUON = {"name": "muon", "lr": 0.01, "momentum": 0.95, "nesterov": True, "scaling": "original", "beta1": 0.9,
        "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}  # fmt: skip
CONSTANT = {"name": "constant", "warmup": 0.0}
NAMES = ["embedding.weight", "hidden.weight", "hidden.bias", "output.weight", "output.bias"]
ADAPTIVE = ("second_moment_rms", "live_rms", "live_share", "radial")


def stack_of(configs, **how):
    return Stack({run_id(config): config for config in configs}, **how)


def curves(stack, num_evals=2, runs_dir=None, **options):
    options = {"num_examples": 16, "per_tensor": True, **options}
    *_, now = train(make_program(stack, CPU, runs_dir), stack, num_evals=num_evals, **options)
    return {name: np.array(points) for name, points in now.history.items()}, now


def follow(config, lrs, decays):
    """Every step of torch.optim: parameters before it, gradients, second moments after it, each by name."""
    module, task = plain_module(config), make_task(config, CPU)
    named = dict(module.named_parameters())
    groups = [{"params": [named[n]], "lr": lrs[n], "weight_decay": decays[n]} for n in NAMES]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    steps = []
    for t in range(config.num_steps):
        for group, name in zip(optimizer.param_groups, NAMES, strict=True):
            group["lr"] = lrs[name] * (1 - t / config.num_steps)
        before = {name: value.detach().numpy().copy() for name, value in named.items()}
        plain_step(module, optimizer, task.sample(config.seed, t * config.batch_size, config.batch_size))
        grads = {name: value.grad.numpy().copy() for name, value in named.items()}
        moments = {name: optimizer.state[named[name]]["exp_avg_sq"].numpy().copy() for name in NAMES}
        steps.append((before, grads, moments))
    steps.append(({name: value.detach().numpy().copy() for name, value in named.items()}, {}, {}))
    return steps


def rank_one(v, name):
    """By loops over the entries that are not 0."""
    v = v.astype(float)
    left, logs = [], []
    for row in v:
        for j, entry in enumerate(row):
            if entry > 0:
                left.append(math.log(row.sum() * v[:, j].sum() / v.sum() / entry))
                logs.append(math.log(entry))
    share = 1 - np.var(left) / np.var(logs)
    return {f"rank_one_error.{name}": float(np.std(left)), f"rank_one_share.{name}": float(share)}


def expected_columns(steps, t, lrs, decays):
    """The columns of step t, from 1."""
    num_steps, found = len(steps) - 1, {}

    def rms(x):
        return float(np.sqrt(np.mean(np.square(x))))

    def direction(name, t):
        lr = lrs[name] * (1 - (t - 1) / num_steps)
        return -(steps[t][0][name] - steps[t - 1][0][name]) / lr - decays[name] * steps[t - 1][0][name]

    def alike(x, y):
        return float(np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y)))

    for name in NAMES:
        w, g, v = (part[name] for part in steps[t - 1])
        live = v > 0
        found |= {
            f"update_rms.{name}": rms(direction(name, t)), f"weight_rms.{name}": rms(w),
            f"max_weight.{name}": float(np.abs(w).max()),
            f"second_moment_rms.{name}": rms(np.sqrt(v / (1 - 0.95**t))),
            f"live_rms.{name}": rms(w[live]), f"live_share.{name}": float(live.mean()),
            f"zero_grad_share.{name}": float((g == 0).mean()),
            **({} if name.endswith("bias") else rank_one(v, name)),
            f"radial.{name}": alike(g[live] / np.sqrt(v[live]), w[live]) * np.linalg.norm(w[live]) / np.linalg.norm(w),
        }  # fmt: skip
        for lag in LAGS:
            known = t - lag >= 1
            value = alike(direction(name, t), direction(name, t - lag)) if known else math.nan
            found[f"update_autocorrelation_{lag}.{name}"] = value
    return found


def test_columns_are_what_torch_optim_gives_tensor_by_tensor(make_run):
    groups = {"embedding": {"lr": 3.0, "weight_decay": 0.5}, "vector": {"weight_decay": 0.0}}
    configs = [
        make_run(optimizer={**ADAMW, "lr": lr}, groups=groups, seed=seed, precision="float64", num_samples=8 * 36)
        for lr in (0.001, 0.02)
        for seed in (0, 1)
    ]
    seen, _ = curves(stack_of(configs), num_evals=3)
    assert seen["step"].tolist() == [12, 24, 36]
    for lane, config in enumerate(configs):
        lr = config.optimizer["lr"]
        lrs = {name: 3 * lr if name == NAMES[0] else lr for name in NAMES}
        decays = {name: 0.5 if name == NAMES[0] else 0.0 if name.endswith("bias") else 0.1 for name in NAMES}
        steps = follow(config, lrs, decays)
        for point, t in enumerate((12, 24, 36)):
            for name, value in expected_columns(steps, t, lrs, decays).items():
                if t == 24 and name.startswith("update_autocorrelation"):
                    value = math.nan  # closer to 36 than the largest lag
                assert seen[name][point, lane] == pytest.approx(value, rel=1e-7, abs=1e-9, nan_ok=True), (name, t)


@pytest.mark.parametrize("how", ["mapped", "recorded", "compiled"])
def test_measuring_changes_no_bit_and_goes_by_the_parameters_of_every_step(make_run, tmp_path, how):
    if how == "compiled" and not has_compiler():
        pytest.skip("there is no C++ compiler on this machine")
    length = {"mapped": 48, "recorded": 160, "compiled": 48}[how]
    configs = [
        make_run(optimizer={**ADAMW, "lr": lr}, seed=seed, schedule=CONSTANT, num_samples=8 * length)
        for lr in (0.004, 0.02)
        for seed in (0, 1)
    ]
    stack = stack_of(configs, compiled=how == "compiled")
    ends, paths = [], []
    for on in (False, True):
        path, now = [], None
        for now in train(make_program(stack, CPU, tmp_path), stack, num_evals=2, num_examples=16, per_tensor=on):
            path.append(now.params_RN.numpy().astype(float))
        ends.append(now)
        paths.append(path)
    off, on = ends
    assert all(np.array_equal(a, b) for a, b in zip(*paths, strict=True))
    assert all(torch.equal(off.state[name], on.state[name]) for name in off.state)
    layout = make_program(stack, CPU).layout
    columns = name_columns(layout)
    assert set(on.history) - set(off.history) == set(columns)
    assert off.history == {name: points for name, points in on.history.items() if name not in columns}
    edges = np.cumsum([0, *layout.sizes])
    for lane, config in enumerate(configs):
        lr = config.optimizer["lr"]

        def direction(t, i, lane=lane, lr=lr):
            new, old = (paths[1][s - 1][lane, edges[i] : edges[i + 1]] for s in (t, t - 1))
            return -(new - old) / lr - 0.1 * old

        for i, name in enumerate(layout.names):
            now = direction(length, i)
            rms = np.sqrt(np.mean(now**2))
            assert on.history[f"update_rms.{name}"][-1][lane] == pytest.approx(rms, rel=1e-4)
            for lag in LAGS:
                before = direction(length - lag, i)
                alike = now @ before / np.sqrt((now @ now) * (before @ before))
                assert on.history[f"update_autocorrelation_{lag}.{name}"][-1][lane] == pytest.approx(alike, abs=1e-4)


@pytest.mark.parametrize("optimizer", [ADAMW, SGD, MUON], ids=["adamw", "sgd", "muon"])
def test_a_stack_has_what_runs_alone_have(make_run, optimizer):
    configs = [
        make_run(optimizer={**optimizer, "lr": lr}, seed=seed, precision="float64", num_samples=8 * 24)
        for lr in (0.002, 0.01)
        for seed in (0, 1)
    ]
    whole, _ = curves(stack_of(configs), num_evals=1)
    for lane, config in enumerate(configs):
        for how in ({}, {"alone": "of its own"}):
            alone, _ = curves(stack_of([config], **how), num_evals=1)
            assert alone.keys() == whole.keys()
            for name, points in alone.items():
                if points.ndim == 2:
                    np.testing.assert_allclose(points[:, 0], whole[name][:, lane], rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("step", [17, 20, 36, 38])
def test_going_on_from_a_checkpoint_has_the_same_columns(make_run, tmp_path, step):
    configs = [
        make_run(optimizer={**ADAMW, "lr": lr}, num_samples=8 * 40, seed=i) for i, lr in enumerate((0.001, 0.01))
    ]
    stack = stack_of(configs)
    plan = Plan("s", "cpu", 2, 16, None, (stack,), per_tensor=True)
    key = checkpoint_key(plan, stack, CPU)
    assert key != checkpoint_key(Plan("s", "cpu", 2, 16, None, (stack,)), stack, CPU)
    options = {"num_evals": 2, "num_examples": 16, "per_tensor": True}
    for now in train(make_program(stack, CPU), stack, **options):
        if now.step == step:
            held = copy.deepcopy(now)
            save_checkpoint(tmp_path, stack.name, "s", stack, held, key)
    for part in (stack, stack.only(list(stack.runs)[1:])):
        loaded = load_checkpoint(tmp_path, part, key, CPU, print)
        lanes = slice(2 - len(part.runs), None)
        *_, again = train(make_program(part, CPU), part, **options, resume=loaded)
        assert again.history.keys() == now.history.keys()
        for name, points in again.history.items():
            for a, b in zip(points, now.history[name], strict=True):
                assert repr(a) == repr(b[lanes] if isinstance(b, list) else b), name
    assert all(math.isfinite(x) for x in now.history["update_autocorrelation_16.hidden.weight"][-1])


@pytest.mark.parametrize("shape", [(64, 128), (256, 16), (7, 5), (1, 9), (3, 2, 5)])
def test_spectral_norms_are_torchs_from_below(shape):
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64).flatten(1)
        exact = float(torch.linalg.matrix_norm(matrix, 2))
        seen = float(spectral_norm(matrix))
        assert 0.9 * exact < seen <= exact * (1 + 1e-12)
        # 32 steps of power iteration in closed form, by the singular values and vectors
        tall = matrix.numpy() if matrix.shape[0] >= matrix.shape[1] else matrix.numpy().T
        _, values, vectors = np.linalg.svd(tall, full_matrices=False)
        after = (values / values[0]) ** 64 * (vectors @ np.cos(np.arange(1.0, tall.shape[1] + 1) ** 2))
        assert seen == pytest.approx(np.linalg.norm(values * after) / np.linalg.norm(after), rel=1e-9)
        spiked = matrix + 3 * exact * torch.ones(matrix.shape) / matrix.numel() ** 0.5
        seen = float(spectral_norm(spiked.float()))
        assert seen == pytest.approx(float(torch.linalg.matrix_norm(spiked, 2)), rel=1e-5)
    assert float(spectral_norm(torch.zeros(4, 3))) == 0.0
    assert float(spectral_norm(1e-30 * torch.eye(3))) == pytest.approx(1e-30, rel=1e-5)


def test_spectral_norms_of_training_are_those_of_the_parameters_before_the_step(make_run):
    stack = stack_of([make_run(optimizer={"lr": lr}, num_samples=8 * 60) for lr in (0.001, 0.02)])
    program = make_program(stack, CPU)
    for now in train(program, stack, num_evals=1, num_examples=16, per_tensor=True):
        if now.step == 59:
            before_RN = now.params_RN.clone()
    pieces = torch.split(before_RN, program.layout.sizes, dim=1)
    seen = set()
    for name, shape, piece in zip(program.layout.names, program.layout.shapes, pieces, strict=True):
        if len(shape) == 2:
            exact_R = torch.linalg.matrix_norm(piece.reshape(-1, *shape).double(), 2)
            np.testing.assert_allclose(now.history[f"spectral_norm.{name}"][-1], exact_R, rtol=0.04)
            assert (np.array(now.history[f"spectral_norm.{name}"][-1]) <= exact_R.numpy() * (1 + 1e-6)).all()
            seen.add(name)
    assert {name.split(".", 1)[1] for name in now.history if name.startswith("spectral_norm.")} == seen
    assert len(seen) == 3


def test_of_a_sign_the_direction_is_one_wherever_there_is_a_gradient(make_run):
    seen, _ = curves(stack_of([make_run(optimizer=SIGN, precision="float64", num_samples=8 * 20)]), num_evals=2)
    for name in NAMES:
        np.testing.assert_allclose(seen[f"update_rms.{name}"] ** 2, 1 - seen[f"zero_grad_share.{name}"], rtol=1e-9)
        for metric in ADAPTIVE:
            assert np.isnan(seen[f"{metric}.{name}"]).all()
    assert (seen["zero_grad_share.embedding.weight"] > 0.5).all()


def test_rows_that_were_never_hit_are_not_live(make_run):
    config = make_run(optimizer=ADAMW, num_samples=8 * 20)
    task = make_task(config, CPU)
    hit = len(task.sample(0, 0, 8 * 20)[0].unique()) / 256
    now = len(task.sample(0, 8 * 19, 8)[0].unique()) / 256
    seen, _ = curves(stack_of([config]), num_evals=1)
    assert seen["live_share.embedding.weight"][-1, 0] == pytest.approx(hit)
    assert seen["zero_grad_share.embedding.weight"][-1, 0] == pytest.approx(1 - now)
    assert hit < 0.5


def test_muon_has_second_moments_of_all_but_its_matrices(make_run):
    seen, _ = curves(stack_of([make_run(optimizer=MUON, num_samples=8 * 20)]), num_evals=1)
    for name in NAMES:
        matrix = name in ("hidden.weight", "output.weight")
        for metric in ADAPTIVE:
            assert np.isnan(seen[f"{metric}.{name}"][-1, 0]) == matrix, (metric, name)
        assert np.isfinite(seen[f"update_rms.{name}"]).all()


def walk(make_run, optimizer, num_steps=240):
    """Gradients of pure noise."""
    task = {"name": "random_walk", "dimension": 20000, "mean": 0.0, "std": 1.0, "start": 1.0, "num_heldout": 1}
    return make_run(
        task=task, model={"name": "none"}, optimizer=optimizer, schedule=CONSTANT, precision="float64",
        batch_size=1, num_samples=num_steps,
    )  # fmt: skip


def test_moments_of_adax_and_adafactor_are_their_recursions(make_run):
    adax = {"name": "adax", "lr": 0.01, "beta1": 0.9, "beta2": 0.05, "eps": 1e-12, "weight_decay": 0.0}
    adafactor = {"name": "adafactor", "lr": 0.01, "relative_step": False, "beta2_decay": 0.8, "clip": 1.0,
                 "eps1": 1e-30, "eps2": 0.001, "weight_decay": 0.0}  # fmt: skip
    task = {"name": "random_walk", "dimension": 60, "mean": 0.0, "std": 1.0, "start": 1.0, "num_heldout": 1}
    changed = {"task": {**task, "width": 5, "std_after": 3.0, "change_at": 17}, "model": {"name": "none"},
               "schedule": CONSTANT, "precision": "float64", "batch_size": 1, "num_samples": 40}  # fmt: skip
    configs = [make_run(optimizer=optimizer, **changed) for optimizer in (adax, adafactor)]
    g = make_task(configs[0], CPU).sample(0, 0, 40)[0].numpy().reshape(40, 12, 5)
    weights = 1.05 ** np.arange(40)[::-1]
    v = (weights[::-1, None, None] ** -1 * g**2).sum(0)  # (1 + beta2)^-i of step i: older ones weigh more
    v /= (1.05 ** -np.arange(40)).sum()
    adax_rms = np.sqrt(v.mean())
    rows = cols = 0.0
    for t in range(1, 41):
        rate = t**-0.8
        rows, cols = (old + rate * ((g[t - 1] ** 2).mean(axis) - old) for old, axis in ((rows, 1), (cols, 0)))
    factored = np.outer(rows, cols) / rows.mean()
    for config, expected, error in zip(
        configs, (adax_rms, np.sqrt(factored.mean())), (rank_one(v, "w")["rank_one_error.w"], 0.0), strict=True
    ):
        seen, _ = curves(stack_of([config]), num_evals=1)
        assert seen["second_moment_rms.w"][-1, 0] == pytest.approx(expected, rel=1e-9)
        assert seen["rank_one_error.w"][-1, 0] == pytest.approx(error, abs=1e-7)


def test_amos_has_no_second_moments_entry_by_entry(make_run):
    amos = {"name": "amos", "lr": 0.01, "damping": "adaptive", "beta2": 0.9, "momentum": 0.0, "eps": 1e-18,
            "c_coef": 0.25, "d_coef": 0.25, "alignment": 0.1}  # fmt: skip
    seen, _ = curves(stack_of([make_run(optimizer=amos)]), num_evals=1)
    assert np.isnan(seen["second_moment_rms.hidden.weight"]).all()
    assert np.isnan(seen["rank_one_error.hidden.weight"]).all()


def test_under_noise_the_direction_is_correlated_by_momentum_alone_and_pushes_nowhere(make_run):
    seen, _ = curves(stack_of([walk(make_run, SGD), walk(make_run, {**SGD, "momentum": 0.5})]), num_evals=4)
    column = next(name for name in seen if name.startswith("update_autocorrelation_1.")).split(".", 1)[1]
    for lane, momentum in enumerate((0.9, 0.5)):
        for lag in LAGS:
            values = seen[f"update_autocorrelation_{lag}.{column}"][1:, lane]
            np.testing.assert_allclose(values, momentum**lag, atol=4 * 20000**-0.5 * 20**0.5)
    seen, _ = curves(stack_of([walk(make_run, ADAMW)]), num_evals=4)
    assert (np.abs(seen[f"radial.{column}"]) < 4 * 20000**-0.5).all()


def test_what_drowns_in_the_rounding_of_parameters_is_not_told(make_run):
    stack = stack_of([make_run(optimizer={**ADAMW, "lr": lr}, num_samples=8 * 20) for lr in (1e-9, 1e-2)])
    seen, now = curves(stack, num_evals=1)
    assert np.isnan(seen["update_autocorrelation_4.hidden.weight"][-1]).tolist() == [True, False]
    assert seen["update_rms.hidden.weight"][-1, 0] > 0.1  # of the update itself
    row = summarise(now, 0, 1.0)
    assert row["update_autocorrelation_4.hidden.weight"] is None
    assert row["history.update_autocorrelation_4.hidden.weight"] == [None]
    assert row["update_rms.hidden.weight"] == seen["update_rms.hidden.weight"][-1, 0]


def test_however_close_the_points_few_directions_are_kept(make_run):
    assert steps_correlated([5, 10, 20, 30, 36, 40]) == {20, 40}
    assert steps_kept({20, 40}) == {20, 19, 16, 4, 40, 39, 36, 24}
    assert steps_correlated([1]) == set()
    stack = stack_of([make_run(optimizer=ADAMW, num_samples=8 * 40)])
    most = 0
    for now in train(make_program(stack, CPU), stack, num_evals=40, num_examples=16, per_tensor=True):
        most = max(most, len(now.directions))
    assert most <= 3
    told = [not math.isnan(point[0]) for point in now.history["update_autocorrelation_1.hidden.weight"]]
    assert [step for step, known in zip(now.history["step"], told, strict=True) if known] == [8, 24, 40]
    assert np.isfinite(np.array(now.history["update_rms.hidden.weight"])).all()


def test_a_stop_at_the_target_keeps_the_columns(make_run):
    goal = {"protocol": "steps_to_target", "target_loss": 3.0, "target_examples": 16, "max_steps": 400,
            "eval_every": 40, "num_samples": None, "schedule": CONSTANT}  # fmt: skip
    stack = stack_of([make_run(**goal, optimizer={"lr": lr}) for lr in (0.003, 0.01)])
    seen, now = curves(stack)
    assert {len(points) for points in seen.values()} == {len(seen["step"])}
    assert set(name_columns(make_program(stack, CPU).layout)) <= set(summarise(now, 0, 2.9))


def test_columns_are_of_tensors_of_several_entries_and_of_the_largest():
    tensors = {f"block.{i}": torch.zeros(2 + i % 3, 1 + i) for i in range(100)}
    layout = layout_of({"gate": torch.zeros(()), "scale": torch.zeros(1), **tensors, "bias": torch.zeros(5000)})
    columns = name_columns(layout)
    assert len(measured_tensors(layout)) == MOST
    assert "weight_rms.bias" in columns
    assert "spectral_norm.bias" not in columns
    assert not any(name.endswith((".gate", ".scale", "block.0")) for name in columns)
    assert len(columns) == MOST * len(PER_TENSOR) - len(OF_MATRICES)
    assert "64" in describe_left_out(layout)
    few = layout_of({"gate": torch.zeros(()), "weight": torch.zeros(3, 2)})
    assert name_columns(few) == [f"{metric}.weight" for metric in PER_TENSOR]
    assert describe_left_out(few) is None


def test_a_plan_keeps_the_option_and_a_run_does_not_know_it(make_run, tmp_path):
    runs = {run_id(config): config for config in [make_run()]}
    plans, names = [], []
    for option in ({}, {"per_tensor": True}):
        options = {"device": "cpu", "width": None, "metrics": {"num_evals": 2, "num_examples": 16, **option}}
        plans.append(make_plan("s", runs, **options))
        names.append(name_request("s", runs, since=None, **options))
        path = tmp_path / f"plan-{names[-1]}-0.json"
        path.write_text(to_json(plans[-1]))
        assert read_plan(path) == plans[-1]
    assert [plan.per_tensor for plan in plans] == [False, True]
    assert not any(plan.noise_scale or plan.save_weights for plan in plans)
    assert names[0] != names[1]


def test_runs_that_lack_the_columns_are_counted_whatever_their_models(tmp_path):
    rows = {
        "a": {"run_id": "one", "history.weight_rms.hidden.weight": [0.5]},
        "b": {"run_id": "two", "history.weight_rms.layers.0.weight": [0.5]},
        "c": {"run_id": "three", "history.weight_rms": [0.5]},
    }
    for stack, row in rows.items():
        metrics = [name.removeprefix("history.") for name in row if name != "run_id"]
        write_records(tmp_path, stack, [row], columns={}, metrics=metrics)
    assert count_measured(tmp_path, ["one", "two", "three"], "per_tensor") == 2
    assert count_measured(tmp_path, ["two", "three"], "per_tensor") == 1
    assert count_measured(tmp_path, ["one"], "noise_scale") == 0
    assert count_measured(tmp_path / "none", ["one"], "per_tensor") == 0
