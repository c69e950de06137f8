"""What research code hands over: batches for examples, other precisions, no labels."""

import functools
import re
import warnings
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from draws import disturbed, normals
from jax.sharding import PartitionSpec
from scipy import special
from scipy.stats import norm
from small import small_ladder, small_vae

from vgm import bijections, divergences, numerics
from vgm.bijections import autoregressive as autoregressive_bijections
from vgm.bijections import elementwise, linear, transforms
from vgm.bounds import diffusion as bound
from vgm.bounds import flow as flow_bound
from vgm.bounds import (
    gradients,
    hierarchical,
    importance,
    pareto,
    sandwich,
    trajectories,
)
from vgm.bounds.elbo import single_latent_terms
from vgm.densities import (
    bernoulli,
    categorical,
    discretized_logistic,
    discretized_normal,
    mixture,
    normal,
)
from vgm.densities import multivariate_normal as mvn
from vgm.errors import UserError
from vgm.evaluation import estimates, likelihood
from vgm.inference import em
from vgm.models import (
    autoregressive,
    diffusion,
    families,
    flows,
    heads,
    likelihoods,
    made,
    noise,
    posteriors,
    priors,
)
from vgm.models.amortised import VAE
from vgm.models.hierarchical_vae import markov
from vgm.oracles import beta_bernoulli, enumeration, linear_chain, quadrature
from vgm.processes import gaussian, schedules
from vgm.samplers import diffusion as samplers
from vgm.training import objective, step
from vgm.types import Batch

# As in a program that does not check its types, which the tests' wrapper does.
pytestmark = pytest.mark.usefixtures("unchecked")

KEY = jax.random.key(0)
V, A = jnp.ones(3), jnp.ones((2, 3))
GAMMAS = jnp.asarray([0.1, 0.2, 0.3])
NUMBER = jnp.asarray(0.5)


def convert(value, z, gamma):
    return gaussian.convert(value, z, gamma, source="eps", target="x")


BATCHES = {
    "increments": (bound.denoising_matching, (A, GAMMAS)),
    "derivatives": (bound.denoising_matching_continuous, (A, GAMMAS)),
    "ends": (bound.prior_matching, (V, GAMMAS)),
    "diffuse": (gaussian.diffuse, (V, V, GAMMAS)),
    "marginal": (gaussian.marginal, (V, GAMMAS)),
    "transition": (gaussian.transition, (V, GAMMAS, NUMBER)),
    "transition's increment": (gaussian.transition, (V, NUMBER, GAMMAS)),
    "posterior": (gaussian.posterior, (V, V, GAMMAS, NUMBER)),
    "posterior's increment": (gaussian.posterior, (V, V, NUMBER, GAMMAS)),
    "orders": (importance.renyi, (V, GAMMAS)),
    "factors": (mvn.entropy, (jnp.stack([jnp.eye(3)] * 3),)),
    "mixtures": (mixture.log_prob, (A, A)),
    "velocity": (flow_bound.flow_matching_error, (lambda t, x: x[0], NUMBER, V, V)),
    "noise": (flow_bound.flow_matching_error, (lambda t, x: x, NUMBER, A, V)),
    "conversion": (convert, (V, V, GAMMAS)),
    "conversion of a batch": (convert, (V, A, NUMBER)),
    "evidence of levels": (gaussian.level_evidence, (V, GAMMAS, V)),
    "DDIM": (samplers.ddim_step(0.0), (KEY, V, V, GAMMAS, NUMBER)),
    "DDIM's increment": (samplers.ddim_step(0.0), (KEY, V, V, NUMBER, GAMMAS)),
    "no times": (bound.continuous_terms, (KEY, V, V[:0], None)),
    "states": (enumeration.log_evidence, (A,)),
    "states of p": (enumeration.elbo, (A, A)),
    "states of q": (enumeration.elbo, (V, V[:1])),
    "grid": (quadrature.log_evidence, (lambda z: z, quadrature.grid(2))),
    "grid of a mean": (
        quadrature.posterior_mean,
        (lambda z: z, lambda z: z, quadrature.grid(2)),
    ),
    "components": (mixture.sample, (KEY, jnp.zeros(5), V)),
    "a batch of components": (mixture.sample, (KEY, A, A)),
    "stderr": (sandwich.log_mean_stderr, (A,)),
    "tail": (pareto.tail_index, (jnp.zeros((30, 2)),)),
    "values": (estimates.estimate, (A,)),
    "pairs": (estimates.paired_difference, (V, V[:, None])),
    "columns": (linear.lu(linear.LU(*[jnp.eye(2)] * 2, V[:2])).forward, (A,)),
    "columns back": (linear.lu(linear.LU(*[jnp.eye(2)] * 2, V[:2])).inverse, (A,)),
    "noise of terms": (
        flow_bound.dequantized_terms,
        (single_latent_terms(NUMBER, NUMBER), V, NUMBER),
    ),
    "weights": (objective.weighted_mean, (V, jnp.ones((3, 1)))),
    "one weight": (objective.weighted_mean, (V, NUMBER)),
}


