"""Which value ends up where: settings, splits, keys, columns, pictures.

What a run leaves is checked elsewhere; here, that each thing in it is the one it is
called.
"""

import dataclasses

import chex
import evaluate
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample
from draws import bits, disturbed
from small import RESULT, Noise, changed, small_ladder, small_vae

from vgm import configs, data, models
from vgm.data import arrays, observations
from vgm.data import tables as csv_tables
from vgm.errors import UserError
from vgm.evaluation import estimates, figures, likelihood
from vgm.experiment import fitting, pictures, results, setup, stepping, tables
from vgm.experiment.reporter import Reporter
from vgm.training import checkpoints, loop, sharding
from vgm.training.step import StepMetrics, TrainState
from vgm.types import Batch


def test_each_step_observes_afresh(key):
    def step(key, state, batch):
        seen = state.params.at[state.step].set(batch.x[0, 0])
        zeros = StepMetrics(*(jnp.zeros(()) for _ in StepMetrics._fields))
        return state._replace(step=state.step + 1, params=seen), zeros

    zero = jnp.zeros((), jnp.int32)
    state = TrainState(zero, jnp.zeros(6), None, (), jnp.zeros_like(zero))
    steps = loop.compile_steps(
        step=step,
        observe=lambda key, x: jax.random.uniform(key, x.shape),
        batch_size=2,
        mesh=sharding.data_mesh(),
    )
    batch = Batch(jnp.zeros((4, 1)), None, jnp.ones(4))
    after, _ = steps(key, state, batch, jnp.int32(6))
    assert len(np.unique(np.asarray(after.params))) == 6


def adam(grads, *, b1, b2, eps, learning_rate, clip_norm):
    """Adam (Kingma & Ba 2015, algorithm 1) after clipping by the norm of all."""
    m = v = np.zeros(2)
    moved = np.zeros(2)
    for n, grad in enumerate(grads, 1):
        norm = np.linalg.norm(grad)
        grad = grad * min(1.0, clip_norm / norm) if clip_norm else grad
        m, v = b1 * m + (1 - b1) * grad, b2 * v + (1 - b2) * grad**2
        scale = np.sqrt(v / (1 - b2**n)) + eps
        moved = moved - learning_rate * (m / (1 - b1**n)) / scale
    return moved


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_flags_of_the_optimiser_are_its_settings(clip_norm):
    settings = {"b1": 0.8, "b2": 0.7, "eps": 0.5, "learning_rate": 0.1}
    settings["clip_norm"] = clip_norm
    given = configs.OptimizerConfig(schedule="constant", **settings)
    config = configs.Config(preset="", optimizer=given)
    optimizer = stepping.make_optimizer(config)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    state, moved = optimizer.init(params), np.zeros(2)
    grads = np.asarray([[3.0, 4.0], [0.3, -0.2], [-2.0, 1.0]])
    for grad in jnp.asarray(grads):
        updates, state = optimizer.update({"a": grad[:1], "b": grad[1:]}, state, params)
        moved = moved + np.asarray([updates["a"][0], updates["b"][0]])
    # Float32 sums of three steps.
    np.testing.assert_allclose(moved, adam(grads, **settings), rtol=1e-5)


def test_averaged_parameters_are_those_that_are_kept(fitted):
    _, fit = fitted
    assert fit.best.step == 3
    chex.assert_trees_all_equal(fit.best.params, fit.state.ema_params)


def test_validation_is_of_the_validation_split(fitted):
    prepared, fit = fitted
    stored = setup.stored_batch(prepared, prepared.dataset.validation)
    terms = likelihood.example_terms(
        setup.run_keys(prepared.config).validation,
        fit.best.params,
        jax.tree.map(jnp.asarray, stored),
        model=prepared.model,
        observe=prepared.observe,
        batch_size=min(prepared.config.evaluation.batch_size, len(stored.weight)),
        num_samples=1,
    )
    expected = estimates.estimate(terms.elbo).mean
    np.testing.assert_allclose(fit.best.bound, expected, rtol=1e-5)


def test_patience_seconds_and_rows_outlive_an_interruption(fitted, tmp_path):
    prepared, fit = fitted
    fit = fit._replace(best=fit.best._replace(stale=2), seconds=12.5)
    optimizer = stepping.make_optimizer(prepared.config)
    stored = setup.stored_batch(prepared, prepared.dataset.train)
    stored = sharding.replicate(stored, sharding.data_mesh())
    with checkpoints.open_manager(tmp_path / "checkpoints") as manager:
        fitting._record(tmp_path, manager, None, fit)
        manager.wait_until_finished()
        again = fitting._start(
            prepared, tmp_path, manager, optimizer, stored, Reporter()
        )
    assert (again.best.stale, again.seconds) == (2, 12.5)
    assert [row["step"] for row in again.rows] == [1, 2, 3]


