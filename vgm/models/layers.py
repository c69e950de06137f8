"""Bijections with parameters: where a network meets an invertible map.

A layer starts from a batch of what comes in (``init``) and is, given parameters, the
context of one example and perhaps a key for dropout, a bijection (``build``).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from vgm import bijections
from vgm.bijections import Bijection, images
from vgm.types import Params, PRNGKey

Batch = Float[Array, " batch *event"]
Context = Float[Array, " features"] | None
Contexts = Float[Array, "batch features"] | None


class Layer(NamedTuple):
    """A bijection and its parameters.

    Attributes:
        init: (key, a batch of what comes in, contexts) to parameters.
        build: (parameters, context, key for dropout or None) to the bijection.
        velocity: Network of a continuous flow, for flow matching; None elsewhere.
    """

    init: Callable[[PRNGKey, Batch, Contexts], Params]
    build: Callable[[Params, Context, PRNGKey | None], Bijection]
    velocity: nn.Module | None = None


def push(layer: Layer, params: Params, x: Batch, contexts: Contexts) -> Any:
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
            return push(layer, params, x, contexts).astype(x.dtype), params

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
