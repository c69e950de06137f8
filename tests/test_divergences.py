"""Divergences against quadrature and long formulas, at their limits and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import whole
from draws import normals
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads
from scipy import integrate, special, stats

from vgm import divergences, numerics
from vgm.densities import normal

KL_STANDARD = jax.jit(divergences.kl_standard_normal)
PAIRS = [
    ((0.0, 0.0), (0.0, 0.0)),
    ((1.0, -0.5), (-0.3, 0.4)),
    ((-2.0, 1.0), (0.5, -1.0)),
]


@pytest.mark.parametrize(("q", "p"), PAIRS)
def test_kl_normal_equals_quadrature(x64, q, p):
    q_law, p_law = (stats.norm(mean, np.exp(log_std)) for mean, log_std in (q, p))
    expected, _ = integrate.quad(
        lambda z: q_law.pdf(z) * (q_law.logpdf(z) - p_law.logpdf(z)),
        -40,
        40,
        points=[q[0]],
        limit=200,
    )
    actual = jax.jit(divergences.kl_normal)(*q, *p)
    np.testing.assert_allclose(actual, expected, atol=1e-8)


def test_kl_standard_normal_is_kl_normal_to_the_origin(x64, key):
    mean, log_std = normals(key, (2, 5))
    expected = whole(divergences.kl_normal)(mean, log_std, *np.zeros((2, 5)))
    np.testing.assert_allclose(KL_STANDARD(mean, log_std), expected, rtol=1e-14)


def test_kl_multivariate_normal_equals_the_textbook_formula(x64, key):
    a, b, m, n = (
        np.asarray(normals(k, s))
        for k, s in zip(
            jax.random.split(key, 4), [(4, 4), (4, 4), (4,), (4,)], strict=True
        )
    )
    q_cov, p_cov = a @ a.T + np.eye(4), b @ b.T + np.eye(4)
    inverse = np.linalg.inv(p_cov)
    expected = 0.5 * (
        np.trace(inverse @ q_cov)
        - 4
        + (n - m) @ inverse @ (n - m)
        + np.linalg.slogdet(p_cov)[1]
        - np.linalg.slogdet(q_cov)[1]
    )
    actual = whole(divergences.kl_multivariate_normal)(
        m, np.linalg.cholesky(q_cov), n, np.linalg.cholesky(p_cov)
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


def test_kl_multivariate_normal_of_diagonals_is_kl_normal(x64, key):
    m, r, n, s = np.asarray(normals(key, (4, 3)))
    actual = whole(divergences.kl_multivariate_normal)(
        m, np.diag(np.exp(r)), n, np.diag(np.exp(s))
    )
    expected = whole(divergences.kl_normal)(m, r, n, s)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_kl_of_a_law_to_itself_is_exactly_zero(key):
    mean, log_std = normals(key, (2, 7))
    assert whole(divergences.kl_normal)(mean, log_std, mean, log_std) == 0.0
    mean, cholesky = np.zeros(3, np.float32), 2.0 * np.eye(3, dtype=np.float32)
    cholesky += np.tril(normals(key, (3, 3)), -1)
    value = whole(divergences.kl_multivariate_normal)(mean, cholesky, mean, cholesky)
    # The triangular solve of a matrix by itself leaves one rounding an entry.
    assert 0.0 <= value < 1e-12


@pytest.mark.parametrize("delta", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, -1e-4, -0.2])
def test_kl_keeps_its_digits_near_equality_in_float32(delta):
    # 1/2 (e^{2d} - 1 - 2d) = d^2 + 2/3 d^3 + d^4/3 + ..., summed in double precision.
    expected = 0.5 * sum(
        (2 * np.float64(np.float32(delta))) ** n / np.prod(np.arange(1.0, n + 1))
        for n in range(2, 20)
    )
    at = jnp.zeros(1), jnp.asarray([delta])
    np.testing.assert_allclose(KL_STANDARD(*at), expected, rtol=5e-7)


@whole
def expm1_minus(x):
    """exp(x) - 1 - x, each by itself."""
    zero = jnp.zeros((), x.dtype)
    return 2.0 * jnp.vectorize(lambda one: numerics.sum_half_expm1_minus(one, zero))(x)


def test_expm1_minus_is_smooth_where_its_forms_meet(x64):
    half_log2 = 0.5 * np.log(2.0)
    x = jnp.asarray([-1.0, -0.5, 0.5, 1.0, *(half_log2 * np.arange(-5, 6, 2)), -50.0])
    below, above = x * (1 - 1e-12), x * (1 + 1e-12)
    np.testing.assert_allclose(expm1_minus(below), expm1_minus(above), rtol=1e-10)
    gradient = jax.jit(jax.vmap(jax.grad(expm1_minus)))
    x = jnp.asarray([1e-8, 0.4, 0.6, 0.9, 1.1, 3.0])
    x = jnp.concatenate([-x[1:], jnp.zeros(1), x])
    np.testing.assert_allclose(gradient(x), jnp.expm1(x), rtol=1e-13, atol=1e-300)


def test_closed_forms_are_never_negative_in_float32(key):
    mean, log_std = normals(key, (2, 2000, 1))
    near = log_std + 1e-4 * normals(jax.random.fold_in(key, 1), (2000, 1))
    values = jax.jit(jax.vmap(divergences.kl_normal))(mean, log_std, mean, near)
    assert (values >= 0.0).all()


@pytest.mark.parametrize("log_std", [-30.0, 30.0])
def test_kl_is_finite_at_extreme_scales(log_std):
    both = whole(jax.value_and_grad(divergences.kl_standard_normal, (0, 1)))
    value, grads = both(jnp.asarray([1.0]), jnp.asarray([log_std]))
    assert np.isfinite(value)
    assert all(np.isfinite(grad).all() for grad in grads)


def test_gradients_equal_finite_differences(x64, key):
    arguments = tuple(normals(key, (4, 3)))

    kl = whole(divergences.kl_normal)
    check_grads(kl, arguments, order=2, modes=["rev"], rtol=1e-5)


def test_monte_carlo_agrees_with_the_closed_form(x64, key):
    q, p = (jnp.asarray([0.5]), jnp.asarray([-0.3])), (jnp.zeros(1), jnp.zeros(1))

    def estimate(key):
        return divergences.kl_monte_carlo(
            key,
            lambda k: normal.sample(k, *q),
            lambda z: normal.log_prob(z, *q),
            lambda z: normal.log_prob(z, *p),
            num_samples=10,
        )

    draws = jax.vmap(estimate)(jax.random.split(key, 20_000))
    stderr = draws.std() / np.sqrt(len(draws))
    assert abs(draws.mean() - divergences.kl_normal(*q, *p)) < 4 * stderr


@pytest.mark.slow
def test_jit_and_vmap_give_the_plain_numbers(key, strict_dtypes):
    batch = normals(key, (4, 5, 3))
    plain = jnp.stack([divergences.kl_normal(*batch[:, i]) for i in range(5)])
    mapped = jax.vmap(divergences.kl_normal)
    np.testing.assert_allclose(mapped(*batch), plain, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(mapped)(*batch), plain, rtol=1e-6)


compiled_kl_categorical = jax.jit(divergences.kl_categorical)


@given(st.sampled_from([(), (3,), (2, 3)]), st.sampled_from([2, 9]), st.data())
@settings(max_examples=30, deadline=None)
def test_kl_categorical_equals_scipy(shape, levels, data):
    reals = st.floats(-30, 30, width=32)
    q, p = (
        data.draw(hnp.arrays(np.float64, (*shape, levels), elements=reals))
        for _ in range(2)
    )
    expected = special.rel_entr(special.softmax(q, -1), special.softmax(p, -1)).sum()
    with jax.enable_x64(True):
        actual = compiled_kl_categorical(jnp.asarray(q), jnp.asarray(p))
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)
    single = compiled_kl_categorical(
        jnp.asarray(q, jnp.float32), jnp.asarray(p, jnp.float32)
    )
    assert single >= 0.0
    np.testing.assert_allclose(single, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", [1e-1, 1e-2, 1e-3, 1e-4])
def test_kl_categorical_is_exact_in_float32_when_q_is_near_p(key, distance):
    q, step = normals(key, (2, 6))
    p = q + distance * step
    with jax.enable_x64(True):
        # The same float32 numbers in double precision: second order in d log p.
        d = np.asarray(p, np.float64) - np.asarray(q, np.float64)
        weight = special.softmax(np.asarray(q, np.float64))
        cumulant = np.log(weight @ np.exp(d - weight @ d))
    kl = jax.jit(divergences.kl_categorical)
    np.testing.assert_allclose(kl(q, p), cumulant, rtol=3e-6 + 1e-16 / distance**2)
    assert kl(q, q) == 0.0
    assert kl(q, q + 7.0) < 1e-12


def test_kl_bernoulli_equals_the_written_out_sum(x64, key):
    q, p = 3.0 * normals(key, (2, 5))
    a, b = special.expit(np.asarray(q)), special.expit(np.asarray(p))
    expected = (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b))).sum()
    actual = whole(divergences.kl_bernoulli)(q, p)
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize("function", ["kl_categorical", "kl_bernoulli"])
def test_discrete_divergences_at_extreme_logits(function):
    q, p = jnp.asarray([1e4, -1e4]), jnp.asarray([-1e4, 1e4])
    kl = getattr(divergences, function)
    value, grads = whole(jax.value_and_grad(kl, (0, 1)))(q, p)
    # All mass on one level that the other gives e^-20000, or e^-10000 twice.
    assert value == 2e4
    assert all(np.isfinite(grad).all() for grad in grads)
    sure = {"kl_categorical": np.log(3.0), "kl_bernoulli": 2 * np.log(2.0)}
    logits = jnp.asarray([1e4, -1e4, -1e4][: 3 if "cat" in function else 2])
    flat = whole(kl)(logits, np.zeros_like(logits))
    np.testing.assert_allclose(flat, sure[function], rtol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 3.0])
@pytest.mark.parametrize("function", ["kl_categorical", "kl_bernoulli"])
@pytest.mark.slow
def test_discrete_gradients_equal_finite_differences(x64, key, function, scale):
    q, step = normals(key, (2, 2, 4))
    arguments = tuple(map(np.asarray, (q, q + scale * step)))
    check_grads(
        lambda q, p: getattr(divergences, function)(jnp.asarray(q), jnp.asarray(p)),
        arguments,
        order=1,
        modes=["rev"],
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.slow
def test_discrete_divergences_under_jit_and_vmap(key):
    q, p = normals(key, (2, 4, 2, 3))
    for function in (divergences.kl_categorical, divergences.kl_bernoulli):
        plain = jnp.stack([function(a, b) for a, b in zip(q, p, strict=True)])
        np.testing.assert_allclose(jax.vmap(function)(q, p), plain, rtol=1e-5)
        np.testing.assert_allclose(jax.jit(jax.vmap(function))(q, p), plain, rtol=1e-5)


def test_levels_without_mass():
    """0 log 0 is 0; mass where p has none is an infinite divergence."""
    one, two = jnp.asarray([0.0, -jnp.inf]), jnp.zeros(2)
    kl = jax.jit(divergences.kl_categorical)
    np.testing.assert_allclose(kl(one, two), np.log(2.0), rtol=1e-6)
    assert kl(one, one) == 0.0
    assert kl(two, one) == jnp.inf


@pytest.mark.parametrize(("x64_on", "tolerance"), [(False, 5e-7), (True, 2e-15)])
def test_expm1_minus_to_the_last_digits(x64_on, tolerance):
    """By the series in long double; a few ulps are the rounding of each form."""
    x = np.concatenate([-np.logspace(-6, 0.7, 60), np.logspace(-6, 0.7, 60)])
    with jax.enable_x64(x64_on):
        given = jnp.asarray(x)
        actual = np.asarray(expm1_minus(given), np.longdouble)
        x = np.asarray(given, np.longdouble)
        inside = abs(x) < 1
        ratio = np.asarray(numerics.expm1_minus_over_square(given), np.longdouble)
    term, expected = x**2 / 2, np.zeros_like(x)
    for n in range(3, 60):
        expected += term
        term = term * x / n
    np.testing.assert_allclose(
        (actual / expected).astype(float), np.ones(len(x)), atol=tolerance
    )
    np.testing.assert_allclose(
        (ratio * x**2 / expected)[inside].astype(float),
        np.ones(inside.sum()),
        atol=tolerance,
    )


@pytest.mark.parametrize("size", [0, 1, 2, 5, 6, 8])
def test_sum_half_expm1_minus_adds_all_up(size, x64, key):
    """By quarters, by halves or all at once, as the size allows."""
    x, plus = normals(key, (2, size))
    expected = 0.5 * np.sum(np.expm1(x) - x) + np.sum(plus)
    actual = whole(numerics.sum_half_expm1_minus)(x, plus)
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-300)


@pytest.mark.parametrize("x64_on", [False, True])
def test_expm1_minus_at_its_ends(x64_on):
    """Finite as long as exp(x) is, and then infinite; a line far below 0."""
    with jax.enable_x64(x64_on):
        info = jnp.finfo(jnp.zeros(()).dtype)
        # Half of the last digit of so large an argument is not enough to overflow.
        edge = np.log(float(info.max)) * (1.0 - float(info.eps))
        ends = jnp.asarray([edge, edge + 0.01, 1e4, 1e30, -50.5, -1e4, -1e30])
        value = jax.jit(expm1_minus)(ends)
        slope = jax.jit(jax.vmap(jax.grad(expm1_minus)))(ends)
        curvature = jax.jit(jax.vmap(jax.grad(jax.grad(expm1_minus))))(ends)
        exponential = np.asarray(jnp.exp(ends))
        expected = np.asarray(jnp.where(ends < 0.0, -1.0 - ends, exponential))
    few = 10 * float(info.eps)
    np.testing.assert_allclose(value, expected, rtol=few)
    np.testing.assert_allclose(slope, exponential - 1.0, rtol=few)
    # The derivative of expm1(x) is expm1(x) + 1, which far below 0 is rounding.
    np.testing.assert_allclose(curvature, exponential, rtol=few, atol=float(info.eps))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 8])
def test_normal_divergences_in_half_precision(dtype, size, key):
    """Computed in float32 and rounded: the inputs' digits are what is lost."""
    mean, log_std = normals(key, (2, size), dtype)
    other = jnp.zeros(size, dtype)
    pairs = [
        (divergences.kl_standard_normal, (mean, log_std)),
        (divergences.kl_normal, (mean, log_std, other, other)),
    ]
    for function, arguments in pairs:
        function = jax.jit(function)
        value = function(*arguments)
        assert value.dtype == dtype
        exact = function(*(np.asarray(part, np.float32) for part in arguments))
        few = 8 * float(jnp.finfo(dtype).eps)
        np.testing.assert_allclose(float(value), exact, rtol=few)
        gradient = jax.jit(jax.grad(function, 1))(*arguments)
        assert gradient.dtype == dtype


