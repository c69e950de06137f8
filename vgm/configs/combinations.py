"""What goes with what in a configuration: conditions, each with its message."""

from collections.abc import Callable

from vgm.configs.schema import Config

IN_CLOSED_FORM = ("pathwise", "straight-through")
"""Gradients of the bound as its terms give it."""
_FIXED = ("linear", "cosine", "sigmoid", "ddpm")
_WITH_INTERIOR = ("polynomial", "monotone")

Combination = tuple[Callable[[Config], bool], str]
_COMPLETE: Combination = (
    lambda c: c.data.missing == "none",
    "data.missing must be 'none' but for model.family 'vae' and a Markov 'hvae'",
)
_LEVELS_OR_REALS: Combination = (
    lambda c: c.data.observation in ("levels", "density"),
    "data.observation must be levels or density for model.family 'diffusion' and "
    "'flow'; use levels, or a vae",
)
ANY: tuple[Combination, ...] = (
    (
        lambda c: (
            c.model.family in ("vae", "hvae")
            or not (c.objective.kl_warmup_steps or c.objective.free_nats)
        ),
        "objective.kl-warmup-steps and free-nats are for model.family 'vae' and 'hvae'",
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
_FOR_CATEGORIES = ("score-function", "vimco", "straight-through")
_VAE: tuple[Combination, ...] = (
    (
        lambda c: (
            c.latent.posterior != "categorical"
            or (
                c.objective.gradient in _FOR_CATEGORIES and c.latent.prior == "standard"
            )
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
            (c.objective.name == "elbo" and c.objective.gradient in IN_CLOSED_FORM)
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
        lambda c: (
            c.model.architecture != "ladder"
            or len(c.latent.sides) == len(c.latent.layers)
        ),
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
    (
        lambda c: (
            c.objective.gradient != "pathwise"
            or c.diffusion.schedule not in _WITH_INTERIOR
            or c.diffusion.train_num_steps > 0
        ),
        "objective.gradient must be 'least-variance' for diffusion.schedule polynomial "
        "or monotone in continuous time, whose bound does not depend on the interior; "
        "or give diffusion.train-num-steps",
    ),
)
COMBINATIONS = {
    "vae": _VAE,
    "hvae": _HVAE,
    "diffusion": _DIFFUSION,
    "flow": _FLOW,
    "autoregressive": _AUTOREGRESSIVE,
}
