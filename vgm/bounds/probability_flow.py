"""The probability flow of a diffusion, for one example (Song et al. 2021b).

Along the equation

    dz / d gamma = alpha / 2 (alpha z - x_hat(z, gamma)),                            (1)

where alpha^2 = sigmoid(-gamma), latents have the densities q(z_t) of the noising
process if x_hat is E[x | z_t]. In general it makes another model: z_1 ~ N(0, I) carried
down to z_0, whose density is exact, and p(x | z_0). The chain that ``trajectories``
weighs is not this model, and their bounds have no order. The schedule matters by its
ends alone: gamma is time enough.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vgm.bijections import continuous
from vgm.bijections.continuous import Field, Velocity
from vgm.bounds.diffusion import Chain, denoise, log_likelihood
from vgm.densities import normal
from vgm.numerics import at_least_float32
from vgm.processes import gaussian
from vgm.shapes import require
from vgm.types import Event, PRNGKey, Scalar


def velocity(gamma: Scalar, z: Event, chain: Chain) -> Event:
    """The right side of (1).

    Args:
        gamma: gamma.
        z: Latents there.
        chain: Diffusion; its decoder is not used.

    Returns:
        The velocity, of the shape of z.

    Raises:
        ValueError: If gamma is not one number, or the prediction has another shape.
    """
    require("probability_flow.velocity: gamma", gamma, ())
    alpha, _ = gaussian.alpha_sigma(gamma)
    return 0.5 * alpha * (alpha * z - denoise(z, gamma, chain))


def log_prob(
    z_0: Event,
    chain: Chain,
    *,
    divergence: Callable[[Velocity], Field] = continuous.exact_divergence,
    tolerance: float = 1e-6,
) -> Scalar:
    """Log density of z_0 = alpha_0 x + sigma_0 eps under the flow, in nats.

    log N(z_1; 0, I) + int tr d velocity / dz d gamma, from gamma(0) to gamma(1).

    Args:
        z_0: The last latent.
        chain: Diffusion; its decoder is not used.
        divergence: How the trace is taken: exactly, by one derivative a number; or a
            ``continuous.hutchinson_divergence`` with a probe, whose mean is log p.
        tolerance: Relative and absolute error of a step of the solver. The error of
            the result has a sign of its own and grows with the dimension: compare two.

    Returns:
        The log density; NaN where the solver gave up.
    """
    z_0 = at_least_float32(z_0)
    field = divergence(lambda gamma, z: velocity(gamma, z, chain))
    start = z_0, jnp.zeros((), z_0.dtype)
    z_1, log_det = continuous.integrate(
        lambda gamma, state: field(gamma, state[0]),
        start,
        *_ends(chain, z_0),
        tolerance=tolerance,
    )
    return normal.standard_log_prob(z_1) + log_det


def log_weight(
    key: PRNGKey, x: Event, chain: Chain, *, tolerance: float = 1e-6
) -> Scalar:
    """log p(x | z_0) p(z_0) / q(z_0 | x) at one z_0 ~ q(z_0 | x).

    Args:
        key: Random key, used once.
        x: Data, scaled.
        chain: Diffusion.
        tolerance: As ``log_prob``.

    Returns:
        The log weight in nats: E[exp(log_weight)] = p(x) of the flow, but for the
        solver's error.
    """
    x = at_least_float32(x)
    gamma_0, _ = _ends(chain, x)
    eps = jax.random.normal(key, x.shape, x.dtype)
    z_0, log_q = normal.reparameterize(eps, *gaussian.marginal(x, gamma_0))
    log_p = log_prob(z_0, chain, tolerance=tolerance)
    return log_likelihood(z_0, chain) + log_p - log_q


def sample(z_1: Event, chain: Chain, *, tolerance: float = 1e-6) -> Event:
    """Carry z_1 ~ N(0, I) down to z_0: DDIM at eta = 0 with all the steps it takes.

    Args:
        z_1: Starting noise.
        chain: Diffusion; its decoder is not used.
        tolerance: As ``log_prob``.

    Returns:
        z_0.
    """
    z_1 = at_least_float32(z_1)
    low, high = _ends(chain, z_1)
    return continuous.integrate(
        lambda gamma, z: velocity(gamma, z, chain), z_1, high, low, tolerance=tolerance
    )


def _ends(chain: Chain, like: Event) -> tuple[Scalar, Scalar]:
    zero = jnp.zeros((), like.dtype)
    return chain.schedule.gamma(zero), chain.schedule.gamma(zero + 1.0)
