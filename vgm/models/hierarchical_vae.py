"""Hierarchical VAEs: latents z_1 .. z_T under one another."""

from vgm.models.markov import MarkovVAE
from vgm.models.steps import step_networks
from vgm.models.vae import VAE


def markov(
    base: VAE,
    *,
    latent_dims: tuple[int, ...],
    hidden: tuple[int, ...],
    activation: str = "relu",
    kernel_init: str = "lecun_normal",
) -> MarkovVAE:
    """A Markov hierarchical VAE of multilayer perceptrons.

    Args:
        base: A VAE of z_1, whose prior is that of z_T.
        latent_dims: Sizes of z_1 .. z_T.
        hidden: Widths of the hidden layers of the encoders between layers, mirrored by
            the decoders.
        activation: Name of the activation.
        kernel_init: Name of the initialiser.

    Returns:
        The model; with T = 1 the VAE itself, in other clothes.
    """
    stacks = step_networks(latent_dims, hidden, activation, kernel_init)
    return MarkovVAE(base, stacks)
