"""The layers of one resolution of a ladder, on the way up and on the way down."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from vgm.bounds import hierarchical
from vgm.densities import normal
from vgm.divergences import kl_normal
from vgm.models.ladder_networks import Entrance, LadderLayer, Maps, Residual
from vgm.models.networks import apply
from vgm.types import Params, PRNGKey, Values

Latents = tuple[Array, ...]
"""One array a resolution, the top's first: batch, layers from the top, z."""


class Resolution(NamedTuple):
    """One resolution of a ladder.

    Attributes:
        side: Pixels along a side.
        entrance: The state from the resolution above.
        layer: Its latent layers, alike.
        num_layers: How many.
        block: Its residual blocks on the way up, alike.
        num_blocks: How many.
    """

    side: int
    entrance: Entrance
    layer: LadderLayer
    num_layers: int
    block: Residual
    num_blocks: int


class Encoding(NamedTuple):
    """What the way up leaves of x.

    Attributes:
        features: Feature maps, one a resolution, the top's first.
        context: What x is conditioned on, as vectors, or None.
    """

    features: tuple[Maps, ...]
    context: Float[Array, "batch features"] | None


class Walk(NamedTuple):
    """What a way down leaves.

    Attributes:
        state: The last state.
        latents: All layers.
        log_q: Log q(z | x), 0 where x is not known.
        log_p: Log p(z).
    """

    state: Maps
    latents: Latents
    log_q: Values
    log_p: Values


Densities = tuple[tuple[Maps, Maps] | None, tuple[Maps, Maps]]
"""Mean and log standard deviation of q, where x is known, and of p."""
Choose = Callable[[Any, Densities, Any], Maps]
"""(key or None, densities, what is known of z) to z."""


def from_posterior(key: PRNGKey, densities: Densities, known: Any) -> Maps:
    """A draw from q.

    Args:
        key: Random key, used once.
        densities: Densities of the layer.
        known: Not used.

    Returns:
        The draw, reparameterised.
    """
    posterior, _ = densities
    if posterior is None:
        raise ValueError("no posterior without an x")
    return normal.sample(key, *posterior)


def from_prior(key: PRNGKey, densities: Densities, known: Any) -> Maps:
    """A draw from p.

    Args:
        key: Random key, used once.
        densities: Densities of the layer.
        known: Not used.

    Returns:
        The draw, reparameterised.
    """
    return normal.sample(key, *densities[1])


def as_known(key: None, densities: Densities, known: Any) -> Maps:
    """What is known.

    Args:
        key: None.
        densities: Not used.
        known: The layer's z.

    Returns:
        The same.
    """
    return known


def _log_prob(z: Maps, density: tuple[Maps, Maps] | None) -> Values:
    if density is None:
        return jnp.zeros(len(z))
    return jax.vmap(normal.log_prob)(z, *density)


def stepping(level: Resolution, features: Maps | None, choose: Choose) -> Any:
    """One layer of a way down whose latents are chosen.

    Args:
        level: Its resolution.
        features: What is known of x, or None.
        choose: How z is chosen.

    Returns:
        A step of ``hierarchical.fold``: it carries the state and the sums of log q and
        log p, and gives z.
    """
    layer = level.layer

    def step(carry: tuple[Maps, Array], inputs: Any) -> tuple[Any, Maps]:
        state, total = carry
        key, own, known = inputs
        mean, log_std, residual = apply(layer, own, state, method="prior")
        prior, posterior = (mean, log_std), None
        if features is not None:
            posterior = apply(layer, own, state, features, *prior, method="posterior")
        z = choose(key, (posterior, prior), known)
        total = total + jnp.stack([_log_prob(z, posterior), _log_prob(z, prior)])
        return (apply(layer, own, state, residual, z, method="merge"), total), z

    return step


def inferring(level: Resolution, features: Maps, *, train: bool) -> Any:
    """One layer of the bound.

    Args:
        level: Its resolution.
        features: What is known of x.
        train: Whether under dropout.

    Returns:
        What ``hierarchical.Level`` asks of it, with a key for dropout and the layer's
        parameters as its parameters.
    """
    layer = level.layer

    def infer(inputs: Any, state: Maps) -> hierarchical.Inference:
        key, own = inputs
        keys = jax.random.split(key, 3) if train else (None, None, None)
        mean, log_std, residual = apply(layer, own, state, method="prior", key=keys[0])
        posterior = apply(
            layer,
            own,
            state,
            features,
            mean,
            log_std,
            method="posterior",
            key=keys[1],
        )
        return hierarchical.Inference(
            lambda key: normal.sample(key, posterior[0], posterior[1]),
            jax.vmap(kl_normal)(posterior[0], posterior[1], mean, log_std),
            lambda z: apply(
                layer, own, state, residual, z, method="merge", key=keys[2]
            ),
        )

    return infer


def entering(
    level: Resolution, params: Params, context: Array | None
) -> Callable[[Maps], Maps]:
    """What a resolution makes of the state above it.

    Args:
        level: Resolution.
        params: Parameters of its entrance.
        context: What x is conditioned on, or None.

    Returns:
        The map of states.
    """
    return lambda state: jnp.asarray(level.entrance.apply(params, state, context))


def shrink(maps: Maps, side: int) -> Maps:
    """The mean of each patch.

    Args:
        maps: Feature maps.
        side: Patches along a side.

    Returns:
        Smaller feature maps.
    """
    batch, height, _, channels = maps.shape
    patch = height // side
    patches = maps.reshape(batch, side, patch, side, patch, channels)
    return jnp.mean(patches, axis=(2, 4))


def climb(
    level: Resolution, params: Params, maps: Maps, keys: Key[Array, " blocks"] | None
) -> Maps:
    """Up through the residual blocks of a resolution.

    Args:
        level: Resolution.
        params: Parameters of its blocks.
        maps: Feature maps.
        keys: Keys for dropout, one a block, or None.

    Returns:
        Feature maps of the same shape.
    """

    def block(maps: Maps, inputs: Any) -> tuple[Maps, None]:
        own, key = inputs
        return apply(level.block, own, maps, key=key), None

    return hierarchical.fold(block, maps, (params, keys))[0]


def walk(
    key: PRNGKey | None,
    resolutions: Sequence[Resolution],
    params: Sequence[Params],
    state: Maps,
    encoding: Encoding,
    known: Any,
    choose: Choose,
) -> Walk:
    """All layers from the top, each z as it is chosen; no dropout.

    Args:
        key: Random key, or None where none is needed.
        resolutions: Resolutions, the top's first.
        params: Parameters, one a resolution.
        state: The state above the top.
        encoding: What is known of x; without features, nothing.
        known: What is known of the latents, a pytree a resolution whose leaves have
            the layers on their second axis, or None.
        choose: How z is chosen.

    Returns:
        The last state, all latents, and log q and log p.
    """
    total, latents = jnp.zeros((2, len(state))), []
    for number, (level, own) in enumerate(zip(resolutions, params, strict=True)):
        features = encoding.features[number] if encoding.features else None
        state = entering(level, own["enter"], encoding.context)(state)
        keys = None
        if key is not None:
            key_level = jax.random.fold_in(key, number)
            keys = jax.random.split(key_level, level.num_layers)
        layers_first = jax.tree.map(
            lambda leaf: jnp.moveaxis(leaf, 1, 0),
            None if known is None else known[number],
        )
        step = stepping(level, features, choose)
        (state, total), z = hierarchical.fold(
            step, (state, total), (keys, own["down"], layers_first)
        )
        latents.append(jnp.moveaxis(z, 0, 1))
    return Walk(state, tuple(latents), total[0], total[1])
