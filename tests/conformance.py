"""What every model must pass, whatever it is. Call ``check`` from a test."""

import types
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from compilation import whole

from vgm.bounds import importance
from vgm.bounds.elbo import ElboTerms
from vgm.models import GenerativeModel, LatentVariableModel
from vgm.training import objective
from vgm.types import Batch


class Case(NamedTuple):
    """A model with its evidence known.

    ``log_evidence`` maps a batch of x to exact log p(x); ``num_weights`` draws must be
    enough for E[w] / p(x) to be known to a few percent.
    """

    model: Any
    params: Any
    x: Any
    condition: Any
    log_evidence: Callable[[Any], jax.Array]
    num_weights: int = 20_000


def compiled(model: Any) -> Any:
    """The model's functions, each compiled once for the whole suite."""
    return types.SimpleNamespace(
        init=jax.jit(model.init),
        elbo_terms=jax.jit(model.elbo_terms),
        log_weight=jax.jit(model.log_weight),
        sample=jax.jit(model.sample, static_argnums=2),
        elbos=jax.jit(
            jax.vmap(lambda k, *of: model.elbo_terms(k, *of).elbo, (0, *3 * [None]))
        ),
        log_weights=jax.jit(jax.vmap(model.log_weight, (0, *3 * [None]))),
    )


def check(
    case: Case, key: jax.Array, *, without: frozenset[str] = frozenset()
) -> set[str]:
    """Run the whole suite; says which checks ran, so that none is skipped unseen."""
    assert isinstance(case.model, GenerativeModel)
    plain = [check_jit, check_gradients]
    if isinstance(case.model, LatentVariableModel):
        plain.append(check_latent_functions)
    for part in plain:
        if part.__name__ not in without:
            part(case, key)
    case = case._replace(model=compiled(case.model))
    once_compiled = [
        check_init,
        check_terms,
        check_weights_are_unbiased,
        check_elbo_is_a_lower_bound,
        check_iwae_rises_to_the_evidence,
        check_keys,
        check_examples_are_independent,
        check_samples,
    ]
    for part in once_compiled:
        if part.__name__ not in without:
            part(case, key)
    return {part.__name__ for part in (*plain, *once_compiled)} - without


DRAWS = 4096
"""Draws that one compiled program makes."""


