"""Shapes that do not agree are refused: broadcasting would sum other numbers."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest

from vgm import divergences, models
from vgm.bijections import IDENTITY, transforms
from vgm.bijections.autoregressive import masked_autoregressive
from vgm.bijections.coupling import coupling
from vgm.bounds import (
    diffusion,
    elbo,
    flow,
    gradients,
    hierarchical,
    importance,
    sandwich,
    trajectories,
)
from vgm.densities import (
    bernoulli,
    categorical,
    discretized_logistic,
    discretized_logistic_mixture,
    discretized_normal,
    mixture,
    multivariate_normal,
    normal,
)
from vgm.errors import UserError
from vgm.evaluation import imputation, likelihood
from vgm.models import conditions, families, flows
from vgm.processes import gaussian, schedules
from vgm.samplers import diffusion as samplers
from vgm.training import objective
from vgm.types import Batch

KEY = jax.random.key(0)
A, B, V = jnp.zeros((2, 3)), jnp.zeros((3, 2)), jnp.zeros(3)
LEVELS = jnp.zeros((2, 3), jnp.int32)
CALLS = {
    "normal.log_prob": (normal.log_prob, (A, B, A)),
    "normal.sample": (normal.sample, (KEY, jnp.zeros(()), V)),
    "normal.reparameterize": (normal.reparameterize, (V, A, A)),
    "bernoulli.log_prob": (bernoulli.log_prob, (A, B)),
    "categorical.log_prob": (categorical.log_prob, (LEVELS, jnp.zeros((3, 2, 4)))),
    "multivariate_normal.log_prob": (
        multivariate_normal.log_prob,
        (jnp.zeros((3, 1)), V, jnp.eye(3)),
    ),
    "multivariate_normal.log_prob: cholesky": (
        multivariate_normal.log_prob,
        (V, V, jnp.eye(3)[:1]),
    ),
    "multivariate_normal.sample: cholesky": (
        multivariate_normal.sample,
        (KEY, V, jnp.eye(3)[:1]),
    ),
    "multivariate_normal.reparameterize": (
        multivariate_normal.reparameterize,
        (V[:1], V, jnp.eye(3)),
    ),
    "multivariate_normal.reparameterize: cholesky": (
        multivariate_normal.reparameterize,
        (V, V, jnp.eye(3)[:1]),
    ),
    "mixture.log_prob": (mixture.log_prob, (V, jnp.zeros(()))),
    "mixture.responsibilities": (mixture.responsibilities, (V, V[:1])),
    "gaussian.diffuse": (gaussian.diffuse, (V, V[:1], jnp.zeros(()))),
    "gaussian.posterior": (
        gaussian.posterior,
        (V[:1], V, jnp.zeros(()), jnp.ones(())),
    ),
    "kl_normal": (divergences.kl_normal, (A, A, B, A)),
    "kl_standard_normal": (divergences.kl_standard_normal, (V, jnp.zeros(()))),
    "kl_multivariate_normal": (
        divergences.kl_multivariate_normal,
        (V, jnp.eye(3), V[:1], jnp.eye(3)),
    ),
    "kl_multivariate_normal: p_cholesky": (
        divergences.kl_multivariate_normal,
        (V, jnp.eye(3), V, jnp.eye(3)[:1]),
    ),
    "kl_categorical": (divergences.kl_categorical, (A, jnp.zeros(3))),
    "kl_bernoulli": (divergences.kl_bernoulli, (A, B)),
    "importance.iwae": (importance.iwae, (A,)),
    "importance.naive": (importance.naive, (A,)),
    "importance.iwae: log_w": (importance.iwae, (V[:0],)),
    "importance.renyi": (importance.renyi, (A, jnp.zeros(()))),
    "importance.effective_sample_size": (importance.effective_sample_size, (A,)),
}


@pytest.mark.parametrize("name", CALLS)
def test_arguments_of_other_shapes_are_refused(name):
    """As in a program that does not check its types, which the tests' wrapper does."""
    function, arguments = CALLS[name]
    with pytest.raises(ValueError, match=f"^{re.escape(name)}.*; got|^{name}.* must"):
        inspect.unwrap(function)(*arguments)


@pytest.mark.parametrize("density", [discretized_logistic, discretized_normal])
def test_levels_of_one_noise_are_refused(density):
    name = density.__name__.rpartition(".")[2]
    with pytest.raises(ValueError, match=rf"{name}\.sample.*mean \(\)"):
        inspect.unwrap(density.sample)(KEY, jnp.zeros(()), V, levels=4)
    with pytest.raises(ValueError, match=rf"{name}\.log_prob.*x \(2, 3\), mean \(3, 2"):
        inspect.unwrap(density.log_prob)(LEVELS, B, A, levels=4)


def chain(predict=lambda z, gamma: z, log_likelihood=lambda z: jnp.sum(z)):
    return diffusion.Chain(
        schedules.linear(-5.0, 5.0),
        predict,
        gaussian.PARAMETERISATIONS["eps"],
        log_likelihood,
    )


