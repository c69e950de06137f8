"""U-Nets of diffusions: at one resolution (VDM) and at several (DDPM)."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.errors import UserError
from vgm.models.convolutions import Conv
from vgm.models.denoisers import TimeEmbedding, Times, Vectors, fourier_features
from vgm.models.initializers import next_to_zero

Images = Float[Array, "batch height width _"]


def _norm(channels: int, dtype: Any) -> nn.GroupNorm:
    # Four channels a group at least: alone at one pixel, a channel would be constant.
    num_groups = math.gcd(32, channels, max(channels // 4, 1))
    return nn.GroupNorm(num_groups=num_groups, dtype=dtype)


class ResidualBlock(nn.Module):
    """Two convolutions, time added between them (Ho et al. 2020, appendix B).

    Attributes:
        channels: Channels of the output.
        dropout: Probability of dropping a unit while training.
        dtype: What it is computed in.
    """

    channels: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: Images, embedding: Vectors, *, train: bool) -> Images:
        """Feature maps of the same size."""
        conv = functools.partial(Conv, self.channels, (3, 3), dtype=self.dtype)
        dense = functools.partial(nn.Dense, self.channels, dtype=self.dtype)
        h = conv()(jax.nn.silu(_norm(x.shape[-1], self.dtype)(x)))
        h = h + dense()(embedding)[:, None, None, :]
        h = jax.nn.silu(_norm(self.channels, self.dtype)(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(h)
        h = conv(kernel_init=next_to_zero)(h)
        if x.shape[-1] != self.channels:
            x = dense()(x)
        return x + h


class Attention(nn.Module):
    """Self-attention with one head over the pixels of a feature map.

    Attributes:
        dtype: What it is computed in.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: Images) -> Images:
        """Feature maps of the same size."""
        batch, height, width, channels = x.shape
        dense = functools.partial(nn.Dense, channels, dtype=self.dtype)
        h = _norm(channels, self.dtype)(x).reshape(batch, height * width, channels)
        query, key, value = (dense()(h) for _ in range(3))
        attended = jax.nn.dot_product_attention(
            query[:, :, None], key[:, :, None], value[:, :, None]
        )[:, :, 0]
        out = dense(kernel_init=next_to_zero)(attended)
        return x + out.reshape(x.shape)


class _Down(nn.Module):
    """A residual block on the way down, its output kept."""

    channels: int
    dropout: float
    dtype: Any
    train: bool

    @nn.compact
    def __call__(self, x: Images, embedding: Vectors) -> tuple[Images, Images]:
        block = ResidualBlock(self.channels, self.dropout, self.dtype)
        x = block(x, embedding, train=self.train)
        return x, x


class _Up(nn.Module):
    """A residual block on the way up, with what was kept."""

    channels: int
    dropout: float
    dtype: Any
    train: bool

    @nn.compact
    def __call__(
        self, x: Images, skip: Images, embedding: Vectors
    ) -> tuple[Images, None]:
        block = ResidualBlock(self.channels, self.dropout, self.dtype)
        both = jnp.concatenate([x, skip], axis=-1)
        return block(both, embedding, train=self.train), None


