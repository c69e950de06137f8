"""What a run was computed with."""

import importlib.metadata
import platform

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def installed() -> dict[str, str]:
    """Versions of Python, of this package and of those that make the numbers.

    Returns:
        Versions by name, with the device that JAX computes on.
    """
    found = {"python": platform.python_version(), "vgm": "unknown"}
    for name in ("vgm", *PACKAGES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    found["device"] = f"{len(devices)} x {devices[0].device_kind}"
    return found
