"""Rows of metrics as TensorBoard's events, where its writer is installed."""

import contextlib
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np


def writer(run_dir: Path) -> AbstractContextManager[Any]:
    """What writes events into a folder, closed in the end.

    Left to the interpreter's end, Python 3.12 can no longer close one that has not
    written.

    Args:
        run_dir: Folder of the run.

    Returns:
        A context of a writer, of None where there is none to be had.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        return contextlib.nullcontext()
    return contextlib.closing(SummaryWriter(str(run_dir)))


def write_row(to: Any, row: dict[str, Any]) -> None:
    """Write one row.

    Args:
        to: What ``writer`` gave.
        row: A step, and values by name; those that are not finite are left out.
    """
    if to is None:
        return
    for name, value in row.items():
        if name != "step" and value is not None and np.isfinite(value):
            to.add_scalar(name, value, row["step"])
    to.flush()
