"""Families for p(x | z): where a decoder's outputs meet a density.

A decoder emits ``num_outputs`` numbers a coordinate on its last axis. Every function
here takes one example, except ``initial_bias``, which takes a batch of data.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vgm.densities import (
    bernoulli,
    categorical,
    discretized_logistic,
    discretized_logistic_mixture,
    normal,
)
from vgm.errors import UserError
from vgm.types import Masked, PRNGKey, Scalar

Event = Float[Array, "*event"]
Levels = Int[Array, "*event"]
Outputs = Float[Array, "*event outputs"]


class Likelihood(NamedTuple):
    """One family p(x | z), as functions of the decoder's outputs.

    Attributes:
        num_outputs: Numbers the decoder emits for each coordinate.
        features: x on the scale the encoder reads, about [-1, 1] or [0, 1].
        log_prob: (x, outputs) to nats.
        sample: (key, outputs) to x.
        mean: outputs to E[x], on the scale of x.
        initial_bias: A batch of x, and a mask of what is observed of it or None, to the
            outputs that fit each coordinate alone.
    """

    num_outputs: int
    features: Callable[[Any], Event]
    log_prob: Callable[[Any, Outputs], Scalar]
    sample: Callable[[PRNGKey, Outputs], Any]
    mean: Callable[[Outputs], Event]
    initial_bias: Callable[..., Outputs]


def likelihood(
    name: str,
    *,
    levels: int = 2,
    missing: bool = False,
    channels: int = 1,
    num_mixtures: int = 10,
) -> Likelihood:
    """The family called ``name``.

    Args:
        name: bernoulli, categorical, discretized_logistic,
            discretized_logistic_mixture or normal.
        levels: Number of integer levels; used by the families over integers.
        missing: Observations come as ``Masked``.
        channels: Numbers of a pixel, which a mixture couples.
        num_mixtures: Components of a mixture.

    Returns:
        The family's functions.

    Raises:
        UserError: If there is no such family.
    """
    families = {
        "bernoulli": lambda: _BERNOULLI,
        "categorical": lambda: _categorical(levels),
        "discretized_logistic": lambda: _discretized_logistic(levels),
        "discretized_logistic_mixture": lambda: _discretized_logistic_mixture(
            levels, channels, num_mixtures
        ),
        "normal": lambda: _NORMAL,
    }
    if name not in families:
        raise UserError(
            f"model.likelihood must be one of {sorted(families)}; got {name!r}"
        )
    family = families[name]()
    return masked(family) if missing else family


def masked(family: Likelihood) -> Likelihood:
    """The family on observations of which some numbers are missing.

    The likelihood is that of the observed numbers, the encoder reads 0 for the others
    (MIWAE; Mattei & Frellsen 2019, section 2), so every bound is on log p(x observed).

    Args:
        family: Likelihood of independent coordinates.

    Returns:
        The same functions of ``Masked`` observations; samples and means are complete.
    """

    def known(x: Masked) -> Any:
        """The values, with 0 for whatever stands where nothing was observed."""
        return jnp.where(x.observed, x.values, 0).astype(x.values.dtype)

    def log_prob(x: Masked, outputs: Outputs) -> Scalar:
        values = known(x).ravel()
        by_coordinate = jax.vmap(family.log_prob)(
            values, outputs.reshape(values.size, outputs.shape[-1])
        )
        return jnp.sum(jnp.where(x.observed.ravel(), by_coordinate, 0.0))

    return family._replace(
        features=lambda x: jnp.where(x.observed, family.features(known(x)), 0.0),
        log_prob=log_prob,
        initial_bias=lambda x: family.initial_bias(known(x), x.observed),
    )


Observed = Bool[Array, " batch *event"] | None


def _mean(x: Float[Array, " batch *event"], observed: Observed = None) -> Event:
    """Mean over a batch, as a product: a column sum takes 14 times as long on a CPU."""
    flat = x.reshape(len(x), -1)
    ones = jnp.ones(len(x), x.dtype)
    if observed is None:
        return ((ones / len(x)) @ flat).reshape(x.shape[1:])
    weight = observed.reshape(flat.shape).astype(x.dtype)
    # A coordinate that nobody observed has mean 0.
    count = jnp.maximum(ones @ weight, 1.0)
    return (ones @ (weight * flat) / count).reshape(x.shape[1:])


def _std(x: Float[Array, " batch *event"], observed: Observed = None) -> Event:
    return jnp.sqrt(_mean((x - _mean(x, observed)[None]) ** 2, observed))


def _bernoulli_bias(
    x: Float[Array, " batch *event"], observed: Observed = None
) -> Outputs:
    # A pixel that is always 0 starts at log odds of 1 to 999 (Burda et al. 2016).
    mean = jnp.clip(_mean(x, observed), 0.001, 0.999)
    return (jnp.log(mean) - jnp.log1p(-mean))[..., None]


_BERNOULLI = Likelihood(
    num_outputs=1,
    features=lambda x: x,
    log_prob=lambda x, outputs: bernoulli.log_prob(x, outputs[..., 0]),
    sample=lambda key, outputs: bernoulli.sample(key, outputs[..., 0]),
    mean=lambda outputs: jax.nn.sigmoid(outputs[..., 0]),
    initial_bias=_bernoulli_bias,
)


def scale_levels(x: Levels, *, levels: int) -> Event:
    """Integer levels on [-1, 1].

    >>> import jax.numpy as jnp
    >>> float(scale_levels(jnp.asarray(3, jnp.int32), levels=5))
    0.5

    Args:
        x: Levels 0 .. levels - 1.
        levels: Number of levels.

    Returns:
        -1 for the first level, 1 for the last.
    """
    return x.astype(float) * (2.0 / (levels - 1)) - 1.0


@functools.cache
def _categorical(levels: int) -> Likelihood:
    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        # The histogram with one count added to every level. By scattered additions: a
        # comparison with every level at once takes memory for every level.
        event = x.shape[1:]
        offsets = levels * jnp.arange(math.prod(event)).reshape((1, *event))
        known = 1.0 if observed is None else observed.astype(jnp.float32)
        counts = jnp.zeros(math.prod(event) * levels).at[offsets + x].add(known)
        counts = counts.reshape(*event, levels)
        total = jnp.sum(counts, axis=-1, keepdims=True) + levels
        return jnp.log((counts + 1.0) / total)

    def mean(outputs: Outputs) -> Event:
        weights = jax.nn.softmax(outputs, axis=-1)
        return weights @ jnp.arange(levels, dtype=outputs.dtype)

    return Likelihood(
        num_outputs=levels,
        features=functools.partial(scale_levels, levels=levels),
        log_prob=categorical.log_prob,
        sample=categorical.sample,
        mean=mean,
        initial_bias=initial_bias,
    )


@functools.cache
def _discretized_logistic(levels: int) -> Likelihood:
    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        y = scale_levels(x, levels=levels)
        # A constant pixel starts at a scale of one bin; std = scale pi / sqrt(3).
        scale = _std(y, observed) * (jnp.sqrt(3.0) / jnp.pi)
        log_scale = jnp.log(jnp.maximum(scale, 1.0 / (levels - 1)))
        return jnp.stack([_mean(y, observed), log_scale], axis=-1)

    def mean(outputs: Outputs) -> Event:
        # E[x] = sum over the edges between levels of P(x above the edge).
        location, inverse_scale = outputs[..., 0], jnp.exp(-outputs[..., 1])
        edges = (2.0 * jnp.arange(1, levels) - 1.0) / (levels - 1) - 1.0

        def above(edge: Scalar) -> Event:
            return jax.nn.sigmoid((location - edge) * inverse_scale)

        return jnp.sum(jax.vmap(above)(edges.astype(outputs.dtype)), axis=0)

    return Likelihood(
        num_outputs=2,
        features=functools.partial(scale_levels, levels=levels),
        log_prob=lambda x, outputs: discretized_logistic.log_prob(
            x, outputs[..., 0], outputs[..., 1], levels=levels
        ),
        sample=lambda key, outputs: discretized_logistic.sample(
            key, outputs[..., 0], outputs[..., 1], levels=levels
        ),
        mean=mean,
        initial_bias=initial_bias,
    )


@functools.cache
def _discretized_logistic_mixture(
    levels: int, channels: int, num_mixtures: int
) -> Likelihood:
    """A mixture for each pixel with coupled channels (Salimans et al. 2017).

    The numbers of a pixel's mixture are spread over its channels; a few at the end may
    not be used.
    """
    pairs = channels * (channels - 1) // 2
    sizes = (1, channels, channels, pairs)
    num_outputs = -(-num_mixtures * sum(sizes) // channels)
    ends = [num_mixtures * sum(sizes[: count + 1]) for count in range(4)]

    def parameters(outputs: Outputs) -> discretized_logistic_mixture.Parameters:
        pixels = outputs.shape[:-2]
        flat = outputs.reshape(*pixels, channels * num_outputs)
        logits, mean, log_scale, raw, _ = jnp.split(flat, ends, axis=-1)
        shape = (*pixels, num_mixtures)
        return discretized_logistic_mixture.Parameters(
            logits,
            mean.reshape(*shape, channels),
            log_scale.reshape(*shape, channels),
            jnp.tanh(raw).reshape(*shape, pairs),
        )

    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        # Each as wide as the data (a constant number: a bin), for channels may differ;
        # not all at one place, or they would stay alike.
        y = scale_levels(x, levels=levels)
        mean = _mean(y, observed)[..., None, :]
        std = jnp.maximum(_std(y, observed), 1.0 / (levels - 1))[..., None, :]
        places = (jnp.arange(num_mixtures) + 0.5) / num_mixtures - 0.5
        places = places[:, None]
        aligned = places.reshape((1,) * (mean.ndim - 2) + places.shape)
        means = mean + std * aligned
        parts = (
            jnp.zeros(means.shape[:-1]),
            means,
            jnp.broadcast_to(jnp.log(std * (jnp.sqrt(3.0) / jnp.pi)), means.shape),
            jnp.zeros((*means.shape[:-1], pairs)),
        )
        pixels = x.shape[1:-1]
        flat = jnp.concatenate([part.reshape(*pixels, -1) for part in parts], axis=-1)
        unused = channels * num_outputs - flat.shape[-1]
        flat = jnp.pad(flat, [(0, 0)] * len(pixels) + [(0, unused)])
        return flat.reshape(*pixels, channels, num_outputs)

    def mean(outputs: Outputs) -> Event:
        # Of the locations, each channel's shifted by those before it: E[x] but for the
        # mass at the ends and for scales.
        logits, location, _, coupling = parameters(outputs)
        shifted: list[Array] = []
        for channel in range(channels):
            # Row ``channel`` of the lower triangle, row by row.
            first = channel * (channel - 1) // 2
            shift = location[..., channel]
            for number, before in enumerate(shifted):
                shift = shift + coupling[..., first + number] * before
            shifted.append(jnp.clip(shift, -1.0, 1.0))
        weights = jax.nn.softmax(logits, axis=-1)[..., None]
        unit = jnp.sum(weights * jnp.stack(shifted, -1), axis=-2)
        return (unit + 1.0) * ((levels - 1) / 2.0)

    return Likelihood(
        num_outputs=num_outputs,
        features=functools.partial(scale_levels, levels=levels),
        log_prob=lambda x, outputs: discretized_logistic_mixture.log_prob(
            x, parameters(outputs), levels=levels
        ),
        sample=lambda key, outputs: discretized_logistic_mixture.sample(
            key, parameters(outputs), levels=levels
        ),
        mean=mean,
        initial_bias=initial_bias,
    )


def _normal_bias(
    x: Float[Array, " batch *event"], observed: Observed = None
) -> Outputs:
    # A constant coordinate would start at log 0; its scale starts at 1e-3.
    log_std = jnp.log(jnp.maximum(_std(x, observed), 1e-3))
    return jnp.stack([_mean(x, observed), log_std], axis=-1)


_NORMAL = Likelihood(
    num_outputs=2,
    features=lambda x: x,
    log_prob=lambda x, outputs: normal.log_prob(x, outputs[..., 0], outputs[..., 1]),
    sample=lambda key, outputs: normal.sample(key, outputs[..., 0], outputs[..., 1]),
    mean=lambda outputs: outputs[..., 0],
    initial_bias=_normal_bias,
)
