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


def nothing(generator: np.random.Generator, count: int) -> np.ndarray:
    """Examples without numbers: what a flow that is fitted to a density observes.

    Args:
        generator: Not used.
        count: Examples.

    Returns:
        An empty row each.
    """
    del generator
    return np.zeros((count, 0))


PLANE: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "two-moons": two_moons,
    "checkerboard": checkerboard,
    "nothing": nothing,
}


def load_plane(name: str) -> Dataset:
    """50,000 training, 5,000 validation and 10,000 test points, always the same.

    "nothing" has a fiftieth as many empty examples, each for one draw of a bound.

    Args:
        name: A name of ``PLANE``.

    Returns:
        The data set.
    """
    share = 50 if name == "nothing" else 1

    def draw(stream: int) -> Split:
        generator = np.random.default_rng([0, stream])
        x = PLANE[name](generator, SIZES[stream] // share)
        return Split(x.astype(np.float32), None)

    train, validation, test = map(draw, range(3))
    return Dataset(train, validation, test, levels=0)
