"""Checkpoints by Orbax: written whole or not at all, restored on any machine.

A checkpoint holds ``state`` (everything training needs), ``params`` (the parameters a
finished run would use so far) and ``meta`` (plain numbers and strings).
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from vgm.errors import UserError
from vgm.types import Params


class Restored(NamedTuple):
    """What a checkpoint gives back.

    Attributes:
        step: The step at which it was written.
        state: Training state, in host arrays.
        params: Parameters that a finished run would use so far, in host arrays.
        meta: Plain numbers and strings.
    """

    step: int
    state: Any
    params: Params
    meta: dict[str, Any]


def open_manager(directory: Path, *, max_to_keep: int = 2) -> ocp.CheckpointManager:
    """Open a folder of checkpoints, removing what a killed run left half written.

    Args:
        directory: Folder; made if missing.
        max_to_keep: Checkpoints kept, newest first.

    Returns:
        The manager; close it so that the last save is complete.
    """
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
    )
    return ocp.CheckpointManager(directory.resolve(), options=options)


def save(
    manager: ocp.CheckpointManager,
    step: int,
    *,
    state: Any,
    params: Params,
    meta: dict[str, Any],
) -> None:
    """Write one checkpoint in the background.

    Args:
        manager: Manager.
        step: Step of the state; later than any saved.
        state: Training state.
        params: Parameters that a finished run would use.
        meta: Plain numbers and strings.
    """
    manager.save(
        step,
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            params=ocp.args.StandardSave(params),
            meta=ocp.args.JsonSave(meta),
        ),
    )


def restore_latest(
    manager: ocp.CheckpointManager,
    abstract_state: Any,
    abstract_params: Params,
    *,
    warn: Callable[[str], None],
) -> Restored | None:
    """The newest checkpoint that can be read; unreadable newer ones are set aside.

    Args:
        manager: Manager.
        abstract_state: Pytree with the shapes and dtypes of the state.
        abstract_params: Pytree with those of the parameters.
        warn: Told in one line of a checkpoint that could not be read.

    Returns:
        The checkpoint, in host arrays, or None if there is none.

    Raises:
        UserError: If there are checkpoints and none can be read.
    """
    failed: list[tuple[int, Exception]] = []
    for step in sorted(manager.all_steps(), reverse=True):
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(_host_like(abstract_state)),
            params=ocp.args.StandardRestore(_host_like(abstract_params)),
            meta=ocp.args.JsonRestore(),
        )
        try:
            restored = manager.restore(step, args=args)
        # Orbax and TensorStore raise many types for a damaged file: any of them means
        # that this checkpoint is of no use.
        except Exception as error:
            failed.append((step, error))
            continue
        for newer, error in failed:
            aside = _set_aside(manager, newer)
            warn(
                f"checkpoint {newer} cannot be read ({_reason(error)}); moved to "
                f"{aside}, going back to the one before"
            )
        return Restored(step, restored["state"], restored["params"], restored["meta"])
    if failed:
        raise UserError(
            f"no checkpoint in {manager.directory} can be read "
            f"({_reason(failed[0][1])}); train again in another --run-dir"
        )
    return None


def restore_params(
    directory: Path, abstract_params: Params, *, warn: Callable[[str], None]
) -> Params:
    """The parameters of the newest readable checkpoint, as host arrays.

    Args:
        directory: Folder of checkpoints.
        abstract_params: Pytree with their shapes and dtypes.
        warn: Told in one line of a checkpoint that could not be read.

    Returns:
        The parameters as NumPy arrays, whatever devices they were saved from.

    Raises:
        FileNotFoundError: If there is none.
    """
    restore = ocp.args.Composite(
        params=ocp.args.StandardRestore(_host_like(abstract_params))
    )
    if not directory.is_dir():
        raise FileNotFoundError(f"no checkpoints: {directory} does not exist")
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(directory.resolve(), options=options) as manager:
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                return manager.restore(step, args=restore)["params"]
            # As in restore_latest: a damaged one is of no use, whatever it raises.
            except Exception as error:
                warn(
                    f"checkpoint {step} in {directory} cannot be read "
                    f"({_reason(error)}); going back to the one before"
                )
    raise FileNotFoundError(f"no readable checkpoint in {directory}")


def _reason(error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {first[:80]}"


def _host_like(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), tree)


def _set_aside(manager: ocp.CheckpointManager, step: int) -> Path:
    source = Path(manager.directory) / str(step)
    target = source.parent.parent / "unreadable-checkpoints" / str(step)
    target.parent.mkdir(exist_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(source, target)
    manager.reload()
    return target
