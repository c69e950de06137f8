"""The Markov hierarchical VAE: a VAE of z_1 under a chain of latents.

    q(z_1 .. z_T | x) = q(z_1 | x) prod q(z_{t+1} | z_t),
    p(x, z_1 .. z_T)  = p(z_T) prod p(z_t | z_{t+1}) p(x | z_1),

those between latents normal with independent coordinates, their parameters networks;
what lies between x and z_1, and p(z_T), is a VAE's. Two layers of 100 and 50 are the
model of Burda et al. (2016, section 5.1).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import hierarchical
from vgm.bounds.elbo import ElboTerms
from vgm.densities import normal
from vgm.divergences import kl_standard_normal
from vgm.models import steps as between
from vgm.models.amortised import VAE
from vgm.models.networks import init_alike, require_layer
from vgm.models.protocol import LatentVariableModel
from vgm.models.steps import StepNetworks
from vgm.types import Condition, Params, PRNGKey, Values

Rows = Float[Array, "batch latent"]
Latents = tuple[Array, ...]
"""z_1, then the latents above it: one array a stack of alike steps, with the batch on
its first axis and the steps on its second."""


@dataclasses.dataclass(frozen=True)
class MarkovVAE(LatentVariableModel):
    """A Markov hierarchical VAE as pure functions around its networks.

    Attributes:
        base: What lies between x and z_1, and the prior: that of z_T.
        stacks: What lies between z_1 and z_T.
    """

    base: VAE
    stacks: tuple[StepNetworks, ...]

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; the output bias fits each coordinate of x alone."""
        key_base, *keys = jax.random.split(key, 1 + len(self.stacks))
        steps = []
        for stack, key_stack in zip(self.stacks, keys, strict=True):
            key_up, key_down = jax.random.split(key_stack)
            below, above = (jnp.zeros((1, size)) for size in stack.latent_dims)
            count = stack.num_steps
            steps.append(
                {
                    "encoder": init_alike(key_up, count, stack.encoder, below),
                    "decoder": init_alike(key_down, count, stack.decoder, above),
                }
            )
        return {"base": self.base.init(key_base, x, condition), "steps": tuple(steps)}

    @property
    def has_signed_terms(self) -> bool:
        """Whether the terms between layers are log ratios, not divergences."""
        return bool(self.stacks)

    def encode(self, params: Params, x: Any, condition: Condition = None) -> Any:
        """The parameters of q(z_1 | x)."""
        return self.base.encode(params["base"], x, condition)

    def propose(self, key: PRNGKey, params: Params, encoding: Any) -> Latents:
        """Draw z_1 .. z_T ~ q(z | x), reparameterised: a tuple.

        Of z_1 [batch, size], then, for each stack of equal steps, the latents above
        them [batch, steps, size].
        """
        return self.propose_and_log_prob(key, params, encoding)[0]

    def propose_and_log_prob(
        self, key: PRNGKey, params: Params, encoding: Any
    ) -> tuple[Latents, Values]:
        """Draw a path z_1 .. z_T ~ q(z | x) with its log density."""
        keys = jax.random.split(key, 1 + len(self.stacks))
        own = params["base"].get("posterior", {})
        z, log_q = self.base.posterior.sample_and_log_prob(keys[0], own, encoding)
        latents = [z]
        for stack, steps, key_stack in zip(
            self.stacks, params["steps"], keys[1:], strict=True
        ):
            z, climbed, added = between.rise(key_stack, stack, steps["encoder"], z)
            latents.append(jnp.moveaxis(climbed, 0, 1))
            log_q = log_q + added
        return tuple(latents), log_q

    def log_joint(
        self, params: Params, x: Any, latents: Latents, condition: Condition = None
    ) -> Values:
        """log p(x, z_1 .. z_T)."""
        base = params["base"]
        total = self.base.log_likelihood(base, x, latents[0], condition)
        for (below, above), stack, own in self._between(params, latents):
            total = total + between.sum_log_prob(
                stack.decoder, own["decoder"], below, above
            )
        return total + self.base.log_prior(base, _top(latents))

    def log_posterior(self, params: Params, encoding: Any, latents: Latents) -> Values:
        """log q(z_1 .. z_T | x)."""
        total = self.base.log_posterior(params["base"], encoding, latents[0])
        for (below, above), stack, own in self._between(params, latents):
            total = total + between.sum_log_prob(
                stack.encoder, own["encoder"], above, below
            )
        return total

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """One path of the bound; dropout between x and z_1 if ``train``."""
        key_encoder, key_decoder, key_path = jax.random.split(key, 3)
        base, own = self.base, params["base"]
        encoding = base.encode(
            own, x, condition, dropout_key=key_encoder if train else None
        )

        def log_likelihood(z: Rows) -> Values:
            dropout_key = key_decoder if train else None
            return base.log_likelihood(own, x, z, condition, dropout_key=dropout_key)

        def prior_matching(below: Any, top: Rows) -> Values:
            if not self.stacks:
                log_q = base.log_posterior(own, encoding, top)
                return base.prior_matching(own, encoding, top, log_q)
            last = jax.tree.map(lambda leaf: leaf[-1], params["steps"][-1]["encoder"])
            mean, log_std = between.normal_given(self.stacks[-1].encoder, last, below)
            if base.prior.is_standard:
                return jax.vmap(kl_standard_normal)(mean, log_std)
            log_q = jax.vmap(normal.log_prob)(top, mean, log_std)
            return log_q - base.log_prior(own, top)

        def step(stack: StepNetworks) -> Callable[[Params], hierarchical.Step]:
            return lambda one: hierarchical.Step(
                between.conditional(stack.encoder, one["encoder"]),
                between.conditional(stack.decoder, one["decoder"]),
            )

        first = hierarchical.Conditional(
            lambda key, x: base.propose(key, own, encoding),
            lambda z, x: base.log_posterior(own, encoding, z),
        )
        return hierarchical.markov_terms(
            key_path,
            x,
            first,
            [
                hierarchical.Stack(step(stack), steps)
                for stack, steps in zip(self.stacks, params["steps"], strict=True)
            ],
            log_likelihood=log_likelihood,
            prior_matching=prior_matching,
        )

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw z_T ~ p(z_T), come down, then x ~ p(x | z_1)."""
        key_z, key_x = jax.random.split(key)
        z = self._sample_bottom(key_z, params, num_samples)
        outputs = self.base.decode(params["base"], z, condition)
        keys = jax.random.split(key_x, num_samples)
        return jax.vmap(self.base.likelihood.sample)(keys, outputs)

    def sample_mean(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Float[Array, " samples *event"]:
        """E[x | z_1] at the latents that ``sample`` draws from this key."""
        key_z, _ = jax.random.split(key)
        z = self._sample_bottom(key_z, params, num_samples)
        return self.base.mean(params["base"], z, condition)

    def mean(
        self, params: Params, latents: Latents, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z_1], on the scale of x."""
        return self.base.mean(params["base"], latents[0], condition)

    def reconstruct(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z_1] at one z_1 ~ q(z_1 | x)."""
        return self.base.reconstruct(key, params["base"], x, condition)

    def resample(
        self, key: PRNGKey, params: Params, latents: Latents, *, layer: int
    ) -> Latents:
        """Draw the latents below a layer anew from the prior, given those above.

        Args:
            key: Random key, used once.
            params: Parameters.
            latents: Latents, of which z_layer .. z_T stay as they are.
            layer: From 1, which keeps all, to T.

        Returns:
            Latents.

        Raises:
            ValueError: If there is no such layer.
        """
        number = sum(stack.num_steps for stack in self.stacks)
        require_layer(layer, 1 + number)
        z, stacks = _top(latents), []
        for (below, _), stack, own in reversed(list(self._between(params, latents))):
            key, key_stack = jax.random.split(key)
            number -= stack.num_steps
            kept = 1 + number + jnp.arange(stack.num_steps) >= layer
            descended = between.descend(
                key_stack, stack, own["decoder"], z, below, kept
            )
            upper = z[None]
            if stack.num_steps > 1:
                upper = jnp.concatenate([descended[1:], upper])
            stacks.insert(0, jnp.moveaxis(upper, 0, 1))
            z = descended[0]
        return z, *stacks

    def _sample_bottom(self, key: PRNGKey, params: Params, count: int) -> Rows:
        """z_1 from the prior."""
        key_top, key_rest = jax.random.split(key)
        top = self.base.sample_prior(key_top, params["base"], count)
        if not self.stacks:
            return top
        unknown = [jnp.zeros((count, self.stacks[0].latent_dims[0]))] + [
            jnp.zeros((count, stack.num_steps, stack.latent_dims[1]))
            for stack in self.stacks
        ]
        unknown[-1] = unknown[-1].at[:, -1].set(top)
        num_layers = 1 + sum(stack.num_steps for stack in self.stacks)
        return self.resample(key_rest, params, tuple(unknown), layer=num_layers)[0]

    def _between(self, params: Params, latents: Latents) -> Any:
        """For each stack (z_t, z_{t+1}) of its steps, networks and parameters."""
        below = latents[0]
        for stack, own, above in zip(
            self.stacks, params["steps"], latents[1:], strict=True
        ):
            above = jnp.moveaxis(above, 1, 0)
            lower = below[None]
            if stack.num_steps > 1:
                lower = jnp.concatenate([lower, above[:-1]])
            yield (lower, above), stack, own
            below = above[-1]


def _top(latents: Latents) -> Rows:
    """z_T."""
    return latents[0] if len(latents) == 1 else latents[-1][:, -1]
