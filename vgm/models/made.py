"""The masked autoencoder: outputs for x_i that read x_1 .. x_{i-1} alone.

MADE (Germain et al. 2015) with the natural order, one mask and direct connections.
"""

import functools

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.models.conditions import require_context
from vgm.models.initializers import INITIALIZERS, next_to_zero
from vgm.models.networks import ACTIVATIONS, Vectors

Degrees = Int[Array, " _"]


def hidden_degrees(width: int, dim: int) -> Degrees:
    """How many numbers each hidden unit may read: 1 to dim - 1, in turn (eq. 8).

    >>> hidden_degrees(4, 3).tolist()
    [1, 2, 1, 2]

    Args:
        width: Hidden units.
        dim: Numbers.

    Returns:
        Degrees; 0 where there is a single number.
    """
    return jnp.arange(width) % max(dim - 1, 1) + min(dim - 1, 1)


class MaskedDense(nn.Module):
    """A linear layer some of whose connections are cut.

    Attributes:
        features: Width.
        kernel_init: A name of ``INITIALIZERS``.
        use_bias: Whether it has a bias.
    """

    features: int
    kernel_init: str = "lecun_normal"
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Vectors, mask: Float[Array, "_ _"]) -> Vectors:
        """Outputs for a batch of vectors."""
        kernel_init = INITIALIZERS[self.kernel_init]
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features))
        outputs = x @ (mask * jnp.asarray(kernel))
        if not self.use_bias:
            return outputs
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return outputs + jnp.asarray(bias)[None]


class MADE(nn.Module):
    """Masked layers; zero at the start.

    Attributes:
        hidden: Widths of the hidden layers.
        num_params: Outputs of each number.
        activation: A name of ``ACTIVATIONS``.
        dropout: Probability of dropping a hidden unit while training.
        use_output_bias: Whether the last layer has a bias.
    """

    hidden: tuple[int, ...]
    num_params: int
    activation: str = "relu"
    dropout: float = 0.0
    use_output_bias: bool = True

    @nn.compact
    def __call__(
        self, x: Vectors, context: Vectors | None, *, train: bool
    ) -> Float[Array, "batch dim params"]:
        """Outputs of every number; the context is read by all."""
        require_context(self, context, len(x))
        dim = x.shape[-1]
        inputs = jnp.arange(dim) + 1
        outputs = jnp.repeat(inputs, self.num_params)
        last = functools.partial(
            MaskedDense, dim * self.num_params, kernel_init="next_to_zero"
        )
        value, degrees = x, inputs
        for width in self.hidden:
            below, degrees = degrees, hidden_degrees(width, dim)
            mask = (degrees[None] >= below[:, None]).astype(x.dtype)
            value = MaskedDense(width)(value, mask)
            if context is not None:
                value = value + nn.Dense(width, use_bias=False)(context)
            value = ACTIVATIONS[self.activation](value)
            value = nn.Dropout(self.dropout, deterministic=not train)(value)
        strict = (outputs[None] > degrees[:, None]).astype(x.dtype)
        flat = last(use_bias=self.use_output_bias)(value, strict)
        if self.hidden:
            direct = (outputs[None] > inputs[:, None]).astype(x.dtype)
            flat = flat + last(use_bias=False)(x, direct)
        if context is not None:
            # Of the first number no hidden unit may say anything: the context does.
            flat = flat + nn.Dense(
                flat.shape[-1], use_bias=False, kernel_init=next_to_zero
            )(context)
        return flat.reshape(len(x), dim, self.num_params)
