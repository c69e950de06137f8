"""The diffusion bound against closed forms, a plain NumPy DDPM, and itself."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole

from vgm.bounds import diffusion, trajectories
from vgm.densities import normal
from vgm.divergences import kl_normal, kl_standard_normal
from vgm.processes import gaussian, interiors, schedules, times
from vgm.samplers import diffusion as samplers

MIN, MAX, VARIANCE = -13.3, 5.0, 0.25


def optimal(variance, kind="eps"):
    """The best denoiser of N(0, variance I): linear in z, oracle I."""

    def predict(z, gamma):
        alpha, sigma = gaussian.alpha_sigma(gamma)
        total = alpha**2 * variance + sigma**2
        slope = {
            "eps": sigma,
            "x": alpha * variance,
            "v": alpha * sigma * (1.0 - variance),
            "score": -1.0,
        }[kind]
        return slope / total * z

    return predict


def normal_decoder(x, schedule):
    """Log N(x; z_0 / alpha_0, exp(gamma_0) I)."""
    gamma_0 = schedule.gamma(jnp.zeros((), x.dtype))
    alpha_0, _ = gaussian.alpha_sigma(gamma_0)
    return lambda z: normal.log_prob(x, z / alpha_0, jnp.full_like(z, 0.5 * gamma_0))


def chain_of(x, *, schedule=None, variance=VARIANCE, kind="eps", predict=None):
    schedule = schedule or schedules.linear(MIN, MAX)
    return diffusion.Chain(
        schedule,
        predict or optimal(variance, kind),
        gaussian.PARAMETERISATIONS[kind],
        normal_decoder(x, schedule),
    )


def expected(function, variance=VARIANCE):
    """Mean over x ~ N(0, variance), eps ~ N(0, 1): exact for quadratics at +-1 std."""
    x = jnp.asarray([1.0, 1.0, -1.0, -1.0])[:, None] * variance**0.5
    eps = jnp.asarray([1.0, -1.0, 1.0, -1.0])[:, None]
    return jnp.mean(jax.vmap(function)(x, eps), axis=0)


def expected_step(chain, num_steps, variance=VARIANCE):
    """E KL of step i, as a function of i."""

    def step(index):
        t = index.astype(float) / num_steps
        increment = chain.schedule.increment(t, jnp.asarray(1.0 / num_steps))

        def divergence(x, eps):
            error = diffusion.noise_error(x, eps, chain.schedule.gamma(t), chain)
            return diffusion.denoising_matching(error, increment)

        return expected(divergence, variance)

    return step


@pytest.mark.parametrize("kind", ["eps", "x", "v", "score"])
@pytest.mark.parametrize(
    ("num_steps", "value"),
    [(10, 15.7276), (100, 6.4857), (1000, 6.0062), (10_000, 5.9610)],
)
def test_the_bound_of_normal_data_has_its_closed_form(x64, num_steps, value, kind):
    """Oracle I: 1/2 sum expm1(gamma_t - gamma_s) s^2 / (s^2 + exp(gamma_t))."""
    step = expected_step(chain_of(jnp.zeros(1), kind=kind), num_steps)
    total = np.sum(jax.jit(jax.vmap(step))(np.arange(1, num_steps + 1)))
    gamma = np.linspace(MIN, MAX, num_steps + 1)
    closed = 0.5 * np.expm1(np.diff(gamma)) * VARIANCE / (VARIANCE + np.exp(gamma[1:]))
    np.testing.assert_allclose(total, closed.sum(), rtol=1e-11)
    assert round(float(total), 4) == value


UNEVEN = interiors.Monotone(
    jnp.zeros(()),
    jnp.ones(3),
    jnp.asarray([2.0, 1.0, 2.5]),
    jnp.asarray([0.2, 0.5, 0.9]),
)
SCHEDULES = {
    "linear": lambda: schedules.linear(MIN, MAX),
    "cosine": lambda: schedules.cosine(MIN, MAX),
    "polynomial": lambda: schedules.interpolate(
        MIN, MAX, interiors.polynomial(jnp.asarray([0.5, -0.4, 1.0]))
    ),
    "monotone": lambda: schedules.interpolate(MIN, MAX, interiors.monotone(UNEVEN)),
}


@pytest.mark.parametrize("build", SCHEDULES.values(), ids=SCHEDULES)
def test_the_continuous_bound_depends_on_the_ends_alone(x64, build):
    """L = 1/2 log [(1 + s^2 exp(-gamma_0)) / (1 + s^2 exp(-gamma_1))]."""
    chain = chain_of(jnp.zeros(1), schedule=build())

    def integrand(t):
        def rate(x, eps):
            error = diffusion.noise_error(x, eps, chain.schedule.gamma(t), chain)
            slope = chain.schedule.derivative(t)
            return diffusion.denoising_matching_continuous(error, slope)

        return expected(rate)

    # Gauss-Legendre on 400 cells, for the cosine is steep at both ends.
    nodes, weights = np.polynomial.legendre.leggauss(8)
    cells = 0.5 - 0.5 * np.cos(np.linspace(0, np.pi, 401))
    width = np.diff(cells)[:, None]
    t = (cells[:-1, None] + 0.5 * width * (nodes + 1.0)).ravel()
    total = np.sum(
        np.asarray(jax.jit(jax.vmap(integrand))(jnp.asarray(t)))
        * (0.5 * width * weights).ravel()
    )
    closed = 0.5 * np.log((1 + VARIANCE * np.exp(-MIN)) / (1 + VARIANCE * np.exp(-MAX)))
    np.testing.assert_allclose(total, closed, rtol=1e-7)
    assert round(float(total), 6) == 5.956015


def test_the_whole_bound_misses_the_entropy_by_the_ends(x64):
    """-ELBO - H(x) = 1/2 log(1 + e^g0 / s^2) + 1/2 (v1 - 1 - log v1), oracle I."""
    closed = 0.5 * np.log((1 + VARIANCE * np.exp(-MIN)) / (1 + VARIANCE * np.exp(-MAX)))
    schedule = schedules.linear(MIN, MAX)

    def outer(x, eps):
        z_0 = gaussian.diffuse(x, eps, jnp.asarray(MIN))
        reconstruction = normal_decoder(x, schedule)(z_0)
        return reconstruction - diffusion.prior_matching(x, jnp.asarray(MAX))

    elbo = whole(expected)(outer) - closed
    entropy = 0.5 * np.log(2 * np.pi * np.e * VARIANCE)
    alpha2, sigma2 = 1 / (1 + np.exp(MAX)), 1 / (1 + np.exp(-MAX))
    v_1 = alpha2 * VARIANCE + sigma2
    gap = 0.5 * np.log1p(np.exp(MIN) / VARIANCE) + 0.5 * (v_1 - 1 - np.log(v_1))
    np.testing.assert_allclose(-elbo - entropy, gap, atol=1e-12)


@pytest.mark.parametrize("kind", ["eps", "x", "v", "score"])
@pytest.mark.parametrize(
    ("gamma_t", "increment"), [(-2.9, 0.1), (5.0, 10.0), (1.0, 1e-3), (9.0, 1.0)]
)
def test_a_term_is_the_divergence_of_the_two_posteriors(
    x64, key, gamma_t, increment, kind
):
    gamma_t, increment = jnp.asarray(gamma_t), jnp.asarray(increment)
    x, eps, wrong = jax.random.normal(key, (3, 7))
    chain = chain_of(x, kind=kind, predict=lambda z, gamma: 0.3 * z + wrong)
    error = diffusion.noise_error(x, eps, gamma_t, chain)
    z_t = gaussian.diffuse(x, eps, gamma_t)
    x_hat = chain.parameterisation.to_x(z_t, chain.predict(z_t, gamma_t), gamma_t)
    posterior = whole(gaussian.posterior)
    full = whole(kl_normal)(
        *posterior(z_t, x, gamma_t, increment),
        *posterior(z_t, x_hat, gamma_t, increment),
    )
    got = whole(diffusion.denoising_matching)(error, increment)
    np.testing.assert_allclose(got, full, rtol=1e-8)
    by_x = np.exp(increment - gamma_t) - np.exp(-gamma_t)  # SNR_s - SNR_t
    square = np.sum(np.asarray(x - x_hat) ** 2)
    np.testing.assert_allclose(got, 0.5 * by_x * square, rtol=1e-8)


@pytest.mark.parametrize("num_times", [1, 2, 48, 49, 98, 103, 107])
def test_low_discrepancy_times_are_even(key, num_times):
    t = np.sort(whole(times.low_discrepancy_times)(key, num_times))
    assert t.shape == (num_times,)
    assert (t >= 0).all()
    assert (t < 1).all()
    np.testing.assert_allclose(np.diff(t), 1.0 / num_times, atol=1e-6)


def test_exactly_n_low_discrepancy_times():
    """Where numpy.arange(0, 1, 1 / n) gives n + 1: for 154 n up to 2048."""
    traps = [n for n in range(1, 2049) if len(np.arange(0, 1, 1 / n)) != n]
    assert len(traps) == 154
    for n in (*traps, 2048):
        draw = functools.partial(times.low_discrepancy_times, num_times=n)
        assert jax.eval_shape(draw, jax.random.key(0)).shape == (n,)


def test_each_low_discrepancy_time_is_uniform():
    keys = jax.random.split(jax.random.key(3), 4000)
    t = jax.jit(jax.vmap(lambda k: times.low_discrepancy_times(k, 5)))(keys)
    # Kolmogorov's distance, each time alone: 1.95 / sqrt(n) at one in a thousand.
    ranks = (np.arange(4000) + 0.5) / 4000
    for i in range(5):
        assert np.abs(np.sort(t[:, i]) - ranks).max() < 1.95 / np.sqrt(4000)


def rough(z, gamma):
    """A denoiser that is wrong in its own way at every time."""
    return jnp.tanh(0.7 * z) + 0.1 * jnp.sin(gamma)


ROUGH_SCHEDULE = schedules.linear(-4.0, 3.0)


def rough_chain(x):
    return chain_of(x, schedule=ROUGH_SCHEDULE, predict=rough)


def draws(function, num_draws, seed=0):
    keys = jax.random.split(jax.random.key(seed), num_draws)
    return np.asarray(jax.jit(jax.vmap(function))(keys), np.float64)


def close(one, other, worst=4.5):
    """Means of two sets of draws, in standard errors of their difference."""
    error = np.hypot(one.std(0) / np.sqrt(len(one)), other.std(0) / np.sqrt(len(other)))
    return (np.abs(one.mean(0) - other.mean(0)) < worst * error).all()


def test_denoising_and_consistency_forms_have_one_expectation():
    """And a divergence inside the consistency form is another number."""
    x = jnp.asarray([0.7, -1.1])
    chain, num_steps = rough_chain(x), 4

    def denoising(key):
        return diffusion.discrete_terms(
            key, x, chain, num_steps=num_steps, chunk_size=3
        ).elbo

    def consistency(key):
        return trajectories.consistency_terms(key, x, chain, num_steps=num_steps).elbo

    def weight(key):
        return trajectories.log_weight(key, x, chain, num_steps=num_steps)

    first, second, third = (draws(f, 40_000) for f in (denoising, consistency, weight))
    assert close(first, second)
    assert close(first, third)
    assert second.std() > first.std()
    assert not close(first, draws(lambda k: divergence_inside(k, x, chain), 40_000))


def divergence_inside(key, x, chain, num_steps=4):
    """The widely printed form: E KL(q(z_s | before) || p(z_s | z_t)), not the ELBO."""
    key_0, key_steps = jax.random.split(key)
    before = gaussian.marginal(x, chain.schedule.gamma(jnp.zeros(())))
    z = normal.sample(key_0, *before)
    total = chain.log_likelihood(z)
    for i, key_i in enumerate(jax.random.split(key_steps, num_steps), 1):
        gamma = chain.schedule.gamma(jnp.asarray(i / num_steps))
        increment = jnp.asarray(7.0 / num_steps)
        forward = gaussian.transition(z, gamma, increment)
        z = normal.sample(key_i, *forward)
        x_hat = chain.parameterisation.to_x(z, chain.predict(z, gamma), gamma)
        backward = gaussian.posterior(z, x_hat, gamma, increment)
        total -= kl_normal(*before, *backward)
        before = forward
    return total - kl_normal(*before, jnp.zeros_like(z), jnp.zeros_like(z))


def test_one_sampled_step_stands_for_all():
    x = jnp.asarray([0.7, -1.1])
    chain, num_steps = rough_chain(x), 4

    def one(key):
        key_t, key = jax.random.split(key)
        t = jax.random.uniform(key_t, (1,))
        terms = diffusion.sampled_terms(
            key, x, t, chain, num_steps=num_steps, chunk_size=4
        )
        return terms.elbo

    def all_steps(key):
        return diffusion.discrete_terms(
            key, x, chain, num_steps=num_steps, chunk_size=4
        ).elbo

    assert close(draws(one, 40_000), draws(all_steps, 40_000))
    # A time that rounds to 1 belongs to the last step.
    key = jax.random.key(1)
    at = jax.jit(
        lambda t: diffusion.sampled_terms(
            key, x, t, chain, num_steps=num_steps, chunk_size=1
        )
    )
    last, rounded = (at(jnp.asarray([t])) for t in (0.99, 1.0))
    np.testing.assert_array_equal(last.elbo, rounded.elbo)


def test_many_steps_approach_the_continuous_bound():
    x = jnp.asarray([0.7, -1.1])
    chain = rough_chain(x)

    def limit(key):
        key_t, key = jax.random.split(key)
        t = jax.random.uniform(key_t, (1,))
        return diffusion.continuous_terms(key, x, t, chain).elbo

    def many(key):
        key_t, key = jax.random.split(key)
        t = jax.random.uniform(key_t, (1,))
        return diffusion.sampled_terms(
            key, x, t, chain, num_steps=100_000, chunk_size=t.size
        ).elbo

    assert close(draws(limit, 100_000), draws(many, 100_000, seed=1))


def test_a_trajectory_weighs_what_its_densities_say(x64, key):
    """log p(z_1) p(z_s | z_t) .. p(x | z_0) / q, every density written out."""
    x = jnp.asarray([0.7, -1.1, 0.2])
    chain, num_steps = rough_chain(x), 5
    got = trajectories.log_weight(key, x, chain, num_steps=num_steps)
    key_top, key_steps = jax.random.split(key)
    eps = jax.random.normal(key_top, x.shape)
    q = gaussian.marginal(x, jnp.asarray(3.0))
    z = q[0] + jnp.exp(q[1]) * eps
    origin = jnp.zeros(3)
    expected = normal.log_prob(z, origin, origin) - normal.log_prob(z, *q)
    for i, key_i in zip(
        range(num_steps, 0, -1), jax.random.split(key_steps, num_steps), strict=True
    ):
        gamma, increment = jnp.asarray(-4.0 + 7.0 * i / num_steps), jnp.asarray(1.4)
        q = gaussian.posterior(z, x, gamma, increment)
        x_hat = gaussian.convert(rough(z, gamma), z, gamma, source="eps", target="x")
        p = gaussian.posterior(z, x_hat, gamma, increment)
        z = q[0] + jnp.exp(q[1]) * jax.random.normal(key_i, x.shape)
        expected += normal.log_prob(z, *p) - normal.log_prob(z, *q)
    expected += chain.log_likelihood(z)
    np.testing.assert_allclose(got, expected, rtol=1e-11)


@pytest.mark.parametrize("num_steps", [10, 10_000, 1_000_000])
def test_terms_keep_their_digits_in_single_precision(num_steps):
    """Each term to 1e-4 up to T = 10^4 at gamma in +-18, their sum to 1e-5 always."""
    index = np.arange(1, num_steps + 1)
    if num_steps > 10_000:
        index = index[:: num_steps // 10_000]

    def terms():
        wide = schedules.linear(-18.0, 18.0)
        chain = chain_of(jnp.zeros(1), schedule=wide, kind="v")
        step = expected_step(chain, num_steps)
        return np.asarray(jax.jit(jax.vmap(step))(jnp.asarray(index)), np.float64)

    narrow = terms()
    with jax.enable_x64(True):
        wide = terms()
    np.testing.assert_allclose(narrow.sum(), wide.sum(), rtol=1e-5)
    if num_steps <= 10_000:
        np.testing.assert_allclose(narrow, wide, rtol=1e-4)


@pytest.mark.parametrize(
    ("num_steps", "factor"), [(100, 0.4899), (1000, 0.50012), (10_000, 0.50115)]
)
def test_ddim_multiplies_normal_data_by_its_factors(x64, key, num_steps, factor):
    """A step without noise multiplies z by (a_s a_t s^2 + sigma_s sigma_t) / v_t."""
    schedule = schedules.linear(MIN, 5.0)
    chain = chain_of(jnp.zeros(1), schedule=schedule)
    sample = functools.partial(
        samplers.sample, num_steps=num_steps, step=samplers.ddim_step(0.0)
    )
    got = jax.jit(lambda key, z: sample(key, z, chain))(key, jnp.ones(1))[0]
    gamma = np.linspace(MIN, 5.0, num_steps + 1)
    a2, s2 = 1 / (1 + np.exp(gamma)), 1 / (1 + np.exp(-gamma))
    v = a2 * VARIANCE + s2
    steps = np.sqrt(a2[:-1] * a2[1:]) * VARIANCE + np.sqrt(s2[:-1] * s2[1:])
    np.testing.assert_allclose(got, np.prod(steps / v[1:]), rtol=1e-10)
    np.testing.assert_allclose(got, factor, atol=0.5 * 10.0 ** -len(str(factor)[2:]))
    # First order in the step, towards sqrt(v_0 / v_1) of the probability flow.
    exact = np.sqrt(v[0] / v[-1])
    assert abs(got - exact) < 1.2 / num_steps


def test_ancestral_sampling_is_ddim_with_all_of_its_noise(x64, key):
    z, x_hat = jax.random.normal(key, (2, 6))
    for gamma, increment in ((5.0, 0.3), (-3.0, 1e-4), (4.0, 17.0)):
        arguments = key, z, x_hat, jnp.asarray(gamma), jnp.asarray(increment)
        np.testing.assert_allclose(
            samplers.ddim_step(1.0)(*arguments),
            samplers.ancestral_step(*arguments),
            rtol=1e-9,
        )


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.slow
def test_samples_of_normal_data_have_its_variance(eta):
    chain = chain_of(jnp.zeros(1))
    step = samplers.ddim_step(eta)
    sample = functools.partial(samplers.sample, num_steps=300, step=step)

    def draw(key):
        key_top, key = jax.random.split(key)
        return sample(key, jax.random.normal(key_top, (1,)), chain)[0]

    z_0 = draws(draw, 20_000)
    # Three hundred steps leave a bias of 1%; a variance of n draws has 2 / n.
    assert abs(z_0.var() / VARIANCE - 1.0) < 0.015 + 4.0 * np.sqrt(2 / 20_000)
    assert abs(z_0.mean()) < 4.0 * np.sqrt(VARIANCE / 20_000)


def test_a_trajectory_passes_through_its_sample(key):
    chain = chain_of(jnp.zeros(2))
    settings = {"num_steps": 7, "step": samplers.ancestral_step}
    z_1 = jnp.asarray([1.0, -0.5])
    latents, predictions = samplers.trajectory(key, z_1, chain, **settings)
    assert latents.shape == predictions.shape == (7, 2)
    z_0 = samplers.sample(key, z_1, chain, **settings)
    np.testing.assert_allclose(latents[-1], z_0, rtol=1e-6)
    gamma_1 = chain.schedule.gamma(jnp.ones(()))
    first = gaussian.convert(
        chain.predict(z_1, gamma_1), z_1, gamma_1, source="eps", target="x"
    )
    np.testing.assert_allclose(predictions[0], first, rtol=1e-5)


class NumpyDDPM:
    """Ho et al. (2020), from the paper's equations; x_1 .. x_N at index 0 .. N - 1."""

    def __init__(self, num_latents):
        self.beta = np.linspace(1e-4, 0.02, num_latents)
        self.alpha = 1.0 - self.beta
        self.alpha_bar = np.cumprod(self.alpha)

    def q_sample(self, x_0, t, eps):  # eq. 4
        return np.sqrt(self.alpha_bar[t]) * x_0 + np.sqrt(1 - self.alpha_bar[t]) * eps

    def posterior(self, x_0, x_t, t):  # eq. 6 and 7
        before, now = self.alpha_bar[t - 1], self.alpha_bar[t]
        mean = np.sqrt(before) * self.beta[t] / (1 - now) * x_0
        mean = mean + np.sqrt(self.alpha[t]) * (1 - before) / (1 - now) * x_t
        return mean, (1 - before) / (1 - now) * self.beta[t]

    def model_mean(self, x_t, t, eps_hat):  # eq. 11
        shift = self.beta[t] / np.sqrt(1 - self.alpha_bar[t]) * eps_hat
        return (x_t - shift) / np.sqrt(self.alpha[t])

    def step_divergence(self, x_0, x_t, t, eps_hat):  # eq. 5
        mean, variance = self.posterior(x_0, x_t, t)
        difference = mean - self.model_mean(x_t, t, eps_hat)
        return np.sum(difference**2) / (2 * variance)

    def prior_divergence(self, x_0):
        mean = np.sqrt(self.alpha_bar[-1]) * x_0
        variance = 1 - self.alpha_bar[-1]
        return 0.5 * np.sum(mean**2 + variance - 1 - np.log(variance))


