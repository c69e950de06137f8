"""The numbers of ``result.json``: what values by example come to."""

import functools
from typing import Any

import numpy as np

from vgm import configs
from vgm.evaluation import estimates
from vgm.experiment.setup import Experiment
from vgm.models import GenerativeModel


def is_mass(observation: str) -> bool:
    """Whether p(x) of an observation is a mass, of which there are bits a dimension.

    Args:
        observation: ``data.observation``.

    Returns:
        False for reals, and for grey values as targets.
    """
    return observation in ("levels", "binary")


def is_exact(model: GenerativeModel) -> bool:
    """Whether a model's ELBO is log p(x) itself.

    Args:
        model: Model.

    Returns:
        True for flows of reals and autoregressive models.
    """
    return bool(getattr(model, "is_exact", False))


def split_numbers(
    experiment: Experiment,
    split: str,
    terms: Any,
    by_example: dict[str, np.ndarray],
) -> dict[str, Any]:
    """The numbers of ``result.json`` that are of a split.

    Args:
        experiment: Experiment.
        split: Its name.
        terms: The bound's terms, one value an example.
        by_example: elbo and baseline by example, and the evidence where it was
            estimated.

    Returns:
        Numbers by name.
    """
    config = experiment.config
    elbo = estimates.estimate(by_example["elbo"])
    baseline = estimates.estimate(by_example["baseline"])
    num_dims = int(np.prod(experiment.form.event_shape))
    of_mass = is_mass(config.data.observation)
    bits = functools.partial(estimates.bits_per_dim, num_dims=num_dims)
    denoising = np.asarray(terms.denoising_matching)
    num_steps, drawn = _steps(config)
    numbers: dict[str, Any] = {
        "model": f"{config.model.family} ({config.model.architecture})",
        "split": split,
        "observation": config.data.observation,
        "binarization": _binarization(experiment),
        "conditional": config.model.conditional,
        "target": None if config.flow.target == "none" else config.flow.target,
        "num_examples": len(by_example["elbo"]),
        "num_nan_examples": _num_nan(by_example),
        "elbo_nats": elbo.mean,
        "elbo_stderr": elbo.stderr,
        "num_elbo_samples": config.evaluation.num_elbo_samples,
        "num_steps": num_steps,
        "num_times": drawn,
        "is_exact": is_exact(experiment.model),
        "reconstruction_nats": estimates.estimate(terms.reconstruction).mean,
        "prior_matching_nats": estimates.estimate(terms.prior_matching).mean,
        "denoising_matching_nats": estimates.estimate(denoising.sum(-1)).mean,
        # Steps drawn anew for each example belong to no place.
        "denoising_matching_by_step": [] if drawn else denoising.mean(0).tolist(),
        "log_evidence_nats": None,
        "log_evidence_stderr": None,
        "num_importance_samples": None,
        "median_effective_samples": None,
        "baseline_nats": baseline.mean,
    }
    best, source = elbo, "elbo"
    if "log_evidence" in by_example:
        best, source = estimates.estimate(by_example["log_evidence"]), "log_evidence"
        numbers |= {
            "log_evidence_nats": best.mean,
            "log_evidence_stderr": best.stderr,
            "num_importance_samples": config.evaluation.num_importance_samples,
            "median_effective_samples": float(
                np.median(by_example["effective_samples"])
            ),
        }
    # Bits per dimension are of a mass: empty for reals and for grey targets.
    return numbers | {
        "bits_per_dim": bits(best.mean) if of_mass else None,
        "bits_per_dim_stderr": -bits(best.stderr) if of_mass else None,
        "bits_per_dim_of": source if of_mass else None,
        "elbo_bits_per_dim": bits(elbo.mean) if of_mass else None,
        "baseline_bits_per_dim": bits(baseline.mean) if of_mass else None,
    }


def _num_nan(by_example: dict[str, np.ndarray]) -> int:
    """Examples whose ELBO or evidence is NaN, not those where it is -inf."""
    elbo = by_example["elbo"]
    evidence = by_example.get("log_evidence", elbo)
    return int(np.sum(np.isnan(elbo) | np.isnan(evidence)))


def _steps(config: configs.Config) -> tuple[int | None, int | None]:
    """T of a diffusion's bound, and how many of its steps are drawn; 0 for all."""
    if config.model.family != "diffusion":
        return None, None
    return config.diffusion.num_steps, config.diffusion.num_times


def _binarization(experiment: Experiment) -> str | None:
    """How bits came about: static, dynamic, or None for other observations."""
    if experiment.config.data.observation != "binary":
        return None
    # Data stored as bits are static, whatever the flag.
    return (
        experiment.config.data.binarization if experiment.form.levels > 2 else "static"
    )
