"""A chain of linear-Gaussian layers, z_T -> ... -> z_1 -> x: a Markov hierarchy.

    z_T ~ N(0, I),   z_{t-1} | z_t ~ N(A_t z_t + b_t, L_t L_t'),   z_0 = x.          (1)

Every marginal is normal, so the evidence follows by the Kalman recursion

    m_{t-1} = A_t m_t + b_t,   C_{t-1} = A_t C_t A_t' + L_t L_t',                    (2)

and both exact posteriors are chains of the same kind: bottom-up, where z_t depends on
z_{t-1} alone (x adds nothing), and top-down, where z_t depends on z_{t+1} and x.

In float32 the noise must not be far below the signal: covariances are added up, and
noise below the last digits of the signal's is lost. Then use float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy as jsp
from jaxtyping import Array, Float

from vgm.densities import multivariate_normal
from vgm.precision import matmul
from vgm.types import PRNGKey, Scalar


class Conditional(NamedTuple):
    """A linear-Gaussian conditional y | z ~ N(weights z + bias, cholesky cholesky').

    Attributes:
        weights: A.
        bias: b.
        cholesky: L.
    """

    weights: Float[Array, "output input"]
    bias: Float[Array, " output"]
    cholesky: Float[Array, "output output"]


Chain = tuple[Conditional, ...]
"""p(x | z_1), p(z_1 | z_2), ..., p(z_{T-1} | z_T); z_T ~ N(0, I) is understood."""

Latents = tuple[Array, ...]
"""z_1, ..., z_T."""


class Marginal(NamedTuple):
    """A normal.

    Attributes:
        mean: Mean.
        covariance: Covariance.
    """

    mean: Float[Array, " dim"]
    covariance: Float[Array, "dim dim"]


def log_prob(
    conditional: Conditional, y: Float[Array, " output"], z: Float[Array, " input"]
) -> Scalar:
    """Log density of y given z, in nats.

    Args:
        conditional: Conditional.
        y: Its event.
        z: What it depends on.

    Returns:
        The log density.
    """
    mean = matmul(conditional.weights, z) + conditional.bias
    return multivariate_normal.log_prob(y, mean, conditional.cholesky)


def sample(
    key: PRNGKey, conditional: Conditional, z: Float[Array, " input"]
) -> Float[Array, " output"]:
    """Draw y given z, reparameterised.

    Args:
        key: Random key, used once.
        conditional: Conditional.
        z: What it depends on.

    Returns:
        The event.
    """
    mean = matmul(conditional.weights, z) + conditional.bias
    return multivariate_normal.sample(key, mean, conditional.cholesky)


def _sample_and_log_prob(
    key: PRNGKey, conditional: Conditional, z: Float[Array, " input"]
) -> tuple[Float[Array, " output"], Scalar]:
    mean = matmul(conditional.weights, z) + conditional.bias
    eps = jax.random.normal(key, mean.shape, mean.dtype)
    return multivariate_normal.reparameterize(eps, mean, conditional.cholesky)


def log_joint(chain: Chain, x: Float[Array, " data"], latents: Latents) -> Scalar:
    """log p(x, z_1, ..., z_T), in nats.

    Args:
        chain: Model.
        x: Observation.
        latents: z_1, ..., z_T.

    Returns:
        The log joint density.
    """
    top = latents[-1]
    prior = _standard(top.size, top.dtype)
    above = (*latents, jnp.zeros(0, top.dtype))
    layers = zip((*chain, prior), (x, *latents), above, strict=True)
    return sum(
        (log_prob(layer, below, above) for layer, below, above in layers),
        start=jnp.zeros((), x.dtype),
    )


def marginals(chain: Chain) -> tuple[Marginal, ...]:
    """The marginals of x, z_1, ..., z_T, by (2).

    Args:
        chain: Model.

    Returns:
        Normals, the observation's first.
    """
    top = _standard(chain[-1].weights.shape[1], chain[-1].weights.dtype)
    laws = [Marginal(top.bias, top.cholesky)]
    for layer in reversed(chain):
        mean, covariance = laws[0]
        noise = matmul(layer.cholesky, layer.cholesky.T)
        laws.insert(
            0,
            Marginal(
                matmul(layer.weights, mean) + layer.bias,
                matmul(layer.weights, covariance, layer.weights.T) + noise,
            ),
        )
    return tuple(laws)


def log_evidence(chain: Chain, x: Float[Array, " data"]) -> Scalar:
    """log p(x), in nats.

    Args:
        chain: Model.
        x: Observation.

    Returns:
        The exact log evidence.
    """
    mean, covariance = marginals(chain)[0]
    return multivariate_normal.log_prob(x, mean, jnp.linalg.cholesky(covariance))


def invert(law: Marginal, conditional: Conditional) -> Conditional:
    """Bayes' rule: z | y where z ~ ``law`` and y | z ~ ``conditional``.

    Args:
        law: Normal of z.
        conditional: y given z.

    Returns:
        z given y, for every y.
    """
    noise = matmul(conditional.cholesky, conditional.cholesky.T)
    cross = matmul(conditional.weights, law.covariance)
    total = matmul(cross, conditional.weights.T) + noise
    gain = jsp.linalg.solve(total, cross, assume_a="pos").T
    # Joseph's form: a sum of squares, so that the covariance stays positive.
    keep = jnp.eye(len(law.mean), dtype=gain.dtype) - matmul(gain, conditional.weights)
    covariance = matmul(keep, law.covariance, keep.T) + matmul(gain, noise, gain.T)
    expected = matmul(conditional.weights, law.mean) + conditional.bias
    bias = law.mean - matmul(gain, expected)
    return Conditional(gain, bias, jnp.linalg.cholesky(covariance))


def bottom_up_posterior(chain: Chain) -> Chain:
    """The exact q(z_t | z_{t-1}), t = 1 .. T, with z_0 = x.

    Args:
        chain: Model.

    Returns:
        Conditionals of z_1 on x, z_2 on z_1, and so on; the same for every x.
    """
    laws = marginals(chain)[1:]
    return tuple(invert(law, layer) for law, layer in zip(laws, chain, strict=True))


def top_down_posterior(chain: Chain, x: Float[Array, " data"]) -> Chain:
    """The exact q(z_t | z_{t+1}, x), t = 1 .. T, at one x.

    Args:
        chain: Model.
        x: Observation.

    Returns:
        Conditionals of z_1 on z_2, ..., z_{T-1} on z_T, and of z_T on nothing.
    """
    prior = _standard(chain[-1].weights.shape[1], x.dtype)
    to_data, posterior = chain[0], []
    for layer in (*chain[1:], prior):
        # Given z_{t+1}: the layer's weights carry its dependence, the rest is Bayes.
        noise = matmul(layer.cholesky, layer.cholesky.T)
        law = Marginal(layer.bias, noise)
        given_x = invert(law, to_data)
        seen = matmul(given_x.weights, to_data.weights)
        weights = matmul(jnp.eye(len(seen), dtype=x.dtype) - seen, layer.weights)
        bias = matmul(given_x.weights, x) + given_x.bias
        posterior.append(Conditional(weights, bias, given_x.cholesky))
        to_data = compose(to_data, layer)
    return tuple(posterior)


def compose(lower: Conditional, upper: Conditional) -> Conditional:
    """The law of x given z where x | y ~ ``lower`` and y | z ~ ``upper``.

    Args:
        lower: x given y.
        upper: y given z.

    Returns:
        x given z, y integrated out.
    """
    spread = matmul(lower.weights, upper.cholesky)
    covariance = matmul(spread, spread.T) + matmul(lower.cholesky, lower.cholesky.T)
    return Conditional(
        matmul(lower.weights, upper.weights),
        matmul(lower.weights, upper.bias) + lower.bias,
        jnp.linalg.cholesky(covariance),
    )


def sample_bottom_up(
    key: PRNGKey, posterior: Chain, x: Float[Array, " data"]
) -> tuple[Latents, Scalar]:
    """Draw z_1, ..., z_T from a bottom-up chain.

    Args:
        key: Random key, used once.
        posterior: Conditionals of z_1 on x, z_2 on z_1, and so on.
        x: Observation.

    Returns:
        Latents, reparameterised, and log q of them, in nats.
    """
    latents, log_q, below = [], jnp.zeros((), x.dtype), x
    for key_layer, layer in zip(
        jax.random.split(key, len(posterior)), posterior, strict=True
    ):
        z, added = _sample_and_log_prob(key_layer, layer, below)
        log_q = log_q + added
        latents.append(z)
        below = z
    return tuple(latents), log_q


def sample_top_down(key: PRNGKey, posterior: Chain) -> tuple[Latents, Scalar]:
    """Draw z_T, ..., z_1 from a top-down chain.

    Args:
        key: Random key, used once.
        posterior: Conditionals of z_1 on z_2, ..., of z_T on nothing.

    Returns:
        Latents, z_1 first, reparameterised, and log q of them, in nats.
    """
    latents: list[Array] = []
    dtype = posterior[-1].bias.dtype
    above, log_q = jnp.zeros(0, dtype), jnp.zeros((), dtype)
    keys = jax.random.split(key, len(posterior))
    for key_layer, layer in zip(keys, reversed(posterior), strict=True):
        z, added = _sample_and_log_prob(key_layer, layer, above)
        log_q = log_q + added
        latents.insert(0, z)
        above = z
    return tuple(latents), log_q


def _standard(size: int, dtype: jnp.dtype) -> Conditional:
    """N(0, I), given nothing."""
    return Conditional(
        jnp.zeros((size, 0), dtype), jnp.zeros(size, dtype), jnp.eye(size, dtype=dtype)
    )
