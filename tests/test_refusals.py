"""Every range of a setting at its edges, every combination that cannot be, once."""

import numpy as np
import pytest
from small import changed

from vgm import configs
from vgm.configs import checks, combinations
from vgm.errors import UserError

INT = 2**31 - 1
JUST_BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))
TINY, LARGE = 1e-30, 1e30

# The least and the greatest value of each number, and what lies beyond.
COUNTS = (
    "model.latent-dim",
    "model.channels",
    "model.num-blocks",
    "model.num-mixtures",
    "latent.num-components",
    "latent.num-layers",
    "diffusion.num-steps",
    "diffusion.chunk-size",
    "flow.num-layers",
    "flow.num-levels",
    "objective.num-samples",
    "train.num-steps",
    "train.batch-size",
    "train.eval-every",
    "evaluation.num-importance-samples",
    "evaluation.num-elbo-samples",
    "evaluation.batch-size",
    "evaluation.chunk-size",
)
OR_NONE = (
    "data.num-validation",
    "train.patience",
    "diffusion.train-num-steps",
    "diffusion.num-times",
    "diffusion.degree",
    "optimizer.warmup-steps",
    "objective.kl-warmup-steps",
)
SHARES = ("model.dropout", "optimizer.b1", "optimizer.b2", "optimizer.ema-decay")
POSITIVE = (
    "optimizer.learning-rate",
    "optimizer.eps",
    "flow.tail-bound",
    "latent.temperature",
)
NORMS = (
    "optimizer.weight-decay",
    "optimizer.clip-norm",
    "optimizer.skip-norm",
    "objective.free-nats",
)
NOT_SIZES = [(), (0,), (2, -1)]
RANGES = {
    **{name: ([1, INT], [0, -1, 2**31]) for name in COUNTS},
    **{name: ([0, INT], [-1, 2**31]) for name in OR_NONE},
    **{name: ([0.0, 1e9], [-1.0, np.inf, np.nan]) for name in NORMS},
    # 1 - 1e-9 is 1 in float32, 1e-300 is 0 there.
    **{
        name: ([0.0, JUST_BELOW_ONE], [-1e-9, 1 - 1e-9, 1.0, np.nan]) for name in SHARES
    },
    **{name: ([TINY, LARGE], [0.0, -1.0, 1e-300, 1e300, np.nan]) for name in POSITIVE},
    "seed": ([0, 2**32 - 1], [-1, 2**32]),
    "model.hidden": ([(), (1,), (5, 3)], [(0,), (3, -1)]),
    "model.multipliers": ([(1,), (1, 2)], NOT_SIZES),
    "latent.hidden": ([(1,), (5, 3)], NOT_SIZES),
    "latent.dims": ([(1,), (5, 3)], NOT_SIZES),
    "latent.sides": ([(1,), (1, 7)], NOT_SIZES),
    "latent.layers": ([(1,), (2, 6)], NOT_SIZES),
    "latent.num-categories": ([2], [1]),
    "flow.num-bins": ([2, 500], [1, 501]),
    "diffusion.eta": ([0.0, 1.0], [-1e-9, 1 + 1e-9, np.nan]),
    "diffusion.gamma-min": ([-30.0, 30.0], [-30.1, 30.1, np.nan]),
    "diffusion.gamma-max": ([-30.0, 30.0], [-30.1, 30.1, np.nan]),
}


def test_every_checked_setting_has_its_edges():
    assert RANGES.keys() == {name for name, _, _ in checks._CHECKS}


@pytest.mark.parametrize("name", RANGES)
def test_settings_are_accepted_to_their_edges_and_no_further(name):
    accepted, refused = RANGES[name]
    rules = [accepts for other, accepts, _ in checks._CHECKS if other == name]
    for value in accepted:
        assert all(accepts(value) for accepts in rules), value
    for value in refused:
        field = name.replace("-", "_")
        with pytest.raises(UserError, match=f"^{name} must be .*; got "):
            configs.validate(changed("vae-digits", {field: value}))