@pytest.mark.parametrize("name", BATCHES)
def test_a_batch_is_no_example(name):
    """Each gave a number that looks right: paired, summed or of the last axis."""
    function, arguments = BATCHES[name]
    with pytest.raises(ValueError, match=r"must (have|be)"):
        function(*arguments)


@pytest.mark.parametrize("name", ["elbo_score_function", "iwae_vimco"])
def test_unsummed_densities_are_refused_by_every_gradient(name):
    """Of three coordinates against one sum they gave a bound a coordinate."""
    system = gradients.System(
        propose=lambda key, params: jax.random.normal(key, (3,)),
        log_joint=lambda params, z: jnp.sum(z),
        log_posterior=lambda params, z: z,
    )
    with pytest.raises(ValueError, match=r"a System.*log_joint \(2,\)"):
        getattr(gradients, name)(KEY, None, system, num_samples=2)


@pytest.mark.parametrize("name", ["elbo_pathwise", "iwae_pathwise"])
def test_unsummed_densities_of_draws_are_refused(name):
    """Where a draw brings its density they are not asked for at z."""
    system = gradients.System(
        propose=lambda key, params: jax.random.normal(key, (3,)),
        log_joint=lambda params, z: jnp.sum(z),
        log_posterior=lambda params, z: jnp.sum(z),
        propose_and_log_prob=lambda key, params: (V, V),
    )
    with pytest.raises(ValueError, match=r"a System.*log_posterior \(2, 3\)"):
        getattr(gradients, name)(KEY, None, system, num_samples=2)


def test_reals_are_no_levels_of_a_flow():
    with pytest.raises(TypeError, match=r"levels are integers 0 \.\. 7"):
        flow_bound.dequantize(V / 7.0, V, levels=8)


def test_levels_and_noise_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one shape.*x \(2, 3\), w \(3,\)"):
        flow_bound.dequantize(A.astype(int), V, levels=4)


@pytest.mark.parametrize("which", ["q", "p"])
def test_log_densities_by_coordinate_are_refused(which):
    """Their mean is the divergence over the number of coordinates."""
    summed = normal.standard_log_prob
    by_coordinate = jax.vmap(normal.standard_log_prob)
    pair = (by_coordinate, summed) if which == "q" else (summed, by_coordinate)
    with pytest.raises(ValueError, match=rf"log {which}\(z\), summed over coordinates"):
        divergences.kl_monte_carlo(
            KEY, lambda key: jax.random.normal(key, (3,)), *pair, num_samples=2
        )


def test_renyi_of_integers_is_that_of_their_values(key):
    log_w = jnp.asarray([-1, -2, -4])
    expected = np.log(np.mean(np.exp(0.5 * np.asarray(log_w)))) / 0.5
    actual = importance.renyi(log_w, jnp.asarray(0.5))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_renyi_beside_a_weight_of_zero_has_its_derivatives(x64):
    """The weight adds nothing: log(1/K sum over the others)."""
    others = jnp.asarray([0.0, 1.0])
    log_w = jnp.concatenate([jnp.asarray([-jnp.inf]), others])

    def reference(others, alpha):
        powers = (1 - alpha) * others
        return (jax.nn.logsumexp(powers) - jnp.log(3.0)) / (1 - alpha)

    for alpha in (0.0, 0.5, -1.0):
        order = jnp.asarray(alpha)
        value = importance.renyi(log_w, order)
        np.testing.assert_allclose(value, reference(others, order), rtol=1e-12)
        by_weight, by_order = jax.grad(importance.renyi, (0, 1))(log_w, order)
        expected = jax.grad(reference, (0, 1))(others, order)
        np.testing.assert_allclose(by_weight[1:], expected[0], rtol=1e-12)
        np.testing.assert_allclose(by_order, expected[1], rtol=1e-12)
        assert by_weight[0] == 0.0
    assert importance.renyi(log_w, jnp.asarray(2.0)) == -jnp.inf


