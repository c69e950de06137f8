"""What a denoiser's outputs mean, and how x is decoded from z_0.

The categorical head predicts a mass over the levels of each coordinate and denoises to
its mean. Its logits are the network's plus what z_t says of each level by itself,

    logits_k = network_k(z_t) - 1/2 exp(-gamma_t) (z_t / alpha_t - value_k)^2,       (1)

so before training it is the exact posterior mean under independent coordinates, each
with the frequencies of its levels, and at z_0 it is the decoder (compare Graves et al.
2023, section 5). Levels are ordered: with few data the network does better to tilt the
frequencies than to give each level a logit of its own,

    network_k(z_t) = log frequency_k + sum_n tilt_n(z_t) value_k^n.                  (2)
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vgm.densities import categorical, discretized_normal, normal
from vgm.densities.levels import scale_levels
from vgm.errors import UserError
from vgm.models import families, likelihoods
from vgm.models.families import Outputs
from vgm.precision import matmul
from vgm.processes import gaussian
from vgm.types import Event, Params, PRNGKey, Scalar


class Head(NamedTuple):
    """What a network's outputs mean.

    Attributes:
        num_outputs: Numbers a coordinate that the network emits.
        expand: Those numbers to the outputs.
        initial_bias: A batch of x to what is added to the outputs, to be learned.
        parameterisation: What is predicted.
        predict: (outputs, z_t, gamma_t) to the prediction.
    """

    num_outputs: int
    expand: Callable[[Outputs], Outputs]
    initial_bias: Callable[[Any], Array]
    parameterisation: gaussian.Parameterisation
    predict: Callable[[Outputs, Event, Scalar], Event]


class Decoder(NamedTuple):
    """p(x | z_0), given the network's outputs at z_0.

    Attributes:
        init: A batch of x to parameters: the unit of reals, not learned; {} for levels.
        features: (x, parameters) to x on the scale of the latents.
        log_prob: (x, parameters, z_0, gamma_0, outputs) to nats, on the scale of x.
        sample: (key, parameters, z_0, gamma_0, outputs) to x.
    """

    init: Callable[[Any], Params]
    features: Callable[[Any, Params], Event]
    log_prob: Callable[[Any, Params, Event, Scalar, Outputs], Scalar]
    sample: Callable[[PRNGKey, Params, Event, Scalar, Outputs], Any]


def head(name: str, *, levels: int = 0, degree: int = 0) -> Head:
    """What a network is asked for.

    Args:
        name: "eps", "x", "v", or "categorical": a mass over levels, (1).
        levels: Number of integer levels; 0 for reals.
        degree: Of the polynomials in the level's value that the network tilts the
            logits of a categorical by, (2); 0 for logits of its own for each level.

    Returns:
        The head.

    Raises:
        UserError: If there is none of that name, or no levels for a categorical.
    """
    if name == "categorical":
        return _categorical_head(levels, degree)
    predictions: dict[str, Callable[[Outputs, Event, Scalar], Event]] = {
        # What is learned is by how much eps differs from z (Kingma et al. 2021).
        "eps": lambda outputs, z, gamma: outputs[..., 0] + z,
        "x": lambda outputs, z, gamma: outputs[..., 0],
        "v": lambda outputs, z, gamma: outputs[..., 0],
    }
    if name not in predictions:
        names = [*predictions, "categorical"]
        raise UserError(f"diffusion.head must be one of {names}; got {name!r}")
    return Head(
        1,
        lambda outputs: outputs,
        lambda x: jnp.zeros(()),
        gaussian.PARAMETERISATIONS[name],
        predictions[name],
    )


def _categorical_head(levels: int, degree: int) -> Head:
    values = _level_values(levels)
    basis = jnp.stack([values**n for n in range(1, degree + 1)]) if degree else None

    def expand(
        outputs: Float[Array, "*event numbers"],
    ) -> Float[Array, "*event levels"]:
        return outputs if basis is None else matmul(outputs, basis)

    def mean(outputs: Outputs, z: Event, gamma: Scalar) -> Event:
        logits = outputs + gaussian.level_evidence(z, gamma, values)
        # An error of the mean is one of eps over sigma.
        mass = jax.nn.softmax(logits, axis=-1)
        return matmul(mass, values)

    histogram = likelihoods.likelihood("categorical", levels=levels).initial_bias
    return Head(
        degree or levels, expand, histogram, gaussian.PARAMETERISATIONS["x"], mean
    )


def decoder(name: str, head: Head, *, levels: int = 0) -> Decoder:
    """p(x | z_0).

    Args:
        name: "categorical": what z_0 says of each level, with the network's logits
            where the head is categorical (Kingma et al. 2021);
            "discretized_normal": a normal in bins around the predicted x (Ho et al.
            2020, eq. 13); "normal": for reals, a normal around z_0 / alpha_0 in the
            unit of each. The noise of z_0 gives both their width, exp(gamma_0 / 2).
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

    def scale(x: Any, _: Params) -> Event:
        return scale_levels(x, levels=levels)

    if name == "discretized_normal":

        def around(z: Event, gamma: Scalar, outputs: Outputs) -> tuple[Event, Event]:
            prediction = head.predict(outputs, z, gamma)
            x_hat = head.parameterisation.to_x(z, prediction, gamma)
            return x_hat, jnp.full_like(z, 0.5 * gamma)

        return Decoder(
            lambda x: {},
            scale,
            lambda x, _, *at: discretized_normal.log_prob(
                x, *around(*at), levels=levels
            ),
            lambda key, _, *at: discretized_normal.sample(
                key, *around(*at), levels=levels
            ),
        )
    values = _level_values(levels)

    def logits(
        z: Event, gamma: Scalar, outputs: Outputs
    ) -> Float[Array, "*event levels"]:
        evidence = gaussian.level_evidence(z, gamma, values)
        return evidence + outputs if outputs.shape[-1] == levels else evidence

    return Decoder(
        lambda x: {},
        scale,
        lambda x, _, *at: categorical.log_prob(x, logits(*at)),
        lambda key, _, *at: categorical.sample(key, logits(*at)),
    )


