"""Missing numbers: the bound is on what was observed; imputation; where nats go."""

from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train
from compilation import whole
from draws import normals
from scipy import stats
from small import changed, small_ladder

import vgm
from vgm import data, models
from vgm.bounds import importance
from vgm.errors import UserError
from vgm.evaluation import estimates, imputation, surgery
from vgm.experiment import results
from vgm.models import likelihoods
from vgm.oracles import linear_gaussian
from vgm.training import objective
from vgm.types import Batch, Masked


def linear_vae(key, *, data_dim=4, latent_dim=2):
    """A VAE whose decoder is linear with one noise: p(x) is known for any subset."""
    model = models.vae.mlp(
        event_shape=(data_dim,),
        latent_dim=latent_dim,
        hidden=(),
        likelihood="normal",
        missing=True,
    )
    x = Masked(jnp.zeros((2, data_dim)), jnp.ones((2, data_dim), bool))
    params = jax.jit(model.init)(key, x)
    weights = jnp.asarray([[1.0, -0.5], [0.4, 0.9], [-0.8, 0.3], [0.2, 0.7]])
    # Outputs are (mean, log_std) of each coordinate in turn; log_std is constant.
    kernel = jnp.stack([weights, jnp.zeros_like(weights)], axis=1).reshape(-1, 2).T
    old = params["decoder"]["params"]["mlp"]
    (name,) = old
    chex.assert_equal_shape([old[name]["kernel"], kernel])
    decoder = {"params": {"mlp": {name: {**old[name], "kernel": kernel}}}}
    bias = jnp.stack([jnp.full(data_dim, 0.1), jnp.full(data_dim, -0.7)], axis=-1)
    # An encoder of zeros: q is the prior, whose weights are bounded.
    encoder = jax.tree.map(jnp.zeros_like, params["encoder"])
    params = {"encoder": encoder, "decoder": decoder, "output_bias": bias}
    oracle = linear_gaussian.LinearGaussian(
        weights, jnp.full(data_dim, 0.1), jnp.asarray(-0.7)
    )
    return model, params, oracle


def observed_part(oracle, keep):
    return oracle._replace(weights=oracle.weights[keep], bias=oracle.bias[keep])


MASKS = [[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 0]]


def masked_rows(key):
    values = normals(key, (len(MASKS), 4))
    observed = jnp.asarray(MASKS, bool)
    return Masked(jnp.where(observed, values, 0.0), observed)


def exact_evidence(oracle, x):
    rows = [
        linear_gaussian.log_evidence(
            observed_part(oracle, keep), jnp.asarray(values[keep])
        )
        if keep.any()
        else jnp.zeros(())
        for values, keep in zip(*map(np.asarray, x), strict=True)
    ]
    return np.asarray(jnp.stack(rows), np.float64)


@pytest.mark.slow
def test_weights_are_unbiased_for_the_evidence_of_what_was_observed(key):
    """With nothing observed the evidence is 1 and its logarithm 0."""
    model, params, oracle = linear_vae(key)
    x = masked_rows(key)
    keys = jax.random.split(key, 20_000)
    log_w = jax.jit(jax.vmap(model.log_weight, (0, None, None)))(keys, params, x)
    exact = exact_evidence(oracle, x)
    assert exact[3] == 0.0
    ratio = np.exp(np.asarray(log_w, np.float64) - exact)
    stderr = ratio.std(0) / np.sqrt(len(ratio)) + 1e-6
    assert (stderr < 0.05).all()
    assert (np.abs(ratio.mean(0) - 1.0) < 4 * stderr).all()
    elbo = jax.jit(jax.vmap(lambda k: model.elbo_terms(k, params, x).elbo))(keys[:4000])
    assert (elbo.mean(0) <= exact + 4 * elbo.std(0) / np.sqrt(4000)).all()


def test_what_is_missing_changes_nothing(key):
    """Neither bounds nor gradients see a number that was not observed."""
    model, params, _ = linear_vae(key)
    x = masked_rows(key)
    other = x._replace(values=jnp.where(x.observed, x.values, 1e6))
    value_and_grad = jax.jit(objective.negative_elbo(model))
    first = value_and_grad(key, params, Batch(x, None, jnp.ones(4)))
    second = value_and_grad(key, params, Batch(other, None, jnp.ones(4)))
    chex.assert_trees_all_equal(first, second)
    chex.assert_tree_all_finite(first)