class VDMUNet(nn.Module):
    """The U-Net without down-sampling of Kingma et al. (2021, appendix B).

    Attributes:
        channels: Channels throughout.
        num_blocks: Residual blocks before the middle; one more after it.
        num_outputs: Outputs a coordinate.
        dropout: Probability of dropping a unit while training.
        exponents: Of the Fourier features; 7 and 8 for 256 levels.
        dtype: What it is computed in; features and outputs are float32.
    """

    channels: int
    num_blocks: int
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: Images, time: Times, context: Vectors | None, *, train: bool
    ) -> Float[Array, "batch height width channels outputs"]:
        """Outputs, zero at the start."""
        embedding = TimeEmbedding(4 * self.channels, self.dtype)(time, context)
        settings = (self.channels, self.dropout, self.dtype)
        # Blocks alike are scanned over: compilation does not grow with their number.
        scanned: Any = functools.partial(
            nn.scan,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
        )
        down = scanned(_Down, in_axes=nn.broadcast, length=self.num_blocks)
        up = scanned(_Up, in_axes=(0, nn.broadcast), length=self.num_blocks + 1)
        block = functools.partial(ResidualBlock, *settings)
        conv = Conv(self.channels, (3, 3), dtype=self.dtype)
        features = fourier_features(z, self.exponents)
        first = conv(features.reshape(*z.shape[:3], -1))
        x, skips = down(*settings, train)(first, embedding)
        x = Attention(self.dtype)(block()(x, embedding, train=train))
        x = block()(x, embedding, train=train)
        skips = jnp.concatenate([first[None], skips])[::-1]
        x, _ = up(*settings, train)(x, skips, embedding)
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
        dtype: What it is computed in; features and outputs are float32.
    """

    channels: int
    multipliers: tuple[int, ...]
    num_blocks: int
    attention: tuple[int, ...]
    num_outputs: int
    dropout: float = 0.0
    exponents: tuple[int, ...] = ()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, z: Images, time: Times, context: Vectors | None, *, train: bool
    ) -> Float[Array, "batch height width channels outputs"]:
        """Outputs, zero at the start."""
        require_halvings(z.shape[1:], len(self.multipliers) - 1)
        embedding = TimeEmbedding(4 * self.channels, self.dtype)(time, context)
        residual = functools.partial(
            ResidualBlock, dropout=self.dropout, dtype=self.dtype
        )
        conv = functools.partial(Conv, kernel_size=(3, 3), dtype=self.dtype)

        def block(x: Images, level: int) -> Images:
            width = self.channels * self.multipliers[level]
            x = residual(width)(x, embedding, train=train)
            return Attention(self.dtype)(x) if level in self.attention else x

        features = fourier_features(z, self.exponents)
        x = conv(self.channels)(features.reshape(*z.shape[:3], -1))
        skips, last = [x], len(self.multipliers) - 1
        for level in range(last + 1):
            if level:
                x = conv(x.shape[-1], strides=(2, 2))(x)
                skips.append(x)
            for _ in range(self.num_blocks):
                skips.append(x := block(x, level))
        x = residual(x.shape[-1])(x, embedding, train=train)
        x = residual(x.shape[-1])(Attention(self.dtype)(x), embedding, train=train)
        for level in range(last, -1, -1):
            for _ in range(self.num_blocks + 1):
                x = block(jnp.concatenate([x, skips.pop()], axis=-1), level)
            if level:
                x = conv(x.shape[-1])(_double(x))
        return _read_out(x, z, self.num_outputs)


def require_halvings(event_shape: tuple[int, ...], num_halvings: int) -> None:
    """Check that an event is an image whose sides can be halved so often.

    Args:
        event_shape: Shape of one example.
        num_halvings: How often.

    Raises:
        UserError: If it is not.
    """
    if len(event_shape) != 3:
        raise UserError(
            "model.architecture needs images (height, width, channels); these data "
            f"are {event_shape}; use model.architecture 'mlp'"
        )
    divisor = 2**num_halvings
    if any(side % divisor for side in event_shape[:2]):
        raise UserError(
            f"model.architecture needs height and width divisible by {divisor}, halved "
            f"{num_halvings} times; got {event_shape}; use fewer model.multipliers, or "
            "model.architecture 'mlp'"
        )


def _double(x: Images) -> Float[Array, "batch double_height double_width _"]:
    """Every pixel four times."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


def _read_out(x: Images, z: Images, num_outputs: int) -> Array:
    """The last layer, in float32."""
    x = jax.nn.silu(_norm(x.shape[-1], jnp.float32)(x))
    x = Conv(z.shape[-1] * num_outputs, (3, 3), kernel_init=next_to_zero)(x)
    return x.reshape(*z.shape, num_outputs)
