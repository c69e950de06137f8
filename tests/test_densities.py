"""Log densities against scipy, in both precisions, at extremes, under jit and vmap."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads
from scipy import special, stats

from vgm import numerics
from vgm.densities import (
    bernoulli,
    categorical,
    discretized_logistic,
    discretized_logistic_mixture,
    discretized_normal,
    mixture,
    multivariate_normal,
    normal,
)

SHAPES = [(), (3,), (2, 3)]
reals = functools.partial(st.floats, allow_subnormal=False, width=32)


def arrays(shape, low, high):
    return hnp.arrays(np.float64, shape, elements=reals(low, high))


# Reference first: a formula of scipy or written out, never the function under test.
def normal_reference(x, mean, log_std):
    return stats.norm(mean, np.exp(log_std)).logpdf(x).sum()


def bernoulli_reference(x, logits):
    log_one, log_zero = -np.logaddexp(0, -logits), -np.logaddexp(0, logits)
    return np.where(x == 1, log_one, log_zero).sum()


def logistic_reference(x, mean, log_scale, levels):
    h, y = 1 / (levels - 1), 2 * x / (levels - 1) - 1
    law = stats.logistic(mean, np.exp(log_scale))
    upper = np.where(x == levels - 1, 1.0, law.cdf(y + h))
    lower = np.where(x == 0, 0.0, law.cdf(y - h))
    return np.log(upper - lower).sum()


@given(st.sampled_from(SHAPES), st.data())
@settings(max_examples=30, deadline=None)
def test_normal_equals_scipy(shape, data):
    x = data.draw(arrays(shape, -50, 50))
    mean = data.draw(arrays(shape, -50, 50))
    log_std = data.draw(arrays(shape, -5, 5))
    expected = normal_reference(x, mean, log_std)
    with jax.enable_x64(True):
        actual = compiled_normal(x, mean, log_std)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    single = compiled_normal(x, mean, log_std)  # rounded to float32
    # Float32 carries 7 digits; the square and exp(-log_std) each lose a few ulps, and
    # sums cancel against the log_std terms.
    np.testing.assert_allclose(single, expected, rtol=2e-6, atol=2e-4)


# Compiled whole: operation by operation they would be dozens of programs a shape.
compiled_normal = jax.jit(normal.log_prob)
compiled_bernoulli = jax.jit(bernoulli.log_prob)
compiled_bernoulli_entropy = jax.jit(bernoulli.entropy)
compiled_categorical_entropy = jax.jit(categorical.entropy)
compiled_categorical = jax.jit(categorical.log_prob)
compiled_discretized_normal = jax.jit(
    discretized_normal.log_prob, static_argnames="levels"
)
compiled_discretized_logistic = jax.jit(
    discretized_logistic.log_prob, static_argnames="levels"
)
compiled_mixture = jax.jit(
    discretized_logistic_mixture.log_prob, static_argnames="levels"
)


def log_masses(log_prob, levels, *parameters):
    """Of every level at scalar parameters."""
    x = np.arange(levels)
    rows = (np.full(levels, value) for value in parameters)
    return jax.jit(jax.vmap(functools.partial(log_prob, levels=levels)))(x, *rows)


def discretized_normal_reference(x, mean, log_std, levels):
    # The distribution function on the side of the smaller tail, where scipy's keeps
    # its digits.
    h, y = 1 / (levels - 1), 2 * x / (levels - 1) - 1
    a, b = (y + h - mean) / np.exp(log_std), (y - h - mean) / np.exp(log_std)
    log_upper = np.where(x == levels - 1, 0.0, stats.norm.logcdf(a))
    log_lower = np.where(x == 0, -np.inf, stats.norm.logcdf(b))
    log_above = np.where(x == 0, 0.0, stats.norm.logcdf(-b))
    log_below = np.where(x == levels - 1, -np.inf, stats.norm.logcdf(-a))
    with np.errstate(divide="ignore"):  # the side that is not chosen
        left = log_upper + np.log1p(-np.exp(log_lower - log_upper))
        right = log_above + np.log1p(-np.exp(log_below - log_above))
    return np.where(y < mean, left, right).sum()


@given(st.sampled_from(SHAPES), st.sampled_from([2, 17, 256]), st.data())
@settings(max_examples=30, deadline=None)
def test_discretized_normal_equals_a_difference_of_scipy_cdfs(shape, levels, data):
    x = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, levels - 1)))
    mean = data.draw(arrays(shape, -1, 1))
    log_std = data.draw(arrays(shape, -5, 2))
    expected = discretized_normal_reference(x, mean, log_std, levels)
    with jax.enable_x64(True):
        actual = compiled_discretized_normal(
            jnp.asarray(x), jnp.asarray(mean), jnp.asarray(log_std), levels=levels
        )
    # The reference subtracts two cdfs: its own rounding, 1e-16 over a mass of 1e-4.
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)
    single = compiled_discretized_normal(
        jnp.asarray(x),
        *(jnp.asarray(a, jnp.float32) for a in (mean, log_std)),
        levels=levels,
    )
    # exp(-log_std) squared carries 2e-7 |log_std| of relative error.
    np.testing.assert_allclose(single, expected, rtol=4e-6, atol=1e-4)


@pytest.mark.parametrize("log_std", [-30.0, -1.0, 2.0, 30.0])
@pytest.mark.parametrize("levels", [2, 256])
def test_discretized_normal_sums_to_one(x64, levels, log_std):
    log_mass = log_masses(discretized_normal.log_prob, levels, 0.13, log_std)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_mass)), 1.0, atol=1e-12)


@pytest.mark.parametrize("log_std", [10.0, 20.0, 30.0])
def test_discretized_normal_of_a_flat_density_is_its_height_times_the_width(log_std):
    # A difference of float32 distribution functions is 0 here.
    x, mean = jnp.asarray(128), jnp.asarray(0.3)
    actual = compiled_discretized_normal(x, mean, jnp.asarray(log_std), levels=256)
    expected = np.log(2 / 255) - log_std - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("log_std", [-30.0, 30.0])
@pytest.mark.parametrize("x", [0, 1, 128, 254, 255])
def test_discretized_normal_gradients_survive_extreme_scales(x, log_std):
    value, grads = jax.value_and_grad(compiled_discretized_normal, (1, 2))(
        jnp.asarray(x), jnp.asarray(0.3), jnp.asarray(log_std), levels=256
    )
    assert np.isfinite(value)
    assert all(np.isfinite(grad) for grad in grads)
    if log_std < 0 and x not in (0, 255):
        # Far out log Phi is -((y -+ h - mean) / std)^2 / 2, whichever edge is nearer.
        y = 2 * x / 255 - 1
        edge = y - np.sign(y - 0.3) / 255
        slope = (edge - 0.3) * np.exp(60.0)
        np.testing.assert_allclose(grads[0], slope, rtol=1e-4)
        np.testing.assert_allclose(grads[1], (edge - 0.3) * slope, rtol=1e-4)


def test_mixture_equals_the_written_out_sum(x64, key):
    key_x, key_logits = jax.random.split(key)
    by_component = normals(key_x, (4,))
    logits = 3.0 * normals(key_logits, (4,))
    weights = np.exp(logits) / np.exp(logits).sum()
    expected = np.log((weights * np.exp(by_component)).sum())
    np.testing.assert_allclose(
        mixture.log_prob(by_component, logits), expected, rtol=1e-14
    )
    joint = weights * np.exp(by_component)
    np.testing.assert_allclose(
        mixture.responsibilities(by_component, logits), joint / joint.sum(), rtol=1e-12
    )
    # A constant on the logits, weights that vanish, a component that excludes x.
    np.testing.assert_allclose(
        mixture.log_prob(by_component, logits + 1e4), expected, rtol=1e-10
    )
    far = jnp.asarray([0.0, -1e4])
    assert mixture.log_prob(jnp.asarray([-3.0, 5.0]), far) == -3.0
    assert mixture.log_prob(
        jnp.asarray([-3.0, -jnp.inf]), jnp.zeros(2)
    ) == -3.0 - jnp.log(2.0)


def image_parameters(key, height=2, width=1, components=3, channels=3):
    shapes = [(), (channels,), (channels,), (channels * (channels - 1) // 2,)]
    keys = jax.random.split(key, 4)
    return discretized_logistic_mixture.Parameters(
        *(
            scale * normals(k, (height, width, components, *shape))
            for k, shape, scale in zip(keys, shapes, (1.0, 0.5, 0.5, 0.7), strict=True)
        )
    )


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_logistic_mixture_equals_loops_over_pixels_and_components(x64, key, channels):
    levels, parameters = 7, image_parameters(key, channels=channels)
    x = np.asarray(jax.random.randint(key, (2, 1, channels), 0, levels))
    y = 2 * x / (levels - 1) - 1
    expected = 0.0
    for i in range(2):
        logits, mean, log_scale, coupling = (np.asarray(p)[i, 0] for p in parameters)
        mass = 0.0
        for m, weight in enumerate(np.exp(logits) / np.exp(logits).sum()):
            shifted = mean[m].copy()
            if channels > 1:
                shifted[1] += coupling[m, 0] * y[i, 0, 0]
            if channels > 2:
                shifted[2] += coupling[m, 1:] @ y[i, 0, :2]
            mass += weight * np.exp(
                logistic_reference(x[i, 0], shifted, log_scale[m], levels)
            )
        expected += np.log(mass)
    actual = compiled_mixture(jnp.asarray(x), parameters, levels=levels)
    np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.slow
def test_logistic_mixture_sums_to_one_over_colours(x64, key):
    levels, parameters = 3, image_parameters(key, height=1)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(levels)] * 3), -1).reshape(-1, 1, 1, 3)
    log_mass = jax.vmap(
        lambda x: discretized_logistic_mixture.log_prob(x, parameters, levels=levels)
    )(grid)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_mass)), 1.0, atol=1e-12)


@given(st.sampled_from(SHAPES), st.data())
@settings(max_examples=20, deadline=None)
def test_discrete_entropies_equal_scipy(shape, data):
    logits = data.draw(arrays(shape, -60, 60))
    levels = data.draw(arrays((*shape, 5), -30, 30))
    p = 1 / (1 + np.exp(-logits))
    softmax = np.exp(levels - levels.max(-1, keepdims=True))
    with jax.enable_x64(True):
        binary = compiled_bernoulli_entropy(logits)
        many = compiled_categorical_entropy(levels)
    np.testing.assert_allclose(binary, stats.bernoulli(p).entropy().sum(), atol=1e-11)
    np.testing.assert_allclose(many, stats.entropy(softmax, axis=-1).sum(), atol=1e-11)


@pytest.mark.parametrize("logit", [25.0, -25.0])
def test_bernoulli_entropy_keeps_its_digits_near_certainty(logit):
    """About (1 + |l|) exp(-|l|): a difference of two large terms has none left."""
    p = 1 / (1 + np.exp(25.0))
    expected = -p * np.log(p) - np.log1p(-p) * (1 - p)
    np.testing.assert_allclose(
        bernoulli.entropy(jnp.asarray(logit)), expected, rtol=1e-5
    )


@pytest.mark.parametrize("logit", [1e4, -1e4])
def test_discrete_entropies_vanish_at_extreme_logits(logit):
    value, grad = whole(jax.value_and_grad(bernoulli.entropy))(jnp.asarray(logit))
    assert value == 0.0
    assert grad == 0.0
    both = whole(jax.value_and_grad(categorical.entropy))
    value, grad = both(jnp.asarray([logit, 0.0]))
    assert value == 0.0
    assert (grad == 0.0).all()


@given(st.sampled_from(SHAPES), st.data())
@settings(max_examples=30, deadline=None)
def test_bernoulli_equals_the_written_out_mass(shape, data):
    x = data.draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0])))
    logits = data.draw(arrays(shape, -60, 60))
    expected = bernoulli_reference(x, logits)
    with jax.enable_x64(True):
        actual = compiled_bernoulli(x, logits)
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-14)


@given(st.sampled_from(SHAPES), st.integers(2, 17), st.data())
@settings(max_examples=30, deadline=None)
def test_categorical_equals_scipy(shape, levels, data):
    x = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, levels - 1)))
    logits = data.draw(arrays((*shape, levels), -30, 30))
    exponential = np.exp(logits - logits.max(-1, keepdims=True))
    p = exponential / exponential.sum(-1, keepdims=True)
    expected = np.log(np.take_along_axis(p, x[..., None].astype(int), -1)).sum()
    with jax.enable_x64(True):
        actual = compiled_categorical(jnp.asarray(x), jnp.asarray(logits))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


@given(st.sampled_from(SHAPES), st.sampled_from([2, 17, 256]), st.data())
@settings(max_examples=30, deadline=None)
def test_discretized_logistic_equals_a_difference_of_scipy_cdfs(shape, levels, data):
    x = data.draw(hnp.arrays(np.int32, shape, elements=st.integers(0, levels - 1)))
    mean = data.draw(arrays(shape, -1, 1))
    log_scale = data.draw(arrays(shape, -2, 2))
    expected = logistic_reference(x, mean, log_scale, levels)
    with jax.enable_x64(True):
        actual = compiled_discretized_logistic(
            jnp.asarray(x), jnp.asarray(mean), jnp.asarray(log_scale), levels=levels
        )
    # The reference subtracts two cdfs: its own rounding, 1e-16 over a mass of 1e-4.
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-10)


def test_discretized_logistic_keeps_the_far_tail(x64):
    # 30 scales out the difference of cdfs is 0 in double precision; the tail is
    # exp(-a) (e^{2h/s} - 1) to first order, written here in logarithms.
    levels, scale, x, mean = 17, 0.02, 16 - 3, -1.0
    h, y = 1 / 16, 2 * 13 / 16 - 1
    expected = -(y - h - mean) / scale + np.log(-np.expm1(-2 * h / scale))
    actual = compiled_discretized_logistic(
        jnp.asarray(x), jnp.asarray(mean), jnp.log(jnp.asarray(scale)), levels=levels
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("log_scale", [-30.0, -5.0, -1.0, 2.0, 30.0])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_discretized_logistic_sums_to_one(x64, levels, log_scale):
    log_mass = log_masses(discretized_logistic.log_prob, levels, 0.13, log_scale)
    np.testing.assert_allclose(jnp.sum(jnp.exp(log_mass)), 1.0, atol=1e-12)


def test_multivariate_normal_equals_scipy(x64, key):
    a, x, mean = (
        normals(k, s)
        for k, s in zip(jax.random.split(key, 3), [(4, 4), (4,), (4,)], strict=True)
    )
    covariance = a @ a.T + jnp.eye(4)
    expected = stats.multivariate_normal(mean, covariance).logpdf(x)
    actual = multivariate_normal.log_prob(x, mean, jnp.linalg.cholesky(covariance))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_reparameterized_noise_has_the_density_of_where_it_lands(x64, key):
    draws = normals(key, (6, 3))
    eps, mean, log_std = draws[:3]
    cholesky = jnp.tril(draws[3:], -1) + jnp.diag(jnp.exp(log_std))
    x, log_q = normal.reparameterize(eps, mean, log_std)
    np.testing.assert_allclose(x, mean + np.exp(log_std) * eps, rtol=1e-13)
    np.testing.assert_allclose(log_q, normal_reference(x, mean, log_std), rtol=1e-12)
    x, log_q = multivariate_normal.reparameterize(eps, mean, cholesky)
    np.testing.assert_allclose(x, mean + np.asarray(cholesky) @ eps, rtol=1e-13)
    law = stats.multivariate_normal(mean, cholesky @ cholesky.T)
    np.testing.assert_allclose(log_q, law.logpdf(x), rtol=1e-11)


def test_narrow_reparameterized_noise_keeps_its_density(key):
    """Where std is below the spacing of float32 at the mean, x has no noise left."""
    eps = normals(key, (3,))
    mean, log_std = jnp.full(3, 1e4), jnp.full(3, -25.0)
    expected = stats.norm(0.0, 1.0).logpdf(eps).sum() + 75.0
    x, log_q = normal.reparameterize(eps, mean, log_std)
    chex.assert_trees_all_equal(x, mean)
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)
    _, log_q = multivariate_normal.reparameterize(eps, mean, jnp.diag(jnp.exp(log_std)))
    np.testing.assert_allclose(log_q, expected, rtol=1e-6)


def test_entropy_is_minus_the_expected_log_density(x64, key):
    log_std, mean = jnp.asarray([0.3, -0.7]), jnp.asarray([1.0, 2.0])
    draws = jax.vmap(lambda k: normal.sample(k, mean, log_std))(
        jax.random.split(key, 200_000)
    )
    minus = -jax.vmap(lambda x: normal.log_prob(x, mean, log_std))(draws)
    stderr = minus.std() / np.sqrt(len(minus))
    assert abs(minus.mean() - normal.entropy(log_std)) < 4 * stderr
    expected = sum(stats.norm(0, s).entropy() for s in np.exp(log_std))
    np.testing.assert_allclose(normal.entropy(log_std), expected, rtol=1e-12)
    cholesky = jnp.asarray([[2.0, 0.0], [-0.3, 0.4]])
    expected = stats.multivariate_normal(cov=cholesky @ cholesky.T).entropy()
    np.testing.assert_allclose(
        multivariate_normal.entropy(cholesky), expected, rtol=1e-12
    )


CASES = {
    "normal": (
        normal.log_prob,
        lambda k: tuple(normals(k, (3, 2, 3))),
        (0, 1, 2),
    ),
    "bernoulli": (
        bernoulli.log_prob,
        lambda k: (
            jax.random.bernoulli(k, 0.5, (2, 3)).astype(float),
            normals(k, (2, 3)),
        ),
        (1,),
    ),
    "categorical": (
        categorical.log_prob,
        lambda k: (
            jax.random.randint(k, (2, 3), 0, 5),
            normals(k, (2, 3, 5)),
        ),
        (1,),
    ),
    "discretized_logistic": (
        functools.partial(discretized_logistic.log_prob, levels=5),
        lambda k: (
            jax.random.randint(k, (2, 3), 0, 5),
            *(0.5 * normals(k, (2, 2, 3))),
        ),
        (1, 2),
    ),
    "discretized_normal": (
        functools.partial(discretized_normal.log_prob, levels=5),
        lambda k: (
            jax.random.randint(k, (2, 3), 0, 5),
            *(0.5 * normals(k, (2, 2, 3))),
        ),
        (1, 2),
    ),
    "mixture": (
        mixture.log_prob,
        lambda k: tuple(normals(k, (2, 4))),
        (0, 1),
    ),
    "discretized_logistic_mixture": (
        lambda x, *p: discretized_logistic_mixture.log_prob(
            x, discretized_logistic_mixture.Parameters(*p), levels=5
        ),
        lambda k: (jax.random.randint(k, (2, 1, 3), 0, 5), *image_parameters(k)),
        (1, 2, 3, 4),
    ),
    "bernoulli entropy": (
        bernoulli.entropy,
        lambda k: (normals(k, (2, 3)),),
        (0,),
    ),
    "categorical entropy": (
        categorical.entropy,
        lambda k: (normals(k, (2, 3)),),
        (0,),
    ),
    "multivariate_normal entropy": (
        multivariate_normal.entropy,
        lambda k: (jnp.tril(normals(k, (3, 3)), -1) + 2.0 * jnp.eye(3),),
        (0,),
    ),
    "multivariate_normal": (
        multivariate_normal.log_prob,
        lambda k: (
            *normals(k, (2, 3)),
            jnp.tril(normals(k, (3, 3)), -1) + 2.0 * jnp.eye(3),
        ),
        (0, 1, 2),
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_gradients_equal_finite_differences(x64, key, name):
    log_prob, draw, differentiable = CASES[name]
    arguments = list(draw(key))

    def function(*values):
        # Finite differences step in NumPy.
        for place, value in zip(differentiable, values, strict=True):
            arguments[place] = jnp.asarray(value)
        return log_prob(*arguments)

    values = tuple(arguments[place] for place in differentiable)
    check_grads(function, values, order=1, modes=["rev"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_jit_and_vmap_give_the_plain_numbers(key, strict_dtypes, name):
    log_prob, draw, _ = CASES[name]
    batch = [draw(k) for k in jax.random.split(key, 4)]
    plain = jnp.stack([log_prob(*arguments) for arguments in batch])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *batch)
    chex.assert_shape(plain, (4,))
    chex.assert_trees_all_close(jax.vmap(log_prob)(*stacked), plain, rtol=1e-5)
    chex.assert_trees_all_close(jax.jit(jax.vmap(log_prob))(*stacked), plain, rtol=1e-5)


@pytest.mark.parametrize("extreme", [1e4, -1e4])
def test_bernoulli_is_finite_at_extreme_logits(extreme):
    both = jax.jit(jax.value_and_grad(bernoulli.log_prob, 1))
    for x in (0.0, 1.0):
        value, grad = both(jnp.asarray([x]), jnp.asarray([extreme]))
        agrees = (x == 1.0) == (extreme > 0)
        assert value == (0.0 if agrees else -1e4)
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("log_scale", [-30.0, 30.0])
@pytest.mark.parametrize("x", [0, 1, 128, 254, 255])
def test_discretized_logistic_is_finite_at_extreme_scales(x, log_scale):
    value, grads = whole(jax.value_and_grad(compiled_discretized_logistic, (1, 2)))(
        jnp.asarray(x), jnp.asarray(0.3), jnp.asarray(log_scale), levels=256
    )
    assert np.isfinite(value)
    assert all(np.isfinite(grad) for grad in grads)


@pytest.mark.parametrize("log_std", [-30.0, 30.0])
def test_normal_is_finite_at_extreme_scales(log_std):
    value, grads = whole(jax.value_and_grad(normal.log_prob, (0, 1, 2)))(
        jnp.asarray(1.0), jnp.asarray(1.0 + 1e-7), jnp.asarray(log_std)
    )
    assert np.isfinite(value)
    assert all(np.isfinite(grad) for grad in grads)


NUM_DRAWS = 20_000


def draws_of(sample, key):
    return np.asarray(jax.jit(jax.vmap(sample))(jax.random.split(key, NUM_DRAWS)))


def assert_frequencies(draws, log_mass):
    """Pearson's test of the draws against exp(log_mass): rejects 1 in 10,000."""
    expected = np.exp(np.asarray(log_mass, np.float64))
    counts = np.bincount(draws.astype(int), minlength=len(expected))
    keep = expected * NUM_DRAWS > 5
    observed = np.append(counts[keep], counts[~keep].sum())
    mass = np.append(expected[keep], expected[~keep].sum()) * NUM_DRAWS
    observed, mass = observed[mass > 0], mass[mass > 0]
    statistic = ((observed - mass) ** 2 / mass).sum()
    assert statistic < stats.chi2(len(mass) - 1).ppf(0.9999)


