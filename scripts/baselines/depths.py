"""Compiling deep models and shallow ones: a loop over layers compiles as one layer."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vgm import models
from vgm.training import objective
from vgm.types import Batch

Run = Callable[[], None]
BATCH = 16
DEEP, SHALLOW = 40, 5


def compilation(
    build: Callable[[int], Any], x: jax.Array, *, deep: int, shallow: int
) -> dict[str, Run]:
    """Compiling a gradient step of a deep and of a shallow model, nothing cached."""

    def compile_depth(num_layers: int) -> None:
        model = build(num_layers)
        params = jax.eval_shape(model.init, jax.random.key(0), x)
        value_and_grad = objective.negative_elbo(model)
        batch = Batch(x, None, jnp.ones(len(x)))
        jax.jit(value_and_grad).lower(jax.random.key(0), params, batch).compile()

    jax.config.update("jax_enable_compilation_cache", False)  # noqa: FBT003
    return {
        "vgm": functools.partial(compile_depth, deep),
        f"{shallow} layers": functools.partial(compile_depth, shallow),
    }


def hierarchies() -> dict[str, dict[str, Run]]:
    """A Markov hierarchy and a ladder of 40 layers against those of 5."""
    x = jax.random.bernoulli(jax.random.key(0), 0.3, (BATCH, 8, 8, 1)).astype(float)
    of = functools.partial(compilation, x=x, deep=DEEP, shallow=SHALLOW)
    return {"compiling 40 Markov layers": of(markov), "compiling a ladder": of(ladder)}


def markov(num_layers: int) -> models.markov.MarkovVAE:
    base = models.vae.mlp(
        event_shape=(8, 8, 1), latent_dim=16, hidden=(64,), likelihood="bernoulli"
    )
    return models.hierarchical_vae.markov(
        base, latent_dims=(16,) * num_layers, hidden=(64,)
    )


def ladder(num_layers: int) -> models.ladder.Ladder:
    return models.hierarchical_vae.ladder(
        event_shape=(8, 8, 1),
        sides=(4,),
        layers=(num_layers,),
        channels=32,
        hidden=8,
        latent_dim=4,
        num_blocks=2,
        likelihood="bernoulli",
    )
