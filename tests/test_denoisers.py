"""Networks and heads of diffusions, and a run of one through the scripts."""

import dataclasses
import functools
import json

import compare
import evaluate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample
import train
from compilation import whole
from draws import disturbed, normals

from vgm import models
from vgm.errors import UserError
from vgm.models import denoisers, heads, noise, unets
from vgm.samplers import diffusion as samplers

NETWORKS = {
    "mlp": denoisers.MLPDenoiser(8, 2, 3, exponents=(1, 2)),
    "vdm": unets.VDMUNet(4, 1, 3, exponents=(0,)),
    "ddpm": unets.DDPMUNet(4, (1, 2), 1, (1,), 3),
}


@pytest.mark.parametrize(
    "network",
    [
        NETWORKS["mlp"],
        pytest.param(NETWORKS["vdm"], marks=pytest.mark.slow),
        pytest.param(NETWORKS["ddpm"], marks=pytest.mark.slow),
    ],
    ids=NETWORKS,
)
@pytest.mark.slow
def test_denoisers_are_batch_free_and_start_at_zero(key, network):
    z = normals(key, (3, 4, 4, 2))
    time, context = jnp.asarray([0.0, 0.4, 1.0]), jnp.eye(3)
    params = jax.jit(network.init, static_argnames="train")(
        key, z, time, context, train=False
    )

    @jax.jit
    def both(params):
        def one(z, time, context):
            return network.apply(
                params, z[None], time[None], context[None], train=False
            )[0]

        together = network.apply(params, z, time, context, train=False)
        return together, jax.vmap(one)(z, time, context)

    # Nothing that they are added to changes by a bit.
    start = both(params)[0]
    assert start.shape == (3, 4, 4, 2, 3)
    np.testing.assert_array_equal(start + 1e-20, np.float32(1e-20))
    together, alone = both(disturbed(params))
    assert together.shape == (3, 4, 4, 2, 3)
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)
    # Time and context matter.
    assert not np.allclose(together[0], together[1])


def test_features_are_the_formulas():
    z = jnp.asarray([[0.3, -0.7]])
    got = denoisers.fourier_features(z, (0, 6))
    angles = np.pi * np.asarray([[0.3, -0.7]])
    expected = np.stack(
        [z, *(f(2.0**n * angles) for n in (0, 6) for f in (np.sin, np.cos))], -1
    )
    np.testing.assert_allclose(got, expected, atol=2e-5)
    time = denoisers.time_features(jnp.asarray([0.0, 1.0]), 6)
    np.testing.assert_allclose(time[0], [0, 0, 0, 1, 1, 1], atol=1e-7)
    frequencies = 1e-4 ** np.asarray([0.0, 0.5, 1.0])
    np.testing.assert_allclose(time[1, :3], np.sin(1000.0 * frequencies), atol=1e-4)


def test_an_image_must_have_sides_to_halve(key):
    network = unets.DDPMUNet(4, (1, 1, 1), 1, (), num_outputs=1)

    def init(key, height, width):
        z = jnp.zeros((1, height, width, 1))
        return network.init(key, z, jnp.zeros(1), None, train=False)

    jax.eval_shape(functools.partial(init, height=8, width=4), key)
    with pytest.raises(UserError, match=r"divisible by 4, halved 2 times; got \(8, 6"):
        init(key, 8, 6)
    with pytest.raises(UserError, match=r"needs images .*; these data are \(8, 8\)"):
        unets.require_halvings((8, 8), 2)


def diffusion(degree=0):
    head = heads.head("categorical", levels=4, degree=degree)
    return models.diffusion.Diffusion(
        denoisers.MLPDenoiser(8, 1, head.num_outputs),
        head,
        heads.decoder("categorical", head, levels=4),
        noise.schedule("linear", -4.0, 4.0),
        event_shape=(2,),
        num_steps=3,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_steps", 0), ("train_num_steps", -1), ("num_times", -1), ("chunk_size", 0)],
)
def test_numbers_of_steps_are_numbers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        dataclasses.replace(diffusion(), **{name: value})


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_shares_of_noise_are_shares(eta):
    with pytest.raises(ValueError, match="eta must be from 0 to 1"):
        samplers.ddim_step(eta)


