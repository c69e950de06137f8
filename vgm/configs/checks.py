"""What a configuration can be: each field's range, and what goes with a family."""

from collections.abc import Callable
from typing import Any

import numpy as np

from vgm.bounds import gradients
from vgm.configs.combinations import ANY, COMBINATIONS, IN_CLOSED_FORM
from vgm.configs.plain import flatten, to_dict
from vgm.configs.schema import Config
from vgm.errors import UserError

Check = tuple[str, Callable[[Any], bool], str]

_AT_LEAST_ONE = (
    "model.latent-dim",
    "model.channels",
    "model.num-blocks",
    "model.num-mixtures",
    "latent.num-components",
    "latent.num-layers",
    "diffusion.num-steps",
    "flow.num-layers",
    "flow.num-levels",
    "diffusion.chunk-size",
    "objective.num-samples",
    "train.num-steps",
    "train.batch-size",
    "train.eval-every",
    "evaluation.num-importance-samples",
    "evaluation.num-elbo-samples",
    "evaluation.batch-size",
    "evaluation.chunk-size",
)
_NOT_NEGATIVE = (
    "optimizer.warmup-steps",
    "optimizer.weight-decay",
    "optimizer.clip-norm",
    "optimizer.skip-norm",
    "objective.kl-warmup-steps",
    "objective.free-nats",
    "train.patience",
    "diffusion.train-num-steps",
    "diffusion.num-times",
    "diffusion.degree",
)
_BELOW_ONE = ("model.dropout", "optimizer.b1", "optimizer.b2", "optimizer.ema-decay")
_POSITIVE = (
    "optimizer.learning-rate",
    "optimizer.eps",
    "flow.tail-bound",
    "latent.temperature",
)


def _float32(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.float32(value))


def _all_positive(values: tuple[int, ...]) -> bool:
    return len(values) > 0 and min(values) >= 1


_EACH = "one number of at least 1 for each resolution"
_SIZES = (
    ("model.multipliers", _EACH),
    ("latent.hidden", "one width of at least 1, or several"),
    ("latent.dims", "one size of at least 1 for each layer"),
    ("latent.sides", _EACH),
    ("latent.layers", _EACH),
)

_CHECKS: tuple[Check, ...] = (
    ("data.num-validation", lambda v: v is None or 0 <= v < 2**31, "at least 0"),
    *((name, lambda v: v >= 1, "at least 1") for name in _AT_LEAST_ONE),
    *((name, lambda v: v >= 0, "at least 0") for name in _NOT_NEGATIVE),
    *(
        (name, lambda v: v < 2**31, "below 2^31")
        for name in (*_AT_LEAST_ONE, *_NOT_NEGATIVE)
    ),
    # As float32 has them: 1 - 1e-9 is 1 there, and 1e-300 is 0.
    *(
        (name, lambda v: v >= 0 and _float32(v) < 1, "at least 0 and below 1")
        for name in _BELOW_ONE
    ),
    *(
        (name, lambda v: 0 < _float32(v) < float("inf"), "positive")
        for name in _POSITIVE
    ),
    # Of a greater seed a key would keep the last 32 bits.
    ("seed", lambda v: 0 <= v < 2**32, "from 0 to 2^32 - 1"),
    ("model.hidden", lambda v: all(width >= 1 for width in v), "widths of at least 1"),
    *((name, _all_positive, requirement) for name, requirement in _SIZES),
    ("latent.num-categories", lambda v: v >= 2, "at least 2"),
    ("flow.num-bins", lambda v: 2 <= v <= 500, "from 2 to 500"),
    ("diffusion.eta", lambda v: 0 <= v <= 1, "from 0 to 1"),
    ("diffusion.gamma-min", lambda v: -30 <= v <= 30, "from -30 to 30"),
    ("diffusion.gamma-max", lambda v: -30 <= v <= 30, "from -30 to 30"),
)

