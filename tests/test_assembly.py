"""What models draw, show and read, beside the bound that they give."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation import whole
from conformance import mean_and_error
from draws import bits, disturbed, normals
from small import Noise, changed, small_ladder, small_vae

from vgm import configs, models
from vgm.bounds.elbo import ElboTerms
from vgm.experiment import building, latents, stepping
from vgm.models import (
    denoisers,
    flow_parts,
    flows,
    ladder_networks,
    layers,
    learned,
    likelihoods,
    posteriors,
    priors,
    unets,
)
from vgm.training import checkpoints, objective, optimizers, step
from vgm.types import Batch

# ---- draws


@pytest.mark.parametrize("name", ["mixture", "vamp"])
def test_draws_of_a_mixture_have_its_spread(name, key):
    mean, std = jnp.asarray([[-4.0], [2.0]]), np.asarray([0.1, 1.5])
    log_std = jnp.log(jnp.asarray(std))[:, None]
    if name == "vamp":
        share = np.asarray([0.5, 0.5])
        own: Any = posteriors.DiagonalEncoding(mean, log_std)
        prior = priors.vamp(2)
    else:
        share = np.asarray([0.3, 0.7])
        own = priors.Components(mean, log_std, jnp.log(jnp.asarray(share)))
        prior = priors.mixture(1, 2)
    draws = np.asarray(whole(prior).sample(key, own, 20_000))[:, 0]
    # The components are three standard deviations apart at -3.
    near = draws < -3.0
    # Six standard errors, 1 / sqrt(2 * 6000) of a deviation.
    assert abs(near.mean() - share[0]) < 0.02
    np.testing.assert_allclose(draws[near].std(), std[0], rtol=0.06)
    np.testing.assert_allclose(draws[~near].std(), std[1], rtol=0.06)


def climbing(num_layers):
    """z_t given z_{t+1} is N(z_{t+1}, 1), and the mean of x given z_1 is z_1."""
    base = models.vae.mlp(
        event_shape=(1,), latent_dim=1, hidden=(), likelihood="normal"
    )
    model = models.hierarchical_vae.markov(
        base, latent_dims=(1,) * num_layers, hidden=()
    )
    x = jnp.asarray([[-1.0], [1.0]])
    params = jax.tree.map(jnp.zeros_like, model.init(jax.random.key(0), x))
    first = jnp.asarray([[1.0, 0.0]])
    params["base"]["decoder"]["params"]["mlp"]["Dense_0"]["kernel"] = first
    for own in params["steps"]:
        dense = own["decoder"]["params"]["Dense_0"]
        dense["kernel"] = jnp.broadcast_to(first, dense["kernel"].shape)
    return model, params


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [2, 4])
def test_every_layer_adds_its_own_noise_to_a_sample(num_layers, key):
    model, params = climbing(num_layers)
    draw = jax.jit(model.sample_mean, static_argnums=2)
    means = np.asarray(draw(key, params, 20_000))
    # Five standard errors, sqrt(2 / 20000), of a variance.
    np.testing.assert_allclose(means.var(), num_layers, rtol=0.05)


@pytest.mark.slow
def test_the_bound_of_a_hierarchy_reads_its_prior(key):
    base = models.vae.mlp(
        event_shape=(4,), latent_dim=1, hidden=(4,), likelihood="bernoulli"
    )
    model = models.hierarchical_vae.markov(
        base, latent_dims=(1, 1), hidden=(4,), prior=priors.mixture(1, 2)
    )
    x = bits((3, 4))
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(key, x))
    prior = params["base"]["prior"]._replace(mean=jnp.asarray([[-3.0], [2.0]]))
    params["base"]["prior"] = prior
    # An encoder of zeros: q(z_2 | z_1) is N(0, 1), its divergence by the trapezium.
    z = np.linspace(-9.0, 9.0, 2001)
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    components = [np.exp(-0.5 * (z - at) ** 2) for at in (-3.0, 2.0)]
    log_p = np.log(sum(components) / np.sqrt(8.0 * np.pi))
    expected = np.sum(density * (np.log(density) - log_p)) * (z[1] - z[0])
    terms = jax.jit(jax.vmap(lambda k: model.elbo_terms(k, params, x)))
    draws = terms(jax.random.split(key, 4000)).prior_matching
    mean, error = mean_and_error(draws)
    assert (np.abs(mean - expected) < 4.5 * error).all()
    assert (error < 0.1 * expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_dropout_is_in_both_networks_of_a_hierarchy_in_training_alone(network, key):
    def build(dropout):
        base = models.vae.mlp(
            event_shape=(6,),
            latent_dim=2,
            hidden=(16,),
            likelihood="bernoulli",
            dropout=dropout,
        )
        return models.hierarchical_vae.markov(base, latent_dims=(2, 2), hidden=(4,))

    x = bits((8, 6))
    params = disturbed(jax.jit(build(0.0).init)(key, x), 0.3)
    other = "decoder" if network == "encoder" else "encoder"
    silent = jax.tree.map(jnp.zeros_like, params["base"][other])
    params["base"][other] = silent
    plain = build(0.0).elbo_terms(key, params, x).elbo
    off, on = (
        build(0.5).elbo_terms(key, params, x, train=train).elbo
        for train in (False, True)
    )
    np.testing.assert_allclose(off, plain, rtol=1e-5)
    assert (np.abs(np.asarray(on) - np.asarray(plain)) > 1e-6).any()


@pytest.mark.parametrize(
    "kind", ["vae", pytest.param("ladder", marks=pytest.mark.slow)]
)
def test_a_reconstruction_is_the_mean_given_a_draw_of_the_posterior(kind, key):
    small = small_vae(event_shape=(4, 4, 1)) if kind == "vae" else small_ladder()
    model, x = whole(small), bits((3, 4, 4, 1))
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    z = model.propose(key, params, model.encode(params, x))
    found = model.reconstruct(key, params, x)
    np.testing.assert_allclose(found, model.mean(params, z), rtol=1e-5)


@pytest.mark.slow
def test_layers_of_a_ladder_are_drawn_and_not_their_means(key):
    """At the start p(z_t | z_{>t}) is N(0, 1)."""
    model = small_ladder()
    start = jax.jit(model.init)(key, bits((2, 4, 4, 1)))
    nothing = tuple(
        jnp.zeros((2000, count, side, side, 1)) for count, side in [(2, 1), (1, 2)]
    )
    resample = jax.jit(functools.partial(model.resample, layer=3))
    top, low = resample(key, start, nothing)
    assert (np.asarray(top[:, 0]) == 0.0).all()
    # Five standard errors of 2000 draws, 1 / sqrt(4000).
    np.testing.assert_allclose(np.std(top[:, 1]), 1.0, rtol=0.08)
    np.testing.assert_allclose(np.std(low, axis=0), 1.0, rtol=0.08)
    # Whoever generates draws the top as well: no two means are alike.
    means = whole(model).sample_mean(key, disturbed(start, 0.3), 4)
    assert len(np.unique(np.asarray(means)[:, 0, 0, 0])) == 4


# ---- the parts of a ladder


def test_a_ladder_looks_around_itself(key):
    network = ladder_networks.Bottleneck(4, 3, 1)
    x = normals(key, (1, 3, 3, 2))
    params = disturbed(network.init(key, x, train=False), 1.0)
    apply = whole(functools.partial(network.apply, train=False))
    other = x.at[0, 0, 0].add(1.0)
    moved = np.abs(apply(params, other) - apply(params, x)).max(axis=-1)[0]
    assert (moved[:2, :2] > 1e-3).all()
    assert (moved[2] == 0.0).all()


def test_a_block_of_a_ladder_adds_to_what_it_reads(key):
    block = ladder_networks.Residual(ladder_networks.Bottleneck(4, 2, 1))
    x = normals(key, (1, 2, 2, 2))
    params = disturbed(block.init(key, x, train=False))
    silent = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(block.apply(silent, x, train=False), x)


def test_patches_of_a_ladder_stay_where_they_are(key):
    """One patch in is one place of the maps, and one of those is one patch out."""
    stem = ladder_networks.Stem(2, 3)
    x = normals(key, (1, 4, 4, 1))
    params = disturbed(jax.jit(stem.init)(key, x), 1.0)
    other = x.at[0, :2, 2:].add(1.0)
    moved = np.abs(stem.apply(params, other) - stem.apply(params, x)).max(-1)[0]
    np.testing.assert_array_equal(moved > 1e-3, [[False, True], [False, False]])
    head = ladder_networks.Head((4, 4, 1, 1), "tanh")
    maps = normals(key, (1, 2, 2, 3))
    params = disturbed(head.init(key, maps), 1.0)
    other = maps.at[0, 0, 1].add(1.0)
    moved = np.abs(head.apply(params, other) - head.apply(params, maps))[0, ..., 0, 0]
    expected = np.zeros((4, 4), bool)
    expected[:2, 2:] = True
    np.testing.assert_array_equal(moved > 1e-3, expected)


def test_the_scales_of_a_ladder_are_bounded(key):
    layer = ladder_networks.LadderLayer(3, 2, 4, 1)
    state, features = normals(key, (2, 5, 1, 1, 3))
    params = disturbed(layer.init(key, state, features), 30.0)
    how = {"train": False, "method": "prior"}
    mean, log_std, residual = layer.apply(params, state, **how)
    how["method"] = "posterior"
    _, own = layer.apply(params, state, features, mean, log_std, **how)
    for bounded in (log_std, np.asarray(own) - np.asarray(log_std)):
        assert 4.9 < np.abs(bounded).max() <= 5.001
    # What the prior says beside z enters the state.
    how["method"] = "merge"
    merged = [
        layer.apply(params, state, shift + residual, mean, **how)
        for shift in (0.0, 100.0)
    ]
    assert np.abs(merged[1] - merged[0]).max() > 10.0


def test_branches_of_a_ladder_start_small_by_their_number():
    model = small_ladder()
    for level in model.resolutions:
        assert level.layer.depth == 3  # layers, at both resolutions
        assert level.block.bottleneck.depth == 6  # three blocks at each


# ---- means of likelihoods


@pytest.mark.parametrize("name", ["bernoulli", "categorical", "discretized_logistic"])
def test_means_are_sums_over_all_values(name, x64, key):
    levels = 2 if name == "bernoulli" else 5
    family = whole(likelihoods.likelihood(name, levels=levels))
    outputs = normals(key, (1, family.num_outputs))
    every = np.arange(levels)
    dtype = float if name == "bernoulli" else np.int32
    mass = [np.exp(family.log_prob(np.full(1, k, dtype), outputs)) for k in every]
    np.testing.assert_allclose(sum(mass), 1.0, rtol=1e-10)
    expected = np.dot(every, mass)
    np.testing.assert_allclose(family.mean(outputs)[0], expected, rtol=1e-8)


def test_means_of_coupled_channels_against_draws(key):
    """Narrow and away from the ends: the mean is that of the draws."""
    family = likelihoods.likelihood(
        "discretized_logistic_mixture", levels=256, channels=3, num_mixtures=1
    )
    flat = jnp.zeros(3 * family.num_outputs)
    flat = flat.at[1:4].set(jnp.asarray([0.6, -0.2, 0.1]))
    flat = flat.at[4:7].set(-5.0).at[7:10].set(jnp.asarray([0.5, -0.7, 0.9]))
    outputs = flat.reshape(1, 1, 3, -1)
    draw = jax.jit(jax.vmap(family.sample, (0, None)))
    drawn = np.asarray(draw(jax.random.split(key, 2000), outputs), float)
    # Some levels of 256 wide: six standard errors are below a half.
    np.testing.assert_allclose(family.mean(outputs), drawn.mean(0), atol=0.5)


def test_draws_of_levels_are_as_wide_as_their_scale(key):
    family = likelihoods.likelihood("discretized_logistic", levels=256)
    outputs = jnp.broadcast_to(jnp.asarray([0.0, -3.0]), (5000, 2))
    drawn = np.asarray(jax.jit(family.sample)(key, outputs), float)
    # Of a logistic on [-1, 1], each unit 127.5 levels.
    expected = 127.5 * np.exp(-3.0) * np.pi / np.sqrt(3.0)
    np.testing.assert_allclose(drawn.std(), expected, rtol=0.1)


def test_pixels_start_at_odds_of_one_to_999_at_most():
    x = jnp.asarray([[0.0, 1.0, 1.0], [0.0, 1.0, 0.0]])
    found = likelihoods.likelihood("bernoulli").initial_bias(x)[:, 0]
    np.testing.assert_allclose(found, [-np.log(999), np.log(999), 0.0], atol=1e-4)


# ---- objectives and steps


@pytest.mark.parametrize("of", ["objective", "flag"])
def test_an_objective_is_the_mean_over_its_draws(of, key):
    if of == "flag":
        values = {"objective.num_samples": 10_000}
        config = changed("vae-digits", values)
        value_and_grad = stepping.value_and_grad(config, Noise())
    else:
        value_and_grad = objective.negative_elbo(Noise(), num_samples=10_000)
    batch = Batch(jnp.zeros((6, 1)), None, jnp.ones(6))
    (_, terms), _ = jax.jit(value_and_grad)(key, jnp.ones(()), batch)
    # The largest of six means of 10,000 draws: 6 standard errors.
    assert np.abs(terms.elbo).max() < 0.06


def test_the_warm_up_ends_at_one():
    found = [float(optimizers.kl_warmup(jnp.asarray(n), 4)) for n in range(7)]
    np.testing.assert_allclose(found, [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0])


def test_metrics_are_each_of_their_term(key):
    def value_and_grad(key, params, batch):
        ones = jnp.ones(2)
        terms = ElboTerms(-5.0 * ones, 2.0 * ones, jnp.asarray([[0.5, 0.25]] * 2))
        return (jnp.asarray(7.0), terms), jnp.asarray([3.0, 4.0])

    optimizer = optax.sgd(0.1)
    state = step.init_state(jnp.zeros(2), optimizer)
    batch = Batch(jnp.zeros((2, 1)), None, jnp.ones(2))
    _, metrics = step.train_step(
        key, state, batch, value_and_grad=value_and_grad, optimizer=optimizer
    )
    expected = (7.0, -7.75, -5.0, 2.0, 0.75, 5.0, 0.0)
    np.testing.assert_allclose(metrics, expected, rtol=1e-6)


def test_the_flag_of_weight_decay_decays():
    values = {"schedule": "constant", "learning_rate": 0.1, "weight_decay": 0.5}
    config = configs.Config(preset="", optimizer=configs.OptimizerConfig(**values))
    optimizer = stepping.make_optimizer(config)
    params = {"kernel": jnp.ones(2)}
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)


def test_the_last_two_checkpoints_are_kept(tmp_path):
    params = {"a": jnp.zeros(1)}
    with checkpoints.open_manager(tmp_path / "c") as manager:
        for n in range(1, 5):
            checkpoints.save(manager, n, state=params, params=params, meta={})
        manager.wait_until_finished()
        assert sorted(manager.all_steps()) == [3, 4]


# ---- what flags build


LEVELS = building.DataForm((8, 8, 1), 17, 0, "")


def test_flags_of_a_diffusion_are_its_own():
    values = {
        "diffusion.num_steps": 11,
        "diffusion.train_num_steps": 7,
        "diffusion.num_times": 5,
        "diffusion.chunk_size": 3,
        "diffusion.eta": 0.25,
        "diffusion.schedule": "linear",
        "diffusion.gamma_min": -6.0,
        "diffusion.gamma_max": 4.0,
        "model.hidden": (24, 24, 24),
    }
    model = building.build_model(changed("vdm-digits", values), LEVELS)
    names = ("num_steps", "train_num_steps", "num_times", "chunk_size", "eta")
    assert [getattr(model, name) for name in names] == [11, 7, 5, 3, 0.25]
    assert (model.network.width, model.network.num_blocks) == (24, 3)
    schedule = model.schedule.build({})
    ends = [float(schedule.gamma(jnp.asarray(t))) for t in (0.0, 1.0)]
    np.testing.assert_allclose(ends, [-6.0, 4.0])


def test_flags_of_a_ladder_are_its_own():
    values = {"model.channels": 12, "model.hidden": (6,), "model.num_blocks": 3}
    values |= {"latent.sides": (4, 8), "latent.layers": (1, 2)}
    model = building.build_model(changed("ladder-mnist", values), LEVELS)
    assert [level.layer.channels for level in model.resolutions] == [12, 12]
    assert [level.layer.hidden for level in model.resolutions] == [6, 6]
    assert [level.num_layers for level in model.resolutions] == [1, 2]
    assert [level.num_blocks for level in model.resolutions] == [3, 3]


def test_variational_noise_is_of_four_couplings(key):
    config = changed("nsf-digits", {"flow.noise": "variational", "model.hidden": (4,)})
    model = building.build_model(config, LEVELS)
    x = jnp.zeros((2, 8, 8, 1), jnp.int32)
    shapes = jax.eval_shape(model.init, key, x)["noise"]
    assert {leaf.shape[0] for leaf in jax.tree.leaves(shapes)} == {4}


# ---- diffusions


class Clock(nn.Module):
    """Outputs the time that it is given."""

    @nn.compact
    def __call__(self, z, time, context, *, train):
        return jnp.broadcast_to(time[:, None, None], (*z.shape, 1))


def real_diffusion(network, **kw):
    head = models.heads.head("v", levels=0)
    return models.diffusion.Diffusion(
        network,
        head,
        models.heads.decoder("normal", head, levels=0),
        models.noise.schedule("learned-linear", -4.0, 6.0),
        event_shape=(2,),
        num_steps=5,
        **kw,
    )


def test_a_network_is_told_the_time_from_0_to_1(key):
    model = real_diffusion(Clock())
    params = jax.jit(model.init)(key, normals(key, (4, 2)))
    for time in (0.0, 0.25, 1.0):
        gamma = jnp.asarray(-4.0 + 10.0 * time)
        found = model.outputs(params, jnp.zeros(2), gamma)
        np.testing.assert_allclose(found, np.full((2, 1), time), atol=1e-6)


@pytest.mark.slow
def test_the_ends_of_a_learned_schedule_learn(key):
    model = real_diffusion(denoisers.MLPDenoiser(4, 1, 1))
    x = normals(key, (4, 2))
    params = disturbed(jax.jit(model.init)(key, x))

    def loss(params):
        return jnp.mean(model.elbo_terms(key, params, x, train=True).elbo)

    slope = jax.jit(jax.grad(loss))(params)["schedule"]["ends"]
    assert np.abs(slope).min() > 1e-4


def test_paths_without_noise_begin_at_random(key):
    model = real_diffusion(denoisers.MLPDenoiser(4, 1, 1), eta=0.0)
    params = jax.jit(model.init)(key, normals(key, (4, 2)))
    draws = np.asarray(jax.jit(model.sample, static_argnums=2)(key, params, 500))
    path, _ = jax.jit(model.trajectory, static_argnums=2)(key, params, 500)
    # At its start the network says nothing: z stays normal.
    assert np.std(path[:, 0]) > 0.3
    assert np.std(draws) > 0.3


@pytest.mark.parametrize("name", ["categorical", "x"])
def test_levels_follow_from_z_and_from_the_network(name, key):
    """Softmax of -1/2 exp(-gamma) (z / alpha - value)^2, plus a categorical head's."""
    head = models.heads.head(name, levels=4)
    decoder = models.heads.decoder("categorical", head, levels=4)
    z, gamma, x = normals(key, (3,)), jnp.asarray(-1.0), jnp.asarray([0, 2, 3])
    outputs = normals(key, (3, 4 if name == "categorical" else 1))
    alpha = 1.0 / np.sqrt(1.0 + np.exp(-1.0))
    values = np.asarray([-1.0, -1.0 / 3.0, 1.0 / 3.0, 1.0])
    logits = -0.5 * np.e * (np.asarray(z)[:, None] / alpha - values) ** 2
    logits += np.asarray(outputs) if name == "categorical" else 0.0
    log_mass = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = log_mass[np.arange(3), np.asarray(x)].sum()
    actual = decoder.log_prob(x, {}, z, gamma, outputs)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["discretized_normal", "categorical"])
