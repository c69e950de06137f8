"""Networks of diffusions: (z, time, context) to ``num_outputs`` numbers a coordinate.

Batch-free, as all networks here. ``time`` is gamma scaled to [0, 1] between its ends.
Features of time and the Fourier features of z are computed in float32 whatever the rest
is computed in: their frequencies are beyond what bfloat16 resolves.
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.models.initializers import next_to_zero
from vgm.models.networks import Vectors
from vgm.shapes import rows

Times = Float[Array, " batch"]


def time_features(time: Times, num_features: int) -> Vectors:
    """Sines and cosines of 1000 time, wavelengths from 2 pi to 2 pi 10^4.

    As in Ho et al. (2020), whose time ran to 1000.

    Args:
        time: Times in [0, 1].
        num_features: Number of features, even.

    Returns:
        Features between -1 and 1.
    """
    half = num_features // 2
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(half) / max(half - 1, 1))
    angles = 1000.0 * time[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def fourier_features(
    z: Float[Array, " batch *event"], exponents: tuple[int, ...]
) -> Float[Array, " batch *event features"]:
    """Latents, and sin and cos of 2^n pi z (Kingma et al. 2021).

    What lets a network see the last bits of a nearly clean image.

    Args:
        z: Latents.
        exponents: Each n.

    Returns:
        One number and two for each exponent, on a last axis.
    """
    parts = [z]
    for exponent in exponents:
        angle = 2.0**exponent * jnp.pi * z
        parts += [jnp.sin(angle), jnp.cos(angle)]
    return jnp.stack(parts, axis=-1)


class TimeEmbedding(nn.Module):
    """Features of time and context through two layers.

    Attributes:
        num_features: Width.
        dtype: What it is computed in, but for its features.
    """

    num_features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, time: Times, context: Vectors | None) -> Vectors:
        """One vector an example."""
        dense = functools.partial(nn.Dense, self.num_features, dtype=self.dtype)
        x = dense()(time_features(time, self.num_features))
        if context is not None:
            x = x + dense(use_bias=False)(context)
        return jax.nn.silu(dense()(jax.nn.silu(x)))


class MLPDenoiser(nn.Module):
    """Residual blocks on flattened data, time added inside each.

    Attributes:
        width: Width of the blocks.
        num_blocks: Number of blocks.
        num_outputs: Outputs a coordinate.
        dropout: Probability of dropping a unit while training.
        exponents: Of the Fourier features.
        dtype: What it is computed in; features and outputs are float32.
    """

    width: int
    num_blocks: int
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        z: Float[Array, " batch *event"],
        time: Times,
        context: Vectors | None,
        *,
        train: bool,
    ) -> Float[Array, " batch *event outputs"]:
        """Outputs, zero at the start."""
        dense = functools.partial(nn.Dense, self.width, dtype=self.dtype)
        norm = functools.partial(nn.LayerNorm, dtype=self.dtype)
        embedding = TimeEmbedding(self.width, self.dtype)(time, context)
        h = dense()(rows(fourier_features(z, self.exponents)))
        for _ in range(self.num_blocks):
            inner = dense()(jax.nn.silu(norm()(h))) + dense()(embedding)
            inner = jax.nn.silu(norm()(inner))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + dense(kernel_init=next_to_zero)(inner)
        num_outputs = math.prod(z.shape[1:]) * self.num_outputs
        outputs = nn.Dense(num_outputs, kernel_init=next_to_zero, dtype=jnp.float32)
        x = outputs(jax.nn.silu(norm()(h)))
        return x.reshape(*z.shape, self.num_outputs)
