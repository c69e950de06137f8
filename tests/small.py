"""Small models, presets made small, and the numbers of a result."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vgm import configs, models
from vgm.bounds.elbo import single_latent_terms

TINY = {
    "model.hidden": (8,),
    "model.latent_dim": 2,
    "train.num_steps": 3,
    "train.eval_every": 1,
    "evaluation.num_importance_samples": 4,
    "evaluation.num_elbo_samples": 1,
}

RESULT = {
    "model": "vae (mlp)",
    "num_examples": 3,
    "split": "test",
    "num_elbo_samples": 1,
    "is_exact": False,
    "num_importance_samples": 5,
    "num_steps": None,
    "conditional": False,
    "observation": "levels",
    "reconstruction_nats": -4.0,
    "prior_matching_nats": 1.0,
    "denoising_matching_by_step": [],
    "median_effective_samples": 2.0,
    "elbo_nats": -5.0,
    "elbo_stderr": 0.5,
    "log_evidence_nats": -3.0,
    "log_evidence_stderr": 0.25,
    "bits_per_dim": 2.125,
    "bits_per_dim_stderr": 0.375,
    "elbo_bits_per_dim": 4.0,
    "baseline_bits_per_dim": 6.5,
    "baseline_nats": -9.0,
}


def changed(preset: str, values: dict[str, Any]) -> configs.Config:
    """A preset with some fields replaced, named section.field, or field."""
    config = configs.PRESETS[preset][1]
    for name, value in values.items():
        section, _, field = name.rpartition(".")
        if section:
            value = dataclasses.replace(getattr(config, section), **{field: value})
        config = dataclasses.replace(config, **{section or field: value})
    return config


def trained(
    folder: Path, arguments: list[str], name: str = "run"
) -> tuple[Path, dict[str, Any]]:
    """A run by scripts/train.py, and its result."""
    import train

    run_dir = folder / name
    assert train.main([*arguments, "--run-dir", str(run_dir)]) == 0
    return run_dir, json.loads((run_dir / "result.json").read_text())


def small_vae(**kw: Any) -> Any:
    """A VAE of six bits, unless told otherwise."""
    given = {"event_shape": (6,), "hidden": (8,), "likelihood": "bernoulli"} | kw
    return models.vae.mlp(latent_dim=2, **given)


def small_diffusion(
    schedule: str = "linear", head: str = "v", last: float = 3.0, **kw: Any
) -> Any:
    """A diffusion of pairs of reals in five steps, unless told otherwise."""
    of_head = models.heads.head(head, levels=0)
    return models.diffusion.Diffusion(
        models.denoisers.MLPDenoiser(8, 1, 1),
        of_head,
        models.heads.decoder("normal", of_head, levels=0),
        models.noise.schedule(schedule, -3.0, last),
        **({"event_shape": (2,), "num_steps": 5} | kw),
    )


def small_ladder(**kw: Any) -> Any:
    """A ladder of three layers for images of 4 x 4 bits."""
    given = {"sides": (1, 2), "layers": (2, 1), "num_blocks": 3} | kw
    return models.hierarchical_vae.ladder(
        event_shape=(4, 4, 1),
        channels=8,
        hidden=4,
        latent_dim=1,
        likelihood="bernoulli",
        **given,
    )


class Noise:
    """A model whose bound is a draw of N(0, 1), its parameter times."""

    def elbo_terms(self, key, params, x, condition=None, *, train=False):
        value = params * jax.random.normal(key, (len(x),))
        return single_latent_terms(value, jnp.zeros(len(x)))

    def log_weight(self, key, params, x, condition=None):
        return params * jax.random.normal(key, (len(x),))

    def init(self, key, x, condition=None):
        return jnp.ones(())

    def sample(self, key, params, num_samples, condition=None):
        return jnp.zeros((num_samples, 1))