_LIKELIHOODS = {
    "levels": (
        "categorical",
        "discretized_logistic",
        "discretized_logistic_mixture",
    ),
    "binary": ("bernoulli",),
    "grey-bernoulli": ("bernoulli",),
    "density": ("normal",),
}
_ARCHITECTURES = {
    "vae": ("mlp", "conv"),
    "hvae": ("markov", "ladder"),
    "diffusion": ("mlp", "vdm-unet", "ddpm-unet"),
    "flow": (
        "realnvp",
        "glow",
        "nsf-coupling",
        "nsf-autoregressive",
        "maf",
        "continuous",
    ),
    "autoregressive": ("made",),
}

_OBJECTIVES: dict[str, dict[str, tuple[str, ...]]] = {
    "vae": {
        "elbo": (*gradients.ELBO_ESTIMATORS, "straight-through"),
        "iwae": tuple(gradients.IWAE_ESTIMATORS),
    },
    "hvae": {
        "elbo": tuple(gradients.ELBO_ESTIMATORS),
        "iwae": tuple(gradients.IWAE_ESTIMATORS),
    },
    "diffusion": {"elbo": ("pathwise", "least-variance"), "weighted": ("pathwise",)},
    "flow": {"elbo": ("pathwise",), "flow-matching": ("pathwise",)},
    "autoregressive": {"elbo": ("pathwise",)},
}
"""Objectives of each family, and the gradients of each."""


def validate(config: Config) -> None:
    """Check every number and every combination.

    Args:
        config: Configuration.

    Raises:
        UserError: Naming the first field that cannot be, and what it must be.
    """
    values = dict(flatten(to_dict(config)))
    for name, accepts, requirement in _CHECKS:
        if not accepts(values[name]):
            raise UserError(f"{name} must be {requirement}; got {values[name]}")
    _require_one_of(
        "model.architecture",
        config.model.architecture,
        _ARCHITECTURES[config.model.family],
        f"model.family {config.model.family!r}",
    )
    if config.data.missing != "none" and config.data.observation != "density":
        raise UserError(
            "data.missing 'nan' needs data.observation 'density': integers have no "
            f"NaN; got {config.data.observation!r}"
        )
    _validate_objective(config)
    if config.model.family in ("vae", "hvae", "autoregressive"):
        _require_one_of(
            "model.likelihood",
            config.model.likelihood,
            _LIKELIHOODS[config.data.observation],
            f"data.observation {config.data.observation!r}",
        )
    for holds, message in (*ANY, *COMBINATIONS.get(config.model.family, ())):
        if not holds(config):
            raise UserError(message)


def _require_one_of(
    name: str, value: str, allowed: tuple[str, ...], where: str
) -> None:
    if value not in allowed:
        raise UserError(
            f"{name} must be {' or '.join(allowed)} for {where}; got {value!r}"
        )


def _validate_objective(config: Config) -> None:
    spec, family = config.objective, config.model.family
    objectives = _OBJECTIVES[family]
    _require_one_of(
        "objective.name", spec.name, tuple(objectives), f"model.family {family!r}"
    )
    _require_one_of(
        "objective.gradient",
        spec.gradient,
        objectives[spec.name],
        f"objective.name {spec.name!r} of model.family {family!r}",
    )
    if spec.gradient in ("score-function", "vimco") and spec.num_samples < 2:
        raise UserError(
            "objective.num-samples must be at least 2 for objective.gradient "
            f"{spec.gradient!r}: the other draws are its baseline; got 1"
        )
    if family not in ("vae", "hvae"):
        return
    on_weights = spec.name == "iwae" or spec.gradient not in IN_CLOSED_FORM
    if on_weights and config.model.dropout:
        raise UserError(
            f"model.dropout must be 0 with objective.name {spec.name!r} and gradient "
            f"{spec.gradient!r}: their draws share one encoding; got "
            f"{config.model.dropout}"
        )
