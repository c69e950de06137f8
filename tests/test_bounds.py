"""The identities of the evidence and its bounds, against exact evidence."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from scipy import integrate, stats

from vgm.bounds import elbo, importance
from vgm.densities import multivariate_normal
from vgm.divergences import kl_multivariate_normal
from vgm.oracles import linear_gaussian

importance, linear_gaussian = map(whole, (importance, linear_gaussian))
EXACT = 1e-10


@pytest.fixture
def case(x64, key):
    """A linear-Gaussian model, an observation, and a q that is not the posterior."""
    keys = jax.random.split(key, 5)
    model = linear_gaussian.LinearGaussian(
        normals(keys[0], (5, 3)),
        normals(keys[1], (5,)),
        jnp.asarray(-0.4),
    )
    x = normals(keys[2], (5,))
    factor = 0.3 * normals(keys[3], (3, 3)) + jnp.eye(3)
    q = linear_gaussian.Normal(normals(keys[4], (3,)), jnp.tril(factor))
    return model, x, q


# Compiled whole: operation by operation they would be some ten programs a shape.
oracle_elbo = jax.jit(linear_gaussian.elbo)
oracle_log_evidence = jax.jit(linear_gaussian.log_evidence)


def propose(q):
    return lambda key: multivariate_normal.sample(key, *q)


@jax.jit
def gap(model, x, q):
    return kl_multivariate_normal(*q, *linear_gaussian.posterior(model, x))


def log_weights(model, x, q, key, num_samples):
    def one(key):
        z = propose(q)(key)
        log_joint = linear_gaussian.log_joint(model, x, z)
        return log_joint - multivariate_normal.log_prob(z, *q)

    return jax.jit(jax.vmap(one))(jax.random.split(key, num_samples))


def test_evidence_equals_scipy_and_quadrature(x64):
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.5], [-0.7]]), jnp.asarray([0.2, 0.1]), jnp.asarray(-0.6)
    )
    x = jnp.asarray([0.9, -1.1])
    covariance = model.weights @ model.weights.T + jnp.exp(-1.2) * jnp.eye(2)
    expected = stats.multivariate_normal(model.bias, covariance).logpdf(x)
    np.testing.assert_allclose(oracle_log_evidence(model, x), expected, rtol=1e-12)

    def joint(z):
        mean = np.asarray(model.weights)[:, 0] * z + np.asarray(model.bias)
        return stats.norm(mean, np.exp(-0.6)).pdf(x).prod() * stats.norm.pdf(z)

    mass, _ = integrate.quad(joint, -12, 12)
    np.testing.assert_allclose(np.log(mass), expected, atol=1e-9)
    mean, _ = integrate.quad(lambda z: z * joint(z) / mass, -12, 12)
    second, _ = integrate.quad(lambda z: z * z * joint(z) / mass, -12, 12)
    posterior = linear_gaussian.posterior(model, x)
    np.testing.assert_allclose(posterior.mean, [mean], atol=1e-8)
    np.testing.assert_allclose(
        posterior.cholesky[0, 0] ** 2, second - mean**2, atol=1e-8
    )


def test_evidence_less_the_bound_is_the_gap(case):
    model, x, q = case
    evidence = oracle_log_evidence(model, x)
    bound = oracle_elbo(model, x, q)
    chex.assert_trees_all_close(evidence - bound, gap(model, x, q), atol=EXACT, rtol=0)
    assert gap(model, x, q) > 0.1
    exact = elbo.from_gap(evidence, gap(model, x, q))
    chex.assert_trees_all_close(exact, bound, atol=EXACT, rtol=0)


def test_the_bound_is_tight_at_the_posterior(case):
    model, x, _ = case
    posterior = linear_gaussian.posterior(model, x)
    chex.assert_trees_all_close(
        oracle_elbo(model, x, posterior),
        oracle_log_evidence(model, x),
        atol=EXACT,
        rtol=0,
    )


def test_the_mean_field_gap_has_its_closed_form(case):
    model, x, _ = case
    q = linear_gaussian.mean_field_posterior(model, x)
    precision = linear_gaussian.posterior_precision(model)
    expected = 0.5 * (
        jnp.sum(jnp.log(jnp.diagonal(precision))) - jnp.linalg.slogdet(precision)[1]
    )
    chex.assert_trees_all_close(gap(model, x, q), expected, atol=EXACT, rtol=0)
    assert expected > 0.01
    # Any other diagonal q is worse.
    for factor in (0.9, 1.1):
        other = q._replace(cholesky=factor * q.cholesky)
        assert gap(model, x, other) > gap(model, x, q)


def test_the_four_forms_agree(case, key):
    model, x, q = case
    exact = oracle_elbo(model, x, q)
    log_joint = lambda z: linear_gaussian.log_joint(model, x, z)  # noqa: E731
    log_likelihood = lambda z: linear_gaussian.log_likelihood(model, x, z)  # noqa: E731
    log_q = lambda z: multivariate_normal.log_prob(z, *q)  # noqa: E731
    dim = q.mean.size
    log_det = jnp.sum(jnp.log(jnp.diagonal(q.cholesky)))
    entropy = log_det + 0.5 * dim * jnp.log(2 * jnp.pi * jnp.e)
    kl = whole(kl_multivariate_normal)(*q, np.zeros(dim), np.eye(dim))
    forms = {
        "log ratio": lambda k: elbo.from_log_ratio(
            k, propose(q), log_joint, log_q, num_samples=4
        ),
        "entropy": lambda k: elbo.from_entropy(
            k, propose(q), log_joint, entropy, num_samples=4
        ),
        "kl": lambda k: elbo.from_kl(k, propose(q), log_likelihood, kl, num_samples=4),
    }
    for name, form in forms.items():
        draws = jax.jit(jax.vmap(form))(jax.random.split(key, 20_000))
        stderr = draws.std() / np.sqrt(len(draws))
        assert abs(draws.mean() - exact) < 4 * stderr, name


@pytest.mark.parametrize("num_samples", [1, 2, 7, 64])
def test_iwae_is_the_evidence_for_every_k_at_the_posterior(case, key, num_samples):
    model, x, _ = case
    posterior = linear_gaussian.posterior(model, x)
    log_w = log_weights(model, x, posterior, key, num_samples)
    evidence = oracle_log_evidence(model, x)
    chex.assert_trees_all_close(importance.iwae(log_w), evidence, atol=EXACT, rtol=0)
    chex.assert_trees_all_close(
        log_w, jnp.full(num_samples, evidence), atol=EXACT, rtol=0
    )


def test_iwae_with_one_sample_is_the_draw_of_the_elbo(case, key):
    model, x, q = case
    log_w = log_weights(model, x, q, key, 1)
    assert importance.iwae(log_w) == log_w[0]


def test_iwae_rises_with_k_and_stays_below_the_evidence(case, key):
    model, x, _ = case
    q = linear_gaussian.mean_field_posterior(model, x)
    log_w = log_weights(model, x, q, key, 2**15)
    means, errors = [], []
    for num_samples in (1, 4, 16, 64):
        draws = jax.vmap(importance.iwae)(log_w.reshape(-1, num_samples))
        means.append(draws.mean())
        errors.append(draws.std() / np.sqrt(len(draws)))
    assert means[0] < means[1] < means[2] < means[3]
    assert means[3] <= oracle_log_evidence(model, x) + 4 * errors[3]
    exact = oracle_elbo(model, x, q)
    assert abs(means[0] - exact) < 4 * errors[0]


def test_weights_are_unbiased_for_the_evidence(case, key):
    model, x, _ = case
    q = linear_gaussian.mean_field_posterior(model, x)
    q = q._replace(
        cholesky=1.2 * q.cholesky
    )  # wider than the posterior: finite variance
    log_w = log_weights(model, x, q, key, 200_000)
    ratio = jnp.exp(log_w - oracle_log_evidence(model, x))
    assert abs(ratio.mean() - 1.0) < 4 * ratio.std() / np.sqrt(len(ratio))


def test_effective_sample_size_of_known_weights():
    log_w = jnp.log(jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(
        importance.effective_sample_size(log_w), 36.0 / 14.0, rtol=1e-6
    )


@pytest.mark.parametrize("chunk_size", [1, 3, 10, 32])
def test_streaming_equals_all_weights_at_once(x64, key, chunk_size):
    def log_weight(key):
        return 3.0 * jax.random.normal(key, (4,))

    sums = jax.jit(
        lambda k: importance.stream(
            k, log_weight, num_samples=32, chunk_size=chunk_size
        )
    )(key)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(32))
    log_w = jax.vmap(log_weight)(keys)
    iwae = jax.vmap(importance.iwae, in_axes=1)(log_w)
    ess = jax.vmap(importance.effective_sample_size, in_axes=1)(log_w)
    chex.assert_trees_all_close(importance.log_evidence(sums), iwae, rtol=1e-12)
    chex.assert_trees_all_close(importance.effective_samples(sums), ess, rtol=1e-12)


def test_streaming_memory_does_not_grow_with_k(key):
    def peak(num_samples):
        function = jax.jit(
            lambda k: importance.stream(
                k,
                lambda k: jax.random.normal(k, (100, 50)).sum(1),
                num_samples=num_samples,
                chunk_size=10,
            )
        )
        return function.lower(key).compile().memory_analysis().temp_size_in_bytes

    assert peak(10_000) == peak(100)


def test_weights_far_out_of_range_keep_their_mean():
    log_w = jnp.asarray([-2000.0, -2000.0 + jnp.log(3.0)])
    np.testing.assert_allclose(importance.iwae(log_w), -2000.0 + np.log(2.0))
    assert importance.iwae(jnp.full(3, -jnp.inf)) == -jnp.inf


def test_terms_add_up_to_the_bound(key):
    a, b = normals(key, (2, 6))
    layers = normals(key, (6, 4))
    terms = elbo.ElboTerms(a, b, layers)
    np.testing.assert_allclose(terms.elbo, a - b - layers.sum(1), rtol=1e-5)
    # The layers are the last axis, whatever comes before it.
    one = elbo.ElboTerms(a[0], b[0], layers[0])
    np.testing.assert_allclose(one.elbo, a[0] - b[0] - layers[0].sum(), rtol=1e-5)
    single = elbo.single_latent_terms(a, b)
    chex.assert_shape(single.denoising_matching, (6, 0))
    np.testing.assert_allclose(single.elbo, a - b)


@pytest.mark.parametrize("chunk_size", [1, 4, 50])
def test_streaming_keeps_small_weights_far_from_zero(key, chunk_size):
    """At -10,600 nats in float32 a running logarithm would stop counting."""
    centre, num_samples = -10_600.0, 5_000
    sums = importance.stream(
        key,
        lambda k: centre + jax.random.normal(k, (2,)),
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(num_samples))
    log_w = jax.vmap(lambda k: centre + jax.random.normal(k, (2,)))(keys)
    weights = np.exp(np.asarray(log_w, np.float64) - centre)
    # One ulp of a float32 at 10,600 is 0.001.
    expected = centre + np.log(weights.mean(0))
    np.testing.assert_allclose(importance.log_evidence(sums), expected, atol=2e-3)
    ess = weights.sum(0) ** 2 / (weights**2).sum(0)
    np.testing.assert_allclose(importance.effective_samples(sums), ess, rtol=1e-4)


def test_weights_of_zero_count_as_zero(key):
    nothing = importance.accumulate(
        importance.empty_accumulator(jnp.zeros(())), jnp.full(3, -jnp.inf)
    )
    assert importance.log_evidence(nothing) == -jnp.inf
    assert importance.effective_samples(nothing) == 0.0
    some = importance.accumulate(nothing, jnp.asarray([0.0, -jnp.inf]))
    np.testing.assert_allclose(importance.log_evidence(some), -np.log(5.0), rtol=1e-6)
    assert importance.effective_samples(some) == 1.0
