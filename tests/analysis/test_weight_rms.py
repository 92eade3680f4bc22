"""Oracle: closed forms, and weights walking step by step under optimizers written apart (tests/reference/walks.py)."""

import inspect
import itertools

import numpy as np
import pytest

from analysis.laws import (
    amos,
    embedding,
    embedding_tiger,
    epsilon,
    long_run,
    memory,
    read_section,
    second_moment,
    sign_factors,
    timescale,
    update_rms,
    weight_rms,
    weight_rms_mean_field,
    weight_rms_paths,
)
from harness.noise_scale import rms_square_of_noise
from tests.reference.walks import (
    N,
    adam_directions,
    gradients,
    lion_directions,
    muon_directions,
    rms,
    signum_directions,
    walk,
)

MODULES = (
    amos, embedding, embedding_tiger,
    epsilon, long_run, memory, second_moment, sign_factors, timescale, update_rms, weight_rms,
    weight_rms_mean_field, weight_rms_paths,
)  # fmt: skip
HELPERS = {"halve", "lags_of", "solve_cycle", "start_crossover", "start_ratio"}
FUNCTIONS = [
    function
    for module in MODULES
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and name not in HELPERS
]
LR, DECAY, STEPS = 0.01, 0.5, 2000
FLAT = np.full(STEPS, LR), np.full(STEPS, DECAY)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f"{f.__module__.rsplit('.', 1)[-1]}.{f.__name__}")
def test_law_is_documented(function):
    assert min(len(read_section(function, title)) for title in ("Source", "Valid when")) > 10
    assert all(f"    {title}" in function.__doc__ for title in ("Args", "Returns:"))
    assert "\n        " in function.__doc__  # the equation


# --- the RMS of an update


@pytest.mark.parametrize(
    ("beta1", "beta2", "expected"),
    [(0.9, 0.9, 0.2257), (0.9, 0.95, 0.2262), (0.9, 0.99, 0.2275), (0.9, 0.999, 0.2298), (0.5, 0.95, 0.5650)],
)
def test_update_rms_of_noise(beta1, beta2, expected):
    exact = update_rms.update_rms_noise(beta1, beta2)
    assert exact == pytest.approx(expected, rel=5e-3)  # sampled, quoted in the theory
    assert exact**2 == pytest.approx(rms_square_of_noise(beta1, beta2, 10**9), rel=1e-9)  # the harness's own copy
    steps = 12
    u = next(itertools.islice(adam_directions(beta1, beta2, gradients(0.0, 1, 400_000)), steps - 1, None))
    assert update_rms.update_rms_noise(beta1, beta2, steps) == pytest.approx(rms(u), rel=5e-3)


@pytest.mark.parametrize("signal", [0.1, 1.0, 10.0])
def test_update_rms_with_a_signal(signal):
    u = next(itertools.islice(adam_directions(0.9, 0.999, gradients(np.sqrt(signal), 2)), STEPS, None))
    law = float(update_rms.update_rms(signal, 0.9))
    assert law == pytest.approx(rms(u), rel=0.02)
    batch_size = 64.0
    noise_scale = update_rms.noise_scale_of_update_rms(batch_size, law, 0.9)
    assert update_rms.signal_ratio(batch_size, noise_scale) == pytest.approx(signal)
    assert np.isnan(update_rms.noise_scale_of_update_rms(batch_size, 0.23, 0.9))


def test_update_rms_limits():
    assert update_rms.update_rms(0.0, 0.9) == pytest.approx(0.2294, abs=1e-4)
    assert update_rms.update_rms_noise(0.9, 0.9999) == pytest.approx(np.sqrt(0.1 / 1.9), rel=1e-3)
    assert update_rms.update_rms_noise(0.9, 0.95, 1) == pytest.approx(update_rms.SIGN_RMS, rel=1e-5)


@pytest.mark.parametrize(("beta2", "steps"), [(0.9, 31), (0.9, 36), (0.97, 32), (0.97, 60)])
def test_update_rms_when_the_noise_rises(beta2, steps):
    t, before = np.arange(1, steps + 1), 30
    std = np.where(t > before, 10.0, 1.0)
    grads = (size * g for size, g in zip(std, gradients(0.0, 3, 200_000), strict=False))
    u = list(adam_directions(0.0, beta2, grads))[-1]
    weights = second_moment.second_moment_weights(second_moment.beta2_adam(t, beta2))
    assert update_rms.update_rms_changing(weights, std) == pytest.approx(rms(u), rel=0.01)
    still = update_rms.update_rms_changing(weights, np.full(steps, 3.0))
    assert still == pytest.approx(update_rms.update_rms_noise(0.0, beta2, steps), rel=1e-4)


# --- long-run factors


