"""The ladder: a hierarchical VAE whose posterior comes down beside its prior.

    q(z | x) = prod q(z_t | z_{>t}, x),   p(x, z) = prod p(z_t | z_{>t}) p(x | z),

the posterior of each layer given as a change of its prior, both reading the state that
the layers above leave behind (Sonderby et al. 2016; Vahdat & Kautz 2020; Child 2021).
Layers of one resolution are alike and run as one loop, up and down.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import hierarchical
from vgm.bounds.elbo import ElboTerms
from vgm.densities import normal
from vgm.models import conditions, families, likelihoods, networks
from vgm.models import ladder_passes as passes
from vgm.models.ladder_networks import Head, Maps, Stem
from vgm.models.ladder_passes import (
    Choose,
    Densities,
    Encoding,
    Latents,
    Resolution,
    Values,
    Walk,
)
from vgm.models.protocol import LatentVariableModel
from vgm.types import Condition, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Ladder(LatentVariableModel):
    """A ladder as pure functions around its networks.

    Attributes:
        stem: Features of x to feature maps of the last resolution.
        resolutions: Resolutions, the top's first.
        head: The last state to the likelihood's outputs.
        likelihood: Family of p(x | z).
        num_classes: Number of classes of an integer condition; 0 without.
    """

    stem: Stem
    resolutions: tuple[Resolution, ...]
    head: Head
    likelihood: likelihoods.Likelihood
    num_classes: int = 0

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; the output bias fits each coordinate of x alone."""
        one = jax.tree.map(lambda leaf: leaf[:1], (x, condition))
        context = conditions.vectors(one[1], self.num_classes)
        key_stem, key_head, *keys = jax.random.split(key, 2 + len(self.resolutions))
        state, levels = self._nothing(1), []
        for level, key_level in zip(self.resolutions, keys, strict=True):
            key_enter, key_up, key_down = jax.random.split(key_level, 3)
            enter = level.entrance.init(key_enter, state, context)
            state = passes.entering(level, enter, context)(state)
            up = networks.init_alike(
                key_up, level.num_blocks, level.block, state, train=False
            )
            down = networks.init_alike(
                key_down, level.num_layers, level.layer, state, state
            )
            levels.append({"enter": enter, "up": up, "down": down})
        start = families.initial(self.likelihood, x)
        features = families.features(self.likelihood, start, one[0])
        return {
            "stem": self.stem.init(key_stem, features),
            "levels": tuple(levels),
            "head": self.head.init(key_head, state),
            **start,
        }

    def encode(
        self,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Encoding:
        """Feature maps of x at each resolution; with a key, under dropout."""
        features: list[Maps] = []
        read = families.features(self.likelihood, params, x)
        below = jnp.asarray(self.stem.apply(params["stem"], read))
        for number, level in reversed(list(enumerate(self.resolutions))):
            keys = None
            if dropout_key is not None:
                key_level = jax.random.fold_in(dropout_key, number)
                keys = jax.random.split(key_level, level.num_blocks)
            maps = passes.shrink(below, level.side)
            below = passes.climb(level, params["levels"][number]["up"], maps, keys)
            features.insert(0, below)
        context = conditions.vectors(condition, self.num_classes)
        return Encoding(tuple(features), context)

    def propose(self, key: PRNGKey, params: Params, encoding: Encoding) -> Latents:
        """Draw all layers ~ q(z | x), reparameterised."""
        return self.propose_and_log_prob(key, params, encoding)[0]

    def propose_and_log_prob(
        self, key: PRNGKey, params: Params, encoding: Encoding
    ) -> tuple[Latents, Values]:
        """Draw all layers ~ q(z | x) with their log density, in one pass down."""
        walk = self._walk(key, params, encoding, None, passes.from_posterior)
        return walk.latents, walk.log_q

    def log_joint(
        self, params: Params, x: Any, latents: Latents, condition: Condition = None
    ) -> Values:
        """log p(x, z) of all layers."""
        blind = self._blind(condition)
        walk = self._walk(None, params, blind, latents, passes.as_known)
        return walk.log_p + self._log_likelihood(params, x, walk.state)

    def log_posterior(
        self, params: Params, encoding: Encoding, latents: Latents
    ) -> Values:
        """log q(z | x) of all layers."""
        return self._walk(None, params, encoding, latents, passes.as_known).log_q

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """One path of the bound, every divergence in closed form; dropout if ``train``.

        Prior matching is the top layer's; the others follow, the one next to x first.
        """
        key_path, key_up, key_down = jax.random.split(key, 3)
        encoding = self.encode(
            params, x, condition, dropout_key=key_up if train else None
        )
        levels = []
        for number, (level, own) in enumerate(
            zip(self.resolutions, params["levels"], strict=True)
        ):
            key_level = jax.random.fold_in(key_down, number)
            keys = jax.random.split(key_level, level.num_layers)
            levels.append(
                hierarchical.Level(
                    passes.entering(level, own["enter"], encoding.context),
                    passes.inferring(level, encoding.features[number], train=train),
                    (keys, own["down"]),
                )
            )
        return hierarchical.top_down_terms(
            key_path,
            self._nothing(len(encoding.features[0])),
            levels,
            log_likelihood=lambda state: self._log_likelihood(params, x, state),
        )

    def log_weight_given(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        encoding: Encoding,
        condition: Condition = None,
    ) -> Values:
        """log p(x, z) - log q(z | x) at one z ~ q(z | x), in one pass down."""
        walk = self._walk(key, params, encoding, None, passes.from_posterior)
        return self._log_likelihood(params, x, walk.state) + walk.log_p - walk.log_q

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw all layers from the prior, the top first, then x ~ p(x | z)."""
        key_z, key_x = jax.random.split(key)
        walk = self._walk_prior(key_z, params, num_samples, condition)
        outputs = self._outputs(params, walk.state)
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
        walk = self._walk_prior(key_z, params, num_samples, condition)
        return jax.vmap(self.likelihood.mean)(self._outputs(params, walk.state))

    def mean(
        self, params: Params, latents: Latents, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z], on the scale of x."""
        blind = self._blind(condition)
        walk = self._walk(None, params, blind, latents, passes.as_known)
        return jax.vmap(self.likelihood.mean)(self._outputs(params, walk.state))

    def reconstruct(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch *event"]:
        """E[x | z] at one z ~ q(z | x)."""
        encoding = self.encode(params, x, condition)
        walk = self._walk(key, params, encoding, None, passes.from_posterior)
        return jax.vmap(self.likelihood.mean)(self._outputs(params, walk.state))

    def resample(
        self,
        key: PRNGKey,
        params: Params,
        latents: Latents,
        condition: Condition = None,
        *,
        layer: int,
    ) -> Latents:
        """Draw the latents below a layer anew from the prior, given those above.

        Args:
            key: Random key, used once.
            params: Parameters.
            latents: Latents, of which z_layer .. z_T stay as they are.
            condition: What they are conditioned on.
            layer: From 1, the layer next to x, which keeps all, to T.

        Returns:
            Latents.

        Raises:
            ValueError: If there is no such layer.
        """
        left, known = sum(level.num_layers for level in self.resolutions), []
        networks.require_layer(layer, left)
        for level, z in zip(self.resolutions, latents, strict=True):
            numbers = left - jnp.arange(level.num_layers)
            kept = jnp.broadcast_to((numbers >= layer)[None], z.shape[:2])
            known.append((z, kept))
            left -= level.num_layers

        def choose(key: PRNGKey, densities: Densities, known: Any) -> Maps:
            z, kept = known
            drawn = normal.sample(key, *densities[1])
            return jnp.where(kept[:, None, None, None], z, drawn)

        return self._walk(
            key, params, self._blind(condition), tuple(known), choose
        ).latents

    def _nothing(self, count: int) -> Maps:
        """The state above the top."""
        return jnp.zeros((count, 1, 1, self.resolutions[0].layer.channels))

    def _blind(self, condition: Condition) -> Encoding:
        return Encoding((), conditions.vectors(condition, self.num_classes))

    def _outputs(self, params: Params, state: Maps) -> Array:
        outputs = jnp.asarray(self.head.apply(params["head"], state))
        return families.outputs(params, outputs)

    def _log_likelihood(self, params: Params, x: Any, state: Maps) -> Values:
        outputs = self._outputs(params, state)
        return families.log_prob(self.likelihood, x, outputs)

    def _walk_prior(
        self, key: PRNGKey, params: Params, count: int, condition: Condition
    ) -> Walk:
        empty = tuple(
            jnp.zeros((count, level.num_layers)) for level in self.resolutions
        )
        return self._walk(key, params, self._blind(condition), empty, passes.from_prior)

    def _walk(
        self,
        key: PRNGKey | None,
        params: Params,
        encoding: Encoding,
        known: Any,
        choose: Choose,
    ) -> Walk:
        count = len(jax.tree.leaves((known, encoding.features))[0])
        return passes.walk(
            key,
            self.resolutions,
            params["levels"],
            self._nothing(count),
            encoding,
            known,
            choose,
        )
