"""The likelihood that a model must beat: every coordinate for itself."""

from typing import Any

import jax
from jaxtyping import Array, Float

from vgm.models import likelihoods

BASELINES = {
    "levels": "categorical",
    "binary": "bernoulli",
    "grey-bernoulli": "bernoulli",
    "density": "normal",
}
"""The family of the independent-pixel baseline, by observation."""


def independent_baseline(
    train: Any, test: Any, *, observation: str, levels: int, missing: bool = False
) -> Float[Array, " batch"]:
    """log p(x) of test examples under independent coordinates fitted to training data.

    Levels have a histogram each (one count added), bits a frequency between 0.001 and
    0.999, reals a normal.

    Args:
        train: Training observations.
        test: Test observations.
        observation: What the observations are.
        levels: Number of levels.
        missing: Observations come as ``Masked``.

    Returns:
        Log likelihoods, one an example, in nats.
    """
    family = likelihoods.likelihood(
        BASELINES[observation], levels=levels, missing=missing
    )
    outputs = family.initial_bias(train)
    return jax.lax.map(lambda x: family.log_prob(x, outputs), test)
