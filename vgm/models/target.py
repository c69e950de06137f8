"""A flow fitted to an unnormalised density: the evidence is its normaliser Z.

    log Z >= E_q(x) [ log target(x) - log q(x) ],    E_q [ target(x) / q(x) ] = Z.

In the terms of a VAE nothing is observed, and the latent is x: an example is an array
without numbers, and has one draw of x.
"""

import dataclasses
from typing import Any

import jax
from jaxtyping import Array, Float

from vgm.bounds import flow as bound
from vgm.bounds.elbo import ElboTerms
from vgm.models.flow import INIT_EXAMPLES, Flow
from vgm.oracles.targets import Target
from vgm.types import Condition, Params, PRNGKey


@dataclasses.dataclass(frozen=True)
class TargetFlow:
    """A flow q and the density it is fitted to.

    Attributes:
        flow: Flow of reals.
        target: Density up to its normaliser.
    """

    flow: Flow
    target: Target

    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters of the flow, started from standard normal points."""
        key_points, key_flow = jax.random.split(key)
        points = jax.random.normal(key_points, (INIT_EXAMPLES, *self.flow.event_shape))
        return self.flow.init(key_flow, points)

    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """E log target(x) and E log q(x) at one draw an example."""
        points, log_q = self.flow.sample_and_log_prob(key, params, len(x))
        log_target = jax.vmap(self.target.log_density)(points)
        return jax.vmap(bound.reverse_kl_terms)(log_target, log_q)

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log target(x) - log q(x) at one x ~ q."""
        return self.elbo_terms(key, params, x, condition).elbo

    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draw x ~ q, which is close to the target over Z."""
        return self.flow.sample(key, params, num_samples)
