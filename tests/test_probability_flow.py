"""The probability flow against normal and mixture data, whose scores are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import disturbed, normals
from small import small_diffusion
from test_diffusion import chain_of

from vgm import models
from vgm.bijections import continuous
from vgm.bounds import diffusion, importance, probability_flow
from vgm.densities import mixture, normal
from vgm.processes import gaussian, schedules
from vgm.samplers import diffusion as samplers

VARIANCE = 0.25


def marginal_variance(gamma):
    alpha, sigma = gaussian.alpha_sigma(jnp.asarray(gamma))
    return alpha**2 * VARIANCE + sigma**2


@pytest.mark.parametrize("kind", ["eps", "x", "v", "score"])
def test_normal_data_keep_their_place_among_the_marginals(x64, key, kind):
    """z_s = z_t sqrt(v_s / v_t), and so log p(z_0) is a normal's."""
    chain = chain_of(jnp.zeros(3), schedule=schedules.linear(-8.0, 5.0), kind=kind)
    low, high = marginal_variance(-8.0), marginal_variance(5.0)
    z_1 = normals(key, (3,))
    z_0 = whole(probability_flow.sample)(z_1, chain, tolerance=1e-9)
    np.testing.assert_allclose(z_0, z_1 * jnp.sqrt(low / high), rtol=1e-6)
    found = whole(probability_flow.log_prob)(z_0, chain, tolerance=1e-9)
    log_std = jnp.full(3, 0.5 * jnp.log(low / high))
    np.testing.assert_allclose(
        found, normal.log_prob(z_0, jnp.zeros(3), log_std), rtol=1e-6
    )


def test_only_the_ends_of_the_schedule_matter(x64, key):
    z_0 = normals(key, (2,))
    found = [
        whole(probability_flow.log_prob)(
            z_0, chain_of(z_0, schedule=build(-6.0, 4.0)), tolerance=1e-9
        )
        for build in (schedules.linear, schedules.cosine)
    ]
    np.testing.assert_allclose(*found, rtol=1e-12)


MEANS, WEIGHTS, STD = jnp.asarray([-1.5, 1.0]), jnp.asarray([0.3, 0.7]), 0.3


def mixture_log_prob(z, gamma):
    """log q(z_t) of coordinates that are each a mixture of two normals."""
    alpha, sigma = gaussian.alpha_sigma(gamma)
    log_std = jnp.full(2, 0.5 * jnp.log(alpha**2 * STD**2 + sigma**2))

    def one(z):
        by_component = jax.vmap(normal.log_prob)(jnp.full(2, z), alpha * MEANS, log_std)
        return mixture.log_prob(by_component, jnp.log(WEIGHTS))

    return jnp.sum(jax.vmap(one)(z))


def mixture_chain():
    return diffusion.Chain(
        schedules.linear(-5.0, 16.0),
        jax.grad(mixture_log_prob),
        gaussian.PARAMETERISATIONS["score"],
        lambda z_0: jnp.zeros(()),
    )


def test_with_the_exact_score_the_density_is_that_of_the_data(x64):
    """At gamma(1) = 16 what is left of the signal is 3e-4 of it."""
    chain = mixture_chain()
    for z_0 in ([-1.4, 0.9], [0.0, 0.3], [2.5, -2.0]):
        found = whole(probability_flow.log_prob)(
            jnp.asarray(z_0), chain, tolerance=1e-8
        )
        exact = mixture_log_prob(jnp.asarray(z_0), jnp.asarray(-5.0))
        np.testing.assert_allclose(found, exact, atol=3e-3)


def test_many_steps_of_ddim_are_the_flow(x64, key):
    chain, z_1 = mixture_chain(), normals(key, (2,))
    exact = whole(probability_flow.sample)(z_1, chain, tolerance=1e-9)
    errors = [
        np.abs(
            whole(samplers.sample)(
                key, z_1, chain, num_steps=count, step=samplers.ddim_step(0.0)
            )
            - exact
        ).max()
        for count in (200, 400)
    ]
    assert errors[1] < 0.6 * errors[0] < 0.06  # of the first order