def _level_values(levels: int) -> Float[Array, " levels"]:
    if levels < 2:
        raise UserError(
            "diffusion.head 'categorical' needs data.observation 'levels'; use eps, x "
            "or v for reals"
        )
    return scale_levels(jnp.arange(levels), levels=levels)


def _normal_decoder() -> Decoder:
    def around(z: Event, gamma: Scalar) -> tuple[Event, Event]:
        return z / gaussian.alpha_sigma(gamma)[0], jnp.full_like(z, 0.5 * gamma)

    def features(x: Any, params: Params) -> Event:
        mean, log_std = _unit(params)
        return (x - mean) * jnp.exp(-log_std)

    def log_prob(
        x: Any, params: Params, z: Event, gamma: Scalar, outputs: Outputs
    ) -> Scalar:
        # In the unit: so narrow a normal would be lost in the rounding of a mean.
        del outputs
        log_density = normal.log_prob(features(x, params), *around(z, gamma))
        return log_density - jnp.sum(_unit(params)[1])

    def sample(
        key: PRNGKey, params: Params, z: Event, gamma: Scalar, outputs: Outputs
    ) -> Event:
        del outputs
        mean, log_std = _unit(params)
        return mean + jnp.exp(log_std) * normal.sample(key, *around(z, gamma))

    def init(x: Any) -> Params:
        return {"unit": families.unit(*families.batch_moments(x))}

    return Decoder(init, features, log_prob, sample)


def _unit(params: Params) -> tuple[Event, Event]:
    unit = jax.lax.stop_gradient(params["unit"])
    return unit["mean"], unit["log_std"]