def test_a_report_says_which_parameters_it_is_of(fitted, tmp_path):
    prepared, fit = fitted
    best = fit.best._replace(step=2, bound=-123.0)
    rates = zip(fit.rows, (1.0, 2.0, 9.0), strict=True)
    rows = [{**row, "steps_per_second": rate} for row, rate in rates]
    fit = fit._replace(best=best, rows=rows, seconds=45.0)
    result = results.report(prepared, tmp_path, fit, Reporter())
    assert result["selected_step"] == 2
    assert result["validation_bound_nats"] == -123.0
    assert result["train_seconds"] == 45.0
    assert result["train_steps"] == 3
    # The median: the first steps of a machine, and some others, are slow.
    assert result["steps_per_second"] == 2.0
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(best.params)]
    assert result["num_params"] == sum(sizes)
    assert result["objective"] == "elbo-1"


def test_batches_and_draws_have_their_own_noise(key):
    batch, params = Batch(jnp.zeros((6, 1)), None, jnp.ones(6)), jnp.ones(())
    given = {"model": Noise(), "observe": lambda key, x: x, "batch_size": 2}
    evidence = likelihood.example_evidence(
        key, params, batch, num_samples=1, chunk_size=1, **given
    )
    assert len(np.unique(evidence.log_evidence)) == 6
    terms = likelihood.example_terms(key, params, batch, num_samples=1, **given)
    assert len(np.unique(terms.elbo)) == 6
    many = likelihood.example_terms(key, params, batch, num_samples=10_000, **given)
    # The largest of six means of 10,000 draws: 6 standard errors.
    assert np.abs(many.elbo).max() < 0.06


def test_a_bound_of_many_draws_is_the_logarithm_of_their_mean(key):
    batch = Batch(jnp.zeros((6, 1)), None, jnp.ones(6))
    bounds = likelihood.example_bounds(
        key,
        jnp.ones(()),
        batch,
        model=Noise(),
        observe=lambda key, x: x,
        batch_size=4,
        num_samples=2000,
        chunk_size=300,
    )
    # log E exp N(0, 1), within seven standard errors, sqrt((e - 1) / 2000).
    np.testing.assert_allclose(bounds, 0.5, atol=0.2)


def test_a_grid_has_every_image_in_its_place():
    images = np.arange(3.0)[:, None, None, None] * np.ones((3, 2, 2, 1))
    grid = figures.image_grid(images, columns=2, top=2.0)
    assert grid.shape == (7, 7, 3)
    assert [grid[1, 1, 0], grid[1, 4, 0], grid[4, 1, 0]] == [0.0, 0.5, 1.0]
    # Where there is no image, the colour of the frame.
    assert grid[4, 4, 0] == grid[0, 0, 0]


def test_curves_are_of_their_columns(tmp_path, drawn_figures):
    names = ["reconstruction", "prior matching", "denoising matching"]
    expected = {
        "train": [-1.0, -2.0],
        "validation": [-10.0, -20.0],
        names[0]: [3.0, 4.0],
        names[1]: [5.0, 6.0],
        names[2]: [7.0, 8.0],
    }
    columns = ["train_bound", "validation_bound"]
    columns += [f"train_{name.replace(' ', '_')}" for name in names]
    rows = [
        {"step": n, "train_elbo": 0.0}
        | {
            column: values[n]
            for column, values in zip(columns, expected.values(), strict=True)
        }
        for n in range(2)
    ]
    figures.save_curves(tmp_path / "curves.png", rows)
    lines = [line for axis in drawn_figures[0].axes for line in axis.lines]
    assert {line.get_label(): list(line.get_ydata()) for line in lines} == expected


