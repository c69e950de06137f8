"""Gradient estimators: the values of the bounds, unbiased, with the known variances."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole

from vgm.bounds import gradients, importance
from vgm.densities import categorical, normal
from vgm.oracles import enumeration, linear_gaussian

ESTIMATORS = {
    **{f"elbo {n}": f for n, f in gradients.ELBO_ESTIMATORS.items()},
    **{f"iwae {n}": f for n, f in gradients.IWAE_ESTIMATORS.items()},
}
X = [0.8, -0.3, 1.1]


def linear_params():
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.0, 0.4], [-0.6, 0.9], [0.3, -0.8]]),
        jnp.asarray([0.1, 0.0, -0.2]),
        jnp.asarray(-0.3),
    )
    return {
        "p": model,
        "mean": jnp.asarray([0.3, -0.1]),
        "log_std": jnp.asarray([-0.3, -0.5]),
    }


def linear_system():
    """Diagonal normal q, linear-Gaussian p; every exact answer is known."""
    x = jnp.asarray(X)
    return gradients.System(
        propose=lambda key, params: normal.sample(
            key, params["mean"], params["log_std"]
        ),
        log_joint=lambda params, z: linear_gaussian.log_joint(params["p"], x, z),
        log_posterior=lambda params, z: normal.log_prob(
            z, params["mean"], params["log_std"]
        ),
    )


def hierarchy_params():
    return {
        "q1": jnp.asarray([0.5, -0.2, -0.5]),
        "q2": jnp.asarray([0.4, 0.1, -0.3]),
        "p": jnp.asarray([0.9, -0.4, 0.8, -0.6]),
    }


def hierarchy_system():
    """z_2 -> z_1 -> x with q(z_1 | x) q(z_2 | z_1): q_2 reads a sample that moves."""
    x = jnp.asarray(0.7)

    def conditional(params, below):
        slope, bias, log_std = params
        return slope * below + bias, log_std

    def propose(key, params):
        key_1, key_2 = jax.random.split(key)
        z_1 = normal.sample(key_1, *conditional(params["q1"], x))
        return z_1, normal.sample(key_2, *conditional(params["q2"], z_1))

    def log_posterior(params, z):
        z_1, z_2 = z
        log_q1 = normal.log_prob(z_1, *conditional(params["q1"], x))
        return log_q1 + normal.log_prob(z_2, *conditional(params["q2"], z_1))

    def log_joint(params, z):
        z_1, z_2 = z
        to_1, log_std_1, to_x, log_std_x = params["p"]
        return (
            normal.log_prob(z_2, jnp.zeros(()), jnp.zeros(()))
            + normal.log_prob(z_1, jnp.tanh(to_1 * z_2), log_std_1)
            + normal.log_prob(x, jnp.sin(to_x * z_1), log_std_x)
        )

    return gradients.System(propose, log_joint, log_posterior)


SYSTEMS = {
    "linear": (linear_params, linear_system),
    "hierarchy": (hierarchy_params, hierarchy_system),
}


def draws_of_gradient(key, estimator, params, system, num_samples, num_draws):
    def one(key):
        return jax.grad(
            lambda params: estimator(key, params, system, num_samples=num_samples)
        )(params)

    draws = jax.jit(jax.vmap(one))(jax.random.split(key, num_draws))
    flat = [np.asarray(leaf).reshape(num_draws, -1) for leaf in jax.tree.leaves(draws)]
    return np.concatenate(flat, axis=1)


def flatten(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_the_value_of_its_bound(x64, key, name, system):
    params, system = (make() for make in SYSTEMS[system])
    value = whole(ESTIMATORS[name])(key, params, system, num_samples=5)

    def plain(key, params):
        z = jax.vmap(lambda k: system.propose(k, params))(jax.random.split(key, 5))
        log_w = jax.vmap(
            lambda z: system.log_joint(params, z) - system.log_posterior(params, z)
        )(z)
        return log_w.mean() if name.startswith("elbo") else importance.iwae(log_w)

    np.testing.assert_allclose(value, whole(plain)(key, params), rtol=1e-13)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_has_one_derivative_forward_and_backward(x64, key, name):
    params, system = hierarchy_params(), hierarchy_system()

    def bound(params):
        return ESTIMATORS[name](key, params, system, num_samples=3)

    along = jax.tree.map(jnp.ones_like, params)
    _, forward = jax.jit(lambda *of: jax.jvp(bound, of[:1], of[1:]))(params, along)
    gradient = jax.jit(jax.grad(bound))(params)
    backward = sum(np.sum(leaf) for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(forward, backward, rtol=1e-12)


@pytest.mark.parametrize("name", gradients.ELBO_ESTIMATORS)
@pytest.mark.slow
def test_elbo_gradients_are_unbiased(x64, key, name):
    """Against the closed form of the bound, in every parameter of p and q."""
    params, x = linear_params(), jnp.asarray(X)

    def exact(params):
        q = linear_gaussian.Normal(params["mean"], jnp.diag(jnp.exp(params["log_std"])))
        return linear_gaussian.elbo(params["p"], x, q)

    draws = draws_of_gradient(
        key, gradients.ELBO_ESTIMATORS[name], params, linear_system(), 3, 30_000
    )
    expected = flatten(whole(jax.grad(exact))(params))
    stderr = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) < 4 * stderr + 1e-12).all()


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["vimco", "dreg"])
@pytest.mark.slow
def test_iwae_gradients_agree_with_the_pathwise_ones(x64, key, name, system):
    """Within 3 standard errors in all parameters, one layer of latents or two."""
    params, system = (make() for make in SYSTEMS[system])
    first, second = jax.random.split(key)
    reference = draws_of_gradient(
        first, gradients.iwae_pathwise, params, system, 4, 60_000
    )
    draws = draws_of_gradient(
        second, gradients.IWAE_ESTIMATORS[name], params, system, 4, 60_000
    )
    error = draws.mean(0) - reference.mean(0)
    stderr = np.sqrt((draws.var(0) + reference.var(0)) / len(draws))
    assert (np.abs(error) < 3 * stderr).all(), error / stderr


def test_stopping_what_q_emits_instead_of_its_weights_is_biased(x64, key):
    """In a hierarchy the sample that q_2 reads must stay live inside log q."""
    params, system = hierarchy_params(), hierarchy_system()

    def wrong(params, z):
        """Both conditionals with their means and log_stds stopped, the samples live."""
        z_1, z_2 = z
        q_1, q_2 = jax.lax.stop_gradient((params["q1"], params["q2"]))
        law_1 = (q_1[0] * jnp.asarray(0.7) + q_1[1], q_1[2])
        law_2 = jax.lax.stop_gradient((q_2[0] * z_1 + q_2[1], q_2[2]))
        return normal.log_prob(z_1, *law_1) + normal.log_prob(z_2, *law_2)

    biased = system._replace(log_posterior=wrong)
    first, second = jax.random.split(key)
    reference = draws_of_gradient(
        first, gradients.iwae_pathwise, params, system, 4, 60_000
    )
    draws = draws_of_gradient(second, gradients.iwae_dreg, params, biased, 4, 60_000)
    stderr = np.sqrt((draws.var(0) + reference.var(0)) / len(draws))
    assert (np.abs(draws.mean(0) - reference.mean(0)) > 8 * stderr).any()


def one_dimensional():
    """A linear-Gaussian model whose posterior is diagonal, and q there."""
    model = linear_gaussian.LinearGaussian(
        jnp.asarray([[1.3], [-0.4], [0.5]]), jnp.zeros(3), jnp.asarray(-0.2)
    )
    posterior = whole(linear_gaussian.posterior)(model, jnp.asarray(X))
    return {
        "p": model,
        "mean": posterior.mean,
        "log_std": np.log(np.diagonal(posterior.cholesky)),
    }


@pytest.mark.parametrize("name", ["elbo sticking-the-landing", "iwae dreg"])
def test_the_gradient_for_q_vanishes_at_the_posterior(x64, key, name):
    """To rounding, draw by draw; the pathwise one does not."""
    params, system = one_dimensional(), linear_system()

    def gradient(estimator):
        value = functools.partial(estimator, key, system=system, num_samples=4)
        return jax.jit(jax.grad(lambda params: value(params)))(params)

    found = gradient(ESTIMATORS[name])
    assert abs(found["mean"]).max() < 1e-13
    assert abs(found["log_std"]).max() < 1e-13
    assert abs(found["p"].weights).max() > 1e-3
    plain = gradient(gradients.elbo_pathwise)
    assert abs(plain["mean"]).max() > 1e-3


def signal_to_noise_slope(key, estimator, sizes=(1, 4, 16, 64), num_draws=4000):
    """Slope of log |mean| / std of the gradient for q in log K."""
    params, system = linear_params(), linear_system()
    ratios = []
    for size in sizes:
        gradient = jax.jit(
            jax.vmap(
                jax.grad(
                    lambda mean, key, size=size: estimator(
                        key, {**params, "mean": mean}, system, num_samples=size
                    )
                ),
                (None, 0),
            )
        )
        draws = gradient(params["mean"], jax.random.split(key, num_draws))
        ratios.append(np.mean(np.abs(draws.mean(0)) / draws.std(0)))
    return np.polyfit(np.log(sizes), np.log(ratios), 1)[0]


@pytest.mark.slow
def test_more_samples_drown_the_pathwise_gradient_and_help_the_doubly_reparameterised(
    key,
):
    """Rainforth et al. 2018: slope -1/2; Tucker et al. 2019: slope +1/2."""
    assert signal_to_noise_slope(key, gradients.iwae_pathwise) <= -0.3
    assert signal_to_noise_slope(key, gradients.iwae_dreg) >= 0.3


@pytest.mark.parametrize("num_samples", [2, 3])
@pytest.mark.parametrize("name", ["elbo score-function", "iwae vimco"])
def test_discrete_latents_against_enumeration(x64, key, name, num_samples):
    """Every state can be summed over, so the bounds' gradients are exact."""
    params = {"q": jnp.asarray([0.3, -0.5, 0.2]), "p": jnp.asarray([-1.0, -2.5, -0.4])}
    system = gradients.System(
        propose=lambda key, params: categorical.sample(key, params["q"]),
        log_joint=lambda params, z: params["p"][z],
        log_posterior=lambda params, z: categorical.log_prob(z, params["q"]),
    )

    def exact(params):
        if name.startswith("elbo"):
            return enumeration.elbo(params["p"], params["q"])
        return enumeration.iwae(params["p"], params["q"], num_samples=num_samples)

    draws = draws_of_gradient(
        key, ESTIMATORS[name], params, system, num_samples, 60_000
    )
    expected = flatten(whole(jax.grad(exact))(params))
    stderr = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - expected) < 4 * stderr).all()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parameters_shared_by_prior_and_posterior(x64, key, name):
    """One number moves both: the gradient is the sum of what each would get."""
    x = jnp.asarray(0.7)

    def system(split):
        return gradients.System(
            propose=lambda key, c: normal.sample(key, c[0], jnp.asarray(-0.3)),
            log_joint=lambda c, z: (
                normal.log_prob(z, c[1 if split else 0], jnp.zeros(()))
                + normal.log_prob(x, z, jnp.asarray(-0.5))
            ),
            log_posterior=lambda c, z: normal.log_prob(z, c[0], jnp.asarray(-0.3)),
        )

    estimator = functools.partial(ESTIMATORS[name], key, num_samples=4)
    gradient = jax.jit(jax.grad(estimator), static_argnums=1)
    both = gradient(np.full(2, 0.4), system(split=True))
    shared = gradient(np.full(1, 0.4), system(split=False))
    np.testing.assert_allclose(shared[0], np.sum(both), rtol=1e-12)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.slow
