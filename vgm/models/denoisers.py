"""Networks of diffusions: (z, time, context) to ``num_outputs`` numbers a coordinate.

Batch-free, as all networks here. ``time`` is gamma scaled to [0, 1] between its ends.
Features of time and the Fourier features of z are computed in float32 whatever the rest
is computed in: their frequencies are beyond what bfloat16 resolves.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.errors import UserError

Times = Float[Array, " batch"]
Vectors = Float[Array, "batch _"]
Images = Float[Array, "batch height width _"]
ZEROS = nn.initializers.zeros


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
    """Latents, and sin and cos of 2^n pi z (Kingma et al. 2021, section 5.1).

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
    """

    num_features: int

    @nn.compact
    def __call__(self, time: Times, context: Vectors | None) -> Vectors:
        """One vector an example."""
        x = nn.Dense(self.num_features)(time_features(time, self.num_features))
        if context is not None:
            x = x + nn.Dense(self.num_features, use_bias=False)(context)
        return jax.nn.silu(nn.Dense(self.num_features)(jax.nn.silu(x)))


class MLPDenoiser(nn.Module):
    """Residual blocks on flattened data, time added inside each.

    Attributes:
        width: Width of the blocks.
        num_blocks: Number of blocks.
        num_outputs: Outputs a coordinate.
        dropout: Probability of dropping a unit while training.
        exponents: Of the Fourier features.
    """

    width: int
    num_blocks: int
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()

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
        embedding = TimeEmbedding(self.width)(time, context)
        h = nn.Dense(self.width)(
            fourier_features(z, self.exponents).reshape(len(z), -1)
        )
        for _ in range(self.num_blocks):
            inner = nn.Dense(self.width)(jax.nn.silu(nn.LayerNorm()(h)))
            inner = jax.nn.silu(nn.LayerNorm()(inner + nn.Dense(self.width)(embedding)))
            inner = nn.Dropout(self.dropout, deterministic=not train)(inner)
            h = h + nn.Dense(self.width, kernel_init=ZEROS)(inner)
        outputs = nn.Dense(math.prod(z.shape[1:]) * self.num_outputs, kernel_init=ZEROS)
        x = outputs(jax.nn.silu(nn.LayerNorm()(h)))
        return x.reshape(*z.shape, self.num_outputs)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups=math.gcd(32, channels))


class ResidualBlock(nn.Module):
    """Two convolutions, time added between them (Ho et al. 2020, appendix B).

    Attributes:
        channels: Channels of the output.
        dropout: Probability of dropping a unit while training.
    """

    channels: int
    dropout: float

    @nn.compact
    def __call__(self, x: Images, embedding: Vectors, *, train: bool) -> Images:
        """Feature maps of the same size."""
        h = jax.nn.silu(_norm(x.shape[-1])(x))
        h = nn.Conv(self.channels, (3, 3))(h)
        h = h + nn.Dense(self.channels)(embedding)[:, None, None, :]
        h = jax.nn.silu(_norm(self.channels)(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = nn.Conv(self.channels, (3, 3), kernel_init=ZEROS)(h)
        if x.shape[-1] != self.channels:
            x = nn.Dense(self.channels)(x)
        return x + h


class Attention(nn.Module):
    """Self-attention with one head over the pixels of a feature map."""

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Feature maps of the same size."""
        batch, height, width, channels = x.shape
        h = _norm(channels)(x).reshape(batch, height * width, channels)
        query, key, value = (nn.Dense(channels)(h) for _ in range(3))
        attended = jax.nn.dot_product_attention(
            query[:, :, None], key[:, :, None], value[:, :, None]
        )[:, :, 0]
        out = nn.Dense(channels, kernel_init=ZEROS)(attended)
        return x + out.reshape(x.shape)