@pytest.mark.slow
def test_everything_observed_is_the_plain_model(key):
    settings = {"event_shape": (3,), "latent_dim": 2, "hidden": (5,)}
    settings["likelihood"] = "normal"
    plain = models.vae.mlp(**settings)
    masked = models.vae.mlp(**settings, missing=True)
    x = normals(key, (6, 3))
    full = Masked(x, jnp.ones(x.shape, bool))
    params = jax.jit(plain.init)(key, x)
    chex.assert_trees_all_close(masked.init(key, full), params, rtol=1e-5)
    chex.assert_trees_all_close(
        masked.elbo_terms(key, params, full),
        plain.elbo_terms(key, params, x),
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("name", "levels"),
    [("bernoulli", 2), ("categorical", 5), ("discretized_logistic", 5), ("normal", 0)],
)
def test_starting_values_use_what_was_observed(key, name, levels):
    """Half the rows missing in a column: the fit of the other half."""
    if levels:
        x = jax.random.randint(key, (40, 2), 0, levels)
        x = x.astype(float) if name == "bernoulli" else x
    else:
        x = normals(key, (40, 2))
    observed = jnp.ones((40, 2), bool).at[20:, 0].set(False)
    family = likelihoods.likelihood(name, levels=levels)
    family, masked = whole(family), whole(likelihoods.masked(family))
    junk = jnp.where(observed, x, 1).astype(x.dtype)
    actual = masked.initial_bias(Masked(junk, observed))
    np.testing.assert_allclose(actual[0], family.initial_bias(x[:20])[0], rtol=1e-5)
    expected = np.asarray(family.initial_bias(x))
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-5)
    # Its log likelihood is that of the coordinates observed.
    outputs = normals(key, (2, family.num_outputs))
    row = Masked(x[0], jnp.asarray([True, False]))
    alone = family.log_prob(x[0][:1], outputs[:1])
    np.testing.assert_allclose(masked.log_prob(row, outputs), alone, rtol=1e-6)


def test_imputation_is_the_conditional_mean_of_the_normal(key):
    model, params, oracle = linear_vae(key)
    x = masked_rows(key)
    filled = jax.jit(
        lambda key: imputation.impute(key, params, x, model=model, num_samples=20_000)
    )(key)
    mean = np.asarray(oracle.bias)
    covariance = np.asarray(oracle.weights @ oracle.weights.T) + np.exp(-1.4) * np.eye(
        4
    )
    for row, values, keep in zip(filled, *map(np.asarray, x), strict=True):
        gain = covariance[:, keep] @ np.linalg.pinv(covariance[np.ix_(keep, keep)])
        expected = mean + gain @ (values - mean)[keep]
        np.testing.assert_array_equal(np.asarray(row)[keep], values[keep])
        # Means of 20,000 weighted draws of standard deviation below 1.5.
        np.testing.assert_allclose(row, np.where(keep, values, expected), atol=0.1)
    with pytest.raises(TypeError, match="needs a model with latents"):
        imputation.impute(key, params, x, model=object(), num_samples=2)


def test_an_example_far_from_all_that_was_learned_is_imputed(key):
    """Its weights are 0 in float32, but for one that is divided out of all."""
    model, params, _ = linear_vae(key)
    values = jnp.full((1, 4), 60.0).at[0, 1].set(0.0)
    x = Masked(values, jnp.asarray([[True, False, True, True]]))
    filled = imputation.impute(key, params, x, model=model, num_samples=50)
    assert np.isfinite(filled).all()