def test_a_batch_is_its_examples(x64, key, name):
    """Bounds and gradients of a batch are those of its examples, one by one."""
    x = jnp.asarray([0.7, -1.0])

    def system(x):
        return gradients.System(
            propose=lambda key, p: (
                p["slope"] * x + jax.random.normal(key, (2,))[: x.size].reshape(x.shape)
            ),
            log_joint=lambda p, z: -0.5 * (z**2 + jnp.exp(p["rate"]) * (x - z) ** 2),
            log_posterior=lambda p, z: -0.5 * (z - p["slope"] * x) ** 2,
        )

    params = {"slope": jnp.asarray(0.4), "rate": jnp.asarray(0.2)}
    estimator = functools.partial(ESTIMATORS[name], key, num_samples=3)
    batch = estimator(params, system(x))
    chex.assert_shape(batch, (2,))
    first = estimator(params, system(x[:1]))
    np.testing.assert_allclose(batch[0], first[0], rtol=1e-12)
    jitted = jax.jit(lambda params: estimator(params, system(x)))(params)
    np.testing.assert_allclose(jitted, batch, rtol=1e-12)
    grad = jax.grad(lambda p: estimator(p, system(x))[0])(params)
    alone = jax.grad(lambda p: estimator(p, system(x[:1]))[0])(params)
    chex.assert_trees_all_close(grad, alone, rtol=1e-10)


