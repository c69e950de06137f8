"""The bound of a variational diffusion along one trajectory z_0, .., z_1 of T steps.

Over the joint q(z_0, .., z_1 | x) the bound of ``bounds.diffusion`` reads

    L_T = E log p(x | z_0) - E KL(q(z_1 | z_{1 - 1/T}) || N(0, I))
          + sum_i E log p(z_s | z_t) - log q(z_s | z_{s - 1/T}),                     (1)

the consistency form. Its summands must be log ratios under the joint: z_s given both
neighbours is not q(z_s | z_{s - 1/T}), so no divergence can stand in their place.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vgm.bounds import hierarchical
from vgm.bounds.diffusion import (
    Chain,
    Event,
    denoise,
    denoising_matching,
    log_likelihood,
    noise_error,
)
from vgm.bounds.elbo import ElboTerms
from vgm.densities import normal
from vgm.divergences import kl_standard_normal
from vgm.numerics import at_least_float32
from vgm.processes import gaussian
from vgm.processes.times import grid_time
from vgm.shapes import require_positive
from vgm.types import PRNGKey, Scalar


def consistency_terms(
    key: PRNGKey, x: Event, chain: Chain, *, num_steps: int
) -> ElboTerms:
    """The bound of T steps in its consistency form, (1), on one trajectory.

    Args:
        key: Random key, used once.
        x: Data, scaled.
        chain: Diffusion.
        num_steps: T.

    Returns:
        Terms in nats. The denoising terms are log q(z_s | before) - log p(z_s | z_t),
        s = 0 first: signed. In expectation their sum and the prior matching are a
        divergence together, and neither is by itself.
    """
    require_positive(num_steps=num_steps)
    x = at_least_float32(x)
    zero = jnp.zeros((), x.dtype)

    def step(index: Array) -> hierarchical.Step:
        t, width = grid_time(index, num_steps, x.dtype)
        gamma_t = chain.schedule.gamma(t)
        increment = chain.schedule.increment(t, width)

        def forward(z_s: Event) -> tuple[Event, Event]:
            return gaussian.transition(z_s, gamma_t, increment)

        def backward(z_t: Event) -> tuple[Event, Event]:
            x_hat = denoise(z_t, gamma_t, chain)
            return gaussian.posterior(z_t, x_hat, gamma_t, increment)

        return hierarchical.Step(
            hierarchical.diagonal(forward), hierarchical.diagonal(backward)
        )

    def prior_matching(below: Event, top: Event) -> Scalar:
        one, width = grid_time(jnp.asarray(num_steps), num_steps, x.dtype)
        increment = chain.schedule.increment(one, width)
        last = gaussian.transition(below, chain.schedule.gamma(one), increment)
        return kl_standard_normal(*last)

    start = gaussian.marginal(x, chain.schedule.gamma(zero))
    return hierarchical.markov_terms(
        key,
        x,
        hierarchical.diagonal(lambda x: start),
        [hierarchical.Stack(step, jnp.arange(1, num_steps + 1))],
        log_likelihood=lambda z_0: log_likelihood(z_0, chain),
        prior_matching=prior_matching,
    )


def log_weight(key: PRNGKey, x: Event, chain: Chain, *, num_steps: int) -> Scalar:
    """log p(x, z_0, .., z_1) / q(z_0, .., z_1 | x) of one trajectory of T steps.

    The noise is carried in place of the latents,
    eps_s = exp(-d/2) eps_t + sqrt(1 - exp(-d)) xi, and a step's ratio is
    sqrt(expm1 d) xi . (eps - eps_hat) - KL of the step: no digits are lost at either
    end.

    Args:
        key: Random key, used once.
        x: Data, scaled.
        chain: Diffusion.
        num_steps: T.

    Returns:
        The log weight in nats: E[exp(log_weight)] = p(x).
    """
    require_positive(num_steps=num_steps)
    x = at_least_float32(x)
    key_top, key_steps = jax.random.split(key)
    gamma_1 = chain.schedule.gamma(jnp.ones((), x.dtype))
    # What is carried keeps one precision, also where gamma or the network has more.
    x = x.astype(jnp.result_type(x, gamma_1))
    eps_1 = jax.random.normal(key_top, x.shape, x.dtype)
    z_1, log_q = normal.reparameterize(eps_1, *gaussian.marginal(x, gamma_1))
    start = normal.standard_log_prob(z_1) - log_q

    def step(
        carry: tuple[Event, Scalar], inputs: tuple[PRNGKey, Array]
    ) -> tuple[tuple[Event, Scalar], None]:
        eps, log_w = carry
        key, index = inputs
        t, width = grid_time(index, num_steps, x.dtype)
        increment = chain.schedule.increment(t, width)
        error = noise_error(x, eps, chain.schedule.gamma(t), chain).astype(x.dtype)
        xi = jax.random.normal(key, x.shape, x.dtype)
        log_w += jnp.sqrt(jnp.expm1(increment)) * jnp.sum(xi * error)
        log_w -= denoising_matching(error, increment)
        kept = jnp.exp(-0.5 * increment)
        return (kept * eps + jnp.sqrt(-jnp.expm1(-increment)) * xi, log_w), None

    keys = jax.random.split(key_steps, num_steps)
    steps = jnp.arange(num_steps, 0, -1)
    (eps_0, log_w), _ = jax.lax.scan(step, (eps_1, start), (keys, steps))
    gamma_0 = chain.schedule.gamma(jnp.zeros((), x.dtype))
    return log_w + log_likelihood(gaussian.diffuse(x, eps_0, gamma_0), chain)
