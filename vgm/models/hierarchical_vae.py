"""Hierarchical VAEs: latents z_1 .. z_T under one another."""

import dataclasses
import itertools

from vgm.errors import UserError
from vgm.models import likelihoods
from vgm.models.amortised import VAE
from vgm.models.ladder import Ladder
from vgm.models.ladder_networks import (
    Bottleneck,
    Entrance,
    Head,
    LadderLayer,
    Residual,
    Stem,
)
from vgm.models.ladder_passes import Resolution
from vgm.models.markov import MarkovVAE
from vgm.models.priors import Prior, standard_normal
from vgm.models.steps import step_networks


def markov(
    base: VAE,
    *,
    latent_dims: tuple[int, ...],
    hidden: tuple[int, ...],
    prior: Prior | None = None,
    activation: str = "relu",
    kernel_init: str = "lecun_normal",
) -> MarkovVAE:
    """A Markov hierarchical VAE of multilayer perceptrons.

    Args:
        base: A VAE of z_1, whose prior is not used.
        latent_dims: Sizes of z_1 .. z_T.
        hidden: Widths of the hidden layers of the encoders between layers, mirrored by
            the decoders.
        prior: Family of p(z_T); N(0, I) if None.
        activation: Name of the activation.
        kernel_init: Name of the initialiser.

    Returns:
        The model; with T = 1 it is ``base`` itself.

    Raises:
        ValueError: If base or prior are of latents of other sizes.
    """
    top = prior or standard_normal(latent_dims[-1])
    found = base.posterior.latent_shape, top.latent_shape
    if found != ((latent_dims[0],), (latent_dims[-1],)):
        raise ValueError(
            f"latent_dims {latent_dims} begin with the size of base's z and end with "
            f"the prior's; theirs are {found[0]} and {found[1]}"
        )
    stacks = step_networks(latent_dims, hidden, activation, kernel_init)
    return MarkovVAE(dataclasses.replace(base, prior=top), stacks)


def ladder(
    *,
    event_shape: tuple[int, ...],
    sides: tuple[int, ...],
    layers: tuple[int, ...],
    channels: int,
    hidden: int,
    latent_dim: int,
    num_blocks: int,
    likelihood: str,
    levels: int = 2,
    num_mixtures: int = 10,
    num_classes: int = 0,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Ladder:
    """A ladder of residual convolutions over several resolutions.

    Args:
        event_shape: (height, width, channels), a square.
        sides: Pixels along a side of each resolution, the top's first; each divides
            the next, the last one the image's.
        layers: Latent layers at each resolution.
        channels: Channels of the state.
        hidden: Channels within the bottlenecks.
        latent_dim: Channels of each z.
        num_blocks: Residual blocks at each resolution on the way up.
        likelihood: Name of the family of p(x | z).
        levels: Number of integer levels of x.
        num_mixtures: Components of a mixture likelihood.
        num_classes: Number of classes of an integer condition; 0 without.
        activation: Name of the activation.
        dropout: Probability of dropping a hidden unit while training.

    Returns:
        The model.

    Raises:
        UserError: If the image cannot be divided like that.
    """
    _require_divisible(event_shape, sides)
    height, width, colours = event_shape
    family = likelihoods.likelihood(
        likelihood, levels=levels, channels=colours, num_mixtures=num_mixtures
    )
    depth, up = sum(layers), len(sides) * num_blocks
    resolutions = tuple(
        Resolution(
            side,
            Entrance(side, channels),
            LadderLayer(channels, latent_dim, hidden, depth, activation, dropout),
            count,
            Residual(Bottleneck(hidden, channels, up, activation, dropout)),
            num_blocks,
        )
        for side, count in zip(sides, layers, strict=True)
    )
    return Ladder(
        Stem(sides[-1], channels),
        resolutions,
        Head((height, width, colours, family.num_outputs), activation),
        family,
        num_classes,
    )


def _require_divisible(event_shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    square = len(event_shape) == 3 and event_shape[0] == event_shape[1]
    every = (*sides, event_shape[0] if square else 0)
    pairs = itertools.pairwise(every)
    if not square or any(larger % smaller for smaller, larger in pairs):
        raise UserError(
            "model.architecture 'ladder' needs square images (side, side, channels) "
            f"and latent.sides of which each divides the next and the last the "
            f"image's; got {event_shape} and {sides}"
        )
