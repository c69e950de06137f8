"""The variance-preserving noising process, at gamma = -log SNR.

    q(z_t | x) = N(alpha_t x, sigma_t^2 I),                                          (1)
    alpha_t^2 = sigmoid(-gamma_t),   sigma_t^2 = sigmoid(gamma_t),                   (2)

and for s < t, with d = gamma_t - gamma_s > 0 (Kingma et al. 2021, appendix A),

    q(z_t | z_s) = N(alpha_{t|s} z_s, sigma_{t|s}^2 I),
    alpha_{t|s}^2 = sigmoid(-gamma_t) + sigmoid(gamma_t) exp(-d),                    (3)
    sigma_{t|s}^2 = sigma_t^2 (1 - exp(-d)),                                         (4)

    q(z_s | z_t, x) = N(exp(-d) / alpha_{t|s} z_t + alpha_s (1 - exp(-d)) x,
                        sigma_s^2 (1 - exp(-d)) I).                                  (5)

Functions take d itself, from ``Schedule.increment``: no difference of gammas, and no
1 - alpha^2, is ever formed. z_0 is almost data and z_1 almost noise. DDPM's x_1 .. x_N
(Ho et al. 2020) are z at the N times from 0 to 1.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.numerics import log_sigmoid
from vgm.shapes import require, require_same
from vgm.types import Event, Scalar


def alpha_sigma(gamma: Scalar) -> tuple[Scalar, Scalar]:
    """Scales of signal and noise, (2).

    >>> import jax.numpy as jnp
    >>> [float(scale) for scale in alpha_sigma(jnp.asarray(0.0))]
    [0.7071, 0.7071]

    Args:
        gamma: Minus the log signal-to-noise ratio.

    Returns:
        alpha and sigma, whose squares sum to 1.
    """
    return jnp.exp(0.5 * log_sigmoid(-gamma)), jnp.exp(0.5 * log_sigmoid(gamma))


def diffuse(x: Event, eps: Event, gamma: Scalar) -> Event:
    """z_t = alpha_t x + sigma_t eps, (1).

    Args:
        x: Data.
        eps: Standard normal noise.
        gamma: gamma_t.

    Returns:
        z_t.

    Raises:
        ValueError: If data and noise differ in shape, or gamma is not one number.
    """
    require_same("gaussian.diffuse", x=x, eps=eps)
    require("gaussian.diffuse: gamma", gamma, ())
    alpha, sigma = alpha_sigma(gamma)
    return alpha * x + sigma * eps


def marginal(x: Event, gamma: Scalar) -> tuple[Event, Event]:
    """q(z_t | x), (1).

    Args:
        x: Data.
        gamma: gamma_t.

    Returns:
        Mean and log standard deviation.

    Raises:
        ValueError: If gamma is not one number.
    """
    require("gaussian.marginal: gamma", gamma, ())
    alpha, _ = alpha_sigma(gamma)
    mean = alpha * x
    return mean, jnp.full_like(mean, 0.5 * log_sigmoid(gamma))


def transition(z_s: Event, gamma_t: Scalar, increment: Scalar) -> tuple[Event, Event]:
    """q(z_t | z_s), (3) and (4).

    Args:
        z_s: Latents at the earlier time.
        gamma_t: gamma at the later time.
        increment: gamma_t - gamma_s > 0.

    Returns:
        Mean and log standard deviation.

    Raises:
        ValueError: If gamma or its increment is not one number.
    """
    require("gaussian.transition: gamma_t", gamma_t, ())
    require("gaussian.transition: increment", increment, ())
    log_std = 0.5 * (log_sigmoid(gamma_t) + jnp.log(-jnp.expm1(-increment)))
    mean = _alpha_ratio(gamma_t, increment) * z_s
    return mean, jnp.full_like(mean, log_std)


def posterior(
    z_t: Event, x: Event, gamma_t: Scalar, increment: Scalar
) -> tuple[Event, Event]:
    """q(z_s | z_t, x), (5); at a predicted x it is the model's p(z_s | z_t).

    Args:
        z_t: Latents at the later time.
        x: Data, or a prediction of it.
        gamma_t: gamma at the later time.
        increment: gamma_t - gamma_s > 0.

    Returns:
        Mean and log standard deviation.

    Raises:
        ValueError: If latents and data differ in shape, or gamma or its increment is
            not one number.
    """
    require_same("gaussian.posterior", z_t=z_t, x=x)
    require("gaussian.posterior: gamma_t", gamma_t, ())
    require("gaussian.posterior: increment", increment, ())
    gamma_s = gamma_t - increment
    alpha_s, _ = alpha_sigma(gamma_s)
    share = -jnp.expm1(-increment)
    mean = jnp.exp(-increment) / _alpha_ratio(gamma_t, increment) * z_t
    mean = mean + alpha_s * share * x
    log_std = 0.5 * (log_sigmoid(gamma_s) + jnp.log(share))
    return mean, jnp.full_like(mean, log_std)


def _alpha_ratio(gamma_t: Scalar, increment: Scalar) -> Scalar:
    """alpha_t / alpha_s, (3)."""
    return jnp.sqrt(
        jax.nn.sigmoid(-gamma_t) + jax.nn.sigmoid(gamma_t) * jnp.exp(-increment)
    )


def level_evidence(
    z_0: Event, gamma_0: Scalar, values: Float[Array, " levels"]
) -> Float[Array, "*event levels"]:
    """What z_0 says of each level: log q(z_0 | value) up to a constant.

    As logits they are the decoder of Kingma et al. (2021): the posterior of one
    coordinate, all levels equally likely before.

    >>> import jax.numpy as jnp
    >>> values = jnp.asarray([-1.0, 1.0])
    >>> level_evidence(jnp.zeros(1), jnp.asarray(0.0), values).shape
    (1, 2)

    Args:
        z_0: Latents; at any time, with its gamma.
        gamma_0: gamma at that time.
        values: Scaled value of each level.

    Returns:
        -1/2 exp(-gamma) (z / alpha - value)^2.

    Raises:
        ValueError: If gamma is not one number.
    """
    require("gaussian.level_evidence: gamma_0", gamma_0, ())
    alpha, _ = alpha_sigma(gamma_0)
    distance = (z_0 / alpha)[..., None] - values.reshape((1,) * z_0.ndim + (-1,))
    return -0.5 * jnp.exp(-gamma_0) * distance**2


class Parameterisation(NamedTuple):
    """What a network predicts of z_t = alpha x + sigma eps, as functions of gamma.

    Attributes:
        target: (x, eps, gamma) to what the network is to predict.
        to_x: (z_t, prediction, gamma) to the x it means.
        eps_slope: d eps / d prediction at fixed z_t: a prediction off by a difference
            D means noise off by ``eps_slope(gamma)`` D.
    """

    target: Callable[[Event, Event, Scalar], Event]
    to_x: Callable[[Event, Event, Scalar], Event]
    eps_slope: Callable[[Scalar], Scalar]


# z = alpha x + sigma eps, v = alpha eps - sigma x (Salimans & Ho 2022), and the score
# of q(z | x) is -eps / sigma. a, s: alpha and sigma.
_CONVERSIONS: dict[tuple[str, str], Callable[..., Array]] = {
    ("x", "eps"): lambda z, x, a, s: (z - a * x) / s,
    ("x", "v"): lambda z, x, a, s: (a * z - x) / s,
    ("x", "score"): lambda z, x, a, s: (a * x - z) / s**2,
    ("eps", "x"): lambda z, eps, a, s: (z - s * eps) / a,
    ("eps", "v"): lambda z, eps, a, s: (eps - s * z) / a,
    ("eps", "score"): lambda z, eps, a, s: -eps / s,
    ("v", "x"): lambda z, v, a, s: a * z - s * v,
    ("v", "eps"): lambda z, v, a, s: s * z + a * v,
    ("v", "score"): lambda z, v, a, s: -z - a / s * v,
    ("score", "x"): lambda z, score, a, s: (z + s**2 * score) / a,
    ("score", "eps"): lambda z, score, a, s: -s * score,
    ("score", "v"): lambda z, score, a, s: -s / a * (z + score),
}


def convert(
    value: Event, z: Event, gamma: Scalar, *, source: str, target: str
) -> Event:
    """One of x, eps, v = alpha eps - sigma x and score = -eps / sigma from another.

    From x at small sigma, and to x at small alpha, digits are lost by their nature.

    >>> import jax.numpy as jnp
    >>> z, eps, gamma = jnp.ones(1), jnp.zeros(1), jnp.asarray(0.0)
    >>> float(convert(eps, z, gamma, source="eps", target="v")[0])
    -1.0

    Args:
        value: What is known.
        z: Latents at the same time.
        gamma: gamma at that time.
        source: "x", "eps", "v" or "score": what ``value`` is.
        target: What is wanted.

    Returns:
        The other description.

    Raises:
        ValueError: If a name is none of the four, or the shapes do not fit.
    """
    require_same("gaussian.convert", value=value, z=z)
    require("gaussian.convert: gamma", gamma, ())
    names = sorted({name for name, _ in _CONVERSIONS})
    if source not in names or target not in names:
        raise ValueError(
            f"source and target must be of {names}; got {source}, {target}"
        )
    if source == target:
        return value
    return _CONVERSIONS[source, target](z, value, *alpha_sigma(gamma))


PARAMETERISATIONS = {
    "eps": Parameterisation(
        lambda x, eps, gamma: eps,
        lambda z, eps, gamma: convert(eps, z, gamma, source="eps", target="x"),
        jnp.ones_like,
    ),
    "x": Parameterisation(
        lambda x, eps, gamma: x,
        lambda z, x, gamma: x,
        lambda gamma: -jnp.exp(-0.5 * gamma),
    ),
    "v": Parameterisation(
        lambda x, eps, gamma: alpha_sigma(gamma)[0] * eps - alpha_sigma(gamma)[1] * x,
        lambda z, v, gamma: convert(v, z, gamma, source="v", target="x"),
        lambda gamma: alpha_sigma(gamma)[0],
    ),
    "score": Parameterisation(
        lambda x, eps, gamma: -eps / alpha_sigma(gamma)[1],
        lambda z, score, gamma: convert(score, z, gamma, source="score", target="x"),
        lambda gamma: -alpha_sigma(gamma)[1],
    ),
}
"""By name: eps (Ho et al. 2020), x, v (Salimans & Ho 2022), score (Song & Ermon
2019)."""
