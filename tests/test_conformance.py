"""Every model through one suite, each with its evidence known exactly."""

import dataclasses
import functools

import chex
import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import disturbed, normals
from miniatures import AffineFlow, GaussianDiffusion

from vgm import models
from vgm.densities import normal
from vgm.errors import UserError
from vgm.oracles import linear_gaussian
from vgm.processes import gaussian

EVENT = (2, 3, 1)


def grid_log_evidence(model, params, x, condition):
    """log p(x) = log integral p(x | z) N(z; 0, I) dz over a 2-D grid."""
    axis = jnp.linspace(-6.0, 6.0, 121)
    nodes = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_cell = 2 * jnp.log(axis[1] - axis[0])

    def one(z):
        latents = jnp.broadcast_to(z[None], (len(x), 2))
        return model.log_joint(params, x, latents, condition)

    log_joint = jax.lax.map(one, nodes, batch_size=1000)
    return jax.nn.logsumexp(log_joint, axis=0) + log_cell


def vae_case(key, likelihood, *, conditional=False, architecture="mlp"):
    key_x, key_init, key_label = jax.random.split(key, 3)
    event = (4, 4, 1) if architecture == "conv" else EVENT
    x = {
        "bernoulli": lambda: jax.random.bernoulli(key_x, 0.4, (6, *event)) * 1.0,
        "categorical": lambda: jax.random.randint(key_x, (6, *event), 0, 5),
        "discretized_logistic": lambda: jax.random.randint(key_x, (6, *event), 0, 5),
        "normal": lambda: normals(key_x, (6, *event)),
    }[likelihood]()
    shared = {
        "event_shape": event,
        "latent_dim": 2,
        "hidden": (8,),
        "levels": 5,
        "likelihood": likelihood,
        "num_classes": 3 if conditional else 0,
    }
    if architecture == "conv":
        model = models.vae.conv(channels=2, **shared)
    else:
        model = models.vae.mlp(**shared)
    condition = jax.random.randint(key_label, (6,), 0, 3) if conditional else None
    params = jax.jit(model.init)(key_init, x, condition)
    # Away from the start, where q is close to the prior: random encoder and decoder.
    params = disturbed(params)
    # q not far from the prior: weights with a small variance.
    params["encoder"] = jax.tree.map(lambda leaf: 0.3 * leaf, params["encoder"])
    evidence = jax.jit(
        functools.partial(grid_log_evidence, model, params, condition=condition)
    )
    return conformance.Case(model, params, x, condition, evidence, 40_000)


@pytest.mark.parametrize(
    "likelihood",
    [
        "bernoulli",
        pytest.param("categorical", marks=pytest.mark.slow),
        pytest.param("discretized_logistic", marks=pytest.mark.slow),
        pytest.param("normal", marks=pytest.mark.slow),
    ],
)
def test_vae(key, likelihood):
    ran = conformance.check(vae_case(key, likelihood), key)
    assert ran == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_conditional_vae(key):
    ran = conformance.check(vae_case(key, "bernoulli", conditional=True), key)
    assert ran == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_convolutional_vae(key):
    ran = conformance.check(vae_case(key, "bernoulli", architecture="conv"), key)
    assert ran == conformance.LATENT_VARIABLE_MODEL


def linear_case(key):
    """A VAE without hidden layers and with constant noise: linear and normal."""
    x = normals(key, (6, 4))
    model = models.vae.mlp(
        event_shape=(4,), latent_dim=2, hidden=(), likelihood="normal"
    )
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model.init(key, x))
    # q close to the prior: weights with a small variance.
    params["encoder"] = jax.tree.map(lambda leaf: 0.1 * leaf, params["encoder"])
    kernel = 0.7 * normals(jax.random.fold_in(key, 1), (2, 4, 2))
    kernel = kernel.at[..., 1].set(0.0)  # the noise does not depend on z
    params["decoder"]["params"]["mlp"]["Dense_0"]["kernel"] = kernel.reshape(2, 8)
    # Outputs are in the unit of each coordinate, the oracle in that of x.
    mean, log_std = params["unit"]["mean"], params["unit"]["log_std"]
    params["output_bias"] = params["output_bias"].at[:, 1].set(-0.3 - log_std)
    params["output_bias"] = params["output_bias"].at[0, 0].set(0.2)
    std = jnp.exp(log_std)
    oracle = linear_gaussian.LinearGaussian(
        std[:, None] * kernel[..., 0].T,
        mean + std * params["output_bias"][:, 0],
        jnp.asarray(-0.3),
    )
    return model, params, x, oracle


