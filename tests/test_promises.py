"""What pages and docstrings promise of a run, and what would go unseen if it broke."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from draws import normals
from small import changed, small_diffusion, small_vae

from vgm import cli, configs, models
from vgm.bijections import continuous
from vgm.bounds import importance
from vgm.errors import UserError
from vgm.evaluation import likelihood
from vgm.experiment import events
from vgm.models import flows
from vgm.processes import times
from vgm.training import objective
from vgm.types import Batch

SLOW = pytest.mark.slow


def test_the_evidence_encodes_an_example_once(key):
    """By ``log_weight`` every draw would encode again."""
    vae = small_vae()
    x = jnp.ones((3, 6))
    params = jax.jit(vae.init)(key, x)

    class Counted(type(vae)):
        def log_weight(self, *given):
            raise AssertionError("encodes with every draw")

    model = Counted(**{name: getattr(vae, name) for name in vae.__dataclass_fields__})
    sums = jax.jit(
        lambda: likelihood.batch_evidence(
            key, params, x, None, model=model, num_samples=5, chunk_size=2
        )
    )()
    assert np.isfinite(importance.log_evidence(sums)).all()


def evenly(given):
    """Whether times are (u + i / n) mod 1."""
    gaps = np.diff(np.sort(np.asarray(given)))
    return np.allclose(gaps, 1.0 / len(given), atol=1e-5)


@pytest.fixture
def seen_times(monkeypatch):
    """The times that models draw for a batch."""
    seen, draw = [], times.low_discrepancy_times

    def keep(key, num_times):
        drawn = draw(key, num_times)
        jax.debug.callback(lambda t: seen.append(np.asarray(t)), drawn)
        return drawn

    monkeypatch.setattr(times, "low_discrepancy_times", keep)
    return seen


def flow_matching_model():
    return flows.flow(
        flows.continuous((2,), flows.Step((6,), "silu"), 1), event_shape=(2,)
    )


def test_eps_says_nothing_of_x_without_a_signal():
    """A finite bound and samples of NaN, else."""
    for last in (20.0, 25.0):
        with pytest.raises(UserError, match=rf"gamma\(1\) below 20.*got {last:g}"):
            small_diffusion(head="eps", last=last)
        small_diffusion(head="v", last=last)
    small_diffusion(head="eps", last=19.9)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("cosine", "monotone") else pytest.param(name, marks=SLOW)
        for name in models.noise.SCHEDULES
    ],
)
def test_a_diffusion_of_eps_can_be_built_under_jit(key, name):
    @jax.jit
    def bound(x):
        model = small_diffusion(name, head="eps")
        return model.training_terms(key, model.init(key, x), x).elbo

    assert np.isfinite(bound(normals(key, (3, 2)))).all()


def weighted(model, key, params, x):
    batch = Batch(x, None, jnp.ones(len(x)))
    return objective.weighted_error(model, weighting="simple")(key, params, batch)


@pytest.mark.parametrize(
    ("model", "compute"),
    [
        (small_diffusion(), lambda m, *given: m.training_terms(*given)),
        (
            small_diffusion(num_times=7),
            lambda m, *given: m.elbo_terms(*given),
        ),
        (small_diffusion(), weighted),
        (flow_matching_model(), lambda m, *given: m.matching_error(*given)),
    ],
    ids=["training", "evaluation", "weighted error", "flow matching"],
)
def test_batches_have_evenly_spread_times(key, seen_times, model, compute):
    x = normals(key, (9, 2))
    params = jax.jit(model.init)(key, x)
    jax.block_until_ready(jax.jit(lambda: compute(model, key, params, x))())
    jax.effects_barrier()
    assert seen_times
    assert all(evenly(found) for found in seen_times)
    # A weighted error is of the times of the bound's terms, which it draws once more.
    if compute is weighted:
        assert len(seen_times) == 2
        np.testing.assert_array_equal(*seen_times)


def test_fourier_features_are_exact_in_a_bfloat16_network(key, monkeypatch):
    """2^8 pi z in bfloat16 would be off by whole turns."""
    seen, features = [], models.denoisers.fourier_features

    def keep(z, exponents):
        seen.append(features(z, exponents))
        return seen[-1]

    monkeypatch.setattr(models.denoisers, "fourier_features", keep)
    network = models.denoisers.MLPDenoiser(
        8, 1, 1, exponents=(7, 8), dtype=jnp.bfloat16
    )
    z = normals(key, (4, 3))
    given = z, jnp.linspace(0.0, 1.0, 4), None
    params = network.init(key, *given, train=False)
    assert network.apply(params, *given, train=False).dtype == jnp.float32
    assert seen[0].dtype == jnp.float32
    angle = 2.0**8 * np.pi * np.asarray(z, np.float64)
    np.testing.assert_allclose(seen[-1][..., 3], np.sin(angle), atol=1e-3)


def test_compiled_programs_are_kept(monkeypatch, tmp_path):
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        cli.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "vgm" / "xla")
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "mine")
        jax.config.update("jax_compilation_cache_dir", "mine")
        cli.enable_compilation_cache()
        assert jax.config.jax_compilation_cache_dir == "mine"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


PUBLISHED = {
    # The authors' configuration (Kingma et al. 2021).
    "vdm-cifar10": {
        "model.channels": 128,
        "model.num_blocks": 32,
        "model.fourier": (7, 8),
        "model.dropout": 0.1,
        "diffusion.gamma_min": -13.3,
        "diffusion.gamma_max": 5.0,
        "diffusion.train_num_steps": 0,
        "optimizer.learning_rate": 2e-4,
        "optimizer.b2": 0.99,
        "optimizer.weight_decay": 0.01,
        "optimizer.warmup_steps": 100,
        "optimizer.ema_decay": 0.9999,
        "optimizer.clip_norm": 0.0,
        "train.batch_size": 128,
    },
    # Ho et al. (2020, appendix B); the clip is of the sum over 32 x 32 x 3 numbers.
    "ddpm-cifar10": {
        "model.channels": 128,
        "model.num_blocks": 2,
        "model.multipliers": (1, 2, 2, 2),
        "model.attention": (1,),
        "model.dropout": 0.1,
        "data.mirror": True,
        "optimizer.learning_rate": 2e-4,
        "optimizer.warmup_steps": 5000,
        "optimizer.clip_norm": 32.0 * 32 * 3,
        "optimizer.ema_decay": 0.9999,
        "train.batch_size": 128,
        "train.num_steps": 800_000,
    },
    # Burda et al. (2016, section 5): Adam's eps of 1e-4 is of a sum over 20 examples.
    "iwae-mnist": {
        "model.latent_dim": 50,
        "model.hidden": (200, 200),
        "model.activation": "tanh",
        "train.batch_size": 20,
        "optimizer.schedule": "staged",
        "optimizer.eps": 1e-4 / 20,
        "evaluation.num_importance_samples": 5000,
    },
    # The classic example.
    "vae-mnist": {
        "model.latent_dim": 20,
        "model.hidden": (400,),
        "optimizer.learning_rate": 1e-3,
        "optimizer.schedule": "constant",
        "train.batch_size": 128,
        "train.patience": 0,
    },
}


@pytest.mark.parametrize("preset", PUBLISHED)
def test_presets_are_as_published(preset):
    values = PUBLISHED[preset]
    assert changed(preset, values) == configs.PRESETS[preset][1]


def test_tensorboard_has_every_finite_number(tmp_path):
    pytest.importorskip("tensorboardX")
    row = {"step": 3, "train_elbo": -1.5, "validation_bound": None, "nan": np.nan}
    with events.writer(tmp_path) as writer:
        events.write_row(writer, row)
    (path,) = tmp_path.iterdir()
    tags = set(re.findall(rb"train_elbo|validation_bound|nan|step", path.read_bytes()))
    assert tags == {b"train_elbo"}


def test_one_probe_is_exact_for_a_diagonal_jacobian(key, x64):
    def velocity(t, x):
        return jnp.tanh(x * jnp.asarray([1.0, -2.0, 0.5])) * (1.0 + t)

    at = (jnp.asarray(0.4), jnp.asarray([0.3, -1.0, 0.2]))
    probe = jax.random.rademacher(key, (3,), jnp.float64)
    _, exact = continuous.exact_divergence(velocity)(*at)
    _, found = continuous.hutchinson_divergence(velocity, probe)(*at)
    np.testing.assert_allclose(found, exact, rtol=1e-12)


class Places(nn.Module):
    """Logits that say of even places that they are ones, of odd ones zeros."""

    @nn.compact
    def __call__(self, x, context, *, train):
        places = jnp.arange(x.shape[-1])
        logits = jnp.where(places % 2 == 0, 50.0, -50.0)
        return jnp.broadcast_to(logits[None, :, None], (*x.shape, 1))


def test_each_number_is_drawn_at_its_own_place(key):
    family = models.likelihoods.likelihood("bernoulli")
    model = models.autoregressive.Autoregressive(Places(), family, (2, 3))
    params = {"network": {}, "output_bias": jnp.zeros((2, 3, 1))}
    drawn = jax.jit(lambda: model.sample(key, params, 2))()
    np.testing.assert_array_equal(drawn, 2 * [[[1, 0, 1], [0, 1, 0]]])


@pytest.mark.parametrize(
    ("model", "event_shape"),
    [
        (small_vae(event_shape=(64,), hidden=(64,)), (64,)),
        (small_diffusion(), (2,)),
    ],
    ids=["vae", "diffusion"],
)
def test_no_kernel_starts_with_equal_numbers(key, model, event_shape):
    """A constant of a program, XLA may read past its one number (README)."""
    x = jax.random.bernoulli(key, 0.5, (10, *event_shape)).astype(float)
    params = jax.jit(model.init)(key, x)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    kernels = [leaf for path, leaf in leaves if "kernel" in str(path[-1])]
    assert len(kernels) > 3
    assert all(np.ptp(kernel) > 0 for kernel in kernels)