def test_every_term_agrees_with_a_plain_ddpm(x64):
    """DDPM's x_1 .. x_N are the latents at N times from 0 to 1: N - 1 steps."""
    num_latents = 1000
    plain, rng = NumpyDDPM(num_latents), np.random.default_rng(0)
    chain = chain_of(jnp.zeros(3), schedule=schedules.ddpm_linear(), predict=rough)
    x, eps = rng.normal(size=(2, 3))
    for t in (1, 2, 57, 500, 998, 999):
        gamma = chain.schedule.gamma(jnp.asarray(t / (num_latents - 1)))
        increment = chain.schedule.increment(
            jnp.asarray(t / (num_latents - 1)), jnp.asarray(1 / (num_latents - 1))
        )
        x_t = plain.q_sample(x, t, eps)
        z_t = gaussian.diffuse(jnp.asarray(x), jnp.asarray(eps), gamma)
        np.testing.assert_allclose(z_t, x_t, rtol=1e-10)
        eps_hat = np.asarray(rough(jnp.asarray(x_t), gamma))
        error = diffusion.noise_error(jnp.asarray(x), jnp.asarray(eps), gamma, chain)
        got = diffusion.denoising_matching(error, increment)
        expected = plain.step_divergence(x, x_t, t, eps_hat)
        np.testing.assert_allclose(got, expected, rtol=1e-7)
        x_hat = gaussian.convert(
            jnp.asarray(eps_hat), z_t, gamma, source="eps", target="x"
        )
        mean, log_std = gaussian.posterior(z_t, x_hat, gamma, increment)
        np.testing.assert_allclose(mean, plain.model_mean(x_t, t, eps_hat), rtol=1e-9)
        variance = plain.posterior(x, x_t, t)[1]
        np.testing.assert_allclose(jnp.exp(2 * log_std), variance, rtol=1e-9)
    got = diffusion.prior_matching(jnp.asarray(x), chain.schedule.gamma(jnp.ones(())))
    np.testing.assert_allclose(got, plain.prior_divergence(x), rtol=1e-9)


