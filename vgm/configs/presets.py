"""The presets: complete configurations by name."""

import dataclasses

from vgm.configs.flow_presets import FLOW_PRESETS
from vgm.configs.latent_presets import LATENT_PRESETS
from vgm.configs.schema import (
    Config,
    DataConfig,
    DiffusionConfig,
    EvaluationConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

EPOCH = 469
"""Steps in an epoch of MNIST's 60,000 training images at batch size 128."""

_GREY_MNIST = DataConfig(name="mnist", observation="grey-bernoulli", num_validation=0)

_DDPM = DiffusionConfig(
    schedule="ddpm",
    head="eps",
    decoder="discretized_normal",
    # The paper's x_1 .. x_1000 are 1000 latents: 999 steps. Trained at all times, for
    # x_1 is the start of none.
    num_steps=999,
    train_num_steps=0,
    num_times=32,
)
_VDM_OPTIMIZER = OptimizerConfig(
    learning_rate=2e-4,
    warmup_steps=100,
    b2=0.99,
    weight_decay=0.01,
    ema_decay=0.9999,
)

PRESETS: dict[str, tuple[str, Config]] = {
    "vae-digits": (
        "Embedded 8x8 digits, categorical likelihood; under a minute on a laptop.",
        Config(
            preset="vae-digits",
            data=DataConfig(name="digits", observation="levels"),
            model=ModelConfig(
                likelihood="categorical", latent_dim=16, hidden=(256,), dropout=0.2
            ),
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
    "vae-mnist": (
        "The classic example: 784-400-20-400-784, Bernoulli on grey pixels, Adam 1e-3.",
        Config(
            preset="vae-mnist",
            data=_GREY_MNIST,
            train=TrainConfig(num_steps=10 * EPOCH, eval_every=EPOCH),
            evaluation=EvaluationConfig(num_importance_samples=50, num_elbo_samples=1),
        ),
    ),
    "vae-mnist-modern": (
        "The classic network with warm-up, a cosine schedule and averaged parameters.",
        Config(
            preset="vae-mnist-modern",
            data=_GREY_MNIST,
            optimizer=OptimizerConfig(
                learning_rate=2e-3, schedule="cosine", warmup_steps=200, ema_decay=0.999
            ),
            train=TrainConfig(num_steps=10 * EPOCH, eval_every=EPOCH),
            evaluation=EvaluationConfig(num_importance_samples=50, num_elbo_samples=1),
        ),
    ),
    "iwae-mnist": (
        "One stochastic layer of the IWAE paper (Burda et al. 2016); K as a flag.",
        Config(
            preset="iwae-mnist",
            data=DataConfig(
                name="mnist",
                observation="binary",
                binarization="dynamic",
                num_validation=400,
            ),
            model=ModelConfig(
                latent_dim=50,
                hidden=(200, 200),
                activation="tanh",
                kernel_init="glorot_uniform",
            ),
            objective=ObjectiveConfig(name="iwae", num_samples=5),
            # The paper adds 1e-4 with gradients summed over its batch of 20.
            optimizer=OptimizerConfig(schedule="staged", eps=5e-6),
            train=TrainConfig(num_steps=3280 * 2980, batch_size=20, eval_every=2980),
            evaluation=EvaluationConfig(num_importance_samples=5000),
        ),
    ),
    "vae-conv-mnist": (
        "Convolutional encoder and decoder on binarised MNIST.",
        Config(
            preset="vae-conv-mnist",
            data=DataConfig(name="mnist", observation="binary", binarization="dynamic"),
            model=ModelConfig(
                architecture="conv",
                latent_dim=32,
                hidden=(256,),
                channels=16,
            ),
            optimizer=OptimizerConfig(
                schedule="cosine", warmup_steps=200, ema_decay=0.999
            ),
            train=TrainConfig(num_steps=20 * 430, eval_every=430, patience=10),
        ),
    ),
    "cvae-mnist": (
        "The classic network conditional on the digit's label, on binarised MNIST.",
        Config(
            preset="cvae-mnist",
            data=DataConfig(name="mnist", observation="binary", binarization="dynamic"),
            model=ModelConfig(conditional=True),
            optimizer=OptimizerConfig(
                learning_rate=2e-3, schedule="cosine", warmup_steps=200, ema_decay=0.999
            ),
            train=TrainConfig(num_steps=20 * 430, eval_every=430, patience=10),
        ),
    ),
    "vdm-digits": (
        "Variational diffusion of the embedded digits, categorical head; 4 minutes.",
        Config(
            preset="vdm-digits",
            data=DataConfig(name="digits", observation="levels"),
            model=ModelConfig(family="diffusion", hidden=(256, 256, 256), dropout=0.4),
            diffusion=DiffusionConfig(
                head="categorical",
                degree=3,
                gamma_min=-4.0,
                gamma_max=5.0,
                num_steps=250,
                chunk_size=25,
            ),
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                schedule="cosine",
                warmup_steps=100,
                ema_decay=0.99,
            ),
            train=TrainConfig(
                num_steps=6000, batch_size=128, eval_every=500, patience=3
            ),
            evaluation=EvaluationConfig(
                num_importance_samples=16, num_elbo_samples=2, chunk_size=4
            ),
        ),
    ),
    "ddpm-digits": (
        "DDPM's betas, steps and simple loss on the digits, with a categorical head.",
        Config(
            preset="ddpm-digits",
            data=DataConfig(name="digits", observation="levels"),
            model=ModelConfig(family="diffusion", hidden=(256, 256), dropout=0.3),
            diffusion=dataclasses.replace(
                _DDPM, head="categorical", degree=3, decoder="categorical"
            ),
            objective=ObjectiveConfig(name="weighted", weighting="simple"),
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                schedule="cosine",
                warmup_steps=100,
                ema_decay=0.995,
            ),
            train=TrainConfig(
                num_steps=3000, batch_size=128, eval_every=500, patience=4
            ),
            evaluation=EvaluationConfig(
                num_importance_samples=4, num_elbo_samples=4, chunk_size=4
            ),
        ),
    ),
    "vdm-mnist": (
        "Variational diffusion of MNIST's 256 levels, categorical head; an hour or so.",
        Config(
            preset="vdm-mnist",
            data=DataConfig(name="mnist", observation="levels"),
            model=ModelConfig(family="diffusion", hidden=(512, 512, 512), dropout=0.1),
            diffusion=DiffusionConfig(
                head="categorical",
                degree=3,
                gamma_min=-6.0,
                gamma_max=5.0,
                num_steps=500,
                num_times=8,
            ),
            optimizer=OptimizerConfig(
                learning_rate=1e-3,
                schedule="cosine",
                warmup_steps=100,
                ema_decay=0.995,
            ),
            train=TrainConfig(
                num_steps=10_000, batch_size=64, eval_every=500, patience=5
            ),
            evaluation=EvaluationConfig(
                evidence=False, num_elbo_samples=1, batch_size=100
            ),
        ),
    ),
    "vdm-cifar10": (
        "Variational diffusion of CIFAR-10 as published (Kingma et al. 2021).",
        Config(
            preset="vdm-cifar10",
            data=DataConfig(name="cifar10", observation="levels", num_validation=0),
            model=ModelConfig(
                family="diffusion",
                architecture="vdm-unet",
                channels=128,
                num_blocks=32,
                fourier=(7, 8),
                dropout=0.1,
            ),
            diffusion=DiffusionConfig(
                schedule="learned-linear", num_times=8, chunk_size=1
            ),
            optimizer=_VDM_OPTIMIZER,
            train=TrainConfig(num_steps=10_000_000, batch_size=128, eval_every=10_000),
            evaluation=EvaluationConfig(evidence=False, num_elbo_samples=1),
        ),
    ),
    "ddpm-cifar10": (
        "DDPM of CIFAR-10 (Ho et al. 2020), with the lesser of its two variances.",
        Config(
            preset="ddpm-cifar10",
            data=DataConfig(
                name="cifar10", observation="levels", num_validation=0, mirror=True
            ),
            model=ModelConfig(
                family="diffusion",
                architecture="ddpm-unet",
                channels=128,
                num_blocks=2,
                multipliers=(1, 2, 2, 2),
                attention=(1,),
                dropout=0.1,
            ),
            diffusion=dataclasses.replace(_DDPM, num_times=8, chunk_size=1),
            objective=ObjectiveConfig(name="weighted", weighting="simple"),
            # The paper clips at 1 the gradient of a mean over 3072 numbers.
            optimizer=OptimizerConfig(
                learning_rate=2e-4,
                warmup_steps=5000,
                clip_norm=3072.0,
                ema_decay=0.9999,
            ),
            train=TrainConfig(num_steps=800_000, batch_size=128, eval_every=10_000),
            evaluation=EvaluationConfig(evidence=False, num_elbo_samples=1),
        ),
    ),
    **LATENT_PRESETS,
    **FLOW_PRESETS,
}
