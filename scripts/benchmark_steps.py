"""Steps of a preset's training, timed: scripts/benchmark_steps.py PRESET [--options].

Steps run as one program with the data on the device, as in training. The compiler says
how many operations a step takes; with the device's peak that gives its utilisation.
"""

import dataclasses
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vgm import cli, configs, experiment
from vgm.errors import UserError
from vgm.experiment import setup, stepping, storage, versions
from vgm.training import loop, sharding
from vgm.training.step import init_state


@dataclass(frozen=True)
class Arguments:
    """Time training steps of a preset."""

    preset: str
    """Name of the preset."""
    data_path: Path | None = None
    """Folder of the data."""
    num_steps: int = 200
    """Steps timed, after one that is not."""
    batch_size: int | None = None
    """Examples a step; the preset's if not given."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a diffusion's network is computed in."""
    peak_tflops: float | None = None
    """The device's peak at that precision, for the utilisation."""
    output: Path | None = None
    """File for the numbers, as JSON; it must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: benchmark(arguments))


def benchmark(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="benchmark_steps.py")
    if args.preset not in configs.PRESETS:
        raise UserError(
            f"preset must be one of {sorted(configs.PRESETS)}; got {args.preset!r}"
        )
    if args.num_steps < 1:
        raise UserError(f"--num-steps must be at least 1; got {args.num_steps}")
    if args.output is not None:
        storage.require_new_file(args.output, "--output")
    cli.enable_compilation_cache()
    numbers = measure(args, configured(args))
    for name, value in numbers.items():
        print(f"{name:22} {value}")
    if args.output is not None:
        storage.write_json(args.output, numbers)


def configured(args: Arguments) -> configs.Config:
    _, config = configs.PRESETS[args.preset]
    batch_size = args.batch_size or config.train.batch_size
    changes: dict[str, Any] = {
        "model": dataclasses.replace(config.model, precision=args.precision),
        "train": dataclasses.replace(config.train, batch_size=batch_size, patience=0),
    }
    if args.data_path is not None:
        changes["data"] = dataclasses.replace(
            config.data, path=args.data_path, num_validation=0
        )
    return dataclasses.replace(config, **changes)


def measure(args: Arguments, config: configs.Config) -> dict[str, Any]:
    prepared = experiment.prepare(config)
    mesh, key = sharding.data_mesh(), jax.random.key(config.seed)
    sharding.require_divisible(config.train.batch_size, mesh)
    stored = setup.stored_batch(prepared, prepared.dataset.train)
    data = sharding.replicate(stored, mesh)
    optimizer = stepping.make_optimizer(config)

    @jax.jit
    def initial(key: Any, data: Any) -> Any:
        params = setup.init_params(key, prepared.model, data, prepared.observe)
        return init_state(params, optimizer, ema_decay=config.optimizer.ema_decay)

    state = sharding.replicate(initial(key, data), mesh)
    run_steps: Any = loop.compile_steps(
        step=stepping.make_step(config, prepared.model, optimizer),
        observe=prepared.observe_training,
        batch_size=config.train.batch_size,
        mesh=mesh,
    )
    program, compile_seconds = loop.compile_ahead(run_steps, key, state, data)
    state, metrics = program(key, state, data, jnp.int32(1))
    jax.block_until_ready(state)
    start = time.perf_counter()
    state, metrics = program(key, state, data, jnp.int32(1 + args.num_steps))
    jax.block_until_ready(state)
    seconds = time.perf_counter() - start
    rate = args.num_steps / seconds
    # A loop's body is counted once, whatever its number of turns.
    flops = (program.cost_analysis() or {}).get("flops", 0.0)
    peak = args.peak_tflops
    return {
        "preset": args.preset,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "precision": args.precision,
        "batch_size": config.train.batch_size,
        "num_params": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "steps": args.num_steps,
        "seconds": round(seconds, 3),
        "steps_per_second": round(rate, 4),
        "compile_seconds": round(compile_seconds, 1),
        "tflop_a_step": round(flops / 1e12, 4),
        "utilisation": None if peak is None else round(flops * rate / peak / 1e12, 4),
        "peak_memory_gib": round(_peak_memory() / 2**30, 2),
        "loss": float(np.asarray(metrics.loss)),
        "elbo": float(np.asarray(metrics.elbo)),
        "versions": versions.installed(),
    }


def _peak_memory() -> int:
    """Bytes at most: of the device where it says so, else of the process."""
    statistics = jax.devices()[0].memory_stats() or {}
    process = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return statistics.get("peak_bytes_in_use", process)


if __name__ == "__main__":
    sys.exit(main())
