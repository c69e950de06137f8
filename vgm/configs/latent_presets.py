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

LATENT_PRESETS: dict[str, tuple[str, Config]] = {
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
                dropout=0.2,
            ),
            latent=LatentConfig(dims=(16, 8), hidden=(64,)),
            objective=ObjectiveConfig(kl_warmup_steps=500),
            optimizer=OptimizerConfig(
                learning_rate=2e-3,
                schedule="cosine",
                warmup_steps=100,
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
}
