"""Hierarchies, priors and posteriors through the scripts: reports, collapse, input."""

import dataclasses
import json
import math
import shutil

import evaluate
import jax.numpy as jnp
import numpy as np
import pytest
import sample
import train
from bad_input import check_one_line
from small import trained

import vgm
from vgm import configs
from vgm.experiment import fitting
from vgm.training.step import StepMetrics, TrainState

SHORT = ["--train.num-steps", "40", "--train.eval-every", "20"]
FEW = ["--evaluation.num-importance-samples", "4", "--evaluation.chunk-size", "2"]
SMALL = [*SHORT, *FEW, "--model.hidden", "8"]
NARROW = ["--latent.hidden", "8"]
THREE = ["--model.latent-dim", "3"]


def bits_archive(tmp_path, side=4):
    """Images of bits, each row as the one above with a little noise."""
    rng = np.random.default_rng(0)
    first = rng.random((400, 1, side, 1)) < 0.5
    x = np.repeat(first, side, axis=1) ^ (rng.random((400, side, side, 1)) < 0.05)
    archive = tmp_path / "bits.npz"
    np.savez(
        archive,
        x_train=x[:300].astype(np.uint8),
        x_test=x[300:].astype(np.uint8),
        levels=2,
    )
    return ["--data.path", str(archive), "--data.num-validation", "50"]


def test_a_hierarchy_from_flags_to_a_report(tmp_path, capsys):
    """Its terms by layer stand in the result, the table and a picture."""
    arguments = ["hvae-digits", *SMALL, *NARROW, "--latent.dims", "4", "3", "2"]
    run_dir, result = trained(tmp_path, arguments)
    assert result["model"] == "hvae (markov)"
    assert len(result["denoising_matching_by_step"]) == 2
    total = sum(result["denoising_matching_by_step"])
    np.testing.assert_allclose(total, result["denoising_matching_nats"], rtol=1e-5)
    elbo = result["reconstruction_nats"] - result["prior_matching_nats"] - total
    np.testing.assert_allclose(result["elbo_nats"], elbo, rtol=1e-5)
    assert "by layer below the top, z_1 first" in capsys.readouterr().out
    assert (run_dir / "layers.png").stat().st_size > 5000
    assert "Layers" in (run_dir / "report.html").read_text()


@pytest.mark.slow
def test_what_follows_a_hierarchy(tmp_path, capsys):
    """Surgery, samples, and training that goes on from it, and only from a like one."""
    arguments = ["hvae-digits", *SMALL, *NARROW, "--latent.dims", "4", "3", "2"]
    run_dir, result = trained(tmp_path, arguments)
    output = tmp_path / "surgery.json"
    assert evaluate.main([str(run_dir), "--surgery", "--output", str(output)]) == 0
    parts = json.loads(output.read_text())
    # Drawn divergences, and the same draws of them: one number.
    matching = parts["prior_matching_nats"] + parts["denoising_matching_nats"]
    np.testing.assert_allclose(parts["average_kl_nats"], matching, rtol=1e-5)
    assert sample.main([str(run_dir), "--output", str(tmp_path / "drawn")]) == 0
    further = [*arguments, "--train.init-from", str(run_dir)]
    _, again = trained(tmp_path, further, "further")
    assert again["validation_bound_nats"] > result["validation_bound_nats"]
    capsys.readouterr()
    other = ["hvae-digits", *SMALL, *NARROW, "--train.init-from", str(run_dir)]
    assert train.main([*other, "--run-dir", str(tmp_path / "other")]) == 2
    assert "it is of another model or form of data" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    # Once begun, a run no longer needs the one that it began from.
    shutil.rmtree(run_dir)
    begun = [*further, "--run-dir", str(tmp_path / "further"), "--resume"]
    assert train.main(begun) == 0


