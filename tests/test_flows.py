"""Flows as VAEs: the theorem, masses, exact evidence, dequantisation; MADE."""

import itertools

import chex
import conformance
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
from compilation import whole
from draws import disturbed, normals

from vgm import bijections, models
from vgm.bijections import continuous, elementwise, linear
from vgm.bounds import elbo, importance
from vgm.bounds import flow as bound
from vgm.densities import multivariate_normal, normal
from vgm.divergences import kl_standard_normal
from vgm.errors import UserError
from vgm.models import flows, layers, learned
from vgm.oracles import targets
from vgm.training import objective
from vgm.types import Batch

STEP = flows.Step((8,), "tanh", num_bins=4, tail_bound=3.0)
RELU = flows.Step((8,), "relu")
LAYERS = {
    "realnvp": flows.realnvp,
    "nsf-coupling": flows.neural_spline_coupling,
    "nsf-autoregressive": flows.neural_spline_autoregressive,
    "maf": flows.maf,
}


EVERY = pytest.mark.parametrize(
    "name",
    [
        "realnvp",
        pytest.param("nsf-coupling", marks=pytest.mark.slow),
        pytest.param("nsf-autoregressive", marks=pytest.mark.slow),
        pytest.param("maf", marks=pytest.mark.slow),
    ],
)


def real_flow(name, key, *, dim=2, num_classes=0, count=64):
    key_x, key_init, key_label = jax.random.split(key, 3)
    x = normals(key_x, (count, dim)) * 1.5 + 0.5
    condition = None
    if num_classes:
        condition = jax.random.randint(key_label, (count,), 0, num_classes)
    model = flows.flow(
        LAYERS[name]((dim,), STEP, 2), event_shape=(dim,), num_classes=num_classes
    )
    params = disturbed(jax.jit(model.init)(key_init, x, condition), 0.3)
    return model, params, x, condition


def level_flow(key, *, variational, levels=4, count=6):
    key_x, key_init = jax.random.split(key)
    x = jax.random.randint(key_x, (count, 2), 0, levels)
    noise = flows.variational_noise((2,), STEP, 2) if variational else None
    model = flows.flow(
        flows.realnvp((2,), STEP, 2), event_shape=(2,), levels=levels, noise=noise
    )
    return model, disturbed(jax.jit(model.init)(key_init, x), 0.2), x


def mass_by_quadrature(model, params, x, num_nodes=300):
    """log P(x): the density of y over the bin of x, by the midpoint rule in u."""
    u = (jnp.arange(num_nodes) + 0.5) / num_nodes
    nodes = jnp.stack(jnp.meshgrid(u, u), -1).reshape(-1, 2)
    w = jnp.log(nodes) - jnp.log1p(-nodes)
    log_q = jax.vmap(bound.log_uniform)(w)

    def one(x):
        value, log_det = jax.vmap(
            lambda w: bound.dequantize(x, w, levels=model.levels)
        )(w)
        log_p = model.log_prob(params, value)
        return jax.nn.logsumexp(log_p + log_det - log_q) - jnp.log(len(nodes))

    return jax.jit(lambda x: jax.lax.map(one, x))(x)


# ---- the theorem


def test_a_linear_flow_is_the_exact_normal(key, x64):
    dim = 4
    keys = jax.random.split(key, 4)
    params = linear.LU(
        0.3 * normals(keys[0], (dim, dim)),
        0.3 * normals(keys[1], (dim, dim)),
        0.2 * normals(keys[2], (dim,)),
    )
    mean = jnp.arange(4.0)
    bijection = bijections.compose(
        elementwise.affine(mean, jnp.zeros(dim)), linear.lu(params)
    )
    x = normals(keys[3], (dim,))
    matrix = jax.jacobian(lambda x: bijection.forward(x)[0])(x)
    covariance = jnp.linalg.inv(matrix) @ jnp.linalg.inv(matrix).T
    actual = bound.change_of_variables(x, bijection, normal.standard_log_prob)
    expected = multivariate_normal.log_prob(x, mean, jnp.linalg.cholesky(covariance))
    np.testing.assert_allclose(actual.elbo, expected, rtol=1e-12)
    expected = scipy.stats.multivariate_normal(mean, covariance).logpdf(x)
    np.testing.assert_allclose(actual.elbo, expected, rtol=1e-10)


