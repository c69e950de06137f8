"""Densities in the plane to draw from: what a flow's picture is compared with."""

from collections.abc import Callable

import numpy as np

from vgm.data.arrays import Dataset, Split

SIZES = (50_000, 5_000, 10_000)


def two_moons(generator: np.random.Generator, count: int) -> np.ndarray:
    """Two half circles that face each other, with normal noise of 0.1.

    Args:
        generator: Source of randomness.
        count: Points.

    Returns:
        Points, one a row.
    """
    angle = np.pi * generator.random(count)
    upper = generator.random(count) < 0.5
    x = np.where(upper, np.cos(angle), 1.0 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    return np.stack([x, y], -1) + 0.1 * generator.standard_normal((count, 2))


def checkerboard(generator: np.random.Generator, count: int) -> np.ndarray:
    """The eight dark squares of a 4 x 4 board on [-4, 4]^2: log density -log 32.

    Args:
        generator: Source of randomness.
        count: Points.

    Returns:
        Points, one a row.
    """
    column = generator.integers(0, 4, count)
    row = 2 * generator.integers(0, 2, count) + column % 2
    corner = 2.0 * np.stack([column, row], -1) - 4.0
    return corner + 2.0 * generator.random((count, 2))


PLANE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "two-moons": two_moons,
    "checkerboard": checkerboard,
}


def load_plane(name: str) -> Dataset:
    """50,000 training, 5,000 validation and 10,000 test points, always the same.

    Args:
        name: A name of ``PLANE``.

    Returns:
        The data set.
    """
    train, validation, test = (
        Split(PLANE[name](np.random.default_rng([0, stream]), count).astype("f4"), None)
        for stream, count in enumerate(SIZES)
    )
    return Dataset(train, validation, test, levels=0)
