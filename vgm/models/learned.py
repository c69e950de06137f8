"""Layers with parameters: ActNorm, matrices, couplings, continuous flows."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from vgm.bijections import Bijection, autoregressive, elementwise, linear
from vgm.bijections import continuous as flows
from vgm.bijections import coupling as couplings
from vgm.bijections.transforms import Transform
from vgm.models.families import MIN_STD, batch_moments
from vgm.models.layers import Batch, Context, Contexts, Layer
from vgm.models.networks import apply
from vgm.types import Params, PRNGKey


def standardisation() -> Layer:
    """ActNorm of the data, in whatever unit they come.

    Returns:
        The layer; the scale of a constant number is ``MIN_STD``.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        mean, std = batch_moments(x)
        log_std = jnp.log(jnp.where(std > 0.0, std, MIN_STD))
        return {"mean": mean, "log_std": log_std}

    return actnorm(by_channel=False)._replace(init=init)


def actnorm(*, by_channel: bool) -> Layer:
    """Standardisation that starts at the data's and learns on (ActNorm).

    Args:
        by_channel: One mean and scale for each number of the last axis, not for every
            number: Kingma & Dhariwal (2018, section 3.1) on images.

    Returns:
        The layer.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        rows = x.reshape(-1, x.shape[-1]) if by_channel else x
        mean, std = jnp.mean(rows, axis=0), jnp.std(rows, axis=0)
        # A number that never changes keeps its scale: every layer would divide it.
        changes = std > MIN_STD
        log_std = jnp.log(jnp.where(changes, std, 1.0))
        return {"mean": mean, "log_std": log_std}

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        return elementwise.affine(params["mean"], params["log_std"])

    return Layer(init, build)


def lu() -> Layer:
    """A learned matrix along the last axis, the identity at first.

    Returns:
        The layer.
    """
    return Layer(
        lambda key, x, contexts: linear.lu_init(x.shape[-1], x.dtype),
        lambda params, context, key: linear.lu(linear.LU(*params)),
    )


def coupling(network: nn.Module, transform: Transform, *, split: int) -> Layer:
    """A coupling whose conditioner is a network.

    Args:
        network: (batch of first parts, contexts, train) to parameters of every number
            of the second part.
        transform: Family of increasing maps.
        split: Length of the first part on the last axis.

    Returns:
        The layer.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        return _init(network, key, x[..., :split], contexts)

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        conditioner = _conditioner(network, params, context, key)
        return couplings.coupling(conditioner, transform, split=split)

    return Layer(init, build)


def masked_autoregressive(network: nn.Module, transform: Transform) -> Layer:
    """A masked autoregressive map of vectors.

    Args:
        network: A masked network, (batch of vectors, contexts, train) to parameters of
            every number.
        transform: Family of increasing maps.

    Returns:
        The layer.
    """

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        return autoregressive.masked_autoregressive(
            _conditioner(network, params, context, key), transform
        )

    return Layer(functools.partial(_init, network), build)


def continuous(network: nn.Module) -> Layer:
    """A continuous flow; with a key its divergence is estimated by one random probe.

    Args:
        network: (batch, times, contexts, train) to velocities.

    Returns:
        The layer.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        one = None if contexts is None else contexts[:1]
        return network.init(key, x[:1], jnp.zeros(1, x.dtype), one, train=False)

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        key_dropout, key_probe = (None, key) if key is None else jax.random.split(key)
        move = velocity(network, params, context, key_dropout)

        def field(t: Array, x: Array) -> tuple[Array, Array]:
            if key_probe is None:
                return flows.exact_divergence(move)(t, x)
            probe = jax.random.rademacher(key_probe, x.shape, x.dtype)
            return flows.hutchinson_divergence(move, probe)(t, x)

        return flows.continuous(field)

    return Layer(init, build, network)


def velocity(
    network: nn.Module, params: Params, context: Context, key: PRNGKey | None
) -> Callable[[Array, Array], Array]:
    """(t, x) to dx/dt for one example; with a key, under dropout.

    Args:
        network: (batch, times, contexts, train) to velocities.
        params: Its parameters.
        context: Context.
        key: Key for dropout, or None.

    Returns:
        The velocity.
    """
    one = None if context is None else context[None]

    def move(t: Array, x: Array) -> Array:
        time = jnp.asarray(t, x.dtype)[None]
        return apply(network, params, x[None], time, one, key=key)[0]

    return move


def _init(network: nn.Module, key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
    one = None if contexts is None else contexts[:1]
    return network.init(key, x[:1], one, train=False)


def _conditioner(
    network: nn.Module, params: Params, context: Context, key: PRNGKey | None
) -> Callable[[Array], Array]:
    """The network for one example; with a key, under dropout."""
    one = None if context is None else context[None]
    return lambda x: apply(network, params, x[None], one, key=key)[0]
