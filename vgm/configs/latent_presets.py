"""Presets of hierarchical VAEs, and of VAEs with richer priors and posteriors."""

from vgm.configs.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    LatentConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

_STATIC = DataConfig(name="binarized_mnist", observation="binary")
"""The binarisation of Larochelle & Murray (2011), with its own validation split."""

# After VDVAE (Child 2021): AdamW of this decay and b2, clipping, skipping. Rate and
# averaging are for shorter runs, and norms are of nats an example here.
_LADDER_OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3,
    schedule="cosine",
    warmup_steps=100,
    b2=0.9,
    weight_decay=0.01,
    clip_norm=200.0,
    skip_norm=2000.0,
    ema_decay=0.999,
)


def _static(
    preset: str, latent: LatentConfig, objective: ObjectiveConfig | None = None
) -> Config:
    return Config(
        preset=preset,
        data=_STATIC,
        model=ModelConfig(latent_dim=40, hidden=(300, 300)),
        latent=latent,
        objective=objective or ObjectiveConfig(kl_warmup_steps=5000),
        optimizer=OptimizerConfig(schedule="cosine", warmup_steps=500, ema_decay=0.999),
        train=TrainConfig(
            num_steps=40 * 500, batch_size=100, eval_every=500, patience=10
        ),
        evaluation=EvaluationConfig(num_importance_samples=500),
    )


LATENT_PRESETS: dict[str, tuple[str, Config]] = {
    "vae-tabular": (
        "VAE of a table of reals, cells of which may be missing: --data.path FILE.csv.",
        Config(
            preset="vae-tabular",
            data=DataConfig(name="table", observation="density", missing="nan"),
            model=ModelConfig(likelihood="normal", latent_dim=8, hidden=(128,)),
            optimizer=OptimizerConfig(
                schedule="cosine", warmup_steps=100, clip_norm=20.0, ema_decay=0.995
            ),
            train=TrainConfig(
                num_steps=10_000, batch_size=128, eval_every=500, patience=5
            ),
        ),
    ),
    "hvae-digits": (
        "Markov hierarchical VAE of the embedded digits: two layers, bottom-up.",
        Config(
            preset="hvae-digits",
            data=DataConfig(name="digits", observation="levels"),
            model=ModelConfig(
                family="hvae",
                architecture="markov",
                likelihood="categorical",
                hidden=(256,),
                dropout=0.4,
            ),
            latent=LatentConfig(dims=(16, 8), hidden=(64,)),
            objective=ObjectiveConfig(kl_warmup_steps=200),
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                schedule="cosine",
                warmup_steps=100,
                clip_norm=50.0,
                ema_decay=0.995,
            ),
            train=TrainConfig(
                num_steps=6000, batch_size=128, eval_every=100, patience=15
            ),
        ),
    ),
    "hvae-iwae-mnist": (
        "Two stochastic layers of the IWAE paper on static binarised MNIST; K a flag.",
        Config(
            preset="hvae-iwae-mnist",
            data=_STATIC,
            model=ModelConfig(
                family="hvae",
                architecture="markov",
                hidden=(200, 200),
                activation="tanh",
                kernel_init="glorot_uniform",
            ),
            latent=LatentConfig(dims=(100, 50), hidden=(100, 100)),
            objective=ObjectiveConfig(name="iwae", num_samples=50),
            optimizer=OptimizerConfig(
                schedule="cosine", warmup_steps=500, ema_decay=0.999
            ),
            train=TrainConfig(
                num_steps=60 * 500, batch_size=100, eval_every=500, patience=10
            ),
            evaluation=EvaluationConfig(
                num_importance_samples=5000, chunk_size=10, batch_size=100
            ),
        ),
    ),
    "ladder-mnist": (
        "Ladder of 12 layers at three resolutions on static binarised MNIST.",
        Config(
            preset="ladder-mnist",
            data=_STATIC,
            model=ModelConfig(
                family="hvae",
                architecture="ladder",
                hidden=(16,),
                channels=64,
                latent_dim=16,
                num_blocks=2,
                dropout=0.1,
            ),
            objective=ObjectiveConfig(kl_warmup_steps=2000, free_nats=0.5),
            optimizer=_LADDER_OPTIMIZER,
            train=TrainConfig(num_steps=200 * 500, batch_size=100, eval_every=500),
            evaluation=EvaluationConfig(num_elbo_samples=1, chunk_size=1),
        ),
    ),
    "ladder-cifar10": (
        "Ladder of 24 layers of CIFAR-10, a mixture of logistics for each pixel.",
        Config(
            preset="ladder-cifar10",
            data=DataConfig(name="cifar10", observation="levels", num_validation=0),
            model=ModelConfig(
                family="hvae",
                architecture="ladder",
                likelihood="discretized_logistic_mixture",
                hidden=(64,),
                channels=256,
                latent_dim=16,
                num_blocks=4,
            ),
            latent=LatentConfig(sides=(1, 4, 8, 16, 32), layers=(2, 4, 6, 6, 6)),
            optimizer=_LADDER_OPTIMIZER,
            train=TrainConfig(num_steps=1_000_000, batch_size=64, eval_every=5000),
            evaluation=EvaluationConfig(evidence=False, num_elbo_samples=1),
        ),
    ),
    "vae-iaf-mnist": (
        "VAE whose posterior an inverse autoregressive flow reshapes.",
        _static("vae-iaf-mnist", LatentConfig(posterior="iaf", hidden=(320,))),
    ),
    "vae-vamp-mnist": (
        "VAE under a VampPrior: the mixture of its posteriors of learned inputs.",
        _static("vae-vamp-mnist", LatentConfig(prior="vamp")),
    ),
    "vae-static-mnist": (
        "The VAE that vae-iaf-mnist and vae-vamp-mnist are compared with.",
        _static("vae-static-mnist", LatentConfig()),
    ),
    "vae-categorical-mnist": (
        "VAE of categorical latents, by straight-through gradients, scores or VIMCO.",
        _static(
            "vae-categorical-mnist",
            LatentConfig(posterior="categorical"),
            objective=ObjectiveConfig(gradient="straight-through"),
        ),
    ),
}
