"""One step of a flow, and the repetition of steps over a vector."""

import math
from typing import NamedTuple

from vgm.bijections import images, linear, transforms
from vgm.errors import UserError
from vgm.models import layers, learned, networks
from vgm.models.layers import Layer
from vgm.models.made import MADE


class Step(NamedTuple):
    """Sizes of one step of a flow.

    Attributes:
        hidden: Widths of the conditioner's hidden layers.
        activation: Its non-linearity.
        dropout: Its probability of dropping a hidden unit while training.
        num_bins: Bins of a spline.
        tail_bound: Where a spline ends.
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    dropout: float = 0.0
    num_bins: int = 8
    tail_bound: float = 5.0


def vectors(
    event_shape: tuple[int, ...], parts: tuple[Layer, ...], num_layers: int
) -> Layer:
    """A flattened event through some layers and a reversal, so many times.

    Args:
        event_shape: Shape of one example.
        parts: The layers of one step.
        num_layers: Steps.

    Returns:
        The layer.
    """
    step = layers.chain(*parts, layers.fixed(linear.reverse()))
    flatten = layers.fixed(images.flatten(event_shape))
    return layers.chain(flatten, layers.repeat(step, num_layers))


def _transform(name: str, step: Step) -> transforms.Transform:
    if name == "affine":
        return transforms.affine()
    return transforms.rational_quadratic(
        num_bins=step.num_bins, tail_bound=step.tail_bound
    )


def coupling(event_shape: tuple[int, ...], step: Step, name: str) -> Layer:
    """A coupling of two halves of a vector.

    Args:
        event_shape: Shape of one example, whose numbers make the vector.
        step: Sizes.
        name: affine or spline.

    Returns:
        The layer.

    Raises:
        UserError: If there are not two numbers.
    """
    dim = math.prod(event_shape)
    if dim < 2:
        raise UserError(
            "couplings (model.architecture realnvp and nsf-coupling, flow.noise "
            f"variational) need at least 2 numbers an example; got {dim}"
        )
    split, transform = dim // 2, _transform(name, step)
    mlp = networks.MLP(
        step.hidden,
        (dim - split) * transform.num_params,
        "next_to_zero",
        activation=step.activation,
        dropout=step.dropout,
    )
    network = networks.ConditionalMLP(mlp, (dim - split, transform.num_params))
    return learned.coupling(network, transform, split=split)


def autoregressive(step: Step, name: str) -> Layer:
    """A masked autoregressive map of a vector.

    Args:
        step: Sizes.
        name: affine or spline.

    Returns:
        The layer.
    """
    transform = _transform(name, step)
    network = MADE(
        step.hidden, transform.num_params, step.activation, dropout=step.dropout
    )
    return learned.masked_autoregressive(network, transform)