def test_factors_have_their_closed_forms():
    lags = sign_factors.lags_of(0.9)
    assert long_run.long_run_factor(long_run.average_autocorrelation(0.9, lags)) == pytest.approx(19)
    assert sign_factors.signum_factor(0.9) == pytest.approx(13.28, abs=0.005)
    assert sign_factors.signum_factor(0.999) == pytest.approx(float(sign_factors.signum_factor_ln2(0.999)), rel=1e-3)
    assert sign_factors.signum_factor_ln2(0.9) == pytest.approx(13.17, abs=0.005)
    assert sign_factors.signum_factor(0.0) == pytest.approx(1)
    assert sign_factors.signum_factor_article(0.9) == pytest.approx(19)
    assert sign_factors.lion_factor(0.9, 0.99) == pytest.approx(45.9, abs=0.05)
    assert sign_factors.lion_factor(0.95, 0.98) == pytest.approx(58.1, abs=0.05)
    assert sign_factors.lion_factor(0.9, 0.9) == pytest.approx(sign_factors.signum_factor(0.9))  # the same recursion
    # As if signs were linear: 22 to 24 % too large an RMS; with Sheppard's slope at 0, within 3 %
    for betas in ((0.9, 0.99), (0.95, 0.98)):
        exact, linear = sign_factors.lion_factor(*betas), sign_factors.lion_factor_linear(*betas)
        assert 1.21 < np.sqrt(linear / exact) < 1.25
        assert 0.97 < np.sqrt(sign_factors.lion_factor_slope(*betas) / exact) < 1


@pytest.mark.parametrize("kind", ["signum", "lion"])
def test_autocorrelations_of_signs_are_the_measured_ones(kind):
    grads = gradients(0.0, 3, 1000)
    directions, law = (
        (signum_directions(0.9, grads), long_run.signum_autocorrelation(0.9, 30))
        if kind == "signum"
        else (lion_directions(0.9, 0.99, grads), long_run.lion_autocorrelation(0.9, 0.99, 30))
    )
    path = np.array(list(itertools.islice(directions, 500, 1500)))
    assert np.allclose(long_run.measure_autocorrelation(path, 30), law, atol=0.012)


@pytest.mark.parametrize("shape", sign_factors.MUON_SHARES)
def test_factor_of_muon(shape):
    rows, columns, beta = shape
    path = np.array(list(itertools.islice(muon_directions(beta, rows, columns, 4), 3000)))[100:]
    assert (path**2).mean() == pytest.approx(sign_factors.muon_update_square(rows, columns))
    factor = long_run.long_run_factor(long_run.measure_autocorrelation(path, int(5 / (1 - beta))))
    assert factor * (1 - beta) / (1 + beta) == pytest.approx(sign_factors.MUON_SHARES[shape], abs=0.05)
    assert sign_factors.muon_update_square(rows, columns, scaled=True) == pytest.approx(0.2**2)


# --- weights at a constant learning rate


@pytest.mark.parametrize(("beta1", "beta2"), [(0.0, 0.95), (0.5, 0.95), (0.9, 0.95), (0.9, 0.999)])
def test_weights_of_noise_do_not_depend_on_the_betas(beta1, beta2):
    reached = rms(walk(adam_directions(beta1, beta2, gradients(0.0, 5)), *FLAT))
    assert reached / weight_rms.weight_rms(LR, DECAY) == pytest.approx(0.98, abs=0.035)
    if beta1 == 0.9:
        assert weight_rms.weight_rms_quick(LR, DECAY, beta1) / reached == pytest.approx(0.23, abs=0.01)


def test_signum_and_lion_weights():
    lr, decay = 0.001, 1.0
    path = np.full(6000, lr), np.full(6000, decay)
    reached = rms(walk(signum_directions(0.9, gradients(0.0, 6, 2000)), *path))
    exact, article = (
        float(weight_rms.weight_rms(lr, decay, update_square=factor))
        for factor in (sign_factors.signum_factor(0.9, lr * decay), sign_factors.signum_factor_article(0.9))
    )
    assert reached == pytest.approx(exact, rel=0.04)
    assert article / reached == pytest.approx(1.21, abs=0.05)
    reached = rms(walk(lion_directions(0.9, 0.99, gradients(0.0, 7, 2000)), *path))
    assert reached == pytest.approx(
        float(weight_rms.weight_rms(lr, decay, update_square=sign_factors.lion_factor(0.9, 0.99, lr * decay))), rel=0.04
    )


@pytest.mark.parametrize(("mean", "steps"), [(0.03, 2000), (0.3, 200), (1.0, 500)])
def test_weights_with_a_signal(mean, steps):
    start = 0.2
    weights = np.random.default_rng(8).normal(size=N) * start
    reached = rms(walk(adam_directions(0.9, 0.999, gradients(mean, 9)), FLAT[0][:steps], FLAT[1][:steps], weights))
    law = weight_rms.weight_rms_static(LR, DECAY, steps, signal=mean**2, start=start)
    assert law == pytest.approx(reached, rel=0.05)


