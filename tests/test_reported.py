"""Numbers, tables, figures and rows of a run: each is what its name says."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RESULT, TINY, Noise, changed

from vgm import bijections, models
from vgm.bounds.elbo import ElboTerms, single_latent_terms
from vgm.evaluation import figures, imputation, likelihood, surgery
from vgm.experiment import fitting, numbers, pictures, results, setup, splits, tables
from vgm.experiment.reporter import Reporter
from vgm.models import flows, layers
from vgm.oracles import targets
from vgm.training import sharding
from vgm.training.step import StepMetrics
from vgm.types import Batch

# ---- numbers


class Watched(Noise):
    """A model that notes how products of matrices are computed."""

    def __init__(self):
        self.precisions = set()

    def elbo_terms(self, *args, **kw):
        self.precisions.add(jax.config.jax_default_matmul_precision)
        return super().elbo_terms(*args, **kw)

    def log_weight(self, *args, **kw):
        self.precisions.add(jax.config.jax_default_matmul_precision)
        return super().log_weight(*args, **kw)


@pytest.mark.parametrize(
    ("measure", "kw"),
    [
        (likelihood.example_terms, {}),
        (likelihood.example_bounds, {"chunk_size": 2}),
        (likelihood.example_evidence, {"chunk_size": 2}),
    ],
)
def test_what_is_reported_is_in_full_precision_on_every_machine(key, measure, kw):
    """Whatever JAX would do there, the products of networks too."""
    model, data = Watched(), Batch(jnp.zeros((4, 6)), None, jnp.ones(4))
    given = {"model": model, "observe": lambda key, x: x, "num_samples": 2} | kw
    with jax.default_matmul_precision("tensorfloat32"):
        measure(key, jnp.ones(()), data, batch_size=2, **given)
        assert jax.config.jax_default_matmul_precision == "tensorfloat32"
    assert model.precisions == {"highest"}


@pytest.mark.parametrize(
    ("reported", "arguments"),
    [
        (results.evaluate, ("experiment", "params")),
        (results.dissect, ("experiment", "params")),
        (imputation.impute, ("key", "params", "x")),
        (surgery.elbo_surgery, ("key", "params", "encoding", "average_kl")),
    ],
)
def test_whatever_else_is_reported_is_in_full_precision(unchecked, reported, arguments):
    """Seen by the first of its arguments that is looked into."""
    seen = []

    class Looked:
        def __getattr__(self, name):
            seen.append(jax.config.jax_default_matmul_precision)
            raise LookupError(name)

        __lt__ = __getattr__  # a count is compared

    looked = dict.fromkeys(arguments, Looked())
    more = {"model": Looked()} if "key" in arguments else {}
    more |= {"num_samples": Looked()} if reported is imputation.impute else {}
    with jax.default_matmul_precision("tensorfloat32"), pytest.raises(LookupError):
        reported(**looked, **more)
    assert seen == ["highest"]


def test_numbers_of_a_split_are_of_its_values():
    """No two quantities are alike: one in another's place is seen."""
    draws = {"evaluation.num_elbo_samples": 7, "evaluation.num_importance_samples": 9}
    prepared = setup.prepare(changed("vae-digits", draws))
    values = {
        "elbo": np.asarray([-10.0, -30.0, -32.0]),
        "baseline": np.asarray([-50.0, -51.0, -55.0]),
        "log_evidence": np.asarray([-8.0, -9.0, -13.0]),
        "effective_samples": np.asarray([1.0, 2.0, 9.0]),
    }
    steps = jnp.asarray([[1.0, 2.0], [3.0, 5.0], [8.0, 2.0]])
    terms = ElboTerms(jnp.asarray(values["elbo"] + 2.0), jnp.zeros(3), steps)
    found = numbers.split_numbers(prepared, "test", terms, values)
    # 8 x 8 numbers, and a bit is log 2 nats.
    unit = 64 * np.log(2.0)
    elbo_error, evidence_error = (
        values[name].std(ddof=1) / np.sqrt(3) for name in ("elbo", "log_evidence")
    )
    expected = {
        "elbo_stderr": elbo_error,
        "log_evidence_stderr": evidence_error,
        "bits_per_dim": 10 / unit,
        "bits_per_dim_stderr": evidence_error / unit,
        "elbo_bits_per_dim": 24 / unit,
        "baseline_bits_per_dim": 52 / unit,
        "median_effective_samples": 2.0,
        "num_elbo_samples": 7,
        "num_importance_samples": 9,
        "denoising_matching_nats": 7.0,
    }
    for name, value in expected.items():
        # Rounding of float32.
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)
    np.testing.assert_allclose(found["denoising_matching_by_step"], [4.0, 3.0])


