"""Normalising flows: VAEs whose encoder and decoder are one invertible map.

The log density of reals is exact; levels are dequantised with noise, whose density the
bound carries, through a logit, so that all the mass lies on the levels.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm import bijections
from vgm.bijections import Bijection
from vgm.bounds import flow as bound
from vgm.bounds.elbo import ElboTerms
from vgm.densities import normal
from vgm.densities.levels import scale_levels
from vgm.errors import UserError
from vgm.models import conditions
from vgm.models.layers import Context, Layer, push
from vgm.models.learned import velocity
from vgm.numerics import at_least_float32
from vgm.processes import times
from vgm.shapes import require
from vgm.types import Condition, Event, Params, PRNGKey, Scalar

INIT_EXAMPLES = 1024
"""Examples that the layers start from; the standardisation sees all."""


@dataclasses.dataclass(frozen=True)
class Flow:
    """A normalising flow as pure functions around its layers.

    Attributes:
        data: What makes the data roughly standard, fixed once it has seen them.
        layers: Data to noise.
        event_shape: Shape of one example.
        levels: Number of integer levels; 0 for reals.
        noise: From logit u to logit of a uniform one, given x: variational
            dequantisation; None for uniform u.
        num_classes: Number of classes of an integer condition; 0 without.
    """

    data: Layer
    layers: Layer
    event_shape: tuple[int, ...]
    levels: int = 0
    noise: Layer | None = None
    num_classes: int = 0

    @property
    def is_exact(self) -> bool:
        """Whether log p(x) is exact: of reals."""
        return not self.levels

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters: standardisation by all of x, layers by some of it."""
        require("x", x, (len(x), *self.event_shape))
        key_u, key_data, key_layers, key_noise = jax.random.split(key, 4)
        context = conditions.vectors(condition, self.num_classes)
        value = x if self.levels else at_least_float32(x)
        if self.levels:
            w = bound.sample_uniform(key_u, x.shape)
            value, _ = jax.vmap(self._dequantize)(x, w)
        params = {"data": self.data.init(key_data, value, context)}
        some = jax.tree.map(lambda leaf: leaf[:INIT_EXAMPLES], (value, context))
        standard = push(self.data, params["data"], *some)
        params["layers"] = self.layers.init(key_layers, standard, some[1])
        if self.noise is not None:
            contexts = jax.vmap(self._noise_context)(x[:1])
            params["noise"] = self.noise.init(key_noise, standard[:1], contexts)
        return params

    def bijection(
        self, params: Params, context: Context, dropout_key: PRNGKey | None = None
    ) -> Bijection:
        """Data to noise for one example's context; with a key, under dropout."""
        # Parameters read from a file are NumPy's.
        data, own = jax.tree.map(jnp.asarray, (params["data"], params["layers"]))
        return bijections.compose(
            self.data.build(data, context, None),
            self.layers.build(own, context, dropout_key),
        )

    def log_prob(
        self, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x) of reals, exact; of levels the log density of their logits."""
        context = conditions.vectors(condition, self.num_classes)

        def one(x: Event, context: Context) -> Scalar:
            bijection = self.bijection(params, context)
            return bound.change_of_variables(
                x, bijection, normal.standard_log_prob
            ).elbo

        return jax.vmap(one)(x, context)

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """Terms of log p(x), exact for reals; one draw of the noise for levels."""
        context = conditions.vectors(condition, self.num_classes)

        def one(key: PRNGKey, x: Any, context: Context) -> ElboTerms:
            key_u, key_dropout = jax.random.split(key)
            bijection = self.bijection(params, context, key_dropout if train else None)
            if not self.levels:
                return bound.change_of_variables(x, bijection, normal.standard_log_prob)
            w, log_q = self._draw_noise(key_u, params, x)
            value, log_det = self._dequantize(x, w)
            terms = bound.change_of_variables(
                value, bijection, normal.standard_log_prob
            )
            return bound.dequantized_terms(terms, log_det, log_q)

        return jax.vmap(one)(jax.random.split(key, len(x)), x, context)

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x), whatever the key; for levels its weight at one draw of noise."""
        return self.elbo_terms(key, params, x, condition).elbo

    def sample_and_log_prob(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> tuple[Any, Float[Array, " samples"]]:
        """Draw reals (of levels the logits) with their log densities, in one pass."""
        context = conditions.vectors(condition, self.num_classes)

        def one(key: PRNGKey, context: Context) -> tuple[Event, Scalar]:
            shape = jax.eval_shape(
                lambda x: self.bijection(params, context).forward(x)[0],
                jax.ShapeDtypeStruct(self.event_shape, jnp.zeros(()).dtype),
            ).shape
            return bound.sample_and_log_prob(
                key,
                self.bijection(params, context),
                lambda key: jax.random.normal(key, shape),
                normal.standard_log_prob,
            )

        return jax.vmap(one)(jax.random.split(key, num_samples), context)

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw z ~ N(0, I), then x = f^-1(z); its level, where x has levels."""
        if self.layers.velocity is None:
            value, _ = self.sample_and_log_prob(key, params, num_samples, condition)
        else:
            network = self.layers.velocity
            value = self._transport(network, key, params, num_samples, condition)
        if not self.levels:
            return value
        return bound.quantize(value, levels=self.levels)

    def _transport(
        self,
        network: Any,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition,
    ) -> Array:
        """Draws of a continuous flow, back along its velocity; no density is solved."""
        context = conditions.vectors(condition, self.num_classes)
        data, own = jax.tree.map(jnp.asarray, (params["data"], params["layers"]))

        def one(key: PRNGKey, context: Context) -> Event:
            move = velocity(network, own, context, None)
            z = jax.random.normal(key, self.event_shape)
            standard = bijections.continuous.integrate(move, z, 1.0, 0.0)
            return self.data.build(data, context, None).inverse(standard)[0]

        return jax.vmap(one)(jax.random.split(key, num_samples), context)

    def matching_error(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """One draw of the flow matching error of a continuous flow, under dropout.

        Raises:
            UserError: If the flow is not continuous, or one of levels.
        """
        network = self.layers.velocity
        if network is None or self.levels:
            raise UserError(
                "objective.name 'flow-matching' needs model.architecture 'continuous' "
                "and data.observation 'density'"
            )
        context = conditions.vectors(condition, self.num_classes)
        standard = push(self.data, params["data"], x, context)
        key_t, key_z, key_dropout = jax.random.split(key, 3)
        t = times.low_discrepancy_times(key_t, len(x))
        z = jax.random.normal(key_z, standard.shape)

        def one(
            key: PRNGKey, t: Scalar, x: Event, z: Event, context: Context
        ) -> Scalar:
            move = velocity(network, params["layers"], context, key)
            return bound.flow_matching_error(move, t, x, z)

        keys = jax.random.split(key_dropout, len(x))
        return jax.vmap(one)(keys, t, standard, z, context)

    def _dequantize(self, x: Any, w: Event) -> tuple[Event, Scalar]:
        return bound.dequantize(x, w, levels=self.levels)

    def _noise_context(self, x: Any) -> Float[Array, " features"]:
        return scale_levels(x, levels=self.levels).reshape(-1)

    def _draw_noise(self, key: PRNGKey, params: Params, x: Any) -> tuple[Event, Scalar]:
        """Logits w of the noise u ~ q(u | x), and their log density."""
        if self.noise is None:
            w = bound.sample_uniform(key, x.shape)
            return w, bound.log_uniform(w)
        own = jax.tree.map(jnp.asarray, params["noise"])
        return bound.sample_and_log_prob(
            key,
            self.noise.build(own, self._noise_context(x), None),
            lambda key: bound.sample_uniform(key, x.shape),
            bound.log_uniform,
        )
