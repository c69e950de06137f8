"""Presets of flows and of autoregressive models."""

from vgm.configs.schema import (
    Architecture,
    Config,
    DataConfig,
    EvaluationConfig,
    FlowConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    TrainConfig,
)

_DIGITS = DataConfig(name="digits", observation="levels")
_OPTIMIZER = OptimizerConfig(
    learning_rate=1e-3, schedule="cosine", warmup_steps=100, ema_decay=0.995
)
_DIGITS_TRAIN = TrainConfig(num_steps=4000, batch_size=128, eval_every=200, patience=5)
_EXACT = EvaluationConfig(evidence=False, num_elbo_samples=1)
"""log p(x) is exact: one draw says all."""


def _digits(
    architecture: Architecture, what: str, hidden: int, *, num_layers: int
) -> tuple[str, Config]:
    config = Config(
        preset=f"{architecture.removesuffix('-coupling')}-digits",
        data=_DIGITS,
        model=ModelConfig(
            family="flow", architecture=architecture, hidden=(hidden,), dropout=0.3
        ),
        flow=FlowConfig(num_layers=num_layers),
        optimizer=_OPTIMIZER,
        train=_DIGITS_TRAIN,
    )
    return f"{what} of the embedded digits, uniformly dequantised.", config


FLOW_PRESETS: dict[str, tuple[str, Config]] = {
    "realnvp-digits": _digits("realnvp", "RealNVP", 128, num_layers=8),
    "nsf-digits": _digits("nsf-coupling", "Neural spline flow", 128, num_layers=4),
    "maf-digits": _digits("maf", "Masked autoregressive flow", 256, num_layers=5),
    "glow-mnist": (
        "Glow of MNIST's 256 levels; hours without an accelerator.",
        Config(
            preset="glow-mnist",
            data=DataConfig(name="mnist", observation="levels"),
            model=ModelConfig(family="flow", architecture="glow", hidden=(64,)),
            flow=FlowConfig(num_layers=8, num_levels=2),
            optimizer=OptimizerConfig(
                schedule="cosine", warmup_steps=500, clip_norm=50.0, ema_decay=0.999
            ),
            train=TrainConfig(num_steps=40 * 430, eval_every=430, patience=10),
            evaluation=EvaluationConfig(num_importance_samples=16, num_elbo_samples=1),
        ),
    ),
    "made-mnist": (
        "MADE of binarised MNIST (Germain et al. 2015): the likelihood is exact.",
        Config(
            preset="made-mnist",
            data=DataConfig(name="binarized_mnist", observation="binary"),
            model=ModelConfig(
                family="autoregressive",
                architecture="made",
                hidden=(4000,),
                dropout=0.3,
            ),
            optimizer=OptimizerConfig(
                schedule="cosine", warmup_steps=500, ema_decay=0.999
            ),
            train=TrainConfig(
                num_steps=30 * 500, batch_size=100, eval_every=500, patience=5
            ),
            evaluation=_EXACT,
        ),
    ),
    "flow-2d": (
        "Neural spline flow of a density in the plane; see density.png.",
        Config(
            preset="flow-2d",
            data=DataConfig(name="two-moons", observation="density"),
            model=ModelConfig(
                family="flow", architecture="nsf-coupling", hidden=(64, 64)
            ),
            flow=FlowConfig(num_layers=4),
            optimizer=OptimizerConfig(
                learning_rate=2e-3, schedule="cosine", warmup_steps=100, ema_decay=0.99
            ),
            train=TrainConfig(
                num_steps=3000, batch_size=512, eval_every=500, patience=0
            ),
            evaluation=_EXACT,
        ),
    ),
    "cnf-2d": (
        "Continuous flow of a density in the plane, trained by flow matching.",
        Config(
            preset="cnf-2d",
            data=DataConfig(name="checkerboard", observation="density"),
            model=ModelConfig(
                family="flow",
                architecture="continuous",
                hidden=(128, 128, 128),
                activation="silu",
            ),
            objective=ObjectiveConfig(name="flow-matching"),
            optimizer=OptimizerConfig(
                learning_rate=2e-3, schedule="cosine", warmup_steps=100, ema_decay=0.999
            ),
            train=TrainConfig(num_steps=10_000, batch_size=512, eval_every=5000),
            evaluation=_EXACT,
        ),
    ),
    "flow-target-2d": (
        "Neural spline flow fitted to an unnormalised density: its normaliser Z.",
        Config(
            preset="flow-target-2d",
            data=DataConfig(name="nothing", observation="density"),
            model=ModelConfig(
                family="flow", architecture="nsf-coupling", hidden=(64, 64)
            ),
            # Beyond its bins a spline is the identity: the target must lie within.
            flow=FlowConfig(num_layers=4, tail_bound=10.0, target="banana"),
            optimizer=OptimizerConfig(
                learning_rate=2e-3, schedule="cosine", warmup_steps=100, ema_decay=0.99
            ),
            train=TrainConfig(num_steps=2000, batch_size=512, eval_every=500),
        ),
    ),
    "nsf-tabular": (
        "Neural spline flow of a table of reals: --data.path FILE.csv or .npz.",
        Config(
            preset="nsf-tabular",
            data=DataConfig(name="table", observation="density"),
            model=ModelConfig(
                family="flow",
                architecture="nsf-coupling",
                hidden=(128, 128),
                dropout=0.1,
            ),
            flow=FlowConfig(num_layers=6),
            optimizer=OptimizerConfig(
                learning_rate=5e-4,
                schedule="cosine",
                warmup_steps=100,
                clip_norm=5.0,
                ema_decay=0.995,
            ),
            train=TrainConfig(
                num_steps=10_000, batch_size=256, eval_every=500, patience=5
            ),
            evaluation=_EXACT,
        ),
    ),
}
