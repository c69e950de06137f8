"""Measure every identity of the mathematics, in both precisions, and write the page.

    python scripts/identities.py [--output FILE]

Writes docs/identities.md unless told otherwise. ``tests/test_identities.py`` holds the
same list to its tolerance.
"""

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vgm import bijections, cli, divergences
from vgm.bijections import Bijection, coupling, elementwise, linear, transforms
from vgm.bounds import (
    annealed,
    diffusion,
    elbo,
    flow,
    gradients,
    importance,
    sandwich,
    trajectories,
)
from vgm.densities import (
    bernoulli,
    categorical,
    discretized_logistic,
    discretized_normal,
    mixture,
    multivariate_normal,
    normal,
)
from vgm.inference import em, gaussian_mixture, probabilistic_pca
from vgm.oracles import (
    beta_bernoulli,
    enumeration,
    linear_chain,
    linear_gaussian,
    quadrature,
)
from vgm.processes import gaussian, interiors, schedules
from vgm.samplers import diffusion as samplers

EXACT = 1e-10
"""Greatest error of an exact identity in double precision, in nats."""


class Identity(NamedTuple):
    """One identity: its two sides.

    Attributes:
        section: Where it belongs.
        statement: What is equal to what.
        sides: Nothing to the two sides, arrays of one shape, in the precision that is
            on.
    """

    section: str
    statement: str
    sides: Callable[[], tuple[Any, Any]]


IDENTITIES: list[Identity] = []


def identity(section: str, statement: str) -> Callable[..., Any]:
    """Enter a function that returns both sides."""

    def enter(sides: Callable[[], tuple[Any, Any]]) -> Callable[[], tuple[Any, Any]]:
        IDENTITIES.append(Identity(section, statement, sides))
        return sides

    return enter


def linear_case() -> tuple[
    linear_gaussian.LinearGaussian, jax.Array, linear_gaussian.Normal
]:
    """A linear-Gaussian model, an observation, and a q that is not the posterior."""
    keys = jax.random.split(jax.random.key(0), 5)
    model = linear_gaussian.LinearGaussian(
        jax.random.normal(keys[0], (5, 3)),
        jax.random.normal(keys[1], (5,)),
        jnp.asarray(-0.4),
    )
    factor = jnp.eye(3) + jnp.tril(0.3 * jax.random.normal(keys[3], (3, 3)))
    q = linear_gaussian.Normal(jax.random.normal(keys[4], (3,)), factor)
    return model, jax.random.normal(keys[2], (5,)), q


def log_weight(model: Any, x: Any, q: Any, key: Any) -> Any:
    z = multivariate_normal.sample(key, *q)
    return linear_gaussian.log_joint(model, x, z) - multivariate_normal.log_prob(z, *q)


@identity("Evidence and its bound", "log p(x) - L(q) = KL(q ‖ p(z given x))")
def gap() -> tuple[Any, Any]:
    model, x, q = linear_case()
    posterior = linear_gaussian.posterior(model, x)
    left = linear_gaussian.log_evidence(model, x) - linear_gaussian.elbo(model, x, q)
    return left, divergences.kl_multivariate_normal(*q, *posterior)


@identity("Evidence and its bound", "L(posterior) = log p(x)")
def tight() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    posterior = linear_gaussian.posterior(model, x)
    left = linear_gaussian.elbo(model, x, posterior)
    return left, linear_gaussian.log_evidence(model, x)


@identity("Evidence and its bound", "chain rule: p(x, z) = p(z given x) p(x)")
def chain_rule() -> tuple[Any, Any]:
    model, x, q = linear_case()
    z = q.mean
    posterior = linear_gaussian.posterior(model, x)
    right = multivariate_normal.log_prob(z, *posterior)
    joint = linear_gaussian.log_joint(model, x, z)
    return joint, right + linear_gaussian.log_evidence(model, x)


