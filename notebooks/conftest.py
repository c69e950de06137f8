"""The notebooks' kernels compile as the tests do; they inherit this environment."""

import os

from compilation import CACHE, FLAGS

os.environ.setdefault("XLA_FLAGS", FLAGS)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", CACHE)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
