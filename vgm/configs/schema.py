"""One frozen, typed configuration: what a run is a function of, besides its data."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vgm.bounds import gradients
from vgm.errors import UserError


@dataclass(frozen=True)
class DataConfig:
    """What is observed."""

    name: str = "digits"
    """digits (embedded), or any TFDS image set; a label for files of your own."""
    path: Path | None = None
    """Folder of original files (IDX, .amat, chardata.mat, .npz) or TFDS directory."""
    observation: Literal["levels", "binary", "grey-bernoulli", "density"] = "levels"
    """What log p is of: integers, bits, grey values as Bernoulli targets, reals."""
    binarization: Literal["static", "dynamic"] = "static"
    """For binary: grey pixels are drawn once, or afresh at every use."""
    missing: Literal["none", "nan"] = "none"
    """What marks a number as missing; for density. The bound is then on log p of the
    numbers observed."""
    num_validation: int = 5000
    """Training examples held out, where the data have no validation split."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model."""

    architecture: Literal["mlp", "conv"] = "mlp"
    """Networks of encoder and decoder."""
    likelihood: Literal[
        "bernoulli", "categorical", "discretized_logistic", "normal"
    ] = "bernoulli"
    """Family of p(x | z)."""
    latent_dim: int = 20
    """Size of z."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers; the decoder mirrors them."""
    channels: int = 32
    """Channels of the outermost convolution; for conv."""
    activation: Literal["relu", "tanh", "silu", "gelu"] = "relu"
    """Non-linearity."""
    kernel_init: Literal["lecun_normal", "glorot_uniform"] = "lecun_normal"
    """Initialiser of the MLP's weights."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while training."""
    conditional: bool = False
    """Condition on the label."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised."""

    name: Literal["elbo", "iwae"] = "elbo"
    """The ELBO, or the importance-weighted bound of num_samples draws."""
    num_samples: int = 1
    """Draws of z an example (K)."""
    gradient: Literal[
        "pathwise", "sticking-the-landing", "score-function", "vimco", "dreg"
    ] = "pathwise"
    """Estimator of the gradient: for elbo pathwise (divergence in closed form),
    sticking-the-landing or score-function; for iwae pathwise, vimco or dreg."""


@dataclass(frozen=True)
class OptimizerConfig:
    """How it is maximised: Adam."""

    learning_rate: float = 1e-3
    """Highest learning rate."""
    schedule: Literal["constant", "cosine", "staged"] = "constant"
    """Course of the learning rate; staged is the IWAE paper's."""
    warmup_steps: int = 0
    """Steps of linear warm-up."""
    b1: float = 0.9
    """Decay of the mean gradient."""
    b2: float = 0.999
    """Decay of the mean squared gradient."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW)."""
    clip_norm: float = 0.0
    """Largest gradient norm; 0 for no clipping."""
    ema_decay: float = 0.0
    """Decay of the averaged parameters used for evaluation; 0 for none."""


@dataclass(frozen=True)
class TrainConfig:
    """How long."""

    num_steps: int = 4690
    """Steps at most."""
    batch_size: int = 128
    """Examples a step."""
    eval_every: int = 469
    """Steps in one dispatch, then a row of metrics, validation and a checkpoint."""
    patience: int = 0
    """Evaluations without improvement on validation before stopping; 0 for never."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the test split is reported on."""

    num_importance_samples: int = 1000
    """K of the evidence."""
    num_elbo_samples: int = 8
    """Draws an example for the ELBO's terms."""
    batch_size: int = 250
    """Examples at once."""
    chunk_size: int = 4
    """Draws at once."""


@dataclass(frozen=True)
class Config:
    """Train a variational generative model and report its test likelihood."""

    preset: str
    """Name of the preset this began as."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0
    """Seed of initialisation, order and noise."""
    run_dir: Path | None = None
    """Folder of the run; runs/PRESET if not given. Never overwritten."""
    resume: bool = False
    """Go on from the newest checkpoint in the folder of the run."""


def to_dict(config: Config) -> dict[str, Any]:
    """A configuration as plain JSON values, without where and how it is run.

    Args:
        config: Configuration.

    Returns:
        Nested dictionaries; paths as strings.
    """
    plain = dataclasses.asdict(config)
    del plain["run_dir"], plain["resume"]
    path = plain["data"]["path"]
    plain["data"]["path"] = None if path is None else str(path)
    return plain


def from_dict(plain: dict[str, Any]) -> Config:
    """The configuration that ``to_dict`` made plain.

    Args:
        plain: Nested dictionaries.

    Returns:
        The configuration.

    Raises:
        UserError: If a field is unknown.
    """
    sections = {
        "data": DataConfig,
        "model": ModelConfig,
        "objective": ObjectiveConfig,
        "optimizer": OptimizerConfig,
        "train": TrainConfig,
        "evaluation": EvaluationConfig,
    }
    try:
        path, hidden = plain["data"]["path"], plain["model"]["hidden"]
        typed = {
            **plain,
            "data": {**plain["data"], "path": None if path is None else Path(path)},
            "model": {**plain["model"], "hidden": tuple(hidden)},
        }
        built = {name: kind(**typed[name]) for name, kind in sections.items()}
        return Config(**{**typed, **built})
    except (TypeError, KeyError) as error:
        raise UserError(
            f"config.json does not fit this version of vgm ({error}); train again"
        ) from error


def flatten(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flags and values of a plain configuration, ``--model.latent-dim`` as its name.

    Args:
        plain: Nested dictionaries.
        prefix: What comes before the names.

    Yields:
        Pairs of flag name and value.
    """
    for name, value in plain.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            yield from flatten(value, f"{flag}.")
        else:
            yield flag, value