@identity(
    "Evidence and its bound",
    "E log p(x, z) + H[q] = E log p(x given z) - KL(q ‖ p(z)) = log p(x) - gap",
)
def forms() -> tuple[Any, Any]:
    model, x, q = linear_case()
    origin, eye = jnp.zeros(3), jnp.eye(3)
    spread = 0.5 * jnp.sum((model.weights @ q.cholesky) ** 2)
    reconstruction = linear_gaussian.log_likelihood(model, x, q.mean)
    reconstruction -= spread * jnp.exp(-2.0 * model.log_std)
    log_prior = normal.log_prob(q.mean, origin, origin) - 0.5 * jnp.sum(q.cholesky**2)
    kl = divergences.kl_multivariate_normal(*q, origin, eye)
    by_entropy = reconstruction + log_prior + multivariate_normal.entropy(q.cholesky)
    kl_gap = divergences.kl_multivariate_normal(
        *q, *linear_gaussian.posterior(model, x)
    )
    by_gap = elbo.from_gap(linear_gaussian.log_evidence(model, x), kl_gap)
    by_kl = reconstruction - kl
    return jnp.stack([by_entropy, by_gap]), jnp.stack([by_kl, by_kl])


@identity("Evidence and its bound", "IWAE_K = log p(x) for every K at the posterior")
def iwae_at_posterior() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    posterior = linear_gaussian.posterior(model, x)
    keys = jax.random.split(jax.random.key(1), 64)
    log_w = jax.vmap(functools.partial(log_weight, model, x, posterior))(keys)
    bounds = jnp.stack([importance.iwae(log_w[:size]) for size in (1, 2, 7, 64)])
    return bounds, jnp.broadcast_to(linear_gaussian.log_evidence(model, x), 4)


@identity("Evidence and its bound", "IWAE_1 = one draw of the ELBO")
def iwae_of_one() -> tuple[Any, Any]:
    model, x, q = linear_case()
    log_w = log_weight(model, x, q, jax.random.key(2))
    return importance.iwae(log_w[None]), log_w


@identity("Evidence and its bound", "Renyi at alpha = 0 is IWAE, at alpha = 1 the mean")
def renyi_ends() -> tuple[Any, Any]:
    log_w = 2.0 * jax.random.normal(jax.random.key(3), (64,)) - 5.0
    ends = [importance.renyi(log_w, jnp.asarray(alpha)) for alpha in (0.0, 1.0)]
    return jnp.stack(ends), jnp.stack([importance.iwae(log_w), jnp.mean(log_w)])


@identity("Evidence and its bound", "streamed K weights = all K weights at once")
def streaming() -> tuple[Any, Any]:
    model, x, q = linear_case()
    draw = functools.partial(log_weight, model, x, q)
    sums = importance.stream(jax.random.key(4), draw, num_samples=100, chunk_size=7)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(4)))
    log_w = jax.vmap(draw)(keys(jnp.arange(100)))
    return importance.log_evidence(sums), importance.iwae(log_w)


@identity("Evidence and its bound", "one temperature of annealing = plain weight")
def one_temperature() -> tuple[Any, Any]:
    model, x, q = linear_case()
    path = annealed.Path(
        lambda z: multivariate_normal.log_prob(z, *q),
        lambda z: linear_gaussian.log_joint(model, x, z),
        jnp.ones(1),
        jnp.full(1, 0.1),
        1,
    )
    key = jax.random.key(5)
    draw = functools.partial(multivariate_normal.sample, mean=q.mean, cholesky=q[1])
    left, _ = annealed.forward(key, path, draw)
    return left, log_weight(model, x, q, jax.random.split(key)[0])


@identity("Evidence and its bound", "two-sided interval of exact weights = log p(x)")
def exact_interval() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    posterior = linear_gaussian.posterior(model, x)
    keys = jax.random.split(jax.random.key(6), 8)
    log_w = jax.vmap(functools.partial(log_weight, model, x, posterior))(keys)
    found = sandwich.interval(log_w, log_w)
    exact = linear_gaussian.log_evidence(model, x)
    return jnp.stack([found.lower, found.upper]), jnp.stack([exact, exact])


