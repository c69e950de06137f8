"""Autoregressive models: log p(x) = sum log p(x_i | x_1 .. x_{i-1}), exactly.

No latents: the bound is the likelihood, its prior matching 0.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.bounds.elbo import ElboTerms, single_latent_terms
from vgm.models import conditions, families, networks
from vgm.models.likelihoods import Likelihood
from vgm.shapes import rows
from vgm.types import Condition, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class Autoregressive:
    """An autoregressive model as pure functions around one masked network.

    Attributes:
        network: (vectors, context, train) to outputs of each number, those of the i-th
            a function of the numbers before it.
        likelihood: Family of p(x_i | x_1 .. x_{i-1}).
        event_shape: Shape of one example.
        num_classes: Number of classes of an integer condition; 0 without.
    """

    network: nn.Module
    likelihood: Likelihood
    event_shape: tuple[int, ...]
    num_classes: int = 0

    is_exact = True
    """log p(x) is exact."""

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; output bias and unit fit each coordinate of x alone."""
        one = jax.tree.map(lambda leaf: leaf[:1], (x, condition))
        context = conditions.vectors(one[1], self.num_classes)
        start = families.initial(self.likelihood, x)
        vector = self._vectors(start, one[0])
        return {
            "network": self.network.init(key, vector, context, train=False),
            **start,
        }

    def outputs(
        self,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Float[Array, " batch *event outputs"]:
        """The likelihood's outputs; with a key, under dropout."""
        outputs = networks.apply(
            self.network,
            params["network"],
            self._vectors(params, x),
            conditions.vectors(condition, self.num_classes),
            key=dropout_key,
        )
        shape = (len(x), *params["output_bias"].shape)
        return families.outputs(params, outputs.reshape(shape))

    def log_prob(
        self, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x), exact."""
        outputs = self.outputs(params, x, condition)
        return families.log_prob(self.likelihood, x, outputs)

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """log p(x) as reconstruction; nothing else; under dropout if ``train``."""
        outputs = self.outputs(params, x, condition, dropout_key=key if train else None)
        log_prob = families.log_prob(self.likelihood, x, outputs)
        return single_latent_terms(log_prob, jnp.zeros_like(log_prob))

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x), whatever the key."""
        return self.log_prob(params, x, condition)

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw x_1, then x_2 given it, and so on: as many passes as numbers."""
        dim = math.prod(self.event_shape)
        draw = self.likelihood.sample
        dtype = jax.eval_shape(draw, key, params["output_bias"]).dtype

        def step(flat: Array, inputs: tuple[PRNGKey, Int[Array, ""]]) -> Any:
            key, i = inputs
            outputs = self.outputs(params, flat.reshape(shape), condition)
            outputs = outputs.reshape(num_samples, dim, outputs.shape[-1])
            here = jax.lax.dynamic_slice_in_dim(outputs, i, 1, axis=1)
            keys = jax.random.split(key, num_samples)
            drawn = jax.vmap(draw)(keys, here).astype(dtype)
            return jax.lax.dynamic_update_slice_in_dim(flat, drawn, i, axis=1), None

        shape = num_samples, *self.event_shape
        keys = jax.random.split(key, dim), jnp.arange(dim)
        flat, _ = jax.lax.scan(step, jnp.zeros((num_samples, dim), dtype), keys)
        return flat.reshape(shape)

    def _vectors(self, params: Params, x: Any) -> Float[Array, "batch dim"]:
        return rows(families.features(self.likelihood, params, x))
