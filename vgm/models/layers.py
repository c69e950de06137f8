"""Bijections with parameters: where a network meets an invertible map.

A layer starts from a batch of what comes in (``init``) and is, given parameters, the
context of one example and perhaps a key for dropout, a bijection (``build``).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm import bijections
from vgm.bijections import Bijection, autoregressive, elementwise, images, linear
from vgm.bijections import coupling as couplings
from vgm.bijections.transforms import Transform
from vgm.types import Params, PRNGKey

Batch = Float[Array, " batch *event"]
Context = Float[Array, " features"] | None
Contexts = Float[Array, "batch features"] | None


class Layer(NamedTuple):
    """A bijection and its parameters.

    Attributes:
        init: (key, a batch of what comes in, contexts) to parameters.
        build: (parameters, context, key for dropout or None) to the bijection.
    """

    init: Callable[[PRNGKey, Batch, Contexts], Params]
    build: Callable[[Params, Context, PRNGKey | None], Bijection]


def push(layer: Layer, params: Params, x: Batch, contexts: Contexts) -> Batch:
    """What comes out of a layer, without dropout.

    Args:
        layer: Layer.
        params: Its parameters.
        x: A batch of what comes in.
        contexts: Contexts.

    Returns:
        The batch that the next layer sees.
    """

    def one(x: Any, context: Context) -> Any:
        return layer.build(params, context, None).forward(x)[0]

    return jax.vmap(one)(x, contexts)


def fixed(bijection: Bijection) -> Layer:
    """A layer without parameters.

    Args:
        bijection: Bijection.

    Returns:
        The layer.
    """
    return Layer(lambda key, x, contexts: {}, lambda params, context, key: bijection)


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
        mean = jnp.mean(rows, axis=0)
        std = jnp.std(rows, axis=0)
        # A number that never changes starts at a scale of 1e-3.
        return {"mean": mean, "log_std": jnp.log(jnp.maximum(std, 1e-3))}

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        def spread(value: Array) -> Callable[[Array], Array]:
            # Ranks are never promoted here.
            return lambda x: jnp.broadcast_to(
                value.reshape((1,) * (x.ndim - value.ndim) + value.shape), x.shape
            )

        mean, log_std = spread(params["mean"]), spread(params["log_std"])
        return Bijection(
            lambda x: elementwise.affine(mean(x), log_std(x)).forward(x),
            lambda z: elementwise.affine(mean(z), log_std(z)).inverse(z),
        )

    return Layer(init, build)


def frozen(layer: Layer) -> Layer:
    """A layer that stays as it started: standardisation of the data, say.

    Args:
        layer: Layer.

    Returns:
        The layer, to which no gradient comes.
    """

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        return layer.build(jax.lax.stop_gradient(params), context, key)

    return Layer(layer.init, build)


def lu() -> Layer:
    """A learned matrix along the last axis, the identity at first.

    Returns:
        The layer.
    """
    return Layer(
        lambda key, x, contexts: linear.lu_init(x.shape[-1]),
        lambda params, context, key: linear.lu(linear.LU(*params)),
    )


def orthogonal(num_reflections: int) -> Layer:
    """A learned rotation along the last axis, at random first.

    Args:
        num_reflections: Householder reflections.

    Returns:
        The layer.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        return jax.random.normal(key, (num_reflections, x.shape[-1]))

    return Layer(init, lambda params, context, key: linear.orthogonal(params))


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


def _init(network: nn.Module, key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
    one = None if contexts is None else contexts[:1]
    return network.init(key, x[:1], one, train=False)


def _conditioner(
    network: nn.Module, params: Params, context: Context, key: PRNGKey | None
) -> Callable[[Array], Array]:
    """The network for one example; with a key, under dropout."""
    one = None if context is None else context[None]
    rngs = None if key is None else {"dropout": key}

    def conditioner(x: Array) -> Array:
        outputs = network.apply(params, x[None], one, train=key is not None, rngs=rngs)
        return jnp.asarray(outputs)[0]

    return conditioner


def inverse(layer: Layer) -> Layer:
    """A layer the other way round; its start does not depend on the data.

    Args:
        layer: Layer whose ``init`` reads only the shape of what comes in.

    Returns:
        The layer: an inverse autoregressive flow of a masked autoregressive one.
    """

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        return bijections.invert(layer.build(params, context, key))

    return Layer(layer.init, build)


def chain(*layers: Layer) -> Layer:
    """One layer after another.

    Args:
        *layers: Layers, the first one next to the data.

    Returns:
        The layer.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        params = []
        keys = jax.random.split(key, len(layers))
        for layer, key_layer in zip(layers, keys, strict=True):
            params.append(layer.init(key_layer, x, contexts))
            x = push(layer, params[-1], x, contexts)
        return tuple(params)

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        keys = _keys(key, len(layers))
        triples = zip(layers, params, keys, strict=True)
        return bijections.compose(
            *(layer.build(own, context, one) for layer, own, one in triples)
        )

    return Layer(init, build)


def repeat(layer: Layer, num_layers: int) -> Layer:
    """A layer several times with parameters of its own each, as a loop.

    Args:
        layer: Layer that keeps the event's shape.
        num_layers: How many.

    Returns:
        The layer; it compiles as one, however many.
    """

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        def step(x: Batch, key: PRNGKey) -> tuple[Batch, Params]:
            params = layer.init(key, x, contexts)
            return push(layer, params, x, contexts), params

        return jax.lax.scan(step, x, jax.random.split(key, num_layers))[1]

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        keys = None if key is None else jax.random.split(key, num_layers)
        return bijections.scan(
            lambda own: layer.build(own[0], context, own[1]), (params, keys)
        )

    return Layer(init, build)


def pyramid(levels: tuple[Layer, ...], event_shape: tuple[int, int, int]) -> Layer:
    """Squeeze, a layer, half of the channels done; and again (Dinh et al. 2017, 3.6).

    Args:
        levels: The layer of each level, the finest first.
        event_shape: Shape of the image, its sides divisible by 2^levels.

    Returns:
        The layer, from images to vectors.
    """
    height, width, channels = event_shape
    shape = (height // 2, width // 2, 4 * channels)
    first, *rest = levels
    here = chain(fixed(images.squeeze()), first)
    if not rest:
        return chain(here, fixed(images.flatten(shape)))
    half = (*shape[:2], shape[2] // 2)
    above = pyramid(tuple(rest), half)

    def init(key: PRNGKey, x: Batch, contexts: Contexts) -> Params:
        key_here, key_above = jax.random.split(key)
        params = here.init(key_here, x, contexts)
        kept = push(here, params, x, contexts)[..., : half[2]]
        return params, above.init(key_above, kept, contexts)

    def build(params: Params, context: Context, key: PRNGKey | None) -> Bijection:
        keys = _keys(key, 2)
        return bijections.compose(
            here.build(params[0], context, keys[0]),
            images.split_off(above.build(params[1], context, keys[1]), shape),
        )

    return Layer(init, build)


def _keys(key: PRNGKey | None, count: int) -> Any:
    return (None,) * count if key is None else jax.random.split(key, count)
