"""Measure: scripts/benchmark.py loop, core, evidence, flows or hierarchies."""

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from vgm import cli, configs, data, divergences
from vgm.densities import bernoulli, categorical, normal
from vgm.errors import UserError
from vgm.evaluation import likelihood
from vgm.experiment import building, setup, stepping, storage, versions
from vgm.training import loop, sharding
from vgm.training.step import init_state
from vgm.types import Batch


@dataclass(frozen=True)
class Arguments:
    """Time parts of the library against the least code that could do the same."""

    what: Literal["loop", "core", "evidence", "flows", "hierarchies"]
    """loop: the training loop against a bare lax.scan of the same step; core: log
    densities and divergences against numpyro's and torch's, where installed; evidence:
    K-sample evidences of MNIST's test images against a plain torch loop; flows: steps
    of training against zuko's, nflows' and flowjax's, where installed; compiling;
    hierarchies: compiling 40 layers and 5."""
    data_path: Path | None = None
    """MNIST's original files; random images of the same size if not given."""
    repetitions: int = 9
    """Times each side is timed, alternating; for evidence, parts of the test split."""
    num_importance_samples: int = 5000
    """K; for evidence."""
    output: Path | None = None
    """File for the numbers, as JSON; it must not exist."""


def main(arguments: list[str] | None = None) -> int:
    return cli.guarded(lambda: benchmark(arguments))


def benchmark(arguments: list[str] | None) -> None:
    args = cli.parse(Arguments, arguments, prog="benchmark.py")
    if args.output is not None:
        storage.require_new_file(args.output, "--output")
    if args.what == "loop":
        title = "One epoch of vae-mnist, ms"
        groups = {"training loop": loop_sides(args.data_path)}
    elif args.what == "evidence":
        title = (
            f"evidence of 1/{args.repetitions} of MNIST's test images, "
            f"K = {args.num_importance_samples}, ms"
        )
        groups = {
            "evidence": evidence_sides(
                args.data_path, args.num_importance_samples, args.repetitions
            )
        }
    elif args.what == "flows":
        from baselines import flow_libraries

        title = f"{flow_libraries.STEPS} training steps of a flow, or compilation, ms"
        groups = flow_libraries.sides()
        groups["compiling 32 couplings"] = flow_libraries.compilation()
    elif args.what == "hierarchies":
        from baselines import depths

        title = f"compilation of {depths.DEEP} layers and of {depths.SHALLOW}, ms"
        groups = depths.hierarchies()
    else:
        title = f"{CORE_SHAPE[0]} events of {CORE_SHAPE[1]} numbers, ms"
        groups = core_sides()
    # A part of the evidence takes minutes: compilation is timed with it.
    measured = {
        name: measure(sides, args.repetitions, warm_up=args.what != "evidence")
        for name, sides in groups.items()
    }
    rows = [row for name, sides in measured.items() for row in table(name, sides)]
    header = ("what", "side", "min", "median", "max", "vgm / side, min median max")
    cli.print_table(title, rows, header=header)
    if args.output is not None:
        content = {
            "seconds": measured,
            "data": "random" if args.data_path is None else "mnist",
            "versions": versions.installed(),
        }
        storage.write_json(args.output, content)


def measure(
    sides: dict[str, Callable[[], None]], repetitions: int, *, warm_up: bool
) -> dict[str, list[float]]:
    """Seconds of each side, alternating."""
    seconds = {name: [] for name in sides}
    for run in sides.values() if warm_up else ():
        run()  # compile
    names = list(sides)
    for repetition in range(repetitions):
        # Whoever follows another may pay for it: each side comes first in turn.
        first = repetition % len(names)
        for name in [*names[first:], *names[:first]]:
            run = sides[name]
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def table(what: str, seconds: dict[str, list[float]]) -> list[list[str]]:
    """Rows of one group; ratios are taken pair by pair, the library's time first."""
    rows = []
    for name, times in seconds.items():
        ratio = ""
        if name != "vgm":
            pairs = spread(np.divide(seconds["vgm"], times))
            ratio = " ".join(f"{value:.3f}" for value in pairs)
        row = [f"{value * 1e3:.1f}" for value in spread(times)]
        rows.append([what, name, *row, ratio])
    return rows


def spread(values: Any) -> tuple[float, float, float]:
    return float(np.min(values)), float(np.median(values)), float(np.max(values))


CORE_SHAPE = (100_000, 64)
CORE_LEVELS = 4