@identity(
    "Evidence and its bound", "sticking the landing: no gradient at the posterior"
)
def landing() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    system = gradients.System(
        lambda key, q: multivariate_normal.sample(key, *q),
        lambda q, z: linear_gaussian.log_joint(model, x, z),
        lambda q, z: multivariate_normal.log_prob(z, *q),
    )
    posterior = linear_gaussian.posterior(model, x)
    gradient = jax.grad(
        lambda q: gradients.elbo_sticking_the_landing(
            jax.random.key(7), q, system, num_samples=4
        )
    )(posterior)
    gradient = jnp.concatenate([gradient.mean, jnp.tril(gradient.cholesky).ravel()])
    return gradient, jnp.zeros_like(gradient)


@identity("Normals", "KL(q ‖ q) = 0, diagonal and full")
def kl_of_itself() -> tuple[Any, Any]:
    _, _, q = linear_case()
    full = divergences.kl_multivariate_normal(*q, *q)
    diagonal = divergences.kl_normal(q.mean, q.mean, q.mean, q.mean)
    return jnp.stack([full, diagonal]), jnp.zeros(2)


@identity("Normals", "full ‖ full of diagonal factors = diagonal ‖ diagonal")
def kl_diagonal() -> tuple[Any, Any]:
    m, r, n, s = jax.random.normal(jax.random.key(8), (4, 6))
    full = divergences.kl_multivariate_normal(
        m, jnp.diag(jnp.exp(r)), n, jnp.diag(jnp.exp(s))
    )
    return full, divergences.kl_normal(m, r, n, s)


@identity(
    "Normals", "KL to N(0, I) = 1/2 sum(mean^2 + s^2 - 1 - 2 log s), a sum over i"
)
def kl_factorises() -> tuple[Any, Any]:
    mean, log_std = jax.random.normal(jax.random.key(9), (2, 6))
    each = jax.vmap(divergences.kl_standard_normal)(mean[:, None], log_std[:, None])
    written = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 1 - 2 * log_std)
    whole = divergences.kl_standard_normal(mean, log_std)
    return jnp.stack([whole, whole]), jnp.stack([jnp.sum(each), written])


@identity("Normals", "full density with a diagonal factor = diagonal density")
def density_diagonal() -> tuple[Any, Any]:
    x, mean, log_std = jax.random.normal(jax.random.key(10), (3, 6))
    factor = jnp.diag(jnp.exp(log_std))
    full = multivariate_normal.log_prob(x, mean, factor)
    return full, normal.log_prob(x, mean, log_std)


@identity("Normals", "entropy = cross entropy with itself: H[q] = -E log q")
def entropies() -> tuple[Any, Any]:
    log_std = jax.random.normal(jax.random.key(11), (6,))
    # E ((x - mean) / std)^2 = 1: one standard deviation away on every coordinate.
    origin = jnp.zeros(6)
    expected = -normal.log_prob(jnp.exp(log_std), origin, log_std)
    return normal.entropy(log_std), expected


@identity("Linear-Gaussian model", "evidence N(m, WW' + s^2 I) = quadrature over z")
def linear_quadrature() -> tuple[Any, Any]:
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.5, 0.3], [-0.7, 0.8]]),
        jnp.asarray([0.2, 0.1]),
        jnp.asarray(-0.6),
    )
    x = jnp.asarray([0.9, -1.1])
    grid = quadrature.grid(2, half_width=9.0, num_points=181)
    joint = functools.partial(linear_gaussian.log_joint, model, x)
    return quadrature.log_evidence(joint, grid), linear_gaussian.log_evidence(model, x)


@identity(
    "Linear-Gaussian model", "best diagonal q: gap 1/2 (sum log P_ii - log det P)"
)
def mean_field_gap() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    q = linear_gaussian.mean_field_posterior(model, x)
    left = linear_gaussian.log_evidence(model, x) - linear_gaussian.elbo(model, x, q)
    precision = linear_gaussian.posterior_precision(model)
    diagonal = jnp.sum(jnp.log(jnp.diagonal(precision)))
    return left, 0.5 * (diagonal - jnp.linalg.slogdet(precision)[1])


def pca_data() -> Any:
    model, _, _ = linear_case()
    z, noise = jax.random.split(jax.random.key(12))
    x = jax.random.normal(z, (300, 3)) @ model.weights.T
    return probabilistic_pca.moments(x + 0.5 * jax.random.normal(noise, (300, 5)))