def test_limits_of_the_static_law():
    static = weight_rms.weight_rms_static
    s = np.array([0.0, 1e-3, 0.1, 10.0])
    many = np.sqrt((s + LR * DECAY / 2) / (DECAY**2 * (s + 1)))
    assert static(LR, DECAY, np.inf, signal=s) == pytest.approx(many)
    assert weight_rms.weight_rms_signal(LR, DECAY, s) == pytest.approx(many)
    assert static(LR, 0.0, 400, start=2.0) == pytest.approx(np.sqrt(4 + LR**2 * 400))
    assert static(LR, 1e-9, 400, start=2.0, signal=0.3) == pytest.approx(static(LR, 0.0, 400, start=2.0, signal=0.3))
    assert static(LR, DECAY, np.inf, noise_ratio=0.1 / 1.9) == pytest.approx(
        weight_rms.weight_rms(LR, DECAY, update_square=19)
    )
    noise_scale = 1000.0
    s = weight_rms.batch_size_of_signal(LR, DECAY, noise_scale) / noise_scale
    ratio = weight_rms.weight_rms_signal(LR, DECAY, s) / weight_rms.weight_rms(LR, DECAY)
    assert ratio == pytest.approx(np.sqrt(2), rel=2e-3)


def test_rotation_is_the_angle_of_a_step():
    directions = adam_directions(0.9, 0.99, gradients(0.0, 10))
    weights = walk(directions, *FLAT)
    turned = walk(directions, [LR], [DECAY], weights)
    angle = np.arccos(weights @ turned / np.linalg.norm(weights) / np.linalg.norm(turned))
    assert angle == pytest.approx(float(weight_rms.rotation(LR, DECAY, 0.9)), rel=0.05)


# --- weights under schedules

AT = np.arange(STEPS) / STEPS
SHAPES = {"constant": np.ones(STEPS), "linear": 1 - AT, "cosine": (1 + np.cos(np.pi * AT)) / 2,
          "wsd": np.minimum(1, (1 - AT) / 0.2)}  # fmt: skip


