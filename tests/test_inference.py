"""EM: monotone, tight after each E-step, and at the known maximum."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from scipy import special, stats

from vgm.inference import em, gaussian_mixture, probabilistic_pca
from vgm.oracles import linear_gaussian

gaussian_mixture, linear_gaussian, probabilistic_pca = map(
    whole, (gaussian_mixture, linear_gaussian, probabilistic_pca)
)


@pytest.fixture
def clusters(key):
    keys = jax.random.split(key, 3)
    shift = jnp.asarray([[4.0, 0.0], [0.0, 3.0], [-3.0, -3.0]])
    parts = [
        normals(k, (n, 2)) * s + c[None]
        for k, n, s, c in zip(
            keys, (150, 250, 100), (1.0, 0.5, 0.8), shift, strict=True
        )
    ]
    return jnp.concatenate(parts)


def mixture_fit(x, key, *, chunk_size=64, **settings):
    start = gaussian_mixture.init(key, x, num_components=3)
    return start, em.fit(
        lambda params: gaussian_mixture.e_step(params, x, chunk_size=chunk_size),
        gaussian_mixture.m_step,
        start,
        **settings,
    )


def rises(fit):
    bounds = np.asarray(fit.bounds)[: int(fit.num_steps)]
    return np.diff(bounds).min()


def test_a_mixture_of_more_components_than_examples_is_refused(key):
    """Means are at examples, each at another."""
    x = normals(key, (3, 2))
    with pytest.raises(ValueError, match="num_components must be from 1 to 3"):
        gaussian_mixture.init(key, x, num_components=4)


def test_mixture_em_follows_the_textbook(x64, clusters, key):
    """Three steps, written out in NumPy with explicit sums."""
    start, fit = mixture_fit(clusters, key, tolerance=0.0, max_steps=3)
    x = np.asarray(clusters)
    weights = special.softmax(np.asarray(start.logits))
    means = np.asarray(start.mean)
    covariances = [np.asarray(c @ c.T) for c in start.cholesky]
    for step in range(3):
        joint = np.stack(
            [
                w * stats.multivariate_normal(m, c).pdf(x)
                for w, m, c in zip(weights, means, covariances, strict=True)
            ],
            axis=1,
        )
        np.testing.assert_allclose(
            fit.bounds[step], np.log(joint.sum(1)).mean(), rtol=1e-10
        )
        r = joint / joint.sum(1, keepdims=True)
        weights = r.mean(0)
        means = (r.T @ x) / r.sum(0)[:, None]
        covariances = [
            ((x - m).T * r[:, k]) @ (x - m) / r[:, k].sum() for k, m in enumerate(means)
        ]
    np.testing.assert_allclose(special.softmax(fit.params.logits), weights, rtol=1e-9)
    np.testing.assert_allclose(fit.params.mean, means, rtol=1e-8)
    found = [np.asarray(c @ c.T) for c in fit.params.cholesky]
    np.testing.assert_allclose(found, covariances, rtol=1e-8, atol=1e-10)


def test_mixture_evidence_never_falls(x64, clusters, key):
    _, fit = mixture_fit(clusters, key, tolerance=1e-9, max_steps=500)
    assert fit.converged
    assert rises(fit) > -1e-12
    # After its E-step the bound is the evidence.
    evidence = jax.vmap(gaussian_mixture.log_prob, (None, 0))(fit.params, clusters)
    np.testing.assert_allclose(
        evidence.mean(), fit.bounds[fit.num_steps - 1], atol=1e-8
    )
    assert np.isnan(fit.bounds[fit.num_steps :]).all()


@pytest.mark.parametrize("chunk_size", [1, 7, 500, 10_000])
def test_chunks_do_not_change_the_statistics(x64, clusters, key, chunk_size):
    start = gaussian_mixture.init(key, clusters, num_components=3)
    expected = gaussian_mixture.e_step(start, clusters, chunk_size=100)
    actual = gaussian_mixture.e_step(start, clusters, chunk_size=chunk_size)
    chex.assert_trees_all_close(actual, expected, rtol=1e-10)


def test_mixture_far_from_the_origin_keeps_its_digits(clusters, key):
    """Float32 at 10,000: raw second moments of 1e8 would leave no variance."""
    far = clusters + 1e4
    _, near_fit = mixture_fit(clusters, key, tolerance=1e-5, max_steps=20)
    _, far_fit = mixture_fit(far, key, tolerance=1e-5, max_steps=20)
    # The data themselves are rounded to 1e-3 out there.
    last = near_fit.bounds[near_fit.num_steps - 1]
    np.testing.assert_allclose(far_fit.bounds[far_fit.num_steps - 1], last, atol=0.01)


def test_a_million_points_stream_in_the_memory_of_a_chunk(key):
    start = gaussian_mixture.GaussianMixture(
        jnp.zeros(3), jnp.zeros((3, 2)), jnp.broadcast_to(jnp.eye(2), (3, 2, 2))
    )

    def temporary(num_examples):
        x = jax.ShapeDtypeStruct((num_examples, 2), jnp.float32)
        step = jax.jit(lambda p, x: gaussian_mixture.e_step(p, x, chunk_size=4000))
        analysis = step.lower(start, x).compile().memory_analysis()
        return analysis.temp_size_in_bytes

    assert temporary(1_000_000) <= 1.1 * temporary(8000)
    x = normals(key, (1_000_000, 2))
    statistics, bound = jax.jit(gaussian_mixture.e_step)(start, x)
    np.testing.assert_allclose(statistics.total.sum(), 1e6, rtol=1e-3)
    # Entropy of N(0, I) in two dimensions, within 4 standard errors of 1e-3.
    np.testing.assert_allclose(bound, -np.log(2 * np.pi) - 1.0, atol=4e-3)


def test_a_component_without_examples_stays_where_it_is(x64, clusters):
    far = gaussian_mixture.GaussianMixture(
        jnp.zeros(2),
        jnp.asarray([[0.0, 0.0], [1e6, 1e6]]),
        jnp.broadcast_to(jnp.eye(2), (2, 2, 2)),
    )
    statistics, _ = gaussian_mixture.e_step(far, clusters)
    after = gaussian_mixture.m_step(statistics)
    assert after.logits[1] == -jnp.inf
    np.testing.assert_array_equal(after.mean[1], far.mean[1])
    np.testing.assert_array_equal(after.cholesky[1], far.cholesky[1])
    _, bound = gaussian_mixture.e_step(after, clusters)
    assert np.isfinite(bound)


def test_a_ridge_is_added_to_every_variance(x64, clusters, key):
    start = gaussian_mixture.init(key, clusters, num_components=2)
    statistics, _ = gaussian_mixture.e_step(start, clusters)
    plain = gaussian_mixture.m_step(statistics)
    ridged = gaussian_mixture.m_step(statistics, ridge=0.3)
    for a, b in zip(plain.cholesky, ridged.cholesky, strict=True):
        np.testing.assert_allclose(b @ b.T, a @ a.T + 0.3 * np.eye(2), rtol=1e-10)


@pytest.fixture
def pca(x64, key):
    keys = jax.random.split(key, 4)
    weights = normals(keys[0], (6, 2))
    noise = 0.6 * normals(keys[1], (400, 6))
    x = normals(keys[2], (400, 2)) @ weights.T + noise + 3.0
    start = linear_gaussian.LinearGaussian(
        normals(keys[3], (6, 2)), jnp.zeros(6), jnp.zeros(())
    )
    data = probabilistic_pca.moments(x, chunk_size=64)
    return x, data, start._replace(bias=data.mean)


def test_pca_moments_are_those_of_numpy(pca):
    x, data, _ = pca
    np.testing.assert_allclose(data.mean, np.mean(x, 0), rtol=1e-12)
    np.testing.assert_allclose(data.scatter, np.cov(x.T, bias=True), rtol=1e-10)


def test_pca_mean_evidence_is_the_mean_of_the_evidences(pca):
    x, data, start = pca
    each = jax.vmap(linear_gaussian.log_evidence, (None, 0))(start, x)
    np.testing.assert_allclose(
        probabilistic_pca.mean_log_evidence(start, data), each.mean(), rtol=1e-12
    )


def test_pca_maximum_has_the_closed_form_of_tipping_and_bishop(pca):
    _, data, _ = pca
    model = probabilistic_pca.maximum_likelihood(data, latent_dim=2)
    values = np.sort(np.linalg.eigvalsh(data.scatter))[::-1]
    noise = values[2:].mean()
    expected = -0.5 * (
        6 * np.log(2 * np.pi) + np.log(values[:2]).sum() + 4 * np.log(noise) + 6
    )
    np.testing.assert_allclose(np.exp(2 * model.log_std), noise, rtol=1e-12)
    np.testing.assert_allclose(
        probabilistic_pca.mean_log_evidence(model, data), expected, rtol=1e-12
    )
    gradient = whole(jax.grad(probabilistic_pca.mean_log_evidence))(model, data)
    chex.assert_trees_all_close(
        gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-11
    )


def test_pca_em_climbs_to_the_maximum(pca):
    _, data, start = pca
    fit = em.fit(
        lambda params: probabilistic_pca.e_step(params, data),
        probabilistic_pca.m_step,
        start,
        tolerance=1e-14,
        max_steps=3000,
    )
    assert rises(fit) > -1e-12
    best = probabilistic_pca.maximum_likelihood(data, latent_dim=2)
    np.testing.assert_allclose(
        probabilistic_pca.mean_log_evidence(fit.params, data),
        probabilistic_pca.mean_log_evidence(best, data),
        atol=1e-10,
    )


def test_variational_em_never_falls_and_its_bound_is_the_elbo(pca):
    x, data, start = pca
    statistics, bound = probabilistic_pca.mean_field_e_step(start, data)
    one = jax.vmap(
        lambda x: linear_gaussian.elbo(
            start, x, linear_gaussian.mean_field_posterior(start, x)
        )
    )
    each = whole(one)(x)
    np.testing.assert_allclose(bound, each.mean(), rtol=1e-12)
    assert bound < probabilistic_pca.mean_log_evidence(start, data) - 1e-3
    fit = em.fit(
        lambda params: probabilistic_pca.mean_field_e_step(params, data),
        probabilistic_pca.m_step,
        start,
        tolerance=1e-10,
        max_steps=500,
    )
    assert rises(fit) > -1e-12
    evidence = probabilistic_pca.mean_log_evidence(fit.params, data)
    assert fit.bounds[fit.num_steps - 1] <= evidence + 1e-12
    # The M-step maximises: no small change of the parameters does better.
    after = probabilistic_pca.m_step(statistics)

    def expected_log_joint(model):
        """E_q log p(x, z), an example, from the same statistics."""
        spread = jnp.trace(data.scatter) - 2 * jnp.sum(model.weights * statistics.x_z)
        spread += jnp.sum((model.weights.T @ model.weights) * statistics.z_z)
        return -6 * model.log_std - 0.5 * spread * jnp.exp(-2 * model.log_std)

    gradient = jax.grad(expected_log_joint)(after)
    chex.assert_trees_all_close(
        gradient, jax.tree.map(jnp.zeros_like, gradient), atol=1e-10
    )


def test_fit_stops_at_the_limit_or_when_nothing_is_gained():
    def e_step(params):
        return params, 1.0 - 2.0**-params

    halves = em.fit(e_step, lambda s: s + 1.0, jnp.ones(()), tolerance=0.1, max_steps=9)
    # Bounds 1/2, 3/4, 7/8, 15/16: the rise of 1/16 is below the tolerance.
    np.testing.assert_allclose(halves.bounds[:4], [0.5, 0.75, 0.875, 0.9375])
    assert (int(halves.num_steps), bool(halves.converged)) == (4, True)
    short = em.fit(e_step, lambda s: s + 1.0, jnp.ones(()), tolerance=0.0, max_steps=3)
    assert (int(short.num_steps), bool(short.converged)) == (3, False)
    assert short.params == 4.0


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 7])
def test_summed_takes_every_example_once(chunk_size):
    data = {"a": jnp.arange(5.0), "b": jnp.arange(10.0).reshape(5, 2)}
    sums = em.summed(lambda row: row, data, chunk_size=chunk_size)
    chex.assert_trees_all_close(sums, {"a": 10.0, "b": jnp.asarray([20.0, 25.0])})


def test_constant_coordinates_can_be_started_from(key):
    """As the border pixels of an image."""
    x = normals(key, (100, 3)).at[:, 1].set(5.0)
    start = gaussian_mixture.init(key, x, num_components=2)
    assert np.isfinite(start.cholesky).all()
    fit = em.fit(
        lambda params: gaussian_mixture.e_step(params, x),
        lambda statistics: gaussian_mixture.m_step(statistics, ridge=1e-2),
        start,
        tolerance=1e-4,
        max_steps=20,
    )
    assert np.isfinite(fit.bounds[: fit.num_steps]).all()


def test_no_two_components_start_at_the_same_example(key):
    x = jnp.arange(6.0)[:, None]

    def means(key):
        return gaussian_mixture.init(key, x, num_components=6).mean

    # Drawn with replacement all six would be others once in 65 times.
    for found in jax.jit(jax.vmap(means))(jax.random.split(key, 5)):
        assert len(np.unique(found)) == 6


def test_a_ridge_is_there_from_the_start(key):
    x = np.arange(6.0)
    start = gaussian_mixture.init(
        key, jnp.asarray(x)[:, None], num_components=2, ridge=5.0
    )
    # Rounding of float32, and a millionth of the variance.
    np.testing.assert_allclose(start.cholesky[:, 0, 0] ** 2, x.var() + 5.0, rtol=1e-4)


def test_a_bound_that_is_not_a_number_ends_the_run_with_the_parameters_before():
    def e_step(params):
        return params, jnp.where(params > 2.5, jnp.nan, params)

    fit = em.fit(e_step, lambda s: s + 1.0, jnp.ones(()), tolerance=0.1, max_steps=9)
    assert (int(fit.num_steps), bool(fit.converged)) == (3, False)
    assert fit.params == 2.0


def test_fewer_examples_than_dimensions_leave_the_noise_of_rounding(key):
    data = probabilistic_pca.moments(normals(key, (4, 20)))
    model = probabilistic_pca.maximum_likelihood(data, latent_dim=5)
    assert np.isfinite(model.log_std)
    assert np.isfinite(
        probabilistic_pca.m_step(probabilistic_pca.e_step(model, data)[0]).log_std
    )


def test_em_keeps_the_last_parameters_of_a_finite_bound():
    """Steps 1, 2, 3 and then a number that is none, from the bound or the M-step."""

    def fit(bound, after):
        return em.fit(
            lambda p: (p, bound(p)), after, jnp.zeros(()), tolerance=0.1, max_steps=9
        )

    lost = fit(lambda p: jnp.where(p > 2.5, jnp.nan, p), lambda p: p + 1.0)
    assert lost.params == 2.0
    assert not lost.converged
    broken = fit(lambda p: p, lambda p: jnp.where(p > 1.5, jnp.nan, p + 1.0))
    assert broken.params == 2.0
    assert broken.num_steps == 3
    assert not broken.converged


def test_a_bound_that_falls_has_not_converged():
    found = em.fit(
        lambda p: (p, -p), lambda p: p + 1.0, jnp.ones(()), tolerance=0.1, max_steps=5
    )
    assert not found.converged
    assert found.num_steps == 5


def test_em_takes_a_step_at_least():
    with pytest.raises(ValueError, match="max_steps"):
        em.fit(lambda p: (p, p), lambda p: p, jnp.ones(()), tolerance=0.1, max_steps=0)


def test_a_component_that_loses_its_examples_does_not_end_the_run(x64, clusters, key):
    """Its weight is 0 from then on; the two that are left go to their maximum."""

    def fitted(start):
        return em.fit(
            lambda params: gaussian_mixture.e_step(params, clusters, chunk_size=64),
            gaussian_mixture.m_step,
            start,
            tolerance=1e-9,
            max_steps=500,
        )

    start = gaussian_mixture.init(key, clusters, num_components=3)
    far = start._replace(mean=start.mean.at[0].set(1e3))
    fit = fitted(far)
    assert fit.converged
    assert jnp.isneginf(fit.params.logits[0])
    alone = fitted(gaussian_mixture.GaussianMixture(*(leaf[1:] for leaf in far)))
    last, other = (each.bounds[each.num_steps - 1] for each in (fit, alone))
    np.testing.assert_allclose(last, other, rtol=1e-8)


@pytest.mark.parametrize("latent_dim", [0, 3, 4])
def test_principal_components_are_fewer_than_the_dimensions(latent_dim):
    data = probabilistic_pca.moments(jnp.asarray(np.eye(5, 3)))
    with pytest.raises(ValueError, match="latent_dim must be from 1 to 2"):
        inspect.unwrap(probabilistic_pca.maximum_likelihood)(
            data, latent_dim=latent_dim
        )