class VDMUNet(nn.Module):
    """The U-Net without down-sampling of Kingma et al. (2021, appendix B).

    Attributes:
        channels: Channels throughout.
        num_blocks: Residual blocks before the middle; one more after it.
        num_outputs: Outputs a coordinate.
        dropout: Probability of dropping a unit while training.
        exponents: Of the Fourier features; 6 and 7 for 256 levels.
    """

    channels: int
    num_blocks: int
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, z: Images, time: Times, context: Vectors | None, *, train: bool
    ) -> Float[Array, "batch height width channels outputs"]:
        """Outputs, zero at the start."""
        embedding = TimeEmbedding(4 * self.channels)(time, context)

        def block(x: Images) -> Images:
            return ResidualBlock(self.channels, self.dropout)(x, embedding, train=train)

        features = fourier_features(z, self.exponents)
        x = nn.Conv(self.channels, (3, 3))(features.reshape(*z.shape[:3], -1))
        skips = [x]
        for _ in range(self.num_blocks):
            skips.append(x := block(x))
        x = block(Attention()(block(x)))
        for _ in range(self.num_blocks + 1):
            x = block(jnp.concatenate([x, skips.pop()], axis=-1))
        return _read_out(x, z, self.num_outputs)


class DDPMUNet(nn.Module):
    """The U-Net of several resolutions of Ho et al. (2020, appendix B).

    Attributes:
        channels: Channels at full resolution.
        multipliers: Of the channels at each resolution, each half of the one before.
        num_blocks: Residual blocks a resolution on the way down; one more on the way
            up.
        attention: Resolutions, by number, with self-attention.
        num_outputs: Outputs a coordinate.
        dropout: Probability of dropping a unit while training.
        exponents: Of the Fourier features.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int
    attention: tuple[int, ...]
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()

    @nn.compact
    def __call__(
        self, z: Images, time: Times, context: Vectors | None, *, train: bool
    ) -> Float[Array, "batch height width channels outputs"]:
        """Outputs, zero at the start."""
        embedding = TimeEmbedding(4 * self.channels)(time, context)

        def block(x: Images, level: int) -> Images:
            width = self.channels * self.multipliers[level]
            x = ResidualBlock(width, self.dropout)(x, embedding, train=train)
            return Attention()(x) if level in self.attention else x

        features = fourier_features(z, self.exponents)
        x = nn.Conv(self.channels, (3, 3))(features.reshape(*z.shape[:3], -1))
        skips, last = [x], len(self.multipliers) - 1
        for level in range(last + 1):
            for _ in range(self.num_blocks):
                skips.append(x := block(x, level))
            if level < last:
                x = nn.Conv(x.shape[-1], (3, 3), strides=(2, 2))(x)
                skips.append(x)
        width = self.channels * self.multipliers[-1]
        x = ResidualBlock(width, self.dropout)(x, embedding, train=train)
        x = ResidualBlock(width, self.dropout)(Attention()(x), embedding, train=train)
        for level in range(last, -1, -1):
            for _ in range(self.num_blocks + 1):
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), level)
            if level:
                batch, height, side, channels = x.shape
                larger = (batch, 2 * height, 2 * side, channels)
                x = nn.Conv(channels, (3, 3))(jax.image.resize(x, larger, "nearest"))
        return _read_out(x, z, self.num_outputs)


def _read_out(x: Images, z: Images, num_outputs: int) -> Array:
    x = jax.nn.silu(_norm(x.shape[-1])(x))
    x = nn.Conv(z.shape[-1] * num_outputs, (3, 3), kernel_init=ZEROS)(x)
    return x.reshape(*z.shape, num_outputs)


def require_halvings(event_shape: tuple[int, ...], num_halvings: int) -> None:
    """Check that an event is an image whose sides can be halved so often.

    Args:
        event_shape: Shape of one example.
        num_halvings: How often.

    Raises:
        UserError: If it is not.
    """
    divisor = 2**num_halvings
    if len(event_shape) != 3 or any(side % divisor for side in event_shape[:2]):
        raise UserError(
            f"model.architecture needs (height, width, channels) with height and width "
            f"divisible by {divisor}, halved {num_halvings} times; got {event_shape}; "
            "use fewer model.multipliers, or model.architecture 'mlp'"
        )
