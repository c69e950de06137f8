"""Measure: scripts/benchmark.py loop."""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vgm import cli, configs, data
from vgm.experiment import directory, fitting, setup
from vgm.training import loop, sharding
from vgm.training.step import init_state
from vgm.types import Batch


@dataclass(frozen=True)
class Arguments:
    """Time parts of the library against the least code that could do the same."""

    what: Literal["loop"]
    """loop: the training loop against a bare lax.scan of the same step."""
    data_path: Path | None = None
    """MNIST's original files; random images of the same size if not given."""
    repetitions: int = 9
    """Epochs timed for each side, alternating."""
    output: Path | None = None
    """File for the numbers, as JSON; it must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: benchmark(arguments))


def benchmark(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="benchmark.py")
    if args.output is not None:
        directory.require_new_file(args.output, "--output")
    sides = loop_sides(args.data_path)
    seconds = {name: [] for name in sides}
    for run in sides.values():
        run()  # compile
    for _ in range(args.repetitions):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    rows = [
        [name, *(f"{value * 1e3:.1f}" for value in spread(times))]
        for name, times in seconds.items()
    ]
    ratios = np.divide(seconds["vgm loop"], seconds["bare scan"])
    rows.append(["ratio, pair by pair", *(f"{value:.3f}" for value in spread(ratios))])
    cli.print_table(
        "One epoch of vae-mnist, ms", rows, header=("side", "min", "median", "max")
    )
    if args.output is not None:
        content = {
            "seconds": seconds,
            "ratio": dict(zip(("min", "median", "max"), spread(ratios), strict=True)),
            "data": "random" if args.data_path is None else "mnist",
            "versions": directory.versions(),
        }
        directory.write_json(args.output, content)


def spread(values: Any) -> tuple[float, float, float]:
    return float(np.min(values)), float(np.median(values)), float(np.max(values))


def loop_sides(path: Path | None) -> dict[str, Callable[[], None]]:
    """An epoch by the library's loop, and by a scan written by hand."""
    _, config = configs.PRESETS["vae-mnist"]
    images = _images(path)
    form = setup.DataForm((28, 28, 1), 256, 0, test_digest="")
    model = setup.build_model(config, form)
    observe = setup.observer(config, form)
    mesh, key = sharding.data_mesh(), jax.random.key(0)
    stored = sharding.replicate(
        Batch(images, None, np.ones(len(images), np.float32)), mesh
    )
    optimizer = fitting.make_optimizer(config)
    step = fitting.make_step(config, model, optimizer)
    batch_size = config.train.batch_size
    per_epoch = len(images) // batch_size

    def initial() -> Any:
        params = setup.init_params(key, model, stored, observe)
        return sharding.replicate(init_state(params, optimizer, ema_decay=0.0), mesh)

    run_steps = loop.compile_steps(
        step=step, observe=observe, batch_size=batch_size, mesh=mesh
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def bare(state: Any, x: Any, epoch: Any) -> Any:
        order = jax.random.permutation(jax.random.fold_in(key, epoch), len(x))
        order = order[: per_epoch * batch_size].reshape(per_epoch, batch_size)

        def body(state: Any, indices: Any) -> Any:
            batch = Batch(
                jax.lax.optimization_barrier(observe(key, x[indices])),
                None,
                jnp.ones(batch_size),
            )
            return step(jax.random.fold_in(key, state.step), state, batch)

        return jax.lax.scan(body, state, order)

    states = {"vgm loop": initial(), "bare scan": initial()}

    def run_loop() -> None:
        stop = states["vgm loop"].step + per_epoch
        states["vgm loop"], _ = run_steps(key, states["vgm loop"], stored, stop)
        jax.block_until_ready(states["vgm loop"])

    def run_bare() -> None:
        epoch = states["bare scan"].step + 0  # its own buffer: the state is donated
        states["bare scan"], _ = bare(states["bare scan"], stored.x, epoch)
        jax.block_until_ready(states["bare scan"])

    return {"vgm loop": run_loop, "bare scan": run_bare}


def _images(path: Path | None) -> np.ndarray:
    # Whole batches only, so that both sides take the same steps.
    count = 468 * 128
    if path is None:
        generator = np.random.default_rng(0)
        return generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    _, config = configs.PRESETS["vae-mnist"]
    located = data.load(config.data.name, path, num_validation=0)
    return located.train.x[:count]


if __name__ == "__main__":
    sys.exit(main())
