"""The step and the loop: order, determinism, guards, one compilation, many devices."""

import functools
import json
import os
import subprocess
import sys
import textwrap

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilation import whole
from draws import disturbed, normals
from small import small_diffusion

from vgm import models
from vgm.errors import UserError
from vgm.processes import times
from vgm.training import loop, objective, optimizers, sharding, step
from vgm.types import Batch

NUM_EXAMPLES, BATCH_SIZE = 50, 16


def observe(key, x):
    del key
    return x


def setup(key, *, ema_decay=0.9, batch_size=BATCH_SIZE, skip_norm=0.0):
    bits = jax.random.bernoulli(key, 0.3, (NUM_EXAMPLES, 3)).astype(jnp.float32)
    x = jnp.tile(bits, 2)  # every bit twice: something for a latent to explain
    model = models.vae.mlp(
        event_shape=(6,), latent_dim=4, hidden=(32,), likelihood="bernoulli"
    )
    optimizer = optax.adam(1e-2)
    mesh = sharding.data_mesh()
    init = functools.partial(step.init_state, optimizer=optimizer, ema_decay=ema_decay)
    state = whole(lambda key, x: init(model.init(key, x)))(key, x)
    run = loop.compile_steps(
        step=functools.partial(
            step.train_step,
            value_and_grad=objective.negative_elbo(model),
            optimizer=optimizer,
            ema_decay=ema_decay,
            skip_norm=skip_norm,
        ),
        observe=observe,
        batch_size=batch_size,
        mesh=mesh,
    )
    data = sharding.replicate(Batch(x, None, np.ones(len(x), np.float32)), mesh)
    return run, sharding.replicate(state, mesh), data


def test_an_epoch_uses_every_example_once_in_a_new_order(key):
    orders = []
    for epoch in range(2):
        order, weights = loop.epoch_order(key, jnp.asarray(epoch), 50, 16)
        chex.assert_shape([order, weights], (64,))
        used = order[weights > 0]
        assert sorted(used.tolist()) == list(range(50))
        orders.append(used)
    assert not np.array_equal(*orders)


def test_a_run_leaves_the_parameters_that_it_began_with(key):
    """A donated state deletes its buffers, and must not share the caller's."""
    params = {"w": jnp.arange(3.0)}
    state = step.init_state(params, optax.adam(1e-2), ema_decay=0.9)
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    np.testing.assert_array_equal(params["w"], [0.0, 1.0, 2.0])


def test_no_step_has_no_mean(key):
    run, state, data = setup(key)
    state, _ = run(key, state, data, 2)
    state, metrics = run(key, state, data, 2)
    assert int(state.step) == 2
    assert np.isnan(metrics.loss)
    assert metrics.skipped == 0.0


def test_batches_of_an_epoch_are_slices_of_its_order(key):
    data = Batch(jnp.arange(50.0)[:, None], None, 2.0 * jnp.ones(50))
    order, weights = whole(loop.epoch_order)(key, jnp.asarray(0), 50, 16)
    take = whole(functools.partial(loop.take_batch, batch_size=16))
    batches = [take(data, order, weights, jnp.asarray(i)) for i in range(4)]
    assert [float(batch.weight.sum()) for batch in batches] == [32, 32, 32, 4]
    batches = jax.tree.map(np.asarray, batches)
    seen = np.concatenate([batch.x[batch.weight > 0, 0] for batch in batches])
    np.testing.assert_array_equal(seen, order[:50])


@pytest.mark.parametrize("cuts", [(11,), (3, 11), (4, 5, 11)])
def test_how_steps_are_dispatched_leaves_no_trace(key, cuts):
    run, state, data = setup(key)
    whole, _ = run(key, state, data, jnp.int32(11))
    _, state, _ = setup(key)
    for cut in cuts:
        state, _ = run(key, state, data, jnp.int32(cut))
    chex.assert_trees_all_equal(state, whole)


def test_the_program_is_compiled_once(key):
    run, state, data = setup(key)
    for stop in (3, 4, 9):
        state, _ = run(key, state, data, jnp.int32(stop))
    assert run._cache_size() == 1


