"""Priors and posteriors of latents, and the models that are made of them."""

import dataclasses
import functools
import itertools
import types

import chex
import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import disturbed, normals
from scipy import special, stats

from vgm import configs, models
from vgm.bounds import gradients
from vgm.bounds.elbo import ElboTerms
from vgm.configs.latent_presets import LATENT_PRESETS
from vgm.experiment import latents
from vgm.experiment.building import DataForm, build_model
from vgm.models import posteriors, priors
from vgm.training import objective
from vgm.types import Batch

EVENT = (2, 2, 1)


def bits(key, count=6, event=EVENT):
    return jax.random.bernoulli(key, 0.4, (count, *event)) * 1.0


def settings(posterior="diagonal", prior="standard"):
    return configs.Config(
        preset="test",
        latent=configs.LatentConfig(
            posterior=posterior,
            prior=prior,
            num_components=3,
            num_categories=3,
            num_layers=2,
            hidden=(8,),
        ),
    )


def small_vae(posterior="diagonal", prior="standard"):
    config = settings(posterior, prior)
    return models.vae.mlp(
        event_shape=EVENT,
        latent_dim=2,
        hidden=(8,),
        likelihood="bernoulli",
        posterior=latents.posterior(config, 2),
        prior=latents.prior(config, 2),
    )


def grid(low, high, count):
    """Nodes of the plane, and the log of their cell."""
    axis = jnp.linspace(low, high, count)
    nodes = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    return nodes, 2 * jnp.log(axis[1] - axis[0])


def evidence_by(latents_of, nodes, log_cell, model, params):
    """Sum of p(x, z) over nodes, for each x."""

    def log_evidence(x):
        def one(node):
            return model.log_joint(params, x, latents_of(node, len(x)))

        log_joint = jax.lax.map(one, nodes, batch_size=1000)
        return jax.nn.logsumexp(log_joint, axis=0) + log_cell

    return jax.jit(log_evidence)


def rows_of(node, count):
    return jnp.broadcast_to(node[None], (count, *node.shape))


@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("iaf", "mixture"),
        ("diagonal", "vamp"),
        ("full", "flow"),
        ("spline", "autoregressive"),
    ],
)
@pytest.mark.slow
def test_vaes_pass_the_suite(key, posterior, prior):
    model, x = small_vae(posterior, prior), bits(key)
    params = disturbed(jax.jit(model.init)(key, x), seed=1)
    # q not far from the prior: weights with a small variance.
    params["encoder"] = jax.tree.map(lambda leaf: 0.3 * leaf, params["encoder"])
    nodes, log_cell = grid(-8.0, 8.0, 161)
    evidence = evidence_by(rows_of, nodes, log_cell, model, params)
    case = conformance.Case(model, params, x, None, evidence, 20_000)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


def categorical_case(key):
    model, x = small_vae("categorical"), bits(key)
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    every = jnp.asarray(list(itertools.product(range(3), repeat=2)))
    nodes = jax.nn.one_hot(every, 3)
    evidence = evidence_by(rows_of, nodes, jnp.zeros(()), model, params)
    return conformance.Case(model, params, x, None, evidence, 20_000), nodes


