"""How tests and notebooks compile: quickly, and once for all of them."""

import platform
from pathlib import Path

import jax

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
