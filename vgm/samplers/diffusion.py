"""Samples of one example from a diffusion, T steps as one scan.

Ancestral sampling draws z_s ~ p(z_s | z_t) = q(z_s | z_t, x_hat). DDIM (Song et al.
2021a) keeps the marginals and takes away noise,

    z_s = alpha_s x_hat + sqrt(sigma_s^2 - c^2) eps_hat + c xi,
    c^2 = eta^2 sigma_s^2 (1 - exp(-d)),   d = gamma_t - gamma_s,                    (1)

ancestral at eta = 1 and without noise at eta = 0. Both start at z_1 ~ N(0, I) and end
at z_0, from which the decoder draws x.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds.diffusion import Chain, denoise
from vgm.densities import normal
from vgm.numerics import at_least_float32
from vgm.processes import gaussian
from vgm.processes.times import grid_time
from vgm.shapes import require, require_positive
from vgm.types import Event, PRNGKey, Scalar

Step = Callable[[PRNGKey, Event, Event, Scalar, Scalar], Event]
"""(key, z_t, x_hat, gamma_t, gamma_t - gamma_s) to z_s."""


def ancestral_step(
    key: PRNGKey, z_t: Event, x_hat: Event, gamma_t: Scalar, increment: Scalar
) -> Event:
    """Draw z_s ~ p(z_s | z_t) (Ho et al. 2020, algorithm 2).

    Args:
        key: Random key, used once.
        z_t: Latents at the later time.
        x_hat: Predicted x.
        gamma_t: gamma at the later time.
        increment: gamma_t - gamma_s.

    Returns:
        Latents at the earlier time.
    """
    return normal.sample(key, *gaussian.posterior(z_t, x_hat, gamma_t, increment))


def ddim_step(eta: float) -> Step:
    """The step of DDIM, (1) (Song et al. 2021a, eq. 12).

    Args:
        eta: Share of the ancestral noise: 0 for none, 1 for all of it.

    Returns:
        The step.

    Raises:
        ValueError: If eta is not from 0 to 1.
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"eta must be from 0 to 1; got {eta}")

    def step(
        key: PRNGKey, z_t: Event, x_hat: Event, gamma_t: Scalar, increment: Scalar
    ) -> Event:
        require("ddim_step: increment", increment, ())
        alpha_s, sigma_s = gaussian.alpha_sigma(gamma_t - increment)
        eps_hat = gaussian.convert(x_hat, z_t, gamma_t, source="x", target="eps")
        share = -jnp.expm1(-increment)
        noise = eta * jnp.sqrt(share) * jax.random.normal(key, z_t.shape, z_t.dtype)
        # sigma_s^2 - c^2, without subtracting near 1.
        kept = jnp.sqrt(jnp.exp(-increment) + (1.0 - eta**2) * share)
        return alpha_s * x_hat + sigma_s * (kept * eps_hat + noise)

    return step


def sample(
    key: PRNGKey, z_1: Event, chain: Chain, *, num_steps: int, step: Step
) -> Event:
    """Carry z_1 down to z_0.

    Args:
        key: Random key, used once.
        z_1: Starting noise.
        chain: Diffusion; its decoder is not used.
        num_steps: T.
        step: ``ancestral_step``, or what ``ddim_step`` gives.

    Returns:
        z_0.
    """
    return _run(key, z_1, chain, num_steps, step, lambda z, x_hat: None)[0]


def trajectory(
    key: PRNGKey, z_1: Event, chain: Chain, *, num_steps: int, step: Step
) -> tuple[Float[Array, " steps *event"], Float[Array, " steps *event"]]:
    """Every latent on the way from z_1 to z_0, and what x looked like from there.

    Args:
        key: Random key, used once; the path is the one of ``sample``.
        z_1: Starting noise.
        chain: Diffusion; its decoder is not used.
        num_steps: T.
        step: As in ``sample``.

    Returns:
        z_s after each step, z_0 last, and the x_hat that each step was taken with.
    """
    return _run(key, z_1, chain, num_steps, step, lambda z, x_hat: (z, x_hat))[1]


def _run(
    key: PRNGKey,
    z_1: Event,
    chain: Chain,
    num_steps: int,
    step: Step,
    keep: Callable[[Event, Event], Any],
) -> tuple[Event, Any]:
    require_positive(num_steps=num_steps)
    z_1 = at_least_float32(z_1)  # and so gamma, which needs its digits

    def body(z_t: Event, inputs: tuple[PRNGKey, Array]) -> tuple[Event, Any]:
        key, index = inputs
        t, width = grid_time(index, num_steps, z_t.dtype)
        gamma_t = chain.schedule.gamma(t)
        increment = chain.schedule.increment(t, width)
        x_hat = denoise(z_t, gamma_t, chain)
        z_s = step(key, z_t, x_hat, gamma_t, increment)
        return z_s, keep(z_s, x_hat)

    keys = jax.random.split(key, num_steps)
    return jax.lax.scan(body, z_1, (keys, jnp.arange(num_steps, 0, -1)))