@pytest.mark.slow
def test_categorical_latents_pass_the_suite(key):
    case, _ = categorical_case(key)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_gradients_of_categorical_latents_against_enumeration(key):
    """Leave-one-out and VIMCO are unbiased; straight-through is not, and says so."""
    case, nodes = categorical_case(key)
    model, x = case.model, case.x[:1]

    def exact(params):
        encoding = model.encode(params, x)

        def one(node):
            z = node[None]
            log_q = model.log_posterior(params, encoding, z)
            return jnp.exp(log_q) * (model.log_joint(params, x, z) - log_q)

        return jnp.sum(jax.lax.map(one, nodes))

    system = gradients.System(
        lambda key, params: model.propose(key, params, model.encode(params, x)),
        lambda params, z: model.log_joint(params, x, z),
        lambda params, z: model.log_posterior(params, model.encode(params, x), z),
    )

    def flat(tree):
        return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])

    def estimate(params, key):
        bound = gradients.elbo_score_function(key, params, system, num_samples=4)
        return jnp.sum(bound)

    keys = jax.random.split(key, 20_000)
    draws = jax.jit(
        lambda keys: jax.lax.map(
            lambda k: flat(jax.grad(estimate)(case.params, k)), keys, batch_size=500
        )
    )(keys)
    mean, error = conformance.mean_and_error(draws)
    expected = np.asarray(flat(jax.jit(jax.grad(exact))(case.params)))
    # The largest of some 100 deviations.
    assert (np.abs(mean - expected) < 5.0 * error).all()
    assert np.abs(expected).max() > 20 * error.max()

    def straight(params, key):
        return jnp.sum(model.elbo_terms(key, params, x).elbo)

    draws = jax.jit(
        lambda keys: jax.lax.map(
            lambda k: flat(jax.grad(straight)(case.params, k)), keys, batch_size=500
        )
    )(keys)
    mean, error = conformance.mean_and_error(draws)
    assert np.max(np.abs(mean - expected) / error) > 8.0, "its bias can be seen"
    # But for its bias it points the same way.
    assert np.dot(mean, expected) > 0.7 * np.linalg.norm(mean) * np.linalg.norm(
        expected
    )


def test_categorical_draws_are_exact_and_divergences_enumerated(x64, key):
    family = whole(posteriors.categorical(2, 4, temperature=0.5))
    logits = normals(key, (3, 2, 4))
    encoding = family.encoding(logits.reshape(3, 8))
    z, log_q = family.sample_and_log_prob(key, {}, encoding)
    assert set(np.unique(z)) == {0.0, 1.0}
    mass = special.log_softmax(np.asarray(logits), axis=-1)
    np.testing.assert_allclose(log_q, (mass * np.asarray(z)).sum((1, 2)), rtol=1e-12)
    kl = (np.exp(mass) * (mass + np.log(4))).sum((1, 2))
    np.testing.assert_allclose(family.kl_standard(encoding), kl, rtol=1e-12)
    prior = whole(priors.uniform_categorical(2, 4))
    np.testing.assert_allclose(prior.log_prob({}, z), -2 * np.log(4), rtol=1e-12)
    drawn = np.asarray(prior.sample(key, {}, 4000)).mean(0)
    np.testing.assert_allclose(drawn, 0.25, atol=4.5 * (3 / 16 / 4000) ** 0.5)


def test_a_full_covariance_is_the_multivariate_normal(x64, key):
    family = whole(posteriors.full(3))
    outputs = normals(key, (2, family.num_outputs))
    encoding = family.encoding(outputs)
    z, log_q = family.sample_and_log_prob(key, {}, encoding)
    kls = family.kl_standard(encoding)
    encoding, z, log_q = jax.tree.map(np.asarray, (encoding, z, log_q))
    for row, found in enumerate(kls):
        lower = encoding.cholesky[row]
        np.testing.assert_array_equal(lower, np.tril(lower))
        covariance = lower @ lower.T
        law = stats.multivariate_normal(encoding.mean[row], covariance)
        np.testing.assert_allclose(log_q[row], law.logpdf(z[row]), rtol=1e-10)
        kl = 0.5 * (
            np.trace(covariance)
            + np.sum(encoding.mean[row] ** 2)
            - 3
            - np.linalg.slogdet(covariance)[1]
        )
        np.testing.assert_allclose(found, kl, rtol=1e-10)
    zero = family.encoding(np.zeros((1, family.num_outputs)))
    np.testing.assert_allclose(family.kl_standard(zero), 0.0, atol=1e-15)


