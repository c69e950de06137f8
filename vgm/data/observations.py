"""What a model observes of stored values; named in every result.

    levels           the integers themselves: log p is the mass of x
    binary           zeros and ones: stored so, or drawn with probability
                     x / (levels - 1), once ("static") or at every use ("dynamic")
    grey-bernoulli   x / (levels - 1) as Bernoulli targets: a bound on E log p(b) with
                     b ~ Bernoulli(x), no likelihood of x
    density          continuous values: log p is a density

Rows of different observations never stand in one table.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vgm.data.arrays import Dataset
from vgm.errors import UserError

STATIC_SEED = 0


def require_observable(dataset: Dataset, observation: str) -> None:
    """Check that the stored values can be observed so.

    Args:
        dataset: Data set.
        observation: One of those above.

    Raises:
        UserError: If they cannot.
    """
    continuous = dataset.levels == 0
    if observation == "density" and not continuous:
        raise UserError(
            "data.observation 'density' needs floats; these data are integer levels: "
            "use 'levels', 'binary' or 'grey-bernoulli'"
        )
    if observation != "density" and continuous:
        raise UserError(
            f"data.observation {observation!r} needs integer levels; these data are "
            "floats: use 'density', or store images as they were, round(255 x) as uint8"
        )


def binarize_once(dataset: Dataset) -> Dataset:
    """Draw every pixel once with probability x / (levels - 1), from a fixed seed.

    Args:
        dataset: Data set of levels; one of two levels is returned as it is.

    Returns:
        The data set of zeros and ones.
    """
    if dataset.levels == 2:
        return dataset
    held_out = dataset.validation
    train = dataset.train.x
    every = train if held_out is None else np.concatenate([train, held_out.x])
    # How many training examples are held out changes no bit, least of all in test.
    bits = _draw_bits(every, dataset.levels, stream=0)
    validation = held_out and held_out._replace(x=bits[len(train) :])
    test = _draw_bits(dataset.test.x, dataset.levels, stream=1)
    return Dataset(
        dataset.train._replace(x=bits[: len(train)]),
        validation,
        dataset.test._replace(x=test),
        levels=2,
    )


def _draw_bits(x: np.ndarray, levels: int, *, stream: int) -> np.ndarray:
    generator = np.random.default_rng([STATIC_SEED, stream])
    uniform = generator.random(x.shape, np.float32)
    return (uniform * (levels - 1) < x).astype(np.uint8)


def observer(
    observation: str, *, levels: int, binarization: str
) -> Callable[[Any, Any], Any]:
    """The function from stored values to observations, for use inside ``jit``.

    Args:
        observation: One of those above.
        levels: Number of stored levels.
        binarization: "static" or "dynamic"; for "binary" alone.

    Returns:
        A function of (key, stored values); only a fresh binarisation uses the key.
    """
    if observation == "levels":
        return lambda key, x: x.astype(jnp.int32)
    if observation == "density":
        return lambda key, x: x.astype(jnp.float32)
    top = levels - 1
    if observation == "binary" and binarization == "dynamic":

        def draw(key: Any, x: Any) -> Any:
            probability = x.astype(jnp.float32) / top
            return jax.random.bernoulli(key, probability).astype(jnp.float32)

        return draw
    return lambda key, x: x.astype(jnp.float32) / top


def mirrored(observe: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Observe images as they are or mirrored left to right, each with probability 1/2.

    Args:
        observe: A function of (key, stored values).

    Returns:
        Another one, for images [batch, height, width, channels].
    """

    def observe_either(key: Any, x: Any) -> Any:
        key_side, key_observe = jax.random.split(key)
        side = jax.random.bernoulli(key_side, shape=(len(x), 1, 1, 1))
        return observe(key_observe, jnp.where(side, x[:, :, ::-1], x))

    return observe_either
