"""What a denoiser's outputs mean, and how x is decoded from z_0.

The categorical head predicts a mass over the levels of each coordinate and denoises to
its mean. Its logits are the network's plus what z_t says of each level by itself,

    logits_k = network_k(z_t) - 1/2 exp(-gamma_t) (z_t / alpha_t - value_k)^2,       (1)

so before training it is the exact posterior mean under independent coordinates, each
with the frequencies of its levels, and at z_0 it is the decoder (compare Graves et al.
2023, section 5).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.bounds.diffusion import level_evidence
from vgm.densities import categorical, discretized_normal, normal
from vgm.errors import UserError
from vgm.models import likelihoods
from vgm.processes import gaussian
from vgm.types import PRNGKey, Scalar

Event = Float[Array, "*event"]
Outputs = Float[Array, "*event outputs"]


class Head(NamedTuple):
    """What a network's outputs mean.

    Attributes:
        num_outputs: Outputs a coordinate.
        parameterisation: What is predicted.
        predict: (outputs, z_t, gamma_t) to the prediction.
        initial_bias: A batch of x to what is added to all outputs, to be learned.
    """

    num_outputs: int
    parameterisation: gaussian.Parameterisation
    predict: Callable[[Outputs, Event, Scalar], Event]
    initial_bias: Callable[[Any], Array]


class Decoder(NamedTuple):
    """p(x | z_0), given the network's outputs at z_0.

    Attributes:
        features: x on the scale of the latents.
        log_prob: (x, z_0, gamma_0, outputs) to nats.
        sample: (key, z_0, gamma_0, outputs) to x.
    """

    features: Callable[[Any], Event]
    log_prob: Callable[[Any, Event, Scalar, Outputs], Scalar]
    sample: Callable[[PRNGKey, Event, Scalar, Outputs], Any]


def head(name: str, *, levels: int) -> Head:
    """What a network is asked for.

    Args:
        name: "eps", "x", "v", or "categorical": a mass over levels, (1).
        levels: Number of integer levels; 0 for reals.

    Returns:
        The head.

    Raises:
        UserError: If there is none of that name, or no levels for a categorical.
    """
    families = gaussian.PARAMETERISATIONS

    def no_bias(x: Any) -> Array:
        return jnp.zeros(())

    plain = {
        # What is learned is by how much eps differs from z (Kingma et al. 2021).
        "eps": Head(1, families["eps"], lambda out, z, gamma: out[..., 0] + z, no_bias),
        "x": Head(1, families["x"], lambda out, z, gamma: out[..., 0], no_bias),
        "v": Head(1, families["v"], lambda out, z, gamma: out[..., 0], no_bias),
    }
    if name in plain:
        return plain[name]
    if name != "categorical":
        names = [*plain, "categorical"]
        raise UserError(f"diffusion.head must be one of {names}; got {name!r}")
    values = _level_values(levels)

    def mean(outputs: Outputs, z: Event, gamma: Scalar) -> Event:
        logits = outputs + level_evidence(z, gamma, values)
        return jax.nn.softmax(logits, axis=-1) @ values

    histogram = likelihoods.likelihood("categorical", levels=levels).initial_bias
    return Head(levels, families["x"], mean, histogram)


def decoder(name: str, head: Head, *, levels: int) -> Decoder:
    """p(x | z_0).

    Args:
        name: "categorical": what z_0 says of each level, with the network's logits
            where the head is categorical (Kingma et al. 2021, eq. 13);
            "discretized_normal": a normal in bins around the predicted x (Ho et al.
            2020, eq. 13); "normal": for reals, a normal around z_0 / alpha_0. The
            noise of z_0 gives both normals their width, exp(gamma_0 / 2).
        head: Head.
        levels: Number of integer levels; 0 for reals.

    Returns:
        The decoder.

    Raises:
        UserError: If there is none of that name, or it does not fit the data.
    """
    names = ("normal",) if levels == 0 else ("categorical", "discretized_normal")
    if name not in names:
        raise UserError(
            f"diffusion.decoder must be {' or '.join(names)} for "
            f"{'levels' if levels else 'reals'}; got {name!r}"
        )
    if name == "normal":
        return _normal_decoder()

    def scale(x: Any) -> Event:
        return likelihoods.scale_levels(x, levels=levels)

    if name == "discretized_normal":

        def around(z: Event, gamma: Scalar, outputs: Outputs) -> tuple[Event, Event]:
            prediction = head.predict(outputs, z, gamma)
            x_hat = head.parameterisation.to_x(z, prediction, gamma)
            return x_hat, jnp.full_like(z, 0.5 * gamma)

        return Decoder(
            scale,
            lambda x, *at: discretized_normal.log_prob(x, *around(*at), levels=levels),
            lambda key, *at: discretized_normal.sample(
                key, *around(*at), levels=levels
            ),
        )
    values = _level_values(levels)

    def logits(
        z: Event, gamma: Scalar, outputs: Outputs
    ) -> Float[Array, "*event levels"]:
        evidence = level_evidence(z, gamma, values)
        return evidence + outputs if head.num_outputs == levels else evidence

    return Decoder(
        scale,
        lambda x, *at: categorical.log_prob(x, logits(*at)),
        lambda key, *at: categorical.sample(key, logits(*at)),
    )


def _level_values(levels: int) -> Float[Array, " levels"]:
    if levels < 2:
        raise UserError(
            "diffusion.head 'categorical' needs data.observation 'levels'; use eps, x "
            "or v for reals"
        )
    return likelihoods.scale_levels(jnp.arange(levels), levels=levels)


def _normal_decoder() -> Decoder:
    def around(z: Event, gamma: Scalar, outputs: Outputs) -> tuple[Event, Event]:
        del outputs
        return z / gaussian.alpha_sigma(gamma)[0], jnp.full_like(z, 0.5 * gamma)

    return Decoder(
        lambda x: x,
        lambda x, *at: normal.log_prob(x, *around(*at)),
        lambda key, *at: normal.sample(key, *around(*at)),
    )