def gaussian_vae(x, mean, log_std, t):
    """The ELBO, in closed form, of the VAE that tends to an affine flow (MATH 6).

    Encoder N((x - m)/s, t^2), decoder N(s z + m, (s t)^2): x - s z - m = -s t eps, so
    that E log p(x | z) = -D/2 (log 2 pi s^2 t^2 + 1).
    """
    dim = x.size
    reconstruction = -dim * (0.5 * jnp.log(2 * jnp.pi) + log_std + jnp.log(t) + 0.5)
    encoded = (x - mean) * jnp.exp(-log_std)
    kl = kl_standard_normal(encoded, jnp.full(dim, jnp.log(t)))
    return reconstruction - kl


@pytest.mark.parametrize("t", [1.0, 0.3, 1e-2, 1e-5])
def test_the_gaussian_vae_tends_to_the_flow(key, x64, t):
    """Its ELBO is the flow's log density less D t^2 / 2, exactly."""
    x, mean, log_std = normals(key, (5,)), 0.7, jnp.asarray(-0.4)
    bijection = elementwise.affine(jnp.full(5, mean), jnp.full(5, log_std))
    flow = bound.change_of_variables(x, bijection, normal.standard_log_prob).elbo
    vae = gaussian_vae(x, mean, log_std, t)
    np.testing.assert_allclose(flow - vae, 5 * t**2 / 2, atol=1e-10)


def test_the_gaussian_vae_by_sampling(key, x64):
    """The library's estimator of the bound agrees with the closed form above."""
    x, mean, log_std, t = normals(key, (5,)), 0.7, jnp.asarray(-0.4), 0.3
    std, log_t = jnp.exp(log_std), jnp.full(5, jnp.log(t))
    encoded, zero = (x - mean) / std, jnp.zeros(5)

    def log_joint(z):
        log_likelihood = normal.log_prob(x, std * z + mean, log_std + log_t)
        return log_likelihood + normal.log_prob(z, zero, zero)

    draws = jax.vmap(
        lambda k: elbo.from_log_ratio(
            k,
            lambda k: normal.sample(k, encoded, log_t),
            log_joint,
            lambda z: normal.log_prob(z, encoded, log_t),
            num_samples=1,
        )
    )(jax.random.split(key, 20_000))
    error = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - gaussian_vae(x, mean, log_std, t)) < 4.5 * error


@EVERY
def test_the_gap_of_a_flow_is_zero_for_every_draw_and_number(name, key, x64):
    model, params, x, _ = real_flow(name, key)
    exact = jax.jit(model.log_prob)(params, x)
    terms = jax.jit(model.elbo_terms)(key, params, x)
    np.testing.assert_allclose(terms.elbo, exact, rtol=1e-12)
    weigh = jax.jit(jax.vmap(lambda k: model.log_weight(k, params, x)))
    for seed in (1, 2):
        log_w = weigh(jax.random.split(jax.random.key(seed), 7))
        for num_samples in (1, 2, 7):
            bounds = jax.vmap(importance.iwae, in_axes=1)(log_w[:num_samples])
            np.testing.assert_allclose(bounds, exact, rtol=1e-12)


# ---- masses and draws


@EVERY
def test_the_mass_in_the_plane_is_one(name, key, x64):
    model, params, _, _ = real_flow(name, key)
    axis = jnp.linspace(-30.0, 30.0, 1201)
    nodes = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 1201, 2)
    log_prob = jax.jit(lambda x: jax.lax.map(lambda x: model.log_prob(params, x), x))
    # Smooth but for the knots of splines: the error is of second order in 0.05.
    np.testing.assert_allclose(jnp.exp(log_prob(nodes)).sum() * 0.05**2, 1.0, atol=2e-3)


@pytest.mark.parametrize(
    "name", [pytest.param("nsf-autoregressive", marks=pytest.mark.slow), "maf"]
)
def test_the_mass_on_the_line_is_one(name, key, x64):
    model, params, _, _ = real_flow(name, key, dim=1)
    axis = jnp.linspace(-60.0, 60.0, 60_001)
    density = jnp.exp(jax.jit(model.log_prob)(params, axis[:, None]))
    np.testing.assert_allclose(density.sum() * (axis[1] - axis[0]), 1.0, atol=1e-6)


@EVERY
def test_draws_come_with_their_density(name, key, x64):
    model, params, _, condition = real_flow(name, key, num_classes=3)
    draw = jax.jit(model.sample_and_log_prob, static_argnums=2)
    x, log_prob = draw(key, params, 64, condition)
    again = jax.jit(model.log_prob)(params, x, condition)
    np.testing.assert_allclose(log_prob, again, rtol=1e-7, atol=1e-7)
    sample = jax.jit(model.sample, static_argnums=2)(key, params, 64, condition)
    chex.assert_trees_all_close(x, sample, rtol=1e-12)