@identity("PPCA", "maximum: -1/2 (D log 2 pi + sum log l + (D - d) log s^2 + D)")
def pca_maximum() -> tuple[Any, Any]:
    data = pca_data()
    model = probabilistic_pca.maximum_likelihood(data, latent_dim=3)
    values = jnp.linalg.eigvalsh(data.scatter)
    logs = jnp.sum(jnp.log(values[-3:])) + 2.0 * jnp.log(jnp.mean(values[:-3]))
    right = -0.5 * (5 * jnp.log(2 * jnp.pi) + logs + 5)
    return probabilistic_pca.mean_log_evidence(model, data), right


@identity("PPCA", "EM ends at the maximum")
def pca_em() -> tuple[Any, Any]:
    data = pca_data()
    best = probabilistic_pca.maximum_likelihood(data, latent_dim=3)
    start = best._replace(weights=best.weights + 0.1, log_std=best.log_std + 0.1)
    fit = em.fit(
        functools.partial(probabilistic_pca.e_step, data=data),
        probabilistic_pca.m_step,
        start,
        tolerance=0.0,
        max_steps=2000,
    )
    found = probabilistic_pca.mean_log_evidence(fit.params, data)
    return found, probabilistic_pca.mean_log_evidence(best, data)


def renyi_normal(alpha: float) -> tuple[Any, Any]:
    """The bound by quadrature and in closed form, less the evidence."""
    # The posterior of what says nothing of z is the prior, N(0, 1).
    model = linear_gaussian.LinearGaussian(
        jnp.zeros((1, 1)), jnp.zeros(1), jnp.zeros(())
    )
    q = linear_gaussian.Normal(jnp.asarray([0.4]), jnp.exp(jnp.asarray([[-0.2]])))
    grid = quadrature.grid(1, half_width=12.0, num_points=2001)

    def power(z: Any) -> Any:
        log_q = multivariate_normal.log_prob(z, *q)
        return alpha * log_q + (1 - alpha) * normal.standard_log_prob(z)

    left = quadrature.log_evidence(power, grid) / (1 - alpha)
    x = jnp.zeros(1)
    right = linear_gaussian.renyi(model, x, q, jnp.asarray(alpha))
    return left, right - linear_gaussian.log_evidence(model, x)


@identity("Renyi bound", "log E w^(1-a) of normals = the Gaussian integral")
def renyi_integral() -> tuple[Any, Any]:
    sides = [renyi_normal(alpha) for alpha in (-0.5, 0.0, 0.5, 2.0)]
    left, right = zip(*sides, strict=True)
    return jnp.stack(left), jnp.stack(right)


def chain_case() -> tuple[Any, Any]:
    def conditional(key: Any, output: int, size: int) -> Any:
        a, b, c = jax.random.split(key, 3)
        factor = jnp.eye(output) + jnp.tril(
            0.3 * jax.random.normal(c, (output, output))
        )
        weights = jax.random.normal(a, (output, size))
        return linear_chain.Conditional(
            weights, jax.random.normal(b, (output,)), factor
        )

    keys = jax.random.split(jax.random.key(13), 4)
    sizes = ((5, 3), (3, 2), (2, 2))
    chain = tuple(conditional(k, *s) for k, s in zip(keys, sizes, strict=False))
    return chain, jax.random.normal(keys[3], (5,))


@identity("Linear chain", "exact bottom-up posterior: log w = log p(x), every draw")
def bottom_up() -> tuple[Any, Any]:
    chain, x = chain_case()
    posterior = linear_chain.bottom_up_posterior(chain)
    z, log_q = linear_chain.sample_bottom_up(jax.random.key(14), posterior, x)
    return linear_chain.log_joint(chain, x, z) - log_q, linear_chain.log_evidence(
        chain, x
    )


@identity("Linear chain", "exact top-down posterior: log w = log p(x), every draw")
def top_down() -> tuple[Any, Any]:
    chain, x = chain_case()
    posterior = linear_chain.top_down_posterior(chain, x)
    z, log_q = linear_chain.sample_top_down(jax.random.key(15), posterior)
    return linear_chain.log_joint(chain, x, z) - log_q, linear_chain.log_evidence(
        chain, x
    )


