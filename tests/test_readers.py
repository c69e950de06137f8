"""What a configuration reads, held against the programs that it makes."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import pytest

from vgm import configs
from vgm.configs.readers import READERS
from vgm.errors import UserError
from vgm.experiment import building, setup, stepping
from vgm.training.objective import Batch

OTHERS = {
    "data.binarization": "dynamic",
    "model.precision": "bfloat16",
    "model.fourier": (2, 3),
    "model.channels": 8,
    "model.num-blocks": 3,
    "model.multipliers": (1, 2),
    "model.attention": (0,),
    "model.activation": "tanh",
    "model.kernel-init": "glorot_uniform",
    "model.likelihood": "discretized_logistic",
    "model.num-mixtures": 3,
    "model.latent-dim": 3,
    "model.hidden": (24,),
    "model.dropout": 0.37,
    "latent.posterior": "full",
    "latent.prior": "mixture",
    "latent.num-components": 7,
    "latent.num-categories": 4,
    "latent.temperature": 0.3,
    "latent.num-layers": 3,
    "latent.hidden": (12,),
    "latent.dims": (5, 2),
    "latent.sides": (2, 4),
    "latent.layers": (2, 3),
    "diffusion.schedule": "cosine",
    "diffusion.gamma-min": -7.5,
    "diffusion.gamma-max": 4.5,
    "diffusion.head": "v",
    "diffusion.decoder": "discretized_normal",
    "diffusion.num-steps": 16,
    "diffusion.train-num-steps": 13,
    "diffusion.num-times": 5,
    "diffusion.chunk-size": 4,
    "diffusion.eta": 0.25,
    "flow.num-layers": 3,
    "flow.num-levels": 1,
    "flow.num-bins": 6,
    "flow.tail-bound": 3.25,
    "flow.transform": "log",
    "flow.noise": "variational",
    "flow.target": "ring",
    "objective.weighting": "x",
}
"""Of each field that some configurations read and others do not, another value."""

LEVELS = building.DataForm((8, 8, 1), 17, 0, "")
PLANE = building.DataForm((2,), 0, 0, "")
FORMS = {
    "vae-digits": LEVELS,
    "vae-digits conv": LEVELS,
    "vae-digits mixture": LEVELS,
    "vae-digits spline": LEVELS,
    "vae-digits vamp": LEVELS,
    "vae-categorical-mnist": building.DataForm((8, 8, 1), 2, 0, ""),
    "hvae-digits": LEVELS,
    "ladder-mnist": LEVELS,
    "vdm-digits": LEVELS,
    "vdm-digits vdm-unet": LEVELS,
    "ddpm-digits": LEVELS,
    "ddpm-digits ddpm-unet": LEVELS,
    "realnvp-digits": LEVELS,
    "nsf-digits": LEVELS,
    "glow-mnist": LEVELS,
    "made-mnist": building.DataForm((8, 8, 1), 2, 0, ""),
    "flow-2d": PLANE,
    "cnf-2d": PLANE,
}
CHANGES = {
    "conv": {"model.architecture": "conv"},
    "mixture": {"model.likelihood": "discretized_logistic_mixture"},
    "spline": {"latent.posterior": "spline"},
    "vamp": {"latent.prior": "vamp"},
    "vdm-unet": {
        "model.architecture": "vdm-unet",
        "model.channels": 4,
        "model.num-blocks": 1,
    },
    "ddpm-unet": {
        "model.architecture": "ddpm-unet",
        "model.channels": 4,
        "model.num-blocks": 1,
        "model.multipliers": (1,),
        "model.attention": (),
    },
}
BARE = configs.Config(preset="")
SMALL = {"ladder-mnist": {"latent.sides": (4, 8), "latent.layers": (1, 1)}}


def changed(config: configs.Config, values: dict) -> configs.Config:
    for flag, value in values.items():
        section, name = flag.replace("-", "_").split(".")
        part = dataclasses.replace(getattr(config, section), **{name: value})
        config = dataclasses.replace(config, **{section: part})
    return config


def changing(flag: str) -> str:
    """What a flag could change: the bound, its gradient alone, or the chain too."""
    if flag in ("objective.weighting", "latent.temperature"):
        return "gradient"
    return "chain" if flag.startswith("diffusion.") else "bound"


def program(config: configs.Config, form: building.DataForm, part: str) -> str:
    """The program of the initial parameters and the bound, the gradient or samples."""
    config = configs.resolved(config)
    model = building.build_model(config, form)
    x = jnp.zeros((4, *form.event_shape), "int32" if form.levels else "float32")
    observe = setup.observer(config, form)

    def everything(key):
        seen = observe(key, x)
        params = setup.init_params(key, model, Batch(x, None, jnp.ones(4)), observe)
        if part == "gradient":
            step = stepping.value_and_grad(config, model)
            return params, step(key, params, Batch(seen, None, jnp.ones(4)))
        bound = model.elbo_terms(key, params, seen, train=True)
        if part == "bound":
            return params, bound
        evaluated = model.elbo_terms(key, params, seen)
        return params, bound, evaluated, model.sample(key, params, 2)

    return str(jax.make_jaxpr(everything)(jax.random.key(0)))


def is_compared(config: configs.Config, flag: str) -> bool:
    """Of a section that the family does not see one flag is enough."""
    if flag.startswith("diffusion.") and config.model.family != "diffusion":
        return flag == "diffusion.num-steps"
    if flag.startswith("diffusion."):
        return config.model.architecture == "mlp"
    if flag.startswith("latent.") and config.model.family not in ("vae", "hvae"):
        return flag == "latent.hidden"
    return True


def is_refused(config: configs.Config) -> bool:
    try:
        configs.require_read(config)
    except UserError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("case", FORMS)
def test_what_is_refused_changes_nothing_and_what_is_not_does(case):
    preset, _, change = case.partition(" ")
    config = changed(configs.PRESETS[preset][1], SMALL.get(preset, {}))
    config = changed(config, CHANGES.get(change, {}))
    before: dict[str, str] = {}
    compared = 0
    for flag, value in OTHERS.items():
        if not is_compared(config, flag):
            continue
        other, part = changed(config, {flag: value}), changing(flag)
        try:
            configs.validate(other)
            after = program(other, FORMS[case], part)
        except UserError:
            continue  # refused for another reason
        if part not in before:
            before[part] = program(config, FORMS[case], part)
        # A refused flag changes nothing, and one that is not refused does.
        assert is_refused(other) == (after == before[part]), flag
        compared += 1
    assert compared > 8


def test_all_that_is_refused_somewhere_has_another_value():
    for start, where in READERS:
        assert any(flag.startswith(start) for flag in OTHERS), start
        for field, readers in where.items():
            section, name = field.split(".")
            kind = typing.get_type_hints(type(getattr(BARE, section)))[name]
            assert set(readers) <= set(typing.get_args(kind)), field


@pytest.mark.parametrize("preset", configs.PRESETS)
def test_presets_are_not_asked_what_they_read(preset):
    assert not is_refused(configs.PRESETS[preset][1])


def test_an_architecture_leaves_what_its_preset_says_unread():
    config = changed(configs.PRESETS["vdm-digits"][1], CHANGES["vdm-unet"])
    assert not is_refused(config)
    with pytest.raises(UserError, match=r"model\.multipliers .* 'vdm-unet' nothing"):
        configs.require_read(changed(config, {"model.multipliers": (1, 2)}))
    vae = configs.PRESETS["vae-digits"][1]
    message = (
        r"latent\.num-layers is for latent\.posterior iaf or spline, or "
        r"latent\.prior flow alone; with .*'diagonal', .*'standard' nothing reads it"
    )
    with pytest.raises(UserError, match=message):
        configs.require_read(changed(vae, {"latent.num-layers": 3}))