def test_a_probe_has_the_density_for_its_mean(x64, key):
    """Both signs of two numbers: all probes there are, but for an overall sign."""
    chain, z_0 = mixture_chain(), jnp.asarray([-1.0, 0.4])
    exact = whole(probability_flow.log_prob)(z_0, chain, tolerance=1e-8)

    @jax.jit
    def by_probe(probe):
        return probability_flow.log_prob(
            z_0,
            chain,
            divergence=lambda v: continuous.hutchinson_divergence(v, probe),
            tolerance=1e-8,
        )

    found = by_probe(jnp.ones(2)), by_probe(jnp.asarray([1.0, -1.0]))
    np.testing.assert_allclose(np.mean(found), exact, rtol=1e-6)


def test_weights_are_unbiased_for_the_flows_evidence(x64, key):
    """x | z_0 is a normal, and so is z_0: the evidence has a closed form."""
    low, high = -2.0, 3.0
    x = jnp.asarray([0.4, -0.3])
    alpha, _ = gaussian.alpha_sigma(jnp.asarray(low))
    flow_variance = marginal_variance(low) / marginal_variance(high) / alpha**2
    log_std = jnp.full(2, 0.5 * jnp.log(flow_variance + jnp.exp(low)))
    exact = normal.log_prob(x, jnp.zeros(2), log_std)
    chain = chain_of(x, schedule=schedules.linear(low, high))
    draw = jax.vmap(lambda key: probability_flow.log_weight(key, x, chain))
    log_w = jax.jit(draw)(jax.random.split(key, 4000))
    ratio = jnp.exp(log_w - exact)
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.05
    assert abs(ratio.mean() - 1.0) < 4.5 * error
    assert importance.iwae(log_w) > log_w.mean()


def test_a_models_weights_are_those_of_its_chains(key, monkeypatch):
    """Given the label, and to the tolerance."""
    model = small_diffusion(num_classes=3)
    x, labels = 3.0 + 2.0 * normals(key, (2, 2)), jnp.asarray([0, 2])
    params = disturbed(jax.jit(model.init)(key, x, labels))
    given = key, model, params
    weigh = jax.jit(lambda *of: models.probability_flow.log_weight(*given, *of))
    found = weigh(x, labels)

    @jax.jit
    def by_hand(key, x, label):
        features, chain = model.decoder.features(x, params), model.chain
        return probability_flow.log_weight(key, features, chain(params, x, label))

    one_by_one = map(by_hand, jax.random.split(key, 2), x, labels)
    # The solver's steps in single precision are not the same ones in a batch.
    np.testing.assert_allclose(found, jnp.stack([*one_by_one]), atol=1e-3)
    assert (np.abs(found - weigh(x, labels[::-1])) > 3e-3).all()
    with pytest.raises(ValueError, match=r"x must have shape \(2, 2\); got"):
        models.probability_flow.log_weight(key, model, params, x[:, :1], labels)
    # An example of which nothing can be said leaves the others alone.
    lost = weigh(x.at[0, 0].set(jnp.nan), labels)
    assert np.isnan(lost).tolist() == [True, False]
    seen = []
    monkeypatch.setattr(
        continuous, "integrate", lambda *_, tolerance: seen.append(tolerance) or (_[1])
    )
    models.probability_flow.log_weight(*given, x, labels, tolerance=0.25)
    assert seen == [0.25]


def test_data_in_half_precision_are_weighed_in_single(key):
    x = jnp.asarray([0.5, -0.25], jnp.bfloat16)
    weigh = whole(probability_flow.log_weight)
    chain = chain_of(x.astype(jnp.float32), schedule=schedules.linear(-6.0, 5.0))
    single = weigh(key, x.astype(jnp.float32), chain)
    assert weigh(key, x, chain) == single
    assert single.dtype == jnp.float32
