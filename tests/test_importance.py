"""Renyi bounds, Pareto tails, annealing and two-sided intervals, against oracles."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from jax.test_util import check_grads
from scipy import stats

from vgm.bounds import annealed, importance, pareto, sandwich
from vgm.densities import multivariate_normal, normal
from vgm.oracles import linear_gaussian, quadrature

importance, pareto, sandwich = map(whole, (importance, pareto, sandwich))


def test_naive_evidence_is_the_mean_likelihood(x64, key):
    """On the linear-Gaussian model, prior draws give p(x)."""
    model = linear_gaussian.LinearGaussian(
        0.5 * jnp.ones((3, 1)), jnp.zeros(3), jnp.zeros(())
    )
    x = jnp.asarray([0.3, -0.2, 1.0])
    z = normals(key, (100_000, 1))
    log_likelihood = jax.vmap(lambda z: linear_gaussian.log_likelihood(model, x, z))(z)
    error = importance.naive(log_likelihood) - linear_gaussian.log_evidence(model, x)
    assert abs(error) < 4 * sandwich.log_mean_stderr(log_likelihood)


ALPHAS = [-3.0, -0.5, 0.0, 0.5, 0.9, 0.999999, 1.0, 1.000001, 1.5, 4.0]


@pytest.mark.parametrize("spread", [0.01, 2.0])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_renyi_equals_the_written_out_mean(x64, key, alpha, spread):
    log_w = spread * normals(key, (50,)) - 3.0
    actual = importance.renyi(log_w, jnp.asarray(alpha))
    if alpha == 1.0:
        expected = np.mean(log_w)
    else:
        expected = np.log(np.mean(np.exp((1 - alpha) * log_w))) / (1 - alpha)
    # The reference divides a rounding error of 1e-16 by 1 - alpha.
    tolerance = 1e-12 + 1e-15 / max(abs(1 - alpha), 1e-15) * (alpha != 1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=10 * tolerance)


@pytest.mark.slow
def test_renyi_keeps_its_digits_next_to_alpha_one(key):
    """In float32 the slope in alpha at 1 is minus half the variance of log w."""
    log_w = normals(key, (50,)) - 1000.0
    alphas = 1.0 + jnp.asarray([-1e-2, 0.0, 1e-2])
    low, middle, high = jax.vmap(lambda a: importance.renyi(log_w, a))(alphas)
    # Differences of numbers at 1000 nats, whose last digit is 6e-5.
    slope = -0.5 * np.var(np.asarray(log_w, np.float64))
    np.testing.assert_allclose(
        [middle - low, high - middle], [slope / 100] * 2, atol=2e-4
    )
    # Less their mean, which float32 knows to a last digit of 6e-5 only.
    exact = np.asarray(log_w, np.float64)
    centred = jnp.asarray(exact - exact.mean(), jnp.float32)
    tiny = jax.vmap(lambda a: importance.renyi(centred, a))(1.0 - 2.0**-20 * alphas)
    assert jnp.abs(tiny).max() < 1e-5


def test_renyi_never_rises_with_alpha_and_holds_the_known_bounds(x64, key):
    log_w = 2.0 * normals(key, (50,)) - 100.0
    values = jax.vmap(lambda a: importance.renyi(log_w, a))(jnp.linspace(-5, 5, 201))
    assert (np.diff(values) <= 0.0).all()
    iwae = importance.iwae(log_w)
    chex.assert_trees_all_close(
        importance.renyi(log_w, jnp.zeros(())), iwae, rtol=1e-13
    )
    low, high = np.min(log_w), np.max(log_w)
    assert importance.renyi(log_w, jnp.asarray(-500.0)) > high - 0.1
    assert importance.renyi(log_w, jnp.asarray(500.0)) < low + 0.1


@pytest.mark.parametrize("alpha", [-1.0, 0.0, 0.5, 1.0, 1.0 + 1e-9, 2.0])
@pytest.mark.slow
def test_renyi_gradients(x64, key, alpha):
    log_w = np.asarray(normals(key, (6,)))
    check_grads(
        lambda log_w: importance.renyi(jnp.asarray(log_w), jnp.asarray(alpha)),
        (log_w,),
        order=1,
        modes=["rev"],
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.0, -np.log(2)), (0.5, -2 * np.log(2)), (2.0, -np.inf)]
)
def test_renyi_with_a_weight_of_zero(alpha, expected):
    log_w = jnp.asarray([0.0, -jnp.inf])
    actual = importance.renyi(log_w, jnp.asarray(alpha))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_renyi_of_normals_is_the_gaussian_integral(x64, key):
    """E w^(1-a) for normal q and posterior, oracle C, in one dimension."""
    q_std, mean, exact, alpha = 0.8, 0.4, -2.0, 0.5
    z = mean + q_std * normals(key, (400_000,))
    log_w = exact + jax.vmap(
        lambda z: (
            normal.log_prob(z, jnp.zeros(()), jnp.zeros(()))
            - normal.log_prob(z, jnp.asarray(mean), jnp.log(q_std))
        )
    )(z)
    # q^a p^(1-a) is normal with precision a / s^2 + 1 - a, around a weighted mean.
    a = alpha / q_std**2
    precision = a + 1 - alpha
    exponent = -0.5 * (a * mean**2 - (a * mean) ** 2 / precision)
    log_integral = exponent - 0.5 * np.log(precision) - alpha * np.log(q_std)
    expected = exact + log_integral / (1 - alpha)
    actual = importance.renyi(log_w, jnp.asarray(alpha))
    stderr = sandwich.log_mean_stderr((1 - alpha) * log_w) / (1 - alpha)
    assert abs(actual - expected) < 4 * stderr


@pytest.mark.parametrize("index", [-0.3, 0.0, 0.4, 0.9])
def test_pareto_fit_finds_a_generalised_pareto_law(x64, index):
    draws = stats.genpareto(index, scale=2.0).rvs(2000, random_state=1)
    tail = pareto.fit(jnp.sort(jnp.asarray(draws)))
    # The estimate's standard error is about (1 + k) / sqrt(n) (Smith 1987).
    assert abs(tail.shape - index) < 3 * (1 + index) / np.sqrt(2000)
    assert abs(tail.scale / 2.0 - 1.0) < 0.15


@pytest.mark.parametrize("std", [0.5, 0.7, 0.9])
@pytest.mark.slow
def test_pareto_index_of_two_normals_is_one_less_the_squared_ratio(x64, key, std):
    """Target N(0, 1), proposal N(0, std^2): k = 1 - std^2."""
    num_samples, num_repetitions = 40_000, 4
    z = std * normals(key, (num_repetitions, num_samples))
    log_w = jnp.log(std) - 0.5 * z**2 * (1.0 - std**-2)
    indices = jax.vmap(pareto.tail_index)(log_w)
    expected = 1.0 - std**2
    stderr = (1 + expected) / np.sqrt(pareto.tail_size(num_samples) * num_repetitions)
    # The law is Pareto in the limit only, up to a power of a logarithm: 2 errors more.
    assert abs(indices.mean() - expected) < 5 * stderr
    if std >= 0.7:
        assert indices.mean() < pareto.GOOD_TAIL_INDEX


def test_pareto_smoothing_keeps_the_bulk_and_tames_the_tail(x64, key):
    log_w = 1.5 * stats.norm.rvs(size=1000, random_state=3)
    smoothed = pareto.smooth(jnp.asarray(log_w))
    num_tail = pareto.tail_size(1000)
    order = np.argsort(log_w)
    np.testing.assert_array_equal(smoothed[order[:-num_tail]], log_w[order[:-num_tail]])
    assert (np.diff(np.asarray(smoothed)[order]) >= 0.0).all()
    assert smoothed.max() <= log_w.max()
    # Quantiles of the fitted law: the tail's mean weight hardly moves.
    tail, before = (np.exp(np.asarray(w)[order[-num_tail:]]) for w in (smoothed, log_w))
    np.testing.assert_allclose(tail.mean(), before.mean(), rtol=0.1)
    shifted = pareto.smooth(jnp.asarray(log_w) - 700.0)
    np.testing.assert_allclose(shifted, smoothed - 700.0, rtol=1e-9)


@pytest.mark.slow
def test_constant_weights_have_no_tail():
    log_w = jnp.full(100, -7.0)
    assert pareto.tail_index(log_w) == -jnp.inf
    np.testing.assert_array_equal(pareto.smooth(log_w), log_w)


@pytest.fixture(scope="module")
def nonlinear():
    """A nonlinear model with two latents: log p(x, z) and its evidence on a grid."""
    with jax.enable_x64(True):
        weights = jnp.asarray([[1.5, -1.0], [0.5, 2.0], [-1.0, 0.3]])
        x, log_std = jnp.asarray([1.0, -0.5, 0.2]), jnp.full(3, -1.2)

        def log_joint(z):
            mean = 2.0 * jnp.tanh(weights @ z)
            return normal.log_prob(x, mean, log_std) + log_prior(z)

        return log_joint, quadrature.log_evidence(log_joint, quadrature.grid(2))


def log_prior(z):
    return normal.log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z))


def sample_prior(key):
    return jax.random.normal(key, (2,))


def tuned(key, log_joint, num_steps, num_leapfrog=4):
    path = annealed.Path(
        log_prior,
        log_joint,
        annealed.sigmoid_schedule(num_steps),
        jnp.full(num_steps, 0.3),
        num_leapfrog,
    )
    steps = jax.jit(lambda k: annealed.tune(k, path, sample_prior).step_sizes)(key)
    return path._replace(step_sizes=steps)


@pytest.mark.slow
def test_annealing_estimates_the_evidence_of_a_nonlinear_model(x64, key, nonlinear):
    """E[w] = p(x) within 3 standard errors, each of them at most 0.02 nats."""
    log_joint, exact = nonlinear
    key_tune, key_run = jax.random.split(key)
    path = tuned(key_tune, log_joint, num_steps=150)
    run = jax.jit(jax.vmap(lambda k: annealed.forward(k, path, sample_prior)[0]))
    log_w = run(jax.random.split(key_run, 4000))
    stderr = sandwich.log_mean_stderr(log_w)
    assert stderr <= 0.02
    assert abs(importance.iwae(log_w) - exact) < 3 * stderr
    # Better than as many plain draws from the prior.
    z = jax.vmap(sample_prior)(jax.random.split(key_run, 4000))
    plain = jax.vmap(lambda z: log_joint(z) - log_prior(z))(z)
    assert stderr < 0.5 * sandwich.log_mean_stderr(plain)


def test_one_temperature_is_plain_importance_sampling(x64, key, nonlinear):
    log_joint, _ = nonlinear
    path = annealed.Path(log_prior, log_joint, jnp.ones(1), jnp.full(1, 0.1), 1)
    log_w, _ = annealed.forward(key, path, sample_prior)
    z = sample_prior(jax.random.split(key)[0])
    chex.assert_trees_all_close(log_w, log_joint(z) - log_prior(z), rtol=1e-12)


def test_the_schedule_is_an_evenly_spaced_sigmoid(x64):
    """From 0, left out, to 1, and symmetric around the middle."""
    sigmoid = 1 / (1 + np.exp(-4.0 * np.linspace(-1, 1, 9)))
    expected = (sigmoid - sigmoid[0]) / (sigmoid[-1] - sigmoid[0])
    np.testing.assert_allclose(annealed.sigmoid_schedule(8), expected[1:], rtol=1e-12)


def test_hmc_leaves_its_density_invariant(x64, key):
    """Exact draws stay exact draws, though the steps are coarse."""
    cholesky = jnp.asarray([[1.0, 0.0], [0.9, 0.5]])

    def log_density(z):
        return multivariate_normal.log_prob(z, jnp.ones(2), cholesky)

    def one(key):
        key_start, key_move = jax.random.split(key)
        z = multivariate_normal.sample(key_start, jnp.ones(2), cholesky)
        return annealed.hmc(
            key_move, z, log_density, step_size=jnp.asarray(0.6), num_leapfrog=3
        )

    draws, acceptance = jax.jit(jax.vmap(one))(jax.random.split(key, 20_000))
    assert acceptance.max() <= 1.0
    assert 0.5 < acceptance.mean() < 0.95
    for coordinate, variance in ((0, 1.0), (1, 0.81 + 0.25)):
        law = stats.norm(1.0, np.sqrt(variance))
        assert stats.kstest(np.asarray(draws[:, coordinate]), law.cdf).pvalue > 1e-3


@pytest.mark.slow
def test_hmc_mixes_where_a_fixed_trajectory_is_half_a_period(x64, key):
    """31 steps of 0.1 are half a period of N(0, 1): z would go to -z and back."""

    def one(key):
        key_start, *keys = jax.random.split(key, 11)
        start = z = jax.random.normal(key_start, (1,))
        for key_move in keys:
            z, _ = annealed.hmc(
                key_move, z, log_prior, step_size=jnp.asarray(0.1), num_leapfrog=31
            )
        return start[0], z[0]

    start, end = jax.jit(jax.vmap(one))(jax.random.split(key, 2000))
    assert abs(np.corrcoef(start, end)[0, 1]) < 4 / np.sqrt(2000)


def test_hmc_without_a_step_is_refused(key):
    """A loop of none would still take the drift after its first half kick."""
    with pytest.raises(ValueError, match="num_leapfrog must be at least 1"):
        annealed.hmc(key, jnp.zeros(2), jnp.sum, step_size=jnp.ones(()), num_leapfrog=0)


def test_hmc_refuses_a_trajectory_that_leaves_the_numbers(key):
    z, acceptance = whole(annealed.hmc)(
        key,
        jnp.ones(2),
        lambda z: -jnp.sum(z**4),
        step_size=jnp.asarray(1e3),
        num_leapfrog=10,
    )
    np.testing.assert_array_equal(z, jnp.ones(2))
    assert acceptance == 0.0


@pytest.mark.slow
def test_tuned_steps_accept_what_was_aimed_at(x64, key, nonlinear):
    log_joint, _ = nonlinear
    path = tuned(key, log_joint, num_steps=20)
    assert path.step_sizes[-1] < path.step_sizes[0]

    def final_acceptance(key):
        key_run, key_move = jax.random.split(key)
        _, z = annealed.forward(key_run, path, sample_prior)
        return annealed.hmc(
            key_move, z, log_joint, step_size=path.step_sizes[-1], num_leapfrog=4
        )[1]

    acceptance = jax.jit(jax.vmap(final_acceptance))(jax.random.split(key, 500)).mean()
    assert abs(acceptance - annealed.TARGET_ACCEPTANCE) < 0.15


def simulated_interval(key, num_steps, num_chains):
    """log p(x) between two bounds, x simulated from a linear-Gaussian model."""
    key_z, key_x, key_forward, key_backward = jax.random.split(key, 4)
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.0, 0.5], [-0.7, 1.2], [0.3, 0.3]]),
        jnp.zeros(3),
        jnp.asarray(-0.7),
    )
    z = sample_prior(key_z)
    x = model.weights @ z + jnp.exp(model.log_std) * jax.random.normal(key_x, (3,))
    path = annealed.Path(
        log_prior,
        lambda z: linear_gaussian.log_joint(model, x, z),
        annealed.sigmoid_schedule(num_steps),
        jnp.full(num_steps, 0.4),
        3,
    )
    log_w, _ = jax.vmap(lambda k: annealed.forward(k, path, sample_prior))(
        jax.random.split(key_forward, num_chains)
    )
    log_w_backward = jax.vmap(lambda k: annealed.backward(k, path, z))(
        jax.random.split(key_backward, num_chains)
    )
    found = sandwich.interval(log_w, log_w_backward)
    return found, linear_gaussian.log_evidence(model, x)


@pytest.mark.parametrize(("num_steps", "num_chains"), [(10, 20), (30, 50)])
@pytest.mark.slow
def test_intervals_hold_the_evidence_in_95_of_100(x64, key, num_steps, num_chains):
    run = jax.jit(jax.vmap(lambda k: simulated_interval(k, num_steps, num_chains)))
    found, exact = run(jax.random.split(key, 100))
    held = (found.lower <= exact) & (exact <= found.upper)
    assert held.sum() >= 93
    assert (found.lower <= found.lower_bound).all()
    assert (found.upper_bound <= found.upper).all()
    # The verdict means what it says.
    np.testing.assert_array_equal(found.enough, found.upper - found.lower <= 0.1)
    if num_steps == 30:
        assert (found.upper - found.lower).mean() < 0.5


def test_an_interval_of_exact_weights_is_the_evidence(x64):
    log_w = jnp.full(4, -3.0)
    found = sandwich.interval(log_w, log_w)
    chex.assert_trees_all_close(found[:4], tuple([jnp.asarray(-3.0)] * 4), rtol=1e-15)
    assert found.enough


def test_interval_ends_are_normal_quantiles_of_the_mean(x64, key):
    log_w = normals(key, (200,))
    found = sandwich.interval(log_w, log_w + 1.0, confidence=0.9)
    weights = np.exp(np.asarray(log_w))
    relative = weights.std(ddof=1) / weights.mean() / np.sqrt(200)
    np.testing.assert_allclose(
        found.lower, np.log(weights.mean()) - stats.norm.ppf(0.95) * relative
    )
    inverse = np.exp(-np.asarray(log_w) - 1.0)
    relative = inverse.std(ddof=1) / inverse.mean() / np.sqrt(200)
    np.testing.assert_allclose(
        found.upper, -np.log(inverse.mean()) + stats.norm.ppf(0.95) * relative
    )


@pytest.mark.parametrize(
    ("counts", "ess"), [((930, 70), 946), ((900, 100), 934), ((995, 5), 988)]
)
def test_ties_are_no_heavy_tail(counts, ess):
    """Weights of a discrete latent: 1 and 2, many times each."""
    log_w = jnp.asarray(np.log(np.repeat([1.0, 2.0], counts)), jnp.float32)
    index = pareto.tail_index(log_w)
    assert not np.isnan(index)
    assert index < 0.5
    np.testing.assert_allclose(importance.effective_sample_size(log_w), ess, rtol=0.02)


def test_a_quartile_at_a_third_of_the_largest_is_no_division_by_zero(x64):
    """The grid of 34 points for 20 exceedances then holds theta = 0 exactly."""
    log_w = jnp.asarray(np.log(np.repeat([0.25, 0.5, 1.0], [80, 10, 10])))
    assert np.isfinite(pareto.tail_index(log_w))


def test_unusable_weights_have_no_index():
    log_w = jnp.zeros(100)
    assert np.isnan(pareto.tail_index(log_w.at[3].set(jnp.nan)))
    assert np.isnan(pareto.tail_index(jnp.full(100, -jnp.inf)))
    # A constant but for rounding is a constant.
    noise = 1e-7 * (jnp.arange(100) % 7)
    assert pareto.tail_index(-1000.0 * (1.0 + noise)) == -jnp.inf


def test_crossed_ends_are_no_success():
    found = sandwich.interval(jnp.zeros(4), jnp.full(4, -5.0))
    assert not found.consistent
    assert not found.enough


@pytest.mark.parametrize("alpha", [0.999, 1.0, 1.001])
def test_renyi_derivative_in_alpha_is_minus_half_the_variance(x64, alpha):
    log_w = jnp.asarray([0.0, -1.0, -3.0])
    slope = whole(jax.grad(lambda a: importance.renyi(log_w, a)))(jnp.asarray(alpha))
    np.testing.assert_allclose(slope, -0.5 * np.var(log_w), atol=2e-3)


def test_no_weight_at_all_gives_no_gradient():
    both = whole(jax.value_and_grad(importance.iwae))
    value, gradient = both(jnp.full(3, -jnp.inf))
    assert value == -jnp.inf
    np.testing.assert_array_equal(gradient, jnp.zeros(3))


def zhang_stephens(y):
    """The fit of Zhang & Stephens (2009) with the shrinkage of PSIS, in NumPy."""
    n = len(y)
    m = 30 + int(np.sqrt(n))
    steps = np.arange(1, m + 1) - 0.5
    quartile = np.sort(y)[int(n / 4 + 0.5) - 1]
    theta = 1 / y.max() + (1 - np.sqrt(m / steps)) / (3 * quartile)
    k = np.log1p(-np.outer(theta, y)).mean(1)
    profile = n * (np.log(-theta / k) - k - 1)
    weights = 1 / np.exp(profile[None] - profile[:, None]).sum(1)
    theta = (theta * weights).sum()
    k = np.log1p(-theta * y).mean()
    return (n * k + 5) / (n + 10), -k / theta


@pytest.mark.parametrize("size", [5, 20, 95, 300])
def test_pareto_fit_equals_the_paper_written_out(x64, size):
    y = np.sort(stats.genpareto(0.4, scale=1.5).rvs(size, random_state=size))
    shape, scale = zhang_stephens(y)
    tail = pareto.fit(jnp.asarray(y))
    np.testing.assert_allclose(tail.shape, shape, rtol=1e-10)
    np.testing.assert_allclose(tail.scale, scale, rtol=1e-10)


def test_the_tail_is_a_fifth_or_three_roots_of_the_weights():
    sizes = [pareto.tail_size(count) for count in (25, 100, 225, 1000, 10_000)]
    assert sizes == [5, 20, 45, 95, 300]


def test_pareto_smoothing_puts_quantiles_in_the_place_of_the_tail(x64):
    log_w = 1.5 * stats.norm.rvs(size=400, random_state=4)
    order, size = np.argsort(log_w), pareto.tail_size(400)
    weights = np.exp(log_w[order] - log_w.max())
    threshold = weights[-size - 1]
    shape, scale = zhang_stephens(weights[-size:] - threshold)
    levels = (np.arange(size) + 0.5) / size
    law = stats.genpareto(shape, loc=threshold, scale=scale)
    expected = np.minimum(np.log(law.ppf(levels)), 0.0) + log_w.max()
    smoothed = np.asarray(pareto.smooth(jnp.asarray(log_w)))
    np.testing.assert_allclose(smoothed[order[-size:]], expected, rtol=1e-9)


def test_the_error_of_a_mean_weight_does_not_overflow():
    """Weights 1e3 nats apart: relative to the largest one counts alone."""
    log_w = jnp.asarray([0.0, -1e3, -1e3, 1e3])
    # One weight of four: std 1/2 over a mean of 1/4, over the root of 4.
    np.testing.assert_allclose(sandwich.log_mean_stderr(log_w), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    "weights",
    [
        np.r_[np.ones(95), 1.5, 2.0, 2.5, 3.0, 3.5],
        np.r_[
            np.full(60, 0.5), np.full(25, 1.0), np.full(10, 2.0), np.arange(3.0, 8.0)
        ],
    ],
)
def test_pareto_smoothing_leaves_ties_with_the_threshold(x64, weights):
    """Only what exceeds the threshold is a tail, and its quantiles are of as many."""
    num_tail = pareto.tail_size(len(weights))
    ordered = np.sort(weights) / weights.max()
    threshold = ordered[-num_tail - 1]
    above = ordered > threshold
    # Held against Zhang & Stephens elsewhere; its grid is as fine as for no ties.
    shape, scale = pareto.fit(jnp.asarray(ordered[-num_tail:] - threshold))
    levels = (np.arange(above.sum()) + 0.5) / above.sum()
    law = stats.genpareto(shape, loc=threshold, scale=scale)
    expected = ordered.copy()
    expected[above] = np.minimum(law.ppf(levels), 1.0)
    smoothed = np.sort(pareto.smooth(jnp.log(jnp.asarray(weights))))
    np.testing.assert_allclose(
        smoothed, np.log(expected * weights.max()), rtol=1e-9, atol=1e-12
    )


def test_too_few_weights_have_no_tail():
    with pytest.raises(ValueError, match="at least 25"):
        pareto.tail_index(jnp.zeros(24))


def test_ends_that_cross_by_little_have_crossed():
    """The tolerance is of the width: certain ends may not cross at all."""
    found = sandwich.interval(jnp.full(64, -1.0), jnp.full(64, -1.09), tolerance=1.0)
    assert not found.consistent
    assert not found.enough


def test_bounds_may_cross_by_four_standard_errors(x64):
    """Of both sides together, as independent errors add up."""
    spread = jnp.log1p(0.1 * jnp.tile(jnp.asarray([1.0, -1.0]), 50))
    one = float(sandwich.log_mean_stderr(spread))
    for errors, consistent in ((3.9, True), (4.1, False)):
        certain = jnp.full(100, -errors * one)
        assert sandwich.interval(spread, certain).consistent == consistent
        # Weights of mean 1 from behind: E[1 / w] has the same error.
        behind = -spread - 2.0**0.5 * errors * one
        assert sandwich.interval(spread, behind).consistent == consistent
    # Ends that cross by chance may do so within the tolerance only.
    behind = -spread - 2.0**0.5 * 3.9 * one
    assert not sandwich.interval(spread, behind, tolerance=0.1 * one).consistent


@pytest.mark.parametrize("size", [-700.0, 700.0])
def test_ends_that_cross_by_rounding_have_not_crossed(size):
    """A few last digits of numbers of that size, of either sign."""
    few = 4 * float(jnp.finfo(jnp.float32).eps) * abs(size)
    found = sandwich.interval(jnp.full(64, size), jnp.full(64, size - few))
    assert found.lower > found.upper
    assert found.consistent
    assert found.enough
    many = 4.0 * few
    found = sandwich.interval(jnp.full(64, size), jnp.full(64, size - many))
    assert not found.consistent


def test_no_weight_at_all_bounds_nothing_from_below():
    found = sandwich.interval(jnp.full(4, -jnp.inf), jnp.zeros(4))
    assert found.lower == -jnp.inf
    assert found.consistent
    assert not found.enough


def test_renyi_of_one_weight_far_above_the_others(x64):
    """Their mean is near all but one: the series may not serve it."""
    log_w = jnp.zeros(100).at[7].set(20.0)
    expected = 2.0 * np.log((99.0 + np.exp(10.0)) / 100.0)
    found = importance.renyi(log_w, jnp.asarray(0.5))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def gaussian_path(temperatures, step_sizes=None, scale=1.0):
    if step_sizes is None:
        step_sizes = jnp.full(len(temperatures), 0.3)
    return annealed.Path(
        lambda z: -0.5 * jnp.sum(z**2),
        lambda z: -0.5 * scale * jnp.sum((z - 1.0) ** 2),
        jnp.asarray(temperatures),
        step_sizes,
        2,
    )


@pytest.mark.parametrize(
    "temperatures", [[0.0, 0.5, 0.9], [1.0, 0.5, 1.0], [1.0, 0.0], [-0.5, 1.0]]
)
def test_temperatures_that_do_not_rise_to_one_have_no_weight(key, temperatures):
    path = gaussian_path(temperatures)
    log_w, _ = jax.jit(lambda key: annealed.forward(key, path, sample_prior))(key)
    assert jnp.isnan(log_w)
    assert jnp.isnan(backward(key, path))


def backward(key, path):
    return jax.jit(lambda key: annealed.backward(key, path, jnp.zeros(2)))(key)


def test_temperatures_that_rise_to_one_have_a_weight(key):
    for kept in (
        [0.0, 0.5, 0.5, 1.0],
        jnp.cumsum(jnp.ones(100) / 100),  # 1 but for rounding
        annealed.sigmoid_schedule(10, sharpness=1.0),
    ):
        assert jnp.isfinite(backward(key, gaussian_path(kept)))


def test_a_path_has_a_step_size_for_each_temperature(key, unchecked):
    for sizes in (jnp.full(3, 0.3), jnp.asarray(0.3)):
        path = gaussian_path([0.5, 1.0], sizes)
        for run in (
            lambda path: annealed.forward(key, path, sample_prior),
            lambda path: annealed.backward(key, path, jnp.zeros(2)),
            lambda path: annealed.tune(key, path, sample_prior),
        ):
            with pytest.raises(ValueError, match=r"must have one shape, .*step_sizes"):
                run(path)


def test_annealed_weights_are_not_differentiated(key):
    """Through what is accepted it would be a wrong number."""

    def log_w(scale, way):
        path = gaussian_path([0.5, 1.0], scale=scale)
        if way == "backward":
            return annealed.backward(key, path, jnp.zeros(2))
        return annealed.forward(key, path, lambda key: jax.random.normal(key, (2,)))[0]

    for way in ("forward", "backward"):
        run = functools.partial(log_w, way=way)
        with pytest.raises(TypeError, match="annealed importance sampling has no deri"):
            jax.jit(jax.grad(run))(1.5)
        fixed = jax.grad(lambda scale, run=run: jax.lax.stop_gradient(run(scale)))(1.5)
        assert fixed == 0.0


def test_a_weight_that_is_no_number_is_none_of_the_bound():
    """Not a bound of -inf, as if all weights were 0."""
    log_w = jnp.asarray([jnp.nan, -1.0])
    for bound in (
        importance.iwae,
        importance.naive,
        importance.effective_sample_size,
        lambda log_w: importance.renyi(log_w, jnp.asarray(2.0)),
        lambda log_w: importance.renyi(log_w, jnp.asarray(-jnp.inf)),
    ):
        assert jnp.isnan(bound(log_w))


def test_renyi_bounds_end_at_the_extreme_weights():
    """The limits of order -inf and inf (Li & Turner 2016), and their gradients."""
    log_w = jnp.asarray([-3.0, -1.0, -2.0])
    for alpha, limit, place in ((-jnp.inf, -1.0, 1), (jnp.inf, -3.0, 0)):
        value, gradient = jax.value_and_grad(importance.renyi)(
            log_w, jnp.asarray(alpha)
        )
        assert value == limit
        np.testing.assert_array_equal(gradient, jnp.eye(3)[place])
        near = importance.renyi(log_w, jnp.asarray(np.copysign(1e4, alpha)))
        # Off by log K over the order.
        np.testing.assert_allclose(near, limit, atol=2e-4)
