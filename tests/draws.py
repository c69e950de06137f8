"""Random values for tests, drawn by NumPy: nothing to compile, a shape at a time."""

from typing import Any

import jax
import numpy as np


def normals(key: jax.Array, shape: tuple[int, ...] = (), dtype: Any = float) -> Any:
    """Standard normal draws of a key, other ones than ``jax.random.normal``'s."""
    generator = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return _array(generator.standard_normal(shape), dtype)


def bits(shape: tuple[int, ...]) -> Any:
    """Zeros and ones, as likely."""
    return _array(np.random.default_rng(0).random(shape) < 0.5, float)


def disturbed(params: Any, scale: float = 0.1, seed: int = 0) -> Any:
    """Parameters away from their start, where most networks say nothing."""
    generator = np.random.default_rng(seed)

    def moved(leaf: Any) -> jax.Array:
        noise = scale * generator.standard_normal(leaf.shape)
        return _array(np.asarray(leaf) + noise, leaf.dtype)

    return jax.tree.map(moved, params)


def _array(numbers: np.ndarray, dtype: Any) -> jax.Array:
    # Rounded and sent as they are: ``jnp.asarray`` would compile a program a shape.
    return jax.device_put(numbers.astype(jax.dtypes.canonicalize_dtype(dtype)))