@pytest.mark.slow
def test_validation_is_never_what_a_source_was_trained_on(tmp_path, capsys):
    arguments = ["vae-digits", *SMALL, "--model.latent-dim", "2"]
    whole = ["--data.train-on-validation", "--train.patience", "0"]
    run_dir, result = trained(tmp_path, [*arguments, *whole])
    assert result["validation_bound_nats"] is None
    from_it = ["--train.init-from", str(run_dir)]
    other = ["--run-dir", str(tmp_path / "other")]
    assert train.main([*arguments, *from_it, *other]) == 2
    assert "examples that are validation here" in capsys.readouterr().err
    trained(tmp_path, [*arguments, *whole, *from_it], "further")
    # The same data under another name are the same data.
    x = np.random.default_rng(0).integers(0, 17, (40, 4))
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x[:5], levels=17)
    arguments += ["--data.path", str(tmp_path / "own.npz")]
    none = ["--data.num-validation", "0", "--train.patience", "0"]
    run_dir, _ = trained(tmp_path, [*arguments, *none], "own")
    some = ["--data.num-validation", "5", "--data.name", "mine"]
    from_it = ["--train.init-from", str(run_dir)]
    # A tenth of 40 examples are 4, if nothing is said.
    for held_out in (some, some[2:]):
        assert train.main([*arguments, *held_out, *from_it, *other]) == 2
        assert "examples that are validation here" in capsys.readouterr().err
    fewer = ["--data.num-validation", "3", "--train.patience", "0"]
    trained(tmp_path, arguments, "tenth")
    from_tenth = ["--train.init-from", str(tmp_path / "tenth")]
    trained(tmp_path, [*arguments, *fewer, *from_tenth], "fewer")
    assert train.main([*arguments, *some, *from_tenth, *other]) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        [
            *("hvae-iwae-mnist", "--objective.gradient", "dreg", "--latent.dims", "3"),
            *("2", *NARROW),
        ],
        ["vae-iaf-mnist", *THREE, *NARROW],
        ["vae-iaf-mnist", "--latent.posterior", "spline", *THREE, *NARROW],
        ["vae-vamp-mnist", "--latent.num-components", "5", *THREE],
        ["vae-vamp-mnist", "--latent.prior", "autoregressive", *THREE, *NARROW],
        [
            *("vae-static-mnist", "--latent.posterior", "full", "--latent.prior"),
            *("flow", *THREE, *NARROW),
        ],
        ["vae-categorical-mnist", *THREE],
        [
            *("vae-categorical-mnist", "--objective.name", "iwae"),
            *("--objective.gradient", "vimco", *THREE),
        ],
    ],
    ids=lambda arguments: "-".join(word.strip("-") for word in arguments[:3]),
)
def test_presets_train_to_a_report(tmp_path, arguments):
    preset, *flags = arguments
    data = bits_archive(tmp_path)
    samples = ["--objective.num-samples", "3"]
    run_dir, result = trained(
        tmp_path, [preset, *data, *SMALL, *samples, *flags, "--train.batch-size", "50"]
    )
    assert math.isfinite(result["log_evidence_nats"])
    assert result["elbo_nats"] > result["baseline_nats"] - 5
    vgm.load(run_dir)


LADDER = [
    *SHORT,
    *FEW,
    *("--model.hidden", "4", "--model.channels", "8", "--model.latent-dim", "2"),
    *("--model.num-blocks", "1", "--latent.sides", "1", "2", "--latent.layers"),
    *("1", "2"),
]


@pytest.mark.slow
def test_ladders_train_to_a_report(tmp_path):
    data = bits_archive(tmp_path)
    arguments = ["ladder-mnist", *data, *LADDER, "--train.batch-size", "50"]
    _, result = trained(tmp_path, arguments)
    assert len(result["denoising_matching_by_step"]) == 2
    assert result["elbo_nats"] <= result["log_evidence_nats"] + 0.2
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "colours.npz", x_train=x[:40], x_test=x[40:], levels=256)
    data = ["--data.path", str(tmp_path / "colours.npz"), "--train.batch-size", "20"]
    _, result = trained(tmp_path, ["ladder-cifar10", *data, *LADDER], "colours")
    # Uniform bytes: no model of them is better than 8 bits, this one is near.
    assert 7.9 < result["bits_per_dim"] < 9.5


@pytest.mark.slow
def test_collapse_is_seen_and_prevented(tmp_path):
    """A ladder whose layers all fall silent; free nats or warm-up keep them awake."""
    arguments = [
        *("hvae-digits", "--model.architecture", "ladder", "--model.channels", "16"),
        *("--model.hidden", "8", "--model.latent-dim", "2", "--model.num-blocks", "1"),
        *("--model.dropout", "0", "--latent.sides", "2", "4", "--latent.layers", "2"),
        *("2", "--train.batch-size", "32", "--train.num-steps", "400"),
        *("--train.eval-every", "200", "--optimizer.learning-rate", "5e-3"),
        *("--optimizer.schedule", "constant", "--optimizer.warmup-steps", "0"),
        *("--optimizer.ema-decay", "0", *FEW),
    ]

    def layers(name, free_nats, warmup_steps):
        flags = ["--objective.free-nats", free_nats]
        flags += ["--objective.kl-warmup-steps", warmup_steps]
        _, result = trained(tmp_path, [*arguments, *flags], name)
        terms = [*result["denoising_matching_by_step"], result["prior_matching_nats"]]
        # What is reported is the bound, whatever was trained.
        elbo = result["reconstruction_nats"] - sum(terms)
        np.testing.assert_allclose(result["elbo_nats"], elbo, rtol=1e-4)
        return terms, result["elbo_nats"]

    collapsed, worst = layers("collapsed", "0", "0")
    assert max(collapsed) < 0.01
    kept, better = layers("kept", "1", "0")
    assert min(kept) > 0.8
    warmed, also_better = layers("warmed", "0", "300")
    assert sum(warmed) > 5
    assert min(better, also_better) > worst + 4


