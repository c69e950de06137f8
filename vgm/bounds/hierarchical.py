"""Bounds of a hierarchy of latents z_1, .., z_T, for one example or a batch.

The Markov posterior climbs from the data, q(z_t | z_{t-1}) with z_0 = x, and the model
comes down, p(z_T) prod p(z_t | z_{t+1}) p(x | z_1):

    L = E log p(x | z_1) - E KL(q(z_T | z_{T-1}) || p(z_T))
        - sum_{t < T} E [log q(z_t | z_{t-1}) - log p(z_t | z_{t+1})].               (1)

The summands are signed: z_t given both neighbours is not q(z_t | z_{t-1}), so no
divergence can stand in their place. T = 1 is the VAE's bound.

The top-down posterior q(z_T | x) prod q(z_t | z_{t+1}, .., z_T, x) comes down beside
the prior (Sonderby et al. 2016), and every term is a divergence of one layer given
those above it:

    L = E log p(x | z_1, .., z_T) - KL(q(z_T | x) || p(z_T))
        - sum_{t < T} E KL(q(z_t | z_{>t}, x) || p(z_t | z_{>t})).                   (2)

Layers that share a shape run as one ``lax.scan``: they compile as one.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds.elbo import ElboTerms
from vgm.densities import normal
from vgm.shapes import require, require_positive
from vgm.types import PRNGKey

Nats = Float[Array, "*batch"]


class Conditional(NamedTuple):
    """The density of one layer given another.

    Attributes:
        sample: (key, given) to a draw, reparameterised.
        log_prob: (value, given) to nats.
    """

    sample: Callable[[PRNGKey, Any], Any]
    log_prob: Callable[[Any, Any], Nats]


def diagonal(parameters: Callable[[Any], tuple[Array, Array]]) -> Conditional:
    """A normal of one example whose coordinates are independent.

    Args:
        parameters: What it depends on, to mean and log standard deviation.

    Returns:
        The conditional.
    """
    return Conditional(
        lambda key, given: normal.sample(key, *parameters(given)),
        lambda value, given: normal.log_prob(value, *parameters(given)),
    )


class Step(NamedTuple):
    """What lies between z_t and z_{t+1}.

    Attributes:
        encoder: q(z_{t+1} | z_t).
        decoder: p(z_t | z_{t+1}).
    """

    encoder: Conditional
    decoder: Conditional


class Stack(NamedTuple):
    """Steps that differ in their parameters alone.

    Attributes:
        step: Parameters of one step to the step.
        params: Parameters, steps on a first axis; z_t keeps its shape through them if
            there are several.
    """

    step: Callable[[Any], Step]
    params: Any


def markov_terms(
    key: PRNGKey,
    x: Any,
    first: Conditional,
    stacks: Sequence[Stack],
    *,
    log_likelihood: Callable[[Any], Nats],
    prior_matching: Callable[[Any, Any], Nats],
) -> ElboTerms:
    """The bound (1) on one path z_1, .., z_T from the posterior.

    Args:
        key: Random key, used once.
        x: Observation.
        first: q(z_1 | x).
        stacks: Steps from z_1 to z_T.
        log_likelihood: z_1 to log p(x | z_1).
        prior_matching: (z_{T-1}, z_T), or (x, z_1), to KL(q(z_T | z_{T-1}) || p(z_T))
            or, without a closed form, to the log ratio at z_T.

    Returns:
        Terms in nats; the denoising terms are log q(z_t | z_{t-1}) -
        log p(z_t | z_{t+1}), t = 1 first: signed. In expectation their sum and the
        prior matching are a divergence together, and neither is by itself.

    Raises:
        ValueError: If likelihood and prior matching differ in shape.
    """
    key_first, *keys = jax.random.split(key, 1 + len(stacks))
    z = first.sample(key_first, x)
    reconstruction = log_likelihood(z)
    path = _Path(x, z, first.log_prob(z, x))
    ratios = []
    for key_stack, stack in zip(keys, stacks, strict=True):
        path, climbed = _climb(key_stack, path, stack)
        ratios.append(climbed)
    top = prior_matching(path.below, path.z)
    require("prior_matching(z_{T-1}, z_T)", top, reconstruction.shape)
    return ElboTerms(reconstruction, top, _last_axis(ratios, reconstruction))


class _Path(NamedTuple):
    """Where the climb has come: z_{t-1}, z_t and log q(z_t | z_{t-1})."""

    below: Any
    z: Any
    log_q: Nats


def _climb(key: PRNGKey, path: _Path, stack: Stack) -> tuple[_Path, Array]:
    """Through a stack; the log ratios on a first axis."""

    def rise(path: _Path, inputs: tuple[PRNGKey, Any]) -> tuple[_Path, Nats]:
        key, params = inputs
        step = stack.step(params)
        z = step.encoder.sample(key, path.z)
        ratio = path.log_q - step.decoder.log_prob(path.z, z)
        return _Path(path.z, z, step.encoder.log_prob(z, path.z)), ratio

    keys = jax.random.split(key, _length(stack.params))
    if len(keys) > 1:
        # What is below the stack may have another shape, and is not needed in it.
        path = path._replace(below=path.z)
    return fold(rise, path, (keys, stack.params))


class Inference(NamedTuple):
    """One layer of a top-down pass, given the layers above it.

    Attributes:
        sample: Key to z_t ~ q(z_t | z_{>t}, x), reparameterised.
        divergence: KL(q(z_t | z_{>t}, x) || p(z_t | z_{>t})).
        merge: z_t to the state that the layer below depends on.
    """

    sample: Callable[[PRNGKey], Any]
    divergence: Nats
    merge: Callable[[Any], Any]


class Level(NamedTuple):
    """Layers that differ in their parameters alone, and what leads to them.

    Attributes:
        enter: The state after the level above to the state before the first layer.
        infer: (parameters of one layer, state) to the layer.
        params: Parameters, layers on a first axis.
    """

    enter: Callable[[Any], Any]
    infer: Callable[[Any, Any], Inference]
    params: Any


def top_down_terms(
    key: PRNGKey,
    state: Any,
    levels: Sequence[Level],
    *,
    log_likelihood: Callable[[Any], Nats],
) -> ElboTerms:
    """The bound (2) on one path z_T, .., z_1 from the posterior.

    Args:
        key: Random key, used once.
        state: What the top layer depends on.
        levels: Layers from z_T to z_1.
        log_likelihood: The last state to log p(x | z_1, .., z_T).

    Returns:
        Terms in nats: the top layer's divergence as prior matching, those of the other
        layers as denoising terms, z_1 first.

    Raises:
        ValueError: If there is no level.
    """
    require_positive(levels=len(levels))
    divergences = []
    for key_level, level in zip(
        jax.random.split(key, len(levels)), levels, strict=True
    ):
        state, passed = _descend(key_level, level.enter(state), level)
        divergences.append(passed)
    reconstruction = log_likelihood(state)
    from_top = _last_axis(divergences, reconstruction)
    return ElboTerms(reconstruction, from_top[..., 0], from_top[..., :0:-1])


def _descend(key: PRNGKey, state: Any, level: Level) -> tuple[Any, Array]:
    """Through a level; the divergences on a first axis."""

    def fall(state: Any, inputs: tuple[PRNGKey, Any]) -> tuple[Any, Nats]:
        key, params = inputs
        layer = level.infer(params, state)
        return layer.merge(layer.sample(key)), layer.divergence

    keys = jax.random.split(key, _length(level.params))
    return fold(fall, state, (keys, level.params))


def fold(
    step: Callable[[Any, Any], tuple[Any, Any]],
    carry: Any,
    inputs: Any,
    *,
    reverse: bool = False,
) -> tuple[Any, Any]:
    """``lax.scan``, but a single step may change the shape of what is carried.

    Args:
        step: (carried, inputs of a step) to (carried, outputs of the step).
        carry: What is carried.
        inputs: Inputs, steps on a first axis.
        reverse: Whether the last step comes first.

    Returns:
        What is carried in the end, and outputs, steps on a first axis.
    """
    if _length(inputs) > 1:
        return jax.lax.scan(step, carry, inputs, reverse=reverse)
    carry, outputs = step(carry, jax.tree.map(lambda leaf: leaf[0], inputs))
    return carry, jax.tree.map(lambda leaf: leaf[None], outputs)


def _length(tree: Any) -> int:
    return len(jax.tree.leaves(tree)[0])


def _last_axis(parts: list[Array], like: Nats) -> Array:
    """Parts with layers first, joined, layers last; of length 0 where there are none.

    Layers come first out of a scan, and last in ``ElboTerms``.
    """
    empty = jnp.zeros((0, *like.shape), like.dtype)
    return jnp.moveaxis(jnp.concatenate([empty, *parts]), 0, -1)