def test_gaussians_of_integers_have_their_widths():
    x = jnp.ones(2, int)
    expected = 0.5 * np.log(special.expit(0.5))
    np.testing.assert_allclose(gaussian.marginal(x, 0.5)[1], expected, rtol=1e-6)
    real = jnp.ones(2)
    chex.assert_trees_all_equal(
        gaussian.posterior(x, x, 0.5, 0.1), gaussian.posterior(real, real, 0.5, 0.1)
    )
    chex.assert_trees_all_equal(
        gaussian.transition(x, 0.5, 0.1), gaussian.transition(real, 0.5, 0.1)
    )


def test_divergence_of_narrow_normals_is_finite():
    """1 / std is beyond float32 from -88.7 on: times 0 it was NaN."""
    mean, log_std = jnp.ones(3), jnp.full(3, -90.0)
    arguments = (mean, log_std, mean, log_std)
    value, gradient = jax.value_and_grad(divergences.kl_normal, (0, 1, 2, 3))(
        *arguments
    )
    chex.assert_trees_all_equal((value, gradient), (0.0, (0 * V,) * 4))


KINDS = [np.uint8, np.int32, bool, np.float32, np.float16, jnp.bfloat16]


@pytest.mark.parametrize("kind", KINDS)
def test_coin_tosses_are_of_any_type(kind):
    tosses = np.arange(300) % 5 < 3
    prior = beta_bernoulli.Beta(jnp.asarray(2.0), jnp.asarray(3.0))
    expected = special.betaln(2 + 180, 3 + 120) - special.betaln(2, 3)
    actual = beta_bernoulli.log_evidence(prior, tosses.astype(kind))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


class Denoiser(nn.Module):
    """A network with some outputs a coordinate, or without their axis."""

    outputs: tuple[int, ...]

    @nn.compact
    def __call__(self, z, time, context, *, train):
        flat = nn.Dense(z.shape[-1] * int(np.prod(self.outputs)))(z)
        return flat.reshape(*z.shape, *self.outputs)


@pytest.mark.parametrize("outputs", [(), (2,)])
def test_a_denoiser_with_other_outputs_is_refused(key, outputs):
    """Without the axis the first coordinate's output was taken for all."""
    model = diffusion.Diffusion(
        Denoiser(outputs),
        (head := heads.head("eps", levels=0)),
        heads.decoder("normal", head, levels=0),
        noise.schedule("linear", -6.0, 5.0),
        (3,),
        10,
    )
    x = normals(key, (4, 3))
    params = jax.jit(model.init)(key, x)
    with pytest.raises(ValueError, match=r"outputs must have shape \(1, 3, 1"):
        model.elbo_terms(key, params, x)


MODELS: dict[str, Any] = {
    "maf": lambda: flows.maf((3,), flows.Step(hidden=(8,)), 2),
    "spline": lambda: flows.neural_spline_autoregressive(
        (3,), flows.Step(hidden=(8,)), 2
    ),
    "realnvp": lambda: flows.realnvp((3,), flows.Step(hidden=(8,)), 2),
}


def glow(key):
    layer = flows.glow((4, 4, 1), flows.Step(hidden=(4,)), 1, num_levels=1)
    x = normals(key, (4, 4, 4, 1))
    return flows.flow(layer, event_shape=(4, 4, 1)), x


def ladder(key):
    model = small_ladder(sides=(1, 4), layers=(1, 1), num_blocks=1)
    return model, (normals(key, (4, 4, 4, 1)) > 0).astype(float)


