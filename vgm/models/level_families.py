"""Families for p(x | z) over integer levels."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vgm import densities
from vgm.densities.levels import integers, scale_levels
from vgm.models.families import (
    Event,
    Likelihood,
    Observed,
    Outputs,
    batch_moments,
)
from vgm.precision import matmul
from vgm.types import Scalar


@functools.cache
def categorical(levels: int) -> Likelihood:
    """A mass for each level of each number.

    Args:
        levels: Number of levels.

    Returns:
        The family.
    """

    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        # The histogram with one count added to every level. By scattered additions: a
        # comparison with every level at once takes memory for every level.
        x, event = integers(x, levels), x.shape[1:]
        offsets = levels * jnp.arange(math.prod(event)).reshape((1, *event))
        known = 1.0 if observed is None else observed.astype(jnp.float32)
        counts = jnp.zeros(math.prod(event) * levels).at[offsets + x].add(known)
        counts = counts.reshape(*event, levels)
        total = jnp.sum(counts, axis=-1, keepdims=True) + levels
        return jnp.log((counts + 1.0) / total)

    def mean(outputs: Outputs) -> Event:
        weights = jax.nn.softmax(outputs, axis=-1)
        return matmul(weights, jnp.arange(levels, dtype=outputs.dtype))

    return Likelihood(
        num_outputs=levels,
        features=functools.partial(scale_levels, levels=levels),
        log_prob=densities.categorical.log_prob,
        sample=densities.categorical.sample,
        mean=mean,
        initial_bias=initial_bias,
    )


@functools.cache
def discretized_logistic(levels: int) -> Likelihood:
    """The mass of a logistic on the bin of each level (Salimans et al. 2017).

    Args:
        levels: Number of levels.

    Returns:
        The family.
    """

    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        y = scale_levels(x, levels=levels)
        # A constant pixel starts at a scale of half a bin; std = scale pi / sqrt(3).
        mean, std = batch_moments(y, observed)
        scale = std * (jnp.sqrt(3.0) / jnp.pi)
        log_scale = jnp.log(jnp.maximum(scale, 1.0 / (levels - 1)))
        return jnp.stack([mean, log_scale], axis=-1)

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
        log_prob=lambda x, outputs: densities.discretized_logistic.log_prob(
            x, outputs[..., 0], outputs[..., 1], levels=levels
        ),
        sample=lambda key, outputs: densities.discretized_logistic.sample(
            key, outputs[..., 0], outputs[..., 1], levels=levels
        ),
        mean=mean,
        initial_bias=initial_bias,
    )


@functools.cache
def discretized_logistic_mixture(
    levels: int, channels: int, num_mixtures: int
) -> Likelihood:
    """A mixture for each pixel with coupled channels (Salimans et al. 2017).

    The numbers of a pixel's mixture are spread over its channels; a few at the end may
    not be used.

    Args:
        levels: Number of levels.
        channels: Numbers of a pixel.
        num_mixtures: Components.

    Returns:
        The family.
    """
    pairs = channels * (channels - 1) // 2
    sizes = (1, channels, channels, pairs)
    num_outputs = -(-num_mixtures * sum(sizes) // channels)
    ends = [num_mixtures * sum(sizes[: count + 1]) for count in range(4)]

    def parameters(
        outputs: Outputs,
    ) -> densities.discretized_logistic_mixture.Parameters:
        pixels = outputs.shape[:-2]
        flat = outputs.reshape(*pixels, channels * num_outputs)
        logits, mean, log_scale, raw, _ = jnp.split(flat, ends, axis=-1)
        shape = (*pixels, num_mixtures)
        return densities.discretized_logistic_mixture.Parameters(
            logits,
            mean.reshape(*shape, channels),
            log_scale.reshape(*shape, channels),
            jnp.tanh(raw).reshape(*shape, pairs),
        )

    def initial_bias(
        x: Int[Array, " batch *event"], observed: Observed = None
    ) -> Outputs:
        # Each as wide as the data (a constant: half a bin), for channels may differ;
        # not all at one place, or they would stay alike.
        y = scale_levels(x, levels=levels)
        mean, std = batch_moments(y, observed)
        mean = mean[..., None, :]
        std = jnp.maximum(std, 1.0 / (levels - 1))[..., None, :]
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
        log_prob=lambda x, outputs: densities.discretized_logistic_mixture.log_prob(
            x, parameters(outputs), levels=levels
        ),
        sample=lambda key, outputs: densities.discretized_logistic_mixture.sample(
            key, parameters(outputs), levels=levels
        ),
        mean=mean,
        initial_bias=initial_bias,
    )
