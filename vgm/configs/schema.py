"""One frozen, typed configuration: what a run is a function of, besides its data."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Architecture = Literal[
    "mlp",
    "conv",
    "markov",
    "ladder",
    "vdm-unet",
    "ddpm-unet",
    "realnvp",
    "glow",
    "nsf-coupling",
    "nsf-autoregressive",
    "maf",
    "continuous",
    "made",
]
"""Names of networks; which go with which family is in ``checks``."""


@dataclass(frozen=True)
class DataConfig:
    """What is observed."""

    name: str = "digits"
    """digits (embedded), two-moons or checkerboard (drawn), nothing (for flow.target),
    or any TFDS image set; a label for files of your own."""
    path: Path | None = None
    """Folder of original files (IDX, .amat, chardata.mat, .npz, .csv) or of TFDS."""
    observation: Literal["levels", "binary", "grey-bernoulli", "density"] = "levels"
    """What log p is of: integers, bits, grey values as Bernoulli targets, reals."""
    binarization: Literal["static", "dynamic"] = "static"
    """For binary: grey pixels are drawn once, or afresh at every use."""
    missing: Literal["none", "nan"] = "none"
    """What marks a number as missing; for density. The bound is then on log p of the
    numbers observed."""
    num_validation: int | None = None
    """Held out where the data have no validation split; default: 1/10, at most 5000."""
    train_on_validation: bool = False
    """No validation split: its examples train too. For last runs, all else chosen."""
    mirror: bool = False
    """Train on images mirrored left to right, half of them, drawn at every use."""


@dataclass(frozen=True)
class ModelConfig:
    """Which model, and its networks."""

    family: Literal["vae", "hvae", "diffusion", "flow", "autoregressive"] = "vae"
    """What kind of model."""
    architecture: Architecture = "mlp"
    """Networks: mlp or conv for a VAE; markov (bottom-up posterior, MLPs) or ladder
    (top-down posterior, convolutions) for a hierarchical VAE; mlp, vdm-unet (one
    resolution) or ddpm-unet (several) for a diffusion; realnvp, glow, nsf-coupling,
    nsf-autoregressive, maf or continuous for a flow; made for an autoregressive
    model."""
    likelihood: Literal[
        "bernoulli",
        "categorical",
        "discretized_logistic",
        "discretized_logistic_mixture",
        "normal",
    ] = "bernoulli"
    """Family of p(x | z) of a VAE, or of each number of an autoregressive model; the
    mixture, whose channels are coupled, is for VAEs."""
    num_mixtures: int = 10
    """Components of discretized_logistic_mixture."""
    latent_dim: int = 20
    """Size of z of a VAE, or number of categorical latents; channels of each layer of a
    ladder. The sizes of a Markov hierarchy are latent.dims."""
    hidden: tuple[int, ...] = (400,)
    """Widths of the encoder's hidden layers, mirrored by the decoder; of a diffusion's
    mlp, one a residual block, all alike; of a flow's or made's masked networks; of a
    ladder one, the channels within its bottlenecks."""
    channels: int = 32
    """Channels of the outermost convolution; of a ladder's state."""
    num_blocks: int = 2
    """Residual blocks at each resolution: of a U-Net down, of a ladder up."""
    multipliers: tuple[int, ...] = (1, 2, 2, 2)
    """Of the channels of ddpm-unet, one a resolution."""
    attention: tuple[int, ...] = (1,)
    """Resolutions of ddpm-unet with attention, by number from 0."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What a diffusion's network is computed in; parameters and bounds are float32."""
    fourier: tuple[int, ...] = ()
    """Exponents n of the features sin and cos 2^n pi z of a diffusion's network."""
    activation: Literal["auto", "relu", "tanh", "silu", "gelu"] = "auto"
    """Non-linearity of a VAE, a flow or made; auto: silu in conv, relu elsewhere."""
    kernel_init: Literal["lecun_normal", "glorot_uniform"] = "lecun_normal"
    """Initialiser of the weights of a VAE's MLP."""
    dropout: float = 0.0
    """Probability of dropping a hidden unit while training."""
    conditional: bool = False
    """Condition on the label."""


@dataclass(frozen=True)
class LatentConfig:
    """Prior and posterior of a VAE, and the layers of a hierarchy."""

    posterior: Literal["diagonal", "full", "iaf", "spline", "categorical"] = "diagonal"
    """q(z | x): a normal with independent coordinates, or any covariance; one that an
    inverse autoregressive flow or spline couplings reshape; or categories."""
    prior: Literal["standard", "mixture", "vamp", "flow", "autoregressive"] = "standard"
    """p(z), of a hierarchy's top layer: N(0, I), or uniform categories; a mixture of
    normals; VampPrior; a flow of spline couplings; an autoregressive normal."""
    num_components: int = 500
    """Components of a mixture or VampPrior."""
    num_categories: int = 10
    """Of each categorical latent."""
    temperature: float = 1.0
    """Of the softmax whose derivative straight-through gradients take."""
    num_layers: int = 2
    """Steps of the flow of a posterior or prior."""
    hidden: tuple[int, ...] = (100,)
    """Widths of the networks in a flow or autoregressive prior, and between the layers
    of a Markov hierarchy."""
    dims: tuple[int, ...] = (32, 16)
    """Sizes of z_1 .. z_T of a Markov hierarchy; T is as many as are given."""
    sides: tuple[int, ...] = (1, 7, 14)
    """Pixels along a side of a ladder's resolutions, the top's first; each divides the
    next, the last one the image's."""
    layers: tuple[int, ...] = (2, 6, 4)
    """Latent layers of a ladder at each resolution, the top's first."""