def test_samples_have_the_frequencies_of_the_mass(key):
    # Wide enough for the open bins at both ends.
    mean, log_scale = jnp.asarray(0.3), jnp.asarray(-0.6)
    logits = jnp.asarray(1.5 * np.sin(np.arange(9)), jnp.float32)
    for density in (discretized_logistic, discretized_normal):
        sample = functools.partial(density.sample, levels=9)
        assert_frequencies(
            draws_of(lambda k, sample=sample: sample(k, mean, log_scale), key),
            log_masses(density.log_prob, 9, mean, log_scale),
        )
    assert_frequencies(
        draws_of(lambda k: categorical.sample(k, logits), key),
        jax.jit(jax.vmap(categorical.log_prob, (0, None)))(np.arange(9), logits),
    )
    assert_frequencies(
        draws_of(lambda k: bernoulli.sample(k, jnp.asarray(0.7)), key),
        [compiled_bernoulli(x, jnp.asarray(0.7)) for x in np.float32([0.0, 1.0])],
    )


@pytest.mark.slow
def test_mixture_samples_have_the_frequencies_of_the_mass(key):
    parameters = image_parameters(jax.random.key(5), height=1, components=2)
    levels, sample = 3, discretized_logistic_mixture.sample
    draws = draws_of(jax.jit(lambda k: sample(k, parameters, levels=levels)), key)
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(3)] * 3, indexing="ij"), -1)
    log_mass = jax.vmap(
        lambda x: discretized_logistic_mixture.log_prob(x, parameters, levels=levels)
    )(grid.reshape(-1, 1, 1, 3))
    assert_frequencies(draws.reshape(-1, 3) @ np.asarray([9, 3, 1]), log_mass)