def test_levels_are_drawn_as_wide_as_the_noise_of_z(name, key):
    head = models.heads.head("x", levels=256)
    decoder = models.heads.decoder(name, head, levels=256)
    z = outputs = jnp.zeros(5000)
    draw = jax.jit(decoder.sample)
    drawn = np.asarray(draw(key, {}, z, jnp.asarray(-4.0), outputs[:, None]), float)
    # A unit is 127.5 levels; x is given to exp(gamma_0 / 2) of it.
    np.testing.assert_allclose(drawn.std(), 127.5 * np.exp(-2.0), rtol=0.05)


UNETS = {
    "mlp": denoisers.MLPDenoiser(8, 2, 1),
    "vdm": unets.VDMUNet(4, 2, 1),
    "ddpm": unets.DDPMUNet(4, (1, 2), 1, (), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", UNETS)
def test_every_parameter_of_a_denoiser_moves_its_outputs(name, key):
    network = UNETS[name]
    args = normals(key, (2, 4, 4, 1)), jnp.asarray([0.2, 0.7]), None
    start = whole(functools.partial(network.init, train=False))(key, *args)
    params = disturbed(start, 0.3)

    def total(params):
        outputs = network.apply(params, *args, train=False)
        return jnp.sum(jnp.sin(jnp.arange(float(outputs.size))) * outputs.ravel())

    slopes = jax.jit(jax.grad(total))(params)["params"]
    for path, slope in jax.tree_util.tree_leaves_with_path(slopes):
        where = jax.tree_util.keystr(path)
        if "Attention" in where and "Dense_1" in where and "bias" in where:
            continue  # the softmax does not see it
        # Of each number that a kernel reads.
        others = (*range(slope.ndim - 2), slope.ndim - 1)
        assert (np.abs(slope).max(axis=others) > 0.0).all(), where


@pytest.mark.slow
def test_blocks_in_a_loop_start_apart(key):
    args = jnp.zeros((1, 4, 4, 1)), jnp.zeros(1), None
    params = UNETS["vdm"].init(key, *args, train=False)["params"]
    loops = [own for name, own in params.items() if name.startswith("Scan")]
    assert len(loops) == 2
    for own in loops:
        kernel = np.asarray(own["ResidualBlock_0"]["Conv_0"]["kernel"])
        assert np.abs(kernel[0] - kernel[1]).max() > 1e-3


def test_a_residual_block_starts_as_the_identity(key):
    block = unets.ResidualBlock(4, 0.0, jnp.float32)
    x, embedding = normals(key, (2, 3, 3, 4)), normals(key, (2, 5))
    params = block.init(key, x, embedding, train=False)
    np.testing.assert_array_equal(block.apply(params, x, embedding, train=False), x)


def test_what_an_mlp_denoiser_reads_passes_by_its_blocks(key):
    """They start at zero: what the last layer reads is of z all the same."""
    network = UNETS["mlp"]
    z, time = normals(key, (2, 4, 4, 1)), jnp.asarray([0.5, 0.5])
    init = functools.partial(network.init, train=False)
    params = whole(init)(key, z, time, None)
    own = params["params"]
    (last,) = (
        name for name in own if own[name].get("kernel", time).shape[-1:] == (16,)
    )
    own[last] = disturbed(own[last], 1.0)
    outputs = whole(functools.partial(network.apply, train=False))(
        params, z, time, None
    )
    assert np.abs(outputs[0] - outputs[1]).max() > 0.01


@pytest.mark.slow
def test_a_vdm_unet_is_its_blocks_in_turn(key):
    """Down, attention in the middle, and up: the last skip is of the first maps."""
    network = UNETS["vdm"]
    z, time = normals(key, (2, 4, 4, 1)), jnp.asarray([0.2, 0.7])
    init = functools.partial(network.init, train=False)
    params = disturbed(whole(init)(key, z, time, None), 0.3)["params"]
    block = unets.ResidualBlock(4, 0.0, jnp.float32)

    def residual(own, x):
        return block.apply({"params": own}, x, embedding, train=False)

    def at(own, number):
        return jax.tree.map(lambda leaf: leaf[number], own["ResidualBlock_0"])

    own = {"params": params["TimeEmbedding_0"]}
    embedding = denoisers.TimeEmbedding(16).apply(own, time, None)
    conv = models.convolutions.Conv(4, (3, 3))
    x = conv.apply({"params": params["Conv_0"]}, z)
    skips = [x]
    for number in range(2):
        x = residual(at(params["Scan_Down_0"], number), x)
        skips.append(x)
    x = residual(params["ResidualBlock_0"], x)
    x = unets.Attention(jnp.float32).apply({"params": params["Attention_0"]}, x)
    x = residual(params["ResidualBlock_1"], x)
    for number in range(3):
        both = jnp.concatenate([x, skips.pop()], axis=-1)
        x = residual(at(params["Scan_Up_0"], number), both)
    norm = nn.GroupNorm(num_groups=1)
    x = jax.nn.silu(norm.apply({"params": params["GroupNorm_0"]}, x))
    last = models.convolutions.Conv(1, (3, 3))
    expected = last.apply({"params": params["Conv_1"]}, x)[..., None]
    found = network.apply({"params": params}, z, time, None, train=False)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


# ---- flows


STEP = flow_parts.Step((8,), "tanh", num_bins=4, tail_bound=3.0)


def posterior_layer(name, dim):
    latent = configs.LatentConfig(posterior=name, num_layers=2, hidden=(8,))
    config = configs.Config(preset="test", latent=latent)
    return latents._flow(config, dim)


FLOWS = {
    "realnvp": (lambda: flows.realnvp((4,), STEP, 2), (4,)),
    "maf": (lambda: flows.maf((4,), STEP, 2), (4,)),
    "glow": (
        lambda: flows.glow((4, 4, 1), flows.Step((8,)), 2, num_levels=1),
        (4, 4, 1),
    ),
    "noise": (lambda: flows.variational_noise((4,), STEP, 2), (4,)),
    "iaf": (lambda: posterior_layer("iaf", 4), (4,)),
    "spline": (lambda: posterior_layer("spline", 4), (4,)),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_bends_every_number(name, key):
    """Without a permutation some would only be shifted and scaled."""
    build, shape = FLOWS[name]
    layer, x = build(), normals(key, (20, *shape))
    context = jnp.ones((20, 3)) if name in ("noise", "iaf", "spline") else None
    params = disturbed(layer.init(key, x, context), 0.5)

    def push(x):
        own = None if context is None else context[0]
        return layer.build(params, own, None).forward(x)[0]

    every = jax.jit(jax.vmap(push))
    far = 0.5 * normals(jax.random.key(1), (20, *shape))
    bend = every(x + far) + every(x - far) - 2.0 * every(x)
    # Of an affine map nothing but rounding is left.
    assert (np.abs(bend).reshape(20, -1).max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("kind", ["chain", "repeat"])
def test_a_layer_starts_from_what_the_one_before_leaves(kind, key):
    x = 5.0 + 3.0 * normals(key, (200, 3))
    one = learned.actnorm(by_channel=False)
    if kind == "chain":
        _, second = layers.chain(one, one).init(key, x, None)
    else:
        both = layers.repeat(one, 2).init(key, x, None)
        second = jax.tree.map(lambda leaf: leaf[1], both)
    np.testing.assert_allclose(second["mean"], 0.0, atol=1e-5)
    np.testing.assert_allclose(second["log_std"], 0.0, atol=1e-5)


def test_layers_of_a_flow_start_from_standard_numbers(key):
    x = 5.0 + 3.0 * normals(key, (200, 3))
    model = flows.flow(flows.realnvp((3,), STEP, 2), event_shape=(3,))
    params = jax.jit(model.init)(key, x)
    push = jax.vmap(lambda x: model.bijection(params, None).forward(x)[0])
    z = np.asarray(jax.jit(push)(x))
    np.testing.assert_allclose(z.mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 1.0, rtol=1e-4)


def test_glow_scales_channels_and_not_pixels(key):
    build, shape = FLOWS["glow"]
    x = jnp.zeros((2, *shape))
    found = jax.eval_shape(build().init, key, x, None)
    paths = jax.tree_util.tree_leaves_with_path(found)
    means = [leaf.shape for path, leaf in paths if "mean" in str(path[-1])]
    assert means == [(2, 4)]  # two layers of four channels