@pytest.mark.parametrize(
    "name", ["iaf", pytest.param("spline", marks=pytest.mark.slow)]
)
def test_the_density_of_a_flow_posterior(x64, key, name):
    """Of its draws from both sides; at the start it is the normal it reshapes."""
    family = whole(latents.posterior(settings(name), 3))
    outputs = normals(key, (4, family.num_outputs))
    encoding = family.encoding(outputs)
    start = family.init(key, outputs[:1])
    base = posteriors.DiagonalEncoding(encoding.base_mean, encoding.base_log_std)
    z, log_q = family.sample_and_log_prob(key, start, encoding)
    plain = whole(posteriors.diagonal(3))
    chex.assert_trees_all_close(log_q, plain.log_prob({}, base, z), rtol=1e-10)
    params = disturbed(start, 0.3)
    z, log_q = family.sample_and_log_prob(key, params, encoding)
    found = family.log_prob(params, encoding, z)
    chex.assert_trees_all_close(found, log_q, rtol=1e-8)
    assert not np.allclose(log_q, plain.log_prob({}, base, z), rtol=1e-3)
    # The change of variables, with the Jacobian that JAX finds.
    row = jax.tree.map(lambda leaf: np.asarray(leaf)[:1], encoding)

    def draw(mean):
        moved = row._replace(base_mean=mean[None])
        return family.sample_and_log_prob(key, params, moved)[0][0]

    jacobian = whole(jax.jacobian(draw))(row.base_mean[0])
    log_base = plain.sample_and_log_prob(
        key, {}, posteriors.DiagonalEncoding(row.base_mean, row.base_log_std)
    )[1]
    one = family.sample_and_log_prob(key, params, row)[1]
    np.testing.assert_allclose(
        one, log_base - np.linalg.slogdet(jacobian)[1], rtol=1e-9
    )


def test_mixtures_against_scipy(x64, key):
    prior = whole(priors.mixture(2, 5))
    params = disturbed(prior.init(key, None), 0.5)
    z = normals(key, (7, 2))
    weights = special.softmax(np.asarray(params.logits))
    expected = np.log(
        sum(
            weight
            * stats.norm(np.asarray(mean), np.exp(log_std))
            .pdf(np.asarray(z))
            .prod(axis=-1)
            for weight, mean, log_std in zip(
                weights, params.mean, np.asarray(params.log_std), strict=True
            )
        )
    )
    np.testing.assert_allclose(prior.log_prob(params, z), expected, rtol=1e-10)
    draws = np.asarray(prior.sample(key, params, 20_000))
    mean = weights @ np.asarray(params.mean)
    error = draws.std(0) / 20_000**0.5
    np.testing.assert_array_less(np.abs(draws.mean(0) - mean), 4.5 * error)


def test_a_mixture_of_points_has_a_density_at_them():
    """1 / std beyond float32 times an error of 0 would be NaN."""
    mean = jnp.asarray([[0.5], [2.0]])
    components = priors.Components(mean, jnp.full((2, 1), -100.0), jnp.zeros(2))
    at_one, beside = priors.log_prob_components(
        components, mean + jnp.asarray([[0], [1]])
    )
    np.testing.assert_allclose(at_one, 100.0 - 0.5 * np.log(2 * np.pi) - np.log(2.0))
    assert beside == -np.inf


@pytest.mark.parametrize("gradient", ["iwae", "elbo"])
def test_pathwise_estimators_turn_no_flow_round(x64, key, gradient, monkeypatch):
    """A draw of an inverse autoregressive posterior knows its own density."""
    model = small_vae("iaf")
    x = bits(key, 3)
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    estimator = getattr(gradients, f"{gradient}_pathwise")
    value_and_grad = objective.negative_bound(model, num_samples=3, estimator=estimator)
    batch = Batch(x, None, jnp.ones(3))
    actual = jax.jit(value_and_grad)(key, params, batch)
    with monkeypatch.context() as patch:
        patch.setattr(type(model), "log_posterior", None)
        # A function of its own: of the compiled one the trace is remembered.
        jax.eval_shape(lambda *given: value_and_grad(*given), key, params, batch)
    # The same from z, as the other estimators need it.
    system = gradients.System
    monkeypatch.setattr(gradients, "System", lambda *given: system(*given[:-1]))
    expected = jax.jit(value_and_grad)(key, params, batch)
    chex.assert_trees_all_close(actual, expected, rtol=1e-9)