def masked(key):
    family = likelihoods.likelihood("bernoulli", levels=2)
    network = made.MADE((8,), 1, use_output_bias=False)
    x = (normals(key, (4, 3)) > 0).astype(float)
    return autoregressive.Autoregressive(network, family, (3,)), x


@pytest.mark.parametrize(
    "build",
    [masked, *(pytest.param(f, marks=pytest.mark.slow) for f in (glow, ladder))],
)
def test_a_condition_has_a_row_an_example(key, build):
    """Without one, or with one row for all, these gave another density."""
    model, x = build(key)
    condition = normals(key, (4, 2))
    params = disturbed(model.init(key, x, condition))
    given = model.elbo_terms(key, params, x, condition).elbo
    assert (given != model.elbo_terms(key, params, x, -condition).elbo).any()
    for other in (None, condition[:1]):
        with pytest.raises((UserError, ValueError), match=r"condition|vmap"):
            model.elbo_terms(key, params, x, other)
    for other in (None, condition[:1]):
        with pytest.raises((UserError, ValueError), match=r"condition|vmap"):
            model.sample(key, params, 4, other)


@pytest.mark.parametrize("name", MODELS)
def test_a_conditional_flow_asks_for_its_condition(key, name):
    """A masked network read none and gave another density."""
    model = flows.flow(MODELS[name](), event_shape=(3,))
    x, condition = normals(key, (20, 3)), normals(key, (20, 2))
    params = disturbed(jax.jit(model.init)(key, x, condition))
    assert np.isfinite(jax.jit(model.log_prob)(params, x, condition)).all()
    with pytest.raises(UserError, match="condition"):
        model.log_prob(params, x)
    with pytest.raises(UserError, match="condition"):
        model.log_prob(params, x, condition[:, :1])
    with pytest.raises(UserError, match="condition"):
        model.log_prob(jax.jit(model.init)(key, x), x, condition)


@pytest.mark.parametrize("label", [3, -1])
def test_draws_of_a_class_that_there_is_not_are_refused(key, label):
    """They were valid zeros: discrete draws from NaN."""
    model = small_vae(num_classes=3)
    x, labels = np.zeros((5, 6), np.float32), np.arange(5) % 3
    params = jax.jit(model.init)(key, x, labels)
    with pytest.raises(UserError, match=rf"classes are 0 \.\. 2; got {label}"):
        model.sample(key, params, 4, np.full(4, label))
    bias = np.asarray(disturbed(params["output_bias"], 3.0))
    params = params | {"output_bias": bias}
    assert 0.0 < model.sample(key, params, 50, np.arange(50) % 3).mean() < 1.0
    traced = jax.jit(lambda labels: model.sample_mean(key, params, 4, labels))
    assert np.isnan(traced(np.full(4, label))).all()


def test_no_examples_have_no_terms(key):
    model = small_vae(num_classes=3)
    x, labels = np.zeros((5, 6), np.float32), np.arange(5) % 3
    params = jax.jit(model.init)(key, x, labels)
    assert model.elbo_terms(key, params, x[:0], labels[:0]).elbo.shape == (0,)
    assert model.sample(key, params, 0, labels[:0]).shape == (0, 6)


def test_a_vamp_prior_has_no_condition(key):
    model = small_vae(num_classes=3, prior=priors.vamp(2))
    with pytest.raises(UserError, match="VampPrior"):
        model.init(key, np.zeros((3, 6), np.float32), np.arange(3))


def test_observed_numbers_alone_are_no_masked_ones(key):
    model = small_vae(event_shape=(3,), likelihood="normal", missing=True)
    with pytest.raises(TypeError, match=r"types\.Masked"):
        model.init(key, A)


def test_repeating_no_encoding_gives_none():
    draws = jnp.zeros((6, 2))
    assert objective._repeat((), draws) == ()
    chex.assert_trees_all_equal(
        objective._repeat({"x": jnp.arange(2)}, draws), {"x": jnp.arange(6) % 2}
    )


def chain():
    return bound.Chain(
        schedules.linear(jnp.asarray(-5.0), jnp.asarray(5.0)),
        lambda z, gamma: jnp.tanh(z) * jnp.ones(()) * 0.3,
        gaussian.PARAMETERISATIONS["eps"],
        normal.standard_log_prob,
    )


