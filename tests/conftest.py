"""Fixtures. Nothing here imports vgm at module level: its shape checks come first."""

import os
from pathlib import Path

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


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
