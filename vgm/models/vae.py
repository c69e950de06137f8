"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    p(z) = N(0, I),   p(x | z) = likelihood(decoder(z)),
    q(z | x) = N(mean(x), diag exp(2 log_std(x))),

    ELBO = E_q log p(x | z) - KL(q(z | x) || N(0, I)).                               (1)

Conditional on c (Sohn et al. 2015) encoder and decoder read c too, and the prior stays.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import elbo
from vgm.densities import normal
from vgm.divergences import kl_standard_normal
from vgm.models import conditions, likelihoods, networks
from vgm.models.protocol import log_weight_given
from vgm.types import Condition, Params, PRNGKey


class Encoding(NamedTuple):
    """Parameters of q(z | x), one row an example.

    Attributes:
        mean: Mean.
        log_std: Log standard deviation.
    """

    mean: Float[Array, "batch latent"]
    log_std: Float[Array, "batch latent"]


@dataclasses.dataclass(frozen=True)
class VAE:
    """A VAE as pure functions around two networks.

    Attributes:
        encoder: (features, condition, train) to mean and log_std.
        decoder: (z, condition, train) to the likelihood's outputs.
        likelihood: Family of p(x | z).
        latent_dim: Size of z.
        num_classes: Number of classes of an integer condition; 0 without.
    """

    encoder: nn.Module
    decoder: nn.Module
    likelihood: likelihoods.Likelihood
    latent_dim: int
    num_classes: int = 0

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; the output bias fits each coordinate of x alone."""
        key_encoder, key_decoder = jax.random.split(key)
        one = jax.tree.map(lambda leaf: leaf[:1], (x, condition))
        features = self.likelihood.features(one[0])
        context = conditions.vectors(one[1], self.num_classes)
        z = jnp.zeros((1, self.latent_dim))
        return {
            "encoder": self.encoder.init(key_encoder, features, context, train=False),
            "decoder": self.decoder.init(key_decoder, z, context, train=False),
            "output_bias": self.likelihood.initial_bias(x),
        }

    def encode(
        self,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Encoding:
        """The parameters of q(z | x); with a key, under dropout."""
        features = self.likelihood.features(x)
        mean, log_std = self.encoder.apply(
            params["encoder"],
            features,
            conditions.vectors(condition, self.num_classes),
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        return Encoding(jnp.asarray(mean), jnp.asarray(log_std))

    def propose(
        self, key: PRNGKey, params: Params, encoding: Encoding
    ) -> Float[Array, "batch latent"]:
        """Draw z ~ q(z | x), reparameterised."""
        del params  # q is a function of the encoding alone
        eps = jax.random.normal(key, encoding.mean.shape, encoding.mean.dtype)
        return encoding.mean + jnp.exp(encoding.log_std) * eps

    def decode(
        self,
        params: Params,
        z: Float[Array, "batch latent"],
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, " batch *event outputs"]:
        """The likelihood's outputs at z; with a key, under dropout."""
        outputs = self.decoder.apply(
            params["decoder"],
            z,
            conditions.vectors(condition, self.num_classes),
            train=dropout_key is not None,
            rngs=None if dropout_key is None else {"dropout": dropout_key},
        )
        return outputs + params["output_bias"][None]

    def log_likelihood(
        self,
        params: Params,
        x: Any,
        z: Float[Array, "batch latent"],
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, " batch"]:
        """Log p(x | z)."""
        outputs = self.decode(params, z, condition, dropout_key=dropout_key)
        return jax.vmap(self.likelihood.log_prob)(x, outputs)

    def log_joint(
        self,
        params: Params,
        x: Any,
        latents: Float[Array, "batch latent"],
        condition: Condition = None,
    ) -> Float[Array, " batch"]:
        """Log p(x, z) = log p(x | z) + log N(z; 0, I)."""
        origin = jnp.zeros_like(latents)
        log_prior = jax.vmap(normal.log_prob)(latents, origin, origin)
        return self.log_likelihood(params, x, latents, condition) + log_prior

    def log_posterior(
        self, params: Params, encoding: Encoding, latents: Float[Array, "batch latent"]
    ) -> Float[Array, " batch"]:
        """Log q(z | x)."""
        del params
        return jax.vmap(normal.log_prob)(latents, encoding.mean, encoding.log_std)

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> elbo.ElboTerms:
        """One draw of (1), with the divergence in closed form; dropout if ``train``."""
        key_z, key_encoder, key_decoder = jax.random.split(key, 3)
        encoding = self.encode(
            params, x, condition, dropout_key=key_encoder if train else None
        )
        z = self.propose(key_z, params, encoding)
        reconstruction = self.log_likelihood(
            params, x, z, condition, dropout_key=key_decoder if train else None
        )
        prior_matching = jax.vmap(kl_standard_normal)(*encoding)
        return elbo.single_latent_terms(reconstruction, prior_matching)

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """Log p(x, z) - log q(z | x) at one z ~ q(z | x)."""
        encoding = self.encode(params, x, condition)
        return log_weight_given(key, self, params, x, encoding, condition)

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw z ~ N(0, I), then x ~ p(x | z)."""
        key_z, key_x = jax.random.split(key)
        outputs = self._decode_prior(key_z, params, num_samples, condition)
        keys = jax.random.split(key_x, num_samples)
        return jax.vmap(self.likelihood.sample)(keys, outputs)

    def sample_mean(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Float[Array, " samples *event"]:
        """E[x | z] at the latents that ``sample`` draws from this key."""
        key_z, _ = jax.random.split(key)
        outputs = self._decode_prior(key_z, params, num_samples, condition)
        return jax.vmap(self.likelihood.mean)(outputs)

    def mean(
        self,
        params: Params,
        latents: Float[Array, "batch latent"],
        condition: Condition = None,
    ) -> Float[Array, " batch *event"]:
        """E[x | z], on the scale of x."""
        return jax.vmap(self.likelihood.mean)(self.decode(params, latents, condition))

    def reconstruct(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z] at one z ~ q(z | x)."""
        z = self.propose(key, params, self.encode(params, x, condition))
        return self.mean(params, z, condition)

    def _decode_prior(
        self, key: PRNGKey, params: Params, num_samples: int, condition: Condition
    ) -> Float[Array, " samples *event outputs"]:
        z = jax.random.normal(key, (num_samples, self.latent_dim))
        return self.decode(params, z, condition)