def test_a_vamp_prior_is_the_mixture_of_its_posteriors(x64, key):
    model, x = whole(small_vae("diagonal", "vamp")), bits(key)
    params = disturbed(jax.jit(model.init)(key, x))
    z = normals(key, (5, 2))
    encoding = jax.tree.map(np.asarray, model.encode({**params}, params["prior"]))
    log_prob = whole(posteriors.diagonal(2)).log_prob
    each = [
        log_prob(
            {},
            jax.tree.map(
                lambda leaf, r=row: np.repeat(leaf[r : r + 1], 5, 0), encoding
            ),
            z,
        )
        for row in range(3)
    ]
    expected = special.logsumexp(each, axis=0) - np.log(3)
    np.testing.assert_allclose(model.log_prior(params, z), expected, rtol=1e-10)
    # Its inputs start at data, and learn; the encoder learns by the prior as well.
    start = jax.jit(model.init)(key, x)["prior"]
    assert all((np.asarray(x) == np.asarray(row)).all((1, 2, 3)).any() for row in start)
    grads = whole(jax.grad(lambda p: jnp.sum(model.log_prior(p, z))))(params)
    for name in ("prior", "encoder"):
        assert max(np.abs(g).max() for g in jax.tree.leaves(grads[name])) > 1e-3


@pytest.mark.parametrize(
    "name", [pytest.param("flow", marks=pytest.mark.slow), "autoregressive"]
)
def test_learned_priors_have_mass_one(x64, key, name):
    prior = whole(latents.prior(settings(prior=name), 2))
    params = disturbed(jax.tree.map(np.float64, prior.init(key, None)), 0.2)
    nodes, log_cell = grid(-9.0, 9.0, 361)
    log_p = np.asarray(prior.log_prob(params, nodes))
    log_mass = special.logsumexp(log_p) + log_cell
    np.testing.assert_allclose(log_mass, 0.0, atol=2e-3)  # of a sum with cells of 0.05
    draws = prior.sample(key, params, 4000)
    entropy = -np.asarray(prior.log_prob(params, draws))
    expected = -np.sum(np.exp(log_p + log_cell) * log_p)
    error = np.std(entropy) / 4000**0.5
    assert abs(np.mean(entropy) - expected) < 4.5 * error + 4e-3


def markov_model(latent_dims=(1, 1), hidden=(8,), prior=None):
    base = models.vae.mlp(
        event_shape=EVENT,
        latent_dim=latent_dims[0],
        hidden=hidden,
        likelihood="bernoulli",
    )
    return models.hierarchical_vae.markov(
        base, latent_dims=latent_dims, hidden=(4,), prior=prior
    )


def test_sizes_that_do_not_fit_are_refused():
    """Or one number would be broadcast over another layer, silently."""
    base = models.vae.mlp(
        event_shape=EVENT, latent_dim=1, hidden=(4,), likelihood="bernoulli"
    )
    with pytest.raises(ValueError, match=r"begin with the size of base's z"):
        models.hierarchical_vae.markov(base, latent_dims=(2, 2), hidden=(4,))
    with pytest.raises(ValueError, match=r"end with the prior's"):
        models.hierarchical_vae.markov(
            base, latent_dims=(1, 4), hidden=(4,), prior=priors.standard_normal(1)
        )
    settings = {"event_shape": EVENT, "latent_dim": 2, "hidden": (4,)}
    family = posteriors.categorical(2, 3, temperature=1.0)
    model = models.vae.mlp(likelihood="bernoulli", posterior=family, **settings)
    assert model.prior.latent_shape == (2, 3)
    with pytest.raises(ValueError, match="the prior is of latents"):
        models.vae.mlp(
            likelihood="bernoulli",
            posterior=family,
            prior=priors.standard_normal(2),
            **settings,
        )


