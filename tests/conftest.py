"""Fixtures. Nothing here imports vgm at module level: its shape checks come first."""

import os
from pathlib import Path

import jax
import pytest

# Most of a test's time is compilation, and nearly nothing is computed. The second flag
# halves the time again; XLA stops at flags that it does not know, as from jax 0.11 on.
FLAGS = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", FLAGS)

jax.config.update("jax_numpy_rank_promotion", "raise")
# The workers, and the next run, share compiled programs.
CACHE = Path(__file__).parents[1] / ".pytest_cache" / "xla"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def x64():
    """Double precision, for identities that must hold to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_dtypes():
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture(scope="session")
def shared_data():
    """Original data sets, where they are; tests that need one say which and skip."""
    default = Path(__file__).parents[2] / "shared" / "data"
    return Path(os.environ.get("VGM_TEST_DATA", default))
