"""A normalising flow as a VAE whose encoder and decoder are deterministic.

With z = f(x), q(z | x) = delta(z - f(x)) and p(x | z) = delta(x - f^-1(z)),

    log p(x) = log |det df/dx| + log p(f(x)) = reconstruction - prior_matching,      (1)

the ELBO itself: the gap is 0. Integers x are the floor of a real y = (x + u) / levels
whose noise u in (0, 1) is a latent with a q of its own (Theis et al. 2016; Ho et al.
2019, eq. 8),

    log P(x) >= E_q(u | x) [ log p(y) + log |dy/du| - log q(u | x) ].                (2)
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from vgm.bijections import Bijection
from vgm.bounds.elbo import ElboTerms, single_latent_terms
from vgm.types import PRNGKey, Scalar

Event = Float[Array, "*event"]
LogProb = Callable[[Event], Scalar]


def change_of_variables(x: Event, bijection: Bijection, log_base: LogProb) -> ElboTerms:
    """(1): log |det df/dx| as reconstruction, -log p(f(x)) as prior matching.

    >>> import jax.numpy as jnp
    >>> from vgm.bijections import IDENTITY
    >>> from vgm.densities import normal
    >>> zero = jnp.zeros(2)
    >>> log_base = lambda z: normal.log_prob(z, zero, zero)
    >>> float(change_of_variables(zero, IDENTITY, log_base).elbo)
    -1.8379

    Args:
        x: Reals.
        bijection: Data to noise.
        log_base: Log density of noise.

    Returns:
        Terms whose ELBO is log p(x), exactly, in nats.
    """
    z, log_det = bijection.forward(x)
    return single_latent_terms(log_det, -log_base(z))


def sample_and_log_prob(
    key: PRNGKey,
    bijection: Bijection,
    sample_base: Callable[[PRNGKey], Event],
    log_base: LogProb,
) -> tuple[Event, Scalar]:
    """Draw x and say how likely it was, in one pass of the inverse.

    Args:
        key: Random key, used once.
        bijection: Data to noise.
        sample_base: Draws noise.
        log_base: Log density of noise.

    Returns:
        x and log p(x), in nats.
    """
    z = sample_base(key)
    x, log_det = bijection.inverse(z)
    return x, log_base(z) - log_det


def uniform_noise(key: PRNGKey, shape: tuple[int, ...]) -> Event:
    """U ~ U(0, 1), neither 0 nor 1: of these 2^23 numbers none rounds to an end.

    Args:
        key: Random key, used once.
        shape: Shape of the event.

    Returns:
        Noise whose log density is 0.
    """
    u = jax.random.uniform(key, shape, jnp.float32)
    return (u + 2.0**-24).astype(float)


def dequantize(
    x: Int[Array, "*event"], u: Event, *, levels: int
) -> tuple[Event, Scalar]:
    """Y = (x + u) / levels, with log |dy/du| = -D log levels.

    Args:
        x: Levels 0 .. levels - 1.
        u: Noise in (0, 1).
        levels: Number of levels.

    Returns:
        y in (0, 1), and the log determinant.
    """
    y = (x.astype(u.dtype) + u) / levels
    return y, -x.size * jnp.log(jnp.asarray(levels, u.dtype))


def dequantize_logit(
    x: Int[Array, "*event"], u: Event, *, levels: int
) -> tuple[Event, Scalar]:
    """Logit of y = (x + u) / levels, with log |d logit / du|.

    log (x + u) - log (levels - x - u), the latter as (levels - 1 - x) + (1 - u), which
    keeps the digits of a u close to 1: y itself would round to 1.

    Args:
        x: Levels 0 .. levels - 1.
        u: Noise in (0, 1).
        levels: Number of levels.

    Returns:
        The logits, and the log determinant.
    """
    log_y = jnp.log(x.astype(u.dtype) + u)
    log_rest = jnp.log((levels - 1 - x).astype(u.dtype) + (1.0 - u))
    log_slope = jnp.log(jnp.asarray(levels, u.dtype)) - log_y - log_rest
    return log_y - log_rest, jnp.sum(log_slope)


def dequantized_terms(
    terms: ElboTerms, log_det: Scalar, log_q: float | Scalar
) -> ElboTerms:
    """(2): what the noise adds to a real number's terms.

    Args:
        terms: Terms of y.
        log_det: log |dy/du|.
        log_q: log q(u | x), 0 for uniform noise.

    Returns:
        Terms whose ELBO is one draw of a log weight of P(x), in nats.
    """
    return terms._replace(reconstruction=terms.reconstruction + log_det - log_q)


def quantize(y: Event, *, levels: int) -> Int[Array, "*event"]:
    """The level whose bin holds y.

    >>> import jax.numpy as jnp
    >>> int(quantize(jnp.asarray(0.99), levels=4))
    3

    Args:
        y: Numbers between 0 and 1; others go to the nearest level.
        levels: Number of levels.

    Returns:
        Levels 0 .. levels - 1.
    """
    return jnp.clip(jnp.floor(levels * y), 0, levels - 1).astype(jnp.int32)