@pytest.mark.parametrize("name", ["elbo score-function", "iwae vimco"])
def test_leaving_one_out_needs_two(key, name):
    with pytest.raises(ValueError, match="num_samples >= 2; got 1"):
        ESTIMATORS[name](key, linear_params(), linear_system(), num_samples=1)


@pytest.mark.parametrize("name", ["pathwise", "vimco", "dreg"])
def test_a_weight_of_zero_spoils_neither_value_nor_gradient(key, name):
    """p leaves out half of what q proposes."""
    system = gradients.System(
        propose=lambda key, q: normal.sample(key, *q),
        log_joint=lambda q, z: jnp.where(z < 0.0, -jnp.inf, -0.5 * (z - 1.0) ** 2),
        log_posterior=lambda q, z: normal.log_prob(z, *q),
    )
    q = (jnp.asarray(0.3), jnp.asarray(0.1))
    estimator = gradients.IWAE_ESTIMATORS[name]

    @jax.jit
    def both(q):
        plain = gradients.iwae_pathwise(key, q, system, num_samples=8)
        bound = lambda q: estimator(key, q, system, num_samples=8)  # noqa: E731
        return plain, *jax.value_and_grad(bound)(q)

    plain, value, gradient = both(q)
    assert np.isfinite(plain)
    assert value == plain
    assert all(np.isfinite(leaf) for leaf in gradient)