@pytest.fixture(scope="module")
def holes(tmp_path_factory):
    """Correlated reals with a third of the numbers missing."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(600, 1))
    x = latent * np.asarray([1.0, -1.0, 0.5]) + 0.3 * rng.normal(size=(600, 3))
    x[rng.random(x.shape) < 0.3] = np.nan
    path = tmp_path_factory.mktemp("holes") / "holes.npz"
    np.savez(
        path, x_train=x[:500].astype(np.float32), x_test=x[500:].astype(np.float32)
    )
    return path, x


FLAGS = [
    "--data.observation",
    "density",
    "--model.likelihood",
    "normal",
    "--model.latent-dim",
    "1",
    "--model.hidden",
    "16",
    "--model.dropout",
    "0",
    "--data.num-validation",
    "100",
    "--train.num-steps",
    "300",
    "--train.eval-every",
    "100",
    "--train.batch-size",
    "100",
    "--train.patience",
    "0",
    "--evaluation.num-importance-samples",
    "200",
]


def test_what_was_never_observed_in_training_is_refused(tmp_path):
    """Of it nothing is learned: its likelihood would be that of a default."""
    rng = np.random.default_rng(0)
    x = {f"x_{split}": rng.normal(size=(20, 3)) for split in ("train", "valid", "test")}
    x["x_train"][:, 1] = np.nan
    path = tmp_path / "own.npz"
    np.savez(path, **x)
    said = "number 2 of each example is observed in the validation split and never"
    with pytest.raises(UserError, match=said):
        data.load("own", path, num_validation=0, missing="nan")
    x["x_valid"][:, 1] = np.nan
    np.savez(path, **x)
    for merged in (False, True):
        with pytest.raises(UserError, match="observed in the test split"):
            data.load(
                "own",
                path,
                num_validation=0,
                missing="nan",
                train_on_validation=merged,
            )
    x["x_test"][:, 1] = np.nan
    np.savez(path, **x)
    assert data.load("own", path, num_validation=0, missing="nan").levels == 0


@pytest.mark.slow
def test_a_run_on_data_with_holes_learns_their_joint(holes, tmp_path, capsys):
    path, x = holes
    run = tmp_path / "run"
    flags = [*FLAGS, "--data.path", str(path), "--run-dir", str(run)]
    assert train.main(["vae-digits", *flags]) == 2
    assert "--data.missing nan" in capsys.readouterr().err
    assert train.main(["vae-digits", *flags, "--data.missing", "nan"]) == 0
    model, params = vgm.load(run)
    test = x[500:].astype(np.float32)
    masked = Masked(np.nan_to_num(test), ~np.isnan(test))
    log_w = jax.vmap(model.log_weight, (0, None, None))(
        jax.random.split(jax.random.key(1), 300), params, masked
    )
    evidence = np.asarray(jax.vmap(importance.iwae, in_axes=1)(log_w))
    with np.load(run / "likelihoods.npz") as file:
        np.testing.assert_allclose(
            evidence.mean(), file["log_evidence"].mean(), atol=0.1
        )
        gain = file["log_evidence"] - file["baseline"]
        # The baseline: each coordinate's own normal, over the numbers observed.
        train_x = data.load("own", path, num_validation=100, missing="nan").train.x
        law = stats.norm(np.nanmean(train_x, 0), np.nanstd(train_x, 0))
        expected = np.nansum(law.logpdf(test), 1)
        np.testing.assert_allclose(file["baseline"], expected, rtol=1e-3, atol=1e-3)
    assert gain.mean() > 0.3


def test_surgery_of_a_known_aggregate(x64, key):
    """Posteriors far apart tell all of log N; equal ones tell nothing."""
    model = models.vae.mlp(
        event_shape=(2,), latent_dim=1, hidden=(), likelihood="normal"
    )
    num_examples = 50
    average = jnp.asarray(3.0)

    def parts(mean, log_std):
        encoding = models.vae.DiagonalEncoding(mean, log_std)
        return whole(surgery.elbo_surgery)(key, {}, encoding, average, model=model)

    narrow = np.full((num_examples, 1), -5.0)
    apart = parts(np.arange(50.0)[:, None], narrow)
    np.testing.assert_allclose(apart.mutual_information, np.log(50), rtol=1e-6)
    equal = parts(*np.zeros((2, num_examples, 1)))
    np.testing.assert_allclose(equal.mutual_information, 0.0, atol=1e-12)
    for found in (apart, equal):
        total = found.mutual_information + found.marginal_kl
        np.testing.assert_allclose(total, found.average_kl, rtol=1e-12)


@pytest.mark.slow
def test_surgery_equals_quadrature_for_two_posteriors(x64, key):
    model = models.vae.mlp(
        event_shape=(2,), latent_dim=1, hidden=(), likelihood="normal"
    )
    pair = np.asarray([-0.8, 0.8])
    grid = np.linspace(-8, 8, 4001)
    densities = stats.norm(pair[:, None], 0.7).pdf(grid)
    mixture = densities.mean(0)
    ratio = densities * np.log(densities / mixture)
    expected = (ratio.mean(0)).sum() * (grid[1] - grid[0])
    # Many copies of the two: the same aggregate, more draws.
    encoding = models.vae.DiagonalEncoding(
        jnp.asarray(np.tile(pair, 1000))[:, None], jnp.full((2000, 1), jnp.log(0.7))
    )
    found = surgery.elbo_surgery(key, {}, encoding, jnp.ones(()), model=model)
    np.testing.assert_allclose(
        found.mutual_information, expected, atol=4 * 0.5 / 2000**0.5
    )


def test_paired_differences_have_the_error_of_the_difference():
    rng = np.random.default_rng(0)
    before = 10.0 * rng.normal(size=400)
    gain = 0.2 + 0.1 * rng.normal(size=400)
    found = estimates.paired_difference(before + gain, before)
    np.testing.assert_allclose(found.mean, gain.mean(), rtol=1e-10)
    np.testing.assert_allclose(found.stderr, gain.std(ddof=1) / 20, rtol=1e-10)
    assert found.stderr < 0.05 * estimates.estimate(before).stderr


def test_surgery_has_one_prior(unchecked):
    """Given its class, the prior of a ladder is another for each."""
    config = changed("ladder-mnist", {"model.conditional": True})
    experiment = SimpleNamespace(model=small_ladder(num_classes=10), config=config)
    with pytest.raises(UserError, match="--surgery needs one prior"):
        results.dissect(experiment, {})