def test_level_evidence_is_the_posterior_under_equal_levels(x64):
    """log q(z_0 | value) normalised over values, by scipy's normal density."""
    from scipy import stats

    values = np.linspace(-1.0, 1.0, 5)
    gamma, z = -1.7, np.asarray([[0.3, -0.9]])
    alpha, sigma = np.sqrt(1 / (1 + np.exp(gamma))), np.sqrt(1 / (1 + np.exp(-gamma)))
    log_mass = stats.norm.logpdf(z[..., None], alpha * values, sigma)
    logits = gaussian.level_evidence(
        jnp.asarray(z), jnp.asarray(gamma), jnp.asarray(values)
    )
    np.testing.assert_allclose(
        jax.nn.log_softmax(logits),
        log_mass - np.log(np.exp(log_mass).sum(-1, keepdims=True)),
        rtol=1e-11,
    )


@pytest.mark.slow
def test_the_bound_under_jit_and_vmap_is_the_plain_one(key):
    x = jnp.asarray([[0.7, -1.1], [0.1, 0.4]])

    def elbo(key, x):
        return diffusion.discrete_terms(
            key, x, rough_chain(x), num_steps=3, chunk_size=2
        ).elbo

    keys = jax.random.split(key, 2)
    together = jax.jit(jax.vmap(elbo))(keys, x)
    alone = jnp.stack([elbo(keys[i], x[i]) for i in range(2)])
    np.testing.assert_allclose(together, alone, rtol=2e-6)


