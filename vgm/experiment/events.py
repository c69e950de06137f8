"""Rows of metrics as TensorBoard's events, where its writer is installed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np


@contextlib.contextmanager
def writer(run_dir: Path) -> Iterator[Any]:
    """What writes events into a folder, closed in the end.

    Left to the interpreter's end, Python 3.12 can no longer close one that has not
    written.

    Args:
        run_dir: Folder of the run.

    Yields:
        A writer, or None where there is none to be had.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        SummaryWriter = None
    if SummaryWriter is None:
        yield None
        return
    with contextlib.closing(SummaryWriter(str(run_dir))) as found:
        yield found


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