def test_the_state_is_donated(key):
    run, state, data = setup(key)
    run(key, state, data, jnp.int32(1))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_metrics_are_means_over_the_steps(key):
    run, state, data = setup(key)
    losses = []
    for stop in range(1, 6):
        state, metrics = run(key, state, data, jnp.int32(stop))
        losses.append(float(metrics.loss))
        np.testing.assert_allclose(metrics.loss, -metrics.elbo, rtol=1e-5)
    _, fresh, _ = setup(key)
    _, metrics = run(key, fresh, data, jnp.int32(5))
    np.testing.assert_allclose(metrics.loss, np.mean(losses), rtol=1e-5)


def test_training_raises_the_bound(key):
    run, state, data = setup(key)
    state, first = run(key, state, data, jnp.int32(4))
    state, _ = run(key, state, data, jnp.int32(300))
    _, last = run(key, state, data, jnp.int32(304))
    assert last.elbo > first.elbo + 0.3


def test_a_step_without_finite_gradients_changes_only_the_count(key):
    run, state, data = setup(key)
    before = jax.tree.map(np.asarray, state)
    broken = data._replace(x=data.x.at[:, 0].set(jnp.nan))
    after, metrics = run(key, state, broken, jnp.int32(3))
    assert int(metrics.skipped) == 3
    assert int(after.step) == 3
    assert int(after.num_skipped) == 3
    counted = after._replace(step=before.step, num_skipped=before.num_skipped)
    chex.assert_trees_all_equal(counted, before)


def test_large_gradients_are_skipped_ten_times_in_a_row_at_most(key):
    """One that comes back every time is no accident: the eleventh step is taken."""
    run, state, data = setup(key, skip_norm=1e-6)
    before = jax.tree.map(np.asarray, state.params)
    after, metrics = run(key, state, data, jnp.int32(10))
    assert int(metrics.skipped) == 10
    assert int(after.num_skipped) == 10
    chex.assert_trees_all_equal(after.params, before)
    before = jax.tree.map(np.asarray, after.params)
    after, metrics = run(key, after, data, jnp.int32(11))
    assert int(metrics.skipped) == 0
    assert int(after.num_skipped) == 0
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(after.params, before)
    # Where the norm is below, nothing is skipped and nothing else changes.
    run, state, data = setup(key, skip_norm=1e6)
    plain, same, _ = setup(key)
    expected, _ = plain(key, same, data, jnp.int32(3))
    found, metrics = run(key, state, data, jnp.int32(3))
    assert int(metrics.skipped) == 0
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_metrics_leave_skipped_steps_out(key):
    run, state, data = setup(key)
    # Not example 0, which also fills up the last batch with weight 0.
    broken = data._replace(x=data.x.at[1, 0].set(jnp.nan))
    # Four batches an epoch, one of them with the broken example.
    after, metrics = run(key, state, broken, jnp.int32(4))
    assert int(metrics.skipped) == 1
    chex.assert_tree_all_finite((after.params, metrics))


def test_the_average_of_parameters_has_its_formula(key):
    run, state, data = setup(key, ema_decay=0.5)
    average = jax.tree.map(np.asarray, state.params)
    for n in range(4):
        state, _ = run(key, state, data, jnp.int32(n + 1))
        decay = min(0.5, (1 + n) / (10 + n))
        average = jax.tree.map(
            lambda a, p, d=decay: d * a + (1 - d) * np.asarray(p), average, state.params
        )
    chex.assert_trees_all_close(state.ema_params, average, rtol=1e-5, atol=1e-6)


def test_weights_enter_the_loss_and_nothing_else(key):
    x = jax.random.bernoulli(key, 0.3, (4, 6)).astype(jnp.float32)
    model = models.vae.mlp(
        event_shape=(6,), latent_dim=4, hidden=(32,), likelihood="bernoulli"
    )
    params = jax.jit(model.init)(key, x)
    weight = jnp.asarray([1.0, 2.0, 0.0, 0.5])
    for value_and_grad in (
        objective.negative_elbo(model),
        objective.negative_bound(model, num_samples=3),
    ):
        value_and_grad = jax.jit(value_and_grad)
        (loss, terms), _ = value_and_grad(key, params, Batch(x, None, weight))
        (even, same), _ = value_and_grad(key, params, Batch(x, None, jnp.ones(4)))
        chex.assert_trees_all_equal(terms, same)
        assert loss != even


