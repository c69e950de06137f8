"""The bound of a variational diffusion, for one example (Kingma et al. 2021).

With the noising process of ``processes.gaussian`` as encoder, T steps on the grid
t = i / T and p(z_s | z_t) = q(z_s | z_t, x_hat(z_t)),

    L_T = E log p(x | z_0) - KL(q(z_1 | x) || N(0, I))
          - sum_i E KL(q(z_s | z_t, x) || p(z_s | z_t)),                             (1)
    KL_i = 1/2 expm1(gamma_t - gamma_s) |eps - eps_hat|^2,                           (2)

the denoising form. As T grows, the sum becomes

    1/2 int_0^1 gamma'(t) E |eps - eps_hat|^2 dt,                                    (3)

which depends on the schedule by its end points alone. What takes a whole trajectory,
such as the log weight, is in ``bounds.trajectories``.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.bounds.elbo import ElboTerms
from vgm.divergences import kl_standard_normal
from vgm.numerics import at_least_float32
from vgm.processes import gaussian
from vgm.processes.gaussian import Parameterisation
from vgm.processes.schedules import Schedule
from vgm.processes.times import grid_time, step_of
from vgm.shapes import require, require_positive
from vgm.types import Event, PRNGKey, Scalar


class Chain(NamedTuple):
    """A diffusion of one example.

    Attributes:
        schedule: gamma(t).
        predict: (z_t, gamma_t) to the network's prediction.
        parameterisation: What it predicts.
        log_likelihood: z_0 to log p(x | z_0).
    """

    schedule: Schedule
    predict: Callable[[Event, Scalar], Event]
    parameterisation: Parameterisation
    log_likelihood: Callable[[Event], Scalar]


def _predict(z: Event, gamma: Scalar, chain: Chain) -> Event:
    prediction = chain.predict(z, gamma)
    require("the prediction of chain.predict", prediction, z.shape)
    return prediction


def denoise(z: Event, gamma: Scalar, chain: Chain) -> Event:
    """x_hat, the network's idea of the data at z_t.

    Args:
        z: z_t.
        gamma: gamma_t.
        chain: Diffusion.

    Returns:
        The prediction as one of x.

    Raises:
        ValueError: If it has another shape than z_t.
    """
    return chain.parameterisation.to_x(z, _predict(z, gamma, chain), gamma)


def log_likelihood(z_0: Event, chain: Chain) -> Scalar:
    """log p(x | z_0) of the decoder.

    Args:
        z_0: The last latent.
        chain: Diffusion.

    Returns:
        Nats.

    Raises:
        ValueError: If it is no single number.
    """
    found = chain.log_likelihood(z_0)
    require("chain.log_likelihood(z_0)", found, ())
    return found


def noise_error(x: Event, eps: Event, gamma: Scalar, chain: Chain) -> Event:
    """eps - eps_hat, the error of a prediction at z = alpha x + sigma eps.

    Taken in the network's own parameterisation: no digits are lost on the way to eps.

    Args:
        x: Data, scaled.
        eps: Noise.
        gamma: gamma_t.
        chain: Diffusion.

    Returns:
        The error of the noise.

    Raises:
        ValueError: If the prediction has another shape.
    """
    kind = chain.parameterisation
    prediction = _predict(gaussian.diffuse(x, eps, gamma), gamma, chain)
    return kind.eps_slope(gamma) * (kind.target(x, eps, gamma) - prediction)


def denoising_matching(error: Event, increment: Scalar) -> Scalar:
    """KL(q(z_s | z_t, x) || p(z_s | z_t)), (2).

    >>> import jax.numpy as jnp
    >>> float(denoising_matching(jnp.ones(2), jnp.log(jnp.asarray(2.0))))
    1.0

    Args:
        error: eps - eps_hat.
        increment: gamma_t - gamma_s.

    Returns:
        The divergence of one step, in nats.

    Raises:
        ValueError: If the increment is not one number.
    """
    require("diffusion.denoising_matching: increment", increment, ())
    return 0.5 * jnp.expm1(increment) * jnp.sum(error**2)


def denoising_matching_continuous(error: Event, derivative: Scalar) -> Scalar:
    """The integrand of (3): the divergence of T steps at one time, T to infinity.

    >>> import jax.numpy as jnp
    >>> float(denoising_matching_continuous(jnp.ones(2), jnp.asarray(3.0)))
    3.0

    Args:
        error: eps - eps_hat.
        derivative: d gamma / dt.

    Returns:
        Nats per unit of time.

    Raises:
        ValueError: If the derivative is not one number.
    """
    require("diffusion.denoising_matching_continuous: derivative", derivative, ())
    return 0.5 * derivative * jnp.sum(error**2)


def prior_matching(x: Event, gamma_max: Scalar) -> Scalar:
    """KL(q(z_1 | x) || N(0, I)).

    Args:
        x: Data, scaled.
        gamma_max: gamma(1).

    Returns:
        The divergence, in nats.
    """
    return kl_standard_normal(*gaussian.marginal(x, gamma_max))


def discrete_terms(
    key: PRNGKey, x: Event, chain: Chain, *, num_steps: int, chunk_size: int = 8
) -> ElboTerms:
    """The bound (1) of T steps, every one of them computed.

    Args:
        key: Random key, used once.
        x: Data, scaled.
        chain: Diffusion.
        num_steps: T.
        chunk_size: Steps at once.

    Returns:
        Terms in nats, one denoising term a step, t = 1/T first.

    Raises:
        ValueError: If there is no step, or a function of the chain gives other shapes.
    """
    require_positive(num_steps=num_steps)
    x = at_least_float32(x)  # and so gamma, which needs its digits
    key_outer, key_steps = jax.random.split(key)
    steps = jnp.arange(1, num_steps + 1)
    matching = _step_terms(key_steps, x, chain, steps, num_steps, chunk_size)
    return _with_outer_terms(key_outer, x, chain, matching)


def sampled_terms(
    key: PRNGKey,
    x: Event,
    t: Float[Array, " times"],
    chain: Chain,
    *,
    num_steps: int,
    chunk_size: int = 8,
) -> ElboTerms:
    """The bound (1) of T steps, from the steps that hold the times t.

    Args:
        key: Random key, used once.
        x: Data, scaled.
        t: Times, each uniform on [0, 1].
        chain: Diffusion.
        num_steps: T.
        chunk_size: Times at once.

    Returns:
        Terms in nats, whose expectation over t is the bound; one denoising term a
        time, T / (number of times) times that of the step.

    Raises:
        ValueError: As ``discrete_terms``.
    """
    require_positive(num_steps=num_steps)
    x = at_least_float32(x)  # and so gamma, which needs its digits
    key_outer, key_steps = jax.random.split(key)
    _require_times(t)
    steps = step_of(t, num_steps)
    matching = _step_terms(key_steps, x, chain, steps, num_steps, chunk_size)
    return _with_outer_terms(key_outer, x, chain, num_steps / t.size * matching)


def continuous_terms(
    key: PRNGKey, x: Event, t: Float[Array, " times"], chain: Chain
) -> ElboTerms:
    """The bound of infinitely many steps, (3), at some times.

    Args:
        key: Random key, used once.
        x: Data, scaled.
        t: Times, each uniform on [0, 1].
        chain: Diffusion.

    Returns:
        Terms in nats, whose expectation over t is the bound; one denoising term a
        time.

    Raises:
        ValueError: If there is no time, or a function of the chain gives other shapes.
    """
    _require_times(t)
    x = at_least_float32(x)
    key_outer, key_times = jax.random.split(key)

    def rate(key: PRNGKey, t: Scalar) -> Scalar:
        eps = jax.random.normal(key, x.shape, x.dtype)
        error = noise_error(x, eps, chain.schedule.gamma(t), chain)
        return denoising_matching_continuous(error, chain.schedule.derivative(t))

    rates = jax.vmap(rate)(jax.random.split(key_times, t.size), t)
    return _with_outer_terms(key_outer, x, chain, rates / t.size)


def _require_times(t: Float[Array, " times"]) -> None:
    require("t", t, (t.size,))
    require_positive(times=t.size)


def _step_terms(
    key: PRNGKey,
    x: Event,
    chain: Chain,
    steps: Int[Array, " steps"],
    num_steps: int,
    chunk_size: int,
) -> Float[Array, " steps"]:
    """The denoising terms of some of the T steps."""

    def term(inputs: tuple[PRNGKey, Array]) -> Scalar:
        key, index = inputs
        t, width = grid_time(index, num_steps, x.dtype)
        eps = jax.random.normal(key, x.shape, x.dtype)
        error = noise_error(x, eps, chain.schedule.gamma(t), chain)
        return denoising_matching(error, chain.schedule.increment(t, width))

    drawn = jax.random.split(key, steps.size), steps
    if steps.size <= chunk_size:  # no loop
        return jax.vmap(term)(drawn)
    return jax.lax.map(term, drawn, batch_size=chunk_size)


def _with_outer_terms(
    key: PRNGKey, x: Event, chain: Chain, matching: Float[Array, " steps"]
) -> ElboTerms:
    """The terms at both ends, beside those between: NaN if gamma falls (log SNR)."""
    eps = jax.random.normal(key, x.shape, x.dtype)
    gamma_0, gamma_1 = map(chain.schedule.gamma, jnp.arange(2.0).astype(x.dtype))
    z_0, top = gaussian.diffuse(x, eps, gamma_0), prior_matching(x, gamma_1)
    matching = jnp.where(gamma_0 < gamma_1, matching, jnp.nan)
    return ElboTerms(log_likelihood(z_0, chain), top, matching)
