"""Noise schedules and the variance-preserving process."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals

from vgm.densities import normal
from vgm.processes import gaussian, interiors, schedules

MIN, MAX = -18.0, 18.0


def uneven(num_units=32):
    """A monotone network far from a line."""
    draws = np.random.default_rng(0).normal(size=(2, num_units))
    start = interiors.monotone_init(num_units)
    return start._replace(
        log_height=jnp.asarray(draws[0], float),
        log_steepness=jnp.asarray(2.0 + draws[1], float),
    )


SCHEDULES = {
    "linear": lambda: schedules.linear(MIN, MAX),
    "cosine": lambda: schedules.cosine(MIN, MAX),
    "sigmoid": lambda: schedules.sigmoid(MIN, MAX),
    "polynomial": lambda: schedules.interpolate(
        MIN, MAX, interiors.polynomial(jnp.asarray([0.3, -1.0, 2.0]))
    ),
    "monotone": lambda: schedules.interpolate(MIN, MAX, interiors.monotone(uneven())),
    "ddpm": schedules.ddpm_linear,
    "from_gamma": lambda: schedules.from_gamma(
        lambda t: MAX * jnp.arctanh(0.9 * (2.0 * t - 1.0)) / math.atanh(0.9)
    ),
}


def slow(value):
    return pytest.param(value, marks=pytest.mark.slow)


each_schedule = pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)


@each_schedule
def test_schedules_rise_between_their_ends(x64, build):
    schedule = build()
    t = jnp.linspace(0.0, 1.0, 997)
    gamma = np.asarray(jax.jit(jax.vmap(schedule.gamma))(t))
    assert (np.diff(gamma) > 0).all()
    ends = gaussian_ends() if build is schedules.ddpm_linear else (MIN, MAX)
    np.testing.assert_allclose(gamma[[0, -1]], ends, rtol=1e-12)


def gaussian_ends():
    """-log SNR of DDPM's x_1 and x_1000 (Ho et al. 2020), by NumPy."""
    alpha_bar = np.cumprod(1.0 - np.linspace(1e-4, 0.02, 1000))
    return np.log(1.0 - alpha_bar[[0, -1]]) - np.log(alpha_bar[[0, -1]])


@each_schedule
def test_increments_are_differences(x64, build):
    schedule = build()
    gamma = jax.jit(jax.vmap(schedule.gamma))
    rise = jax.jit(jax.vmap(schedule.increment, (0, None)))
    for width in (1.0, 0.5, 0.013, 1e-3, 1e-6):
        t = np.linspace(width, 1.0, 211)
        got = rise(t, jnp.asarray(width))
        # A difference of numbers up to 18 in double precision, over what it is.
        np.testing.assert_allclose(got, gamma(t) - gamma(t - width), atol=3e-14)


@each_schedule
def test_derivatives_are_limits_of_increments(x64, build):
    schedule, width = build(), 1e-7
    # Away from the knots of a piecewise schedule.
    t = jnp.asarray((np.arange(0, 999, 37) + 0.4) / 999)
    got = jax.jit(jax.vmap(schedule.derivative))(t)
    rise = jax.jit(jax.vmap(schedule.increment, (0, None)))
    middle = rise(t + 0.5 * width, jnp.asarray(width))
    np.testing.assert_allclose(got, np.asarray(middle) / width, rtol=1e-7)


@each_schedule
@pytest.mark.parametrize(
    "num_steps", [10_000, 1_000_000, *(slow(count) for count in (10, 1000))]
)
def test_increments_keep_their_digits_in_single_precision(build, num_steps):
    """Where a difference of gammas loses 15% at T = 10^6."""
    index = np.unique(np.linspace(1, num_steps, 3000).astype(int))
    t, width = np.float32(index / num_steps), np.float32(1.0 / num_steps)
    got = jax.jit(jax.vmap(build().increment, (0, None)))(t, width)
    with jax.enable_x64(True):
        rise = whole(jax.vmap(build().increment, (0, None)))
        wide = np.asarray(rise(jnp.asarray(t, float), jnp.asarray(width, float)))
    # The piecewise schedule finds its cell from t, which has 24 bits.
    worst = 2e-4 if build is schedules.ddpm_linear and num_steps > 10_000 else 1e-5
    np.testing.assert_allclose(got, wide, rtol=worst)


