"""RealNVP, Glow, neural spline flows and MAF: what their layers are made of.

Each repeats one step as a loop, so that compilation takes the same however deep.
"""

import math

from vgm.bijections import elementwise, images, linear, transforms
from vgm.bijections.continuous import solver
from vgm.errors import UserError
from vgm.models import layers, learned, networks
from vgm.models.flow import Flow
from vgm.models.flow_parts import Step as Step
from vgm.models.flow_parts import autoregressive, coupling, vectors
from vgm.models.layers import Layer


def data_layer(transform: str) -> Layer:
    """The fixed layer next to the data: perhaps a logarithm or logit; standardisation.

    Args:
        transform: "standardize", "log" or "logit".

    Returns:
        The layer.
    """
    before = {
        "standardize": (),
        "log": (layers.fixed(elementwise.log()),),
        "logit": (layers.fixed(elementwise.logit()),),
    }
    parts = (*before[transform], learned.standardisation())
    return layers.frozen(layers.chain(*parts))


def realnvp(event_shape: tuple[int, ...], step: Step, num_layers: int) -> Layer:
    """Affine couplings of vectors (Dinh et al. 2017), ActNorm for batch norm.

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Steps.

    Returns:
        The layer.
    """
    parts = (learned.actnorm(by_channel=False), coupling(event_shape, step, "affine"))
    return vectors(event_shape, parts, num_layers)


def neural_spline_coupling(
    event_shape: tuple[int, ...], step: Step, num_layers: int
) -> Layer:
    """Spline couplings and LU matrices: RQ-NSF (C) of Durkan et al. (2019).

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Steps.

    Returns:
        The layer.
    """
    parts = (learned.lu(), coupling(event_shape, step, "spline"))
    return vectors(event_shape, parts, num_layers)


def neural_spline_autoregressive(
    event_shape: tuple[int, ...], step: Step, num_layers: int
) -> Layer:
    """Masked autoregressive splines: RQ-NSF (AR) of Durkan et al. (2019).

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Steps.

    Returns:
        The layer.
    """
    parts = (learned.lu(), autoregressive(step, "spline"))
    return vectors(event_shape, parts, num_layers)


def maf(event_shape: tuple[int, ...], step: Step, num_layers: int) -> Layer:
    """Masked autoregressive affine maps (Papamakarios et al. 2017).

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Steps.

    Returns:
        The layer.
    """
    parts = (learned.actnorm(by_channel=False), autoregressive(step, "affine"))
    return vectors(event_shape, parts, num_layers)


def glow(
    event_shape: tuple[int, ...], step: Step, num_layers: int, *, num_levels: int
) -> Layer:
    """A pyramid of ActNorm, 1x1 convolutions and couplings (Kingma & Dhariwal 2018).

    Args:
        event_shape: (height, width, channels).
        step: Sizes; the first width is the convolutions'.
        num_layers: Steps at each level.
        num_levels: Levels.

    Returns:
        The layer, from images to vectors.

    Raises:
        UserError: If the image cannot be halved so often.
    """
    sides = event_shape[:2]
    if len(event_shape) != 3 or any(side % 2**num_levels for side in sides):
        raise UserError(
            f"model.architecture 'glow' with flow.num-levels {num_levels} needs "
            f"(height, width, channels) with sides divisible by {2**num_levels}; got "
            f"{event_shape}"
        )
    levels, channels = [], event_shape[2]
    for _ in range(num_levels):
        mapped = 2 * channels
        network = networks.ConvConditioner(step.hidden[0], mapped, 2)
        parts = (
            learned.actnorm(by_channel=True),
            learned.lu(),
            learned.coupling(network, transforms.affine(), split=mapped),
            layers.fixed(linear.reverse()),
        )
        levels.append(layers.repeat(layers.chain(*parts), num_layers))
        channels = mapped
    height, width, last = event_shape
    return layers.pyramid(tuple(levels), (height, width, last))


def continuous(event_shape: tuple[int, ...], step: Step, num_layers: int) -> Layer:
    """One continuous flow (Grathwohl et al. 2019); it has no steps to count.

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Not used.

    Returns:
        The layer.
    """
    del num_layers
    solver()  # now, not at the first evaluation
    mlp = networks.MLP(
        step.hidden,
        math.prod(event_shape),
        "next_to_zero",
        activation=step.activation,
        dropout=step.dropout,
    )
    return learned.continuous(networks.VelocityMLP(mlp))


def variational_noise(
    event_shape: tuple[int, ...], step: Step, num_layers: int
) -> Layer:
    """Noise of a variational dequantisation: from logit u to a uniform's, given x.

    Spline couplings (Ho et al. 2019, section 3.1, had logistic mixtures). Beyond their
    bounds they are the identity, so that u close to 0 and 1 stays as likely as under
    uniform noise: with lighter tails the weights have no variance.

    Args:
        event_shape: Shape of one example.
        step: Sizes.
        num_layers: Steps.

    Returns:
        The layer, whose context is x.
    """
    part = layers.chain(
        coupling(event_shape, step, "spline"), layers.fixed(linear.reverse())
    )
    flatten = layers.fixed(images.flatten(event_shape))
    repeated = layers.repeat(part, num_layers)
    return layers.chain(flatten, repeated, layers.inverse(flatten))


def flow(
    layer: Layer,
    *,
    event_shape: tuple[int, ...],
    transform: str = "standardize",
    levels: int = 0,
    noise: Layer | None = None,
    num_classes: int = 0,
) -> Flow:
    """A flow of given layers.

    Args:
        layer: Standardised data to noise.
        event_shape: Shape of one example.
        transform: "standardize", "log" or "logit"; "standardize" for levels, whose
            logit is taken anyway.
        levels: Number of integer levels; 0 for reals.
        noise: ``variational_noise``, or None for uniform noise.
        num_classes: Number of classes of an integer condition; 0 without.

    Returns:
        The model.
    """
    data = data_layer(transform)
    return Flow(data, layer, event_shape, levels, noise, num_classes)