@pytest.mark.parametrize(("levels", "said"), [(256, "dynamic"), (2, "static")])
def test_data_stored_as_bits_are_static_whatever_the_flag(levels, said):
    binary = {"data.observation": "binary", "data.binarization": "dynamic"}
    prepared = setup.prepare(changed("vae-digits", {}))
    prepared = prepared._replace(
        config=changed("vae-mnist", binary),
        form=prepared.form._replace(levels=levels),
    )
    assert numbers._binarization(prepared) == said


def test_the_tail_index_is_of_target_over_flow(key):
    """N(0, 1) over N(0, s^2) has 1 - s^2; the other way round it is 1 - 1 / s^2."""
    flow = flows.flow(
        layers.fixed(bijections.IDENTITY), event_shape=(2,), transform="standardize"
    )
    normal = targets.Target(lambda x: -0.5 * jnp.sum(x**2), float(np.log(2 * np.pi)))
    model = models.target.TargetFlow(flow, normal)
    params = jax.jit(model.init)(key, jnp.zeros((6, 0)))
    log_std = jnp.log(jnp.asarray([0.5, 1.0]))
    params["data"] = ({"mean": jnp.zeros(2), "log_std": log_std},)
    found = results._fit_to_target(model, params, key)["pareto_k"]
    # Of the 300 largest weights the standard error is 0.1.
    assert abs(found - 0.75) < 0.25


class Seen(Noise):
    """A model whose bound and evidence are the number that it observes."""

    def elbo_terms(self, key, params, x, condition=None, *, train=False):
        return single_latent_terms(x[:, 0], jnp.zeros(len(x)))

    def log_weight(self, key, params, x, condition=None):
        return x[:, 0]


def uniform(key, x):
    return jax.random.uniform(key, x.shape)


def test_bounds_evidences_and_readers_see_the_same_observations(fitted):
    """Drawn anew for one of them, they would be numbers of other examples."""
    prepared = fitted[0]._replace(model=Seen(), observe=uniform)
    stored, params = Batch(jnp.zeros((6, 1)), None, jnp.ones(6)), jnp.ones(())
    elbo = splits.terms(prepared, params, stored).elbo
    evidence = likelihood.example_evidence(
        setup.run_keys(prepared.config).test,
        params,
        stored,
        model=Seen(),
        observe=uniform,
        batch_size=4,
        num_samples=1,
        chunk_size=1,
    )
    np.testing.assert_allclose(elbo, evidence.log_evidence, rtol=1e-6)
    observed = splits.observed(prepared, stored).x[:, 0]
    np.testing.assert_allclose(observed, elbo, rtol=1e-6)


def test_batches_of_an_evaluation_are_as_full_as_one_another():
    """Of seven examples, six at once would be computed twice."""
    sizes, done = [], []

    class Sized(Seen):
        def elbo_terms(self, key, params, x, condition=None, *, train=False):
            sizes.append(len(x))
            return super().elbo_terms(key, params, x, condition, train=train)

    stored, params = Batch(jnp.zeros((7, 1)), None, jnp.ones(7)), jnp.ones(())
    given = {"model": Sized(), "observe": uniform, "batch_size": 6, "num_samples": 1}
    key = jax.random.key(0)
    likelihood.example_terms(key, params, stored, **given)
    assert set(sizes) == {4}
    likelihood.example_evidence(
        key, params, stored, **given, chunk_size=1, progress=done.append
    )
    assert done == [4, 7]