def test_divergences_of_shapes_that_do_not_go_together():
    with pytest.raises((ValueError, TypeError)):
        divergences.kl_standard_normal(jnp.zeros((3, 2)), jnp.zeros((2, 3)))


@pytest.mark.parametrize("delta", [1e-2, 1e-3, 1e-4, 1e-5, 1e-6, -1e-4])
def test_full_kl_keeps_its_digits_near_equality_in_float32(delta, key):
    """The factor of q near that of p: its diagonal and all below; by long double."""
    noise = np.tril(np.asarray(normals(key, (4, 4))))
    p = (np.eye(4) * 2.0 + 0.3 * noise).astype(np.float32)
    q = (p + delta * np.tril(noise + 1.0)).astype(np.float32)
    a = np.linalg.solve(p.astype(np.float64), q.astype(np.float64) - p)
    rise = np.diag(a)
    # |1 + a|^2 - 4 - 2 sum log(1 + a_ii), its constants and first order cancelled.
    logs = sum((-rise) ** n / n for n in range(2, 9)).sum()
    expected = 0.5 * (np.tril(a, -1) ** 2).sum() + 0.5 * (rise**2).sum() + logs
    mean, p, q = jnp.zeros(4), jnp.asarray(p), jnp.asarray(q)
    kl = jax.jit(divergences.kl_multivariate_normal)
    # A hundred roundings: products and sums of a solve of four rows.
    np.testing.assert_allclose(kl(mean, q, mean, p), expected, rtol=1e-5)
    assert kl(mean, p, mean, p) == 0.0


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 0.4, 0.6, 1.4, 1.6, 1e3])
def test_full_kl_of_scales_far_apart_in_float32(scale):
    mean, eye = np.zeros(2, np.float32), np.eye(2, dtype=np.float32)
    scale = np.float32(scale)
    kl = jax.value_and_grad(divergences.kl_multivariate_normal, 1)
    actual, slope = whole(kl)(mean, scale * eye, mean, eye)
    expected = KL_STANDARD(mean, np.full(2, np.log(scale)))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    np.testing.assert_allclose(
        np.diagonal(slope), np.full(2, scale - 1.0 / scale), rtol=1e-5
    )


@pytest.mark.parametrize("x64_on", [False, True])
def test_log1mexp_to_the_last_digits(x64_on):
    """Small and large arguments, by long double."""
    with jax.enable_x64(x64_on):
        x = jnp.asarray([1e-6, 1e-3, 0.1, 0.69, 0.70, 1.0, 5.0, 10.0, 16.0, 30.0, 80.0])
        value, slope = whole(jax.vmap(jax.value_and_grad(jax.nn.log1mexp)))(x)
        few = 8 * float(jnp.finfo(x.dtype).eps)  # of XLA's own log1p and expm1
        assert jax.nn.log1mexp(jnp.zeros(())) == -jnp.inf
        assert jax.nn.log1mexp(jnp.asarray(1e4)) == 0.0
    exact = np.asarray(x, np.longdouble)
    expected = np.log1p(-np.exp(-exact))
    expected = np.where(exact < 0.1, np.log(-np.expm1(-exact)), expected)
    np.testing.assert_allclose(value, expected.astype(float), rtol=few)
    np.testing.assert_allclose(slope, (1 / np.expm1(exact)).astype(float), rtol=2 * few)
