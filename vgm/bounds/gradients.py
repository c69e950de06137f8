"""Gradient estimators of the bounds: other gradients, the same values.

All are functions of (key, params, system): ``propose(key, params)`` draws z ~ q,
``log_joint(params, z)`` is log p(x, z), ``log_posterior(params, z)`` is log q(z | x).
Each returns a bound whose ``jax.grad`` is the estimator. Parameters that p and q share
come out right, because each function has its own path to them.

With log w_k = log p(x, z_k) - log q(z_k | x) and normalised weights u_k = w_k / sum w:

    pathwise              d/dparams through z             (Kingma & Welling 2014)
    score function        (log w_k - mean of the others) d log q
                                                          (Mnih & Rezende 2016)
    VIMCO                 the same for log 1/K sum w      (Mnih & Rezende 2016)
    sticking the landing  no derivative of log q at fixed z
                                                          (Roeder et al. 2017)
    DReG                  sum u_k^2 (d log w_k / d z_k) (d z_k / d params)
                                                          (Tucker et al. 2019)

"At fixed z" means all latents of a hierarchy: q's *parameters* are stopped inside
log q, the samples that its networks read stay live.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.numerics import log_mean_exp, with_gradient_of
from vgm.shapes import require_positive, require_same
from vgm.types import Params, PRNGKey

LogWeights = Float[Array, "samples *batch"]
Bound = Float[Array, "*batch"]


class System(NamedTuple):
    """p and q of one example or of a batch, x and networks inside.

    Attributes:
        propose: (key, params) to latents z ~ q, a pytree, reparameterised unless
            only score-function estimators are used.
        log_joint: (params, z) to log p(x, z).
        log_posterior: (params, z) to log q(z | x).
        over_draws: Maps a function of one draw z over many, on a first axis.
        propose_and_log_prob: (key, params) to what ``propose`` draws from the key and
            its log q(z | x), for the pathwise estimators, where a draw knows its own
            density: from z a flow would be turned round.
    """

    propose: Callable[[PRNGKey, Params], Any]
    log_joint: Callable[[Params, Any], Bound]
    log_posterior: Callable[[Params, Any], Bound]
    over_draws: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] = jax.vmap
    propose_and_log_prob: Callable[[PRNGKey, Params], tuple[Any, Bound]] | None = None


Estimator = Callable[..., Bound]
"""(key, params, system, *, num_samples) to a bound on log p(x), in nats."""


def elbo_pathwise(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The mean log weight, differentiated through the samples.

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: Draws.

    Returns:
        An estimate of the ELBO, in nats.
    """
    return jnp.mean(_log_weights_of_draws(key, params, system, num_samples), axis=0)


