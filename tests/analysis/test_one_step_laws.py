"""Oracle: simulated Gaussian gradients, and a quadratic whose H and Sigma are known."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from analysis.laws.moments import (
    sign_covariance,
    sign_covariance_arcsine,
    sign_mean,
    sign_mean_article,
    signal_to_noise,
    softsign_mean,
    softsign_mean_article,
    softsign_square,
    softsign_square_article,
)
from analysis.laws.one_step import (
    Local,
    adam_independent,
    adam_linear,
    adam_scale,
    sgd_closed,
    sign_arcsine,
    sign_correlated,
    sign_independent,
    sign_mean_field,
    softsign_independent,
)

RNG = np.random.default_rng(0)
DRAWS = RNG.normal(size=400_000)
A = np.array([-3.0, -1.0, -0.2, 0.0, 0.3, 1.0, 1.88, 4.0])
N = 12


@pytest.fixture(scope="module")
def known():
    """H with positive coupling, one noise factor shared by all coordinates, g of several sizes."""
    rng = np.random.default_rng(1)
    loads = rng.uniform(0.3, 1.0, size=N) * np.where(rng.random(N) < 0.8, 1, -1)
    noise = np.diag(rng.uniform(0.5, 2.0, size=N)) + 2 * np.outer(loads, loads)
    hessian = np.diag(rng.uniform(0.2, 1.0, size=N)) + 0.3 * np.outer(loads, loads)
    gradient = 0.2 * rng.normal(size=N) + 0.2 * loads
    every = np.arange(N)
    return Local(gradient, gradient, np.diag(noise), every, np.ones(N), hessian, noise)


def simulate(local, direction, batch_size, count=200_000, seed=2):
    """E[u.g] / E[u.H u] of an update of gradients drawn from N(g, Sigma / B)."""
    root = np.linalg.cholesky(local.noise_CN / batch_size)
    drawn = local.pool_gradient_N + np.random.default_rng(seed).normal(size=(count, N)) @ root.T
    u = direction(drawn)
    return (u @ local.gradient_N).mean() / np.einsum("ki,ij,kj->k", u, local.hessian_CN, u).mean()


def test_means_of_signs():
    assert np.allclose(sign_mean(A), [np.sign(a + DRAWS).mean() for a in A], atol=5e-3)
    difference = sign_mean_article(A) - sign_mean(A)
    assert difference.min() == pytest.approx(-0.108, abs=2e-3)  # at a = 1.88
    assert np.gradient(sign_mean_article([-1e-4, 1e-4]), 2e-4)[0] == pytest.approx(np.sqrt(2 / np.pi), rel=1e-6)
    assert sign_mean_article([np.inf, -np.inf]).tolist() == [1, -1]


@pytest.mark.parametrize("b", [1e-3, 0.1, 0.5, 1.0, 3.0, 30.0])
def test_means_and_squares_of_soft_signs(b):
    x = A[:, None] + DRAWS[None, :100_000]
    mean, square = (x / np.hypot(x, b)).mean(1), (x**2 / (x**2 + b**2)).mean(1)
    assert np.allclose(softsign_square(A, b), square, atol=6e-3)
    assert np.allclose(softsign_mean(A, b), mean, atol=6e-3)
    assert np.abs(softsign_mean_article(A, b) - mean).max() < 0.13
    assert np.abs(softsign_square_article(A, b) - square).max() < 0.31  # at a = 0, b = .5


@pytest.mark.parametrize("b", [1e-3, 5e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 4.0, 20.0, 29.0, 40.0, 1e3])
def test_means_of_soft_signs_are_those_of_adaptive_quadrature(b):
    a = np.array([0.02, 0.05, 0.3, 1.0, 2.0, 4.0, 5.4, 5.6, 8.0, 15.0, 29.0, 31.0, 100.0])
    edges = np.unique([*(-b * np.array([30, 3, 1, 0])), *(b * np.array([1, 3, 30]))])

    def mean(centre):
        inside = [centre - 9, *edges[np.abs(edges - centre) < 9], centre, centre + 9]
        pieces = [quad(lambda x: x / np.hypot(x, b) * norm.pdf(x, centre), *ends, epsabs=1e-13, epsrel=1e-11)[0]
                  for ends in pairwise(sorted(inside))]  # fmt: skip
        return sum(pieces)

    expected = np.array([mean(centre) for centre in a])
    assert np.allclose(softsign_mean(a, b), expected, rtol=2e-5, atol=0)
    assert np.array_equal(softsign_mean(-a, b), -softsign_mean(a, b))
    assert softsign_mean(1e-7, b) / 1e-7 == pytest.approx(softsign_mean(1e-3, b) / 1e-3, rel=1e-5)


def test_means_of_soft_signs_at_their_limits():
    assert softsign_mean([np.inf, -np.inf, 0.0, 3.0], [1.0, 1.0, 0.0, np.inf]) == pytest.approx([1, -1, 0, 0])
    assert softsign_mean([0.5, 2.0], 0.0) == pytest.approx(sign_mean([0.5, 2.0]), rel=1e-12)
    assert softsign_mean(3e8, 4e8) == pytest.approx(0.6, rel=1e-12)
    many = np.linspace(-3, 3, 10_000)
    assert np.array_equal(
        softsign_mean(many.reshape(100, 100), 0.2).ravel()[5000:5003], softsign_mean(many[5000:5003], 0.2)
    )


def test_square_of_a_soft_sign_without_signal():
    from scipy.special import erfc

    for b in (0.2, 1.0, 2.0):
        expected = 1 - np.sqrt(np.pi / 2) * b * np.exp(b**2 / 2) * erfc(b / np.sqrt(2))
        assert float(softsign_square(0.0, b)) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.99])
def test_covariance_of_two_signs(rho):
    z = RNG.normal(size=400_000)
    for a, c in ((0.0, 0.0), (0.5, -0.2), (1.0, 1.0), (2.0, 2.0)):
        one, two = np.sign(a + DRAWS), np.sign(c + rho * DRAWS + np.sqrt(1 - rho**2) * z)
        measured = (one * two).mean() - one.mean() * two.mean()
        assert float(sign_covariance([a], [c], [[rho]])[0, 0]) == pytest.approx(measured, abs=6e-3)
    assert float(sign_covariance([0.0], [0.0], [[rho]])[0, 0]) == pytest.approx(2 / np.pi * np.arcsin(rho), abs=1e-9)
    assert float(sign_covariance_arcsine([0.0], [0.0], [[rho]])[0, 0]) == pytest.approx(2 / np.pi * np.arcsin(rho))
    ratio = sign_covariance_arcsine([1.0], [1.0], [[0.5]]) / sign_covariance([1.0], [1.0], [[0.5]])
    assert 1.1 < float(ratio[0, 0]) < 1.6


@pytest.mark.parametrize("count", [1, 48, 101])  # of tiles: part of one, one, several
def test_covariance_of_signs_is_the_quadrature_node_by_node_whether_symmetric_or_not(count):
    rng = np.random.default_rng(3)
    factors = rng.normal(size=(101, 4)) + 0.1
    covariance = factors @ factors.T + np.diag(rng.uniform(0, 1, size=101) ** 4)
    rho = covariance / np.sqrt(np.outer(np.diag(covariance), np.diag(covariance)))
    a = 1.5 * rng.normal(size=101)
    end = np.arcsin(np.clip(rho, -1 + 1e-12, 1 - 1e-12))
    expected = np.zeros_like(rho)
    for node, weight in zip(*np.polynomial.legendre.leggauss(24), strict=True):
        sine = np.sin(end * (node + 1) / 2)
        squares = (a[:, None] ** 2 + a**2 - 2 * np.outer(a, a) * sine) / 2
        expected += weight * np.exp(-squares / (1 - sine**2)) * end / np.pi
    rho[range(101), range(101)] = 1.0
    symmetric, part = sign_covariance(a, a, rho), sign_covariance(a[:count], a, rho[:count])
    assert np.array_equal(rho, rho.T)
    assert np.allclose(symmetric, expected, rtol=1e-10, atol=1e-13)
    assert np.allclose(part, expected[:count], rtol=1e-10, atol=1e-13)
    other = sign_covariance(a, -a, rho)  # square, and not symmetric
    assert np.allclose(other[:50], sign_covariance(a[:50], -a, rho[:50]), rtol=1e-10, atol=1e-13)


def test_signal_to_noise_of_what_has_no_noise():
    assert signal_to_noise([1.0, -2.0, 0.0], [0.0, 0.0, 0.0], 4).tolist() == [np.inf, -np.inf, 0.0]
    assert signal_to_noise([1.0], [4.0], 16).tolist() == [2.0]


def sgd_of(local, batch_size, **options):
    g, h = local.gradient_N, local.hessian_CN
    return sgd_closed(g @ g, g @ h @ g, np.sum(h * local.noise_CN), batch_size, **options)


def test_sgd_on_a_pool_of_few_samples_and_with_momentum(known):
    rng = np.random.default_rng(0)
    pool = rng.multivariate_normal(known.gradient_N, known.noise_CN, size=32)
    p, noise = pool.mean(0), np.cov(pool.T, bias=True)
    h, b, beta1 = known.hessian_CN, 4, 0.5
    weights = (1 - beta1) * beta1 ** np.arange(20)
    curvature = p @ h @ p + np.sum(h * noise) * np.sum(weights**2) / b
    found = sgd_closed(p @ p, p @ h @ p - np.sum(h * noise) / 32, np.sum(h * noise), b, beta1=beta1, pool_samples=32)
    assert found == pytest.approx(p @ p / curvature, rel=1e-6)
    assert np.isnan(sgd_closed(1.0, -1.0, 0.5, 1.0))


@pytest.mark.parametrize("batch_size", [1, 16, 256])
def test_best_steps_are_those_of_simulated_updates(known, batch_size):
    assert sgd_of(known, batch_size) == pytest.approx(simulate(known, lambda g: g, batch_size), rel=0.03)
    signs = simulate(known, np.sign, batch_size)
    assert sign_correlated(known, batch_size) == pytest.approx(signs, rel=0.02)
    assert sign_arcsine(known, batch_size) == pytest.approx(signs, rel=0.15)
    assert sign_independent(known, batch_size) > 1.05 * signs or batch_size == 256  # noise that correlates bends more
    scale = adam_scale(known, batch_size)
    assert adam_linear(known, batch_size, 0.0) == pytest.approx(
        simulate(known, lambda g: g * scale, batch_size), rel=0.03
    )


@pytest.mark.parametrize("batch_size", [1, 16, 256])
def test_independent_forms_are_right_where_noise_is_independent(known, batch_size):
    alone = replace(known, noise_CN=np.diag(known.variance_N))
    signs = simulate(alone, np.sign, batch_size)
    assert sign_independent(alone, batch_size) == pytest.approx(signs, rel=0.02)
    assert sign_correlated(alone, batch_size) == pytest.approx(signs, rel=0.02)
    scale = adam_scale(alone, batch_size)
    adam = simulate(alone, lambda g: g * scale, batch_size)
    assert adam_independent(alone, batch_size, 0.0) == pytest.approx(adam, rel=0.03)
    assert adam_linear(alone, batch_size, 0.9) == pytest.approx(adam_independent(alone, batch_size, 0.9))
    for eps in (0.05, 0.5):
        soft = simulate(alone, lambda g, eps=eps: g / np.hypot(g, eps), batch_size)
        assert softsign_independent(alone, batch_size, eps) == pytest.approx(soft, rel=0.03)


def test_large_epsilon_is_sgd_at_lr_over_epsilon(known):
    alone = replace(known, noise_CN=np.diag(known.variance_N))
    assert softsign_independent(alone, 16, 1e4) / 1e4 == pytest.approx(sgd_of(alone, 16), rel=1e-3)


def test_one_signal_to_noise_ratio_for_all_is_the_mean_fields_case():
    every = np.arange(N)
    signs = np.where(np.arange(N) % 3, 1.0, -1.0)
    hessian = np.eye(N) + 0.2
    local = Local(signs, signs, np.full(N, 9.0), every, np.ones(N), hessian, 9.0 * np.eye(N))
    batch_size, beta = 4.0, (1 + 9 / 4) ** -0.5
    off = (hessian - np.diag(np.diag(hessian))) * np.outer(signs, signs)
    expected = N / (np.trace(hessian) / beta + beta * off.sum())
    assert sign_mean_field(local, batch_size) == pytest.approx(expected)


def test_some_columns_stand_for_all(known):
    rng = np.random.default_rng(0)
    chance = known.variance_N / known.variance_N.sum()
    columns = rng.choice(N, size=200_000, p=chance)
    some = Local(
        known.gradient_N, known.pool_gradient_N, known.variance_N, columns, chance[columns] * len(columns),
        known.hessian_CN[columns], known.noise_CN[columns],
    )  # fmt: skip
    for law in (sign_independent, sign_correlated):
        assert law(some, 16) == pytest.approx(law(known, 16), rel=0.02)
