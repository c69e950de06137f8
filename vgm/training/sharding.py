"""Placement on devices: batches split over a mesh, everything else on every device."""

from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vgm.errors import UserError


def data_mesh() -> Mesh:
    """A mesh of one axis, "data", over all devices.

    Returns:
        The mesh; its axis type is Auto, so that XLA places the collectives.
    """
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Put a whole pytree on every device.

    Args:
        tree: Pytree of arrays.
        mesh: Mesh of ``data_mesh``.

    Returns:
        The pytree on the devices, in buffers of its own.
    """
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.device_put(tree, sharding, may_alias=False)


def split_batch(tree: Any, mesh: Mesh) -> Any:
    """Inside ``jit``: split the leading axis of every leaf over the mesh.

    Args:
        tree: Pytree of arrays with a leading batch axis.
        mesh: Mesh of ``data_mesh``.

    Returns:
        The pytree, constrained to one part a device.
    """
    return jax.lax.with_sharding_constraint(
        tree, NamedSharding(mesh, PartitionSpec("data"))
    )


def require_divisible(batch_size: int, mesh: Any) -> None:
    """Check that every device gets the same number of examples.

    Args:
        batch_size: Examples a batch.
        mesh: Mesh of ``data_mesh``.

    Raises:
        UserError: If it does not divide.
    """
    if batch_size % mesh.size:
        raise UserError(
            f"train.batch-size must be a multiple of the {mesh.size} devices; got "
            f"{batch_size}"
        )