@pytest.mark.parametrize("log_std", [-80.0, -89.0, -150.0])
def test_normal_at_its_mean_is_finite_when_narrow(log_std):
    """1 / std is beyond float32 from -88.7 on: times 0 it was NaN."""
    mean, logs = jnp.ones(3), jnp.full(3, log_std)
    value, grads = jax.value_and_grad(normal.log_prob, (0, 2))(mean, mean, logs)
    np.testing.assert_allclose(value, -3 * (log_std + normal.LOG_2PI / 2), rtol=1e-6)
    chex.assert_trees_all_equal(grads, (jnp.zeros(3), -jnp.ones(3)))
    assert normal.log_prob(2.0 * mean, mean, logs) == -jnp.inf


def test_normal_samples_have_their_distribution(key):
    mean, log_std = jnp.asarray(0.5), jnp.asarray(-0.4)
    draws = draws_of(lambda k: normal.sample(k, mean, log_std), key)
    assert stats.kstest(draws, stats.norm(0.5, np.exp(-0.4)).cdf).pvalue > 1e-4
    cholesky = jnp.asarray([[1.0, 0.0], [0.8, 0.5]])
    pair = draws_of(lambda k: multivariate_normal.sample(k, jnp.ones(2), cholesky), key)
    # A covariance entry from n draws has a standard error below 2 / sqrt(n).
    tolerance = 4 * 2 / np.sqrt(NUM_DRAWS)
    np.testing.assert_allclose(np.cov(pair.T), cholesky @ cholesky.T, atol=tolerance)


