"""Fixtures. Nothing here imports vgm at module level: its shape checks come first."""

import gc
import os
from pathlib import Path

import jax
import jaxtyping
import pytest
from compilation import CACHE, FLAGS

os.environ.setdefault("XLA_FLAGS", FLAGS)
# Scripts keep compiled programs in the user's cache: not those of tests.
os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
# Tracing makes many objects that stay: to look for garbage among them takes time.
gc.set_threshold(50_000, 20, 100)

jax.config.update("jax_numpy_rank_promotion", "raise")
# What is compared keeps its digits on an accelerator, networks too.
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_compilation_cache_dir", CACHE)
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


@pytest.fixture(scope="session")
def fitted(tmp_path_factory):
    """Three steps of training, one an evaluation."""
    from small import TINY, changed

    from vgm.experiment import fitting, setup
    from vgm.experiment.reporter import Reporter

    prepared = setup.prepare(changed("vae-digits", TINY))
    run_dir = tmp_path_factory.mktemp("run")
    return prepared, fitting.train(prepared, run_dir, Reporter())


@pytest.fixture
def drawn_figures(monkeypatch):
    """Figures, in their order, that would have been written to files."""
    found = []
    save = "vgm.evaluation.figures._save"
    monkeypatch.setattr(save, lambda figure, path: found.append(figure))
    return found


@pytest.fixture
def unchecked():
    """Shapes are not checked by annotations, as they are not outside these tests."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