# ---- tables


def rows_of(**changes):
    """Value and origin by quantity, of a table for a result."""
    rows = tables.result_table(RESULT | changes)
    return {name: (value, origin) for name, value, origin in rows}


def test_a_table_says_where_its_numbers_are_from():
    rows = rows_of()
    assert rows["  reconstruction"][0] == "-4.00 nats"
    assert rows["  prior matching"][0] == "1.00 nats"
    assert "effective sample size 2.0" in rows["evidence, 5 samples"][1]
    assert rows["bits/dim"][1] == "from the evidence; from the ELBO 4.000"


def test_a_table_says_how_long_training_took():
    spent = {"train_seconds": 8.0, "train_steps": 30, "steps_per_second": 4.0}
    assert rows_of(**spent, selected_step=20)["training"] == (
        "8.0 s",
        "30 steps, 4 a second once compiled; parameters of step 20",
    )


@pytest.mark.parametrize(
    ("num_times", "said"), [(0, "all steps"), (3, "3 of 10 steps, drawn")]
)
def test_a_table_says_which_steps_of_a_diffusion_it_is_of(num_times, said):
    by_step = [] if num_times else [0.25, 0.25]
    rows = rows_of(
        num_steps=10,
        num_times=num_times,
        denoising_matching_nats=0.5,
        denoising_matching_by_step=by_step,
    )
    assert rows["  denoising matching"] == ("0.50 nats", said)


def test_a_table_says_what_exact_is_of_a_solved_equation():
    for model, said in (
        ("flow (glow)", "3 test examples, exact"),
        ("flow (continuous)", "3 test examples, exact to the tolerance of a solver"),
    ):
        rows = rows_of(is_exact=True, model=model, observation="density")
        assert rows["log p(x)"][1] == said


def test_a_table_of_reals_and_of_a_target_is_in_nats():
    assert rows_of(observation="density")["baseline"][0] == "-9.00 nats"
    rows = rows_of(log_normalizer_nats=2.5, pareto_k=0.1)
    assert rows["log Z"][0] == "2.5000 nats"
    assert rows["Pareto k"] == ("0.10", "below 0.7: weights to trust")
    poor = rows_of(log_normalizer_nats=2.5, pareto_k=0.87)["Pareto k"][1]
    assert poor.startswith("not below 0.7")


@pytest.mark.parametrize(("below_top", "latents"), [([], "z"), ([0.5], "z_1")])
def test_active_units_are_of_the_latents_that_are_encoded(below_top, latents):
    rows = rows_of(
        active_units=2,
        denoising_matching_nats=0.5,
        denoising_matching_by_step=below_top,
    )
    assert rows["active units"] == ("2", f"Var E[{latents} | x] > 0.01")


# ---- figures