@pytest.mark.slow
def test_iwae_with_one_sample_has_the_gradient_of_the_log_weight(key):
    x = jax.random.bernoulli(key, 0.3, (4, 6)).astype(jnp.float32)
    model = models.vae.mlp(
        event_shape=(6,), latent_dim=4, hidden=(32,), likelihood="bernoulli"
    )
    params = jax.jit(model.init)(key, x)
    (loss, _), grads = objective.negative_bound(model, num_samples=1)(
        key, params, Batch(x, None, jnp.ones(4))
    )
    draw = jax.random.split(jax.random.split(key)[1], 1)[0]
    expected, slope = jax.value_and_grad(
        lambda p: -model.log_weight(draw, p, x).mean()
    )(params)
    chex.assert_trees_all_close(loss, expected, rtol=1e-5)
    chex.assert_trees_all_close(grads, slope, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_iwae_gradient_weights_samples_by_their_importance(x64, key):
    """Burda et al. (2016), eq. 14: sum of normalised weights times grad log w."""
    x = jax.random.bernoulli(key, 0.3, (1, 6)).astype(jnp.float64)
    model = models.vae.mlp(
        event_shape=(6,), latent_dim=4, hidden=(32,), likelihood="bernoulli"
    )
    params = jax.jit(model.init)(key, x)
    bound = jax.jit(objective.negative_bound(model, num_samples=5))
    _, grads = bound(key, params, Batch(x, None, jnp.ones(1)))
    keys = jax.random.split(jax.random.split(key)[1], 5)
    slope = jax.jit(jax.value_and_grad(lambda p, k: model.log_weight(k, p, x)[0]))
    draws = [slope(params, k) for k in keys]
    log_w = jnp.stack([value for value, _ in draws])
    normalized = jnp.exp(log_w - jax.nn.logsumexp(log_w))
    expected = jax.tree.map(
        lambda *leaves: -sum(w * g for w, g in zip(normalized, leaves, strict=True)),
        *[grad for _, grad in draws],
    )
    chex.assert_trees_all_close(grads, expected, rtol=1e-4, atol=1e-6)


def test_the_staged_schedule_is_the_papers():
    num_steps = sum(3**i for i in range(8))  # 3^i steps in stage i
    schedule = optimizers.learning_rate_schedule(
        "staged", 1e-3, num_steps=num_steps, warmup_steps=0
    )
    start = 0
    for stage in range(8):
        expected = 1e-3 * 10 ** (-stage / 7)
        for n in (start, start + 3**stage - 1):
            np.testing.assert_allclose(schedule(n), expected, rtol=1e-6)
        start += 3**stage
    np.testing.assert_allclose(schedule(num_steps - 1), 1e-4, rtol=1e-6)


def test_the_cosine_schedule_warms_up_and_ends_at_zero():
    schedule = optimizers.learning_rate_schedule(
        "cosine", 1e-3, num_steps=100, warmup_steps=10
    )
    rates = [float(schedule(n)) for n in (0, 5, 10, 55, 100)]
    np.testing.assert_allclose(rates, [0, 5e-4, 1e-3, 5e-4, 0], atol=1e-9)
    with pytest.raises(UserError, match=r"optimizer\.schedule"):
        optimizers.learning_rate_schedule("no", 1.0, num_steps=1, warmup_steps=0)


@pytest.mark.parametrize("name", ["constant", "staged"])
def test_every_schedule_warms_up(name):
    schedule = optimizers.learning_rate_schedule(
        name, 1.0, num_steps=3380, warmup_steps=100
    )
    rates = [schedule(n) for n in (0, 50, 100)]
    np.testing.assert_allclose(rates, [0.0, 0.5, 1.0], atol=1e-6)


def test_stages_share_what_the_warm_up_leaves():
    """3280 steps: the last stage begins after 1093 of them."""
    schedule = optimizers.learning_rate_schedule(
        "staged", 1.0, num_steps=3380, warmup_steps=100
    )
    rates = [schedule(100 + n) for n in (1092, 1093)]
    np.testing.assert_allclose(rates, [10 ** (-6 / 7), 0.1], rtol=1e-5)


DEVICES = textwrap.dedent("""
    import functools, json, jax, jax.numpy as jnp, numpy as np, optax
    from vgm import models
    from vgm.training import loop, objective, sharding, step
    from vgm.types import Batch
    key = jax.random.key(0)
    x = jax.random.bernoulli(key, 0.3, (400, 30)).astype(jnp.float32)
    model = models.vae.mlp(
        event_shape=(30,), latent_dim=4, hidden=(32,), likelihood="bernoulli"
    )
    optimizer, mesh = optax.adam(1e-3), sharding.data_mesh()
    state = step.init_state(model.init(key, x), optimizer, ema_decay=0.0)
    run = loop.compile_steps(
        step=functools.partial(
            step.train_step, value_and_grad=objective.negative_elbo(model),
            optimizer=optimizer, ema_decay=0.0,
        ),
        observe=lambda key, x: x, batch_size=64, mesh=mesh,
    )
    data = sharding.replicate(Batch(x, None, np.ones(400, np.float32)), mesh)
    state, losses = sharding.replicate(state, mesh), []
    for n in range(50):
        state, metrics = run(key, state, data, jnp.int32(n + 1))
        losses.append(float(metrics.loss))
    program = run.lower(key, state, data, jnp.int32(1)).compile().as_text()
    shared = "all-reduce" in program, "f32[64,32]" in program
    print(json.dumps(
        {"devices": jax.device_count(), "losses": losses, "shared": shared}
    ))
""")


def run_on_devices(count):
    environment = {
        **os.environ,
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} "
        f"--xla_force_host_platform_device_count={count}",
    }
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


