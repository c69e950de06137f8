"""The oracles themselves, against brute force in NumPy and SciPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from scipy import integrate, special, stats

from vgm import oracles
from vgm.bounds import importance
from vgm.densities import categorical, multivariate_normal, normal
from vgm.oracles import (
    beta_bernoulli,
    enumeration,
    linear_chain,
    linear_gaussian,
    quadrature,
)

enumeration, linear_gaussian = map(whole, (enumeration, linear_gaussian))

SIZES = (4, 3, 2, 2)


@pytest.fixture
def chain(x64, key):
    """z_3 -> z_2 -> z_1 -> x, all layers of different shapes but the last."""

    def conditional(key, output, size):
        a, b, c = jax.random.split(key, 3)
        factor = jnp.tril(0.4 * normals(c, (output, output)), -1)
        return linear_chain.Conditional(
            normals(a, (output, size)),
            normals(b, (output,)),
            factor + 0.7 * jnp.eye(output),
        )

    keys = jax.random.split(key, 3)
    layers = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return tuple(conditional(*layer) for layer in layers)


def joint_normal(chain):
    """Mean and covariance of (x, z_1, z_2, z_3), by stacking noise sources."""
    total = sum(SIZES)
    starts = np.cumsum((0, *SIZES))
    mixing, mean = np.zeros((total, total)), np.zeros(total)
    top = slice(starts[3], starts[4])
    mixing[top, top] = np.eye(SIZES[3])
    for layer in (2, 1, 0):
        own, above = (slice(starts[i], starts[i + 1]) for i in (layer, layer + 1))
        weights, bias, factor = map(np.asarray, chain[layer])
        mixing[own] = weights @ mixing[above]
        mixing[own, own] += factor
        mean[own] = weights @ mean[above] + bias
    return mean, mixing @ mixing.T, starts


def conditional_of(mean, covariance, wanted, given, values):
    """Mean and covariance of some coordinates given others."""
    solved = np.linalg.solve(
        covariance[np.ix_(given, given)], covariance[np.ix_(given, wanted)]
    ).T
    centre = mean[wanted] + solved @ (values - mean[given])
    return centre, covariance[np.ix_(wanted, wanted)] - solved @ covariance[
        np.ix_(given, wanted)
    ]


def test_chain_evidence_and_joint_equal_one_big_normal(chain, key):
    mean, covariance, starts = joint_normal(chain)
    point = np.asarray(normals(key, (sum(SIZES),)))
    x, *latents = (point[a:b] for a, b in itertools.pairwise(starts))
    law = stats.multivariate_normal(mean[:4], covariance[:4, :4])
    np.testing.assert_allclose(
        linear_chain.log_evidence(chain, jnp.asarray(x)), law.logpdf(x), rtol=1e-11
    )
    joint = linear_chain.log_joint(
        chain, jnp.asarray(x), tuple(map(jnp.asarray, latents))
    )
    expected = stats.multivariate_normal(mean, covariance).logpdf(point)
    np.testing.assert_allclose(joint, expected, rtol=1e-11)
    laws = linear_chain.marginals(chain)
    for law, a, b in zip(laws, starts[:-1], starts[1:], strict=True):
        np.testing.assert_allclose(law.mean, mean[a:b], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(law.covariance, covariance[a:b, a:b], rtol=1e-11)


def test_chain_posteriors_are_conditionals_of_the_big_normal(chain, key):
    mean, covariance, starts = joint_normal(chain)
    x = np.asarray(normals(key, (4,)))
    blocks = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    up = linear_chain.bottom_up_posterior(chain)
    down = linear_chain.top_down_posterior(chain, jnp.asarray(x))
    below = x
    for layer in range(3):
        # q(z_t | z_{t-1}) is p(z_t | z_{t-1}, x): x adds nothing.
        given = np.concatenate([blocks[0], blocks[layer]]) if layer else blocks[0]
        values = np.concatenate([x, below]) if layer else x
        centre, spread = conditional_of(
            mean, covariance, blocks[layer + 1], given, values
        )
        weights, bias, factor = map(np.asarray, up[layer])
        np.testing.assert_allclose(weights @ below + bias, centre, rtol=1e-9)
        np.testing.assert_allclose(factor @ factor.T, spread, rtol=1e-9, atol=1e-12)
        below = centre + 0.3
    above = np.zeros(0)
    for layer in (2, 1, 0):
        given = np.concatenate([blocks[0], *blocks[layer + 2 :][:1]])
        centre, spread = conditional_of(
            mean, covariance, blocks[layer + 1], given, np.concatenate([x, above])
        )
        weights, bias, factor = map(np.asarray, down[layer])
        np.testing.assert_allclose(weights @ above + bias, centre, rtol=1e-9)
        np.testing.assert_allclose(factor @ factor.T, spread, rtol=1e-9, atol=1e-12)
        above = centre - 0.2


def test_chain_weights_are_constant_at_the_exact_posteriors(chain, key):
    x = normals(key, (4,))
    up = linear_chain.bottom_up_posterior(chain)
    down = linear_chain.top_down_posterior(chain, x)
    exact = linear_chain.log_evidence(chain, x)
    for key_draw in jax.random.split(key, 3):
        for z, log_q in (
            linear_chain.sample_bottom_up(key_draw, up, x),
            linear_chain.sample_top_down(key_draw, down),
        ):
            weight = linear_chain.log_joint(chain, x, z) - log_q
            np.testing.assert_allclose(weight, exact, atol=1e-10)


def test_diagonal_conditionals_leave_their_closed_gap(chain, key):
    """The best top z with independent coordinates: 1/2 (sum log P_ii - log det P)."""
    x = normals(key, (4,))
    steep = chain[2]._replace(weights=jnp.asarray([[2.0, 1.5], [1.0, 1.2]]))
    chain = (*chain[:2], steep)
    down = linear_chain.top_down_posterior(chain, x)
    precision = np.linalg.inv(np.asarray(down[2].cholesky @ down[2].cholesky.T))
    factor = jnp.diag(jnp.asarray(np.diag(precision) ** -0.5))
    diagonal = (*down[:2], down[2]._replace(cholesky=factor))

    def log_w(key):
        z, log_q = linear_chain.sample_top_down(key, diagonal)
        return linear_chain.log_joint(chain, x, z) - log_q

    draws = jax.jit(jax.vmap(log_w))(jax.random.split(key, 20_000))
    expected = 0.5 * (
        np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]
    )
    assert expected > 0.05
    gap = linear_chain.log_evidence(chain, x) - draws
    assert abs(gap.mean() - expected) < 4 * gap.std() / np.sqrt(len(gap))


def test_the_evidence_of_many_tosses_keeps_its_digits_in_float32():
    """Log betas of 1e5 tosses would leave a few hundredths of a nat."""
    for seed in range(5):
        x = (np.random.default_rng(seed).random(100_000) < 0.3).astype(np.float32)
        ones = float(x.sum())
        exact = special.betaln(2.0 + ones, 3.0 + x.size - ones) - special.betaln(2, 3)
        prior = beta_bernoulli.Beta(jnp.float32(2.0), jnp.float32(3.0))
        with jax.numpy_dtype_promotion("strict"):
            found = whole(beta_bernoulli.log_evidence)(prior, jnp.asarray(x))
        eps = float(jnp.finfo(jnp.float32).eps)
        np.testing.assert_allclose(found, exact, rtol=4 * eps)


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (0.5, 2.5), (30.0, 2.0)])
def test_beta_bernoulli_equals_quadrature_over_the_probability(x64, a, b):
    prior = beta_bernoulli.Beta(jnp.asarray(a), jnp.asarray(b))
    x = jnp.asarray([1.0, 1.0, 0.0, 1.0])
    mass, _ = integrate.quad(lambda r: stats.beta(a, b).pdf(r) * r**3 * (1 - r), 0, 1)
    evidence = beta_bernoulli.log_evidence(prior, x)
    np.testing.assert_allclose(evidence, np.log(mass), rtol=1e-8)
    posterior = beta_bernoulli.posterior(prior, x)
    assert tuple(posterior) == (a + 3, b + 1)
    # Bayes' rule at a point of the logit.
    logit = jnp.asarray(0.4)
    left = beta_bernoulli.log_joint(prior, x, logit)
    right = evidence + beta_bernoulli.log_prior(posterior, logit)
    np.testing.assert_allclose(left, right, rtol=1e-12)
    r = special.expit(0.4)
    density = stats.beta(a, b).logpdf(r) + np.log(r * (1 - r))
    np.testing.assert_allclose(
        beta_bernoulli.log_prior(prior, logit), density, rtol=1e-12
    )


def test_enumeration_equals_sums_written_out(x64, key):
    log_joint = normals(key, (4,)) - 2.0
    q_logits = jnp.asarray([0.1, -1.0, 0.7, 0.0])
    joint = np.exp(np.asarray(log_joint))
    q = special.softmax(np.asarray(q_logits))
    np.testing.assert_allclose(
        enumeration.log_evidence(log_joint), np.log(joint.sum()), rtol=1e-13
    )
    np.testing.assert_allclose(
        enumeration.posterior(log_joint), joint / joint.sum(), rtol=1e-12
    )
    elbo = (q * np.log(joint / q)).sum()
    np.testing.assert_allclose(enumeration.elbo(log_joint, q_logits), elbo, rtol=1e-12)
    pairs = sum(
        q[i] * q[j] * np.log((joint[i] / q[i] + joint[j] / q[j]) / 2)
        for i in range(4)
        for j in range(4)
    )
    np.testing.assert_allclose(
        enumeration.iwae(log_joint, q_logits, num_samples=2), pairs, rtol=1e-12
    )
    one = enumeration.iwae(log_joint, q_logits, num_samples=1)
    np.testing.assert_allclose(one, elbo, rtol=1e-12)


def test_enumerated_bound_is_the_mean_of_drawn_ones(x64, key):
    log_joint = normals(key, (4,)) - 2.0
    q_logits = jnp.asarray([0.1, -1.0, 0.7, 0.0])
    log_q = jax.nn.log_softmax(q_logits)
    states = jax.random.categorical(key, q_logits, shape=(40_000, 3))
    assert whole(categorical.log_prob)(jnp.asarray(2), q_logits) == log_q[2]
    log_w = np.asarray(log_joint - log_q)[np.asarray(states)]
    draws = np.asarray(whole(jax.vmap(importance.iwae))(log_w))
    exact = enumeration.iwae(log_joint, q_logits, num_samples=3)
    assert abs(draws.mean() - exact) < 4 * draws.std() / np.sqrt(len(draws))


def test_quadrature_equals_scipy_on_a_nonlinear_model(x64):
    x = 0.8

    def log_joint(z):
        zero = jnp.zeros(1)
        likelihood = normal.log_prob(jnp.full(1, x), jnp.sin(3 * z), jnp.full(1, -1.0))
        return likelihood + normal.log_prob(z, zero, zero)

    def joint(z):
        return stats.norm.pdf(x, np.sin(3 * z), np.exp(-1.0)) * stats.norm.pdf(z)

    mass, _ = integrate.quad(joint, -12, 12, limit=400, epsabs=1e-13)
    grid = quadrature.grid(1)
    np.testing.assert_allclose(
        quadrature.log_evidence(log_joint, grid), np.log(mass), rtol=1e-10
    )
    second, _ = integrate.quad(lambda z: z * z * joint(z) / mass, -12, 12, limit=400)
    found = quadrature.posterior_mean(lambda z: z**2, log_joint, grid)
    np.testing.assert_allclose(found, [second], rtol=1e-9)
    assert quadrature.grid(2, num_points=11).points.shape == (121, 2)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.5, 1.0, 1.5])
def test_renyi_of_normals_is_the_integral(x64, alpha):
    """log E_q w^(1 - alpha) / (1 - alpha), on a grid; at 1 the mean of log w."""
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.0, 0.4], [-0.6, 0.9]]),
        jnp.asarray([0.2, 0.0]),
        jnp.asarray(0.1),
    )
    x = jnp.asarray([0.5, -1.0])
    q = linear_gaussian.Normal(
        jnp.asarray([0.3, -0.4]), jnp.asarray([[0.7, 0.0], [0.1, 0.6]])
    )
    nodes = quadrature.grid(2)
    log_q = jax.vmap(lambda z: multivariate_normal.log_prob(z, *q))(nodes.points)
    log_joint = jax.vmap(lambda z: linear_gaussian.log_joint(model, x, z))(nodes.points)
    weight, cell = log_joint - log_q, (20.0 / 400) ** 2
    if alpha == 1.0:
        expected = jnp.sum(jnp.exp(log_q) * weight) * cell
    else:
        total = jnp.sum(jnp.exp(log_q + (1 - alpha) * weight)) * cell
        expected = jnp.log(total) / (1 - alpha)
    found = jax.jit(linear_gaussian.renyi)(model, x, q, alpha)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_renyi_keeps_its_digits_next_to_the_elbo(x64):
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.0, 0.4], [-0.6, 0.9]]), jnp.zeros(2), jnp.asarray(0.1)
    )
    x, q = jnp.ones(2), linear_gaussian.Normal(jnp.zeros(2), 0.5 * jnp.eye(2))
    elbo = linear_gaussian.elbo(model, x, q)
    for alpha in (1.0, 1.0 + 2e-16, 1.0 - 1e-13, 1.0 + 1e-12):
        found = linear_gaussian.renyi(model, x, q, jnp.asarray(alpha))
        np.testing.assert_allclose(found, elbo, rtol=1e-10)
    slopes = [
        jax.grad(linear_gaussian.renyi, 3)(model, x, q, jnp.asarray(alpha))
        for alpha in (1.0, 1.0 + 1e-6)
    ]
    np.testing.assert_allclose(*slopes, rtol=1e-4)


def test_renyi_without_an_integral_is_infinite(x64):
    """A wide q far above 1, a narrow one far below 0, in one direction at least."""
    model = linear_gaussian.LinearGaussian(jnp.eye(2), jnp.zeros(2), jnp.asarray(0.0))
    for scales, alpha, infinite in (
        ((2.0, 2.0), 3.0, -jnp.inf),
        ((2.0, 0.5), 3.0, -jnp.inf),
        ((0.3, 0.7), -3.0, jnp.inf),
        ((jnp.nan, 1.0), -3.0, jnp.nan),
    ):
        q = linear_gaussian.Normal(jnp.zeros(2), jnp.diag(jnp.asarray(scales)))
        found = linear_gaussian.renyi(model, jnp.ones(2), q, jnp.asarray(alpha))
        np.testing.assert_equal(float(found), float(infinite))


def certified(key, shift, num_repetitions=1024):
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.0, 0.4], [-0.6, 0.9]]), jnp.zeros(2), jnp.asarray(-0.3)
    )
    x = jnp.asarray([0.5, -1.0])
    posterior = linear_gaussian.mean_field_posterior(model, x)
    q = posterior._replace(cholesky=1.3 * posterior.cholesky)

    def log_weight(key):
        z = multivariate_normal.sample(key, *q)
        log_joint = linear_gaussian.log_joint(model, x, z)
        return log_joint - multivariate_normal.log_prob(z, *q) + shift

    exact = linear_gaussian.log_evidence(model, x)
    gap = exact - linear_gaussian.elbo(model, x, q)
    found = oracles.certify(key, log_weight, exact, num_repetitions=num_repetitions)
    return found, gap


@pytest.mark.slow
def test_a_right_estimator_is_certified(x64, key):
    certificate, gap = certified(key, 0.0)
    assert abs(certificate.bias_in_stderrs) < 3
    assert certificate.rises.all()
    assert abs(certificate.gap[0] - gap) < 4 * certificate.gap_stderr[0]
    table = str(certificate)
    assert "passes" in table
    assert "rises" in table
    assert "    64   " in table


@pytest.mark.slow
def test_a_wrong_estimator_is_found_out(x64, key):
    """Noise of mean 0 inside the logarithm, a shift: E[w] is no longer p(x)."""
    certificate, _ = certified(key, 0.05)
    assert certificate.bias_in_stderrs > 5
    np.testing.assert_allclose(certificate.bias, np.expm1(0.05), atol=0.01)
    assert "FAILS" in str(certificate)


def test_a_bound_that_falls_with_k_is_found_out(key):
    falling = oracles.certificate.Certificate(
        jnp.zeros(()),
        jnp.zeros(()),
        jnp.zeros(()),
        (1, 2),
        jnp.asarray([0.1, 0.2]),
        jnp.asarray([0.01, 0.01]),
        jnp.asarray([False]),
    )
    assert "DOES NOT RISE" in str(falling)


@pytest.mark.parametrize("x64_on", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.slow
def test_exact_weights_are_certified_in_both_precisions(key, x64_on):
    """A constant weight is right to rounding, and rounding is no bias."""
    with jax.enable_x64(x64_on):
        model = linear_gaussian.LinearGaussian(
            normals(key, (20, 3)), jnp.zeros(20), jnp.asarray(-1.0)
        )
        x = normals(jax.random.key(2), (20,))
        q = linear_gaussian.posterior(model, x)

        def log_weight(key):
            z = multivariate_normal.sample(key, *q)
            log_joint = linear_gaussian.log_joint(model, x, z)
            return log_joint - multivariate_normal.log_prob(z, *q)

        exact = linear_gaussian.log_evidence(model, x)
        found = oracles.certify(key, log_weight, exact, num_repetitions=64)
        assert "passes" in str(found)
        assert found.rises.all()


@pytest.mark.parametrize("log_std", [-5.0, -9.0, -12.0])
def test_evidence_with_little_noise(key, log_std):
    """WW' + s^2 I is singular in float32 there; the reference is in double."""
    weights = np.asarray(normals(key, (20, 3)), np.float64)
    # On the model's plane, to the rounding of x.
    x = jnp.asarray(weights @ np.ones(3), jnp.float32)
    model = linear_gaussian.LinearGaussian(
        jnp.asarray(weights, jnp.float32), jnp.zeros(20), jnp.asarray(log_std)
    )
    actual = linear_gaussian.log_evidence(model, x)
    # log p(x, z) - log p(z | x) at z = 1, but for terms of the noise's size.
    s2 = np.exp(2 * log_std)
    precision = weights.T @ weights / s2 + np.eye(3)
    expected = -0.5 * (
        20 * np.log(2 * np.pi * s2) + 3 * np.log(2 * np.pi) + 3
    ) + 0.5 * (3 * np.log(2 * np.pi) - np.linalg.slogdet(precision)[1])
    # Rounding of x, 1e-7, over a noise of e^-12, squared, and 20 coordinates.
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=0.05)


