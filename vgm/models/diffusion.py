"""Variational diffusions: VDM (Kingma et al. 2021) and DDPM (Ho et al. 2020).

One model: a schedule, a network that denoises, what the network predicts, and a decoder
from z_0. Trained by the bound of infinitely many steps or of T; evaluated, weighed and
sampled at T steps, ``num_steps``.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds import diffusion as bound
from vgm.bounds import trajectories, weightings
from vgm.bounds.elbo import ElboTerms
from vgm.models import conditions, networks, noise
from vgm.models.families import Outputs
from vgm.models.heads import Decoder, Head
from vgm.processes import times
from vgm.processes.gaussian import PARAMETERISATIONS
from vgm.samplers import diffusion as samplers
from vgm.shapes import require
from vgm.types import Condition, Event, Params, PRNGKey, Scalar


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """A variational diffusion as pure functions around one network.

    Attributes:
        network: (z, time, context, train) to outputs, the head's number of them a
            coordinate on a last axis.
        head: What the outputs mean.
        decoder: p(x | z_0).
        schedule: gamma(t).
        event_shape: Shape of one example.
        num_steps: T of evaluation, weights and samples.
        train_num_steps: T of training; 0 for infinitely many.
        num_times: Steps drawn for an example's bound in evaluation; 0 for all of them.
        chunk_size: Steps at once in evaluation.
        eta: Share of the ancestral noise in sampling, as in DDIM.
        num_classes: Number of classes of an integer condition; 0 without.
    """

    network: nn.Module
    head: Head
    decoder: Decoder
    schedule: noise.LearnableSchedule
    event_shape: tuple[int, ...]
    num_steps: int
    train_num_steps: int = 0
    num_times: int = 0
    chunk_size: int = 8
    eta: float = 1.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        lowest = {"num_steps": 1, "train_num_steps": 0, "num_times": 0, "chunk_size": 1}
        for name, least in lowest.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} must be at least {least}; got {getattr(self, name)}"
                )
        if self.head.parameterisation is PARAMETERISATIONS["eps"]:
            noise.require_signal(self.schedule)

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters; the output bias fits each coordinate of x alone."""
        one = jax.tree.map(lambda leaf: leaf[:1], (x, condition))
        start = self.decoder.init(x)
        z = jax.vmap(self.decoder.features, (0, None))(one[0], start)
        context = conditions.vectors(one[1], self.num_classes)
        return {
            "network": self.network.init(key, z, jnp.zeros(1), context, train=False),
            "output_bias": self.head.initial_bias(x),
            "schedule": self.schedule.init(),
            **start,
        }

    def outputs(
        self,
        params: Params,
        z: Event,
        gamma: Scalar,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> Outputs:
        """The network's outputs for one example; with a key, under dropout."""
        gamma_0, gamma_1 = self._ends(params)
        one = jax.tree.map(lambda leaf: leaf[None], condition)
        values = networks.apply(
            self.network,
            params["network"],
            z[None],
            ((gamma - gamma_0) / (gamma_1 - gamma_0))[None],
            conditions.vectors(one, self.num_classes),
            key=dropout_key,
        )
        require("the network's outputs", values, (1, *z.shape, self.head.num_outputs))
        return self.head.expand(values[0]) + params["output_bias"]

    def chain(
        self,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        dropout_key: PRNGKey | None = None,
    ) -> bound.Chain:
        """The diffusion of one example; with a key, under dropout.

        ``x`` is for the chain's ``log_likelihood`` alone.
        """
        keys = (None, None) if dropout_key is None else jax.random.split(dropout_key)

        def predict(z: Event, gamma: Scalar) -> Event:
            outputs = self.outputs(params, z, gamma, condition, dropout_key=keys[0])
            return self.head.predict(outputs, z, gamma)

        def log_likelihood(z_0: Event) -> Scalar:
            given = self._given(params, z_0, condition, keys[1])
            return self.decoder.log_prob(x, *given)

        schedule = self.schedule.build(params["schedule"])
        return bound.Chain(
            schedule, predict, self.head.parameterisation, log_likelihood
        )

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """One draw of the bound: in training at one time an example, under dropout."""
        if train:
            return self.training_terms(key, params, x, condition)
        keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))
        return jax.vmap(self._evaluation_terms, (0, None, 0, 0))(
            keys, params, x, condition
        )

    def training_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        params_axes: Any = None,
    ) -> ElboTerms:
        """The bound at one time an example, under dropout.

        ``params_axes`` as in ``jax.vmap``: parameters may have an example's axis.
        """
        key_t, key_noise, key_dropout = jax.random.split(key, 3)
        count = len(jax.tree.leaves(x)[0])
        return jax.vmap(self._training_terms, (0, 0, 0, params_axes, 0, 0))(
            jax.random.split(key_noise, count),
            jax.random.split(key_dropout, count),
            times.low_discrepancy_times(key_t, count),
            params,
            x,
            condition,
        )

    def weighted_error(
        self, key: PRNGKey, params: Params, terms: ElboTerms, weighting: str
    ) -> Float[Array, " batch"]:
        """w(gamma) |eps - eps_hat|^2, from what ``training_terms`` made of the key."""
        key_t, _, _ = jax.random.split(key, 3)
        schedule = self.schedule.build(params["schedule"])

        def weight(t: Scalar) -> Scalar:
            return weightings.relative_weight(
                t, schedule, num_steps=self.train_num_steps, weighting=weighting
            )

        matching = terms.denoising_matching[:, 0]
        return (
            jax.vmap(weight)(times.low_discrepancy_times(key_t, matching.size))
            * matching
        )

    def _training_terms(
        self,
        key: PRNGKey,
        key_dropout: PRNGKey,
        t: Scalar,
        params: Params,
        x: Any,
        condition: Condition,
    ) -> ElboTerms:
        chain = self.chain(params, x, condition, dropout_key=key_dropout)
        features = self.decoder.features(x, params)
        if self.train_num_steps == 0:
            return bound.continuous_terms(key, features, t[None], chain)
        settings = {"num_steps": self.train_num_steps, "chunk_size": 1}
        return bound.sampled_terms(key, features, t[None], chain, **settings)

    def _evaluation_terms(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition
    ) -> ElboTerms:
        chain = self.chain(params, x, condition)
        features = self.decoder.features(x, params)
        settings = {"num_steps": self.num_steps, "chunk_size": self.chunk_size}
        if self.num_times == 0:
            return bound.discrete_terms(key, features, chain, **settings)
        key_t, key = jax.random.split(key)
        t = times.low_discrepancy_times(key_t, self.num_times)
        return bound.sampled_terms(key, features, t, chain, **settings)

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x, z) - log q(z | x) of one whole trajectory of T steps."""

        def one(key: PRNGKey, x: Any, condition: Condition) -> Scalar:
            chain = self.chain(params, x, condition)
            features = self.decoder.features(x, params)
            return trajectories.log_weight(
                key, features, chain, num_steps=self.num_steps
            )

        keys = jax.random.split(key, len(jax.tree.leaves(x)[0]))
        return jax.vmap(one)(keys, x, condition)

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw z_1 ~ N(0, I), the chain down to z_0, then x ~ p(x | z_0)."""

        def one(key: PRNGKey, condition: Condition) -> Any:
            key_chain, key_x = jax.random.split(key)
            z_0 = self._draw(samplers.sample, key_chain, params, condition)
            given = self._given(params, z_0, condition, None)
            return self.decoder.sample(key_x, *given)

        return jax.vmap(one)(jax.random.split(key, num_samples), condition)

    def trajectory(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> tuple[Any, Any]:
        """On the way to a sample of this key: z_s and x_hat, both as latents."""

        def one(key: PRNGKey, condition: Condition) -> tuple[Array, Array]:
            key_chain, _ = jax.random.split(key)
            return self._draw(samplers.trajectory, key_chain, params, condition)

        return jax.vmap(one)(jax.random.split(key, num_samples), condition)

    def _draw(
        self,
        draw: Callable[..., Any],
        key: PRNGKey,
        params: Params,
        condition: Condition,
    ) -> Any:
        key_top, key_chain = jax.random.split(key)
        return draw(
            key_chain,
            jax.random.normal(key_top, self.event_shape),
            self.chain(params, None, condition),
            num_steps=self.num_steps,
            step=samplers.ddim_step(self.eta),
        )

    def _given(
        self,
        params: Params,
        z_0: Event,
        condition: Condition,
        dropout_key: PRNGKey | None,
    ) -> tuple[Params, Event, Scalar, Outputs]:
        """What the decoder is given."""
        gamma_0, _ = self._ends(params)
        outputs = self.outputs(params, z_0, gamma_0, condition, dropout_key=dropout_key)
        return params, z_0, gamma_0, outputs

    def _ends(self, params: Params) -> tuple[Scalar, Scalar]:
        schedule = self.schedule.build(params["schedule"])
        return schedule.gamma(jnp.zeros(())), schedule.gamma(jnp.ones(()))
