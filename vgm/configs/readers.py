"""Which fields a configuration reads: a flag that changes nothing is refused."""

from typing import Any, get_args

from vgm.configs.plain import flatten, to_dict
from vgm.configs.presets import PRESETS
from vgm.configs.schema import Architecture, Config
from vgm.errors import UserError

Where = dict[str, tuple[str, ...]]

_FAMILY, _NETWORKS = "model.family", "model.architecture"
_PRIOR, _POSTERIOR = "latent.prior", "latent.posterior"
_LATENTS: Where = {_FAMILY: ("vae", "hvae")}
_MASSES: Where = {_FAMILY: ("vae", "hvae", "autoregressive")}
_FLOW: Where = {_FAMILY: ("flow",)}
_DIFFUSION: Where = {_FAMILY: ("diffusion",)}
_LADDER: Where = {_NETWORKS: ("ladder",)}
_SPLINES: Where = {
    _NETWORKS: ("nsf-coupling", "nsf-autoregressive"),
    _POSTERIOR: ("spline",),
    _PRIOR: ("flow",),
    "flow.noise": ("variational",),
}
_UNETS = ("vdm-unet", "ddpm-unet")
_STEPS = ("realnvp", "glow", "nsf-coupling", "nsf-autoregressive", "maf")
_WITH_ENDS = ("linear", "cosine", "sigmoid", "learned-linear", "polynomial", "monotone")


def _all_but(*architectures: str) -> tuple[str, ...]:
    return tuple(name for name in get_args(Architecture) if name not in architectures)


READERS: tuple[tuple[str, Where], ...] = (
    ("data.binarization", {"data.observation": ("binary",)}),
    ("model.precision", _DIFFUSION),
    ("model.fourier", _DIFFUSION),
    ("model.hidden", {_NETWORKS: _all_but(*_UNETS)}),
    ("model.channels", {_NETWORKS: ("conv", "ladder", *_UNETS)}),
    ("model.num-blocks", {_NETWORKS: ("ladder", *_UNETS)}),
    ("model.multipliers", {_NETWORKS: ("ddpm-unet",)}),
    ("model.attention", {_NETWORKS: ("ddpm-unet",)}),
    ("model.activation", {_FAMILY: ("vae", "hvae", "flow", "autoregressive")}),
    ("model.activation", {_NETWORKS: _all_but("glow")}),
    ("model.kernel-init", _LATENTS),
    ("model.kernel-init", {_NETWORKS: ("mlp", "markov")}),
    ("model.likelihood", _MASSES),
    ("model.num-mixtures", {"model.likelihood": ("discretized_logistic_mixture",)}),
    ("model.latent-dim", _LATENTS),
    ("model.latent-dim", {_NETWORKS: ("mlp", "conv", "ladder")}),
    ("latent.", _LATENTS),
    ("latent.num-components", {_PRIOR: ("mixture", "vamp")}),
    ("latent.num-categories", {_POSTERIOR: ("categorical",)}),
    ("latent.temperature", {"objective.gradient": ("straight-through",)}),
    ("latent.num-layers", {_POSTERIOR: ("iaf", "spline"), _PRIOR: ("flow",)}),
    (
        "latent.hidden",
        {
            _NETWORKS: ("markov",),
            _POSTERIOR: ("iaf", "spline"),
            _PRIOR: ("flow", "autoregressive"),
        },
    ),
    ("latent.dims", {_NETWORKS: ("markov",)}),
    ("latent.sides", _LADDER),
    ("latent.layers", _LADDER),
    ("diffusion.", _DIFFUSION),
    ("diffusion.gamma-", {"diffusion.schedule": _WITH_ENDS}),
    ("flow.num-layers", {_NETWORKS: _STEPS}),
    ("flow.num-levels", {_NETWORKS: ("glow",)}),
    ("flow.num-bins", _SPLINES),
    ("flow.tail-bound", _SPLINES),
    ("flow.transform", _FLOW),
    ("flow.noise", _FLOW),
    ("flow.target", _FLOW),
    ("objective.weighting", {"objective.name": ("weighted",)}),
)
"""Beginnings of names, and values of other fields of which one must be there."""


def require_read(config: Config, *, before: Config | None = None) -> None:
    """Refuse what was set and changes nothing.

    What its preset says, and the defaults, are not asked about: with another
    architecture, say, they need not be read.

    Args:
        config: Configuration.
        before: One that it was made from, whose values are not asked about either.

    Raises:
        UserError: Naming the first such field, and what would read it.
    """
    values = dict(flatten(to_dict(config)))
    _, preset = PRESETS.get(config.preset, ("", Config(preset="")))
    bases = (preset, Config(preset=""), before or preset)
    given = [dict(flatten(to_dict(base))) for base in bases]
    for start, where in READERS:
        for name, value in values.items():
            is_set = name.startswith(start) and all(value != own[name] for own in given)
            if is_set and not any(values[field] in where[field] for field in where):
                raise UserError(_message(name, where, values))


def _message(name: str, where: Where, values: dict[str, Any]) -> str:
    readers = ", or ".join(f"{field} {' or '.join(where[field])}" for field in where)
    found = ", ".join(f"{field} {values[field]!r}" for field in where)
    return f"{name} is for {readers} alone; with {found} nothing reads it"
