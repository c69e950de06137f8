"""Files of a run, written whole or not at all."""

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vgm.data.files import DAMAGED
from vgm.errors import UserError
from vgm.types import Params

MEASURED = ("_nats", "_stderr", "_dim", "_by_step")
"""Ends of the names of numbers that may be infinite."""


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file whole or not at all.

    Args:
        path: File.
        content: Plain values; NaN becomes null, infinities "inf" and "-inf", which
            ``float`` reads.
    """
    text = json.dumps(_plain(content), indent=2, allow_nan=False)
    with _whole(path) as draft:
        draft.write_text(text + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None if np.isnan(value) else str(value)
    return value


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote.

    Args:
        path: File.

    Returns:
        Plain values, infinities as they were.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is no JSON.
    """
    return _infinite(json.loads(path.read_text()))


def _infinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _infinite(item) if key.endswith(MEASURED) else item
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_infinite(item) for item in value]
    return float(value) if value in ("inf", "-inf") else value


def save_params(path: Path, params: Params) -> None:
    """Write parameters as one ``.npz``, named by their place in the pytree.

    Args:
        path: File.
        params: Parameters.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    named: dict[str, Any] = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf)
        for place, leaf in leaves
    }
    write_arrays(path, named)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an ``.npz`` whole or not at all.

    Args:
        path: File.
        arrays: Arrays by name.
    """
    with _whole(path) as draft, draft.open("wb") as file:
        np.savez(file, **arrays)


def load_params(path: Path, abstract: Params) -> Params:
    """Read what ``save_params`` wrote.

    Args:
        path: File.
        abstract: Pytree with their shapes.

    Returns:
        The parameters as NumPy arrays.

    Raises:
        UserError: If the file is damaged, or of other parameters.
    """
    places, structure = jax.tree_util.tree_flatten_with_path(abstract)
    names = [
        jax.tree_util.keystr(place, simple=True, separator="/") for place, _ in places
    ]
    arrays = read_arrays(path)
    shapes = {name: array.shape for name, array in arrays.items()}
    if shapes != {
        name: leaf.shape for name, (_, leaf) in zip(names, places, strict=True)
    }:
        raise UserError(f"{path} holds the parameters of another model; train again")
    return jax.tree.unflatten(structure, [arrays[name] for name in names])


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a run's ``.npz``.

    Args:
        path: File.

    Returns:
        Arrays by name.

    Raises:
        UserError: If it is damaged.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (*DAMAGED, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({type(error).__name__}); remove it, and go on with "
            "--resume"
        ) from error


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep a folder from other processes; free again when this one ends, however.

    Args:
        folder: Folder.

    Yields:
        Nothing.

    Raises:
        UserError: If another process has it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"--run-dir {folder} is in use by another process; wait for it, or "
                "give another"
            ) from error
        except OSError:
            pass  # no such locks on this file system
        yield
    finally:
        os.close(handle)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of metrics as CSV, whole or not at all.

    Args:
        path: File.
        rows: Rows with the same names; None is left empty.
    """
    with _whole(path) as draft, draft.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path, *, last_step: int) -> list[dict[str, Any]]:
    """Read rows of metrics up to a step.

    Args:
        path: File.
        last_step: Later rows are left out.

    Returns:
        The rows, numbers as numbers and empty as None; none if there is no file.

    Raises:
        UserError: If the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            rows = [
                {name: float(value) if value else None for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
        numbered = [{**row, "step": int(row["step"] or 0)} for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged ({error}); remove it: what it held is lost, the "
            "training is not"
        ) from error
    return [row for row in numbered if row["step"] <= last_step]


def require_new_file(path: Path, flag: str) -> None:
    """Check that a file can be written without overwriting anything.

    Args:
        path: File.
        flag: Flag that named it.

    Raises:
        UserError: If it exists or its folder does not.
    """
    if path.exists():
        raise UserError(f"{flag}: {path} exists already; give another")
    if not path.parent.is_dir():
        raise UserError(f"{flag} {path}: the folder {path.parent} does not exist")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A draft that takes the file's place when it is written."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield draft
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