@identity("Linear chain", "one layer = the linear-Gaussian model")
def one_layer() -> tuple[Any, Any]:
    model, x, _ = linear_case()
    noise = jnp.exp(model.log_std) * jnp.eye(5)
    chain = (linear_chain.Conditional(model.weights, model.bias, noise),)
    return linear_chain.log_evidence(chain, x), linear_gaussian.log_evidence(model, x)


@identity("Coin tosses", "Beta-Bernoulli evidence = quadrature over the logit")
def coin() -> tuple[Any, Any]:
    prior = beta_bernoulli.Beta(jnp.asarray(2.0), jnp.asarray(3.0))
    x = jnp.asarray([1.0, 0.0, 1.0, 1.0])
    grid = quadrature.grid(1, half_width=40.0, num_points=801)
    left = quadrature.log_evidence(
        lambda logit: beta_bernoulli.log_joint(prior, x, logit[0]), grid
    )
    return left, beta_bernoulli.log_evidence(prior, x)


@identity("EM", "mixture of normals: bound after the E-step = evidence")
def mixture_em() -> tuple[Any, Any]:
    x = jax.random.normal(jax.random.key(16), (200, 2))
    start = gaussian_mixture.init(jax.random.key(17), x, num_components=3)
    _, bound = gaussian_mixture.e_step(start, x)

    def by_responsibilities(x: Any) -> Any:
        by_component = gaussian_mixture.component_log_prob(start, x)
        log_joint = by_component + jax.nn.log_softmax(start.logits)
        r = mixture.responsibilities(by_component, start.logits)
        return enumeration.elbo(log_joint, jnp.log(r))

    return bound, jnp.mean(jax.vmap(by_responsibilities)(x))


@identity("EM", "variational EM: bound = mean ELBO of the best diagonal q")
def variational_em() -> tuple[Any, Any]:
    model, _, _ = linear_case()
    x = jax.random.normal(jax.random.key(18), (50, 5)) + model.bias[None]
    data = probabilistic_pca.moments(x)
    model = model._replace(bias=data.mean)
    _, bound = probabilistic_pca.mean_field_e_step(model, data)
    each = jax.vmap(
        lambda x: linear_gaussian.elbo(
            model, x, linear_gaussian.mean_field_posterior(model, x)
        )
    )(x)
    return bound, jnp.mean(each)


@identity("Quadrature", "nonlinear decoder: two grids give one evidence")
def nonlinear() -> tuple[Any, Any]:
    x = jnp.asarray([0.8, -0.4])

    def log_joint(z: Any) -> Any:
        mean = jnp.stack([jnp.sin(2 * z[0]), jnp.tanh(z[0] * z[1])])
        log_likelihood = normal.log_prob(x, mean, jnp.full(2, -0.7))
        return log_likelihood + normal.log_prob(z, jnp.zeros(2), jnp.zeros(2))

    grids = [
        quadrature.grid(2, half_width=w, num_points=n)
        for w, n in ((9.0, 201), (8.5, 241))
    ]
    first, second = (quadrature.log_evidence(log_joint, grid) for grid in grids)
    return first, second


@identity("Finite latents", "posterior as q: ELBO = IWAE_2 = log p(x)")
def finite() -> tuple[Any, Any]:
    log_joint = jax.random.normal(jax.random.key(19), (5,)) - 3.0
    posterior = jnp.log(enumeration.posterior(log_joint))
    exact = enumeration.log_evidence(log_joint)
    left = enumeration.elbo(log_joint, posterior)
    two = enumeration.iwae(log_joint, posterior, num_samples=2)
    return jnp.stack([left, two]), jnp.stack([exact, exact])


@identity("Masses", "discretised logistic and normal masses sum to 1")
def masses() -> tuple[Any, Any]:
    levels = jnp.arange(256, dtype=jnp.int32)
    sums = [
        jnp.sum(
            jnp.exp(
                jax.vmap(
                    lambda x, d=density, s=scale: d.log_prob(
                        x, jnp.asarray(0.1), jnp.asarray(s), levels=256
                    )
                )(levels)
            )
        )
        for density in (discretized_logistic, discretized_normal)
        for scale in (-6.0, -2.0, 1.0)
    ]
    return jnp.stack(sums), jnp.ones(6)