def test_softplus_and_log_sigmoid_keep_their_digits(x64):
    x = np.concatenate([-np.logspace(2.8, -8, 200), np.logspace(-8, 4, 200)])
    expected = np.logaddexp(0.0, x)
    value, slope = whole(jax.vmap(jax.value_and_grad(numerics.softplus)))(x)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_allclose(whole(numerics.log_sigmoid)(-x), -expected, rtol=1e-14)
    np.testing.assert_allclose(slope, special.expit(x), rtol=1e-13)
    curvature = whole(jax.grad(jax.grad(numerics.softplus)))(np.float64(0.3))
    p = special.expit(0.3)
    np.testing.assert_allclose(curvature, p * (1 - p), rtol=1e-13)
    ends = numerics.softplus(jnp.asarray([-jnp.inf, jnp.inf]))
    np.testing.assert_array_equal(ends, [0.0, np.inf])


LOG_NDTR = jax.jit(jax.value_and_grad(numerics.log_ndtr))


@pytest.mark.parametrize("x", [-1e13, -1e4, -50.0, -20.5, -19.5, -5.0, 0.0, 3.0])
def test_log_ndtr_and_its_derivative_equal_scipy(x):
    value, slope = LOG_NDTR(jnp.asarray(x))
    x = np.float64(np.float32(x))
    np.testing.assert_allclose(value, special.log_ndtr(x), rtol=3e-5)
    # The hazard phi / Phi, by the continued fraction in the tail.
    hazard = (
        -x + 1 / (-x + 2 / (-x + 3 / -x))
        if x < -10
        else (stats.norm.pdf(x) / stats.norm.cdf(x))
    )
    np.testing.assert_allclose(slope, hazard, rtol=2e-5)


