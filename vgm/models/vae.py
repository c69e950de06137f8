"""Variational autoencoders of perceptrons and of convolutions."""

import math

from vgm.models import likelihoods, networks, posteriors, priors
from vgm.models.amortised import VAE as VAE
from vgm.models.posteriors import DiagonalEncoding as DiagonalEncoding


def mlp(
    *,
    event_shape: tuple[int, ...],
    latent_dim: int,
    hidden: tuple[int, ...],
    likelihood: str,
    levels: int = 2,
    num_mixtures: int = 10,
    num_classes: int = 0,
    activation: str = "relu",
    kernel_init: str = "lecun_normal",
    dropout: float = 0.0,
    missing: bool = False,
    posterior: posteriors.Posterior | None = None,
    prior: priors.Prior | None = None,
) -> VAE:
    """A VAE of two multilayer perceptrons, the decoder mirroring the encoder.

    Args:
        event_shape: Shape of one example.
        latent_dim: Size of z.
        hidden: Widths of the encoder's hidden layers.
        likelihood: Name of the family of p(x | z).
        levels: Number of integer levels of x.
        num_mixtures: Components of a mixture likelihood.
        num_classes: Number of classes of an integer condition; 0 without.
        activation: Name of the activation.
        kernel_init: Name of the initialiser.
        dropout: Probability of dropping a hidden unit while training.
        missing: x comes as ``Masked``.
        posterior: Family of q(z | x); a normal with independent coordinates if None.
        prior: Family of p(z); the standard one of the posterior's family if None.

    Returns:
        The model.
    """
    posterior = posterior or posteriors.diagonal(latent_dim)
    prior = priors.prior_of(posterior, prior)
    family = likelihoods.likelihood(
        likelihood,
        levels=levels,
        missing=missing,
        channels=event_shape[-1],
        num_mixtures=num_mixtures,
    )
    output_shape = (*event_shape, family.num_outputs)
    shared = {
        "activation": activation,
        "kernel_init": kernel_init,
        "dropout": dropout,
    }
    encoder = networks.MLP(hidden, posterior.num_outputs, kernel_init, **shared)
    decoder = networks.MLP(
        hidden[::-1],
        math.prod(output_shape),
        "next_to_zero",
        use_output_bias=False,
        **shared,
    )
    return VAE(
        networks.ConditionalMLP(encoder, (posterior.num_outputs,)),
        networks.ConditionalMLP(decoder, output_shape),
        family,
        posterior,
        prior,
        num_classes,
    )


def conv(
    *,
    event_shape: tuple[int, ...],
    latent_dim: int,
    hidden: tuple[int, ...],
    channels: int,
    likelihood: str,
    levels: int = 2,
    num_mixtures: int = 10,
    num_classes: int = 0,
    activation: str = "silu",
    dropout: float = 0.0,
    missing: bool = False,
    posterior: posteriors.Posterior | None = None,
    prior: priors.Prior | None = None,
) -> VAE:
    """A VAE for images: two strided convolutions, then dense layers; mirrored back.

    Args:
        event_shape: (height, width, channels), sides divisible by 4.
        latent_dim: Size of z.
        hidden: Widths of the dense layers.
        channels: Channels of the outermost convolution.
        likelihood: Name of the family of p(x | z).
        levels: Number of integer levels of x.
        num_mixtures: Components of a mixture likelihood.
        num_classes: Number of classes of an integer condition; 0 without.
        activation: Name of the activation; with relu, and no warm-up of the divergence,
            MNIST's posterior was the prior before the decoder had learned to read it.
        dropout: Probability of dropping a dense unit while training.
        missing: x comes as ``Masked``.
        posterior: Family of q(z | x); a normal with independent coordinates if None.
        prior: Family of p(z); the standard one of the posterior's family if None.

    Returns:
        The model.
    """
    posterior = posterior or posteriors.diagonal(latent_dim)
    prior = priors.prior_of(posterior, prior)
    networks.require_image(event_shape)
    family = likelihoods.likelihood(
        likelihood,
        levels=levels,
        missing=missing,
        channels=event_shape[-1],
        num_mixtures=num_mixtures,
    )
    height, width, image_channels = event_shape
    smallest = (height // 4) * (width // 4) * 2 * channels
    shared = {"activation": activation, "dropout": dropout}
    head = networks.MLP(hidden, posterior.num_outputs, "lecun_normal", **shared)
    stem = networks.MLP(hidden[::-1], smallest, "lecun_normal", **shared)
    output_shape = (height, width, image_channels, family.num_outputs)
    return VAE(
        networks.ConvEncoder(channels, head, activation),
        networks.ConvDecoder(channels, stem, output_shape, activation),
        family,
        posterior,
        prior,
        num_classes,
    )
