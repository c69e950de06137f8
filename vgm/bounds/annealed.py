"""Annealed importance sampling with Hamiltonian transitions (Neal 2001).

From an easy density q(z) to the joint p(x, z) along, for 0 = b_0 < ... < b_T = 1,

    log f_b(z) = (1 - b) log q(z) + b log p(x, z).                                   (1)

Forward, z_0 ~ q and z_t ~ a transition that leaves f_{b_t} invariant give

    log w = sum_t (b_t - b_{t-1}) [ log p(x, z_{t-1}) - log q(z_{t-1}) ],            (2)

with E[w] = p(x) whatever T and the transitions. Run backward from an *exact* posterior
sample (to be had when x is simulated: the z that made it), the same sum has
E[1 / w] = 1 / p(x) (Grosse et al. 2015). The contract holds for fixed transitions
only: step sizes are tuned first, on other draws, and frozen. Accepting and refusing
has no derivative: these are values, and what differentiates them is told so.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.shapes import require, require_positive, require_same
from vgm.types import PRNGKey, Scalar

Latent = Float[Array, " latent"]
LogDensity = Callable[[Latent], Scalar]
TARGET_ACCEPTANCE = 0.8


class Path(NamedTuple):
    """The densities of (1) and the transitions between them.

    Attributes:
        log_base: log q(z), normalised.
        log_target: log p(x, z).
        inverse_temperatures: b_1 .. b_T rising to 1; of others the weights are NaN.
        step_sizes: Step size of the transition at each of them.
        num_leapfrog: Leapfrog steps of a transition.
    """

    log_base: LogDensity
    log_target: LogDensity
    inverse_temperatures: Float[Array, " steps"]
    step_sizes: Float[Array, " steps"]
    num_leapfrog: int

    def log_density(self, z: Latent, b: Scalar) -> Scalar:
        """Equation (1)."""
        return (1.0 - b) * self.log_base(z) + b * self.log_target(z)

    def increments(self) -> Float[Array, " steps"]:
        """b_t - b_{t-1}; NaN where they do not rise from 0 to 1.

        Raises:
            ValueError: If there is not one step size for each.
        """
        temperatures = jnp.asarray(self.inverse_temperatures)
        require("inverse_temperatures", temperatures, (temperatures.size,))
        require_same(
            "annealed.Path",
            inverse_temperatures=temperatures,
            step_sizes=self.step_sizes,
        )
        increments = jnp.diff(temperatures, prepend=0.0)
        # To the rounding of a sum of so many increments.
        rounding = temperatures.size * jnp.finfo(increments.dtype).eps
        ends = jnp.abs(temperatures[-1] - 1.0) <= rounding
        rises = jnp.all(increments >= 0.0) & ends
        return jnp.where(rises, increments, jnp.nan)


def sigmoid_schedule(num_steps: int, *, sharpness: float = 4.0) -> Array:
    """Inverse temperatures b_1 .. b_T, denser near 0 and 1 (Grosse et al. 2015).

    >>> sigmoid_schedule(2).tolist()
    [0.5, 1.0]

    Args:
        num_steps: T.
        sharpness: Half the range of the logits.

    Returns:
        Rising values, the last 1.
    """
    logits = sharpness * jnp.linspace(-1.0, 1.0, num_steps + 1)
    levels = jax.nn.sigmoid(logits)
    scaled = (levels - levels[0]) / (levels[-1] - levels[0])
    return scaled[1:]


def hmc(
    key: PRNGKey,
    z: Latent,
    log_density: LogDensity,
    *,
    step_size: Scalar,
    num_leapfrog: int,
) -> tuple[Latent, Scalar]:
    """One Hamiltonian transition that leaves exp(log_density) invariant (Neal 2011).

    Its step size is drawn around the one given: trajectories of a fixed length can run
    in half periods of a normal density, from z to -z and back, and never mix.

    Args:
        key: Random key, used once.
        z: Where it starts.
        log_density: Log density up to a constant, in nats.
        step_size: Mean step size of the leapfrog integrator.
        num_leapfrog: Leapfrog steps.

    Returns:
        Where it ends, and the probability of acceptance.

    Raises:
        ValueError: If there is no leapfrog step.
    """
    require_positive(num_leapfrog=num_leapfrog)
    key_momentum, key_step, key_accept = jax.random.split(key, 3)
    jitter = jax.random.uniform(key_step, dtype=z.dtype, minval=0.5, maxval=1.5)
    step_size = step_size * jitter
    momentum = jax.random.normal(key_momentum, z.shape, z.dtype)
    value_and_grad = jax.value_and_grad(log_density)

    def leapfrog(_: Array, state: tuple[Latent, Latent]) -> tuple[Latent, Latent]:
        z, momentum = state
        z = z + step_size * momentum
        return z, momentum + step_size * value_and_grad(z)[1]

    # Half a kick, num_leapfrog drifts with whole kicks between them, half a kick.
    before, gradient = value_and_grad(z)
    start = (z, momentum + 0.5 * step_size * gradient)
    moved, kicked = jax.lax.fori_loop(0, num_leapfrog - 1, leapfrog, start)
    moved = moved + step_size * kicked
    after, gradient = value_and_grad(moved)
    kicked = kicked + 0.5 * step_size * gradient
    log_ratio = (after - 0.5 * jnp.sum(kicked**2)) - (
        before - 0.5 * jnp.sum(momentum**2)
    )
    # A trajectory that left the numbers is refused.
    log_ratio = jnp.where(jnp.isnan(log_ratio), -jnp.inf, log_ratio)
    acceptance = jnp.exp(jnp.minimum(log_ratio, 0.0))
    accepted = jax.random.uniform(key_accept, dtype=z.dtype) < acceptance
    return jnp.where(accepted, moved, z), acceptance


def forward(
    key: PRNGKey, path: Path, sample_base: Callable[[PRNGKey], Latent]
) -> tuple[Scalar, Latent]:
    """One chain from q to the posterior: log w of (2), E[exp(log w)] = p(x).

    Args:
        key: Random key, used once.
        path: Densities and frozen transitions.
        sample_base: Draws z ~ q.

    Returns:
        The log weight, in nats, and where the chain ends.

    Raises:
        ValueError: If the path's arrays are not alike.
        TypeError: If it is differentiated.
    """
    key_base, key_chain = jax.random.split(key)
    increments = path.increments()
    keys = jax.random.split(key_chain, len(increments))

    def step(z: Latent, inputs: tuple[Array, ...]) -> tuple[Latent, Scalar]:
        key, b, increment, step_size = inputs
        log_ratio = increment * (path.log_target(z) - path.log_base(z))
        return _transition(key, path, z, b, step_size)[0], log_ratio

    inputs = (keys, path.inverse_temperatures, increments, path.step_sizes)
    z, log_ratios = jax.lax.scan(step, sample_base(key_base), inputs)
    return _value(jnp.sum(log_ratios)), _value(z)


def backward(
    key: PRNGKey, path: Path, z: Latent, *, num_refreshments: int = 20
) -> Scalar:
    """One chain from an exact posterior sample to q: E[exp(-log w)] = 1 / p(x).

    Many chains usually share the one z that is known. Each first moves on its own by
    transitions that leave the posterior invariant, which keeps z exact: without them
    the chains share the luck of z, and their spread does not show it.

    Args:
        key: Random key, used once.
        path: Densities and frozen transitions, as of ``forward``.
        z: An exact draw of p(z | x).
        num_refreshments: Transitions at the posterior before the chain sets out.

    Returns:
        The log weight (2) along the way, in nats.

    Raises:
        ValueError: If the path's arrays are not alike.
        TypeError: If it is differentiated.
    """
    key_refresh, key_chain = jax.random.split(key)
    increments = path.increments()

    def refresh(n: Array, z: Latent) -> Latent:
        key = jax.random.fold_in(key_refresh, n)
        b, step_size = path.inverse_temperatures[-1], path.step_sizes[-1]
        return _transition(key, path, z, b, step_size)[0]

    z = jax.lax.fori_loop(0, num_refreshments, refresh, z)
    keys = jax.random.split(key_chain, len(increments))

    def step(z: Latent, inputs: tuple[Array, ...]) -> tuple[Latent, Scalar]:
        key, b, increment, step_size = inputs
        z, _ = _transition(key, path, z, b, step_size)
        return z, increment * (path.log_target(z) - path.log_base(z))

    inputs = (keys, path.inverse_temperatures, increments, path.step_sizes)
    _, log_ratios = jax.lax.scan(step, z, inputs, reverse=True)
    return _value(jnp.sum(log_ratios))


def tune(
    key: PRNGKey,
    path: Path,
    sample_base: Callable[[PRNGKey], Latent],
    *,
    num_chains: int = 16,
    num_rounds: int = 8,
) -> Path:
    """The path with a step size for each temperature that accepts 4 of 5 proposals.

    Chains run along the path; at each temperature the log step size moves by the
    acceptance's excess over the target, ``num_rounds`` times. So it rises by a factor
    of 5 a temperature at most: start at a size that is of use at the first.

    Args:
        key: Random key; never one of those that ``forward`` or ``backward`` get.
        path: Path; its first step size is where tuning starts.
        sample_base: Draws z ~ q.
        num_chains: Chains whose mean acceptance is used.
        num_rounds: Transitions at each temperature.

    Returns:
        The path, ``step_sizes`` replaced.

    Raises:
        ValueError: If the path's arrays are not alike.
    """
    key_base, key_chain = jax.random.split(key)
    z = jax.vmap(sample_base)(jax.random.split(key_base, num_chains))

    def transition(state: tuple[Array, Scalar], key: PRNGKey, b: Scalar) -> tuple:
        z, log_step = state
        z, acceptance = jax.vmap(
            lambda key, z: _transition(key, path, z, b, jnp.exp(log_step))
        )(jax.random.split(key, num_chains), z)
        return z, log_step + jnp.mean(acceptance) - TARGET_ACCEPTANCE

    def temperature(state: tuple, inputs: tuple) -> tuple:
        key, b = inputs
        keys = jax.random.split(key, num_rounds)
        state, _ = jax.lax.scan(
            lambda state, key: (transition(state, key, b), None), state, keys
        )
        return state, state[1]

    keys = jax.random.split(key_chain, len(path.increments()))
    start = (z, jnp.log(path.step_sizes[0]))
    inputs = (keys, path.inverse_temperatures)
    _, log_steps = jax.lax.scan(temperature, start, inputs)
    return path._replace(step_sizes=jnp.exp(log_steps))


@jax.custom_vjp
def _value(x: Array) -> Array:
    """What is not to be differentiated."""
    return x


def _backward(_: None, cotangent: Array) -> tuple[Array]:
    raise TypeError(
        "annealed importance sampling has no derivative: its transitions accept and "
        "refuse; stop its gradient, or train by an estimator of bounds.gradients"
    )


_value.defvjp(lambda x: (x, None), _backward)


def _transition(
    key: PRNGKey, path: Path, z: Latent, b: Scalar, step_size: Scalar
) -> tuple[Latent, Scalar]:
    return hmc(
        key,
        z,
        lambda z: path.log_density(z, b),
        step_size=step_size,
        num_leapfrog=path.num_leapfrog,
    )