@each_schedule
def test_increments_sum_to_the_span(build):
    schedule = build()
    num_steps = 1_000_000
    t = jnp.arange(1, num_steps + 1, dtype=jnp.float32) / num_steps
    width = jnp.float32(1.0 / num_steps)
    total = jnp.sum(jax.jit(jax.vmap(schedule.increment, (0, None)))(t, width))
    span = np.subtract(*map(jax.jit(schedule.gamma), (np.float32(1), np.float32(0))))
    # With ends at +-18 the sigmoid's last steps lie in the last bits of t.
    worst = 5e-4 if build is SCHEDULES["sigmoid"] else 1e-5
    np.testing.assert_allclose(total, span, rtol=worst)


def test_a_wide_step_is_the_whole_range():
    for build in SCHEDULES.values():
        schedule, one = whole(build()), np.float32(1)
        span = schedule.gamma(one) - schedule.gamma(np.float32(0))
        np.testing.assert_allclose(schedule.increment(one, one), span, rtol=1e-5)


def test_learned_ends_keep_their_order(x64):
    learned = interiors.ends(-10.0, 5.0)
    np.testing.assert_allclose(jnp.exp(learned.log_span), 15.0, rtol=1e-12)

    def top(ends):
        span = jnp.exp(ends.log_span)
        return schedules.linear(ends.gamma_min, ends.gamma_min + span).gamma(
            jnp.ones(())
        )

    slopes = whole(jax.grad(top))(learned)
    np.testing.assert_allclose(slopes, (1.0, 15.0), rtol=1e-12)


def test_interiors_learn_without_moving_their_ends(x64):
    """Every parameter of an interior moves its inside, and neither end."""

    def values(params):
        inside = interiors.monotone(params)
        return jax.vmap(inside.gamma)(jnp.asarray([0.0, 0.37, 1.0]))

    slopes = whole(jax.jacobian(values))(uneven(4))
    for leaf in map(np.asarray, jax.tree.leaves(slopes)):
        np.testing.assert_allclose(leaf[[0, 2]], 0.0, atol=1e-14)
        assert (np.abs(leaf[1]) > 0).all()


@pytest.mark.parametrize("gamma", [-30.0, -18.0, 0.0, 5.0, 18.0, 30.0])
def test_scales_have_unit_power_and_the_ratio(gamma):
    alpha, sigma = gaussian.alpha_sigma(jnp.float32(gamma))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-6)
    exact = 1.0 / (1.0 + np.exp(np.float64([gamma, -gamma])))
    np.testing.assert_allclose([alpha**2, sigma**2], exact, rtol=3e-6)


STEPS = [
    (-18.0, 1e-3),
    (-5.0, 0.7),
    (0.3, 1e-6),
    (5.0, 18.3),
    (18.0, 36.0),
    (18.0, 0.1),
]


@pytest.mark.parametrize(("gamma_t", "increment"), STEPS)
def test_a_transition_carries_one_marginal_into_the_next(x64, gamma_t, increment):
    gamma_t, increment = jnp.asarray(gamma_t), jnp.asarray(increment)
    x = jnp.asarray([0.3, -1.2])
    mean_s, log_std_s = gaussian.marginal(x, gamma_t - increment)
    mean, log_std = gaussian.transition(mean_s, gamma_t, increment)
    ratio = gaussian.transition(jnp.ones(2), gamma_t, increment)[0]
    expected = gaussian.marginal(x, gamma_t)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-12)
    variance = ratio**2 * jnp.exp(2 * log_std_s) + jnp.exp(2 * log_std)
    np.testing.assert_allclose(variance, jnp.exp(2 * expected[1]), rtol=1e-12)


@pytest.mark.parametrize(("gamma_t", "increment"), STEPS)
def test_the_posterior_obeys_bayes(x64, key, gamma_t, increment):
    """q(z_s | z_t, x) q(z_t | x) = q(z_t | z_s) q(z_s | x)."""
    gamma_t, increment = jnp.asarray(gamma_t), jnp.asarray(increment)
    x, eps_s, eps = normals(key, (3, 4))
    z_s = gaussian.diffuse(x, eps_s, gamma_t - increment)
    forward = gaussian.transition(z_s, gamma_t, increment)
    z_t = forward[0] + jnp.exp(forward[1]) * eps
    left = normal.log_prob(z_s, *gaussian.posterior(z_t, x, gamma_t, increment))
    left += normal.log_prob(z_t, *gaussian.marginal(x, gamma_t))
    right = normal.log_prob(z_t, *forward)
    right += normal.log_prob(z_s, *gaussian.marginal(x, gamma_t - increment))
    np.testing.assert_allclose(left, right, rtol=1e-9)