@pytest.mark.slow
def test_masses_of_levels_add_up_to_one(key, x64):
    model, params, _ = level_flow(key, variational=False)
    every = jnp.asarray(list(itertools.product(range(4), repeat=2)))
    log_p = mass_by_quadrature(model, params, every)
    # The midpoint rule, in a density that is bounded in u but steep at the ends.
    np.testing.assert_allclose(jnp.exp(log_p).sum(), 1.0, atol=2e-3)


@pytest.mark.slow
def test_draws_of_levels_follow_their_masses(key):
    model, params, _ = level_flow(key, variational=False)
    every = np.asarray(list(itertools.product(range(4), repeat=2)))
    mass = np.exp(mass_by_quadrature(model, params, jnp.asarray(every)))
    draw = jax.jit(model.sample, static_argnums=2)
    draws = np.asarray(draw(key, params, 20_000))
    assert draws.min() >= 0
    assert draws.max() <= 3
    count = np.asarray([(draws == x).all(1).sum() for x in every])
    error = np.sqrt(mass * (1 - mass) / 20_000) + 2e-3 * mass
    assert (np.abs(count / 20_000 - mass) < 4.5 * error).all()


def test_one_number_of_levels_in_closed_form(x64):
    """An affine flow of logits: P(x) is a difference of normal distributions."""
    model = flows.flow(layers.fixed(bijections.IDENTITY), event_shape=(1,), levels=5)
    mean, log_std = jnp.asarray([0.3]), jnp.asarray([0.2])
    params = {"data": ({"mean": mean, "log_std": log_std},), "layers": {}}
    x = jnp.arange(5)[:, None]
    keys = jax.random.split(jax.random.key(3), 40_000)
    weigh = jax.jit(jax.vmap(lambda k: model.log_weight(k, params, x)))
    weights = jnp.exp(weigh(keys))
    edges = scipy.special.logit(np.arange(6) / 5)
    expected = np.diff(scipy.stats.norm(0.3, np.exp(0.2)).cdf(edges))
    error = weights.std(0) / np.sqrt(len(keys))
    assert (np.abs(weights.mean(0) - expected) < 4.5 * error).all()
    assert (error < 0.01 * expected).all()


@pytest.mark.parametrize("x", [0, 2, 4])
@pytest.mark.parametrize("w", [-15.0, 0.3, 15.0])
def test_dequantisation_against_its_definition(x, w, x64):
    def logit(w):
        y = (x + jax.nn.sigmoid(w)) / 5
        return jnp.log(y) - jnp.log1p(-y)

    actual, log_det = bound.dequantize(jnp.asarray(x), jnp.asarray(w), levels=5)
    np.testing.assert_allclose(actual, logit(w), rtol=1e-8)
    np.testing.assert_allclose(
        log_det, jnp.log(jax.grad(logit)(w)), rtol=1e-7, atol=1e-9
    )
    assert bound.quantize(actual, levels=5) == x


def test_single_precision_tells_the_ends_apart():
    """(x + u) / levels rounds to 1 here; its logit by parts does not."""
    w = jnp.asarray(30.0)
    top, _ = bound.dequantize(jnp.asarray(255), w, levels=256)
    np.testing.assert_allclose(top, 30.0 + np.log(256), rtol=1e-6)
    bottom, _ = bound.dequantize(jnp.asarray(0), -w, levels=256)
    np.testing.assert_allclose(bottom, -30.0 - np.log(256), rtol=1e-6)
    # Where y itself rounds to 1, its level is the last one.
    assert bound.quantize(top, levels=256) == 255


def test_uniform_noise_is_uniform(key):
    w = bound.sample_uniform(key, (20_000,))
    assert scipy.stats.kstest(jax.nn.sigmoid(w), "uniform").pvalue > 1e-3
    np.testing.assert_allclose(
        bound.log_uniform(w),
        scipy.stats.logistic.logpdf(np.asarray(w, float)).sum(),
        rtol=1e-5,
    )


@pytest.mark.parametrize(("drawn", "sign"), [(0.0, -1.0), (1.0 - 2.0**-23, 1.0)])
def test_uniform_noise_stays_off_its_ends(monkeypatch, key, drawn, sign):
    """The least and the largest number that jax draws: half a step from 0 and 1."""
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, drawn, dtype)
    )
    w = bound.sample_uniform(key, (1,))
    np.testing.assert_allclose(w, sign * 24.0 * np.log(2.0), rtol=1e-6)