@pytest.mark.slow
def test_eight_devices_give_the_losses_of_one():
    one, eight = run_on_devices(1), run_on_devices(8)
    assert (one["devices"], eight["devices"]) == (1, 8)
    # Eight have eight rows each and add their gradients up; one has all 64.
    assert (one["shared"], eight["shared"]) == ([False, True], [True, False])
    np.testing.assert_allclose(eight["losses"], one["losses"], rtol=1e-5)
    assert one["losses"][-1] < one["losses"][0] - 0.1


def test_a_batch_that_does_not_divide_over_the_devices_is_refused():
    class TwoDevices:
        size = 2

    with pytest.raises(UserError, match=r"train\.batch-size must be a multiple of"):
        sharding.require_divisible(7, TwoDevices())


@pytest.mark.parametrize("weighting", ["simple", "x", "min-snr"])
@pytest.mark.parametrize("num_steps", [0, 4])
@pytest.mark.slow
def test_weighted_errors_are_what_they_say(key, num_steps, weighting):
    """The mean of w |eps - eps_hat|^2, the errors drawn again by hand."""
    model = small_diffusion(train_num_steps=num_steps)
    x = normals(key, (6, 2))
    params = disturbed(jax.jit(model.init)(key, x))
    batch = Batch(x, None, jnp.ones(6).at[0].set(0.0))
    (loss, terms), grads = jax.jit(
        objective.weighted_error(model, weighting=weighting)
    )(key, params, batch)
    key_t, _, _ = jax.random.split(key, 3)
    t = times.low_discrepancy_times(key_t, 6)
    if num_steps:
        t = (jnp.floor(t * num_steps) + 1) / num_steps
        rate = num_steps * jnp.expm1(6.0 / num_steps)
    else:
        rate = 6.0
    gamma = -3.0 + 6.0 * t
    squares = 2.0 * terms.denoising_matching[:, 0] / rate
    weight = {
        "simple": jnp.ones(6),
        "x": jnp.exp(gamma),
        "min-snr": jnp.minimum(1.0, 5.0 * jnp.exp(gamma)),
    }[weighting]
    np.testing.assert_allclose(loss, jnp.mean((weight * squares)[1:]), rtol=1e-4)
    chex.assert_tree_all_finite(grads)
    moved = jax.tree.leaves(grads["network"])
    assert any(float(jnp.abs(leaf).max()) > 0 for leaf in moved)


