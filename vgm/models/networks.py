"""Encoders and decoders. Batch-free: a network over a batch equals it over each row.

Encoders map (x, condition) to the parameters of q(z | x); decoders map (z, condition)
to ``num_outputs`` numbers a coordinate. Conditions are a vector an example, or None.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from jaxtyping import Array, Float

from vgm.errors import UserError
from vgm.models.conditions import require_context
from vgm.models.convolutions import Conv, ConvTranspose
from vgm.models.initializers import INITIALIZERS, next_to_zero
from vgm.shapes import rows
from vgm.types import Params, PRNGKey

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "silu": jax.nn.silu,
    "gelu": jax.nn.gelu,
}

Vectors = Float[Array, "batch _"]


def _join(x: Vectors, condition: Vectors | None) -> Vectors:
    return x if condition is None else jnp.concatenate([x, condition], axis=-1)


class MLP(nn.Module):
    """Hidden layers with one activation, then a linear layer.

    Attributes:
        hidden: Widths of the hidden layers.
        num_outputs: Width of the linear layer.
        output_init: A name of ``INITIALIZERS``, for the linear layer; next to
            zero, a decoder starts at its output bias, the fit of each coordinate alone.
        activation: A name of ``ACTIVATIONS``.
        kernel_init: A name of ``INITIALIZERS``.
        dropout: Probability of dropping a hidden unit while training.
        use_output_bias: Whether the linear layer has a bias.
    """

    hidden: tuple[int, ...]
    num_outputs: int
    output_init: str
    activation: str = "relu"
    kernel_init: str = "lecun_normal"
    dropout: float = 0.0
    use_output_bias: bool = True

    @nn.compact
    def __call__(self, x: Vectors, *, train: bool = False) -> Vectors:
        """Outputs for a batch of vectors."""
        kernel_init = INITIALIZERS[self.kernel_init]
        for width in self.hidden:
            x = nn.Dense(width, kernel_init=kernel_init)(x)
            x = ACTIVATIONS[self.activation](x)
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(
            self.num_outputs,
            kernel_init=INITIALIZERS[self.output_init],
            use_bias=self.use_output_bias,
        )(x)


class ConditionalMLP(nn.Module):
    """Numbers from an event and a condition: an encoder, a decoder, a conditioner.

    Attributes:
        mlp: Network with one output for each number of ``output_shape``.
        output_shape: Shape of one example's outputs.
    """

    mlp: MLP
    output_shape: tuple[int, ...]

    @nn.compact
    def __call__(
        self,
        x: Float[Array, " batch *event"],
        condition: Vectors | None,
        *,
        train: bool,
    ) -> Float[Array, " batch *outputs"]:
        """Outputs for a batch of events."""
        flat = _join(rows(x), condition)
        return self.mlp(flat, train=train).reshape(len(x), *self.output_shape)


class ConvEncoder(nn.Module):
    """Parameters of q(z | x) from images, halving the size twice.

    Attributes:
        channels: Channels of the first layer; the second has twice as many.
        head: Network with as many outputs as the family of q has parameters.
        activation: A name of ``ACTIVATIONS``.
    """

    channels: int
    head: MLP
    activation: str = "relu"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        condition: Vectors | None,
        *,
        train: bool,
    ) -> Vectors:
        """Parameters of q(z | x)."""
        for channels in (self.channels, 2 * self.channels):
            x = Conv(channels, (4, 4), strides=(2, 2))(x)
            x = ACTIVATIONS[self.activation](x)
        flat = _join(rows(x), condition)
        return self.head(flat, train=train)


class ConvDecoder(nn.Module):
    """Outputs of p(x | z) for images, doubling the size twice.

    Attributes:
        channels: Channels before the last layer; the layer below has twice as many.
        stem: Network whose outputs fill the smallest feature map.
        output_shape: (height, width, channels, num_outputs).
        activation: A name of ``ACTIVATIONS``.
    """

    channels: int
    stem: MLP
    output_shape: tuple[int, int, int, int]
    activation: str = "relu"

    @nn.compact
    def __call__(
        self, z: Vectors, condition: Vectors | None, *, train: bool
    ) -> Float[Array, "batch height width channels outputs"]:
        """Outputs of p(x | z), before the output bias."""
        height, width, *outputs = self.output_shape
        act = ACTIVATIONS[self.activation]
        x = act(self.stem(_join(z, condition), train=train))
        x = x.reshape(len(z), height // 4, width // 4, 2 * self.channels)
        x = act(ConvTranspose(self.channels, (4, 4), strides=(2, 2))(x))
        last = ConvTranspose(
            math.prod(outputs),
            (4, 4),
            strides=(2, 2),
            kernel_init=next_to_zero,
        )
        return last(x).reshape(len(z), *self.output_shape)


def apply(
    module: Any, params: Params, *args: Any, key: PRNGKey | None = None, **kw: Any
) -> Any:
    """What a network makes of its inputs; with a key, under dropout.

    Args:
        module: Module.
        params: Its parameters.
        *args: What it reads.
        key: Key for dropout, or None.
        **kw: How.

    Returns:
        Its outputs.

    Raises:
        UserError: If the parameters are of other inputs.
    """
    rngs = None if key is None else {"dropout": key}
    try:
        outputs = module.apply(params, *args, train=key is not None, rngs=rngs, **kw)
    except (ScopeParamShapeError, ScopeParamNotFoundError) as e:
        raise UserError(f"parameters, x or condition are of another shape: {e}") from e
    return jax.tree.map(jnp.asarray, outputs)


def init_alike(key: PRNGKey, count: int, module: Any, *args: Any, **kw: Any) -> Params:
    """Parameters of several modules alike, on a first axis.

    Args:
        key: Random key, used once.
        count: How many.
        module: Module.
        *args: What it reads.
        **kw: How.

    Returns:
        Parameters.
    """
    keys = jax.random.split(key, count)
    return jax.vmap(lambda key: module.init(key, *args, **kw))(keys)


def require_layer(layer: int, num_layers: int) -> None:
    """Check the number of a layer of a hierarchy.

    Args:
        layer: Number of the layer, from 1.
        num_layers: How many there are.

    Raises:
        ValueError: If there is no such layer.
    """
    if not 1 <= layer <= num_layers:
        raise ValueError(f"layer must be from 1 to {num_layers}; got {layer}")


def require_image(event_shape: tuple[int, ...]) -> None:
    """Check that an event can be halved twice.

    Args:
        event_shape: Shape of one example.

    Raises:
        UserError: If it is no (height, width, channels) with sides divisible by 4.
    """
    if len(event_shape) != 3 or event_shape[0] % 4 or event_shape[1] % 4:
        raise UserError(
            "model.architecture 'conv' needs (height, width, channels) with height and "
            f"width divisible by 4; got {event_shape}; use 'mlp', or store images with "
            "their axis of channels, [examples, height, width, 1]"
        )


class VelocityMLP(nn.Module):
    """The velocity of a continuous flow, smooth in time if its activation is smooth.

    Attributes:
        mlp: Network with one output for each number of the event.
    """

    mlp: MLP

    @nn.compact
    def __call__(
        self,
        x: Float[Array, " batch *event"],
        time: Float[Array, " batch"],
        context: Vectors | None,
        *,
        train: bool,
    ) -> Float[Array, " batch *event"]:
        """dx/dt at a time, 0 at the start."""
        flat = jnp.concatenate([rows(x), time[:, None]], axis=-1)
        return self.mlp(_join(flat, context), train=train).reshape(x.shape)


class ConvConditioner(nn.Module):
    """Parameters for every number of an image from another of the same size.

    3x3, 1x1 and 3x3 convolutions, the last one 0 at the start (Kingma & Dhariwal 2018).

    Attributes:
        width: Channels of the hidden layers.
        num_channels: Channels of the image that is mapped.
        num_params: Parameters of each number.
    """

    width: int
    num_channels: int
    num_params: int

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        context: Vectors | None,
        *,
        train: bool,
    ) -> Float[Array, "batch height width outputs params"]:
        """Parameters; a context is added to the first hidden layer."""
        del train  # no dropout
        require_context(self, context, len(x))
        hidden = Conv(self.width, (3, 3))(x)
        if context is not None:
            added = nn.Dense(self.width, use_bias=False)(context)
            hidden = hidden + added[:, None, None, :]
        hidden = Conv(self.width, (1, 1))(jax.nn.relu(hidden))
        outputs = Conv(
            self.num_channels * self.num_params,
            (3, 3),
            kernel_init=next_to_zero,
        )(jax.nn.relu(hidden))
        return outputs.reshape(*x.shape[:-1], self.num_channels, self.num_params)