def test_a_common_offset_of_the_logits_costs_no_digits():
    levels = jnp.full((1, 256), 1e4)
    value = compiled_categorical(jnp.zeros(1, jnp.int32), levels)
    np.testing.assert_allclose(value, -np.log(256.0), rtol=1e-6)
    assert compiled_categorical_entropy(jnp.asarray([0.0, -jnp.inf])) == 0.0


@pytest.mark.parametrize(
    ("levels", "x", "mean", "log_std"),
    [(65536, 65535, 500.0, -3.0), (65536, 32768, 1000.0, -8.0), (256, 7, 7e4, 0.0)],
)
def test_discretized_normal_far_off_the_scale(levels, x, mean, log_std):
    value, grads = jax.value_and_grad(compiled_discretized_normal, (1, 2))(
        jnp.asarray(x), jnp.asarray(mean), jnp.asarray(log_std), levels=levels
    )
    # The nearer edge's tail, -((edge - mean) / std)^2 / 2, is all that counts.
    edge = 2 * x / (levels - 1) - 1 + 1 / (levels - 1)
    expected = (
        0.0 if x == levels - 1 else -0.5 * ((edge - mean) * np.exp(-log_std)) ** 2
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    assert all(np.isfinite(grad) for grad in grads)


def test_categorical_levels_far_apart_in_logits_keep_their_masses():
    """Relative to the largest logit: relative to the least, exp would overflow."""
    logits = jnp.asarray([[1e3, -1e3, 0.0]])
    masses = [
        float(compiled_categorical(jnp.asarray([level]), logits)) for level in range(3)
    ]
    np.testing.assert_allclose(masses, [0.0, -2e3, -1e3])


LEVEL_DENSITIES = {
    "categorical": lambda x, levels: categorical.log_prob(x, jnp.zeros((1, levels))),
    "discretized_logistic": lambda x, levels: discretized_logistic.log_prob(
        x, jnp.zeros(1), jnp.zeros(1), levels=levels
    ),
    "discretized_normal": lambda x, levels: discretized_normal.log_prob(
        x, jnp.zeros(1), jnp.zeros(1), levels=levels
    ),
    "discretized_logistic_mixture": lambda x, levels: compiled_mixture(
        x,
        discretized_logistic_mixture.Parameters(
            jnp.zeros(2), jnp.zeros((2, 1)), jnp.zeros((2, 1)), jnp.zeros((2, 0))
        ),
        levels=levels,
    ),
}


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8])
@pytest.mark.parametrize("name", LEVEL_DENSITIES)
def test_narrow_integers_are_levels_too(unchecked, name, dtype):
    """In bytes 299 would be 43, and 255 with a sign -1."""
    log_prob = jax.jit(LEVEL_DENSITIES[name], static_argnums=1)
    for levels in (256, 300):
        for level in (1, 127):
            expected = log_prob(jnp.asarray([level], jnp.int32), levels)
            assert np.isfinite(expected)
            assert log_prob(jnp.asarray([level], dtype), levels) == expected