def test_a_markov_hierarchy_passes_the_suite(key):
    model, x = markov_model(), bits(key)
    params = disturbed(jax.jit(model.init)(key, x))
    params = jax.tree.map(lambda leaf: 0.5 * leaf, params)
    nodes, log_cell = grid(-8.0, 8.0, 161)

    def both(node, count):
        z = rows_of(node, count)
        return z[:, :1], z[:, None, 1:]

    evidence = evidence_by(both, nodes, log_cell, model, params)
    case = conformance.Case(model, params, x, None, evidence, 20_000)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_a_markov_hierarchy_in_a_loop_passes_the_suite(key):
    """Three layers of one number: their two steps are one loop."""
    model, x = markov_model((1, 1, 1)), bits(key)
    assert [stack.num_steps for stack in model.stacks] == [2]
    params = jax.tree.map(lambda v: 0.5 * v, disturbed(jax.jit(model.init)(key, x)))
    axis = jnp.linspace(-6.0, 6.0, 41)
    nodes = jnp.stack(jnp.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
    log_cell = 3 * jnp.log(axis[1] - axis[0])

    def three(node, count):
        z = rows_of(node, count)
        return z[:, :1], z[:, 1:, None]

    evidence = evidence_by(three, nodes, log_cell, model, params)
    case = conformance.Case(model, params, x, None, evidence, 20_000)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


def ladder_model(sides=(1,), layers=(2,), event=EVENT, **kw):
    return models.hierarchical_vae.ladder(
        event_shape=event,
        sides=sides,
        layers=layers,
        channels=8,
        hidden=4,
        latent_dim=1,
        num_blocks=1,
        likelihood="bernoulli",
        **kw,
    )


def test_a_ladder_passes_the_suite(key):
    model, x = ladder_model(), bits(key)
    params = disturbed(jax.jit(model.init)(key, x))
    nodes, log_cell = grid(-8.0, 8.0, 161)

    def layers(node, count):
        return (rows_of(node, count)[:, :, None, None, None],)

    evidence = evidence_by(layers, nodes, log_cell, model, params)
    case = conformance.Case(model, params, x, None, evidence, 20_000)
    assert conformance.check(case, key) == conformance.LATENT_VARIABLE_MODEL


@pytest.mark.slow
def test_a_ladder_over_resolutions(key):
    """What its passes say of one another, at two resolutions and three layers."""
    model = ladder_model((1, 2), (1, 2), (4, 4, 1), num_classes=3)
    x, labels = bits(key, 5, (4, 4, 1)), jnp.asarray([0, 1, 2, 0, 1])
    params = disturbed(jax.jit(model.init)(key, x, labels))

    @jax.jit
    def two_ways(params):
        encoding = model.encode(params, x, labels)
        z = model.propose(key, params, encoding)
        log_w = model.log_weight_given(key, params, x, encoding, labels)
        log_joint = model.log_joint(params, x, z, labels)
        return z, log_w, log_joint - model.log_posterior(params, encoding, z)

    z, log_w, expected = two_ways(params)
    assert [leaf.shape for leaf in z] == [(5, 1, 1, 1, 1), (5, 2, 2, 2, 1)]
    chex.assert_trees_all_close(log_w, expected, rtol=2e-5)
    # The mean of the log weights is the mean of the bound.
    keys = jax.random.split(key, 2000)
    terms = jax.jit(jax.vmap(lambda k: model.elbo_terms(k, params, x, labels)))(keys)
    assert terms.denoising_matching.shape == (2000, 5, 2)
    assert (terms.denoising_matching >= 0).all()
    draws = jax.jit(jax.vmap(lambda k: model.log_weight(k, params, x, labels)))(keys)
    found, error = conformance.mean_and_error(draws)
    bound, bound_error = conformance.mean_and_error(terms.elbo)
    assert (np.abs(found - bound) < 4.5 * np.hypot(error, bound_error)).all()


@pytest.mark.parametrize(
    "kind", ["markov", pytest.param("ladder", marks=pytest.mark.slow)]
)
def test_generation_from_any_layer(key, kind):
    """Layers above stay as they are, those below are the prior's given them."""
    if kind == "markov":
        model, x = markov_model((2, 2, 2, 3)), bits(key)
        above = [lambda z: z[0], lambda z: z[1][:, 0], lambda z: z[1][:, 1]]
        above.append(lambda z: z[2][:, 0])
    else:
        model, x = ladder_model((1, 2), (2, 2), (4, 4, 1)), bits(key, 6, (4, 4, 1))
        above = [lambda z: z[1][:, 1], lambda z: z[1][:, 0]]
        above += [lambda z: z[0][:, 1], lambda z: z[0][:, 0]]
    model = whole(model)
    params = disturbed(jax.jit(model.init)(key, x))
    z = model.propose(key, params, model.encode(params, x))
    for layer in range(1, 5):
        again = model.resample(jax.random.key(7), params, z, layer=layer)
        chex.assert_trees_all_equal_shapes_and_dtypes(again, z)
        for number, of in enumerate(above, start=1):
            same = np.array_equal(
                *(of(jax.tree.map(np.asarray, v)) for v in (again, z))
            )
            assert same == (number >= layer), (layer, number)
    chex.assert_trees_all_equal(model.resample(key, params, z, layer=1), z)
    for layer in (0, 5):
        with pytest.raises(ValueError, match="layer must be from 1 to 4"):
            model.resample(key, params, z, layer=layer)


def test_draws_of_the_prior_have_the_density_of_the_joint(key):
    """Over prior draws log p(z_1 | z_2) is on average minus its entropy."""
    model, x = markov_model((1, 1)), bits(key)
    joint, rest = whole(model), whole(model.base)
    params = disturbed(jax.jit(joint.init)(key, x))
    top = normals(key, (20_000, 1))
    unknown = np.zeros((20_000, 1), np.float32), np.asarray(top)[:, None]
    z = joint.resample(key, params, unknown, layer=2)
    zeros = jnp.zeros((20_000, *EVENT))
    base = params["base"]
    log_p = np.array(joint.log_joint(params, zeros, z))
    log_p -= rest.log_likelihood(base, zeros, z[0])
    log_p -= rest.log_prior(base, top)
    step = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params["steps"][0]["decoder"])
    given = whole(functools.partial(models.steps.normal_given, model.stacks[0].decoder))
    _, log_std = given(step, top)
    entropy = np.asarray(log_std)[:, 0] + 0.5 * np.log(2 * np.pi * np.e)
    mean, error = conformance.mean_and_error(log_p + entropy)
    assert abs(mean) < 4.5 * error