BAD_INPUT = {
    "no layers": (
        ["hvae-digits", "--latent.dims"],
        r"latent\.dims must be one size of at least 1 for each layer; got \(\)",
    ),
    "no components": (
        ["vae-digits", "--latent.prior", "vamp", "--latent.num-components", "0"],
        r"latent\.num-components must be at least 1; got 0",
    ),
    "one category": (
        ["vae-digits", "--latent.num-categories", "1"],
        r"latent\.num-categories must be at least 2; got 1",
    ),
    "a cold softmax": (
        ["vae-digits", "--latent.temperature", "0"],
        r"latent\.temperature must be positive; got 0",
    ),
    "free nats below none": (
        ["vae-digits", "--objective.free-nats", "-1"],
        r"objective\.free-nats must be at least 0; got -1",
    ),
    "free nats of a diffusion": (
        ["vdm-digits", "--objective.free-nats", "1"],
        r"kl-warmup-steps and free-nats are for model\.family 'vae' and 'hvae'",
    ),
    "free nats of signed terms": (
        ["hvae-digits", "--objective.free-nats", "1"],
        r"free-nats must be 0 for model\.architecture 'markov': its layers' terms are",
    ),
    "warm-up of weights": (
        [
            *("vae-digits", "--model.dropout", "0", "--objective.name", "iwae"),
            *("--objective.kl-warmup-steps", "10"),
        ],
        r"kl-warmup-steps and free-nats need objective\.name 'elbo'",
    ),
    "categories by the pathwise gradient": (
        ["vae-digits", "--latent.posterior", "categorical"],
        r"latent\.posterior 'categorical' needs .* categories are not reparameterised",
    ),
    "straight through a normal": (
        ["vae-digits", "--objective.gradient", "straight-through"],
        r"'straight-through' needs latent\.posterior 'categorical'; use pathwise",
    ),
    "a vamp of flows": (
        ["vae-digits", "--latent.prior", "vamp", "--latent.posterior", "iaf"],
        r"latent\.prior 'vamp' needs latent\.posterior 'diagonal'",
    ),
    "a vamp on top": (
        ["hvae-digits", "--latent.prior", "vamp"],
        r"latent\.prior 'vamp' needs model\.family 'vae'",
    ),
    "a flow in a hierarchy": (
        ["hvae-digits", "--latent.posterior", "iaf"],
        r"latent\.posterior must be diagonal or full for model\.family 'hvae'",
    ),
    "a prior of a flow": (
        ["nsf-digits", "--latent.prior", "mixture"],
        r"latent\.prior is for model\.family vae or hvae alone; with .* 'flow' nothing",
    ),
    "coupling one number": (
        ["vae-digits", "--latent.posterior", "spline", "--model.latent-dim", "1"],
        r"latent\.posterior 'spline' needs model\.latent-dim of at least 2; use iaf",
    ),
    "resolutions without layers": (
        ["ladder-mnist", "--latent.layers", "2"],
        r"latent\.sides and latent\.layers must be as many",
    ),
    "sides that do not divide": (
        ["ladder-mnist", "--data.name", "digits", "--latent.sides", "1", "3", "6"],
        r"needs square images .* got \(8, 8, 1\) and \(1, 3, 6\)",
    ),
    "a start that is not there": (
        ["vae-digits", "--train.init-from", "nowhere"],
        r"nowhere holds no run",
    ),
}


@pytest.mark.parametrize("name", BAD_INPUT)
def test_bad_input_gets_one_line(tmp_path, capsys, name):
    check_one_line(tmp_path, capsys, *BAD_INPUT[name])


@pytest.mark.parametrize("preset", ["hvae-iwae-mnist", "ladder-cifar10"])
def test_presets_are_valid(preset):
    config = configs.PRESETS[preset][1]
    configs.validate(config)
    assert configs.from_dict(configs.to_dict(config)) == config


@pytest.mark.parametrize(
    ("skip_norm", "skipped", "in_a_row", "progresses"),
    [
        ("0", 5, 5, False),
        ("0", 4, 0, True),
        ("1", 5, 5, True),
        ("1", 10, 10, True),
        ("1", 11, 11, False),
    ],
)
def test_what_counts_as_divergence(skip_norm, skipped, in_a_row, progresses):
    """Skipped for their size are ten in a row at most; without a limit, none."""
    config = configs.PRESETS["vae-digits"][1]
    optimizer = dataclasses.replace(config.optimizer, skip_norm=float(skip_norm))
    config = dataclasses.replace(config, optimizer=optimizer)
    metrics = StepMetrics(*[jnp.zeros(())] * 6, jnp.asarray(float(skipped)))
    state = TrainState(jnp.asarray(0), {}, None, (), jnp.asarray(in_a_row))
    steps = max(skipped, 5)
    assert fitting._progresses(config, metrics, state, steps) == progresses
