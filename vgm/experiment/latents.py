"""From a configuration to the prior and posterior of a VAE's latents."""

from vgm import bijections, configs, models
from vgm.bijections import linear
from vgm.models import flow_parts, flows, layers, posteriors, priors
from vgm.models.layers import Layer
from vgm.models.posteriors import Posterior
from vgm.models.priors import Prior


def posterior(config: configs.Config, latent_dim: int) -> Posterior:
    """The family of q(z | x).

    Args:
        config: Configuration.
        latent_dim: Size of z, or number of categorical latents.

    Returns:
        The family.
    """
    spec = config.latent
    if spec.posterior == "full":
        return posteriors.full(latent_dim)
    if spec.posterior == "categorical":
        return posteriors.categorical(
            latent_dim, spec.num_categories, temperature=spec.temperature
        )
    if spec.posterior == "diagonal":
        return posteriors.diagonal(latent_dim)
    return posteriors.flow(latent_dim, _flow(config, latent_dim), spec.hidden[0])


def prior(config: configs.Config, latent_dim: int) -> Prior | None:
    """The family of p(z).

    Args:
        config: Configuration.
        latent_dim: Size of z, or number of categorical latents.

    Returns:
        The family; None for the standard one of the posterior.
    """
    spec = config.latent
    if spec.prior == "standard":
        return None
    if spec.prior == "mixture":
        return priors.mixture(latent_dim, spec.num_components)
    if spec.prior == "vamp":
        return priors.vamp(spec.num_components)
    if spec.prior == "flow":
        steps = flows.neural_spline_coupling(
            (latent_dim,), _step(config), spec.num_layers
        )
        nothing = layers.fixed(bijections.IDENTITY)
        model = models.flow.Flow(nothing, steps, (latent_dim,))
    else:
        family = models.likelihoods.likelihood("normal")
        network = models.made.MADE(
            spec.hidden, family.num_outputs, configs.activation(config.model)
        )
        model = models.autoregressive.Autoregressive(network, family, (latent_dim,))
    return priors.exact(model, latent_dim)


def _flow(config: configs.Config, latent_dim: int) -> Layer:
    """Noise to z, by steps of which each reads the encoder's features."""
    step = _step(config)
    if config.latent.posterior == "iaf":
        part = flow_parts.autoregressive(step, "affine")
    else:
        part = flow_parts.coupling((latent_dim,), step, "spline")
    parts = layers.chain(part, layers.fixed(linear.reverse()))
    return layers.repeat(parts, config.latent.num_layers)


def _step(config: configs.Config) -> flow_parts.Step:
    settings = config.flow
    return flow_parts.Step(
        config.latent.hidden,
        configs.activation(config.model),
        num_bins=settings.num_bins,
        tail_bound=settings.tail_bound,
    )
