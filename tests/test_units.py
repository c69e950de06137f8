"""Reals come in any unit: what models start from, and the baseline they must beat."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normals
from scipy import stats

from vgm.evaluation import baselines
from vgm.models import families, flows, likelihoods
from vgm.types import Masked

UNITS = (1e-20, 1e-5, 1.0, 1e20)


def examples(key, unit):
    """Two numbers that change, and one that does not."""
    x = normals(key, (200, 3)) * jnp.asarray([1.0, 2.0, 0.0])[None]
    return unit * (x + jnp.asarray([3.0, -1.0, 0.7])[None])


@pytest.mark.parametrize("unit", UNITS)
def test_the_baseline_of_reals_has_their_unit(key, unit):
    x = examples(key, unit)
    got = jax.jit(
        lambda x: baselines.independent_baseline(
            x, x[:5], observation="density", levels=0
        )
    )(x)
    x = np.asarray(x, np.float64)
    std = x.std(0)
    std[2] = 1e-3  # of a constant, in whatever unit
    expected = stats.norm.logpdf(x[:5], x.mean(0), std)
    # Its mean is rounded in double precision too: of the constant itself it is not.
    expected[:, 2] = stats.norm.logpdf(0.0, 0.0, 1e-3)
    np.testing.assert_allclose(got, expected.sum(1), rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_flows_start_from_standard_numbers(key, unit):
    x = examples(key, unit)
    layer = flows.data_layer("standardize")
    params = jax.jit(layer.init)(key, x, None)
    z = jax.jit(jax.vmap(lambda x: layer.build(params, None, None).forward(x)[0]))(x)
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-5)
    # 200 examples in float32; the constant is its own mean.
    np.testing.assert_allclose(z.std(0), [1.0, 1.0, 0.0], atol=1e-5)


def test_moments_of_what_was_observed(key):
    """Values where nothing was observed change nothing; nobody's number is 0."""
    x = examples(key, 1e-5)
    observed = jax.random.bernoulli(key, 0.7, x.shape).at[:, 1].set(False)
    mean, std = jax.jit(families.batch_moments)(jnp.where(observed, x, 9.0), observed)
    kept = np.ma.masked_array(np.asarray(x, np.float64), ~np.asarray(observed))
    np.testing.assert_allclose(mean, kept.mean(0).filled(0.0), rtol=1e-5)
    expected = kept.std(0).filled(0.0)
    expected[2] = 0.0
    np.testing.assert_allclose(std, expected, rtol=1e-4)
    family = likelihoods.likelihood("normal", missing=True)
    bias = jax.jit(family.initial_bias)(Masked(x, observed))
    np.testing.assert_allclose(bias[:, 0], mean)
    np.testing.assert_allclose(jnp.exp(bias[1:, 1]), 1e-3, rtol=1e-5)