def mlp(
    *,
    event_shape: tuple[int, ...],
    latent_dim: int,
    hidden: tuple[int, ...],
    likelihood: str,
    levels: int = 2,
    num_classes: int = 0,
    activation: str = "relu",
    kernel_init: str = "lecun_normal",
    dropout: float = 0.0,
    missing: bool = False,
) -> VAE:
    """A VAE of two multilayer perceptrons, the decoder mirroring the encoder.

    Args:
        event_shape: Shape of one example.
        latent_dim: Size of z.
        hidden: Widths of the encoder's hidden layers.
        likelihood: Name of the family of p(x | z).
        levels: Number of integer levels of x.
        num_classes: Number of classes of an integer condition; 0 without.
        activation: Name of the activation.
        kernel_init: Name of the initialiser.
        dropout: Probability of dropping a hidden unit while training.
        missing: x comes as ``Masked``.

    Returns:
        The model.
    """
    family = likelihoods.likelihood(likelihood, levels=levels, missing=missing)
    output_shape = (*event_shape, family.num_outputs)
    shared = {
        "activation": activation,
        "kernel_init": kernel_init,
        "dropout": dropout,
    }
    encoder = networks.MLP(hidden, 2 * latent_dim, kernel_init, **shared)
    decoder = networks.MLP(
        hidden[::-1],
        math.prod(output_shape),
        "zeros",
        use_output_bias=False,
        **shared,
    )
    return VAE(
        networks.MLPEncoder(encoder),
        networks.MLPDecoder(decoder, output_shape),
        family,
        latent_dim,
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
    num_classes: int = 0,
    activation: str = "relu",
    dropout: float = 0.0,
    missing: bool = False,
) -> VAE:
    """A VAE for images: two strided convolutions, then dense layers; mirrored back.

    Args:
        event_shape: (height, width, channels), sides divisible by 4.
        latent_dim: Size of z.
        hidden: Widths of the dense layers.
        channels: Channels of the outermost convolution.
        likelihood: Name of the family of p(x | z).
        levels: Number of integer levels of x.
        num_classes: Number of classes of an integer condition; 0 without.
        activation: Name of the activation.
        dropout: Probability of dropping a dense unit while training.
        missing: x comes as ``Masked``.

    Returns:
        The model.
    """
    networks.require_image(event_shape)
    family = likelihoods.likelihood(likelihood, levels=levels, missing=missing)
    height, width, image_channels = event_shape
    smallest = (height // 4) * (width // 4) * 2 * channels
    shared = {"activation": activation, "dropout": dropout}
    head = networks.MLP(hidden, 2 * latent_dim, "lecun_normal", **shared)
    stem = networks.MLP(hidden[::-1], smallest, "lecun_normal", **shared)
    output_shape = (height, width, image_channels, family.num_outputs)
    return VAE(
        networks.ConvEncoder(channels, head, activation),
        networks.ConvDecoder(channels, stem, output_shape, activation),
        family,
        latent_dim,
        num_classes,
    )