def core_sides() -> dict[str, dict[str, Callable[[], None]]]:
    """Densities and divergences, beside numpyro and torch where they are installed."""
    rng = np.random.default_rng(0)
    numbers = {
        name: rng.normal(size=CORE_SHAPE).astype(np.float32)
        for name in ("x", "mean", "log_std", "p_mean", "p_log_std")
    }
    bits = (rng.random(CORE_SHAPE) < 0.5).astype(np.float32)
    levels = rng.integers(0, CORE_LEVELS, CORE_SHAPE).astype(np.int32)
    logits, p_logits = (
        rng.normal(size=(*CORE_SHAPE, CORE_LEVELS)).astype(np.float32) for _ in range(2)
    )
    mean, log_std = numbers["mean"], numbers["log_std"]
    arguments = {
        "normal log density": (numbers["x"], mean, log_std),
        "Bernoulli log mass": (bits, mean),
        "categorical log mass": (levels, logits),
        "normal KL": (mean, log_std, numbers["p_mean"], numbers["p_log_std"]),
        "standard normal KL": (mean, log_std),
        "Bernoulli KL": (mean, log_std),
        "categorical KL": (logits, p_logits),
    }
    groups: dict[str, dict[str, Callable[[], None]]] = {}
    for name, values in arguments.items():
        sides = {"vgm": _jitted(jax.vmap(_VGM[name]), values)}
        numpyro_function, torch_function = _numpyro().get(name), _torch().get(name)
        if numpyro_function is not None:
            sides["numpyro"] = _jitted(numpyro_function, values)
        if torch_function is not None:
            sides["torch"] = _with_torch(torch_function, values)
        groups[name] = sides
    return groups


_VGM: dict[str, Callable[..., Any]] = {
    "normal log density": normal.log_prob,
    "Bernoulli log mass": bernoulli.log_prob,
    "categorical log mass": categorical.log_prob,
    "normal KL": divergences.kl_normal,
    "standard normal KL": divergences.kl_standard_normal,
    "Bernoulli KL": divergences.kl_bernoulli,
    "categorical KL": divergences.kl_categorical,
}


def _jitted(function: Callable[..., Any], values: Any) -> Callable[[], None]:
    compiled, arrays = jax.jit(function), [jnp.asarray(value) for value in values]
    return lambda: jax.block_until_ready(compiled(*arrays))


def _numpyro() -> dict[str, Callable[..., Any]]:
    try:
        import numpyro.distributions as dist  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    law = functools.partial(dist.Normal, validate_args=False)

    def event(mean: Any, log_std: Any) -> Any:
        return law(mean, jnp.exp(log_std)).to_event(1)

    def kl(mean: Any, log_std: Any, p_mean: Any, p_log_std: Any) -> Any:
        return dist.kl_divergence(event(mean, log_std), event(p_mean, p_log_std))

    return {
        "normal log density": lambda x, *q: event(*q).log_prob(x),
        "Bernoulli log mass": lambda x, l: (
            dist.BernoulliLogits(l, validate_args=False).to_event(1).log_prob(x)
        ),
        "categorical log mass": lambda x, l: (
            dist.CategoricalLogits(l, validate_args=False).to_event(1).log_prob(x)
        ),
        "normal KL": kl,
        "standard normal KL": lambda m, s: kl(
            m, s, jnp.zeros_like(m), jnp.zeros_like(m)
        ),
    }


def _torch() -> dict[str, Callable[..., Any]]:
    # Threads that spin while they wait would take the cores from the next side.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from torch import distributions as dist  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    off = {"validate_args": False}

    def event(mean: Any, log_std: Any) -> Any:
        return dist.Independent(dist.Normal(mean, log_std.exp(), **off), 1, **off)

    def bits(logits: Any) -> Any:
        return dist.Independent(dist.Bernoulli(logits=logits, **off), 1, **off)

    def levels(logits: Any) -> Any:
        return dist.Independent(dist.Categorical(logits=logits, **off), 1, **off)

    def standard(mean: Any, log_std: Any) -> Any:
        origin = event(mean.new_zeros(mean.shape), mean.new_zeros(mean.shape))
        return dist.kl_divergence(event(mean, log_std), origin)

    return {
        "normal log density": lambda x, *q: event(*q).log_prob(x),
        "Bernoulli log mass": lambda x, l: bits(l).log_prob(x),
        "categorical log mass": lambda x, l: levels(l).log_prob(x),
        "normal KL": lambda m, s, n, t: dist.kl_divergence(event(m, s), event(n, t)),
        "standard normal KL": standard,
        "Bernoulli KL": lambda q, p: dist.kl_divergence(bits(q), bits(p)),
        "categorical KL": lambda q, p: dist.kl_divergence(levels(q), levels(p)),
    }


def _with_torch(function: Callable[..., Any], values: Any) -> Callable[[], None]:
    import torch  # pyright: ignore[reportMissingImports]

    arrays = [torch.from_numpy(value) for value in values]

    def run() -> None:
        with torch.no_grad():
            function(*arrays)

    return run


