"""Families for p(x | z): where a decoder's outputs meet a density.

A decoder emits ``num_outputs`` numbers a coordinate on its last axis. Every function
here takes one example, except ``initial_bias``, which takes a batch of data.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.densities import bernoulli, normal
from vgm.errors import UserError
from vgm.models import level_families
from vgm.models.families import MIN_STD, Observed, Outputs, batch_mean, batch_moments
from vgm.models.families import Likelihood as Likelihood
from vgm.types import Masked, Scalar


def likelihood(
    name: str,
    *,
    levels: int = 2,
    missing: bool = False,
    channels: int = 1,
    num_mixtures: int = 10,
) -> Likelihood:
    """The family called ``name``.

    Args:
        name: bernoulli, categorical, discretized_logistic,
            discretized_logistic_mixture or normal.
        levels: Number of integer levels; used by the families over integers.
        missing: Observations come as ``Masked``.
        channels: Numbers of a pixel, which a mixture couples.
        num_mixtures: Components of a mixture.

    Returns:
        The family's functions.

    Raises:
        UserError: If there is no such family.
    """
    families = {
        "bernoulli": lambda: _BERNOULLI,
        "categorical": lambda: level_families.categorical(levels),
        "discretized_logistic": lambda: level_families.discretized_logistic(levels),
        "discretized_logistic_mixture": lambda: (
            level_families.discretized_logistic_mixture(levels, channels, num_mixtures)
        ),
        "normal": lambda: _NORMAL,
    }
    if name not in families:
        raise UserError(
            f"model.likelihood must be one of {sorted(families)}; got {name!r}"
        )
    family = families[name]()
    return masked(family) if missing else family


def masked(family: Likelihood) -> Likelihood:
    """The family on observations of which some numbers are missing.

    The likelihood is that of the observed numbers, the encoder reads 0 for the others
    (MIWAE; Mattei & Frellsen 2019, section 2), so every bound is on log p(x observed).

    Args:
        family: Likelihood of independent coordinates.

    Returns:
        The same functions of ``Masked`` observations; samples and means are complete.
    """
    moments = family.moments

    def known(x: Masked) -> Any:
        """The values, with 0 for whatever stands where nothing was observed."""
        if not isinstance(x, Masked):
            raise TypeError(
                "a model of missing numbers takes types.Masked(values, observed); got "
                f"{type(x).__name__}"
            )
        return jnp.where(x.observed, x.values, 0).astype(x.values.dtype)

    def features(x: Masked) -> Any:
        values = family.features(known(x))
        return jnp.where(x.observed, values, 0.0)

    def log_prob(x: Masked, outputs: Outputs) -> Scalar:
        values = known(x).ravel()
        by_coordinate = jax.vmap(family.log_prob)(
            values, outputs.reshape(values.size, outputs.shape[-1])
        )
        return jnp.sum(jnp.where(x.observed.ravel(), by_coordinate, 0.0))

    return family._replace(
        features=features,
        log_prob=log_prob,
        initial_bias=lambda x: family.initial_bias(known(x), x.observed),
        moments=moments and (lambda x: moments(known(x), x.observed)),
    )


def _bernoulli_bias(
    x: Float[Array, " batch *event"], observed: Observed = None
) -> Outputs:
    # A pixel that is always 0 starts at log odds of 1 to 999 (Burda et al. 2016).
    mean = jnp.clip(batch_mean(x, observed), 0.001, 0.999)
    return (jnp.log(mean) - jnp.log1p(-mean))[..., None]


_BERNOULLI = Likelihood(
    num_outputs=1,
    features=lambda x: x,
    log_prob=lambda x, outputs: bernoulli.log_prob(x, outputs[..., 0]),
    sample=lambda key, outputs: bernoulli.sample(key, outputs[..., 0]),
    mean=lambda outputs: jax.nn.sigmoid(outputs[..., 0]),
    initial_bias=_bernoulli_bias,
)


def _normal_bias(
    x: Float[Array, " batch *event"], observed: Observed = None
) -> Outputs:
    # A constant coordinate would start at log 0.
    mean, std = batch_moments(x, observed)
    log_std = jnp.log(jnp.where(std > 0.0, std, MIN_STD))
    return jnp.stack([mean, log_std], axis=-1)


_NORMAL = Likelihood(
    num_outputs=2,
    features=lambda x: x,
    log_prob=lambda x, outputs: normal.log_prob(x, outputs[..., 0], outputs[..., 1]),
    sample=lambda key, outputs: normal.sample(key, outputs[..., 0], outputs[..., 1]),
    mean=lambda outputs: outputs[..., 0],
    initial_bias=_normal_bias,
    moments=batch_moments,
)