@identity("Masses", "Bernoulli and categorical masses and entropies agree")
def two_levels() -> tuple[Any, Any]:
    logits = 3.0 * jax.random.normal(jax.random.key(20), (6,))
    x = jnp.asarray([0, 1, 1, 0, 1, 0], jnp.int32)
    pair = jnp.stack([jnp.zeros(6), logits], axis=-1)
    left = [
        bernoulli.log_prob(x.astype(logits.dtype), logits),
        bernoulli.entropy(logits),
    ]
    return jnp.stack(left), jnp.stack(
        [categorical.log_prob(x, pair), categorical.entropy(pair)]
    )


def diffusion_case() -> tuple[diffusion.Chain, jax.Array]:
    """A chain over gamma from -13.3 to 5 with the best denoiser of N(0, 1/4 I)."""
    schedule = schedules.linear(-13.3, 5.0)
    x = jax.random.normal(jax.random.key(30), (4,)) / 2.0

    def predict(z: Any, gamma: Any) -> Any:
        alpha, sigma = gaussian.alpha_sigma(gamma)
        return alpha * sigma * 0.75 * z / (0.25 * alpha**2 + sigma**2)

    def decode(z_0: Any) -> Any:
        alpha_0, _ = gaussian.alpha_sigma(jnp.asarray(-13.3))
        return normal.log_prob(x, z_0 / alpha_0, jnp.full_like(z_0, -6.65))

    kind = gaussian.PARAMETERISATIONS["v"]
    return diffusion.Chain(schedule, predict, kind, decode), x


DIFFUSION = "Diffusion"


@identity(DIFFUSION, "KL of the two posteriors = 1/2 expm1(d) ‖eps - eps_hat‖^2")
def step_divergence() -> tuple[Any, Any]:
    chain, x = diffusion_case()
    eps = jax.random.normal(jax.random.key(31), x.shape)
    gamma, increment = jnp.asarray(-1.3), jnp.asarray(0.7)
    z = gaussian.diffuse(x, eps, gamma)
    x_hat = chain.parameterisation.to_x(z, chain.predict(z, gamma), gamma)
    error = diffusion.noise_error(x, eps, gamma, chain)
    return diffusion.denoising_matching(error, increment), divergences.kl_normal(
        *gaussian.posterior(z, x, gamma, increment),
        *gaussian.posterior(z, x_hat, gamma, increment),
    )


@identity(DIFFUSION, "q(z_t given z_s) after q(z_s given x) is q(z_t given x)")
def two_steps() -> tuple[Any, Any]:
    _, x = diffusion_case()
    gamma, increment = jnp.asarray(2.0), jnp.asarray(9.0)
    mean_s, log_std_s = gaussian.marginal(x, gamma - increment)
    mean, log_std = gaussian.transition(mean_s, gamma, increment)
    ratio, _ = gaussian.transition(jnp.ones_like(x), gamma, increment)
    variance = ratio**2 * jnp.exp(2.0 * log_std_s) + jnp.exp(2.0 * log_std)
    whole = gaussian.marginal(x, gamma)
    return jnp.stack([mean, variance]), jnp.stack([whole[0], jnp.exp(2 * whole[1])])


@identity(DIFFUSION, "L_T = 1/2 sum expm1(d) s^2 / (s^2 + exp(gamma_t)), T = 1000")
def discrete_bound() -> tuple[Any, Any]:
    chain, _ = diffusion_case()
    t, width = jnp.arange(1, 1001) / 1000.0, jnp.asarray(1e-3)
    # x and eps at plus and minus one standard deviation: exact for squares.
    x, eps = jnp.asarray([0.5, 0.5]), jnp.asarray([1.0, -1.0])

    def step(t: Any) -> Any:
        gamma = chain.schedule.gamma(t)
        increment = chain.schedule.increment(t, width)
        error = diffusion.noise_error(x, eps, gamma, chain)
        mean = 0.5 * diffusion.denoising_matching(error, increment)
        return mean, 0.5 * jnp.expm1(increment) * 0.25 / (0.25 + jnp.exp(gamma))

    left, right = jax.vmap(step)(t)
    return jnp.sum(left), jnp.sum(right)