# ---- every model through the suite


@pytest.mark.parametrize(
    ("name", "num_classes"),
    [
        pytest.param("realnvp", 0, marks=pytest.mark.slow),
        pytest.param("nsf-coupling", 3, marks=pytest.mark.slow),
        pytest.param("nsf-autoregressive", 0, marks=pytest.mark.slow),
        pytest.param("maf", 3, marks=pytest.mark.slow),
    ],
)
def test_flow_conforms(name, num_classes, key):
    model, params, x, condition = real_flow(name, key, num_classes=num_classes, count=6)

    def evidence(x):
        return model.log_prob(params, x, condition)

    case = conformance.Case(model, params, x, condition, evidence, 8)
    assert conformance.check(case, key) == conformance.ANY_MODEL


@pytest.mark.slow
@pytest.mark.parametrize("variational", [False, True])
def test_dequantised_flow_conforms(variational, key):
    model, params, x = level_flow(key, variational=variational)
    exact = mass_by_quadrature(model, params, x)
    case = conformance.Case(model, params, x, None, lambda x: exact)
    assert conformance.check(case, key) == conformance.ANY_MODEL


@pytest.mark.slow
def test_glow_conforms_on_images(key):
    """Its own density is the evidence: the Jacobian's determinant by autodiff."""
    x = normals(key, (6, 4, 4, 1))
    model = flows.flow(
        flows.glow((4, 4, 1), flows.Step((4,)), 2, num_levels=2),
        event_shape=(4, 4, 1),
        num_classes=3,
    )
    label = jnp.arange(6) % 3
    params = disturbed(jax.jit(model.init)(key, x, label), 0.1)

    def exact(x, label):
        context = jax.nn.one_hot(label, 3)
        forward = model.bijection(params, context).forward
        jacobian = jax.jacobian(lambda x: forward(x)[0])(x).reshape(16, 16)
        return normal.standard_log_prob(forward(x)[0]) + jnp.linalg.slogdet(jacobian)[1]

    case = conformance.Case(
        model, params, x, label, lambda x: jax.vmap(exact)(x, label), 8
    )
    assert conformance.check(case, key) == conformance.ANY_MODEL


# ---- starts, supports, gradients


@pytest.mark.slow
def test_standardisation_sees_all_and_never_learns(key):
    x = 3.0 + 2.0 * normals(key, (2000, 3))
    model = flows.flow(flows.maf((3,), STEP, 2), event_shape=(3,))
    params = jax.jit(model.init)(key, x)
    own = params["data"][0]
    np.testing.assert_allclose(own["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(jnp.exp(own["log_std"]), x.std(0), rtol=1e-5)
    batch = Batch(x, None, jnp.ones(2000))
    _, grads = objective.negative_elbo(model)(key, params, batch)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads["data"]))
    largest = [float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["layers"])]
    assert max(largest) > 0


@pytest.mark.parametrize("by_channel", [False, True])
def test_actnorm_starts_where_the_batch_is_standard(by_channel, key):
    x = 5.0 + 3.0 * normals(key, (500, 2, 2, 3))
    layer = learned.actnorm(by_channel=by_channel)
    params = layer.init(key, x, None)
    z = layers.push(layer, params, x, None)
    axes = (0, 1, 2) if by_channel else 0
    np.testing.assert_allclose(z.mean(axes), 0.0, atol=1e-4)
    np.testing.assert_allclose(z.std(axes), 1.0, rtol=1e-4)


def test_actnorm_does_not_magnify_what_hardly_varies(key):
    x = 1.0 + 1e-5 * normals(key, (50, 2))
    start = learned.actnorm(by_channel=False).init(key, x, None)
    np.testing.assert_array_equal(start["log_std"], 0.0)


@pytest.mark.parametrize(
    ("transform", "outside"),
    [
        ("log", -0.1),
        ("log", np.inf),
        ("logit", 1.2),
        ("logit", -0.1),
        ("standardize", np.inf),
        ("standardize", -np.inf),
    ],
)
def test_outside_the_support_log_p_is_minus_infinity(transform, outside, key):
    x = jax.random.uniform(key, (50, 2), minval=0.1, maxval=0.9)
    model = flows.flow(
        flows.realnvp((2,), RELU, 2), event_shape=(2,), transform=transform
    )
    params = jax.jit(model.init)(key, x)
    log_prob = jax.jit(model.log_prob)
    assert np.isfinite(log_prob(params, x)).all()
    value = log_prob(params, jnp.asarray([[0.5, outside]]))
    assert value[0] == -jnp.inf
    # Networks that read it say something of it.
    params["layers"] = disturbed(params["layers"])
    both = log_prob(params, jnp.asarray([[0.5, outside], [outside, 0.5]]))
    assert (both == -jnp.inf).all()