def test_a_diffusion_starts_at_the_posterior_of_each_coordinate_alone(x64, key):
    """Before training x_hat is E[x | z_t] under the frequencies of the data."""
    x = jax.random.randint(key, (40, 2), 0, 4)
    model = diffusion()
    params = jax.jit(model.init)(key, x)
    z, gamma = jnp.asarray([0.4, -0.9]), -0.7
    got = whole(model.chain(params, x[0]).predict)(z, jnp.asarray(gamma))
    values = np.linspace(-1.0, 1.0, 4)
    counts = (np.asarray(x)[..., None] == np.arange(4)).sum(0) + 1.0
    alpha2 = 1 / (1 + np.exp(gamma))
    distance = np.asarray(z)[:, None] - np.sqrt(alpha2) * values
    mass = counts * np.exp(-0.5 * distance**2 / (1 - alpha2))
    expected = (mass * values).sum(-1) / mass.sum(-1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_tilts_are_polynomials_in_the_level(x64):
    tilts = jnp.asarray([[0.5, -1.0, 2.0]])
    got = heads.head("categorical", levels=4, degree=3).expand(tilts)
    values = np.linspace(-1.0, 1.0, 4)
    expected = 0.5 * values - values**2 + 2.0 * values**3
    np.testing.assert_allclose(got[0], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: heads.head("noise", levels=0), r"head must be one of .* got 'noise'"),
        (lambda: heads.head("categorical", levels=0), r"needs data\.observation"),
        (
            lambda: heads.decoder("normal", heads.head("eps", levels=4), levels=4),
            r"decoder must be categorical or discretized_normal for levels",
        ),
        (lambda: noise.schedule("straight", 0.0, 1.0), r"schedule must be one of"),
        (lambda: noise.schedule("linear", 1.0, 1.0), r"less than diffusion.gamma-max"),
    ],
    ids=["head", "no levels", "decoder", "schedule", "ends"],
)
def test_what_cannot_be_is_named(build, message):
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.slow
def test_deterministic_paths_agree_whatever_their_steps(key):
    """Without noise z_0 depends on z_1 alone, and on the number of steps but little."""
    x = jax.random.randint(key, (10, 2), 0, 4)
    params = jax.jit(diffusion(degree=2).init)(key, x)

    def ends(eta, num_steps):
        model = dataclasses.replace(diffusion(2), eta=eta, num_steps=num_steps)
        draw = jax.jit(model.trajectory, static_argnums=2)
        latents, predictions = draw(key, params, 5)
        assert latents.shape == predictions.shape == (5, num_steps, 2)
        return latents[:, -1]

    assert np.abs(ends(0.0, 200) - ends(0.0, 400)).max() < 0.05
    assert np.abs(ends(1.0, 200) - ends(1.0, 400)).max() > 0.3


def test_a_diffusion_of_levels_in_double_precision(x64, key):
    x = jax.random.randint(key, (3, 2), 0, 4)
    model = dataclasses.replace(
        diffusion(), schedule=noise.schedule("learned-linear", -4.0, 4.0)
    )
    params = jax.jit(model.init)(key, x)
    assert jax.jit(model.log_weight)(key, params, x).dtype == jnp.float64
    assert jax.jit(model.elbo_terms)(key, params, x).elbo.dtype == jnp.float64


def test_one_pixel_is_not_normalised_away(key):
    """Groups of one channel each would leave nothing of a feature map of one pixel."""
    block = unets.ResidualBlock(32, 0.0, jnp.float32)
    x, y = normals(key, (2, 1, 1, 1, 32))
    embedding = jnp.zeros((1, 8))
    params = whole(block.init)(key, x, embedding, train=False)
    kernel = params["params"]["Conv_1"]["kernel"]
    params["params"]["Conv_1"]["kernel"] = normals(key, kernel.shape)
    apply = whole(functools.partial(block.apply, train=False))
    branches = [apply(params, v, embedding) - v for v in (x, y)]
    assert np.abs(branches[0] - branches[1]).max() > 0.1


QUICK = {
    "--train.num-steps": 4,
    "--train.eval-every": 2,
    "--model.hidden": 8,
    "--optimizer.warmup-steps": 0,
    "--diffusion.num-steps": 5,
    "--evaluation.num-importance-samples": 3,
}


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param("", marks=pytest.mark.slow),
        pytest.param(
            "--diffusion.schedule monotone --objective.gradient least-variance"
            " --model.conditional --diffusion.eta 0",
            marks=pytest.mark.slow,
        ),
        "--objective.name weighted --diffusion.num-times 2 --evaluation.no-evidence",
    ],
    ids=["bound", "least variance", "weighted"],
)
@pytest.mark.slow
def test_a_diffusion_runs_through_the_scripts(tmp_path, capsys, extra):
    run_dir = tmp_path / "run"
    quick = [str(part) for pair in QUICK.items() for part in pair]
    flags = [*quick, *extra.split(), "--run-dir", str(run_dir)]
    assert train.main(["vdm-digits", *flags]) == 0
    result = json.loads((run_dir / "result.json").read_text())
    parts = ("reconstruction", "prior_matching", "denoising_matching")
    terms = [result[f"{name}_nats"] for name in parts]
    np.testing.assert_allclose(
        result["elbo_nats"], terms[0] - terms[1] - terms[2], rtol=1e-5
    )
    assert result["num_steps"] == 5
    assert result["model"] == "diffusion (mlp)"
    weighted = "weighted" in extra
    assert len(result["denoising_matching_by_step"]) == (0 if weighted else 5)
    assert result["num_times"] == (2 if weighted else 0)
    assert (run_dir / "steps.png").exists() == (not weighted)
    source = "elbo" if weighted else "log_evidence"
    assert result["bits_per_dim_of"] == source
    bits = -result[f"{source}_nats"] / (64 * np.log(2.0))
    np.testing.assert_allclose(result["bits_per_dim"], bits, rtol=1e-6)
    assert sample.main([str(run_dir), "--num-samples", "4"]) == 0
    # Whatever depends on T says of which.
    report = (run_dir / "report.html").read_text()
    training = "infinitely many steps, on validation of T = 5"
    error = "The bound of validation. The error that training makes small."
    assert (error if weighted else training) in report
    by_ddim = "Draws by DDIM of T = 5 steps with eta = 0: not of the p(x | label)"
    draws = by_ddim if "eta 0" in extra else "Draws x ~ p(x) of T = 5 steps"
    assert draws in report
    capsys.readouterr()
    assert compare.main([str(run_dir)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "T = 5" in printed
    assert ("2 of 5 steps, drawn" in report) == weighted
    if weighted:
        capsys.readouterr()
        assert evaluate.main([str(run_dir)]) == 0
        assert "T = 5 steps" in capsys.readouterr().out
