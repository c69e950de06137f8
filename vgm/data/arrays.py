"""The containers that every source fills."""

from typing import NamedTuple

import numpy as np

from vgm.errors import UserError


class Split(NamedTuple):
    """Examples and, where known, their labels.

    Attributes:
        x: Examples on the first axis: integers 0 .. levels - 1, or floats.
        labels: Class of each example, or None.
    """

    x: np.ndarray
    labels: np.ndarray | None


class Dataset(NamedTuple):
    """The splits of a data set.

    Attributes:
        train: Training examples.
        validation: Examples to choose a model with, or None.
        test: Examples to report on, once.
        levels: Number of integer levels; 0 for continuous data.
    """

    train: Split
    validation: Split | None
    test: Split
    levels: int


def num_held_out(asked: int | None, count: int) -> int:
    """How many training examples are held out for validation.

    >>> [num_held_out(None, count) for count in (1, 9, 1200, 60000)]
    [0, 1, 120, 5000]

    Args:
        asked: A number; None for a tenth, at most 5,000, and never the only one.
        count: Number of training examples.

    Returns:
        The number.
    """
    return min(-(-count // 10), 5000, count - 1) if asked is None else asked


def hold_out(train: Split, num_validation: int) -> tuple[Split, Split | None]:
    """Keep the last examples of a training split for validation.

    Args:
        train: Training examples.
        num_validation: How many to keep; 0 for none.

    Returns:
        The rest, and the examples kept.
    """
    if not num_validation:
        return train, None
    cut = len(train.x) - num_validation
    return take(train, slice(0, cut)), take(train, slice(cut, None))


def with_validation_trained_on(dataset: Dataset) -> Dataset:
    """Move the validation split, if there is one, to the end of the training split.

    Args:
        dataset: Data.

    Returns:
        The data without a validation split; labels only if both had them.
    """
    train, validation = dataset.train, dataset.validation
    if validation is None:
        return dataset
    labels = None
    if train.labels is not None and validation.labels is not None:
        labels = np.concatenate([train.labels, validation.labels])
    both = Split(np.concatenate([train.x, validation.x]), labels)
    return dataset._replace(train=both, validation=None)


def take(split: Split, index: np.ndarray | slice) -> Split:
    """The examples at ``index``.

    Args:
        split: Examples.
        index: Positions or a slice.

    Returns:
        Those examples with their labels.
    """
    labels = None if split.labels is None else split.labels[index]
    return Split(split.x[index], labels)


def require_digits(where: str, exact: np.ndarray) -> None:
    """Check that reals differ by more than the rounding to float32 they will undergo.

    Args:
        where: What they are, for the message.
        exact: Examples on the first axis; NaN where missing.

    Raises:
        UserError: If the spread of a number over the examples is below a thousand
            roundings.
    """
    if not exact.size:
        return
    rows = exact.reshape(len(exact), -1).astype(np.float64)
    absent = np.isnan(rows)
    low = np.where(absent, np.inf, rows).min(0)
    high = np.where(absent, -np.inf, rows).max(0)
    spread, size = high - low, np.maximum(np.abs(low), np.abs(high))
    lost = (spread > 0) & (spread < 1e3 * np.finfo(np.float32).eps * size)
    if lost.any():
        worst = int(np.argmax(lost))
        raise UserError(
            f"{where}: number {worst + 1} of each example has a spread of "
            f"{spread[worst]:.3g} beside a size of {size[worst]:.3g}, which float32 "
            "rounds away; subtract its mean first"
        )