def test_data_of_another_shape_than_the_flow_are_refused(key):
    model = flows.flow(flows.realnvp((3,), STEP, 2), event_shape=(3,))
    with pytest.raises(ValueError, match=r"x must have shape \(5, 3\); got \(5, 2\)"):
        model.init(key, normals(key, (5, 2)))


@pytest.mark.parametrize("transform", ["log", "logit"])
def test_densities_are_in_the_units_of_the_data(transform, key, x64):
    """A log-normal and a logit-normal, fitted exactly by standardisation alone."""
    z = normals(key, (1000, 1))
    x = jnp.exp(z) if transform == "log" else jax.nn.sigmoid(z)
    model = flows.flow(
        layers.fixed(bijections.IDENTITY), event_shape=(1,), transform=transform
    )
    params = jax.jit(model.init)(key, x)
    fitted = scipy.stats.norm(float(z.mean()), float(z.std()))
    at = np.asarray([0.2, 0.5, 0.7])
    if transform == "log":
        expected = fitted.logpdf(np.log(at)) - np.log(at)
    else:
        expected = fitted.logpdf(scipy.special.logit(at)) - np.log(at * (1 - at))
    actual = jax.jit(model.log_prob)(params, at[:, None])
    np.testing.assert_allclose(actual, expected)


@pytest.mark.slow
def test_a_constant_number_is_scaled_once(key):
    """By the standardisation; ActNorm in every layer would leave 1e-3 to the ninth."""
    x = normals(key, (200, 3)).at[:, 2].set(1.0)
    model = flows.flow(flows.realnvp((3,), STEP, 8), event_shape=(3,))
    params = jax.jit(model.init)(key, x)
    assert float(params["data"][0]["log_std"][2]) == pytest.approx(np.log(1e-3))
    near = x.at[:, 2].set(1.001)
    change = model.log_prob(params, near) - model.log_prob(params, x)
    # One standard deviation of 1e-3 off: half a nat.
    np.testing.assert_allclose(change, -0.5, atol=0.05)
    shaken = disturbed(params, 0.3)

    def loss(params):
        return jnp.mean(model.log_prob(params, x.at[:8].set(1e6))) * 1e-12

    chex.assert_tree_all_finite(jax.jit(jax.grad(loss))(shaken))


@pytest.mark.parametrize("name", ["nsf-coupling", "realnvp"])
def test_single_precision_data_start_a_flow_in_either_precision(name, key, x64):
    x = normals(key, (20, 4), jnp.float32)
    model = flows.flow(LAYERS[name]((4,), STEP, 2), event_shape=(4,))
    assert jax.tree.leaves(jax.eval_shape(model.init, key, x))


@EVERY
def test_far_data_give_finite_numbers_and_gradients(name, key):
    model, params, x, _ = real_flow(name, key)
    far = x.at[:8].set(1e6).at[8:16].set(-1e6)

    def loss(params):
        return -jnp.mean(model.log_prob(params, far)) * 1e-12

    chex.assert_tree_all_finite(jax.jit(jax.value_and_grad(loss))(params))


@pytest.mark.slow
def test_dropout_changes_training_alone(key):
    step = STEP._replace(dropout=0.5)
    x = normals(key, (8, 4))
    model = flows.flow(flows.realnvp((4,), step, 2), event_shape=(4,))
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    keys = jax.random.split(key)
    plain = [model.elbo_terms(k, params, x).elbo for k in keys]
    chex.assert_trees_all_equal(*plain)
    noisy = [model.elbo_terms(k, params, x, train=True).elbo for k in keys]
    assert not np.allclose(*noisy)


@pytest.mark.slow
def test_a_repeated_layer_is_the_layers_in_turn(key):
    x = normals(key, (30, 4))
    one = layers.chain(
        learned.actnorm(by_channel=False),
        learned.lu(),
        layers.fixed(linear.reverse()),
    )
    many = layers.repeat(one, 3)
    params = disturbed(many.init(key, x, None), 0.1)
    z = layers.push(many, params, x, None)
    value = x
    for number in range(3):
        own = jax.tree.map(lambda leaf, n=number: leaf[n], params)
        value = layers.push(one, own, value, None)
    np.testing.assert_allclose(z, value, rtol=1e-5, atol=1e-5)