def test_states_that_q_leaves_out_count_nothing():
    log_joint = jnp.log(jnp.asarray([0.2, 0.3]))
    q_logits = jnp.asarray([0.0, -jnp.inf])
    np.testing.assert_allclose(
        enumeration.elbo(log_joint, q_logits), np.log(0.2), rtol=1e-6
    )
    two = enumeration.iwae(log_joint, q_logits, num_samples=2)
    np.testing.assert_allclose(two, np.log(0.2), rtol=1e-6)


def test_a_heavy_tail_decides_nothing(key):
    """Right weights of one spread: log w ~ N(-s^2 / 2, s^2) has E[w] = 1."""

    def certificate(spread, **settings):
        def log_weight(key):
            return spread * jax.random.normal(key) - 0.5 * spread**2

        return oracles.certify(key, log_weight, jnp.zeros(()), **settings)

    assert "passes" in str(certificate(1.0))
    heavy = certificate(5.0)
    assert heavy.bias_in_stderrs < -3
    assert "undecided" in str(heavy)
    assert "FAILS" not in str(heavy)
    # A mean too high is no matter of the tail.
    assert "FAILS" in str(heavy._replace(bias_in_stderrs=jnp.asarray(4.0)))
    few = certificate(1.0, num_samples=(1, 2), num_repetitions=8)
    assert jnp.isnan(few.tail_index)
    with pytest.raises(ValueError, match="rise"):
        certificate(1.0, num_samples=(4, 1))


def test_a_grid_has_one_or_two_dimensions():
    with pytest.raises(ValueError, match="1 or 2"):
        quadrature.grid(3, num_points=3)


def test_a_chain_keeps_its_precision(x64):
    """Under x64, numbers in float32 give numbers in float32."""
    one = jnp.ones((1, 1), jnp.float32)
    layer = linear_chain.Conditional(one, one[0], one)
    with jax.numpy_dtype_promotion("strict"):
        value = whole(linear_chain.log_joint)((layer,), one[0], (one[0],))
    assert value.dtype == jnp.float32