def test_drawn_times_take_the_memory_of_a_chunk(key):
    """Of a network whose hidden units are a megabyte a time."""
    x = jnp.asarray([0.7, -1.2])
    chain = chain_of(
        x,
        schedule=schedules.cosine(MIN, MAX),
        predict=lambda z, gamma: z + jnp.sort(jnp.sin(jnp.arange(2.0**18) * z[0]))[:2],
    )

    def memory(chunk_size):
        terms = jax.jit(
            lambda t: diffusion.sampled_terms(
                key, x, t, chain, num_steps=64, chunk_size=chunk_size
            )
        )
        program = terms.lower(jnp.zeros(32)).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert memory(2) < memory(32) / 8


def test_half_precision_of_data_leaves_gamma_its_digits(key):
    x = jnp.asarray([0.7, -1.2], jnp.bfloat16)
    chain = chain_of(x, schedule=schedules.linear(-13.3, 5.0))
    terms = whole(diffusion.discrete_terms)(key, x, chain, num_steps=3, chunk_size=3)
    assert terms.denoising_matching.dtype == jnp.float32
    again = whole(trajectories.log_weight)(key, x, chain, num_steps=3)
    assert again.dtype == jnp.float32


def test_each_drawn_time_has_its_share(x64, key):
    """A network that predicts x = 0: its error is sqrt(SNR) x, whatever the noise."""
    x = jnp.asarray([0.7, -1.2])
    schedule = schedules.cosine(MIN, MAX)
    chain = chain_of(x, schedule=schedule, kind="x", predict=lambda z, gamma: 0.0 * z)
    t = (np.arange(6) + 0.5) / 6
    sampled, together = (
        whole(diffusion.sampled_terms)(key, x, t, chain, num_steps=6, chunk_size=size)
        for size in (4, 6)  # four and two at once, or all
    )
    chex.assert_trees_all_close(sampled, together, rtol=1e-12)
    every = whole(diffusion.discrete_terms)(key, x, chain, num_steps=6, chunk_size=3)
    gamma_at = whole(jax.vmap(schedule.gamma))
    snr, square = np.exp(-gamma_at(np.arange(7) / 6)), np.sum(np.asarray(x) ** 2)
    by_hand = -0.5 * np.diff(snr) * square
    np.testing.assert_allclose(sampled.denoising_matching, by_hand, rtol=1e-10)
    np.testing.assert_allclose(every.denoising_matching, by_hand, rtol=1e-10)
    # Continuous time: 1/2 gamma' SNR |x|^2, a sixth of it for each of six times.
    rates = whole(diffusion.continuous_terms)(key, x, t, chain).denoising_matching
    slope, snr = whole(jax.vmap(schedule.derivative))(t), np.exp(-gamma_at(t))
    np.testing.assert_allclose(rates, 0.5 * slope * snr * square / 6, rtol=1e-10)
    # The top latent is that of t = 1.
    alpha, sigma = gaussian.alpha_sigma(jnp.asarray(MAX))
    top = whole(kl_standard_normal)(alpha * x, jnp.log(sigma) + 0.0 * x)
    for terms in (sampled, every):
        np.testing.assert_allclose(terms.prior_matching, top, rtol=1e-10)