@identity(DIFFUSION, "increments of every schedule sum to gamma(1) - gamma(0), T = 500")
def spans() -> tuple[Any, Any]:
    ends = (-13.3, 5.0)
    coefficients = jnp.asarray([0.5, -0.4, 1.0])
    monotone = interiors.monotone(interiors.monotone_init(16))
    every = [
        schedules.linear(*ends),
        schedules.cosine(*ends),
        schedules.ddpm_linear(),
        schedules.interpolate(*ends, interiors.polynomial(coefficients)),
        schedules.interpolate(*ends, monotone),
    ]
    t, width, one = jnp.arange(1, 501) / 500.0, jnp.asarray(1 / 500.0), jnp.ones(())
    left = [jnp.sum(jax.vmap(s.increment, (0, None))(t, width)) for s in every]
    right = [s.gamma(one) - s.gamma(0.0 * one) for s in every]
    return jnp.stack(left), jnp.stack(right)


@identity(DIFFUSION, "log weight of a trajectory = its densities written out")
def trajectory() -> tuple[Any, Any]:
    chain, x = diffusion_case()
    key, num_steps = jax.random.key(32), 8
    left = trajectories.log_weight(key, x, chain, num_steps=num_steps)
    key_top, key_steps = jax.random.split(key)
    q = gaussian.marginal(x, jnp.asarray(5.0))
    z = q[0] + jnp.exp(q[1]) * jax.random.normal(key_top, x.shape)
    origin = jnp.zeros_like(x)
    right = normal.log_prob(z, origin, origin) - normal.log_prob(z, *q)
    keys = jax.random.split(key_steps, num_steps)
    for index, key_step in zip(range(num_steps, 0, -1), keys, strict=True):
        gamma = chain.schedule.gamma(jnp.asarray(index / num_steps))
        increment = jnp.asarray(18.3 / num_steps)
        q = gaussian.posterior(z, x, gamma, increment)
        x_hat = chain.parameterisation.to_x(z, chain.predict(z, gamma), gamma)
        p = gaussian.posterior(z, x_hat, gamma, increment)
        z = q[0] + jnp.exp(q[1]) * jax.random.normal(key_step, x.shape)
        right += normal.log_prob(z, *p) - normal.log_prob(z, *q)
    return left, right + chain.log_likelihood(z)


@identity(DIFFUSION, "DDIM with all of its noise is ancestral sampling")
def ddim() -> tuple[Any, Any]:
    _, x = diffusion_case()
    z = jax.random.normal(jax.random.key(33), x.shape)
    arguments = jax.random.key(34), z, x, jnp.asarray(1.0), jnp.asarray(3.0)
    return samplers.ddim_step(1.0)(*arguments), samplers.ancestral_step(*arguments)


FLOWS = "Flows"


def flow_case() -> tuple[Bijection, Any]:
    """Two spline couplings of four numbers with a matrix between, and a point."""
    key = jax.random.key(40)
    kernel, lower, upper, x = jax.random.normal(key, (4, 4, 4))
    spline = transforms.rational_quadratic(num_bins=3, tail_bound=3.0)

    def conditioner(kept: Any) -> Any:
        outputs = jnp.tanh(kept @ kernel[:2])
        return jnp.outer(outputs[:2], jnp.linspace(-1.0, 1.0, spline.num_params))

    part = coupling.coupling(conditioner, spline, split=2)
    matrix = linear.lu(linear.LU(0.3 * lower, 0.3 * upper, 0.2 * kernel[0]))
    return bijections.compose(part, matrix, linear.reverse(), part), x[0]


def standard(z: Any) -> Any:
    """Log N(z; 0, I)."""
    return normal.log_prob(z, jnp.zeros_like(z), jnp.zeros_like(z))