@pytest.mark.parametrize("kappa", [0.5, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_under_a_schedule(shape, kappa):
    lr = LR * SHAPES[shape]
    decay = np.full(STEPS, kappa / lr.sum())
    weights = np.random.default_rng(11).normal(size=N) * 0.1
    reached = rms(walk(adam_directions(0.9, 0.99, gradients(0.0, 12)), lr, decay, weights))
    assert weight_rms_paths.weight_rms_path(lr, decay, start=0.1)[-1] == pytest.approx(reached, rel=0.04)
    assert weight_rms_paths.weight_rms_sum(lr, decay, start=0.1) == pytest.approx(reached, rel=0.04)


def test_path_is_that_of_signs_at_every_step_with_their_autocorrelation():
    """Few steps and a schedule of both: nothing is slow, nothing has settled."""
    steps = 60
    lr, decay = LR * np.linspace(1, 0.1, steps), np.linspace(0.2, 3, steps)
    start = np.random.default_rng(13).normal(size=60_000) * 0.05
    directions = signum_directions(0.8, gradients(0.0, 14, len(start)))
    for _ in range(60):
        next(directions)  # m has no memory of its start
    path = weight_rms_paths.weight_rms_path_correlated(
        lr, decay, long_run.signum_autocorrelation(0.8, steps), start=0.05
    )
    w = start
    for t in range(steps):
        w = walk(directions, lr[t : t + 1], decay[t : t + 1], w)
        assert path[t + 1] == pytest.approx(rms(w), rel=0.01)
    white = weight_rms_paths.weight_rms_path_correlated(lr, decay, [1.0], start=0.05, update_square=0.3)
    assert white == pytest.approx(weight_rms_paths.weight_rms_path(lr, decay, start=0.05, noise_square=0.3))


def test_path_meets_the_static_law_and_its_limit():
    lr, decay = np.full(STEPS, 1e-3), 0.5
    path = weight_rms_paths.weight_rms_path(lr, decay, start=0.3, signal=0.02)
    static = weight_rms.weight_rms_static(1e-3, decay, np.arange(STEPS + 1), start=0.3, signal=0.02)
    assert path == pytest.approx(static, rel=1e-3)
    assert weight_rms_paths.weight_rms_sum(lr, decay, start=0.3, signal=0.02) == pytest.approx(path[-1], rel=1e-3)
    long = weight_rms_paths.weight_rms_path(np.full(20_000, 1e-2), decay, start=0.0)
    assert long[-1] == pytest.approx(np.sqrt(0.01 / (2 * 0.5 - 0.01 * 0.5**2)))  # exact: no small lr weight_decay


@pytest.mark.parametrize(
    ("kappa", "low", "high"), [(0.5, 0.03, 0.07), (1.0, 0.10, 0.15), (3.0, 0.32, 0.42), (10.0, 0.8, 0.95)]
)
def test_mean_field_breaks_where_lr_ends_at_0(kappa, low, high):
    steps = 100_000
    at = np.arange(steps) / steps
    for shape, sums in (
        (1 - at, weight_rms_mean_field.linear_sums),
        ((1 + np.cos(np.pi * at)) / 2, weight_rms_mean_field.cosine_sums),
    ):
        decay = kappa / (1e-4 * shape.sum())
        exact = weight_rms_paths.weight_rms_sum(1e-4 * shape, decay, start=0.0)
        error = weight_rms_mean_field.weight_rms_mean_field(*sums(1e-4, 0.0, decay, steps)) / exact - 1
        assert low < error < high


def test_sums_of_schedules():
    steps, decay = 20_000, 0.3
    at = (np.arange(steps) + 0.5) / steps
    line, wave = 2 + (0.5 - 2) * at, 0.5 + 1.5 * (1 + np.cos(np.pi * at)) / 2
    plateau = 2 * np.minimum(np.minimum(1, at / 0.1), (1 - at) / 0.2)
    for lr, sums in (
        (line, weight_rms_mean_field.linear_sums(2, 0.5, decay, steps)),
        (wave, weight_rms_mean_field.cosine_sums(2, 0.5, decay, steps)),
        (plateau, weight_rms_mean_field.wsd_sums(2, decay, 0.1 * steps, 0.8 * steps, steps)),
    ):
        assert sums == pytest.approx((decay * lr.sum(), (lr**2).sum()), rel=1e-6)
    constant = weight_rms_mean_field.weight_rms_mean_field(
        *weight_rms_mean_field.linear_sums(LR, LR, DECAY, 300), start=0.4
    )
    assert constant == pytest.approx(weight_rms.weight_rms_static(LR, DECAY, 300, start=0.4), rel=5e-3)


# --- rows of an embedding under Tiger


@pytest.mark.parametrize(
    ("lr", "gap", "beta", "hits", "expected"),
    [
        (0.02, 50, 0.5, "at once", lambda *at: embedding_tiger.embedding_rms_tiger_cycle(*at)),
        (0.04, 32, 0.965, "at once", lambda *at: embedding_tiger.embedding_rms_tiger_cycle(*at, momentum=0.965)),
        (0.004, 50, 0.5, "at once", embedding_tiger.embedding_rms_tiger),
        (0.02, 50, 0.5, "random", embedding_tiger.embedding_rms_tiger_random),
    ],
)
def test_size_of_rows_under_tiger(lr, gap, beta, hits, expected):
    """The optimizer's own two lines in a loop, on 4,000 entries; the mean of squares over the second half."""
    rng, decay = np.random.default_rng(15), 0.5
    w, m, squares = np.ones(N), np.zeros(N), []
    gaps = 60 if lr > 0.01 else 400  # at least 8 times in which the start is forgotten
    for t in range(1, gaps * gap + 1):
        if t > gaps * gap / 2 and (hits != "at once" or t % gap == 0):
            squares.append((w**2).mean())
        hit = t % gap == 0 if hits == "at once" else rng.random(N) < 1 / gap
        m = beta * m + (1 - beta) * (rng.normal(size=N) * hit if np.any(hit) else 0.0)
        w = w - lr * rms(w) * (np.sign(m) + decay * w)
    assert np.sqrt(np.mean(squares)) == pytest.approx(float(expected(lr, decay, gap)), rel=0.02)


def test_limits_of_tigers_rows():
    for form in (embedding_tiger.embedding_rms_tiger, embedding_tiger.embedding_rms_tiger_cycle):
        assert form(1e-5, 0.5, 64) == pytest.approx(1e-5 * 64 / 2 / 0.5, rel=1e-3)
        assert form(0.1, 0.5, 2000) == pytest.approx(2)
    assert embedding_tiger.embedding_rms_tiger_random(1e-5, 0.5, 64) == pytest.approx(1e-5 * 64 / 0.5, rel=1e-3)
    y = float(embedding_tiger.embedding_rms_tiger(0.01, 0.5, 64)) * 0.5
    assert y**2 == pytest.approx(np.tanh(0.01 * 64 * y / 2))
    closed = embedding_tiger.embedding_rms_tiger(0.02, 1.0, np.array([25, 100, 400]))
    at_once = embedding_tiger.embedding_rms_tiger_cycle(0.02, 1.0, np.array([25, 100, 400]))
    assert closed / at_once == pytest.approx([1.019, 1.080, 1.000], abs=1e-3)  # by quadrature and a root, done apart