WRONG = [
    (lambda z, gamma: z[:, None], r"chain\.predict must have shape \(2,\); got \(2, 1"),
    (lambda z, gamma: jnp.sum(z), r"chain\.predict must have shape \(2,\); got \(\)"),
]
FORMS = {
    "all steps": lambda c, n: diffusion.discrete_terms(KEY, V[:2], c, num_steps=n),
    "drawn steps": lambda c, n: diffusion.sampled_terms(
        KEY, V[:2], V[:1], c, num_steps=n
    ),
    "trajectory": lambda c, n: trajectories.log_weight(KEY, V[:2], c, num_steps=n),
    "consistency": lambda c, n: trajectories.consistency_terms(
        KEY, V[:2], c, num_steps=n
    ),
    "draws": lambda c, n: samplers.sample(
        KEY, V[:2], c, num_steps=n, step=samplers.ancestral_step
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_network_of_another_shape_is_refused(form):
    for predict, message in WRONG:
        with pytest.raises(ValueError, match=message):
            FORMS[form](chain(predict), 3)
    with pytest.raises(ValueError, match="num_steps must be at least 1; got 0"):
        FORMS[form](chain(), 0)


def test_a_likelihood_of_several_numbers_is_refused():
    for form in FORMS.keys() - {"draws"}:
        with pytest.raises(ValueError, match=r"log_likelihood\(z_0\) must have shape"):
            FORMS[form](chain(log_likelihood=lambda z: z), 3)
    unused = dict.fromkeys(families.Likelihood._fields)
    family = families.Likelihood(**{**unused, "log_prob": lambda x, outputs: x})
    with pytest.raises(ValueError, match=r"log_prob over a batch must .* got \(2, 3\)"):
        families.log_prob(family, A, jnp.zeros((2, 3, 1)))


COLOURS = jnp.zeros((2, 3, 3), jnp.int32)
ENDS = {"logits": (5,), "mean": (5, 3), "log_scale": (5, 3), "coupling": (5, 3)}


@pytest.mark.parametrize("name", ENDS)
def test_parameters_of_another_image_are_refused(name):
    module = discretized_logistic_mixture
    leaves = {field: jnp.zeros((2, 3, *end)) for field, end in ENDS.items()}
    leaves[name] = jnp.swapaxes(leaves[name], 0, 1)  # as many pixels
    parameters = module.Parameters(**leaves)
    message = rf"parameters\.{name} must have shape \(2, 3.*; got \(3, 2"
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(module.log_prob)(COLOURS, parameters, levels=4)
    # A draw has the shape of the logits.
    with pytest.raises(ValueError, match=r"parameters\.\w+ must have shape .*; got"):
        inspect.unwrap(module.sample)(KEY, parameters, levels=4)


def test_a_hierarchy_needs_one_divergence_of_its_top():
    first = hierarchical.Conditional(lambda key, x: x, lambda z, x: jnp.sum(z))
    with pytest.raises(ValueError, match=r"prior_matching.* shape \(\); got \(3,\)"):
        hierarchical.markov_terms(
            KEY, V, first, [], log_likelihood=jnp.sum, prior_matching=lambda x, z: z
        )


NO_DRAW = {
    "log ratio": lambda: elbo.from_log_ratio(
        KEY, lambda key: V, jnp.sum, jnp.sum, num_samples=0
    ),
    "entropy": lambda: elbo.from_entropy(
        KEY, lambda key: V, jnp.sum, jnp.zeros(()), num_samples=0
    ),
    "KL": lambda: elbo.from_kl(
        KEY, lambda key: V, jnp.sum, jnp.zeros(()), num_samples=0
    ),
    "Monte Carlo KL": lambda: divergences.kl_monte_carlo(
        KEY, lambda key: V, jnp.sum, jnp.sum, num_samples=0
    ),
    "stream": lambda: importance.stream(
        KEY, lambda key: V, num_samples=0, chunk_size=1
    ),
    "gradient": lambda: inspect.unwrap(gradients.iwae_pathwise)(
        KEY, None, gradients.System(jax.random.normal, jnp.sum, jnp.sum), num_samples=0
    ),
    "objective": lambda: objective.negative_elbo(MODEL, num_samples=0),
    "evaluation": lambda: likelihood.example_terms(
        KEY,
        None,
        Batch(A, None, A[:, 0]),
        model=MODEL,
        observe=lambda key, x: x,
        batch_size=1,
        num_samples=0,
    ),
    "imputation": lambda: inspect.unwrap(imputation.impute)(
        KEY, None, A, model=MODEL, num_samples=0
    ),
}
MODEL = models.vae.mlp(
    event_shape=(3,), latent_dim=2, hidden=(4,), likelihood="bernoulli"
)


@pytest.mark.parametrize("call", NO_DRAW)
def test_the_mean_of_no_draws_is_refused(call):
    with pytest.raises(ValueError, match="num_samples must be at least 1; got 0"):
        NO_DRAW[call]()


def test_a_bound_on_drawn_weights_needs_latents():
    flow = flows.flow(flows.realnvp((3,), flows.Step(hidden=(4,)), 1), event_shape=(3,))
    lacks = r"latent variables, and this lacks \['encode', 'propose', .*; use"
    with pytest.raises(UserError, match=lacks):
        objective.negative_bound(flow, num_samples=2)


@pytest.mark.parametrize(
    "build", [schedules.linear, schedules.cosine, schedules.sigmoid]
)
def test_schedules_rise(build):
    with pytest.raises(ValueError, match="gamma_min must be below gamma_max; got 5"):
        build(5.0, -13.0)
    jax.jit(lambda low: build(low, -13.0).gamma(jnp.ones(())))(5.0)  # learned: unknown


def test_conditions_have_a_row_an_example():
    labels = jnp.asarray([0, 2])
    assert conditions.vectors((labels, A), 3).shape == (2, 6)
    with pytest.raises(UserError, match=r"3 classes: give integers; got float32"):
        conditions.vectors(A[:, 0], 3)
    for condition in (jnp.asarray(1), (labels, V), [0, 2]):
        with pytest.raises(UserError, match="one row an example; got shapes"):
            conditions.vectors(condition, 3)


AFFINE, SPLINE = transforms.affine(), transforms.rational_quadratic(num_bins=4)
X = jnp.arange(4.0)
CONDITIONERS = {
    "one for all": (2,),
    "one row for all": (1, 2),
    "too few numbers": (2, 2),
    "too many parameters": (3, 3),
}


@pytest.mark.parametrize("case", CONDITIONERS)
@pytest.mark.parametrize("way", ["forward", "inverse"])
def test_a_conditioner_gives_each_number_its_parameters(case, way, unchecked):
    """Broadcast, they map right and sum the log determinant of too few numbers."""
    wrong = jnp.zeros(CONDITIONERS[case])
    bijection = coupling(lambda kept: wrong, AFFINE, split=1)
    message = "what a conditioner returns must have shape"
    with pytest.raises(ValueError, match=rf"{message} \(3, 2\)"):
        getattr(bijection, way)(X)
    with pytest.raises(ValueError, match=rf"{message} \(4, 2\)"):
        getattr(masked_autoregressive(lambda x: wrong, AFFINE), way)(X)
    with pytest.raises(ValueError, match=rf"{message} \(3, 11\)"):
        getattr(coupling(lambda kept: wrong, SPLINE, split=1), way)(X)


def by_coordinate(z):
    return -0.5 * z**2


def drawn(key):
    return jax.random.normal(key, (3,))


UNSUMMED = {
    "both": lambda: elbo.from_log_ratio(
        KEY, drawn, lambda z: 2 * by_coordinate(z), by_coordinate, num_samples=4
    ),
    "one": lambda: elbo.from_log_ratio(
        KEY, drawn, lambda z: jnp.sum(by_coordinate(z)), by_coordinate, num_samples=4
    ),
    "joint": lambda: elbo.from_entropy(
        KEY, drawn, by_coordinate, jnp.ones(()), num_samples=4
    ),
    "entropy": lambda: elbo.from_entropy(
        KEY, drawn, lambda z: jnp.sum(z), jnp.ones(3), num_samples=4
    ),
    "divergence": lambda: elbo.from_kl(
        KEY, drawn, lambda z: jnp.sum(z), jnp.ones(3), num_samples=4
    ),
    "terms": lambda: elbo.single_latent_terms(jnp.zeros(2), X[:1]),
    "system": lambda: gradients.elbo_pathwise(
        KEY,
        {},
        gradients.System(
            lambda key, params: drawn(key),
            lambda params, z: jnp.sum(z),
            lambda params, z: by_coordinate(z),
        ),
        num_samples=4,
    ),
    "base of a flow": lambda: flow.change_of_variables(X, IDENTITY, by_coordinate),
    "base of a drawn flow": lambda: flow.sample_and_log_prob(
        KEY, IDENTITY, drawn, by_coordinate
    ),
    "interval": lambda: sandwich.interval(A, A),
}


@pytest.mark.parametrize("call", UNSUMMED)
def test_a_log_density_that_was_not_summed_is_refused(call, unchecked):
    with pytest.raises(ValueError, match=r"must have (one )?(shape|axis)"):
        UNSUMMED[call]()


@pytest.mark.parametrize("family", [discretized_logistic, discretized_normal])
def test_reals_are_no_levels(family, unchecked):
    with pytest.raises(TypeError, match=r"levels are integers 0 \.\. 255; got float32"):
        family.log_prob(jnp.linspace(0.0, 1.0, 3), V, V, levels=256)


def test_a_latent_variable_model_inherits_its_weights_and_must_have_the_rest():
    class Half(models.LatentVariableModel):
        def propose(self, key, params, encoding):
            return key

    with pytest.raises(TypeError, match=r"abstract methods? .*encode"):
        Half()
