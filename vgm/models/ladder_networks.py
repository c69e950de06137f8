"""Networks of a ladder: residual bottlenecks on feature maps (Child 2021).

Batch-free, like all networks here; what scales with depth starts smaller the deeper.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.models.conditions import require_context
from vgm.models.convolutions import Conv
from vgm.models.initializers import next_to_zero
from vgm.models.networks import ACTIVATIONS, Vectors

Maps = Float[Array, "batch _ _ _"]

MAX_LOG_STD = 5.0
"""Log standard deviations of priors stay within this bound, smoothly (Vahdat & Kautz
2020), and so does how far the posteriors' are from them."""


def soft_bound(x: Maps) -> Maps:
    """Bounded by ``MAX_LOG_STD``, the identity near 0.

    Args:
        x: Numbers.

    Returns:
        Numbers within the bound.
    """
    return MAX_LOG_STD * jnp.tanh(x / MAX_LOG_STD)


def scaled(depth: int) -> Any:
    """The usual initialiser over the root of the depth, so that sums keep their size.

    Args:
        depth: How many outputs like this are added up.

    Returns:
        The initialiser.
    """
    return nn.initializers.variance_scaling(1.0 / depth, "fan_in", "truncated_normal")


class Bottleneck(nn.Module):
    """Narrow, look around, widen: 1x1, 3x3 and 1x1 convolutions.

    Attributes:
        hidden: Channels in between.
        channels: Channels of the output.
        depth: How many outputs like this are added up; 0 to start at 0.
        activation: A name of ``ACTIVATIONS``.
        dropout: Probability of dropping a hidden unit while training.
    """

    hidden: int
    channels: int
    depth: int
    activation: str = "relu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Maps, *, train: bool) -> Maps:
        """Feature maps of the same size."""
        act = ACTIVATIONS[self.activation]
        h = nn.Dense(self.hidden)(act(x))
        # At one pixel there is nothing to look around at.
        side = 3 if x.shape[1] > 1 else 1
        h = Conv(self.hidden, (side, side))(act(h))
        h = nn.Dropout(self.dropout, deterministic=not train)(act(h))
        init = scaled(self.depth) if self.depth else next_to_zero
        return nn.Dense(self.channels, kernel_init=init)(h)


class Residual(nn.Module):
    """A bottleneck added to what it reads.

    Attributes:
        bottleneck: Bottleneck with as many channels as it reads.
    """

    bottleneck: Bottleneck

    @nn.compact
    def __call__(self, x: Maps, *, train: bool) -> Maps:
        """Feature maps of the same shape."""
        return x + self.bottleneck(x, train=train)


class Stem(nn.Module):
    """Patches of an image as feature maps.

    Attributes:
        side: Patches along a side.
        channels: Channels.
    """

    side: int
    channels: int

    @nn.compact
    def __call__(self, x: Maps) -> Maps:
        """Feature maps of ``side`` by ``side``."""
        batch, height, _, colours = x.shape
        patch = height // self.side
        x = x.reshape(batch, self.side, patch, self.side, patch, colours)
        x = jnp.swapaxes(x, 2, 3).reshape(batch, self.side, self.side, -1)
        return nn.Dense(self.channels)(x)


class Head(nn.Module):
    """An image from feature maps, each pixel of them a patch; 0 at the start.

    Attributes:
        output_shape: (height, width, channels, num_outputs).
        activation: A name of ``ACTIVATIONS``.
    """

    output_shape: tuple[int, int, int, int]
    activation: str = "relu"

    @nn.compact
    def __call__(self, x: Maps) -> Float[Array, "batch height width channels outputs"]:
        """Outputs of p(x | z), before the output bias."""
        batch, side = x.shape[:2]
        height, _, *outputs = self.output_shape
        patch = height // side
        x = nn.Dense(patch * patch * math.prod(outputs), kernel_init=next_to_zero)(
            ACTIVATIONS[self.activation](x)
        )
        x = x.reshape(batch, side, side, patch, patch, -1)
        return jnp.swapaxes(x, 2, 3).reshape(batch, *self.output_shape)


class Entrance(nn.Module):
    """What a resolution starts from: the state above, enlarged, and a learned map.

    Attributes:
        side: Pixels along a side.
        channels: Channels.
    """

    side: int
    channels: int

    @nn.compact
    def __call__(self, state: Maps, context: Vectors | None) -> Maps:
        """The state before the first layer of the resolution."""
        require_context(self, context, len(state))
        factor = self.side // state.shape[1]
        enlarged = jnp.repeat(jnp.repeat(state, factor, axis=1), factor, axis=2)
        shape = (self.side, self.side, self.channels)
        learned = self.param("map", nn.initializers.normal(0.02), shape)
        enlarged = enlarged + jnp.asarray(learned)[None]
        if context is None:
            return enlarged
        added = nn.Dense(self.channels, use_bias=False)(context)
        return enlarged + added[:, None, None, :]


class LadderLayer(nn.Module):
    """One latent layer of a ladder: prior, posterior relative to it, and what follows.

    Attributes:
        channels: Channels of the state.
        latent_dim: Channels of z.
        hidden: Channels within the bottlenecks.
        depth: Layers of the ladder.
        activation: A name of ``ACTIVATIONS``.
        dropout: Probability of dropping a hidden unit while training.
    """

    channels: int
    latent_dim: int
    hidden: int
    depth: int
    activation: str = "relu"
    dropout: float = 0.0

    def setup(self) -> None:
        """Networks; both densities start at N(0, I)."""
        size = self.latent_dim
        like = self.activation, self.dropout
        self.prior_net = Bottleneck(self.hidden, 2 * size + self.channels, 0, *like)
        self.posterior_net = Bottleneck(self.hidden, 2 * size, 0, *like)
        self.widen = nn.Dense(self.channels, kernel_init=scaled(self.depth))
        self.after = Bottleneck(self.hidden, self.channels, self.depth, *like)

    def __call__(self, state: Maps, features: Maps) -> Maps:
        """All networks once, for their parameters."""
        mean, log_std, residual = self.prior(state, train=False)
        mean, _ = self.posterior(state, features, mean, log_std, train=False)
        return self.merge(state, residual, mean, train=False)

    def prior(self, state: Maps, *, train: bool) -> tuple[Maps, Maps, Maps]:
        """Mean and log standard deviation of p(z | above), and a residual."""
        size = self.latent_dim
        outputs = self.prior_net(state, train=train)
        mean, log_std, residual = jnp.split(outputs, (size, 2 * size), axis=-1)
        return mean, soft_bound(log_std), residual

    def posterior(
        self, state: Maps, features: Maps, mean: Maps, log_std: Maps, *, train: bool
    ) -> tuple[Maps, Maps]:
        """Those of q(z | above, x): the prior's, and how far it is from them."""
        both = jnp.concatenate([state, features], axis=-1)
        shift, stretch = jnp.split(self.posterior_net(both, train=train), 2, axis=-1)
        return mean + shift, log_std + soft_bound(stretch)

    def merge(self, state: Maps, residual: Maps, z: Maps, *, train: bool) -> Maps:
        """The state below the layer."""
        state = state + residual + self.widen(z)
        return state + self.after(state, train=train)
