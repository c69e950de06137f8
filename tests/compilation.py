"""How tests and notebooks compile: quickly, and once for all of them."""

import functools
import platform
from pathlib import Path
from typing import Any

import jax
import numpy as np

# Most of the time is compilation, and nearly nothing is computed. The last flag
# halves the time again; XLA stops at flags that it does not know, as from jax 0.11 on.
FLAGS = "--xla_backend_optimization_level=0"
FLAGS += " --xla_cpu_parallel_codegen_split_count=1"
if platform.machine() in ("x86_64", "AMD64"):
    FLAGS += " --xla_cpu_max_isa=AVX2"  # shorter programs than AVX512's
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"

# The workers, the kernels and the next run share compiled programs.
CACHE = str(Path(__file__).parents[1] / ".pytest_cache" / "xla")


def whole(of: Any) -> Any:
    """A function as one compiled program, or all functions of a model or module.

    Called plainly, each of their operations is a program to compile. Arrays are
    arguments of the program; whatever else is passed is part of it.
    """
    if not callable(of):
        return _Whole(of)

    @functools.wraps(of)
    def function(*args: Any, **kwargs: Any) -> Any:
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = [leaf if isinstance(leaf, ARRAYS) else None for leaf in leaves]
        others = [None if isinstance(leaf, ARRAYS) else leaf for leaf in leaves]
        return _call(of, structure, tuple(others), arrays)

    return function


ARRAYS = (jax.Array, np.ndarray, np.generic)


class _Whole:
    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._of, name)
        compiles = callable(found) and not isinstance(found, type)
        return whole(found) if compiles else found


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _call(function: Any, structure: Any, others: tuple, arrays: list) -> Any:
    both = zip(arrays, others, strict=True)
    args, kwargs = structure.unflatten([b if a is None else a for a, b in both])
    return function(*args, **kwargs)