@pytest.mark.slow
def test_float32_data_under_double_precision(x64, key):
    """Who turns double precision on for an oracle may still have float32 images."""
    x = np.linspace(-1, 1, 3, dtype=np.float32)
    for function in (bound.discrete_terms, trajectories.log_weight):
        with jax.enable_x64(False):
            expected = function(key, x, chain(), num_steps=4)
        actual = function(key, x, chain(), num_steps=4)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)
    for name in MODELS:
        model = flows.flow(MODELS[name](), event_shape=(3,))
        data = np.asarray(normals(key, (20, 3)), np.float32)
        params = disturbed(model.init(key, data))
        expected = model.log_prob(params, data.astype(np.float64))
        np.testing.assert_allclose(model.log_prob(params, data), expected, rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_flow_starts_from_half_precision(key, name):
    model = flows.flow(MODELS[name](), event_shape=(3,))
    x = normals(key, (20, 3)).astype(jnp.bfloat16)
    params = model.init(key, x)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    expected = model.init(key, x.astype(jnp.float32))
    chex.assert_trees_all_close(params, expected, rtol=1e-6)


def test_discretized_normal_in_half_precision_is_that_of_its_numbers():
    x, mean = jnp.asarray([0, 3, 7]), jnp.asarray([0.1, 0.2, 0.3], jnp.bfloat16)
    density = discretized_normal.log_prob
    expected = density(x, mean.astype(jnp.float32), V - 2.0, levels=8)
    actual = density(x, mean, (V - 2.0).astype(jnp.bfloat16), levels=8)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("density", [discretized_logistic, discretized_normal])
def test_discretized_draws_in_half_precision_have_mass(key, density):
    """On a coarser scale than the levels' they fell beside all mass."""
    mean = jnp.full(200, 0.3, jnp.bfloat16)
    log_std = jnp.full(200, -9.0, jnp.bfloat16)
    draws = density.sample(key, mean, log_std, levels=256)
    whole = [mean.astype(jnp.float32), log_std.astype(jnp.float32)]
    chex.assert_trees_all_equal(draws, density.sample(key, *whole, levels=256))
    actual = density.log_prob(draws, mean, log_std, levels=256)
    expected = density.log_prob(draws, *whole, levels=256)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16, jnp.int32])
def test_streams_count_in_float32(key, kind):
    """In half precision they stopped at 256, whatever K."""

    def log_weight(key):
        return (3.0 * jax.random.normal(key)).astype(kind)

    sums = importance.stream(key, log_weight, num_samples=3000, chunk_size=7)
    keys = jax.vmap(lambda k: jax.random.fold_in(key, k))(jnp.arange(3000))
    log_w = np.asarray(jax.vmap(log_weight)(keys), np.float64)
    assert sums.num_samples == 3000
    expected = special.logsumexp(log_w) - np.log(3000)
    np.testing.assert_allclose(importance.log_evidence(sums), expected, rtol=1e-5)
    expected = np.exp(log_w).sum() ** 2 / np.exp(2 * log_w).sum()
    np.testing.assert_allclose(importance.effective_samples(sums), expected, rtol=1e-4)


def test_a_sampler_takes_half_precision(key):
    z = normals(key, (3,)).astype(jnp.bfloat16)
    settings = {"num_steps": 50, "step": samplers.ddim_step(0.0)}
    expected = samplers.sample(key, z.astype(jnp.float32), chain(), **settings)
    actual = samplers.sample(key, z, chain(), **settings)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def test_reals_in_half_precision_have_their_unit(key):
    """70,000 squares of hundreds are beyond float16."""
    x = (300.0 * normals(key, (70_000, 1))).astype(jnp.float16)
    mean, std = families.batch_moments(x)
    wide = np.asarray(x, np.float64)
    np.testing.assert_allclose(std, wide.std(), rtol=1e-4)
    np.testing.assert_allclose(mean, wide.mean(), atol=1e-4 * wide.std())


def test_equal_weights_of_numpy_have_no_tail():
    """Equal but for the rounding of float32, which they are computed in."""
    log_w = -5000.0 + 1e-3 * np.random.default_rng(0).normal(size=400)
    assert pareto.tail_index(log_w) == -np.inf


