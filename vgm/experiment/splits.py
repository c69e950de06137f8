"""The examples of a split: what is observed of them, and their likelihoods."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vgm.bounds.elbo import ElboTerms
from vgm.data.arrays import Split
from vgm.errors import UserError
from vgm.evaluation import baselines, likelihood
from vgm.experiment import setup
from vgm.experiment.setup import Experiment
from vgm.types import Batch, Params


def examples(experiment: Experiment, split: str) -> Split:
    """The examples of a split as they are stored.

    Args:
        experiment: Experiment.
        split: "train", "validation" or "test".

    Returns:
        The examples.

    Raises:
        UserError: If there is no such split.
    """
    names = ("train", "validation", "test")
    if split not in names:
        raise UserError(f"split must be one of {', '.join(names)}; got {split!r}")
    found = getattr(experiment.dataset, split)
    if found is None:
        raise UserError(f"--split {split}: this run kept none; use --split test")
    return found


def observed(experiment: Experiment, stored: Batch) -> Batch:
    """A split's observations, drawn as its likelihoods draw them.

    Args:
        experiment: Experiment.
        stored: Examples as they are stored.

    Returns:
        The same with observations for x.
    """
    key_observe, _ = jax.random.split(setup.run_keys(experiment.config).test)
    return stored._replace(x=experiment.observe(key_observe, stored.x))


def terms(experiment: Experiment, params: Params, stored: Batch) -> ElboTerms:
    """The bound's terms, the mean of as many draws as the configuration says.

    Args:
        experiment: Experiment.
        params: Parameters.
        stored: Examples as they are stored.

    Returns:
        Terms, one value an example, in nats.
    """
    spec = experiment.config.evaluation
    run = functools.partial(
        likelihood.example_terms,
        model=experiment.model,
        observe=experiment.observe,
        batch_size=spec.batch_size,
        num_samples=spec.num_elbo_samples,
    )
    return jax.jit(run)(setup.run_keys(experiment.config).test, params, stored)


def baseline(experiment: Experiment, stored: Batch) -> Any:
    """Log likelihoods of examples under independent numbers fitted to training data.

    Args:
        experiment: Experiment.
        stored: Examples as they are stored.

    Returns:
        One value an example, in nats.
    """
    config = experiment.config
    key_train = setup.run_keys(config).baseline

    @jax.jit
    def run(train: Any, test: Batch) -> Any:
        return baselines.independent_baseline(
            experiment.observe(key_train, train),
            observed(experiment, test).x,
            observation=config.data.observation,
            levels=experiment.form.levels,
            missing=config.data.missing != "none",
        )

    return run(jnp.asarray(experiment.dataset.train.x), stored)