@identity(FLOWS, "flow - ELBO of a VAE with noise t around it = D t^2 / 2, t = 0.3")
def gaussian_vae() -> tuple[Any, Any]:
    _, x = flow_case()
    mean, log_std, t = jnp.asarray(0.7), jnp.asarray(-0.4), jnp.asarray(0.3)
    affine = elementwise.affine(jnp.full(4, mean), jnp.full(4, log_std))
    encoded, _ = affine.forward(x)
    # x - s z - m = -s t eps, whose square has a known mean.
    reconstruction = -2.0 * (jnp.log(2 * jnp.pi) + 2 * (log_std + jnp.log(t)) + 1.0)
    kl = divergences.kl_standard_normal(encoded, jnp.full(4, jnp.log(t)))
    exact = flow.change_of_variables(x, affine, standard).elbo
    return exact - (reconstruction - kl), 2.0 * t**2


@identity(FLOWS, "linear flow = normal with covariance (A' A)^-1")
def linear_flow() -> tuple[Any, Any]:
    _, x = flow_case()
    lower, upper = jax.random.normal(jax.random.key(41), (2, 4, 4))
    matrix = linear.lu(linear.LU(0.3 * lower, 0.3 * upper, 0.1 * x))
    whole = jax.jacobian(lambda x: matrix.forward(x)[0])(x)
    covariance = jnp.linalg.inv(whole.T @ whole)
    left = flow.change_of_variables(x, matrix, standard).elbo
    factor = jnp.linalg.cholesky(covariance)
    return left, multivariate_normal.log_prob(x, jnp.zeros(4), factor)


@identity(FLOWS, "log determinant of couplings and matrices = that of the Jacobian")
def determinant() -> tuple[Any, Any]:
    bijection, x = flow_case()
    jacobian = jax.jacobian(lambda x: bijection.forward(x)[0])(x)
    return bijection.forward(x)[1], jnp.linalg.slogdet(jacobian)[1]


@identity(FLOWS, "x = inverse(forward(x)), and their log determinants are opposite")
def round_trip() -> tuple[Any, Any]:
    bijection, x = flow_case()
    z, log_det = bijection.forward(x)
    back, log_det_back = bijection.inverse(z)
    return jnp.append(back, log_det_back), jnp.append(x, -log_det)


@identity(FLOWS, "dequantised logit = logit((x + u) / levels)")
def dequantised() -> tuple[Any, Any]:
    x, w = jnp.arange(5), jnp.linspace(-3.0, 3.0, 5)
    left, log_det = flow.dequantize(x, w, levels=5)
    y = (x + jax.nn.sigmoid(w)) / 5
    slope = jax.nn.sigmoid(w) * jax.nn.sigmoid(-w) / (5 * y * (1 - y))
    right = jnp.append(jnp.log(y / (1 - y)), jnp.sum(jnp.log(slope)))
    return jnp.append(left, log_det), right


def error(entry: Identity, *, x64: bool) -> float:
    """Greatest difference of the two sides, relative to 1 + their size."""
    with jax.enable_x64(x64):
        left, right = (np.asarray(s, np.float64) for s in jax.jit(entry.sides)())
    return float(np.max(np.abs(left - right) / (1.0 + np.abs(right))))


def page() -> Iterator[str]:
    """The lines of the page."""
    yield "# Identities, measured"
    yield ""
    yield (
        "Written by `scripts/identities.py`: the greatest difference between the two "
        "sides, relative to 1 + their size, in float64 and in float32, on a CPU. "
        f"`tests/test_identities.py` holds the float64 column to {EXACT:g}."
    )
    section = None
    for entry in IDENTITIES:
        if entry.section != section:
            section = entry.section
            yield from ("", f"## {section}", "")
            yield from ("| identity | float64 | float32 |", "|---|---|---|")
        double, single = error(entry, x64=True), error(entry, x64=False)
        yield f"| {entry.statement} | {double:.0e} | {single:.0e} |"


@dataclass(frozen=True)
class Arguments:
    """Measure every identity of the mathematics, in both precisions."""

    output: Path = Path(__file__).parents[1] / "docs" / "identities.md"
    """Page to write, over the one that is there."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: write(arguments))


def write(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="identities.py")
    args.output.write_text("\n".join(page()) + "\n")
    print(args.output)


if __name__ == "__main__":
    sys.exit(main())
