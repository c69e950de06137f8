"""What a configuration can be: each field's range, and what goes with what."""

from collections.abc import Callable
from typing import Any

from vgm.bounds import gradients
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
    "data.num-validation",
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

_CHECKS: tuple[Check, ...] = (
    *((name, lambda v: v >= 1, "at least 1") for name in _AT_LEAST_ONE),
    *((name, lambda v: 0 <= v < float("inf"), "at least 0") for name in _NOT_NEGATIVE),
    *((name, lambda v: 0 <= v < 1, "at least 0 and below 1") for name in _BELOW_ONE),
    *((name, lambda v: 0 < v < float("inf"), "positive") for name in _POSITIVE),
    ("seed", lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1"),
    ("model.hidden", lambda v: all(width >= 1 for width in v), "widths of at least 1"),
    (
        "model.multipliers",
        lambda v: len(v) > 0 and all(factor >= 1 for factor in v),
        "one number of at least 1 for each resolution",
    ),
    (
        "latent.hidden",
        lambda v: len(v) > 0 and all(width >= 1 for width in v),
        "one width of at least 1, or several",
    ),
    (
        "latent.dims",
        lambda v: len(v) > 0 and all(size >= 1 for size in v),
        "one size of at least 1 for each layer",
    ),
    *(
        (
            name,
            lambda v: len(v) > 0 and all(size >= 1 for size in v),
            "one number of at least 1 for each resolution",
        )
        for name in ("latent.sides", "latent.layers")
    ),
    ("latent.num-categories", lambda v: v >= 2, "at least 2"),
    ("flow.num-bins", lambda v: 2 <= v <= 500, "from 2 to 500"),
    ("diffusion.eta", lambda v: 0 <= v <= 1, "from 0 to 1"),
    ("diffusion.gamma-min", lambda v: -30 <= v <= 30, "from -30 to 30"),
    ("diffusion.gamma-max", lambda v: -30 <= v <= 30, "from -30 to 30"),
)

_FAMILIES = {
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
_IN_CLOSED_FORM = ("pathwise", "straight-through")
"""Gradients of the bound as its terms give it."""
_FIXED = ("linear", "cosine", "sigmoid", "ddpm")
_WITH_INTERIOR = ("polynomial", "monotone")


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
            _FAMILIES[config.data.observation],
            f"data.observation {config.data.observation!r}",
        )
    for holds, message in (*_ANY, *_COMBINATIONS.get(config.model.family, ())):
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
    on_weights = spec.name == "iwae" or spec.gradient not in _IN_CLOSED_FORM
    if on_weights and config.model.dropout:
        raise UserError(
            f"model.dropout must be 0 with objective.name {spec.name!r} and gradient "
            f"{spec.gradient!r}: their draws share one encoding; got "
            f"{config.model.dropout}"
        )


Combination = tuple[Callable[[Config], bool], str]
_COMPLETE: Combination = (
    lambda c: c.data.missing == "none",
    "data.missing must be 'none' but for model.family 'vae'",
)
_LEVELS_OR_REALS: Combination = (
    lambda c: c.data.observation in ("levels", "density"),
    "data.observation must be levels or density for model.family 'diffusion' and "
    "'flow'; use levels, or a vae",
)
_ANY: tuple[Combination, ...] = (
    (
        lambda c: (
            c.model.family in ("vae", "hvae")
            or not (c.objective.kl_warmup_steps or c.objective.free_nats)
        ),
        "objective.kl-warmup-steps and free-nats are for model.family 'vae' and 'hvae'",
    ),
    (
        lambda c: (
            c.model.family in ("vae", "hvae")
            or (c.latent.posterior == "diagonal" and c.latent.prior == "standard")
        ),
        "latent.posterior and latent.prior are for model.family 'vae' and 'hvae'",
    ),
    (
        lambda c: (c.flow.target == "none") == (c.data.name != "nothing"),
        "flow.target banana or ring and data.name nothing go together: give both",
    ),
    (
        lambda c: c.flow.target == "none" or c.model.family == "flow",
        "flow.target and data.name 'nothing' are for model.family 'flow'",
    ),
)
_AUTOREGRESSIVE: tuple[Combination, ...] = (
    _COMPLETE,
    (
        lambda c: c.model.likelihood != "discretized_logistic_mixture",
        "model.likelihood 'discretized_logistic_mixture' is for VAEs: it is of pixels, "
        "not of single numbers; use discretized_logistic",
    ),
    (
        lambda c: c.data.observation != "grey-bernoulli",
        "data.observation must be levels, binary or density for model.family "
        "'autoregressive': it would read grey values where it must read bits",
    ),
)
_FLOW: tuple[Combination, ...] = (
    _COMPLETE,
    _LEVELS_OR_REALS,
    (
        lambda c: c.data.observation == "density" or c.flow.transform == "standardize",
        "flow.transform must be standardize for data.observation 'levels': their logit "
        "is taken anyway",
    ),
    (
        lambda c: c.data.observation == "levels" or c.flow.noise == "uniform",
        "flow.noise 'variational' needs data.observation 'levels': reals have no noise",
    ),
    (
        lambda c: (
            c.objective.name == "elbo"
            or (
                c.model.architecture == "continuous" and c.data.observation == "density"
            )
        ),
        "objective.name 'flow-matching' needs model.architecture 'continuous' and "
        "data.observation 'density'",
    ),
    (
        lambda c: (
            c.flow.target == "none"
            or (c.objective.name == "elbo" and not c.model.conditional)
        ),
        "flow.target needs objective.name 'elbo' and no model.conditional: there are "
        "no data",
    ),
    (
        lambda c: (
            c.flow.target == "none"
            or (c.flow.transform == "standardize" and not c.model.dropout)
        ),
        "flow.target needs flow.transform 'standardize', which reaches all of the "
        "plane, and model.dropout 0",
    ),
    (
        lambda c: c.objective.num_samples == 1 or c.objective.name == "elbo",
        "objective.num-samples must be 1 for objective.name 'flow-matching'",
    ),
    (
        lambda c: (
            c.model.architecture != "glow"
            or (not c.model.dropout and len(c.model.hidden) == 1)
        ),
        "model.architecture 'glow' has one width, model.hidden, and model.dropout 0",
    ),
    (
        lambda c: len(c.model.hidden) > 0,
        "model.hidden must name at least one width for model.family 'flow'; give 128, "
        "say",
    ),
)
_SCORE = ("score-function", "vimco", "straight-through")
_VAE: tuple[Combination, ...] = (
    (
        lambda c: (
            c.latent.posterior != "categorical"
            or (c.objective.gradient in _SCORE and c.latent.prior == "standard")
        ),
        "latent.posterior 'categorical' needs latent.prior 'standard' and "
        "objective.gradient score-function, vimco or straight-through: categories are "
        "not reparameterised",
    ),
    (
        lambda c: (
            c.latent.posterior == "categorical"
            or c.objective.gradient != "straight-through"
        ),
        "objective.gradient 'straight-through' needs latent.posterior 'categorical'; "
        "use pathwise",
    ),
    (
        lambda c: (
            c.latent.prior != "vamp"
            or (c.latent.posterior == "diagonal" and not c.model.conditional)
        ),
        "latent.prior 'vamp' needs latent.posterior 'diagonal' and no "
        "model.conditional: its components are q(z | u) of inputs alone",
    ),
    (
        lambda c: c.latent.posterior != "spline" or c.model.latent_dim > 1,
        "latent.posterior 'spline' needs model.latent-dim of at least 2; use iaf",
    ),
    (
        lambda c: c.latent.prior != "flow" or c.model.latent_dim > 1,
        "latent.prior 'flow' needs model.latent-dim of at least 2; use mixture",
    ),
    (
        lambda c: (
            (c.objective.name == "elbo" and c.objective.gradient in _IN_CLOSED_FORM)
            or not (c.objective.kl_warmup_steps or c.objective.free_nats)
        ),
        "objective.kl-warmup-steps and free-nats need objective.name 'elbo' and "
        "gradient 'pathwise': elsewhere the divergences do not stand apart",
    ),
)
_HVAE: tuple[Combination, ...] = (
    (
        lambda c: c.latent.posterior in ("diagonal", "full"),
        "latent.posterior must be diagonal or full for model.family 'hvae'",
    ),
    (
        lambda c: c.latent.prior != "vamp",
        "latent.prior 'vamp' needs model.family 'vae': it encodes data, and the top "
        "layer does not read them",
    ),
    (
        lambda c: c.latent.prior != "flow" or c.latent.dims[-1] > 1,
        "latent.prior 'flow' needs a last size of latent.dims of at least 2",
    ),
    *_VAE[-1:],
    (
        lambda c: len(c.latent.sides) == len(c.latent.layers),
        "latent.sides and latent.layers must be as many: one of each a resolution",
    ),
    (
        lambda c: c.model.architecture != "ladder" or len(c.model.hidden) == 1,
        "model.hidden must be one width for model.architecture 'ladder'; give 32, say",
    ),
    (
        lambda c: (
            c.model.architecture != "ladder"
            or (c.latent.prior == "standard" and c.latent.posterior == "diagonal")
        ),
        "latent.prior must be standard and latent.posterior diagonal for "
        "model.architecture 'ladder': each layer learns its own",
    ),
    (
        lambda c: c.model.architecture != "ladder" or c.data.missing == "none",
        "data.missing must be 'none' for model.architecture 'ladder'; use markov",
    ),
    (
        lambda c: c.model.architecture != "markov" or not c.objective.free_nats,
        "objective.free-nats must be 0 for model.architecture 'markov': its layers' "
        "terms are signed, no divergences; use kl-warmup-steps",
    ),
)
_DIFFUSION: tuple[Combination, ...] = (
    _LEVELS_OR_REALS,
    _COMPLETE,
    (
        lambda c: c.diffusion.gamma_min < c.diffusion.gamma_max,
        "diffusion.gamma-min must be less than diffusion.gamma-max; swap them",
    ),
    (
        lambda c: (
            c.diffusion.head != "eps"
            or c.diffusion.schedule == "ddpm"
            or c.diffusion.gamma_max < 20
        ),
        "diffusion.gamma-max must be less than 20 with diffusion.head 'eps': noise "
        "says nothing of x where no signal is left; use head v, x or categorical",
    ),
    (
        lambda c: (
            c.model.architecture != "mlp"
            or (len(set(c.model.hidden)) == 1 and min(c.model.hidden) > 1)
        ),
        "model.hidden must be one width above 1, once for each residual block, for "
        "model.family 'diffusion'; give 256 256, say",
    ),
    (
        lambda c: all(0 <= n < len(c.model.multipliers) for n in c.model.attention),
        "model.attention must name resolutions, from 0 to one less than there are "
        "model.multipliers",
    ),
    (
        lambda c: c.diffusion.degree == 0 or c.diffusion.head == "categorical",
        "diffusion.degree must be 0 without diffusion.head 'categorical'",
    ),
    (
        lambda c: (
            c.objective.num_samples == 1
            or (c.objective.name == "elbo" and c.objective.gradient == "pathwise")
        ),
        "objective.num-samples must be 1 for objective.name 'weighted' and for "
        "objective.gradient 'least-variance'",
    ),
    (
        lambda c: c.objective.name != "weighted" or c.diffusion.schedule in _FIXED,
        "diffusion.schedule must be a fixed one for objective.name 'weighted': a "
        "weighted error is no bound to learn it by; use linear or cosine, say",
    ),
    (
        lambda c: (
            c.objective.gradient != "least-variance"
            or (
                c.diffusion.schedule in _WITH_INTERIOR
                and not c.diffusion.train_num_steps
            )
        ),
        "objective.gradient 'least-variance' needs diffusion.schedule polynomial or "
        "monotone and diffusion.train-num-steps 0: the bound of T steps depends on the "
        "interior",
    ),
)
_COMBINATIONS = {
    "vae": _VAE,
    "hvae": _HVAE,
    "diffusion": _DIFFUSION,
    "flow": _FLOW,
    "autoregressive": _AUTOREGRESSIVE,
}