def test_chains_keep_the_density_of_narrow_draws(key):
    """Beside a mean of 1e4 float32 has lost a noise of exp(-12)."""
    eye = jnp.eye(2)
    narrow = linear_chain.Conditional(0 * eye, jnp.full(2, 1e4), np.exp(-12.0) * eye)
    wide = linear_chain.Conditional(0 * eye, jnp.zeros(2), eye)
    keys = jax.random.split(key, 2000)
    for draw in (
        lambda key: linear_chain.sample_bottom_up(key, (narrow, wide), jnp.zeros(2)),
        lambda key: linear_chain.sample_top_down(
            key, (narrow, wide._replace(weights=jnp.zeros((2, 0))))
        ),
    ):
        log_q = np.asarray(jax.vmap(draw)(keys)[1], np.float64)
        # Minus the entropies of four numbers, two of them of std exp(-12).
        expected = 24.0 - 2.0 * (np.log(2 * np.pi) + 1.0)
        assert abs(log_q.mean() - expected) < 4 * log_q.std() / np.sqrt(2000)


def test_sampling_computes_no_density(key):
    """Without jit nothing removes what is not asked for."""
    for sample, scale in ((normal.sample, V), (mvn.sample, jnp.eye(3))):
        names = {
            eqn.primitive.name for eqn in jax.make_jaxpr(sample)(key, V, scale).eqns
        }
        assert not names & {"log", "reduce_sum"}


def test_loops_under_double_precision_take_float32(x64, key):
    z = np.asarray(normals(key, (3,)), np.float32)
    weights = jnp.asarray(np.tril(normals(key, (3, 3)), -1))
    flow = autoregressive_bijections.masked_autoregressive(
        lambda x: jnp.stack([weights @ x] * 2, axis=-1), transforms.affine()
    )
    x, _ = flow.inverse(z)
    np.testing.assert_allclose(flow.forward(x)[0], z, rtol=1e-5, atol=1e-6)
    turn = linear.orthogonal(weights + jnp.eye(3))
    np.testing.assert_allclose(turn.inverse(turn.forward(z)[0])[0], z, rtol=1e-5)


def test_bits_are_drawn_by_a_model_of_float32_under_double_precision(x64, key):
    model, x = masked(key)
    params = model.init(key, np.asarray(x, np.float32))
    assert set(np.unique(model.sample(key, params, 20))) == {0.0, 1.0}


def test_sums_of_nothing_are_refused():
    for data, size in ((V[:0], 2), (V, 0)):
        with pytest.raises(ValueError, match="must be at least 1; got 0"):
            em.summed(lambda x: x, data, chunk_size=size)


def test_streams_keep_the_precision_of_their_weights(x64, key):
    sums = importance.stream(
        key, lambda key: jnp.ones(2, jnp.float32), num_samples=3, chunk_size=2
    )
    assert {leaf.dtype for leaf in sums} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(importance.log_evidence(sums), 1.0, rtol=1e-6)


def test_streams_and_loops_of_layers_run_under_shard_map(key):
    devices = jax.local_device_count()
    types = (jax.sharding.AxisType.Auto,)
    mesh = jax.make_mesh((devices,), ("data",), axis_types=types)
    x = normals(key, (2 * devices, 3))
    layers = bijections.scan(
        lambda log_scale: elementwise.affine(V, log_scale * V), jnp.asarray([0.1, 0.2])
    )

    def run(x):
        def log_weight(key):
            return jax.vmap(normal.standard_log_prob)(x) + jax.random.normal(key)

        sums = importance.stream(key, log_weight, num_samples=3, chunk_size=2)
        return importance.log_evidence(sums), jax.vmap(layers.forward)(x)[1]

    spec = PartitionSpec("data")
    split = jax.shard_map(run, mesh=mesh, in_specs=spec, out_specs=spec)
    chex.assert_trees_all_close(jax.jit(split)(x), run(x), rtol=1e-6)