def test_a_hierarchy_of_one_layer_is_its_vae(x64, key):
    model, x = markov_model((2,)), bits(key)
    vae, model = whole(model.base), whole(model)
    params = disturbed(jax.jit(model.init)(key, x))
    encoding = model.encode(params, x)
    z = model.propose(key, params, encoding)
    base = params["base"]
    chex.assert_trees_all_close(
        model.log_joint(params, x, z), vae.log_joint(base, x, z[0]), rtol=1e-12
    )
    chex.assert_trees_all_close(
        model.log_posterior(params, encoding, z),
        vae.log_posterior(base, encoding, z[0]),
        rtol=1e-12,
    )
    terms = model.elbo_terms(key, params, x)
    kl = whole(vae.posterior).kl_standard(encoding)
    chex.assert_trees_all_close(terms.prior_matching, kl, rtol=1e-12)
    assert terms.denoising_matching.shape == (6, 0)


def test_free_nats_and_warm_up_change_the_loss_and_not_the_terms(x64, key):
    def elbo_terms(key, params, x, condition, *, train):
        """Two layers' divergences and a reconstruction, whatever they are of."""
        scale, shift = params
        noise = jax.random.uniform(key, (6,))
        return ElboTerms(
            jnp.sin(shift * x) - noise,
            (scale * x) ** 2,
            jnp.square(shift - scale * x)[:, None] + 1.0,
        )

    unused = dict.fromkeys(("init", "log_weight", "sample"), elbo_terms)
    model = types.SimpleNamespace(elbo_terms=elbo_terms, **unused)
    params = jnp.asarray(0.7), jnp.asarray(-0.4)
    weight = jnp.asarray([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    batch = Batch(normals(key, (6,)), None, weight)

    def loss(**kw):
        return whole(objective.negative_elbo(model, **kw))(key, params, batch)

    (plain, terms), grads = loss()
    by_layer = jnp.stack([terms.prior_matching, terms.denoising_matching[:, 0]])
    means = np.asarray(by_layer @ weight / 5)
    reconstruction = float(terms.reconstruction @ weight / 5)
    np.testing.assert_allclose(plain, means.sum() - reconstruction, rtol=1e-12)
    free = float(means.mean())  # above the one, below the other
    for kl_weight in (1.0, 0.3):
        (found, same), _ = loss(kl_weight=jnp.asarray(kl_weight), free_nats=free)
        expected = kl_weight * np.maximum(means, free).sum() - reconstruction
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        chex.assert_trees_all_equal(same, terms)
    # A threshold may be traced: one program for several.
    (traced, _), _ = jax.jit(lambda free: loss(free_nats=free))(jnp.asarray(free))
    np.testing.assert_allclose(
        traced, np.maximum(means, free).sum() - reconstruction, rtol=1e-12
    )
    (_, _), again = loss(kl_weight=jnp.ones(()))
    chex.assert_trees_all_close(again, grads, rtol=1e-9, atol=1e-12)
    # Below the free nats of every layer the divergences do not pull.
    (_, _), pulled = loss(free_nats=1e6)
    (_, _), unweighted = loss(kl_weight=jnp.zeros(()))
    chex.assert_trees_all_close(pulled, unweighted, rtol=1e-9, atol=1e-12)


def test_a_mixture_of_logistics_as_a_likelihood(x64, key):
    """Its outputs reach the density, all of it: the masses of all images sum to 1."""
    family = models.likelihoods.likelihood(
        "discretized_logistic_mixture", levels=3, channels=2, num_mixtures=2
    )
    outputs = normals(key, (1, 1, 2, family.num_outputs))
    every = np.asarray(list(itertools.product(range(3), repeat=2)))
    images = jnp.asarray(every.reshape(-1, 1, 1, 2), jnp.int32)
    masses = jax.jit(jax.vmap(lambda x: family.log_prob(x, outputs)))(images)
    np.testing.assert_allclose(special.logsumexp(masses), 0.0, atol=1e-12)
    draw = jax.jit(jax.vmap(lambda k: family.sample(k, outputs)))
    drawn = draw(jax.random.split(key, 4000))
    shares = [(np.asarray(drawn).reshape(-1, 2) == x).all(1).mean() for x in every]
    np.testing.assert_allclose(shares, np.exp(masses), atol=4.5 * 0.5 / 4000**0.5)
    data = jax.random.randint(key, (200, 2, 2, 3), 0, 256)
    colours = models.likelihoods.likelihood(
        "discretized_logistic_mixture", levels=256, channels=3
    )
    bias = whole(colours.initial_bias)(data)
    assert bias.shape == (2, 2, 3, colours.num_outputs)
    nats = jax.jit(jax.vmap(colours.log_prob, (0, None)))(data, bias)
    # Uniform levels: no mixture can be much better than the uniform mass.
    uniform = 12 * np.log(256)
    assert uniform - 0.5 < -np.mean(nats) < 1.05 * uniform
    means = np.asarray(jax.jit(colours.mean)(bias))
    assert means.min() > 60
    assert means.max() < 200
    single = whole(
        models.likelihoods.likelihood(
            "discretized_logistic_mixture", levels=256, channels=3, num_mixtures=1
        )
    )
    shown = single.mean(single.initial_bias(data))
    np.testing.assert_allclose(shown, np.asarray(data).mean(0), atol=0.5)


def test_flags_build_every_model():
    forms = {
        "digits": DataForm((8, 8, 1), 17, 0, ""),
        "binarized_mnist": DataForm((28, 28, 1), 2, 0, ""),
        "cifar10": DataForm((32, 32, 3), 256, 10, ""),
        "table": DataForm((5,), 0, 0, ""),
    }
    kinds = {"mlp": models.amortised.VAE, "markov": models.markov.MarkovVAE}
    kinds["ladder"] = models.ladder.Ladder
    for config in (config for _, config in LATENT_PRESETS.values()):
        configs.validate(config)
        model = build_model(config, forms[config.data.name])
        assert isinstance(model, kinds[config.model.architecture])


@pytest.mark.parametrize(
    ("family", "log_std"),
    [
        ("diagonal", 0.0),
        ("diagonal", -20.0),
        ("diagonal", -100.0),
        ("full", 0.0),
        ("full", -20.0),
    ],
)
def test_draws_from_a_narrow_normal_keep_their_density(family, log_std, key):
    """Beside a mean of 1, all draws of a std of 1e-9 are 1: their noise is lost."""
    count = 4000
    posterior = getattr(posteriors, family)(1)
    outputs = jnp.stack([jnp.ones(count), jnp.full(count, log_std)], axis=-1)
    _, log_q = posterior.sample_and_log_prob(key, {}, posterior.encoding(outputs))
    # log q + log std + 1/2 log 2 pi is -eps^2 / 2, of mean -1/2 and variance 1/2.
    found = np.asarray(log_q, np.float64) + log_std + 0.5 * np.log(2 * np.pi)
    assert abs(found.mean() + 0.5) < 4 * np.sqrt(0.5 / count)


@pytest.mark.parametrize(("architecture", "own"), [("mlp", "relu"), ("conv", "silu")])
def test_every_architecture_has_its_own_units(architecture, own):
    """Convolutions with relu units may leave their posterior at the prior."""

    def encoder(activation):
        _, preset = configs.PRESETS["vae-digits"]
        spec = {"architecture": architecture, "activation": activation}
        config = dataclasses.replace(
            preset, model=dataclasses.replace(preset.model, **spec)
        )
        return build_model(config, DataForm((8, 8, 1), 17, 0, "")).encoder

    assert encoder("auto") == encoder(own)
    assert encoder("auto") != encoder("tanh")


@pytest.mark.parametrize(
    "shape",
    [
        ((1,), (2,), EVENT),
        pytest.param(((1, 2), (2, 2), (4, 4, 1)), marks=pytest.mark.slow),
    ],
)
def test_the_divergence_of_a_layer_is_relative_to_its_prior(key, shape):
    """At the start posterior and prior of every layer are the same: nothing to pay."""
    model, x = ladder_model(*shape), bits(key, 4, shape[2])
    terms = jax.jit(lambda key: model.elbo_terms(key, model.init(key, x), x))(key)
    chex.assert_trees_all_equal(terms.prior_matching, jnp.zeros(4))
    others = sum(shape[1]) - 1
    chex.assert_trees_all_equal(terms.denoising_matching, jnp.zeros((4, others)))
