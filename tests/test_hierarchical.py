"""Bounds of hierarchies against exact evidence: Kalman, and the other rungs."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals

from vgm.bounds import diffusion as diffusion_bound
from vgm.bounds import elbo, hierarchical
from vgm.densities import multivariate_normal, normal
from vgm.divergences import kl_multivariate_normal, kl_normal, kl_standard_normal
from vgm.oracles import linear_chain
from vgm.processes import gaussian, schedules
from vgm.processes.times import grid_time


def random_chain(sizes, seed=0):
    """p(x | z_1), .., p(z_{T-1} | z_T) of these sizes, x first."""
    rng = np.random.default_rng(seed)

    def one(below, above):
        lower = np.tril(rng.normal(size=(below, below)), -1) * 0.4
        return linear_chain.Conditional(
            jnp.asarray(rng.normal(size=(below, above))),
            jnp.asarray(rng.normal(size=below)),
            jnp.asarray(lower + np.diag(np.exp(0.3 * rng.normal(size=below)))),
        )

    return tuple(one(*pair) for pair in itertools.pairwise(sizes))


def exact_mean(function, size):
    """E f(eps) over eps ~ N(0, I) of a quadratic f: f(0) + 1/2 trace of its Hessian."""

    @jax.jit
    def mean(origin):
        return function(origin) + 0.5 * jnp.trace(jax.hessian(function)(origin))

    return mean(jnp.zeros(size))


def given(conditional, eps):
    """A linear conditional whose draw uses this noise."""

    def sample(key, z):
        mean = conditional.weights @ z + conditional.bias
        return mean + conditional.cholesky @ eps

    return hierarchical.Conditional(
        sample, lambda y, z: linear_chain.log_prob(conditional, y, z)
    )


def split_noise(eps, layers):
    return jnp.split(eps, np.cumsum([len(layer.bias) for layer in layers])[:-1])


def markov_elbo(chain, up, x, eps, *, closed_form=True):
    """The bound (1) of a bottom-up posterior on the path of this noise."""
    noise = split_noise(eps, up)

    def step(params):
        q, p, eps_t = params
        return hierarchical.Step(given(q, eps_t), given(p, eps_t))

    # Steps in a row between equal sizes make one stack.
    steps = zip(up[1:], chain[1:], noise[1:], strict=True)
    stacks = [
        hierarchical.Stack(
            step, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alike)
        )
        for _, alike in itertools.groupby(steps, lambda one: one[0].weights.shape)
    ]

    def prior_matching(below, top):
        q = up[-1]
        mean = q.weights @ below + q.bias
        origin, eye = jnp.zeros_like(mean), jnp.eye(mean.size)
        if closed_form:
            return kl_multivariate_normal(mean, q.cholesky, origin, eye)
        log_q = multivariate_normal.log_prob(top, mean, q.cholesky)
        return log_q - multivariate_normal.log_prob(top, origin, eye)

    terms = hierarchical.markov_terms(
        jax.random.key(0),
        x,
        given(up[0], noise[0]),
        stacks,
        log_likelihood=lambda z: linear_chain.log_prob(chain[0], x, z),
        prior_matching=prior_matching,
    )
    chex.assert_shape(terms.denoising_matching, (len(up) - 1,))
    return terms.elbo


def top_down_elbo(chain, down, x, eps):
    """The bound (2) of a top-down posterior; the state is the latent above."""
    noise = split_noise(eps, down)
    top = len(down[-1].bias)
    prior = linear_chain.Conditional(jnp.zeros((top, 0)), jnp.zeros(top), jnp.eye(top))
    layers = [*zip(down, (*chain[1:], prior), noise, strict=True)]

    def infer(params, above):
        q, p, eps_t = params
        q_mean = q.weights @ above + q.bias
        divergence = kl_multivariate_normal(
            q_mean, q.cholesky, p.weights @ above + p.bias, p.cholesky
        )
        return hierarchical.Inference(
            lambda key: q_mean + q.cholesky @ eps_t, divergence, lambda z: z
        )

    levels = [
        hierarchical.Level(
            lambda state: state,
            infer,
            jax.tree.map(lambda leaf: leaf[None], layer),
        )
        for layer in reversed(layers)
    ]
    terms = hierarchical.top_down_terms(
        jax.random.key(0),
        jnp.zeros(0),
        levels,
        log_likelihood=lambda z: linear_chain.log_prob(chain[0], x, z),
    )
    chex.assert_shape(terms.denoising_matching, (len(down) - 1,))
    return terms.elbo


SIZES = [
    (3, 2),
    (4, 3, 2),
    (3, 2, 2, 2),
    pytest.param((3, 2, 3, 2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("sizes", SIZES)
def test_exact_posteriors_leave_no_gap(x64, key, sizes):
    chain = random_chain(sizes)
    x = jnp.asarray(np.random.default_rng(1).normal(size=sizes[0]))
    exact = whole(linear_chain.log_evidence)(chain, x)
    up = whole(linear_chain.bottom_up_posterior)(chain)
    down = whole(linear_chain.top_down_posterior)(chain, x)
    size = sum(sizes[1:])
    found = exact_mean(functools.partial(markov_elbo, chain, up, x), size)
    np.testing.assert_allclose(found, exact, atol=1e-10, rtol=0)
    found = exact_mean(functools.partial(top_down_elbo, chain, down, x), size)
    np.testing.assert_allclose(found, exact, atol=1e-10, rtol=0)
    # With the log ratio at the top, every path says the same.
    along = functools.partial(markov_elbo, chain, up, x, closed_form=False)
    paths = whole(jax.vmap(along))(normals(key, (3, size)))
    np.testing.assert_allclose(paths, np.full(3, exact), atol=1e-10, rtol=0)


def best_diagonal(conditional):
    """The diagonal normal nearest in KL(q || p), and what it loses."""
    cholesky = np.asarray(conditional.cholesky)
    precision = np.linalg.inv(cholesky @ cholesky.T)
    diagonal = np.diagonal(precision)
    gap = 0.5 * (np.sum(np.log(diagonal)) - np.linalg.slogdet(precision)[1])
    return conditional._replace(cholesky=jnp.asarray(np.diag(diagonal**-0.5))), gap


@pytest.mark.parametrize("sizes", SIZES[1:])
def test_diagonal_posteriors_leave_their_gap(x64, sizes):
    chain = random_chain(sizes, seed=2)
    x = jnp.asarray(np.random.default_rng(3).normal(size=sizes[0]))
    exact, size = whole(linear_chain.log_evidence)(chain, x), sum(sizes[1:])
    for posterior, bound in (
        (whole(linear_chain.bottom_up_posterior)(chain), markov_elbo),
        (whole(linear_chain.top_down_posterior)(chain, x), top_down_elbo),
    ):
        diagonal, gaps = zip(*map(best_diagonal, posterior), strict=True)
        found = exact_mean(functools.partial(bound, chain, diagonal, x), size)
        np.testing.assert_allclose(exact - found, sum(gaps), atol=1e-10, rtol=0)
        assert sum(gaps) > 0.01


@pytest.mark.parametrize("sizes", SIZES)
def test_the_mean_field_leaves_its_gap(x64, sizes):
    chain = random_chain(sizes, seed=4)
    x = jnp.asarray(np.random.default_rng(5).normal(size=sizes[0]))
    size = sum(sizes[1:])

    def log_joint(flat):
        latents = tuple(jnp.split(flat, np.cumsum(sizes[1:])[:-1]))
        return linear_chain.log_joint(chain, x, latents)

    origin = np.zeros(size)
    precision = -np.asarray(whole(jax.hessian(log_joint))(origin))
    mean = np.linalg.solve(precision, whole(jax.grad(log_joint))(origin))
    diagonal = np.diagonal(precision)
    gap = 0.5 * (np.sum(np.log(diagonal)) - np.linalg.slogdet(precision)[1])
    ends = np.cumsum(sizes[1:])[:-1]
    below = (sizes[0], *sizes[1:-1])
    up = tuple(
        linear_chain.Conditional(
            *map(jnp.asarray, (np.zeros((len(m), read)), m, np.diag(v**-0.5)))
        )
        for m, v, read in zip(
            np.split(mean, ends), np.split(diagonal, ends), below, strict=True
        )
    )
    found = exact_mean(functools.partial(markov_elbo, chain, up, x), size)
    exact = whole(linear_chain.log_evidence)(chain, x)
    np.testing.assert_allclose(exact - found, gap, atol=1e-10, rtol=0)


def test_one_layer_is_the_bound_of_a_vae(x64, key):
    """T = 1: the same number as form (4) of ``bounds.elbo``, draw by draw."""
    x = jnp.asarray([0.3, -1.2])
    mean, log_std = jnp.asarray([0.4, -0.1, 0.9]), jnp.asarray([-0.3, 0.2, -1.0])
    weights = normals(key, (2, 3))

    def log_likelihood(z):
        return normal.log_prob(x, jnp.tanh(weights @ z), jnp.zeros(2))

    first = hierarchical.diagonal(lambda x: (mean, log_std))
    kl = kl_standard_normal(mean, log_std)
    (key_z,) = jax.random.split(key, 1)
    z = normal.sample(key_z, mean, log_std)
    terms = hierarchical.markov_terms(
        key,
        x,
        first,
        [],
        log_likelihood=log_likelihood,
        prior_matching=lambda below, top: kl,
    )
    expected = elbo.single_latent_terms(log_likelihood(z), kl)
    chex.assert_trees_all_close(terms, expected, rtol=1e-14)
    level = hierarchical.Level(
        lambda state: state,
        lambda params, state: hierarchical.Inference(
            lambda key: normal.sample(key, mean, log_std), kl, lambda z: z
        ),
        jnp.zeros(1),
    )
    (key_level,) = jax.random.split(key, 1)
    (key_z,) = jax.random.split(key_level, 1)
    z = normal.sample(key_z, mean, log_std)
    terms = hierarchical.top_down_terms(
        key, None, [level], log_likelihood=log_likelihood
    )
    expected = elbo.single_latent_terms(log_likelihood(z), kl)
    chex.assert_trees_all_close(terms, expected, rtol=1e-14)


SLOPE = 0.6
SCHEDULE = (-4.0, 3.0)
X = 0.7


def times_of(index, num_steps):
    """gamma_t and gamma_t - gamma_s of a step."""
    schedule = schedules.linear(*map(jnp.asarray, SCHEDULE))
    t, width = grid_time(jnp.asarray(index), num_steps, jnp.zeros(()).dtype)
    return schedule.gamma(t), schedule.increment(t, width)


def decoder(z):
    return normal.log_prob(jnp.full(1, X), 1.1 * z, jnp.full(1, -1.0))


def noised(parameters, eps):
    """A normal whose draw uses this noise."""

    def sample(key, z):
        mean, log_std = parameters(z)
        return mean + jnp.exp(log_std) * eps

    return hierarchical.diagonal(parameters)._replace(sample=sample)


def markov_bound_of_noising(eps):
    num_steps = len(eps) - 1

    def step(params):
        gamma, increment = times_of(params[0], num_steps)
        return hierarchical.Step(
            noised(lambda z: gaussian.transition(z, gamma, increment), params[1]),
            hierarchical.diagonal(
                lambda z: gaussian.posterior(z, SLOPE * z, gamma, increment)
            ),
        )

    def prior_matching(below, top):
        last = gaussian.transition(below, *times_of(num_steps, num_steps))
        return kl_standard_normal(*last)

    x = jnp.full(1, X)
    return hierarchical.markov_terms(
        jax.random.key(0),
        x,
        noised(lambda x: gaussian.marginal(x, jnp.asarray(SCHEDULE[0])), eps[:1]),
        [hierarchical.Stack(step, (jnp.arange(1, num_steps + 1), eps[1:, None]))],
        log_likelihood=decoder,
        prior_matching=prior_matching,
    ).elbo


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_the_rungs_meet(x64, num_steps):
    """With noise as its encoder the Markov bound is the diffusion's of the same T.

    Both expectations are exact: the one is quadratic in the noise of the path, the
    other's terms have a closed form for a linear denoiser.
    """
    found = exact_mean(markov_bound_of_noising, num_steps + 1)
    x, (gamma_min, gamma_max) = jnp.full(1, X), map(jnp.asarray, SCHEDULE)
    expected = exact_mean(lambda eps: decoder(gaussian.diffuse(x, eps, gamma_min)), 1)
    expected -= whole(diffusion_bound.prior_matching)(x, gamma_max)
    for index in range(1, num_steps + 1):
        gamma, increment = map(float, times_of(index, num_steps))
        alpha, sigma = (1 + np.exp(gamma)) ** -0.5, (1 + np.exp(-gamma)) ** -0.5
        # z_t = alpha x + sigma eps, so x - slope z_t is normal.
        error = ((1 - SLOPE * alpha) * X) ** 2 + (SLOPE * sigma) ** 2
        # KL = 1/2 (SNR_s - SNR_t) |x - x_hat|^2 (Kingma et al. 2021, eq. 14).
        expected -= 0.5 * np.exp(-gamma) * np.expm1(increment) * error
    np.testing.assert_allclose(found, expected, rtol=1e-11)


def test_alike_layers_in_a_loop_are_the_layers_one_by_one(x64, key):
    """A stack of three steps is three stacks of one, but for which key each gets."""
    params = normals(key, (3, 2, 2))

    def step(weights):
        return hierarchical.Step(
            hierarchical.Conditional(
                lambda key, z: jnp.tanh(weights @ z) + 0.1,
                lambda y, z: normal.log_prob(y, weights @ z, jnp.zeros(2)),
            ),
            hierarchical.diagonal(lambda z: (weights.T @ z, jnp.ones(2))),
        )

    first = hierarchical.Conditional(
        lambda key, x: x, lambda z, x: jnp.sum(z) * jnp.ones(())
    )

    def bound(stacks):
        return hierarchical.markov_terms(
            key,
            jnp.asarray([0.2, -0.4]),
            first,
            stacks,
            log_likelihood=jnp.sum,
            prior_matching=lambda below, top: jnp.sum(below * top),
        )

    together = bound([hierarchical.Stack(step, params)])
    apart = bound([hierarchical.Stack(step, params[n : n + 1]) for n in range(3)])
    chex.assert_trees_all_close(together, apart, rtol=1e-13)
    assert together.denoising_matching.shape == (3,)

    def infer(weights, state):
        mean = weights @ state
        kl = kl_normal(mean, jnp.zeros(2), state, jnp.ones(2))
        return hierarchical.Inference(lambda key: mean, kl, lambda z: state + 0.3 * z)

    def descend(levels):
        return hierarchical.top_down_terms(
            key, jnp.asarray([0.2, -0.4]), levels, log_likelihood=jnp.sum
        )

    def same(state):
        return state

    together = descend([hierarchical.Level(same, infer, params)])
    apart = descend(
        [hierarchical.Level(same, infer, params[n : n + 1]) for n in range(3)]
    )
    chex.assert_trees_all_close(together, apart, rtol=1e-13)
    # The first layer is the top: its divergence is the prior matching.
    top = infer(params[0], jnp.asarray([0.2, -0.4])).divergence
    np.testing.assert_allclose(together.prior_matching, top, rtol=1e-14)
    # The others follow, the one next to the data first.
    state, every = jnp.asarray([0.2, -0.4]), []
    for weights in params:
        layer = infer(weights, state)
        every.append(layer.divergence)
        state = layer.merge(layer.sample(key))
    np.testing.assert_allclose(
        together.denoising_matching, every[:0:-1], rtol=1e-13, atol=1e-14
    )