def test_linear_vae_against_the_oracle(key):
    model, params, x, oracle = linear_case(key)
    evidence = jax.vmap(functools.partial(linear_gaussian.log_evidence, oracle))
    case = conformance.Case(model, params, x, None, evidence, 40_000)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_linear_vae_with_the_exact_encoder_has_constant_weights(x64, key):
    model, params, x, oracle = linear_case(key)
    # One latent only: then the exact posterior is diagonal.
    params["decoder"]["params"]["mlp"]["Dense_0"]["kernel"] = (
        params["decoder"]["params"]["mlp"]["Dense_0"]["kernel"].at[1].set(0.0)
    )
    oracle = oracle._replace(weights=oracle.weights.at[:, 1].set(0.0))
    covariance = jnp.linalg.inv(linear_gaussian.posterior_precision(oracle))
    gain = covariance @ oracle.weights.T * jnp.exp(-2 * oracle.log_std)
    # The encoder reads (x - mean) / std of each coordinate.
    mean, std = params["unit"]["mean"], jnp.exp(params["unit"]["log_std"])
    kernel = gain * std[None]
    params["encoder"]["params"]["mlp"]["Dense_0"] = {
        "kernel": jnp.concatenate([kernel, jnp.zeros_like(kernel)]).T,
        "bias": jnp.concatenate(
            [gain @ (mean - oracle.bias), 0.5 * jnp.log(jnp.diagonal(covariance))]
        ),
    }
    exact = jax.vmap(functools.partial(linear_gaussian.log_evidence, oracle))(x)
    for seed in range(3):
        log_w = model.log_weight(jax.random.key(seed), params, x)
        chex.assert_trees_all_close(log_w, exact, atol=1e-10, rtol=0)


def test_miniature_flow(key):
    model = AffineFlow(dim=3)
    x = 0.5 + 2.0 * normals(key, (6, 3))
    params = jax.jit(model.init)(key, x)
    evidence = jax.jit(jax.vmap(functools.partial(model.log_evidence, params)))
    ran = conformance.check(
        conformance.Case(model, params, x, None, evidence, 100), key
    )
    assert ran == conformance.ANY_MODEL
    # A flow's weight is log p(x), whatever the key.
    chex.assert_trees_all_close(
        model.log_weight(key, params, x), evidence(x), rtol=1e-6
    )


@pytest.mark.slow
def test_miniature_diffusion(key):
    model = GaussianDiffusion(dim=2, num_steps=5)
    x = 0.7 * normals(key, (6, 2))
    params = jax.jit(model.init)(key, x)
    evidence = jax.jit(jax.vmap(functools.partial(model.log_evidence, params)))
    ran = conformance.check(conformance.Case(model, params, x, None, evidence), key)
    assert ran == conformance.ANY_MODEL
    terms = model.elbo_terms(key, params, x)
    chex.assert_shape(terms.denoising_matching, (6, 5))


def chain_log_evidence(model, params, x, condition):
    """log p(x) of a diffusion of one number, its chain carried down on a grid."""
    grid = jnp.linspace(-7.0, 7.0, 561)
    width = grid[1] - grid[0]

    def one(x, condition):
        chain = model.chain(params, x, condition)
        mass = jnp.exp(-0.5 * grid**2) / jnp.sqrt(2.0 * jnp.pi)
        for step in range(model.num_steps, 0, -1):
            t = jnp.asarray(step / model.num_steps)
            gamma = chain.schedule.gamma(t)
            increment = chain.schedule.increment(t, jnp.asarray(1.0 / model.num_steps))

            def row(z, gamma=gamma, increment=increment):
                x_hat = chain.parameterisation.to_x(z, chain.predict(z, gamma), gamma)
                mean, log_std = gaussian.posterior(z, x_hat, gamma, increment)
                return jax.vmap(lambda s: normal.log_prob(s, mean, log_std))(
                    grid[:, None]
                )

            mass = mass @ jnp.exp(jax.vmap(row)(grid[:, None])) * width
        log_likelihood = jax.vmap(chain.log_likelihood)(grid[:, None])
        return jax.nn.logsumexp(log_likelihood, b=mass * width)

    return jax.vmap(one)(x, condition)


def diffusion_case(key, head, decoder, *, schedule="linear", conditional=False):
    key_x, key_init, key_label = jax.random.split(key, 3)
    levels = 0 if decoder == "normal" else 3
    x = jax.random.randint(key_x, (6, 1), 0, 3)
    if not levels:
        x = normals(key_x, (6, 1))
    family = models.heads.head(head, levels=levels)
    model = models.diffusion.Diffusion(
        models.denoisers.MLPDenoiser(8, 1, family.num_outputs, exponents=(0,)),
        family,
        models.heads.decoder(decoder, family, levels=levels),
        models.noise.schedule(schedule, -1.5, 2.5),
        event_shape=(1,),
        num_steps=4,
        train_num_steps=4,
        chunk_size=3,
        num_classes=3 if conditional else 0,
    )
    condition = jax.random.randint(key_label, (6,), 0, 3) if conditional else None
    params = jax.jit(model.init)(key_init, x, condition)
    params["network"] = disturbed(params["network"])
    evidence = jax.jit(
        functools.partial(chain_log_evidence, model, params, condition=condition)
    )
    return conformance.Case(model, params, x, condition, evidence)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("head", "decoder", "schedule"),
    [
        ("categorical", "categorical", "monotone"),
        ("eps", "categorical", "learned-linear"),
        ("x", "discretized_normal", "cosine"),
        ("v", "normal", "polynomial"),
    ],
)
def test_diffusion(key, head, decoder, schedule):
    case = diffusion_case(key, head, decoder, schedule=schedule)
    assert conformance.check(case, key) == conformance.ANY_MODEL
    terms = case.model.elbo_terms(key, case.params, case.x)
    chex.assert_shape(terms.denoising_matching, (6, 4))