def log_weights(case: Case, key: jax.Array, num_samples: int) -> np.ndarray:
    draws = [
        case.model.log_weights(
            jax.random.split(part, DRAWS), case.params, case.x, case.condition
        )
        for part in jax.random.split(key, -(-num_samples // DRAWS))
    ]
    return np.concatenate(draws)[:num_samples].astype(np.float64)


def elbo_terms(case: Case, key: jax.Array) -> ElboTerms:
    return case.model.elbo_terms(key, case.params, case.x, case.condition)


def mean_and_error(draws: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean over the first axis and its standard error, floored at float32 rounding."""
    draws = np.asarray(draws, np.float64)
    rounding = 1e-6 * (1.0 + np.abs(draws).mean(0))
    return draws.mean(0), draws.std(0) / np.sqrt(len(draws)) + rounding


def check_terms(case: Case, key: jax.Array) -> None:
    terms = elbo_terms(case, key)
    batch = len(case.x)
    assert isinstance(terms, ElboTerms)
    chex.assert_shape(
        [terms.reconstruction, terms.prior_matching, terms.elbo], (batch,)
    )
    chex.assert_rank(terms.denoising_matching, 2)
    chex.assert_tree_all_finite(terms)
    chex.assert_trees_all_close(
        terms.elbo,
        terms.reconstruction - terms.prior_matching - terms.denoising_matching.sum(-1),
        rtol=1e-5,
    )


def check_weights_are_unbiased(case: Case, key: jax.Array) -> None:
    """E[exp(log_weight)] = p(x), the contract."""
    exact = np.asarray(whole(case.log_evidence)(case.x), np.float64)
    ratio = np.exp(log_weights(case, key, case.num_weights) - exact)
    mean, error = mean_and_error(ratio)
    assert (error < 0.1).all(), "too few weights to tell"
    assert (np.abs(mean - 1.0) < 4.5 * error).all(), (mean, error)


def check_elbo_is_a_lower_bound(case: Case, key: jax.Array) -> None:
    """The mean ELBO is below log p(x), and is the mean of log_weight."""
    keys = jax.random.split(key, DRAWS)
    elbos = case.model.elbos(keys, case.params, case.x, case.condition)
    mean, error = mean_and_error(elbos)
    exact = np.asarray(whole(case.log_evidence)(case.x))
    assert (mean <= exact + 4.5 * error).all(), (mean, exact)
    log_w, log_w_error = mean_and_error(log_weights(case, key, DRAWS))
    assert (np.abs(mean - log_w) < 4.5 * np.hypot(error, log_w_error)).all()


def check_iwae_rises_to_the_evidence(case: Case, key: jax.Array) -> None:
    log_w = log_weights(case, key, DRAWS)
    exact = np.asarray(whole(case.log_evidence)(case.x))
    bound = jax.jit(jax.vmap(jax.vmap(importance.iwae, in_axes=1)))
    previous = None
    for num_samples in (1, 8, 64):
        draws = bound(log_w.reshape(-1, num_samples, len(case.x)))
        mean, error = mean_and_error(draws)
        assert (mean <= exact + 4.5 * error).all()
        if previous is not None:
            assert (mean >= previous[0] - 4.5 * np.hypot(error, previous[1])).all()
        previous = mean, error


def check_keys(case: Case, key: jax.Array) -> None:
    """The same key gives the same numbers; keys of different examples differ."""
    first, again = elbo_terms(case, key), elbo_terms(case, key)
    chex.assert_trees_all_equal(first, again)
    twice = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf[:1], leaf[:1]]), (case.x, case.condition)
    )
    pair = case.model.log_weight(key, case.params, *twice)
    other = case.model.log_weight(jax.random.fold_in(key, 1), case.params, *twice)
    random = not np.allclose(pair, other, rtol=1e-6)
    assert random == (not np.allclose(pair[0], pair[1], rtol=1e-6)), (
        "two copies of an example must be given different noise"
    )


def check_examples_are_independent(case: Case, key: jax.Array) -> None:
    """No example changes another's value."""
    changed = jax.tree.map(lambda leaf: leaf.at[-1].set(leaf[0]), case.x)
    before = elbo_terms(case, key).elbo[:-1]
    after = case.model.elbo_terms(key, case.params, changed, case.condition).elbo[:-1]
    chex.assert_trees_all_close(before, after, rtol=1e-5)


def check_jit(case: Case, key: jax.Array) -> None:
    plain = elbo_terms(case, key)
    jitted = jax.jit(case.model.elbo_terms)(key, case.params, case.x, case.condition)
    chex.assert_trees_all_close(plain, jitted, rtol=2e-4, atol=1e-4)
    weight = case.model.log_weight(key, case.params, case.x, case.condition)
    jitted = jax.jit(case.model.log_weight)(key, case.params, case.x, case.condition)
    chex.assert_trees_all_close(weight, jitted, rtol=2e-4, atol=1e-4)


def check_samples(case: Case, key: jax.Array) -> None:
    condition = jax.tree.map(
        lambda leaf: jnp.concatenate([leaf, leaf])[:5], case.condition
    )
    draws = case.model.sample(key, case.params, 5, condition)
    chex.assert_shape(draws, (5, *case.x.shape[1:]))
    assert draws.dtype == case.x.dtype
    chex.assert_tree_all_finite(draws)
    again = case.model.sample(key, case.params, 5, condition)
    chex.assert_trees_all_equal(draws, again)


def check_init(case: Case, key: jax.Array) -> None:
    params = case.model.init(key, case.x, case.condition)
    chex.assert_trees_all_equal_shapes_and_dtypes(params, case.params)
    terms = case.model.elbo_terms(key, params, case.x, case.condition)
    chex.assert_tree_all_finite(terms)


def check_gradients(case: Case, key: jax.Array) -> None:
    """The objective is the weighted mean, and weight 0 leaves no trace."""
    value_and_grad = objective.negative_elbo(case.model)
    weight = jnp.ones(len(case.x)).at[-1].set(0.0)
    batch = Batch(case.x, case.condition, weight)
    value_and_grad = jax.jit(value_and_grad)
    (loss, terms), grads = value_and_grad(key, case.params, batch)
    chex.assert_trees_all_close(loss, -terms.elbo[:-1].mean(), rtol=1e-5)
    chex.assert_tree_all_finite(grads)
    chex.assert_trees_all_equal_shapes(grads, case.params)
    changed = jax.tree.map(lambda leaf: leaf.at[-1].set(leaf[0]), case.x)
    _, other = value_and_grad(key, case.params, batch._replace(x=changed))
    chex.assert_trees_all_close(grads, other, rtol=1e-4, atol=1e-5)


def check_latent_functions(case: Case, key: jax.Array) -> None:
    """encode, propose, log_joint and log_posterior make up log_weight."""
    model = case.model

    @jax.jit
    def two_ways(params: Any, x: Any, condition: Any) -> tuple[jax.Array, jax.Array]:
        encoding = model.encode(params, x, condition)
        z = model.propose(key, params, encoding)
        log_joint = model.log_joint(params, x, z, condition)
        log_w = log_joint - model.log_posterior(params, encoding, z)
        return log_w, model.log_weight(key, params, x, condition)

    log_w, expected = two_ways(case.params, case.x, case.condition)
    chex.assert_trees_all_close(log_w, expected, rtol=1e-5)


ANY_MODEL = {name for name in dir() if name.startswith("check_")} - {
    "check_latent_functions"
}
LATENT_VARIABLE_MODEL = ANY_MODEL | {"check_latent_functions"}
