"""A normalising flow as a VAE whose encoder and decoder are deterministic.

With z = f(x), q(z | x) = delta(z - f(x)) and p(x | z) = delta(x - f^-1(z)),

    log p(x) = log |det df/dx| + log p(f(x)) = reconstruction - prior_matching,      (1)

the ELBO itself: the gap is 0. (E log p(x | z) / q(z | x) and E log p(z) have these as
limits; the terms of a VAE, which have q's entropy in the second, both diverge.)
Integers x are the floor of a real levels y = x + u whose noise u in (0, 1) is a latent
with a q of its own (Theis et al. 2016; Ho et al. 2019, eq. 8),

    log P(x) >= E_q(u | x) [ log p(y) + log |dy/du| - log q(u | x) ].                (2)
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from vgm.bijections import Bijection
from vgm.bounds.elbo import ElboTerms, single_latent_terms
from vgm.densities.levels import integers
from vgm.numerics import log_sigmoid
from vgm.shapes import require, require_same
from vgm.types import Event, PRNGKey, Scalar

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

    Raises:
        ValueError: If the log determinant or the log density is not one number.
    """
    # At infinity no density is left; through a network there would be NaN.
    infinite = jnp.isinf(x)
    z, log_det = bijection.forward(jnp.where(infinite, 0.0, x))
    log_det, negative = _numbers(log_det, -log_base(z))
    return single_latent_terms(
        jnp.where(jnp.any(infinite), -jnp.inf, log_det), negative
    )


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

    Raises:
        ValueError: If the log determinant or the log density is not one number.
    """
    z = sample_base(key)
    x, log_det = bijection.inverse(z)
    log_det, log_prob = _numbers(log_det, log_base(z))
    return x, log_prob - log_det


def _numbers(log_det: Scalar, log_prob: Scalar) -> tuple[Scalar, Scalar]:
    require("a log determinant of one event (batch it by jax.vmap)", log_det, ())
    require("a log density of one event, summed over coordinates,", log_prob, ())
    return log_det, log_prob


def reverse_kl_terms(log_target: Scalar, log_q: Scalar) -> ElboTerms:
    """Terms of a flow q fitted to an unnormalised density at a draw x ~ q.

    E [ log target(x) - log q(x) ] <= log Z, the logarithm of the integral of the
    target, equal where q is the target over Z: the evidence is Z, and what is latent is
    x (Rezende & Mohamed 2015).

    Args:
        log_target: log target(x).
        log_q: log q(x).

    Returns:
        Terms whose ELBO is a log weight: E[exp] = Z.
    """
    return single_latent_terms(log_target, log_q)


def flow_matching_error(
    velocity: Callable[[Scalar, Event], Event], t: Scalar, x: Event, z: Event
) -> Scalar:
    """|v(t, (1 - t) x + t z) - (z - x)|^2, the straight path from data to noise.

    No bound (Lipman et al. 2023, eq. 23 with sigma_min = 0, time the other way round).

    Args:
        velocity: (t, x) to dx/dt.
        t: Time.
        x: Data.
        z: Noise.

    Returns:
        The squared error.

    Raises:
        ValueError: If data, noise and velocity differ in shape.
    """
    require_same("flow_matching_error", x=x, z=z)
    there = velocity(t, (1.0 - t) * x + t * z)
    require("the velocity", there, x.shape)
    return jnp.sum((there - (z - x)) ** 2)


def sample_uniform(key: PRNGKey, shape: tuple[int, ...]) -> Event:
    """Uniform u as w = logit u: a standard logistic variable.

    Args:
        key: Random key, used once.
        shape: Shape of the event.

    Returns:
        w, never infinite.
    """
    # Neither 0 nor 1: of these 2^23 numbers none rounds to an end.
    u = (jax.random.uniform(key, shape, jnp.float32) + 2.0**-24).astype(float)
    return jnp.log(u) - jnp.log1p(-u)


def log_uniform(w: Event) -> Scalar:
    """Log density of w = logit u for uniform u.

    >>> import jax.numpy as jnp
    >>> float(log_uniform(jnp.zeros(())))
    -1.3863

    Args:
        w: Logits.

    Returns:
        sum log sigmoid(w) + log sigmoid(-w), in nats.
    """
    return jnp.sum(log_sigmoid(w) + log_sigmoid(-w))


def dequantize(
    x: Int[Array, "*event"], w: Event, *, levels: int
) -> tuple[Event, Scalar]:
    """Logit of y = (x + u) / levels with u = sigmoid(w), and log |d logit y / dw|.

    As log (x + u) - log (levels - x - u), each by logarithms of u and 1 - u: y itself
    would round to 1.

    >>> import jax.numpy as jnp
    >>> zero = jnp.zeros(())
    >>> float(dequantize(jnp.asarray(1), zero, levels=3)[0])
    0.0

    Args:
        x: Levels 0 .. levels - 1.
        w: Noise in the logit.
        levels: Number of levels.

    Returns:
        The logits, and the log determinant.

    Raises:
        ValueError: If levels and noise differ in shape.
        TypeError: If x are no integers.
    """
    require_same("dequantize", x=x, w=w)
    x = integers(x, levels)
    log_u, log_rest_u = log_sigmoid(w), log_sigmoid(-w)
    log_y = jnp.logaddexp(jnp.log(x.astype(w.dtype)), log_u)
    log_rest = jnp.logaddexp(jnp.log((levels - 1 - x).astype(w.dtype)), log_rest_u)
    slope = math.log(levels) - log_y - log_rest
    return log_y - log_rest, jnp.sum(slope + log_u + log_rest_u)


def dequantized_terms(terms: ElboTerms, log_det: Scalar, log_q: Scalar) -> ElboTerms:
    """(2): what the noise adds to a real number's terms.

    Args:
        terms: Terms of y, or of its logit.
        log_det: Log determinant from the noise to that.
        log_q: Log density of the noise given x.

    Returns:
        Terms whose ELBO is one draw of a log weight of P(x), in nats.

    Raises:
        ValueError: If the shapes of the arguments do not fit.
    """
    require_same("dequantized_terms", terms=terms.elbo, log_det=log_det, log_q=log_q)
    return terms._replace(reconstruction=terms.reconstruction + log_det - log_q)


def quantize(logit_y: Event, *, levels: int) -> Int[Array, "*event"]:
    """The level whose bin holds y.

    >>> import jax.numpy as jnp
    >>> int(quantize(jnp.asarray(9.0), levels=4))
    3

    Args:
        logit_y: Logits of y.
        levels: Number of levels.

    Returns:
        Levels 0 .. levels - 1.
    """
    level = jnp.floor(levels * jax.nn.sigmoid(logit_y))
    return jnp.minimum(level, levels - 1).astype(jnp.int32)