def test_the_score_function_keeps_its_value_with_a_weight_of_zero(key):
    system = gradients.System(
        propose=lambda key, q: normal.sample(key, q, jnp.zeros(())),
        log_joint=lambda q, z: jnp.where(z < 0.0, -jnp.inf, 0.0),
        log_posterior=lambda q, z: normal.log_prob(z, q, jnp.zeros(())),
    )
    value = gradients.elbo_score_function(key, jnp.zeros(()), system, num_samples=8)
    assert value == -jnp.inf


@pytest.mark.parametrize("offset", [0.0, -1e4])
def test_vimco_signals_keep_their_digits_far_from_zero(key, offset):
    """The signal is 1/K of a nat, however large log w."""
    joint = jnp.asarray([0.0, 0.125, -0.125, 0.0625]) + offset
    system = gradients.System(
        propose=lambda key, q: categorical.sample(key, q),
        log_joint=lambda q, z: joint[z],
        log_posterior=lambda q, z: jax.nn.log_softmax(q)[z],
    )
    gradient = jax.jit(
        jax.grad(lambda q: gradients.iwae_vimco(key, q, system, num_samples=50))
    )(jnp.zeros(4))
    z = jax.vmap(lambda k: categorical.sample(k, jnp.zeros(4)))(
        jax.random.split(key, 50)
    )
    # The same draws in double precision, the baselines by a loop.
    log_w = np.asarray(joint, np.float64)[np.asarray(z)] - offset + np.log(4.0)
    weights = np.exp(log_w)
    bound = np.log(weights.mean())
    expected = np.zeros(4)
    for k, state in enumerate(np.asarray(z)):
        others = np.delete(log_w, k)
        replaced = np.exp(np.append(others, others.mean()))
        signal = bound - np.log(replaced.mean()) - weights[k] / weights.sum()
        expected += signal * (np.eye(4)[state] - 0.25)
    # The float32 inputs at -1e4 are rounded to 1e-3: offsets of 1/16 are exact there.
    np.testing.assert_allclose(gradient, expected, atol=1e-5 if offset == 0 else 2e-3)


def test_each_draw_is_compared_with_the_mean_of_the_others(x64, key):
    """The score-function gradient of one set of draws, by a loop."""
    params, system = linear_params(), linear_system()
    propose, log_joint, log_posterior = map(jax.jit, system[:3])
    z = [propose(k, params) for k in jax.random.split(key, 4)]
    log_w = [float(log_joint(params, one) - log_posterior(params, one)) for one in z]
    expected = np.zeros(2)
    for k, row in enumerate(z):
        others = np.mean(np.delete(log_w, k))
        score = np.asarray(row - params["mean"]) * np.exp(-2 * params["log_std"])
        expected += (log_w[k] - others) * score / 4
    gradient = jax.grad(
        lambda p: gradients.elbo_score_function(key, p, system, num_samples=4)
    )
    np.testing.assert_allclose(whole(gradient)(params)["mean"], expected, rtol=1e-10)


def test_vimco_has_no_baseline_where_every_other_weight_is_zero(x64):
    """Two draws, one of weight 0: by hand, log q = a z and log p = 0.3 or -inf."""
    system = gradients.System(
        lambda key, params: jax.random.normal(key),
        lambda params, z: jnp.where(z > 0.0, 0.3, -jnp.inf),
        lambda params, z: params * z,
    )
    params = jnp.asarray(0.8)

    @jax.jit
    @jax.value_and_grad
    def bound(params, key):
        return gradients.iwae_vimco(key, params, system, num_samples=2)

    found = 0
    for seed in range(8):
        key = jax.random.key(seed)
        z = np.asarray(jax.vmap(jax.random.normal)(jax.random.split(key, 2)))
        if (z > 0).sum() != 1:
            continue
        found += 1
        alive, dead = z.max(), z.min()
        value, grad = bound(params, key)
        log_w = 0.3 - params * alive
        np.testing.assert_allclose(value, log_w - np.log(2), rtol=1e-12)
        # Signal of the one alive: the bound itself; of the other: bound - log w.
        expected = value * alive - np.log(2) * dead - alive
        np.testing.assert_allclose(grad, expected, rtol=1e-12)
    assert found >= 2
