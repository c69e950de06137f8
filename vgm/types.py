"""Names of arrays, and the batch that every model is trained and evaluated on."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Key

Scalar = Float[Array, ""]
Event = Float[Array, "*event"]
"""Reals of one example."""

Values = Float[Array, " batch"]
"""A number for each example."""

PRNGKey = Key[Array, ""]
Params = Any
"""A pytree of arrays: the parameters of a model."""

Observe = Callable[[PRNGKey, Any], Any]
"""Maps stored values to what the model observes (scaling, a fresh binarisation)."""

Condition = Any
"""A pytree of arrays with a leading batch axis (labels, vectors), or None."""


class Masked(NamedTuple):
    """Observations some of whose numbers are missing: the mask travels with x.

    Attributes:
        values: Numbers; anything finite where missing.
        observed: True where the number is known.
    """

    values: Any
    observed: Any


class Batch(NamedTuple):
    """Examples, what they are conditioned on, and how much each one counts.

    Attributes:
        x: Observations, one example a row.
        condition: Pytree whose leaves have the same leading axis, or None.
        weight: Non-negative weight of each example; zero for padding. Weights enter in
            the objective's mean, never inside a bound; reports count all alike.
    """

    x: Any
    condition: Condition
    weight: Any