def test_numbers_of_numpy_are_taken_without_a_warning(key):
    mean, log_std = np.zeros(3), np.zeros(3)
    log_w = np.linspace(-1.0, 0.0, 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        normal.sample(key, mean, log_std)
        mvn.sample(key, mean, np.eye(3))
        bernoulli.sample(key, mean)
        importance.renyi(log_w, 0.5)
        bound.discrete_terms(key, mean, chain(), num_steps=2)
        layers = bijections.compose(elementwise.affine(V, V), elementwise.affine(V, V))
        layers.forward(mean)
        assert pareto.smooth(log_w).shape == (40,)
        sandwich.interval(log_w, log_w)


def test_small_things_that_a_caller_writes_in_python(key):
    terms = single_latent_terms(-3.0, 0.0)
    assert float(terms.elbo) == -3.0
    assert terms.denoising_matching.shape == (0,)
    assert normal.sample(key, 0, 0).dtype == jnp.float32
    state = step.init_state({"a": 0.5}, optax.sgd(0.1))
    assert state.params["a"].dtype == jnp.float32


PLAIN = {
    "normal": (normal.log_prob, (1, 0, 0.5), lambda: norm.logpdf(1, 0, np.exp(0.5))),
    "its entropy": (normal.entropy, (0.5,), lambda: norm.entropy(0, np.exp(0.5))),
    "bernoulli": (bernoulli.log_prob, (1, 0.5), lambda: np.log(special.expit(0.5))),
    "its entropy, of a bit": (bernoulli.entropy, (0.0,), lambda: np.log(2.0)),
    "categorical": (
        categorical.log_prob,
        (1, [0.0, 1.0]),
        lambda: np.log(special.expit(1.0)),
    ),
    "discretized normal": (
        functools.partial(discretized_normal.log_prob, levels=3),
        (0, 0.5, 0.0),
        lambda: norm.logcdf(-0.5, 0.5),
    ),
    "discretized logistic": (
        functools.partial(discretized_logistic.log_prob, levels=3),
        (2, 0.5, 0.0),
        lambda: special.log_expit(0.0),
    ),
    "divergence": (divergences.kl_normal, (1, 0.0, 0, 0.0), lambda: 0.5),
    "divergence from the standard": (
        divergences.kl_standard_normal,
        (1, 0),
        lambda: 0.5,
    ),
    "divergence of bits": (
        divergences.kl_bernoulli,
        (0.0, 1.0),
        lambda: -np.log(2.0) - 0.5 * np.sum(special.log_expit([1.0, -1.0])),
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_one_number_is_an_event(name):
    """Plain Python numbers too, as SciPy takes them; the references are SciPy's."""
    function, arguments, reference = PLAIN[name]
    np.testing.assert_allclose(function(*arguments), reference(), rtol=1e-6)


@pytest.mark.parametrize("density", [discretized_normal, discretized_logistic])
def test_one_level_is_none(density, key):
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        density.log_prob(V.astype(int), V, V, levels=1)
    with pytest.raises(ValueError, match="levels must be at least 2; got 1"):
        density.sample(key, V, V, levels=1)


def test_nothing_to_descend_or_to_draw_is_refused(key):
    with pytest.raises(ValueError, match="levels must be at least 1; got 0"):
        hierarchical.top_down_terms(key, V, [], log_likelihood=jnp.sum)
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        enumeration.iwae(V, V, num_samples=0)


@pytest.mark.parametrize("kind", [jnp.float32, bool])
def test_categories_are_integers(kind):
    x = jnp.ones(3, kind)
    with pytest.raises(TypeError, match=re.escape("levels are integers 0 .. 3")):
        categorical.log_prob(x, jnp.zeros((3, 4)))


def test_weights_of_another_shape_are_no_batch(key):
    model = small_vae()
    x = np.zeros((5, 6), np.float32)
    params = jax.eval_shape(model.init, key, x)
    batch = Batch(x, None, np.ones((5, 1)))
    with pytest.raises(ValueError, match=r"values \(5,\), weight \(5, 1\)"):
        jax.eval_shape(objective.negative_elbo(model), key, params, batch)


def test_a_falling_gamma_has_no_bound():
    """Log SNR for gamma: its terms would fall without an end as a network learns."""
    falling = schedules.from_gamma(lambda t: 5.0 - 18.0 * t)
    eps = gaussian.PARAMETERISATIONS["eps"]
    chain = bound.Chain(falling, lambda z, gamma: z, eps, jnp.sum)
    t = jnp.asarray([0.2, 0.7])

    @jax.jit
    def terms(key, x):
        return (
            bound.discrete_terms(key, x, chain, num_steps=3),
            bound.sampled_terms(key, x, t, chain, num_steps=3),
            bound.continuous_terms(key, x, t, chain),
        )

    assert all(np.isnan(found.elbo) for found in terms(KEY, V))


def test_bytes_are_dequantised_as_integers_are():
    x, w = jnp.asarray([1, 200]), jnp.asarray([0.3, -2.0])
    wide = flow_bound.dequantize(x, w, levels=300)
    narrow = flow_bound.dequantize(x.astype(jnp.uint8), w, levels=300)
    chex.assert_trees_all_equal(narrow, wide)


def test_integers_are_numbers_to_an_exponential():
    expected = 0.5 * (np.expm1(1.0) - 1.0 + np.expm1(2.0) - 2.0)
    found = numerics.sum_half_expm1_minus(jnp.asarray([1, 2]), jnp.zeros(2, int))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


class Constant(nn.Module):
    """Zeros of a shape, whatever it reads."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x, condition, *, train):
        return jnp.zeros((len(x), *self.shape))


OUTPUTS = {
    "decoder of one for two": ((4,), (3, 1), "the network's outputs must have shape"),
    "flat decoder": ((4,), (6,), "the network's outputs must have shape"),
    "encoder of one for two": ((2,), (3, 2), "the encoder's outputs must have shape"),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_networks_of_ones_own_give_as_many_outputs_as_are_read(key, name):
    """Broadcast, one output would be both mean and log scale."""
    encoder, decoder, said = OUTPUTS[name]
    family = likelihoods.likelihood("normal")
    model = VAE(
        Constant(encoder),
        Constant(decoder),
        family,
        posteriors.diagonal(2),
        priors.standard_normal(2),
    )
    x = jax.random.normal(key, (5, 3))
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda: model.elbo_terms(key, model.init(key, x), x))


def test_a_prior_is_of_the_posteriors_latents(key):
    networks = Constant((4,)), Constant((3, 2))
    family = likelihoods.likelihood("normal")
    model = VAE(*networks, family, posteriors.diagonal(2), priors.standard_normal(3))
    x = jax.random.normal(key, (5, 3))
    params = jax.eval_shape(model.init, key, x)
    for weigh in (model.elbo_terms, model.log_weight):
        with pytest.raises(
            ValueError, match=r"z of the prior must have shape \(5, 3\)"
        ):
            jax.eval_shape(weigh, key, params, x)


def test_levels_that_are_reals_are_refused_from_the_start(key):
    model = small_vae(likelihood="categorical", levels=4)
    with pytest.raises(TypeError, match=re.escape("levels are integers 0 .. 3; got")):
        model.init(key, jnp.ones((5, 6)))


def test_free_nats_are_of_divergences():
    """The terms between the layers of a chain are signed."""
    model = markov(small_vae(), latent_dims=(2, 1), hidden=(4,))
    with pytest.raises(UserError, match="free_nats needs divergences"):
        objective.negative_elbo(model, free_nats=0.5)
    objective.negative_elbo(model, kl_weight=0.5)


def test_a_model_of_ones_own_may_call_its_arguments_what_it_likes(key):
    class Own(type(small_vae())):
        def encode(self, p, data, c=None):
            return super().encode(p, data, c)

    given = vars(small_vae())
    model, plain = Own(**given), type(small_vae())(**given)
    x = jax.random.bernoulli(key, 0.5, (4, 6)).astype(float)
    params, data = model.init(key, x), Batch(x, None, jnp.ones(4))
    measure = {"observe": lambda key, x: x, "batch_size": 4}
    measure |= {"num_samples": 3, "chunk_size": 3}
    found = likelihood.example_evidence(key, params, data, model=model, **measure)
    expected = likelihood.example_evidence(key, params, data, model=plain, **measure)
    np.testing.assert_array_equal(found.log_evidence, expected.log_evidence)