LINEAR = {"diffusion.schedule": "linear", "diffusion.head": "eps"}
MONOTONE = {"diffusion.schedule": "monotone"}
LEAST = {"objective.gradient": "least-variance"}
UNET = {"model.architecture": "ddpm-unet", "model.multipliers": (1, 2)}
GLOW = {"model.architecture": "glow"}
CATEGORICAL = {"latent.posterior": "categorical"}
REFUSED = {
    "flow.target banana or ring and": ("flow-2d", {"flow.target": "ring"}),
    "flow.target and data.name": (
        "vae-digits",
        {"flow.target": "ring", "data.name": "nothing"},
    ),
    "objective.kl-warmup-steps and free-nats are": (
        "vdm-digits",
        {"objective.free_nats": 1.0},
    ),
    "data.missing must be 'none' but": ("flow-2d", {"data.missing": "nan"}),
    "data.observation must be levels or density": (
        "vdm-digits",
        {"data.observation": "binary"},
    ),
    "model.likelihood 'discretized_logistic_mixture' is for VAEs": (
        "made-mnist",
        {
            "data.observation": "levels",
            "model.likelihood": "discretized_logistic_mixture",
        },
    ),
    "data.observation must be levels, binary or density": (
        "made-mnist",
        {"data.observation": "grey-bernoulli"},
    ),
    "flow.transform must be standardize": (
        "maf-digits",
        {"flow.transform": "logit"},
    ),
    "flow.noise 'variational' needs": ("flow-2d", {"flow.noise": "variational"}),
    "objective.name 'flow-matching' needs": (
        "flow-2d",
        {"objective.name": "flow-matching"},
    ),
    "flow.target needs objective.name": (
        "flow-target-2d",
        {"model.conditional": True},
    ),
    "flow.target needs flow.transform": ("flow-target-2d", {"model.dropout": 0.1}),
    "objective.num-samples must be 1 for objective.name 'flow-matching'": (
        "cnf-2d",
        {"objective.num_samples": 2},
    ),
    "model.architecture 'glow' has one width": (
        "glow-mnist",
        {"model.hidden": (8, 8)},
    ),
    "model.hidden must name at least one width": ("flow-2d", {"model.hidden": ()}),
    "latent.posterior 'categorical' needs": ("vae-digits", CATEGORICAL),
    "objective.gradient 'straight-through' needs": (
        "vae-digits",
        {"objective.gradient": "straight-through"},
    ),
    "latent.prior 'vamp' needs latent.posterior": (
        "vae-digits",
        {"latent.prior": "vamp", "model.conditional": True},
    ),
    "latent.posterior 'spline' needs": (
        "vae-digits",
        {"latent.posterior": "spline", "model.latent_dim": 1},
    ),
    "latent.prior 'flow' needs model.latent-dim of at least 2; use mixture": (
        "vae-digits",
        {"latent.prior": "flow", "model.latent_dim": 1},
    ),
    "objective.kl-warmup-steps and free-nats need": (
        "vae-digits",
        {
            "objective.name": "iwae",
            "objective.free_nats": 1.0,
            "model.dropout": 0.0,
        },
    ),
    "latent.posterior must be diagonal or full": (
        "hvae-digits",
        {"latent.posterior": "iaf"},
    ),
    "latent.prior 'vamp' needs model.family 'vae'": (
        "hvae-digits",
        {"latent.prior": "vamp"},
    ),
    "latent.prior 'flow' needs a last size": (
        "hvae-digits",
        {"latent.prior": "flow", "latent.dims": (4, 1)},
    ),
    "latent.sides and latent.layers must be as many": (
        "ladder-mnist",
        {"latent.sides": (1, 7, 14), "latent.layers": (2, 6)},
    ),
    "model.hidden must be one width for": ("ladder-mnist", {"model.hidden": (8, 8)}),
    "latent.prior must be standard and": (
        "ladder-mnist",
        {"latent.prior": "mixture"},
    ),
    "data.missing must be 'none' for model.architecture 'ladder'": (
        "ladder-mnist",
        {
            "data.missing": "nan",
            "data.observation": "density",
            "model.likelihood": "normal",
        },
    ),
    "objective.free-nats must be 0": ("hvae-digits", {"objective.free_nats": 1.0}),
    "diffusion.gamma-min must be less": (
        "vdm-digits",
        {"diffusion.gamma_min": 3.0, "diffusion.gamma_max": 3.0},
    ),
    "diffusion.gamma-max must be less than 20": (
        "ddpm-digits",
        LINEAR | {"diffusion.gamma_max": 20.0},
    ),
    "model.hidden must be one width above 1": (
        "vdm-digits",
        {"model.hidden": (1, 1)},
    ),
    "model.attention must name": (
        "ddpm-digits",
        UNET | {"model.attention": (2,)},
    ),
    "diffusion.degree must be 0": ("vdm-digits", {"diffusion.head": "eps"}),
    "objective.num-samples must be 1 for objective.name 'weighted'": (
        "ddpm-digits",
        {"objective.num_samples": 2},
    ),
    "diffusion.schedule must be a fixed one": (
        "vdm-digits",
        MONOTONE | {"objective.name": "weighted"},
    ),
    "objective.gradient 'least-variance' needs": (
        "vdm-digits",
        MONOTONE | LEAST | {"diffusion.train_num_steps": 4},
    ),
    "objective.gradient must be 'least-variance'": (
        "vdm-digits",
        MONOTONE | {"diffusion.train_num_steps": 0},
    ),
    # What stands in validate itself.
    "model.architecture must be": ("vae-digits", GLOW),
    "data.missing 'nan' needs": ("vae-digits", {"data.missing": "nan"}),
    "model.likelihood must be": ("vae-digits", {"model.likelihood": "normal"}),
    "objective.name must be": ("vae-digits", {"objective.name": "weighted"}),
    "objective.gradient must be pathwise": ("flow-2d", LEAST),
    "objective.num-samples must be at least 2": (
        "vae-digits",
        {"objective.gradient": "score-function", "objective.num_samples": 1},
    ),
    "model.dropout must be 0 with": (
        "vae-digits",
        {"objective.name": "iwae", "model.dropout": 0.1},
    ),
}


def refusal(preset, values):
    with pytest.raises(UserError) as caught:
        configs.validate(changed(preset, values))
    return str(caught.value)


@pytest.mark.parametrize("said", REFUSED)
def test_a_combination_that_cannot_be_is_refused_by_its_message(said):
    """Before anything is built of it: there the message would be another's."""
    assert refusal(*REFUSED[said]).startswith(said)


def test_every_combination_has_its_refusal():
    """One that comes anew needs a row above, and so does its other half."""
    groups = [combinations.ANY, *combinations.COMBINATIONS.values()]
    messages = {message for group in groups for _, message in group}
    refused = {refusal(*case) for case in REFUSED.values()}
    assert messages <= refused