def changed_fields(before: Config, after: Config) -> list[str]:
    """Fields in which two configurations differ, each in words.

    Args:
        before: One configuration.
        after: The other.

    Returns:
        "train.batch-size (128 before, 64 now)", and so on.
    """
    # The same file may be reached by another path.
    old, new = dict(flatten(to_dict(before))), dict(flatten(to_dict(after)))
    return [
        f"{name} ({value} before, {new[name]} now)"
        for name, value in old.items()
        if new[name] != value and not _same_place(value, new[name], name)
    ]


def _same_place(before: Any, after: Any, name: str) -> bool:
    if name != "data.path" or before is None or after is None:
        return False
    return Path(before).resolve() == Path(after).resolve()


Check = tuple[str, Callable[[Any], bool], str]

_AT_LEAST_ONE = (
    "model.latent-dim",
    "model.channels",
    "objective.num-samples",
    "train.num-steps",
    "train.batch-size",
    "train.eval-every",
    "evaluation.num-importance-samples",
    "evaluation.num-elbo-samples",
    "evaluation.batch-size",
    "evaluation.chunk-size",
)
_NOT_NEGATIVE = (
    "data.num-validation",
    "optimizer.warmup-steps",
    "optimizer.weight-decay",
    "optimizer.clip-norm",
    "train.patience",
)
_BELOW_ONE = ("model.dropout", "optimizer.b1", "optimizer.b2", "optimizer.ema-decay")
_POSITIVE = ("optimizer.learning-rate", "optimizer.eps")

_CHECKS: tuple[Check, ...] = (
    *((name, lambda v: v >= 1, "at least 1") for name in _AT_LEAST_ONE),
    *((name, lambda v: 0 <= v < float("inf"), "at least 0") for name in _NOT_NEGATIVE),
    *((name, lambda v: 0 <= v < 1, "at least 0 and below 1") for name in _BELOW_ONE),
    *((name, lambda v: 0 < v < float("inf"), "positive") for name in _POSITIVE),
    ("seed", lambda v: 0 <= v < 2**63, "from 0 to 2^63 - 1"),
    ("model.hidden", lambda v: all(width >= 1 for width in v), "widths of at least 1"),
)

_FAMILIES = {
    "levels": ("categorical", "discretized_logistic"),
    "binary": ("bernoulli",),
    "grey-bernoulli": ("bernoulli",),
    "density": ("normal",),
}


_GRADIENTS = {
    "elbo": tuple(gradients.ELBO_ESTIMATORS),
    "iwae": tuple(gradients.IWAE_ESTIMATORS),
}


def validate(config: Config) -> None:
    """Check every number and every combination.

    Args:
        config: Configuration.

    Raises:
        UserError: Naming the first field that cannot be, and what it must be.
    """
    values = dict(flatten(to_dict(config)))
    for name, accepts, requirement in _CHECKS:
        if not accepts(values[name]):
            raise UserError(f"{name} must be {requirement}; got {values[name]}")
    families = _FAMILIES[config.data.observation]
    if config.model.likelihood not in families:
        raise UserError(
            f"model.likelihood must be {' or '.join(families)} for data.observation "
            f"{config.data.observation!r}; got {config.model.likelihood!r}"
        )
    if config.data.missing != "none" and config.data.observation != "density":
        raise UserError(
            "data.missing 'nan' needs data.observation 'density': integers have no "
            f"NaN; got {config.data.observation!r}"
        )
    _validate_objective(config)


def _validate_objective(config: Config) -> None:
    spec = config.objective
    allowed = _GRADIENTS[spec.name]
    if spec.gradient not in allowed:
        raise UserError(
            f"objective.gradient must be {' or '.join(allowed)} for objective.name "
            f"{spec.name!r}; got {spec.gradient!r}"
        )
    if spec.gradient in ("score-function", "vimco") and spec.num_samples < 2:
        raise UserError(
            "objective.num-samples must be at least 2 for objective.gradient "
            f"{spec.gradient!r}: the other draws are its baseline; got 1"
        )
    on_weights = spec.name == "iwae" or spec.gradient != "pathwise"
    if on_weights and config.model.dropout:
        raise UserError(
            f"model.dropout must be 0 with objective.name {spec.name!r} and gradient "
            f"{spec.gradient!r}: their draws share one encoding; got "
            f"{config.model.dropout}"
        )
