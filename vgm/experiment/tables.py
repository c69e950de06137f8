"""A run's data and the numbers of its result, for people."""

import math
from typing import Any

import numpy as np

from vgm.experiment.numbers import is_mass
from vgm.experiment.setup import Experiment


def number(value: float | None, digits: int) -> str:
    """A number for people; a dash for none, such as the error of a single example.

    >>> number(1.256, 2), number(None, 2)
    ('1.26', '-')

    Args:
        value: Number; None or NaN for none.
        digits: Digits after the point.

    Returns:
        Its text.
    """
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def observed(result: dict[str, Any]) -> str:
    """What the numbers of a result are a logarithm of.

    >>> observed({"observation": "levels", "conditional": True})
    'log p(x | label)'

    Args:
        result: Content of ``result.json``.

    Returns:
        Its formula.
    """
    if result.get("log_normalizer_nats") is not None:
        return "log Z"
    given = " | label" if result.get("conditional") else ""
    if result["observation"] == "grey-bernoulli":
        return f"E log p(b{given}), b ~ Bernoulli(x)"
    return f"log p(x{given})"


def result_table(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers of a result as rows for people: quantity, value with unit, origin.

    Args:
        result: Content of ``result.json``.

    Returns:
        The rows.
    """
    examples = f"{result['num_examples']} {result['split']} examples"
    if result.get("log_normalizer_nats") is not None:
        examples = f"{result['num_examples']} times"
    count = result["num_elbo_samples"]
    draws = "1 draw each" if count == 1 else f"{count} draws each"
    k = result["num_importance_samples"]

    def measured(name: str, digits: int) -> str:
        value, stderr = result[f"{name}_nats"], result[f"{name}_stderr"]
        return f"{number(value, digits)} ± {number(stderr, digits)} nats"

    steps = result["num_steps"]
    of_steps = "" if steps is None else f", T = {steps} steps"
    exact = result["is_exact"]
    solved = " to the tolerance of a solver" if "continuous" in result["model"] else ""
    table = [
        (
            observed(result) if exact else "ELBO",
            measured("elbo", 2),
            f"{examples}, exact{solved}" if exact else f"{examples}, {draws}{of_steps}",
        ),
        ("  reconstruction", f"{number(result['reconstruction_nats'], 2)} nats", ""),
        ("  prior matching", f"{number(result['prior_matching_nats'], 2)} nats", ""),
    ]
    if steps is not None or result["denoising_matching_by_step"]:
        table.append(_denoising_row(result, steps))
    target = result.get("log_normalizer_nats")
    if k:
        ess = number(result["median_effective_samples"], 1)
        table.append(
            (
                f"evidence, {k} samples",
                measured("log_evidence", 2),
                f"lower bound on {observed(result)}; median effective sample size "
                f"{ess}{of_steps}",
            )
        )
    if target is not None:
        # Nothing is observed: no baseline, no bits.
        table += [
            ("log Z", f"{number(target, 4)} nats", "exact"),
            ("Pareto k", number(result["pareto_k"], 2), _trust(result["pareto_k"])),
        ]
    elif is_mass(result["observation"]):
        bits, stderr = result["bits_per_dim"], result["bits_per_dim_stderr"]
        elbo_bits = number(result["elbo_bits_per_dim"], 3)
        source = f"from the evidence; from the ELBO {elbo_bits}"
        bound = "exact" if exact else "from the ELBO"
        table.append(
            (
                "bits/dim",
                f"{number(bits, 3)} ± {number(stderr, 3)}",
                source if k else bound,
            )
        )
        table.append(
            (
                "bits/dim of the baseline",
                f"{number(result['baseline_bits_per_dim'], 3)}",
                "independent numbers fitted to the training split",
            )
        )
    else:
        table.append(
            (
                "baseline",
                f"{number(result['baseline_nats'], 2)} nats",
                "independent numbers fitted to the training split",
            )
        )
    table += _of_examples(result)
    if "train_seconds" in result:
        steps, rate = result["train_steps"], result["steps_per_second"]
        table.append(
            (
                "training",
                f"{number(result['train_seconds'], 1)} s",
                f"{steps} steps, {number(rate, 0)} a second once compiled; "
                f"parameters of step {result['selected_step']}",
            )
        )
    return table


def _trust(k: float) -> str:
    """What a tail index says (Vehtari et al. 2024)."""
    return (
        "below 0.7: weights to trust"
        if k < 0.7
        else "not below 0.7: weights not to trust, of a poor fit"
    )


def _of_examples(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    if result.get("num_nan_examples"):
        of = f"{result['num_nan_examples']} of {result['num_examples']}"
        rows.append(("NaN", of, "examples whose bound is NaN: likelihoods.npz"))
    if result.get("active_units") is not None:
        rows.append(("active units", str(result["active_units"]), _active_of(result)))
    return rows


def _active_of(result: dict[str, Any]) -> str:
    below_top = result["num_steps"] is None and result["denoising_matching_by_step"]
    return f"Var E[{'z_1' if below_top else 'z'} | x] > 0.01"


def _denoising_row(result: dict[str, Any], steps: int | None) -> tuple[str, str, str]:
    """The terms of a diffusion's steps, or of a hierarchy's layers below the top."""
    terms = result["denoising_matching_by_step"]
    if steps is None:
        by_layer = ", ".join(number(nats, 2) for nats in terms)
        how = f"by layer below the top, z_1 first: {by_layer}"
    else:
        drawn = result["num_times"]
        how = f"{drawn} of {steps} steps, drawn" if drawn else "all steps"
    matching = number(result["denoising_matching_nats"], 2)
    return "  denoising matching", f"{matching} nats", how


def summary(result: dict[str, Any]) -> str:
    """One sentence on what a result is of.

    Args:
        result: Content of ``result.json``.

    Returns:
        The sentence.
    """
    meaning = {
        "levels": "log p is the mass of the integer levels",
        "binary": "log p is the mass of zeros and ones",
        "grey-bernoulli": "grey values as Bernoulli targets: a bound on E log p(b), "
        "b ~ Bernoulli(x), and no likelihood of x",
        "density": "log p is a density",
    }[result["observation"]]
    return (
        f"{result['model']} with {result['num_params']:,} parameters on "
        f"{result['data']}, observation {result['observation']}: {meaning}."
    )


def repeated(experiment: Experiment) -> str | None:
    """Whether a density is of numbers that are no reals, counts or marks say.

    Args:
        experiment: Experiment.

    Returns:
        The first number of each example that is the same in a fifth of them, in words,
        or None.
    """
    if experiment.form.levels or experiment.config.flow.target != "none":
        return None
    some = experiment.dataset.train.x[:5000]
    for place, column in enumerate(some.reshape(len(some), -1).T, 1):
        values, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        if len(some) >= 40 and counts.max(initial=0) > 0.2 * len(some):
            share = counts.max() / len(some)
            return (
                f"number {place} of each example is {values[counts.argmax()]:g} in "
                f"{share:.0%} of them: p(x), a density, has no bound there and says "
                "little; leave out what is no measurement"
            )
    return None


def examples(experiment: Experiment) -> str:
    """What is trained and reported on, in one line.

    Args:
        experiment: Experiment.

    Returns:
        How many examples each split has, their shape, and what they are.
    """
    dataset, form = experiment.dataset, experiment.form
    splits = {"train": dataset.train, "validation": dataset.validation}
    counts = [f"{len(split.x):,} {name}" for name, split in splits.items() if split]
    kind = f"numbers of {form.levels} levels" if form.levels else "reals"
    shape = " x ".join(str(side) for side in form.event_shape)
    return (
        f"{experiment.config.data.name}: {', '.join(counts)} and "
        f"{len(dataset.test.x):,} test examples of {shape} {kind}"
    )
