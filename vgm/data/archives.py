"""Data sets as named arrays in one file."""

from pathlib import Path

import numpy as np

from vgm.data import files
from vgm.data.arrays import Dataset, Split, require_digits, take
from vgm.errors import UserError

MAX_LEVELS = 65536
"""Most levels, and most classes: more are no categories."""


def load_npz(path: Path, missing: str) -> Dataset:
    """Arrays x_train and x_test, perhaps x_valid, labels y_* and levels.

    Examples of two axes are images of one channel. Without x_valid the training
    examples come in a fixed random order, for what is held out of them is the end.

    Reals are kept in float32. Integers of 0 and 1 are bits and integers beyond 127 one
    of 256 levels, where ``levels`` does not say their number.

    Args:
        path: File.
        missing: "nan" where NaN marks a missing number.

    Returns:
        The data set, its validation split None without x_valid.

    Raises:
        UserError: If the arrays do not belong together.
    """
    arrays = files.read_npz(path, missing=missing)
    absent = {"x_train", "x_test"} - arrays.keys()
    if absent:
        raise UserError(
            f"{path} lacks {' and '.join(sorted(absent))}; expected x_train, x_test "
            "and optionally x_valid, y_train, y_valid, y_test, levels"
        )
    x = {split: arrays[f"x_{split}"] for split in ("train", "test")}
    if "x_valid" in arrays:
        x["valid"] = arrays["x_valid"]
    empty = [name for name, array in x.items() if array.ndim < 2 or not array.size]
    if empty:
        raise UserError(
            f"{path}: x_{empty[0]} must be an array of examples with at least one "
            "number each; got an empty or flat one"
        )
    real = {split: array.dtype.kind == "f" for split, array in x.items()}
    shapes = {split: array.shape[1:] for split, array in x.items()}
    if len(set(shapes.values())) > 1 or len(set(real.values())) > 1:
        found = ", ".join(
            f"x_{split} {array.dtype} {array.shape[1:]}" for split, array in x.items()
        )
        raise UserError(f"{path}: {found} differ in shape or dtype; make them alike")
    if len(shapes["train"]) == 2:
        x = {split: array[..., None] for split, array in x.items()}
    levels = 0
    if not real["train"]:
        levels = _levels(path, arrays, x)
        dtype = np.uint8 if levels <= 256 else np.int32
        x = {split: array.astype(dtype) for split, array in x.items()}
    else:
        x = {split: _reals(path, split, array) for split, array in x.items()}
    splits = {
        split: Split(array, _labels(path, arrays, split, len(array)))
        for split, array in x.items()
    }
    train, validation = splits["train"], splits.get("valid")
    if validation is None:
        train = take(train, np.random.default_rng(0).permutation(len(train.x)))
    return Dataset(train, validation, splits["test"], levels)


def _reals(path: Path, split: str, array: np.ndarray) -> np.ndarray:
    """In float32, as training computes: what is checked is what it will see."""
    with np.errstate(over="ignore"):
        reals = array.astype(np.float32)
    if np.isinf(reals).any():
        raise UserError(f"{path}: x_{split} has numbers beyond float32; scale them")
    require_digits(f"{path}: x_{split}", array)
    return reals


def _levels(path: Path, arrays: dict[str, np.ndarray], x: dict[str, np.ndarray]) -> int:
    lowest = min(int(array.min()) for array in x.values())
    highest = max(int(array.max()) for array in x.values())
    if "levels" not in arrays and lowest >= 0 and 1 < highest < 128:
        raise UserError(
            f"{path}: integers up to {highest}, of an unknown number of levels; store "
            f"levels={highest + 1}, or levels=256 for bytes"
        )
    stated = arrays.get("levels", np.asarray(2 if highest <= 1 else 256))
    one = stated.size == 1 and stated.dtype.kind in "ui"
    if not one or not 2 <= stated.item() <= MAX_LEVELS:
        raise UserError(
            f"{path}: levels must be one integer from 2 to {MAX_LEVELS}; store reals "
            "as floats"
        )
    levels = int(stated.item())
    if lowest < 0 or highest >= levels:
        raise UserError(
            f"{path}: levels run from {lowest} to {highest}, outside 0 .. "
            f"{levels - 1}; store the number of levels as 'levels'"
        )
    return levels


def _labels(
    path: Path, arrays: dict[str, np.ndarray], split: str, count: int
) -> np.ndarray | None:
    labels = arrays.get(f"y_{split}")
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "ui":
        raise UserError(
            f"{path}: y_{split} must be {count} integers; got {labels.dtype} of shape "
            f"{labels.shape}"
        )
    if count and not 0 <= int(labels.min()) <= int(labels.max()) < MAX_LEVELS:
        raise UserError(
            f"{path}: y_{split} must be from 0 to {MAX_LEVELS - 1}, one number a "
            f"class; got {labels.min()} to {labels.max()}"
        )
    return labels.astype(np.int32)
