"""Where the average divergence goes: ELBO surgery (Hoffman & Johnson 2016).

Over N examples, with the aggregate posterior q(z) = 1/N sum_n q(z | x_n),

    1/N sum_n KL(q(z | x_n) || p(z)) = I(n; z) + KL(q(z) || p(z)),                   (1)

the information that z carries of which example it came from, at most log N, and the
mismatch of the aggregate with the prior.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from vgm.models.protocol import Encoding, LatentVariableModel
from vgm.precision import in_full_precision
from vgm.types import Params, PRNGKey, Scalar


class Surgery(NamedTuple):
    """The two parts of the average divergence, in nats.

    Attributes:
        average_kl: Left side of (1), estimated.
        mutual_information: I(n; z), estimated; at most log N.
        marginal_kl: KL(q(z) || p(z)), their difference.
    """

    average_kl: Scalar
    mutual_information: Scalar
    marginal_kl: Scalar


@in_full_precision
def elbo_surgery(
    key: PRNGKey,
    params: Params,
    encoding: Encoding,
    average_kl: Scalar,
    *,
    model: LatentVariableModel,
) -> Surgery:
    """Split the average divergence by (1), one z ~ q(z | x_n) for each example.

    E log q(z | x_n) - log q(z) with the aggregate over the same examples, exactly;
    pairs of examples are computed row by row, N^2 densities in all.

    Args:
        key: Random key, used once.
        params: Parameters.
        encoding: What ``model.encode`` made of the N examples.
        average_kl: Mean of the examples' KL(q(z | x) || p(z)), in closed form or drawn.
        model: Model, whose p(z) is one for all examples.

    Returns:
        The parts, in nats.
    """
    z, own = model.propose_and_log_prob(key, params, encoding)
    num_examples = len(own)

    def aggregate(row: Array) -> Scalar:
        def repeat(leaf: Array) -> Array:
            return jnp.broadcast_to(leaf[row][None], leaf.shape)

        by_example = model.log_posterior(params, encoding, jax.tree.map(repeat, z))
        return jax.nn.logsumexp(by_example)

    rows = jnp.arange(num_examples)
    log_sum = jax.lax.map(aggregate, rows, batch_size=min(64, num_examples))
    information = jnp.mean(own - log_sum) + math.log(num_examples)
    return Surgery(average_kl, information, average_kl - information)
