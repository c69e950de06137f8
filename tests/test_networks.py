"""What networks read, how they and their families start, and what bounds them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import disturbed, normals

from vgm import configs
from vgm.evaluation import estimates
from vgm.experiment import fitting
from vgm.models import (
    denoisers,
    heads,
    initializers,
    ladder_networks,
    learned,
    level_families,
    made,
    networks,
    posteriors,
    priors,
    steps,
    unets,
)

# The standard deviation of a logistic of scale 1.
LOGISTIC_STD = np.pi / np.sqrt(3.0)


def shapes_of(network, *args, **how):
    init = functools.partial(network.init, **how)
    return jax.eval_shape(init, jax.random.key(0), *args)["params"]


def drawn(network, *args, **how):
    """Parameters all of which say something; nothing is compiled for them."""
    shapes = shapes_of(network, *args, **how)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return {"params": disturbed(zeros, 1.0)}


def alike(key, shape):
    return np.repeat(np.asarray(normals(key, (1, *shape))), 3, axis=0)


def applied(network, **how):
    return whole(functools.partial(network.apply, **how))


def linear(num_outputs):
    return networks.MLP((), num_outputs, "next_to_zero")


DENOISER = denoisers.MLPDenoiser(8, 1, 1)
EMBEDDING = denoisers.TimeEmbedding(4)
BLOCK = unets.ResidualBlock(4, 0.0, jnp.float32)
CONDITIONER = networks.ConvConditioner(8, 1, 2)
FLAT = networks.ConditionalMLP(linear(4), (2, 2))
ENCODER = networks.ConvEncoder(2, linear(3), "tanh")
DECODER = networks.ConvDecoder(2, linear(4), (4, 4, 1, 1), "tanh")
VELOCITY = networks.VelocityMLP(linear(3))
BARE, EVALUATED = {}, {"train": False}

# A network, the shapes of what it reads of an example, and how it is called.
READS = {
    "time of an MLP denoiser": (DENOISER, ((3,), (), None), EVALUATED),
    "time of an embedding": (EMBEDDING, ((), None), BARE),
    "context of an embedding": (EMBEDDING, ((), (2,)), BARE),
    "time of a residual block": (BLOCK, ((4, 4, 4), (6,)), EVALUATED),
    "context of a conditioner": (CONDITIONER, ((4, 4, 1), (2,)), EVALUATED),
    "context of an entrance": (ladder_networks.Entrance(4, 2), ((2, 2, 2), (2,)), BARE),
    "condition of an MLP": (FLAT, ((3, 1), (2,)), EVALUATED),
    "condition of a convolutional encoder": (ENCODER, ((4, 4, 1), (2,)), EVALUATED),
    "condition of a convolutional decoder": (DECODER, ((2,), (2,)), EVALUATED),
    "time of a velocity": (VELOCITY, ((3,), (), None), EVALUATED),
    "context of a velocity": (VELOCITY, ((3,), (), (2,)), EVALUATED),
}


@pytest.mark.parametrize("name", READS)
def test_outputs_move_with_what_is_read(key, name):
    """Three examples alike, but for the last time or context of the third."""
    network, shapes, how = READS[name]
    args = [None if shape is None else alike(key, shape) for shape in shapes]
    [arg for arg in args if arg is not None][-1][2] += 0.5
    params = drawn(network, *args, **how)
    first, second, moved = applied(network, **how)(params, *args)
    # Rounding of float32, in sums of some tens of numbers near 1.
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
    assert np.abs(moved - first).max() > 0.01


def test_a_context_enters_made_by_two_ways(key):
    """Into the hidden layers, and past them: the first number has that way alone."""
    network = made.MADE((8,), 2, "tanh")
    x, context = alike(key, (3,)), alike(key, (2,))
    context[2] += 0.5
    params = drawn(network, x, context, train=False)
    apply = applied(network, train=False)

    def moves(params):
        outputs = apply(params, x, context)
        return np.abs(outputs[0] - outputs[2]).max(axis=-1)

    assert moves(params).min() > 0.01
    params["params"]["Dense_1"]["kernel"] = jnp.zeros((2, 6))
    assert moves(params)[0] == 0.0
    assert moves(params)[1:].min() > 0.01


@pytest.mark.parametrize("temperature", [0.3, 2.0])
def test_categorical_draws_have_the_derivative_of_a_softmax(x64, key, temperature):
    family = posteriors.categorical(2, 4, temperature=temperature)
    encoding = posteriors.CategoricalEncoding(normals(key, (3, 2, 4)))
    weight = np.sin(np.arange(24.0)).reshape(3, 2, 4)

    @jax.jit
    def both(encoding, weight):
        z, pull = jax.vjp(lambda e: family.sample_and_log_prob(key, {}, e)[0], encoding)
        return z, pull(weight)[0].logits

    z, slope = both(encoding, weight)
    gumbel = jax.random.gumbel(key, weight.shape, weight.dtype)
    noisy = np.asarray(encoding.logits) + np.asarray(gumbel)
    # One is added to a difference of equal numbers, 0: nothing is rounded.
    np.testing.assert_array_equal(z, noisy == noisy.max(axis=-1, keepdims=True))
    mass = np.exp(noisy / temperature)
    mass /= mass.sum(axis=-1, keepdims=True)
    mean = (mass * weight).sum(axis=-1, keepdims=True)
    expected = mass * (weight - mean) / temperature
    # Rounding of float64.
    np.testing.assert_allclose(slope, expected, rtol=1e-10, atol=1e-14)


def test_kernels_start_as_large_as_they_should(key):
    scaled, small = ladder_networks.scaled, initializers.INITIALIZERS["small"]
    for init, variance in [(small, 0.01), (scaled(1), 1.0), (scaled(16), 1 / 16)]:
        kernel = np.asarray(jax.jit(init, static_argnums=1)(key, (400, 100)))
        # Some six standard errors, 1 / sqrt(2 * 40000), of a standard deviation.
        np.testing.assert_allclose(kernel.std(), (variance / 400) ** 0.5, rtol=0.02)


def test_log_stds_of_steps_are_clipped_and_means_are_not():
    rows = jnp.asarray([[-100.0, 3.0, 40.0, -80.0, 2.0, 7.0]])
    params = {"params": {"Dense_0": {"kernel": jnp.eye(6), "bias": jnp.zeros(6)}}}
    given = whole(functools.partial(steps.normal_given, linear(6)))
    mean, log_std = given(params, rows)
    np.testing.assert_array_equal(mean, [[-100.0, 3.0, 40.0]])
    np.testing.assert_array_equal(log_std, [[-5.0, 2.0, 5.0]])


def test_log_stds_of_ladders_are_bounded_smoothly(x64):
    x = np.asarray([-1e6, -7.0, -5.0, -1e-6, 0.0, 1e-6, 5.0, 7.0, 1e6])
    bounded, slope = whole(
        lambda x: jax.jvp(ladder_networks.soft_bound, (x,), (jnp.ones_like(x),))
    )(x.reshape(1, 1, 1, -1))
    # Rounding of float64.
    np.testing.assert_allclose(bounded.ravel(), 5 * np.tanh(x / 5), rtol=1e-12)
    assert slope.ravel()[4] == 1.0


@pytest.mark.parametrize("attention", [(), (1,), (0, 1)])
def test_attention_is_at_the_resolutions_listed(attention):
    """In the middle always; at one listed once on the way down and twice up."""
    network = unets.DDPMUNet(4, (1, 2), 1, attention, num_outputs=1)
    z = jnp.zeros((1, 4, 4, 1))
    shapes = shapes_of(network, z, jnp.zeros(1), None, train=False)
    found = [shapes[name] for name in shapes if name.startswith("Attention")]
    widths = sorted(own["Dense_0"]["kernel"].shape[0] for own in found)
    assert widths == 3 * [4] * (0 in attention) + 3 * [8] * (1 in attention) + [8]


def test_attention_against_its_formula(x64, key):
    """Two groups of four channels; the softmax is over the pixels."""
    network = unets.Attention(jnp.float64)
    x = normals(key, (2, 2, 3, 8))
    params = drawn(network, x)
    own = jax.tree.map(np.float64, params["params"])
    grouped = np.asarray(x).reshape(2, 6, 2, 4)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    # What flax adds to the variance is 1e-6.
    h = centred / np.sqrt((centred**2).mean(axis=(1, 3), keepdims=True) + 1e-6)
    h = h.reshape(2, 6, 8) * own["GroupNorm_0"]["scale"] + own["GroupNorm_0"]["bias"]

    def dense(number, h):
        return h @ own[f"Dense_{number}"]["kernel"] + own[f"Dense_{number}"]["bias"]

    query, keys, value = (dense(number, h) for number in range(3))
    weight = np.exp(query @ keys.swapaxes(1, 2) / np.sqrt(8.0))
    weight /= weight.sum(axis=-1, keepdims=True)
    expected = np.asarray(x) + dense(3, weight @ value).reshape(x.shape)
    # jax computes the softmax in float32, whatever it reads: errors of some 3e-6.
    np.testing.assert_allclose(applied(network)(params, x), expected, atol=3e-5)


def test_attention_looks_at_the_farthest_pixel(key):
    """Its channels in another order leave mean and variance of their group alone."""
    network = unets.Attention(jnp.float32)
    x = np.array(normals(key, (1, 4, 4, 4)))
    other = x.copy()
    other[0, 3, 3] = x[0, 3, 3, ::-1]
    params, apply = drawn(network, x), applied(network)
    moved = apply(params, other) - apply(params, x)
    assert np.abs(moved[0, 0, 0]).max() > 1e-3  # rounding is below 1e-6


@pytest.mark.parametrize("channels", [1, 2, 4, 6, 8, 9, 12, 18, 64, 128, 256])
def test_groups_of_channels_are_of_four_at_least(channels):
    groups = unets._norm(channels, jnp.float32).num_groups or 0
    assert channels % groups == 0
    assert channels // groups >= min(channels, 4)
    # Ho et al. (2020) have 32 groups, of 128 channels and more.
    assert groups == 32 or channels < 128


def test_pixels_are_doubled_where_they_are():
    x = np.arange(4.0).reshape(2, 2)
    doubled = unets._double(jnp.asarray(x)[None, :, :, None])[0, :, :, 0]
    np.testing.assert_array_equal(doubled, np.kron(x, np.ones((2, 2))))


def test_dropout_is_in_residual_blocks_of_training_alone(key):
    block = unets.ResidualBlock(4, 0.5, jnp.float32)
    x, embedding = normals(key, (2, 3, 3, 4)), normals(key, (2, 5))
    params = drawn(block, x, embedding, train=False)
    off, on = (
        applied(block, train=train)(params, x, embedding, rngs={"dropout": key})
        for train in (False, True)
    )
    assert np.abs(on - off).max() > 0.01


def test_dropout_is_in_velocities_of_training_alone(key):
    mlp = networks.MLP((16,), 2, "lecun_normal", dropout=0.5)
    network = networks.VelocityMLP(mlp)
    x = normals(key, (1, 2))
    params = drawn(network, x, jnp.zeros(1), None, train=False)

    @jax.jit
    def moved(key):
        move = learned.velocity(network, params, None, key)
        return move(jnp.asarray(0.5), x[0])

    assert np.abs(moved(key) - moved(None)).max() > 1e-3


@pytest.mark.parametrize(("network", "shape"), [(ENCODER, (4, 4, 1)), (DECODER, (2,))])
def test_convolutions_bend_by_the_activation_they_are_given(key, network, shape):
    """Under tanh nothing grows any more; under relu it would ten times."""
    x = normals(key, (1, *shape))
    params = drawn(network, x, None, train=False)
    apply = applied(network, train=False)
    ends = [apply(params, scale * x, None) for scale in (1e6, 1e7)]
    # A sum that is small beside its terms may not be at its end yet.
    np.testing.assert_allclose(*ends, rtol=1e-4)


def test_the_stem_of_a_decoder_bends(key):
    """Below 0 it is silent under relu."""
    decoder = networks.ConvDecoder(2, linear(4), (4, 4, 1, 1), "relu")
    z = normals(key, (1, 2))
    params = drawn(decoder, z, None, train=False)
    params["params"]["stem"]["Dense_0"]["bias"] = jnp.full(4, -1e3)
    apply = applied(decoder, train=False)
    ends = [apply(params, z, None), apply(params, -z, None)]
    np.testing.assert_allclose(*ends, rtol=1e-6)


@pytest.mark.parametrize(("name", "share"), [("eps", 1.0), ("x", 0.0), ("v", 0.0)])
def test_outputs_for_the_noise_are_how_far_it_is_from_z(key, name, share):
    outputs, z = normals(key, (2, 3))
    predict = heads.head(name, levels=0).predict
    found = predict(outputs[:, None], z, jnp.asarray(0.7))
    np.testing.assert_array_equal(found, np.asarray(outputs) + share * np.asarray(z))


def test_a_vamp_prior_starts_at_examples_drawn_of_all(key):
    data = normals(key, (20, 2))

    def chosen(num_components, num_examples):
        init = whole(priors.vamp(num_components).init)
        found = np.asarray(init(key, data[:num_examples]))
        same = (found[:, None] == np.asarray(data)[None]).all(axis=-1)
        assert (same.sum(axis=1) == 1).all()
        return np.argmax(same, axis=1).tolist()

    found = chosen(8, 20)
    assert len(set(found)) == 8
    assert max(found) >= 8, "not simply the first ones"
    # Not twice before all were.
    found = chosen(8, 3)
    assert set(found[:3]) == set(found[3:6]) == {0, 1, 2}


def test_the_means_of_a_mixture_start_as_normal_draws(key):
    mean = np.asarray(whole(priors.mixture(4, 1000).init)(key, None).mean)
    assert len(np.unique(mean)) > 3990  # of 4000; of float32 some are drawn twice
    # Six standard errors, 1 / sqrt(1000), and 1 / sqrt(2000) for the deviation.
    np.testing.assert_allclose(mean.mean(axis=0), 0.0, atol=0.19)
    np.testing.assert_allclose(mean.std(axis=0), 1.0, atol=0.14)


def levels_and_scaled(shape):
    """Levels of 0 to 8, always the same one at the last place, and on [-1, 1]."""
    x = np.random.default_rng(0).integers(0, 9, shape)
    x[..., -1] = 2
    return jnp.asarray(x, jnp.int32), x / 4.0 - 1.0


def test_logistics_start_as_wide_as_the_data(x64):
    x, y = levels_and_scaled((50, 3))
    family = whole(level_families.discretized_logistic(9))
    location, log_scale = family.initial_bias(x).T
    # Rounding of float64.
    np.testing.assert_allclose(location, y.mean(axis=0), rtol=1e-12)
    wide = np.exp(log_scale[:2]) * LOGISTIC_STD
    np.testing.assert_allclose(wide, y.std(axis=0)[:2], rtol=1e-12)
    # The scale of a constant is half the width of a bin, 2 / 8: not 0.
    np.testing.assert_allclose(np.exp(log_scale[2]), 1 / 8, rtol=1e-12)


def test_mixtures_of_logistics_start_around_the_data(x64):
    """Three components of two channels: three weights, six places, six scales."""
    x, y = levels_and_scaled((50, 2, 2))
    family = whole(level_families.discretized_logistic_mixture(9, 2, 3))
    outputs = np.asarray(family.initial_bias(x)).reshape(2, 18)
    means, log_scales = np.moveaxis(outputs[:, 3:15].reshape(2, 2, 3, 2), 1, 0)
    std = np.maximum(y.std(axis=0), 1 / 8)  # of a constant, half a bin
    # Rounding of float64.
    np.testing.assert_allclose(means.mean(axis=1), y.mean(axis=0), rtol=1e-12)
    assert (np.diff(means, axis=1) > 0.1 * std[:, None]).all()
    assert (np.ptp(means, axis=1) < 2 * std).all()
    wide = np.broadcast_to(std[:, None], means.shape)
    np.testing.assert_allclose(np.exp(log_scales) * LOGISTIC_STD, wide, rtol=1e-12)


@pytest.mark.parametrize(
    ("patience", "stale", "exhausted"),
    [(3, 2, False), (3, 3, True), (3, 4, True), (1, 0, False), (0, 9, False)],
)
def test_patience_is_a_number_of_evaluations(patience, stale, exhausted):
    config = configs.Config("test", train=configs.TrainConfig(patience=patience))
    best = fitting.Best({}, 0.0, 0, stale)
    assert fitting._exhausted(config, best) == exhausted


def test_units_that_hardly_vary_are_not_active():
    # The variance of a and -a is 2 a^2.
    half = np.sqrt(np.asarray([0.0, 0.005, 0.05, 0.05]) / 2)
    means = np.stack([half, -half]) + 3.0
    assert estimates.active_units(jnp.asarray(means)) == 2
