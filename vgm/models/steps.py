"""The normal steps of a chain of latents, each with networks of its own.

Steps between layers of equal sizes are alike: they form a stack, whose parameters have
the steps on their first axis, and run as one loop.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import hierarchical
from vgm.densities import normal
from vgm.models.networks import MLP
from vgm.models.posteriors import sample_normal
from vgm.types import Params, PRNGKey, Values

Rows = Float[Array, "batch _"]


class StepNetworks(NamedTuple):
    """What lies between z_t and z_{t+1}, for a stack of steps that share it.

    Attributes:
        encoder: z_t to mean and log standard deviation of q(z_{t+1} | z_t).
        decoder: z_{t+1} to those of p(z_t | z_{t+1}).
        latent_dims: Sizes of z_t and z_{t+1}.
        num_steps: Steps.
    """

    encoder: MLP
    decoder: MLP
    latent_dims: tuple[int, int]
    num_steps: int


def step_networks(
    latent_dims: tuple[int, ...], hidden: tuple[int, ...], activation: str, init: str
) -> tuple[StepNetworks, ...]:
    """Networks between layers; steps in a row between equal sizes make one stack.

    Every p(z_t | z_{t+1}) starts at N(0, I), the posteriors near it: at it, no layer
    would ever say anything to the next; far from it, scales would multiply.

    Args:
        latent_dims: Sizes of z_1 .. z_T.
        hidden: Widths of the encoders' hidden layers, mirrored by the decoders.
        activation: Name of the activation.
        init: Name of the initialiser.

    Returns:
        One entry a stack, from z_1 up.
    """
    shared: dict[str, Any] = {"activation": activation, "kernel_init": init}
    return tuple(
        StepNetworks(
            MLP(hidden, 2 * above, "small", **shared),
            MLP(hidden[::-1], 2 * below, "next_to_zero", **shared),
            (below, above),
            len(list(steps)),
        )
        for (below, above), steps in itertools.groupby(itertools.pairwise(latent_dims))
    )


MAX_LOG_STD = 5.0
"""Beyond this a log standard deviation is cut. Unbounded and linear in the layer below
it would leave the bound without an expectation, and overflow the next layer's."""


def normal_given(network: MLP, params: Params, rows: Rows) -> tuple[Rows, Rows]:
    """What a network says of the next layer.

    Args:
        network: Network.
        params: Its parameters.
        rows: What it reads.

    Returns:
        Mean and log standard deviation.
    """
    mean, log_std = jnp.split(jnp.asarray(network.apply(params, rows)), 2, axis=-1)
    return mean, jnp.clip(log_std, -MAX_LOG_STD, MAX_LOG_STD)


def sum_log_prob(network: MLP, params: Params, z: Array, given: Array) -> Values:
    """Log density of layers given their neighbours, all layers at once.

    Args:
        network: Network.
        params: Its parameters, steps on a first axis.
        z: Layers, steps first, then the batch.
        given: What each is given.

    Returns:
        Log densities summed over the steps, in nats.
    """

    def one(params: Params, z: Rows, given: Rows) -> Values:
        return conditional(network, params).log_prob(z, given)

    return jnp.sum(jax.vmap(one)(params, z, given), axis=0)


def conditional(network: MLP, params: Params) -> hierarchical.Conditional:
    """Rows given rows, by one network.

    Args:
        network: Network.
        params: Its parameters.

    Returns:
        The conditional density.
    """

    def log_prob(value: Rows, rows: Rows) -> Values:
        return jax.vmap(normal.log_prob)(value, *normal_given(network, params, rows))

    return hierarchical.Conditional(
        lambda key, rows: normal.sample(key, *normal_given(network, params, rows)),
        log_prob,
    )


def rise(
    key: PRNGKey, stack: StepNetworks, params: Params, z: Rows
) -> tuple[Rows, Array, Values]:
    """Up through a stack by its encoders.

    Args:
        key: Random key, used once.
        stack: Stack.
        params: Parameters of its encoders.
        z: The layer below.

    Returns:
        The last layer, all layers, and their log density.
    """

    def up(carry: tuple[Rows, Values], inputs: Any) -> tuple[Any, Rows]:
        z, log_q = carry
        key, own = inputs
        above, added = sample_normal(key, *normal_given(stack.encoder, own, z))
        return (above, log_q + added), above

    keys = jax.random.split(key, stack.num_steps)
    start = z, jnp.zeros(len(z), z.dtype)
    (above, log_q), climbed = hierarchical.fold(up, start, (keys, params))
    return above, climbed, log_q


def descend(
    key: PRNGKey,
    stack: StepNetworks,
    params: Params,
    z: Rows,
    below: Array,
    kept: Array,
) -> Array:
    """Down through a stack by its decoders, past layers that are kept.

    Args:
        key: Random key, used once.
        stack: Stack.
        params: Parameters of its decoders.
        z: The layer above.
        below: The layers that are known, steps first.
        kept: Which of them are kept; the others are drawn.

    Returns:
        The lower layers, steps first.
    """

    def down(z: Rows, inputs: Any) -> tuple[Rows, Rows]:
        key, own, known, keep = inputs
        drawn = normal.sample(key, *normal_given(stack.decoder, own, z))
        lower = jnp.where(keep, known, drawn)
        return lower, lower

    keys = jax.random.split(key, stack.num_steps)
    inputs = keys, params, below, kept
    return hierarchical.fold(down, z, inputs, reverse=True)[1]