def loop_sides(path: Path | None) -> dict[str, Callable[[], None]]:
    """An epoch by the library's loop, and by a scan written by hand."""
    _, config = configs.PRESETS["vae-mnist"]
    images = _images(path)
    form = building.DataForm((28, 28, 1), 256, 0, test_digest="")
    model = building.build_model(config, form)
    observe = setup.observer(config, form)
    mesh, key = sharding.data_mesh(), jax.random.key(0)
    stored = sharding.replicate(
        Batch(images, None, np.ones(len(images), np.float32)), mesh
    )
    optimizer = stepping.make_optimizer(config)
    step = stepping.make_step(config, model, optimizer)
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

    states = {"vgm": initial(), "bare scan": initial()}

    def run_loop() -> None:
        stop = states["vgm"].step + per_epoch
        states["vgm"], _ = run_steps(key, states["vgm"], stored, stop)
        jax.block_until_ready(states["vgm"])

    def run_bare() -> None:
        epoch = states["bare scan"].step + 0  # its own buffer: the state is donated
        states["bare scan"], _ = bare(states["bare scan"], stored.x, epoch)
        jax.block_until_ready(states["bare scan"])

    return {"vgm": run_loop, "bare scan": run_bare}


EVIDENCE_BATCH, EVIDENCE_CHUNK = 100, 50


def evidence_sides(
    path: Path | None, num_samples: int, parts: int
) -> dict[str, Callable[[], None]]:
    """K-sample evidences of the test images, a part at a call, with the same weights.

    The network is that of ``iwae-mnist``, its weights random: neither side's time
    depends on them.
    """
    _, config = configs.PRESETS["iwae-mnist"]
    if path is None:
        raise UserError("evidence needs MNIST's original files: give --data-path")
    images = data.load("mnist", path, num_validation=0).test.x
    bits = (images > 127).astype(np.float32)
    form = building.DataForm((28, 28, 1), 2, 0, test_digest="")
    model: Any = building.build_model(config, form)
    params = model.init(jax.random.key(0), jnp.asarray(bits[:100]))
    size = len(bits) // parts
    found: dict[str, list[float]] = {"vgm": [], "torch": []}
    position = {"vgm": 0, "torch": 0}

    def part(side: str) -> np.ndarray:
        start = position[side] % parts * size
        position[side] += 1
        return bits[start : start + size]

    def keep(side: str, mean: float) -> None:
        found[side].append(mean)
        if len(found["vgm"]) == len(found["torch"]):
            vgm, torch = found["vgm"][-1], found["torch"][-1]
            print(f"mean evidence: vgm {vgm:.3f}, torch {torch:.3f} nats", flush=True)

    def run_vgm() -> None:
        x = part("vgm")
        evidence = likelihood.example_evidence(
            jax.random.key(1),
            params,
            Batch(jnp.asarray(x), None, jnp.ones(len(x))),
            model=model,
            observe=lambda key, x: x,
            batch_size=config.evaluation.batch_size,
            num_samples=num_samples,
            chunk_size=config.evaluation.chunk_size,
        )
        keep("vgm", float(evidence.log_evidence.mean()))

    sides = {"vgm": run_vgm}
    try:
        torch_evidence = _torch_evidence(params)
    except ImportError:
        return sides

    def run_torch() -> None:
        keep("torch", torch_evidence(part("torch"), num_samples))

    return {**sides, "torch": run_torch}


def _torch_evidence(params: Any) -> Callable[[np.ndarray, int], float]:
    """The straightforward loop: batches of images, chunks of draws."""
    import torch  # pyright: ignore[reportMissingImports]

    def layers(part: str) -> list[tuple[Any, Any]]:
        (dense,) = params[part]["params"].values()
        return [
            tuple(
                torch.from_numpy(np.array(layer.get(name, 0.0)))
                for name in ("kernel", "bias")
            )
            for _, layer in sorted(dense.items())
        ]

    encoder, decoder = layers("encoder"), layers("decoder")
    output_bias = torch.from_numpy(np.array(params["output_bias"]).reshape(-1))

    def network(layers: list[tuple[Any, Any]], h: Any) -> Any:
        for kernel, bias in layers[:-1]:
            h = torch.tanh(h @ kernel + bias)
        return h @ layers[-1][0] + layers[-1][1]

    @torch.no_grad()
    def evidence(images: np.ndarray, num_samples: int) -> float:
        total = []
        for x in (
            torch.from_numpy(images).reshape(len(images), -1).split(EVIDENCE_BATCH)
        ):
            mean, log_std = network(encoder, x).chunk(2, dim=-1)
            law = torch.distributions.Normal(mean, log_std.exp())
            prior = torch.distributions.Normal(0.0, 1.0)
            log_w = []
            for _ in range(num_samples // EVIDENCE_CHUNK):
                z = law.rsample((EVIDENCE_CHUNK,))
                logits = network(decoder, z) + output_bias
                log_likelihood = -torch.nn.functional.binary_cross_entropy_with_logits(
                    logits, x.expand_as(logits), reduction="none"
                ).sum(-1)
                log_ratio = prior.log_prob(z).sum(-1) - law.log_prob(z).sum(-1)
                log_w.append(log_likelihood + log_ratio)
            stacked = torch.cat(log_w)
            total.append(stacked.logsumexp(0) - np.log(len(stacked)))
        return float(torch.cat(total).mean())

    return evidence


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