def test_steps_are_drawn_from_one_of_them_to_all(drawn_figures, tmp_path):
    figures.save_steps(tmp_path, [1.0, 2.0, 4.0, 3.0])
    (line,) = drawn_figures[0].axes[0].lines
    np.testing.assert_allclose(line.get_xdata(), [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(line.get_ydata(), [1.0, 2.0, 4.0, 3.0])


def test_layers_are_drawn_in_their_order(drawn_figures, tmp_path):
    figures.save_layers(tmp_path, [1.0, 2.0, 5.0])
    bars = drawn_figures[0].axes[0].patches
    assert [bar.get_height() for bar in bars] == [1.0, 2.0, 5.0]


def test_densities_stand_upright_and_share_their_scale(drawn_figures, tmp_path):
    axes = np.stack([np.linspace(0.0, 1.0, 5)] * 2)
    values = np.zeros((5, 5))
    values[4, 0] = 2.0
    panels = [("flow", values), ("target", values / 4)]
    figures.save_densities(tmp_path, panels, axes)
    images = [image for axis in drawn_figures[0].axes for image in axis.images]
    assert [image.origin for image in images] == ["lower", "lower"]
    assert [image.get_clim() for image in images] == [(0.0, 2.0)] * 2


class Blank:
    """Draws without a mark on them."""

    def sample(self, key, params, num_samples, condition=None):
        return jnp.zeros((num_samples, 2, 2, 1))


@pytest.mark.parametrize(("preset", "columns"), [("cvae-mnist", 8), ("vae-mnist", 10)])
def test_each_class_has_its_columns(fitted, key, preset, columns):
    prepared = fitted[0]._replace(
        config=changed(preset, {}),
        model=Blank(),
        form=fitted[0].form._replace(num_classes=4),
    )
    ((_, panel),) = pictures.sample_panels(prepared, {}, key, 20, 1.0)
    expected = figures.image_grid(np.zeros((20, 2, 2, 1)), columns=columns, top=1.0)
    assert panel.shape == expected.shape


# ---- rows of training


LOSS_ELBO_AND_OTHERS = (7.0, -5.0, -4.0, 1.0, 0.0, 1.0, 0.0)
METRICS = StepMetrics(*map(jnp.asarray, LOSS_ELBO_AND_OTHERS))
PLAIN = {"objective.kl_warmup_steps": 0, "objective.free_nats": 0.0}


@pytest.mark.parametrize(
    ("preset", "values", "bound"),
    [
        ("vae-digits", PLAIN, -7.0),
        ("vae-digits", {"objective.kl_warmup_steps": 9}, -5.0),
        ("vae-digits", {"objective.free_nats": 1.0}, -5.0),
        ("iwae-mnist", {}, -7.0),
        ("ddpm-digits", {}, None),
        ("cnf-2d", {}, None),
    ],
)
def test_the_bound_of_a_row_is_the_loss_only_where_that_is_one(preset, values, bound):
    row = fitting._row(changed(preset, values), METRICS, None, 5, 1.0)
    assert row["train_bound"] == bound


def test_rates_are_of_the_steps_of_an_evaluation_and_seconds_of_all(
    tmp_path, monkeypatch
):
    """By a clock on which two steps, and then one, take 1000 seconds."""
    clock = SimpleNamespace(perf_counter=iter(range(0, 10_000, 1000)).__next__)
    monkeypatch.setattr(fitting, "time", clock)
    prepared = setup.prepare(changed("vae-digits", TINY | {"train.eval_every": 2}))
    fit = fitting.train(prepared, tmp_path, Reporter())
    assert [row["steps_per_second"] for row in fit.rows] == [0.002, 0.001]
    # What is left is the compilation, by another clock.
    assert 2000.0 <= fit.seconds < 3000.0


def test_a_bound_on_validation_is_of_as_many_draws_as_the_flag_says(fitted):
    prepared, key = fitted[0]._replace(model=Noise()), jax.random.key(7)
    spec = dataclasses.replace(prepared.config.evaluation, num_elbo_samples=3)
    config = dataclasses.replace(prepared.config, evaluation=spec)
    prepared = prepared._replace(config=config)
    validate = fitting._validation(prepared, sharding.data_mesh(), key)
    stored = setup.stored_batch(prepared, prepared.dataset.validation)
    terms = likelihood.example_terms(
        key,
        jnp.ones(()),
        jax.tree.map(jnp.asarray, stored),
        model=Noise(),
        observe=prepared.observe,
        batch_size=min(spec.batch_size, len(stored.weight)),
        num_samples=3,
    )
    np.testing.assert_allclose(validate(jnp.ones(())), np.mean(terms.elbo), rtol=1e-4)