@pytest.mark.parametrize(
    ("density", "levels"), [(discretized_logistic, 256), (discretized_normal, 17)]
)
def test_discretised_masses_have_second_derivatives(density, levels):
    """At log scales from -12 to 6; in between against a difference of gradients."""

    def along(move, mean, log_scale, x):
        place = (mean + move)[None], (log_scale - 0.7 * move)[None]
        return density.log_prob(x[None], *place, levels=levels)

    slope = jax.grad(along)
    curvature = jax.jit(jax.vmap(jax.grad(slope), (None, 0, 0, 0)))
    x = jnp.asarray([0, levels // 2, levels - 1])
    grid = jnp.meshgrid(jnp.linspace(-1.2, 1.2, 25), jnp.linspace(-12.0, 6.0, 37), x)
    mean, log_scale, level = (part.ravel() for part in grid)
    found = curvature(0.0, mean, log_scale, level.astype(int))
    assert np.isfinite(found).all()
    places = np.asarray([-0.3, 0.4, 0.05]), np.asarray([-2.0, -1.5, -0.5]), x
    with jax.enable_x64(True):
        slope = jax.jit(jax.vmap(slope, (None, 0, 0, 0)))
        rise = np.asarray(slope(1e-5, *places)) - np.asarray(slope(-1e-5, *places))
    found = curvature(0.0, *(jnp.asarray(part, float) for part in places[:2]), x)
    np.testing.assert_allclose(found, rise / 2e-5, rtol=1e-3)


@pytest.mark.parametrize("name", LEVEL_DENSITIES)
def test_what_is_no_level_has_no_mass(name):
    """An index beyond the table would be clamped or wrapped, an edge be left open."""
    log_prob = jax.jit(LEVEL_DENSITIES[name], static_argnums=1)
    for outside in (-2, -1, 5, 6):
        assert log_prob(jnp.asarray([outside]), 5) == -jnp.inf
    masses = [log_prob(jnp.asarray([level]), 5) for level in range(5)]
    np.testing.assert_allclose(np.exp(masses).sum(), 1.0, rtol=1e-5)


def test_mixtures_of_logistics_draw_any_shape_of_pixels(key):
    """Pixels (3, 2), four components, three channels: no two sizes alike."""
    shape = (3, 2, 4)
    parameters = discretized_logistic_mixture.Parameters(
        jnp.zeros(shape),
        jnp.zeros((*shape, 3)),
        jnp.zeros((*shape, 3)) - 1.0,
        jnp.zeros((*shape, 3)),
    )
    sample = jax.jit(discretized_logistic_mixture.sample, static_argnames="levels")
    draws = sample(key, parameters, levels=7)
    assert draws.shape == (3, 2, 3)
    # Channels are drawn apart: with one key for two of them, they would be alike.
    assert not (draws[..., 0] == draws[..., 1]).all()
    assert not (draws[..., 1] == draws[..., 2]).all()
    log_prob = compiled_mixture(draws, parameters, levels=7)
    assert -40.0 < float(log_prob) < 0.0