@pytest.mark.slow
def test_weights_of_a_diffusion_are_unbiased(key):
    """The contract, of the whole suite that the slow tests run."""
    case = diffusion_case(key, "categorical", "categorical", conditional=True)
    case = case._replace(model=conformance.compiled(case.model))
    conformance.check_weights_are_unbiased(case, key)


@pytest.mark.slow
def test_conditional_diffusion(key):
    case = diffusion_case(key, "categorical", "categorical", conditional=True)
    assert conformance.check(case, key) == conformance.ANY_MODEL


@pytest.mark.slow
def test_bounds_from_drawn_steps_have_the_bound_for_mean(key):
    """Training's one time an example, and some times in evaluation."""
    case = diffusion_case(key, "categorical", "categorical")
    model = case.model

    def mean(model, *, train=False):
        def elbo(key):
            return model.elbo_terms(key, case.params, case.x, train=train).elbo

        draws = jax.jit(jax.vmap(elbo))(jax.random.split(key, 20_000))
        return conformance.mean_and_error(draws)

    every, error = mean(model)
    for other, train in (
        (model, True),
        (dataclasses.replace(model, num_times=3), False),
    ):
        some, some_error = mean(other, train=train)
        assert (np.abs(every - some) < 4.5 * np.hypot(error, some_error)).all()


def test_the_suite_sees_a_wrong_weight(key):
    """Noise inside the log breaks the contract, and the suite says so."""
    good = vae_case(key, "bernoulli")

    class Wrong(type(good.model)):
        def log_weight(self, key, params, x, condition=None):
            extra = jax.random.normal(jax.random.fold_in(key, 7), (len(x),))
            return super().log_weight(key, params, x, condition) + extra

    fields = {name: getattr(good.model, name) for name in good.model.__dict__}
    wrong = conformance.compiled(Wrong(**fields))
    with pytest.raises(AssertionError):
        conformance.check_weights_are_unbiased(good._replace(model=wrong), key)


@pytest.mark.parametrize("architecture", ["mlp", "conv"])
@pytest.mark.slow
def test_networks_are_batch_free(key, architecture):
    """A network on a batch equals the network on each example under vmap."""
    case = vae_case(key, "bernoulli", architecture=architecture)
    model, params = case.model, case.params
    together = model.encode(params, case.x)
    one_by_one = jax.vmap(lambda x: model.encode(params, x[None]))(case.x)
    chex.assert_trees_all_close(
        together,
        jax.tree.map(lambda leaf: leaf[:, 0], one_by_one),
        rtol=1e-5,
        atol=1e-6,
    )
    z = together.mean
    one_by_one = jax.vmap(lambda z: model.decode(params, z[None]))(z)
    chex.assert_trees_all_close(
        model.decode(params, z), one_by_one[:, 0], rtol=1e-5, atol=1e-5
    )


def test_the_starting_bias_fits_each_pixel_alone(key):
    """With the decoder's kernel at 0, p(x) is the independent-pixel histogram."""
    x = jax.random.randint(key, (50, *EVENT), 0, 5)
    model = models.vae.mlp(
        event_shape=EVENT,
        latent_dim=2,
        hidden=(4,),
        likelihood="categorical",
        levels=5,
    )
    params = jax.jit(model.init)(key, x)
    counts = (np.asarray(x)[..., None] == np.arange(5)).sum(0)
    expected = (counts + 1.0) / (50 + 5)
    np.testing.assert_allclose(
        jax.nn.softmax(params["output_bias"]), expected, rtol=1e-5
    )


def test_a_class_that_there_is_not_gives_no_number(key):
    """A vector of zeros in its place would pass for a class; an absent one is told."""
    model = models.vae.mlp(
        event_shape=(4,),
        latent_dim=2,
        hidden=(3,),
        likelihood="bernoulli",
        num_classes=3,
    )
    x, labels = jnp.zeros((5, 4)), jnp.asarray([0, 2, 3, -1, 1])
    params = jax.jit(model.init)(key, x, labels % 3)
    bounds = jax.jit(model.elbo_terms)(key, params, x, labels).elbo
    np.testing.assert_array_equal(np.isnan(bounds), [False, False, True, True, False])
    with pytest.raises(UserError, match="conditional, on one of 3 classes; got no"):
        model.sample(key, params, 5, None)
