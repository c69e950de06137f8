"""Reals come in any unit: what models start from, and the baseline they must beat."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normals
from scipy import stats
from small import small_diffusion

from vgm import models
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


SHAPE = (2, 2, 1)
SCALE = np.float32([1e-6, 3.0, 1e4, 1.0]).reshape(SHAPE)
SHIFT = np.float32([1e-3, -50.0, 1e6, 0.0]).reshape(SHAPE)


def real_models():
    shared = {"likelihood": "normal", "hidden": (16,), "event_shape": SHAPE}
    vae = models.vae.mlp(latent_dim=2, **shared)
    family = models.likelihoods.likelihood("normal")
    diffusion = small_diffusion("learned-linear", event_shape=SHAPE)
    made = models.made.MADE((8,), family.num_outputs, use_output_bias=False)
    ladder = models.hierarchical_vae.ladder(
        event_shape=SHAPE,
        sides=(1, 2),
        layers=(1, 1),
        channels=4,
        hidden=4,
        latent_dim=1,
        num_blocks=1,
        likelihood="normal",
    )
    return {
        "vae": vae,
        "ladder": ladder,
        "vamp": models.vae.mlp(latent_dim=2, prior=models.priors.vamp(4), **shared),
        "markov": models.hierarchical_vae.markov(
            models.vae.mlp(latent_dim=2, **shared), latent_dims=(2, 1), hidden=(8,)
        ),
        "diffusion": diffusion,
        "made": models.autoregressive.Autoregressive(made, family, SHAPE),
    }


# A ladder takes longer than the others together.
NAMES = [
    pytest.param(name, marks=pytest.mark.slow) if name == "ladder" else name
    for name in real_models()
]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_shifts_the_bound_by_its_logarithm_and_changes_nothing_else(name, key):
    """Networks compute in units of the data: log p(c x + d) = log p(x) - log c."""
    model = real_models()[name]
    rng = np.random.default_rng(0)
    correlated = rng.normal(size=(64, 4)) @ rng.normal(size=(4, 4))
    x = jnp.asarray(correlated.reshape(64, *SHAPE), jnp.float32)
    other = SCALE[None] * x + SHIFT[None]

    @jax.jit
    def trained(x):
        start = model.init(key, x)

        def loss(p):
            return -jnp.mean(model.elbo_terms(key, p, x).elbo)

        def descend(_, params):
            # Signs: as Adam, which knows no unit of a parameter.
            step = jax.tree.map(lambda g: 1e-2 * jnp.tanh(g), jax.grad(loss)(params))
            return jax.tree.map(jnp.subtract, params, step)

        params = jax.lax.fori_loop(0, 3, descend, start)
        drawn = model.sample(key, params, 5)
        units = [each.get("base", each)["unit"] for each in (start, params)]
        return units, model.elbo_terms(key, params, x).elbo, drawn

    units, elbo, drawn = trained(x)
    moved_units, moved_elbo, moved_drawn = trained(other)
    expected = elbo - np.sum(np.log(SCALE))
    # The shift costs digits, 1e6 beside 1e4 in float32.
    np.testing.assert_allclose(moved_elbo, expected, atol=0.02)
    np.testing.assert_allclose(
        (moved_drawn - SHIFT[None]) / SCALE[None], drawn, atol=0.02
    )
    # The unit itself is never learned.
    chex.assert_trees_all_equal(*units)
    chex.assert_trees_all_equal(*moved_units)


def test_a_diffusion_of_reals_far_from_0_keeps_its_digits(key):
    """x is given z_0 to a thousandth of its unit, and read beside 3e4 units.

    Integers, so that x itself is not rounded; one number never changes.
    """
    model = dataclasses.replace(
        real_models()["diffusion"],
        schedule=models.noise.schedule("linear", -13.3, 5.0),
        event_shape=(2,),
    )
    steps = np.random.default_rng(0).integers(-2, 3, size=(64, 2)).astype(np.float32)
    steps[:, 1] = 0.0

    @jax.jit
    def bound(shift):
        x = jnp.asarray(steps) + shift[None]
        return model.elbo_terms(key, model.init(key, x), x).elbo

    near, far = bound(jnp.zeros(2)), bound(jnp.asarray([3e4, 1e6]))
    # The mean is rounded to 3e4 eps.
    np.testing.assert_allclose(far, near, atol=0.01)


def test_levels_have_no_unit(key):
    """Nor an empty one: their checkpoints would be of another form than before."""
    x = jax.random.randint(key, (8, *SHAPE), 0, 3)
    for name in ("categorical", "discretized_normal"):
        head = models.heads.head("eps", levels=3)
        assert models.heads.decoder(name, head, levels=3).init(x) == {}


def test_what_is_missing_is_read_as_the_mean_in_any_unit(key):
    """0 in the unit; the bound is shifted by the units of what was observed alone."""
    model = models.vae.mlp(
        event_shape=SHAPE, latent_dim=2, hidden=(8,), likelihood="normal", missing=True
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(64, *SHAPE)), jnp.float32)
    observed = jnp.asarray(rng.random((64, *SHAPE)) < 0.7)
    elbos = []
    for values in (x, SCALE[None] * x + SHIFT[None]):
        seen = Masked(jnp.where(observed, values, 7.0), observed)
        params = model.init(key, seen)
        features = families.features(model.likelihood, params, seen)
        assert (features[~observed] == 0.0).all()
        elbos.append(model.elbo_terms(key, params, seen).elbo)
    shift = jnp.sum(jnp.where(observed, np.log(SCALE)[None], 0.0), axis=(1, 2, 3))
    np.testing.assert_allclose(elbos[1], elbos[0] - shift, atol=0.02)


def test_a_constant_number_is_no_unit(key):
    """Read as it is, less its constant: a test example that differs is no outlier."""
    family = models.likelihoods.likelihood("normal")
    x = jnp.asarray([[5.0, 1.0], [5.0, 3.0]])
    params = families.initial(family, x)
    read = families.features(family, params, jnp.asarray([[6.0, 2.0]]))
    np.testing.assert_allclose(read, [[1.0, 0.0]], atol=1e-6)
    outputs = families.outputs(params, jnp.zeros((1, 2, 2)))
    np.testing.assert_allclose(outputs[0], family.initial_bias(x), rtol=1e-6, atol=1e-6)
