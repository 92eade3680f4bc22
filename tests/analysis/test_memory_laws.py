"""Oracle: closed forms, the recursion of one impulse or hit, numerical minimisation, simulated embedding rows."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from analysis.laws import amos, embedding, epsilon, memory, second_moment, timescale, weight_rms_paths
from analysis.laws.weight_rms import weight_rms
from harness.optimizers.amos import amos as optimizer_amos
from harness.parameters import layout_of
from tests.reference.walks import adam_directions, rms, signum_directions, walk


@pytest.mark.parametrize("beta1", [0.0, 0.8])
def test_weight_of_a_batch_is_what_its_impulse_leaves(beta1):
    steps = 40
    rng = np.random.default_rng(0)
    lr, decay = rng.uniform(0.01, 0.2, steps), rng.uniform(0, 2, steps)
    weights = memory.batch_weights(lr, decay, beta1)
    for j in (0, 17, 38, 39):
        m, w = 0.0, 0.0
        for t in range(steps):
            m = beta1 * m + (1 - beta1) * (t == j)
            w = w - lr[t] * (m + decay[t] * w)
        assert weights[j] == pytest.approx(-w)
    constant = memory.batch_weights(np.full(steps, 0.1), 0.3, beta1)
    left, power = 0.97, np.arange(steps) + 1  # in closed form: (1 - beta1) (left^p - beta1^p) / (left - beta1)
    assert constant[::-1] == pytest.approx(0.1 * (1 - beta1) * (left**power - beta1**power) / (left - beta1))


def test_timescale():
    tau = timescale.timescale(1e-3, 0.1, 50_000)
    assert tau == pytest.approx(0.2)


# --- embeddings


def hits(gap, count, rows, seed, *, gaussian=False):
    """A gradient of random sign, and size 1 or Gaussian, at every gap-th step of a row, and 0 between."""
    rng = np.random.default_rng(seed)
    for t in range(count * gap):
        drawn = rng.normal(size=rows) if gaussian else rng.choice([-1.0, 1.0], size=rows)
        yield drawn if t % gap == 0 else np.zeros(rows)


@pytest.mark.parametrize(("gap", "expected"), [(30, 0.1225), (300, 0.3859), (3000, 0.951)])
def test_embedding_under_signs(gap, expected):
    lr, decay = 1e-3, 1.0
    law = float(embedding.embedding_rms_sign(lr, decay, gap))
    assert law == pytest.approx(expected, abs=1e-3)
    steps = max(2, round(3000 / gap)) * gap
    rows = 3000
    weights = walk(
        signum_directions(0.7, hits(gap, steps // gap, rows, 1)),
        np.full(steps, lr),
        np.full(steps, decay),
        np.random.default_rng(2).choice([-law, law], size=rows),  # where the law has it settled
    )
    assert rms(weights) == pytest.approx(law, rel=0.04)
    assert embedding.embedding_rms_sign(lr, 0.01, 10**8) == pytest.approx(100)  # 1 / weight_decay


def test_displacement_of_one_hit_under_adam():
    assert embedding.adam_displacement(0.9, 0.95) == pytest.approx(5.837, abs=1e-3)
    assert embedding.adam_displacement(0.9, 0.999) == pytest.approx(31.8, abs=0.05)
    assert np.isinf(embedding.adam_displacement(0.99, 0.95))
    m, v, moved = 0.1, 0.05, 0.0
    for _ in range(2000):
        moved += m / np.sqrt(v)
        m, v = 0.9 * m, 0.95 * v
    assert embedding.adam_displacement(0.9, 0.95) == pytest.approx(moved)


@pytest.mark.parametrize(("gap", "gaussian", "ratio"), [(300, False, 1.0), (30, False, 1.18), (30, True, 1.32)])
def test_embedding_under_adam(gap, gaussian, ratio):
    lr, decay, rows = 1e-3, 1.0, 3000
    law = float(embedding.embedding_rms_adam(lr, decay, gap, beta1=0.9, beta2=0.95))
    count = 3000 // gap
    # Zero steps only scale m and v: eps = 0 stays harmless as long as gaps do not underflow
    weights = walk(
        adam_directions(0.9, 0.95, hits(gap, count, rows, 3, gaussian=gaussian)),
        np.full(count * gap, lr),
        np.full(count * gap, decay),
    )
    assert law / rms(weights) == pytest.approx(ratio, abs=0.04)
    if gap == 300:
        assert law == pytest.approx(0.00644, abs=1e-5)


# --- second moments


@pytest.mark.parametrize("name", ["adam", "adafactor", "adax"])
def test_second_moments_are_those_of_the_optimizers(name):
    steps = 300
    square = np.random.default_rng(4).normal(size=steps) ** 2
    t = np.arange(1, steps + 1)
    v = 0.0
    if name == "adam":
        decays, weights = second_moment.beta2_adam(t, 0.97), None
        for each in square:
            v = 0.97 * v + 0.03 * each
        v /= 1 - 0.97**steps
        assert decays[-1] == pytest.approx(0.97, abs=1e-4)  # never 1
    elif name == "adafactor":
        decays = second_moment.beta2_adafactor(t)
        for step, each in zip(t, square, strict=True):
            keep = 1 - step**-0.8
            v = keep * v + (1 - keep) * each
        assert 1 / (1 - second_moment.beta2_adafactor(4000)) == pytest.approx(760, rel=2e-3)
    else:
        decays = second_moment.beta2_adax(t, 0.01)
        for each in square:
            v = 1.01 * v + 0.01 * each
        v /= 1.01**steps - 1
    weights = second_moment.second_moment_weights(decays)
    assert decays[0] == pytest.approx(0, abs=1e-12)
    assert weights.sum() == pytest.approx(1)
    assert weights @ square == pytest.approx(v)


def test_memory_of_second_moments():
    t = np.arange(1, 5001)
    adam = second_moment.second_moment_weights(second_moment.beta2_adam(t, 0.99))
    assert second_moment.mean_index(adam) == pytest.approx(5000 - 99, rel=1e-4)
    assert second_moment.effective_length(adam) == pytest.approx(199, rel=1e-3)
    adax = second_moment.second_moment_weights(second_moment.beta2_adax(t, 0.01))
    assert second_moment.mean_index(adax) == pytest.approx(101, rel=1e-3)  # the first 1 / beta2 steps, for ever
    assert (np.diff(adax[:2000]) < 0).all()  # beyond, they are rounding


def test_rank_one_minimises_the_divergence():
    v = np.random.default_rng(5).lognormal(size=(3, 4))

    def divergence(logs):
        w = np.exp(logs[:3, None] + logs[None, 3:])
        return (v * np.log(v / w) - v + w).sum()

    best = minimize(divergence, np.zeros(7), tol=1e-12).x
    assert second_moment.rank_one(v) == pytest.approx(np.exp(best[:3, None] + best[None, 3:]), rel=1e-3)
    separable = np.outer([1.0, 2.0, 5.0], [0.1, 3.0])
    assert second_moment.rank_one_error(separable) == pytest.approx(0, abs=1e-12)
    large = np.random.default_rng(6).lognormal(size=(1000, 1000))
    assert second_moment.rank_one_error(large) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("steps", [20, 200])
def test_rank_one_of_noise_misses_by_sampling(steps):
    rng = np.random.default_rng(7)
    weights = second_moment.second_moment_weights(second_moment.beta2_adam(np.arange(1, steps + 1), 0.95))
    v = sum(w * rng.normal(size=(150, 150)) ** 2 for w in weights)
    law = second_moment.rank_one_noise(weights)
    assert second_moment.rank_one_error(v) == pytest.approx(float(law), rel=0.03)


# --- Amos


def test_amos_adaptive_is_the_optimizers():
    """A gradient of ones: its square is its running mean at every step."""
    steps, scale, layout = 300, 0.2, layout_of({"w": torch.zeros(3, 2)})
    hyper = {"lr": 0.3, "beta2": 0.9, "momentum": 0.0, "eps": 0.0, "c_coef": 0.5, "d_coef": 0.7}
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in hyper.items()}
    init, update = optimizer_amos(damping="adaptive", layout=layout)
    w = torch.full((6,), scale, dtype=torch.float64)
    state, lr, rho = init(w), *amos.amos_adaptive(steps, alpha=0.3, scale=scale, c_coef=0.5, d_coef=0.7)
    for t in range(steps):
        moved, state = update(torch.ones_like(w), state, w, hyper)
        np.testing.assert_allclose(moved, -lr[t] - rho[t] * w, rtol=1e-9)
        w = w + moved


def test_amos_follows_the_error():
    """The error falls by (its cosine) x (the step); both schedules are the step in proportion to what is left."""
    alpha, cosine, scale = 0.01, 0.3, 0.036
    for schedule, power in ((amos.amos_constant, 0), (amos.amos_inverse_time, 1)):
        left, steps = 1.0, 2000
        for _ in range(steps):
            left -= alpha * left * left * cosine * left**power  # relative step alpha x left, cosine p x left^power
        lr, rate = schedule(steps, alpha=alpha, cosine=cosine, scale=scale)
        assert lr == pytest.approx(alpha * scale * left**2, rel=0.01)
        assert rate == pytest.approx(alpha**2 * left**2 / 2, rel=0.01)
    half = (np.sqrt(2) - 1) / (alpha * cosine)
    assert amos.amos_constant(half, alpha=alpha, cosine=cosine)[0] == pytest.approx(alpha / 2)


def test_amos_is_the_rotational_equilibrium():
    alpha, scale = 1.11e-3, 1 / np.sqrt(768)
    lr, rate = amos.amos_constant(0, alpha=alpha, cosine=0.1, scale=scale)
    decay = rate / lr
    assert (lr, decay) == pytest.approx((4e-5, 0.015), rel=0.03)  # Lion's, as kexue.fm/archives/9473 has them
    assert weight_rms(lr, decay) == pytest.approx(scale)
    t = np.arange(5000)
    lr, rate = amos.amos_constant(t, alpha=0.02, cosine=0.1, scale=scale)
    path = weight_rms_paths.weight_rms_path(lr, rate / lr, start=scale)
    assert path[1] == pytest.approx(scale, rel=1e-4)  # at first noise holds it there
    assert path[-1] / scale == pytest.approx(0.94, abs=0.005)  # and then it falls: noise falls, weight decay stays
    assert rate / lr == pytest.approx(np.full(len(t), 0.02 / (2 * scale)))


# --- epsilon


def test_epsilon_ratios_are_the_crossovers():
    batch_size, eps, sigma = np.array([1.0, 16.0, 400.0]), 0.1, 2.0
    x = epsilon.relative_epsilon(batch_size, eps, sigma=sigma)
    assert epsilon.epsilon_batch_size(eps, sigma=sigma) == pytest.approx(400)
    assert x[-1] == pytest.approx(1)
    for ratio, law in (
        (epsilon.epsilon_ratio_outside, epsilon.epsilon_crossover),
        (epsilon.epsilon_ratio_inside, epsilon.epsilon_crossover_inside),
    ):
        without = law(batch_size, 0.0, coefficient=0.3, sigma=sigma)
        assert ratio(x) == pytest.approx(law(batch_size, eps, coefficient=0.3, sigma=sigma) / without)
    assert epsilon.epsilon_ratio_outside(1.0) / epsilon.epsilon_ratio_inside(1.0) == pytest.approx(np.sqrt(2))
    assert epsilon.epsilon_ratio_outside(3.0) == pytest.approx(4)