@dataclass(frozen=True)
class DiffusionConfig:
    """The chain of a diffusion."""

    schedule: Literal[
        "linear",
        "cosine",
        "sigmoid",
        "ddpm",
        "learned-linear",
        "polynomial",
        "monotone",
    ] = "linear"
    """gamma(t), minus the log signal-to-noise ratio; the last three are learned."""
    gamma_min: float = -13.3
    """gamma(0), or where it starts; ddpm has its own."""
    gamma_max: float = 5.0
    """gamma(1), or where it starts; ddpm has its own."""
    head: Literal["eps", "x", "v", "categorical"] = "eps"
    """What the network predicts; categorical: a mass over levels, and its mean."""
    degree: int = 0
    """Of the polynomials by which a categorical head tilts the frequencies of the
    levels; 0 for a logit of its own for each level."""
    decoder: Literal["categorical", "discretized_normal", "normal"] = "categorical"
    """p(x | z_0): for levels categorical or discretized_normal; for reals normal."""
    num_steps: int = 1000
    """T of evaluation, weights and samples."""
    train_num_steps: int = 0
    """T of training; 0 for infinitely many."""
    num_times: int = 0
    """Steps drawn for an example's bound in evaluation; 0 for all of them."""
    chunk_size: int = 8
    """Steps at once in evaluation."""
    eta: float = 1.0
    """Share of the ancestral noise in sampling: 0 for DDIM's deterministic path."""


@dataclass(frozen=True)
class FlowConfig:
    """The layers of a flow."""

    num_layers: int = 8
    """Steps; of glow at each level; a continuous flow has none."""
    num_levels: int = 2
    """Levels of glow's pyramid."""
    num_bins: int = 8
    """Bins of a spline."""
    tail_bound: float = 5.0
    """Where a spline ends and the identity begins, in standard deviations or so."""
    transform: Literal["standardize", "log", "logit"] = "standardize"
    """What reals go through first; the last two, for positive numbers and for numbers
    between 0 and 1, are standardised then too."""
    noise: Literal["uniform", "variational"] = "uniform"
    """Density of the noise that makes levels reals: uniform, or of four couplings."""
    target: Literal["none", "banana", "ring"] = "none"
    """Unnormalised density in the plane to fit the flow to, with data.name nothing."""


@dataclass(frozen=True)
class ObjectiveConfig:
    """What is maximised."""

    name: Literal["elbo", "iwae", "weighted", "flow-matching"] = "elbo"
    """The ELBO, or the importance-weighted bound of num-samples draws. No bounds are
    weighted, a mean of a diffusion's squared errors, and flow-matching, of a continuous
    flow."""
    num_samples: int = 1
    """Draws of z an example (K)."""
    gradient: Literal[
        "pathwise",
        "sticking-the-landing",
        "score-function",
        "vimco",
        "dreg",
        "straight-through",
        "least-variance",
    ] = "pathwise"
    """Estimator of the gradient: for elbo pathwise (divergence in closed form),
    sticking-the-landing or score-function; for iwae pathwise, vimco or dreg; for
    categorical latents score-function, vimco or (elbo, biased) straight-through; for
    elbo with a learned schedule least-variance, for its interior."""
    weighting: Literal["simple", "x", "min-snr"] = "simple"
    """Weight of |eps - eps_hat|^2 for weighted: simple is 1, as in DDPM; x makes it
    |x - x_hat|^2; min-snr is the lesser of 1 and 5 / SNR."""
    kl_warmup_steps: int = 0
    """Steps in which the divergences' weight grows from 0 to 1, of a VAE or hierarchy;
    what is reported is always the ELBO."""
    free_nats: float = 0.0
    """Nats of each layer's mean divergence that cost nothing in training."""


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
    skip_norm: float = 0.0
    """Gradient norm above which a step is skipped, ten in a row at most; 0 for none."""
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
    init_from: Path | None = None
    """Folder of a run of the same model whose parameters training starts from."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How the test split is reported on."""

    num_importance_samples: int = 1000
    """K of the evidence."""
    evidence: bool = True
    """Whether to estimate it: K trajectories of a diffusion are dear."""
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
    latent: LatentConfig = field(default_factory=LatentConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    flow: FlowConfig = field(default_factory=FlowConfig)
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
