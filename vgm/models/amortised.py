"""The variational autoencoder (Kingma & Welling 2014; Rezende et al. 2014).

    p(z),   p(x | z) = likelihood(decoder(z)),   q(z | x) = posterior(encoder(x)),

    ELBO = E_q log p(x | z) - KL(q(z | x) || p(z)).                                  (1)

Where p(z) is the standard prior of q's family, N(0, I) for a normal, the divergence is
in closed form; elsewhere log q(z | x) - log p(z) at the draw stands for it. Conditional
on c (Sohn et al. 2015) encoder and decoder read c too, and the prior stays.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import elbo
from vgm.errors import UserError
from vgm.models import (
    conditions,
    families,
    likelihoods,
    networks,
    posteriors,
    priors,
)
from vgm.models.protocol import Latents, LatentVariableModel
from vgm.shapes import require, rows
from vgm.types import Condition, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class VAE(LatentVariableModel):
    """A VAE as pure functions around two networks.

    Attributes:
        encoder: (features, condition, train) to the posterior's outputs.
        decoder: (z as vectors, condition, train) to the likelihood's outputs.
        likelihood: Family of p(x | z).
        posterior: Family of q(z | x).
        prior: Family of p(z).
        num_classes: Number of classes of an integer condition; 0 without.
    """

    encoder: nn.Module
    decoder: nn.Module
    likelihood: likelihoods.Likelihood
    posterior: posteriors.Posterior
    prior: priors.Prior
    num_classes: int = 0

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; output bias and unit fit each coordinate of x alone."""
        keys = jax.random.split(key, 4)
        one = jax.tree.map(lambda leaf: leaf[:1], (x, condition))
        start = families.initial(self.likelihood, x)
        features = families.features(self.likelihood, start, one[0])
        context = conditions.vectors(one[1], self.num_classes)
        if context is not None and self.prior.reads_encoder:
            raise UserError("a VampPrior has no condition; give another prior")
        z = jnp.zeros((1, math.prod(self.posterior.latent_shape)))
        params = {
            "encoder": self.encoder.init(keys[0], features, context, train=False),
            "decoder": self.decoder.init(keys[1], z, context, train=False),
            **start,
        }
        outputs = self.encoder.apply(params["encoder"], features, context, train=False)
        own = {
            "posterior": self.posterior.init(keys[2], jnp.asarray(outputs)),
            "prior": self.prior.init(
                keys[3], families.features(self.likelihood, start, x)
            ),
        }
        with_own = {name: own[name] for name in own if jax.tree.leaves(own[name])}
        return params | with_own

    def encode(
        self,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Any:
        """The parameters of q(z | x); with a key, under dropout."""
        features = families.features(self.likelihood, params, x)
        return self._encode_features(params, features, condition, dropout_key)

    def propose(self, key: PRNGKey, params: Params, encoding: Any) -> Latents:
        """Draw z ~ q(z | x), reparameterised."""
        return self.propose_and_log_prob(key, params, encoding)[0]

    def propose_and_log_prob(
        self, key: PRNGKey, params: Params, encoding: Any
    ) -> tuple[Latents, Float[Array, " batch"]]:
        """Draw z ~ q(z | x) with log q(z | x), of the noise that made it."""
        own = params.get("posterior", {})
        return self.posterior.sample_and_log_prob(key, own, encoding)

    def decode(
        self,
        params: Params,
        z: Latents,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, " batch *event outputs"]:
        """The likelihood's outputs at z; with a key, under dropout."""
        outputs = networks.apply(
            self.decoder,
            params["decoder"],
            rows(z),
            conditions.vectors(condition, self.num_classes),
            key=dropout_key,
        )
        return families.outputs(params, outputs)

    def log_likelihood(
        self,
        params: Params,
        x: Any,
        z: Latents,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, " batch"]:
        """log p(x | z)."""
        outputs = self.decode(params, z, condition, dropout_key=dropout_key)
        return families.log_prob(self.likelihood, x, outputs)

    def log_prior(self, params: Params, z: Latents) -> Float[Array, " batch"]:
        """log p(z)."""
        self._require_latents(z)
        return self.prior.log_prob(self._prior_params(params), z)

    def prior_matching(
        self,
        params: Params,
        encoding: Any,
        z: Latents,
        log_q: Float[Array, " batch"],
    ) -> Float[Array, " batch"]:
        """KL(q(z | x) || p(z)), or without a closed form its log ratio at z."""
        self._require_latents(z)
        if self.prior.is_standard and self.posterior.kl_standard is not None:
            return self.posterior.kl_standard(encoding)
        return log_q - self.log_prior(params, z)

    def log_joint(
        self,
        params: Params,
        x: Any,
        latents: Latents,
        condition: Condition = None,
    ) -> Float[Array, " batch"]:
        """log p(x, z) = log p(x | z) + log p(z)."""
        log_likelihood = self.log_likelihood(params, x, latents, condition)
        return log_likelihood + self.log_prior(params, latents)

    def log_posterior(
        self, params: Params, encoding: Any, latents: Latents
    ) -> Float[Array, " batch"]:
        """log q(z | x)."""
        own = params.get("posterior", {})
        return self.posterior.log_prob(own, encoding, latents)

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> elbo.ElboTerms:
        """One draw of (1), with ``prior_matching``; under dropout if ``train``."""
        key_z, key_encoder, key_decoder = jax.random.split(key, 3)
        encoding = self.encode(
            params, x, condition, dropout_key=key_encoder if train else None
        )
        z, log_q = self.propose_and_log_prob(key_z, params, encoding)
        reconstruction = self.log_likelihood(
            params, x, z, condition, dropout_key=key_decoder if train else None
        )
        prior_matching = self.prior_matching(params, encoding, z, log_q)
        return elbo.single_latent_terms(reconstruction, prior_matching)

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw z ~ p(z), then x ~ p(x | z)."""
        key_z, key_x = jax.random.split(key)
        z = self.sample_prior(key_z, params, num_samples)
        keys = jax.random.split(key_x, num_samples)
        outputs = self.decode(params, z, condition)
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
        return self.mean(
            params, self.sample_prior(key_z, params, num_samples), condition
        )

    def sample_prior(self, key: PRNGKey, params: Params, num_samples: int) -> Latents:
        """Draw z ~ p(z)."""
        return self.prior.sample(key, self._prior_params(params), num_samples)

    def mean(
        self, params: Params, latents: Latents, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z], on the scale of x."""
        return jax.vmap(self.likelihood.mean)(self.decode(params, latents, condition))

    def reconstruct(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z] at one z ~ q(z | x)."""
        z = self.propose(key, params, self.encode(params, x, condition))
        return self.mean(params, z, condition)

    def _encode_features(
        self,
        params: Params,
        features: Float[Array, " batch *event"],
        condition: Condition,
        dropout_key: PRNGKey | None,
    ) -> Any:
        outputs = networks.apply(
            self.encoder,
            params["encoder"],
            features,
            conditions.vectors(condition, self.num_classes),
            key=dropout_key,
        )
        expected = (len(features), self.posterior.num_outputs)
        require("the encoder's outputs", outputs, expected)
        return self.posterior.encoding(outputs)

    def _require_latents(self, z: Latents) -> None:
        """Against a posterior of other latents than the prior's."""
        if self.prior.latent_shape is not None:
            require("z of the prior", z, (len(z), *self.prior.latent_shape))

    def _prior_params(self, params: Params) -> Params:
        own = params.get("prior", {})
        if self.prior.reads_encoder:
            return self._encode_features(params, jnp.asarray(own), None, None)
        return own