# ---- MADE


def made_model(key, likelihood, *, num_classes=0):
    key_x, key_init = jax.random.split(key)
    levels = 2 if likelihood == "bernoulli" else 3
    x = jax.random.randint(key_x, (6, 2, 2, 1), 0, levels)
    if likelihood == "bernoulli":
        x = x.astype(jnp.float32)
    family = models.likelihoods.likelihood(likelihood, levels=levels)
    network = models.made.MADE((9, 7), family.num_outputs, use_output_bias=False)
    model = models.autoregressive.Autoregressive(
        network, family, (2, 2, 1), num_classes
    )
    condition = jnp.arange(6) % 2 if num_classes else None
    return (
        model,
        disturbed(jax.jit(model.init)(key_init, x, condition), 0.3),
        x,
        condition,
    )


@pytest.mark.parametrize(
    "likelihood", ["bernoulli", pytest.param("categorical", marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_made_has_mass_one_and_draws_by_it(likelihood, key):
    model, params, x, _ = made_model(key, likelihood)
    levels = 2 if likelihood == "bernoulli" else 3
    every = np.asarray(list(itertools.product(range(levels), repeat=4)))
    mass = np.exp(
        model.log_prob(params, jnp.asarray(every.reshape(-1, 2, 2, 1), x.dtype))
    )
    np.testing.assert_allclose(mass.sum(), 1.0, rtol=1e-5)
    draws = jax.jit(model.sample, static_argnums=2)(key, params, 20_000)
    draws = np.asarray(draws).reshape(-1, 4)
    count = np.asarray([(draws == one).all(1).sum() for one in every])
    error = np.sqrt(mass * (1 - mass) / 20_000)
    assert (np.abs(count / 20_000 - mass) < 4.5 * error + 1e-9).all()


@pytest.mark.parametrize(
    ("dim", "hidden"),
    [
        *[(1, ()), (2, (3,)), (5, ()), (5, (3,)), (5, (11, 4))],
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [(1, (3,)), (1, (11, 4)), (2, ()), (2, (11, 4))]
        ),
    ],
)
def test_made_reads_what_is_before_alone(dim, hidden, key):
    network = models.made.MADE(hidden, 2, "tanh")
    x, context = normals(key, (1, dim)), jnp.ones((1, 3))
    init = whole(network.init)(key, x, context, train=False)
    params = disturbed(init, 1.0)

    def outputs(x):
        return network.apply(params, x[None], context, train=False)[0]

    jacobian = np.abs(jax.jit(jax.jacobian(outputs))(x[0])).sum(1)
    np.testing.assert_array_equal(jacobian, np.tril(jacobian, -1))
    # Every number before is read: nothing is cut that need not be.
    if len(hidden) == 0 or min(hidden) >= dim - 1:
        assert (jacobian[np.tril_indices(dim, -1)] > 0).all()


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("hidden", [(), (5,)])
def test_made_reads_its_context_everywhere(dim, hidden, key):
    network = models.made.MADE(hidden, 2, "tanh")
    x, context = normals(key, (1, dim)), jnp.ones(3)
    init = whole(network.init)(key, x, context[None], train=False)
    params = disturbed(init, 1.0)

    def outputs(context):
        return network.apply(params, x, context[None], train=False)[0]

    assert (np.abs(jax.jit(jax.jacobian(outputs))(context)) > 0).all()


@pytest.mark.slow
def test_made_is_batch_free(key):
    network = models.made.MADE((9,), 3)
    x = normals(key, (5, 4))
    params = disturbed(network.init(key, x, None, train=False), 0.3)
    every = network.apply(params, x, None, train=False)
    one = jax.vmap(lambda x: network.apply(params, x[None], None, train=False)[0])(x)
    np.testing.assert_allclose(every, one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("likelihood", "num_classes"),
    [("bernoulli", 0), pytest.param("categorical", 2, marks=pytest.mark.slow)],
)
@pytest.mark.slow
def test_autoregressive_model_conforms(likelihood, num_classes, key):
    model, params, x, condition = made_model(key, likelihood, num_classes=num_classes)

    def evidence(x):
        return model.log_prob(params, x, condition)

    case = conformance.Case(model, params, x, condition, evidence, 8)
    assert conformance.check(case, key) == conformance.ANY_MODEL


# ---- continuous flows


def linear_field(matrix):
    return continuous.exact_divergence(lambda t, x: matrix @ x)


@pytest.mark.slow
def test_a_linear_velocity_is_a_matrix_exponential(key, x64):
    matrix = 0.5 * normals(key, (3, 3))
    bijection = continuous.continuous(linear_field(matrix), tolerance=1e-10)
    x = jnp.asarray([0.3, -1.0, 2.0])
    z, log_det = jax.jit(bijection.forward)(x)
    np.testing.assert_allclose(z, scipy.linalg.expm(matrix) @ x, rtol=1e-8)
    np.testing.assert_allclose(log_det, jnp.trace(matrix), rtol=1e-8)
    back, log_det_back = jax.jit(bijection.inverse)(z)
    np.testing.assert_allclose(back, x, rtol=1e-8)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-8)


@pytest.mark.slow
def test_the_divergence_against_the_determinant(key, x64):
    """A non-linear field: log |det| by autodiff through the solver."""
    first = normals(key, (4, 3))

    def velocity(t, x):
        return first.T @ jnp.tanh(first @ x + t)

    bijection = continuous.continuous(
        continuous.exact_divergence(velocity), tolerance=1e-9
    )
    x = jnp.asarray([0.3, -1.0, 0.2])
    jacobian = jax.jit(jax.jacrev(lambda x: bijection.forward(x)[0]))(x)
    log_det = jax.jit(bijection.forward)(x)[1]
    np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-6)