def elbo_sticking_the_landing(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The mean log weight without the score of q (Roeder et al. 2017, eq. 6).

    The gradient for q is exactly 0 when q is the posterior.

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: Draws.

    Returns:
        An estimate of the ELBO, in nats.
    """
    z = _propose(key, params, system, num_samples)
    fixed = jax.lax.stop_gradient(params)
    return jnp.mean(_log_weights(params, fixed, system, z), axis=0)


def elbo_score_function(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The mean log weight by the score function, each draw's baseline the others' mean.

    Latents need not be reparameterised (Mnih & Rezende 2016, eq. 7, on the ELBO).

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: Draws, at least 2.

    Returns:
        An estimate of the ELBO, in nats.
    """
    _require_two("elbo_score_function", num_samples)
    z = jax.lax.stop_gradient(_propose(key, params, system, num_samples))
    log_joint, log_q = _log_densities(params, params, system, z)
    log_w = jax.lax.stop_gradient(log_joint - log_q)
    others = _mean_of_others(log_w)
    surrogate = jnp.mean(log_joint + (log_w - others) * log_q, axis=0)
    return with_gradient_of(jnp.mean(log_w, axis=0), surrogate)


def iwae_pathwise(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The K-sample bound, differentiated through the samples (Burda et al. 2016).

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: K.

    Returns:
        One draw of L_K, in nats.
    """
    return _log_mean(_log_weights_of_draws(key, params, system, num_samples))


def iwae_vimco(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The K-sample bound by the score function (Mnih & Rezende 2016, eqs. 9-10).

    Draw k's baseline is the bound with w_k replaced by the geometric mean of the
    others; latents need not be reparameterised.

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: K, at least 2.

    Returns:
        One draw of L_K, in nats.
    """
    _require_two("iwae_vimco", num_samples)
    z = jax.lax.stop_gradient(_propose(key, params, system, num_samples))
    log_joint, log_q = _log_densities(params, params, system, z)
    live = log_joint - log_q
    log_w = jax.lax.stop_gradient(live)
    bound = _log_mean(log_w)
    # Signals do not see a common offset: without it they keep their digits.
    largest = jnp.max(log_w, axis=0)
    offset = jnp.where(jnp.isfinite(largest), largest, 0.0)
    baseline = _log_mean_without_each(log_w - offset[None])
    # Where every other weight is 0 there is nothing to compare with: no baseline.
    baseline = jnp.where(jnp.isfinite(baseline), baseline, -offset[None])
    signal = (bound - offset)[None] - baseline
    weights = _normalised(log_w)
    weighted = weights * jnp.where(weights > 0.0, live, 0.0)
    surrogate = jnp.sum(signal * log_q + weighted, axis=0)
    return with_gradient_of(bound, surrogate)


def iwae_dreg(
    key: PRNGKey, params: Params, system: System, *, num_samples: int
) -> Bound:
    """The K-sample bound, doubly reparameterised (Tucker et al. 2019, eq. 8).

    The derivative of log w_k is weighted by u_k, and what reaches the parameters
    through the sample z_k once more; what reaches p's directly is not.

    Args:
        key: Random key, used once.
        params: Parameters.
        system: p and q.
        num_samples: K.

    Returns:
        One draw of L_K, in nats.
    """
    z = _propose(key, params, system, num_samples)
    fixed = jax.lax.stop_gradient(params)
    weights = _normalised(
        jax.lax.stop_gradient(_log_weights(params, params, system, z))
    )

    def weigh(leaf: Array) -> Array:
        shape = weights.shape + (1,) * (leaf.ndim - weights.ndim)
        return with_gradient_of(leaf, weights.reshape(shape) * leaf)

    scaled = jax.tree.map(weigh, z)
    log_w = _log_weights(params, fixed, system, scaled)
    bound = _log_mean(jax.lax.stop_gradient(log_w))
    weighted = weights * jnp.where(weights > 0.0, log_w, 0.0)
    return with_gradient_of(bound, jnp.sum(weighted, axis=0))


ELBO_ESTIMATORS: dict[str, Estimator] = {
    "pathwise": elbo_pathwise,
    "sticking-the-landing": elbo_sticking_the_landing,
    "score-function": elbo_score_function,
}
"""Estimators of the ELBO's gradient, by name."""

IWAE_ESTIMATORS: dict[str, Estimator] = {
    "pathwise": iwae_pathwise,
    "vimco": iwae_vimco,
    "dreg": iwae_dreg,
}
"""Estimators of the K-sample bound's gradient, by name; sticking the landing is biased
for K > 1 and not among them (Tucker et al. 2019)."""


def _propose(key: PRNGKey, params: Params, system: System, num_samples: int) -> Any:
    """Draws on a first axis; what depends on no key, the encoder, is computed once."""
    require_positive(num_samples=num_samples)
    keys = jax.random.split(key, num_samples)
    return jax.vmap(lambda key: system.propose(key, params))(keys)


def _log_weights_of_draws(
    key: PRNGKey, params: Params, system: System, num_samples: int
) -> LogWeights:
    """Differentiable in the parameters in every way."""
    if system.propose_and_log_prob is None:
        z = _propose(key, params, system, num_samples)
        return _log_weights(params, params, system, z)
    require_positive(num_samples=num_samples)
    keys = jax.random.split(key, num_samples)
    z, log_q = jax.vmap(system.propose_and_log_prob, (0, None))(keys, params)
    log_joint = system.over_draws(lambda z: system.log_joint(params, z))(z)
    require_same("a System", log_joint=log_joint, log_posterior=log_q)
    return log_joint - log_q


def _log_weights(p_params: Params, q_params: Params, system: System, z: Any) -> Array:
    log_joint, log_posterior = _log_densities(p_params, q_params, system, z)
    return log_joint - log_posterior


def _log_densities(
    p_params: Params, q_params: Params, system: System, z: Any
) -> tuple[LogWeights, LogWeights]:
    log_joint = system.over_draws(lambda z: system.log_joint(p_params, z))(z)
    log_posterior = system.over_draws(lambda z: system.log_posterior(q_params, z))(z)
    require_same("a System", log_joint=log_joint, log_posterior=log_posterior)
    return log_joint, log_posterior


def _log_mean(log_w: LogWeights) -> Bound:
    flat = log_w.reshape(len(log_w), -1)
    return jax.vmap(log_mean_exp, in_axes=1)(flat).reshape(log_w.shape[1:])


def _normalised(log_w: LogWeights) -> LogWeights:
    return jax.nn.softmax(log_w, axis=0)


def _mean_of_others(log_w: LogWeights) -> LogWeights:
    """Mean of the other log weights, for each; -inf where one of them is."""
    zero = jnp.isneginf(log_w)
    finite = jnp.where(zero, 0.0, log_w)
    others = (jnp.sum(finite, axis=0)[None] - finite) / (len(log_w) - 1)
    return jnp.where(jnp.sum(zero, axis=0)[None] > zero, -jnp.inf, others)


def _log_mean_without_each(log_w: LogWeights) -> LogWeights:
    """Log 1/K sum w with w_k replaced by the others' geometric mean, for each k."""
    first = jnp.full_like(log_w[:1], -jnp.inf)
    below = jax.lax.cumlogsumexp(log_w, axis=0)
    above = jax.lax.cumlogsumexp(log_w, axis=0, reverse=True)
    others = jnp.logaddexp(
        jnp.concatenate([first, below[:-1]]), jnp.concatenate([above[1:], first])
    )
    total = jnp.logaddexp(others, _mean_of_others(log_w))
    return total - math.log(len(log_w))


def _require_two(name: str, num_samples: int) -> None:
    if num_samples < 2:
        raise ValueError(
            f"{name} takes the mean of the other draws as a baseline and needs "
            f"num_samples >= 2; got {num_samples}"
        )