@pytest.mark.parametrize(("gamma_t", "increment"), STEPS)
def test_steps_keep_their_digits_in_single_precision(key, gamma_t, increment):
    z, x = normals(key, (2, 5))
    steps = (
        lambda g, d, z, x: gaussian.posterior(z, x, g, d),
        lambda g, d, z, x: gaussian.transition(z, g, d),
    )
    for step in steps:
        narrow = step(jnp.float32(gamma_t), jnp.float32(increment), z, x)
        with jax.enable_x64(True):
            exact = (
                jnp.asarray(np.float64(np.float32(v))) for v in (gamma_t, increment)
            )
            wide = step(*exact, jnp.asarray(z, float), jnp.asarray(x, float))
            wide = jax.tree.map(np.asarray, wide)
        # 1 / sigma of 18 log units costs 18 rounding errors.
        chex.assert_trees_all_close(narrow, wide, rtol=5e-6, atol=1e-6)


KINDS = ("x", "eps", "v", "score")


@pytest.mark.parametrize(("source", "target"), [*itertools.permutations(KINDS, 2)])
def test_every_conversion_gives_what_it_names(x64, key, source, target):
    x, eps = normals(key, (2, 5))
    for gamma in (-6.0, 0.0, 2.5):
        alpha, sigma = (
            np.sqrt(1 / (1 + np.exp(gamma))),
            np.sqrt(1 / (1 + np.exp(-gamma))),
        )
        z = alpha * x + sigma * eps
        truth = {
            "x": x,
            "eps": eps,
            "v": alpha * eps - sigma * x,
            "score": -eps / sigma,
        }
        convert = functools.partial(gaussian.convert, z=z, gamma=jnp.asarray(gamma))
        there = convert(truth[source], source=source, target=target)
        np.testing.assert_allclose(there, truth[target], rtol=1e-10, atol=1e-12)
        back = convert(there, source=target, target=source)
        np.testing.assert_allclose(back, truth[source], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_parameterisations_agree_with_the_conversions(x64, key, kind):
    x, eps, wrong = normals(key, (3, 5))
    gamma = jnp.asarray(-1.3)
    z = gaussian.diffuse(x, eps, gamma)
    family = gaussian.PARAMETERISATIONS[kind]
    target = family.target(x, eps, gamma)
    truth = gaussian.convert(x, z, gamma, source="x", target=kind)
    np.testing.assert_allclose(target, truth, rtol=1e-12)
    np.testing.assert_allclose(family.to_x(z, target, gamma), x, rtol=1e-10)
    # An error of the prediction is eps_slope times less an error of the noise.
    eps_hat = gaussian.convert(wrong, z, gamma, source=kind, target="eps")
    error = family.eps_slope(gamma) * (target - wrong)
    np.testing.assert_allclose(error, eps - eps_hat, rtol=1e-10)


def test_unknown_parameterisations_are_named():
    one = jnp.ones(1)
    with pytest.raises(ValueError, match=r"of \['eps', 'score', 'v', 'x'\]; got x, y"):
        gaussian.convert(one, one, jnp.zeros(()), source="x", target="y")


@pytest.mark.slow
def test_jit_and_vmap_give_the_plain_numbers(key):
    gamma = jnp.linspace(-10.0, 5.0, 3)
    z, x = normals(key, (2, 3, 4))
    together = jax.jit(jax.vmap(gaussian.posterior, (0, 0, 0, None)))(z, x, gamma, 0.3)
    alone = [
        gaussian.posterior(z[i], x[i], gamma[i], jnp.asarray(0.3)) for i in range(3)
    ]
    for i in range(3):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], together),
            alone[i],
            rtol=1e-6,
            atol=1e-6,
        )


def test_a_schedule_of_ones_own_may_turn_within_a_step(x64):
    """Where five nodes do not see a bump, the difference of gammas does."""

    def bumped(t):
        return 16.0 * t - 11.0 + 0.05 * jnp.tanh(1000.0 * (t - 0.495))

    t, width = jnp.linspace(0.01, 1.0, 100), jnp.asarray(0.01)
    rise = jax.vmap(schedules.from_gamma(bumped).increment, (0, None))(t, width)
    np.testing.assert_allclose(rise, bumped(t) - bumped(t - width), rtol=1e-11)


@pytest.mark.parametrize("name", ["linear", "polynomial", "from_gamma"])
def test_times_may_be_plain_numbers(unchecked, name):
    schedule = SCHEDULES[name]()
    np.testing.assert_allclose(schedule.gamma(1), MAX, rtol=1e-6)
    rises = schedule.increment(1, 0.25), schedule.increment(np.float32(1.0), 0.25)
    np.testing.assert_array_equal(*rises)