def test_probes_estimate_the_divergence_without_bias(key, x64):
    matrix = normals(key, (3, 3))

    def velocity(t, x):
        return jnp.tanh(matrix @ x) * (1.0 + t)

    at = (jnp.asarray(0.4), jnp.asarray([0.3, -1.0, 0.2]))
    value, exact = continuous.exact_divergence(velocity)(*at)
    # All eight signs: the mean over Rademacher probes itself.
    probes = jnp.asarray(list(itertools.product((-1.0, 1.0), repeat=3)))
    estimates = jax.vmap(
        lambda probe: continuous.hutchinson_divergence(velocity, probe)(*at)[1]
    )(probes)
    np.testing.assert_allclose(estimates.mean(), exact, rtol=1e-12)
    same = continuous.hutchinson_divergence(velocity, probes[0])(*at)[0]
    np.testing.assert_allclose(same, value)


def continuous_model(key):
    step = flows.Step((6,), "silu")
    model = flows.flow(flows.continuous((2,), step, 1), event_shape=(2,))
    x = normals(key, (6, 2))
    return model, disturbed(jax.jit(model.init)(key, x), 0.3), x


def test_draws_of_a_continuous_flow_need_no_divergence(key, monkeypatch):
    """Along the velocity alone they end where they end with it, to the tolerance."""
    model, params, _ = continuous_model(key)
    expected, _ = jax.jit(model.sample_and_log_prob, static_argnums=2)(key, params, 8)
    monkeypatch.setattr(continuous, "exact_divergence", None)
    actual = jax.jit(model.sample, static_argnums=2)(key, params, 8)
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_continuous_flow_conforms(key):
    model, params, x = continuous_model(key)

    def evidence(x):
        def one(x):
            forward = model.bijection(params, None).forward
            jacobian = jax.jacrev(lambda x: forward(x)[0])(x)
            return (
                normal.standard_log_prob(forward(x)[0])
                + jnp.linalg.slogdet(jacobian)[1]
            )

        return jax.vmap(one)(x)

    case = conformance.Case(model, params, x, None, evidence, 8)
    assert conformance.check(case, key) == conformance.ANY_MODEL