def test_a_loss_that_is_no_bound_has_a_curve_of_its_own(tmp_path, drawn_figures):
    rows = [
        {"step": n, "train_bound": None, "train_loss": loss, "validation_bound": -9.0}
        for n, loss in enumerate((2.0, 1.0))
    ]
    figures.save_curves(tmp_path / "curves.png", rows)
    left, right = drawn_figures[0].axes
    assert [list(line.get_ydata()) for line in left.lines] == [[-9.0, -9.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[2.0, 1.0]]
    assert "Loss" in right.get_title()
    assert right.get_ylabel() == "squared error"
    # Of a run that began with bounds: they are shown, and their terms.
    rows[0] |= {"train_bound": -8.0, "train_reconstruction": -7.0}
    figures.save_curves(tmp_path / "mixed.png", rows)
    left, right = drawn_figures[1].axes
    assert [list(line.get_ydata()) for line in left.lines] == [[-8.0], [-9.0, -9.0]]
    assert [list(line.get_ydata()) for line in right.lines] == [[-7.0]]


def test_reconstructions_stand_beside_their_test_examples(
    fitted, tmp_path, monkeypatch
):
    prepared, fit = fitted
    shown = {}
    monkeypatch.setattr(
        figures, "save_panels", lambda path, panels: shown.update({path.name: panels})
    )
    monkeypatch.setattr(figures, "save_curves", lambda path, rows: None)
    result = {"denoising_matching_by_step": []}
    pictures.draw_figures(prepared, tmp_path, fit.best.params, fit.rows, result)
    (_, first), (_, second) = shown["reconstructions.png"]
    expected = figures.image_grid(prepared.dataset.test.x[:50], columns=10, top=16.0)
    np.testing.assert_allclose(first, expected)
    assert first.shape == second.shape
    assert np.abs(first - second).max() > 0.1


def test_the_last_level_is_white():
    top = pictures.figure_top("levels", 17)
    images = np.full((1, 1, 1, 1), 16)
    assert figures.image_grid(images, columns=1, top=top).max() == 1.0


def test_white_is_never_drawn_black(key):
    draw = observations.observer("binary", levels=256, binarization="dynamic")
    assert np.asarray(draw(key, np.full((20_000, 1), 255, np.uint8))).all()


def test_static_bits_of_test_are_their_own():
    grey = arrays.Split(np.full((50, 4), 128, np.uint8), None)
    bits = observations.binarize_once(arrays.Dataset(grey, None, grey, 256))
    assert (bits.train.x != bits.test.x).any()


def test_the_rows_of_a_table_are_shuffled(tmp_path):
    rng = np.random.default_rng(0)
    column = np.sort(rng.normal(size=200))[:, None]
    np.savetxt(tmp_path / "t.csv", column, delimiter=",")
    found = csv_tables.load_csv(tmp_path / "t.csv")
    assert found.test.x.min() < 0 < found.test.x.max()


@pytest.mark.parametrize(("greatest", "levels"), [(126, 0), (127, 0), (128, 256)])
def test_bytes_are_guessed_above_127(tmp_path, greatest, levels):
    x = np.asarray([[0], [greatest]])
    np.savez(tmp_path / "own.npz", x_train=x, x_test=x)
    if levels:
        found = data.load("own", tmp_path / "own.npz", num_validation=0)
        assert found.levels == levels
        return
    with pytest.raises(UserError, match=f"levels={greatest + 1}"):
        data.load("own", tmp_path / "own.npz", num_validation=0)


def test_the_greatest_class_is_one_below_the_limit(tmp_path):
    x = np.zeros((1, 1), np.uint8)
    for label in (65_535, 65_536):
        y = np.asarray([label])
        np.savez(tmp_path / "own.npz", x_train=x, x_test=x, y_train=y, y_test=y)
        if label == 65_535:
            data.load("own", tmp_path / "own.npz", num_validation=0)
            continue
        with pytest.raises(UserError, match="y_train must be from 0 to 65535"):
            data.load("own", tmp_path / "own.npz", num_validation=0)


@pytest.mark.parametrize(
    ("name", "end"), [("log", 0.0), ("logit", 0.0), ("logit", 1.0)]
)
def test_the_ends_of_a_support_are_outside(name, end):
    split = arrays.Split(np.asarray([[0.5], [end]]), None)
    with pytest.raises(UserError, match=r"flow\.transform"):
        setup._require_support("train", split, name)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_class_beyond_their_number_is_refused(split):
    fine = arrays.Split(np.zeros((2, 1)), np.asarray([0, 2]))
    found = arrays.Dataset(fine, fine, fine, 2)
    setup._require_labels(found, 3)
    wrong = found._replace(**{split: fine._replace(labels=np.asarray([0, 3]))})
    with pytest.raises(UserError, match=f"the {split} split"):
        setup._require_labels(wrong, 3)


def test_labels_of_samples(tmp_path):
    given = sample.Arguments(tmp_path, num_samples=5)
    assert sample._labels(given, 3).tolist() == [0, 1, 2, 0, 1]
    given = dataclasses.replace(given, label=2)
    assert sample._labels(given, 3).tolist() == [2] * 5
    with pytest.raises(UserError, match="from 0 to 2"):
        sample._labels(dataclasses.replace(given, label=3), 3)


def test_flags_of_an_evaluation_are_its_settings(tmp_path):
    config = changed("vae-digits", {"evaluation.evidence": False})
    given = evaluate.Arguments(tmp_path, num_importance_samples=7)
    after = evaluate.changed(config, given).evaluation
    assert (after.num_importance_samples, after.evidence) == (7, True)


def test_surgery_is_of_the_split_that_is_asked_for(fitted, tmp_path, monkeypatch):
    prepared, fit = fitted
    asked = []

    class Asked(Exception):
        pass

    def dissect(prepared, params, *, split):
        asked.append(split)
        raise Asked

    monkeypatch.setattr(evaluate.results, "of_run", lambda *a, **kw: prepared)
    monkeypatch.setattr(
        evaluate.experiment, "load", lambda *a, **kw: (prepared.model, fit.best.params)
    )
    monkeypatch.setattr(evaluate.results, "dissect", dissect)
    with pytest.raises(Asked):
        evaluate.evaluate([str(tmp_path), "--surgery", "--split", "validation"])
    assert asked == ["validation"]


def test_a_table_has_each_number_in_its_row():
    rows = {name: value for name, value, _ in tables.result_table(RESULT)}
    assert rows["ELBO"] == "-5.00 ± 0.50 nats"
    assert rows["evidence, 5 samples"] == "-3.00 ± 0.25 nats"
    assert rows["bits/dim"] == "2.125 ± 0.375"
    assert rows["bits/dim of the baseline"] == "6.500"


def test_draws_of_a_vae_have_their_own_noise_and_means(key):
    model = small_vae(event_shape=(40,))
    params = disturbed(model.init(key, bits((8, 40))), 0.3)
    z = model.sample_prior(jax.random.split(key)[0], params, 3)
    means = model.sample_mean(key, params, 3)
    np.testing.assert_allclose(means, model.mean(params, z), rtol=1e-5)
    # All of one z and its mean, and yet no two alike.
    same = jax.tree.map(jnp.zeros_like, params["decoder"])
    draws = np.asarray(model.sample(key, params | {"decoder": same}, 3))
    assert len(np.unique(draws, axis=0)) == 3


@pytest.mark.parametrize("term", ["prior_matching", "reconstruction"])
def test_dropout_is_in_both_networks_of_training_alone(key, term):
    model, x = small_vae(hidden=(16,), dropout=0.5), bits((8, 6))
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    if term == "reconstruction":  # of an encoder that dropout does not change
        params["encoder"] = jax.tree.map(jnp.zeros_like, params["encoder"])
    off, on = (model.elbo_terms(key, params, x, train=train) for train in (False, True))
    assert (np.asarray(getattr(off, term)) != np.asarray(getattr(on, term))).any()


def test_dropout_is_in_autoregressive_training_alone(key):
    family = models.likelihoods.likelihood("bernoulli", levels=2)
    network = models.made.MADE((16,), 1, dropout=0.5, use_output_bias=False)
    model = models.autoregressive.Autoregressive(network, family, (6,))
    x = bits((8, 6))
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    off, on = (model.elbo_terms(key, params, x, train=train) for train in (False, True))
    assert (np.asarray(off.elbo) != np.asarray(on.elbo)).all()


@pytest.mark.slow
@pytest.mark.parametrize("where", ["block", "layer"])
def test_dropout_is_on_both_ways_of_a_ladder(key, where):
    model = small_ladder(sides=(1, 4), layers=(1, 1), num_blocks=1, dropout=0.5)
    x = bits((8, 4, 4, 1))
    params = disturbed(jax.jit(model.init)(key, x), 0.3)
    other = "layer" if where == "block" else "block"

    def without(module):
        if hasattr(module, "bottleneck"):
            return module.clone(bottleneck=module.bottleneck.clone(dropout=0.0))
        return module.clone(dropout=0.0)

    resolutions = tuple(
        level._replace(**{other: without(getattr(level, other))})
        for level in model.resolutions
    )
    model = dataclasses.replace(model, resolutions=resolutions)
    off, on = (model.elbo_terms(key, params, x, train=train) for train in (False, True))
    assert (np.asarray(off.elbo) != np.asarray(on.elbo)).all()