@pytest.mark.parametrize(
    "schedule", [pytest.param("polynomial", marks=pytest.mark.slow), "monotone"]
)
@pytest.mark.slow
def test_least_variance_gradients(key, schedule):
    """Of the interior: the gradient of the mean square; of all else: the bound's."""
    model = small_diffusion(schedule)
    x = normals(key, (4, 2))
    params = disturbed(jax.jit(model.init)(key, x))
    weight = jnp.asarray([1.0, 2.0, 0.0, 1.0])
    batch = Batch(x, None, weight)
    (loss, _), grads = jax.jit(objective.least_variance(model))(key, params, batch)

    def mean_square(params):
        terms = model.training_terms(key, params, x)
        square = terms.denoising_matching.sum(-1) ** 2
        return objective.weighted_mean(square, weight)

    interior = jax.jit(jax.grad(mean_square))(params)["schedule"]["interior"]
    chex.assert_trees_all_close(
        grads["schedule"]["interior"], interior, rtol=1e-3, atol=1e-3
    )

    def negative_elbo(params):
        terms = model.training_terms(key, params, x)
        return -objective.weighted_mean(terms.elbo, weight)

    value, expected = jax.jit(jax.value_and_grad(negative_elbo))(params)
    np.testing.assert_allclose(loss, value, rtol=1e-5)
    chex.assert_trees_all_close(
        grads["network"], expected["network"], rtol=1e-3, atol=1e-4
    )
    chex.assert_trees_all_close(
        grads["schedule"]["ends"], expected["schedule"]["ends"], rtol=1e-3, atol=1e-4
    )


@pytest.mark.slow
def test_the_interior_leaves_the_bound_and_lowers_its_variance(key):
    """Steps against the variance alone: the bound stays, its spread falls."""
    model = small_diffusion("monotone")
    x = 0.3 * normals(key, (64, 2))
    params = disturbed(jax.jit(model.init)(key, x))
    batch = Batch(x, None, jnp.ones(64))
    least = objective.least_variance(model)

    @jax.jit
    def learn(params):
        def one(params, key):
            _, grads = least(key, params, batch)
            step = jax.tree.map(jnp.sign, grads["schedule"]["interior"])
            schedule = {
                **params["schedule"],
                "interior": jax.tree.map(
                    lambda a, g: a - 0.02 * g, params["schedule"]["interior"], step
                ),
            }
            return {**params, "schedule": schedule}, None

        return jax.lax.scan(one, params, jax.random.split(key, 200))[0]

    @jax.jit
    def matching(params):
        def draw(key):
            return model.training_terms(key, params, x).denoising_matching.sum(-1)

        return jax.vmap(draw)(jax.random.split(key, 2000))

    before, after = matching(params), matching(learn(params))
    assert after.var() < 0.8 * before.var()
    error = np.sqrt((before.var() + after.var()) / before.size)
    assert abs(before.mean() - after.mean()) < 4.5 * error


def test_weight_decay_spares_all_but_kernels():
    params = {
        "network": {"kernel": jnp.ones(3), "bias": jnp.ones(3), "scale": jnp.ones(3)},
        "schedule": {"ends": jnp.ones(2)},
    }
    decay = optimizers.optimizer(
        optax.constant_schedule(0.1),
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=0.5,
        clip_norm=0.0,
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = decay.update(zeros, decay.init(params), params)
    np.testing.assert_allclose(updates["network"]["kernel"], -0.05, rtol=1e-6)
    del updates["network"]["kernel"]
    chex.assert_trees_all_equal(updates, jax.tree.map(jnp.zeros_like, updates))


def test_steps_compiled_ahead_are_compiled_no_more(key):
    """What compiling takes is told apart from what steps take."""
    traced = []

    def count_step(key, state, batch):
        traced.append(batch)
        return state._replace(step=state.step + 1), step.StepMetrics(
            *(jnp.zeros(()) for _ in step.StepMetrics._fields)
        )

    mesh = sharding.data_mesh()
    data = sharding.replicate(Batch(jnp.zeros((8, 2)), None, jnp.ones(8)), mesh)
    state = step.init_state({"w": jnp.zeros(2)}, optax.sgd(0.1), ema_decay=0.0)
    state = sharding.replicate(state, mesh)
    steps = loop.compile_steps(
        step=count_step, observe=lambda key, x: x, batch_size=4, mesh=mesh
    )
    compiled, seconds = loop.compile_ahead(steps, key, state, data)
    assert isinstance(compiled, jax.stages.Compiled)
    assert seconds > 0.0
    count = len(traced)
    for stop in (3, 5):
        state, _ = compiled(key, state, data, jnp.int32(stop))
        assert int(state.step) == stop
    assert len(traced) == count