def test_flow_matching_is_least_at_the_conditional_mean(key, x64):
    """Data N(0, s^2): the best velocity is E[z - x | x_t], linear, and its error known.

    With v_t = (1 - t)^2 s^2 + t^2 it is (t - (1 - t) s^2) / v_t x_t, and what is left
    is s^2 + 1 - (t - (1 - t) s^2)^2 / v_t.
    """
    std, t = 0.5, jnp.asarray(0.3)
    slope = (t - (1 - t) * std**2) / ((1 - t) ** 2 * std**2 + t**2)
    left = std**2 + 1 - slope * (t - (1 - t) * std**2)

    def error(key, factor):
        key_x, key_z = jax.random.split(key)
        x, z = std * jax.random.normal(key_x, (1,)), jax.random.normal(key_z, (1,))
        return bound.flow_matching_error(lambda t, y: factor * slope * y, t, x, z)

    keys = jax.random.split(key, 40_000)
    errors = jax.vmap(lambda k: error(k, 1.0))(keys)
    assert abs(errors.mean() - left) < 4.5 * errors.std() / 200
    for factor in (0.8, 1.2):
        assert jax.vmap(lambda k, f=factor: error(k, f))(keys).mean() > errors.mean()
    # Of an event the error is the sum of its numbers'.
    pair = jnp.asarray([1.0, -2.0]), jnp.asarray([0.5, 3.0])
    still = bound.flow_matching_error(lambda t, y: 0.0 * y, t, *pair)
    np.testing.assert_allclose(still, 0.5**2 + 5.0**2, rtol=1e-12)


def test_a_flow_at_rest_errs_by_the_way_from_data_to_noise(key):
    """The network of a continuous flow starts at velocity 0."""
    model, moving, x = continuous_model(key)
    params = jax.jit(model.init)(key, x)
    _, key_z, _ = jax.random.split(key, 3)
    standard = (x - x.mean(0)[None]) / x.std(0)[None]
    expected = jnp.sum((jax.random.normal(key_z, x.shape) - standard) ** 2, axis=-1)
    error = jax.jit(model.matching_error)
    np.testing.assert_allclose(error(key, params, x), expected, rtol=1e-5)
    assert (abs(error(key, moving, x) - expected) > 1e-3).all()


def test_flow_matching_averages_errors_by_their_weights(key):
    model, params, _ = continuous_model(key)
    x, weight = normals(key, (4, 2)), jnp.asarray([1.0, 0.0, 2.0, 0.0])
    value_and_grad = jax.jit(objective.flow_matching(model))
    (loss, _), _ = value_and_grad(key, params, Batch(x, None, weight))
    errors = jax.jit(model.matching_error)(key, params, x)
    np.testing.assert_allclose(loss, (weight * errors).sum() / 3, rtol=1e-5)


def test_flow_matching_needs_a_continuous_flow(key):
    model, params, x, _ = real_flow("realnvp", key)
    with pytest.raises(UserError, match="continuous"):
        model.matching_error(key, params, x)


# ---- fitted to a density


@pytest.mark.parametrize("name", list(targets.TARGETS))
def test_normalisers_of_targets_by_quadrature(name, x64):
    target = targets.TARGETS[name]()
    axis = jnp.linspace(-16.0, 40.0, 1401)
    nodes = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    log_density = jax.vmap(target.log_density)(nodes)
    # The trapezium rule of a smooth function that vanishes at the ends.
    log_z = jax.nn.logsumexp(log_density) + 2 * jnp.log(axis[1] - axis[0])
    np.testing.assert_allclose(log_z, target.log_normalizer, atol=1e-6)


@pytest.mark.slow
def test_a_flow_on_a_target_conforms(key):
    """The contract becomes E[exp(log_weight)] = Z."""
    flow = flows.flow(
        layers.fixed(bijections.IDENTITY), event_shape=(2,), transform="standardize"
    )
    # Wide enough for the banana: weights with a variance.
    model = models.target.TargetFlow(flow, targets.banana())
    x = jnp.zeros((6, 0))
    params = jax.jit(model.init)(key, x)
    params["data"] = (
        {"mean": jnp.asarray([0.0, 1.0]), "log_std": jnp.log(jnp.asarray([2.6, 3.5]))},
    )
    evidence = jnp.full(6, targets.banana().log_normalizer)
    case = conformance.Case(model, params, x, None, lambda x: evidence, 40_000)
    # What is observed has no numbers: nothing of its shape, nothing to begin with.
    without = frozenset({"check_samples", "check_init"})
    ran = conformance.check(case, key, without=without)
    assert ran == conformance.ANY_MODEL - without
    chex.assert_shape(model.sample(key, params, 5), (5, 2))


@pytest.mark.slow
def test_a_continuous_flow_stays_finite_far_away(key):
    model, params, _ = continuous_model(key)
    far = jnp.asarray([[1e6, 0.1], [-1e6, 1e6], [0.0, 0.0]])

    def loss(params, x):
        return -jnp.mean(model.log_prob(params, x)) * 1e-12

    found = jax.jit(jax.value_and_grad(loss, (0, 1)))(params, far)
    chex.assert_tree_all_finite(found)
