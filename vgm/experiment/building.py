"""From a configuration and the form of its data to a model."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp

from vgm import configs, models, oracles
from vgm.errors import UserError
from vgm.experiment import latents
from vgm.models import GenerativeModel, flow_parts, flows

NOISE_LAYERS = 4
"""Couplings of variational dequantisation, as the help of ``flow.noise`` says."""


class DataForm(NamedTuple):
    """What a model must know of its data.

    Attributes:
        event_shape: Shape of one example.
        levels: Number of integer levels; 0 for reals.
        num_classes: Number of labels; 0 without.
        test_digest: Hash of the test examples as they are stored, in any order.
        train_digest: Hash of the training examples, in their order.
        validation_digest: Hash of the validation examples, in theirs.
        labels_digest: Hash of the test examples with their labels, in any order, for a
            conditional model.
    """

    event_shape: tuple[int, ...]
    levels: int
    num_classes: int
    test_digest: str
    train_digest: str = ""
    validation_digest: str = ""
    labels_digest: str = ""


def build_model(config: configs.Config, form: DataForm) -> GenerativeModel:
    """The model of a configuration.

    Args:
        config: Configuration.
        form: Form of its data.

    Returns:
        The model.

    Raises:
        UserError: If it cannot be built for these data.
    """
    spec = config.model
    if spec.conditional and not form.num_classes:
        raise UserError(
            f"model.conditional needs labels, and data.name {config.data.name!r} has "
            "none; drop the flag or use labelled data"
        )
    build = {
        "vae": _build_vae,
        "hvae": _build_hvae,
        "diffusion": _build_diffusion,
        "flow": _build_flow,
        "autoregressive": _build_autoregressive,
    }
    return build[spec.family](config, form)


def _build_vae(config: configs.Config, form: DataForm) -> GenerativeModel:
    spec = config.model
    shared = _vae_settings(config, form, spec.latent_dim)
    shared["prior"] = latents.prior(config, spec.latent_dim)
    if spec.architecture == "conv":
        return models.vae.conv(channels=spec.channels, **shared)
    return models.vae.mlp(kernel_init=spec.kernel_init, **shared)


def _build_hvae(config: configs.Config, form: DataForm) -> GenerativeModel:
    spec, dims = config.model, config.latent.dims
    if spec.architecture == "ladder":
        return models.hierarchical_vae.ladder(
            event_shape=form.event_shape,
            sides=config.latent.sides,
            layers=config.latent.layers,
            channels=spec.channels,
            hidden=spec.hidden[0],
            latent_dim=spec.latent_dim,
            num_blocks=spec.num_blocks,
            likelihood=spec.likelihood,
            levels=form.levels,
            num_mixtures=spec.num_mixtures,
            num_classes=_num_classes(config, form),
            activation=configs.activation(spec),
            dropout=spec.dropout,
        )
    shared = _vae_settings(config, form, dims[0])
    return models.hierarchical_vae.markov(
        models.vae.mlp(kernel_init=spec.kernel_init, **shared),
        latent_dims=dims,
        hidden=config.latent.hidden,
        prior=latents.prior(config, dims[-1]),
        activation=configs.activation(spec),
        kernel_init=spec.kernel_init,
    )


def _vae_settings(
    config: configs.Config, form: DataForm, latent_dim: int
) -> dict[str, Any]:
    spec = config.model
    return {
        "event_shape": form.event_shape,
        "latent_dim": latent_dim,
        "hidden": spec.hidden,
        "likelihood": spec.likelihood,
        "levels": form.levels,
        "num_mixtures": spec.num_mixtures,
        "num_classes": _num_classes(config, form),
        "activation": configs.activation(spec),
        "dropout": spec.dropout,
        "missing": config.data.missing != "none",
        "posterior": latents.posterior(config, latent_dim),
    }


def _build_diffusion(config: configs.Config, form: DataForm) -> GenerativeModel:
    spec, chain = config.model, config.diffusion
    head = models.heads.head(chain.head, levels=form.levels, degree=chain.degree)
    shared: dict[str, Any] = {
        "num_outputs": head.num_outputs,
        "dropout": spec.dropout,
        "exponents": spec.fourier,
        "dtype": jnp.dtype(spec.precision),
    }
    if spec.architecture == "mlp":
        width = spec.hidden[0]
        network = models.denoisers.MLPDenoiser(width, len(spec.hidden), **shared)
    elif spec.architecture == "vdm-unet":
        models.unets.require_halvings(form.event_shape, 0)
        network = models.unets.VDMUNet(spec.channels, spec.num_blocks, **shared)
    else:
        num_halvings = len(spec.multipliers) - 1
        models.unets.require_halvings(form.event_shape, num_halvings)
        network = models.unets.DDPMUNet(
            spec.channels,
            spec.multipliers,
            spec.num_blocks,
            spec.attention,
            **shared,
        )
    return models.diffusion.Diffusion(
        network,
        head,
        models.heads.decoder(chain.decoder, head, levels=form.levels),
        models.noise.schedule(chain.schedule, chain.gamma_min, chain.gamma_max),
        event_shape=form.event_shape,
        num_steps=chain.num_steps,
        train_num_steps=chain.train_num_steps,
        num_times=chain.num_times,
        chunk_size=chain.chunk_size,
        eta=chain.eta,
        num_classes=_num_classes(config, form),
    )


def _build_flow(config: configs.Config, form: DataForm) -> GenerativeModel:
    spec, settings = config.model, config.flow
    step = flow_parts.Step(
        spec.hidden,
        configs.activation(spec),
        spec.dropout,
        settings.num_bins,
        settings.tail_bound,
    )
    builders = {
        "realnvp": flows.realnvp,
        "nsf-coupling": flows.neural_spline_coupling,
        "nsf-autoregressive": flows.neural_spline_autoregressive,
        "maf": flows.maf,
        "continuous": flows.continuous,
        "glow": functools.partial(flows.glow, num_levels=settings.num_levels),
    }
    noise = None
    if settings.noise == "variational":
        noise = flows.variational_noise(form.event_shape, step, NOISE_LAYERS)
    target = None
    if settings.target != "none":
        target = oracles.targets.TARGETS[settings.target]()
    shape = form.event_shape if target is None else (2,)
    flow = flows.flow(
        builders[spec.architecture](shape, step, settings.num_layers),
        event_shape=shape,
        transform=settings.transform,
        levels=form.levels,
        noise=noise,
        num_classes=_num_classes(config, form),
    )
    return flow if target is None else models.target.TargetFlow(flow, target)


def _build_autoregressive(config: configs.Config, form: DataForm) -> GenerativeModel:
    spec = config.model
    family = models.likelihoods.likelihood(spec.likelihood, levels=form.levels)
    network = models.made.MADE(
        spec.hidden,
        family.num_outputs,
        configs.activation(spec),
        spec.dropout,
        use_output_bias=False,
    )
    return models.autoregressive.Autoregressive(
        network, family, form.event_shape, _num_classes(config, form)
    )


def _num_classes(config: configs.Config, form: DataForm) -> int:
    return form.num_classes if config.model.conditional else 0
