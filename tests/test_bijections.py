"""Bijections: determinants by autodiff, round trips, masses on grids, extremes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from compilation import whole
from draws import normals

from vgm import bijections
from vgm.bijections import (
    autoregressive,
    coupling,
    elementwise,
    images,
    linear,
    transforms,
)

DIM = 5
IMAGE = (4, 2, 4)
FAMILIES = {
    "affine": transforms.affine(),
    "spline": transforms.rational_quadratic(num_bins=6, tail_bound=3.0),
}


def noise(seed, *shape):
    """The same numbers in either precision."""
    key = jax.random.fold_in(jax.random.key(7), seed)
    return jnp.asarray(np.float64(normals(key, shape, jnp.float32)))


def network(seed, num_inputs, num_outputs, num_params):
    """A conditioner of tanh units: any function of its inputs will do.

    Parameters of about 1: a spline with parameters of 5 has slopes of 1e-6, which no
    float32 can undo.
    """
    first = noise(seed, 8, num_inputs)
    last = noise(seed + 1, num_outputs * num_params, 8) / 8**0.5
    return lambda x: (last @ jnp.tanh(first @ x)).reshape(num_outputs, num_params)


def strictly_before(seed, dim, num_params):
    """A conditioner whose i-th parameters read x_1 .. x_{i-1} alone."""
    mask = jnp.tril(jnp.ones((dim, dim)), -1)
    first, last = noise(seed, dim, dim), noise(seed + 1, dim, num_params)
    return lambda x: jnp.tanh((mask * first) @ x + 0.3)[:, None] * last


def pixelwise(seed, num_inputs, num_outputs, num_params):
    kernel = noise(seed, num_inputs, num_outputs * num_params)
    return lambda x: jnp.tanh(x @ kernel).reshape(
        *x.shape[:-1], num_outputs, num_params
    )


def coupled(family):
    split = DIM // 2
    return coupling.coupling(
        network(1, split, DIM - split, family.num_params), family, split=split
    )


def lu_params(dim):
    return linear.LU(0.3 * noise(3, dim, dim), 0.3 * noise(4, dim, dim), noise(5, dim))


def autoregressed(family):
    return autoregressive.masked_autoregressive(
        strictly_before(11, DIM, family.num_params), family
    )


CASES = {
    "affine": lambda: elementwise.affine(noise(1, DIM), noise(2, DIM)),
    "lu": lambda: linear.lu(lu_params(DIM)),
    "orthogonal": lambda: linear.orthogonal(noise(6, 3, DIM)),
    "reverse": linear.reverse,
    **{f"coupling-{name}": lambda f=f: coupled(f) for name, f in FAMILIES.items()},
    **{f"masked-{name}": lambda f=f: autoregressed(f) for name, f in FAMILIES.items()},
    "inverse-autoregressive": lambda: bijections.invert(
        autoregressed(FAMILIES["affine"])
    ),
    "composed": lambda: bijections.compose(
        coupled(FAMILIES["spline"]), linear.reverse(), coupled(FAMILIES["affine"])
    ),
    "scanned": lambda: bijections.scan(
        lambda params: bijections.compose(linear.reverse(), linear.lu(params)),
        jax.vmap(lambda s: jax.tree.map(lambda leaf: s * leaf, lu_params(DIM)))(
            jnp.asarray([0.2, 0.5, -0.4])
        ),
    ),
}
IMAGE_CASES = {
    "squeeze": images.squeeze,
    "1x1-convolution": lambda: linear.lu(lu_params(IMAGE[-1])),
    "coupling": lambda: coupling.coupling(
        pixelwise(21, 2, 2, 2), FAMILIES["affine"], split=2
    ),
    "pyramid": lambda: bijections.compose(
        images.squeeze(),
        images.split_off(
            bijections.compose(linear.lu(lu_params(8)), images.flatten((2, 1, 8))),
            (2, 1, 16),
        ),
    ),
}
INSIDE = {"log": jnp.exp, "logit": jax.nn.sigmoid}


def cases():
    for name, build in CASES.items():
        yield name, build, noise(30, DIM)
        # Beyond the tails of a spline too.
        yield f"{name}-far", build, 4.0 * noise(31, DIM)
    for name, build in IMAGE_CASES.items():
        yield f"image-{name}", build, noise(32, *IMAGE)
    for name, inside in INSIDE.items():
        yield name, getattr(elementwise, name), inside(noise(33, DIM))


def param(name, *values):
    """Points in the tails are for the slow tests."""
    marks = [pytest.mark.slow] if name.endswith("-far") else []
    return pytest.param(*values, id=name, marks=marks)


ALL = pytest.mark.parametrize(("build", "x"), [param(*case) for case in cases()])


@pytest.fixture
def case(request, x64):
    """A bijection and a point, in double precision."""
    build, x = request.param
    return build(), jnp.asarray(x, float)


DOUBLE = pytest.mark.parametrize(
    "case", [param(case[0], case[1:]) for case in cases()], indirect=True
)


@DOUBLE
def test_log_det_is_that_of_the_jacobian(case):
    bijection, x = case

    @jax.jit
    def both(x):
        return bijection.forward(x), jax.jacobian(bijection.forward)(x)[0]

    (z, log_det), jacobian = both(x)
    expected = np.linalg.slogdet(np.reshape(jacobian, (x.size, x.size)))[1]
    np.testing.assert_allclose(log_det, expected, atol=1e-10)
    chex.assert_shape(log_det, ())
    assert z.size == x.size


@DOUBLE
def test_inverse_undoes_forward(case):
    bijection, x = case
    z, log_det = jax.jit(bijection.forward)(x)
    back, log_det_back = jax.jit(bijection.inverse)(z)
    np.testing.assert_allclose(back, x, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(log_det_back, -log_det, atol=1e-8)


@ALL
@pytest.mark.slow
def test_single_precision_keeps_its_digits(build, x):
    single = build()
    z, log_det = jax.jit(single.forward)(x)
    back, _ = jax.jit(single.inverse)(z)
    # Relative to the largest number: a linear map mixes them.
    np.testing.assert_allclose(back, x, atol=1e-5 * float(jnp.max(jnp.abs(x))))
    with jax.enable_x64(True):
        exact = jax.jit(build().forward)(jnp.asarray(np.asarray(x), float))
    scale = 1.0 + float(jnp.max(jnp.abs(z)))
    np.testing.assert_allclose(z, exact[0], atol=1e-5 * scale)
    np.testing.assert_allclose(log_det, exact[1], rtol=1e-5, atol=1e-5)


@DOUBLE
@pytest.mark.slow
def test_jit_and_vmap_change_nothing(case):
    bijection, x = case
    plain = bijection.forward(x)
    chex.assert_trees_all_close(jax.jit(bijection.forward)(x), plain, atol=1e-12)
    pair = jax.vmap(bijection.forward)(jnp.stack([x, x]))
    chex.assert_trees_all_close(
        pair, jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), plain), atol=1e-12
    )


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("direction", ["forward", "inverse"])
def test_extremes_stay_finite(name, direction):
    bijection = CASES[name]()

    def both(x):
        value, log_det = getattr(bijection, direction)(x)
        return jnp.sum(jnp.sin(value)) + log_det, (value, log_det)

    x = np.outer([1e6, -1e6, 0.0], np.ones(DIM))
    x[:, 1] = 0.1
    found = jax.jit(jax.vmap(jax.grad(both, has_aux=True)))(x)
    chex.assert_tree_all_finite(found)


@pytest.mark.parametrize("name", list(IMAGE_CASES))
def test_extremes_of_images_stay_finite(name):
    bijection = IMAGE_CASES[name]()

    def both(x):
        value, log_det = bijection.forward(x)
        return jnp.sum(jnp.sin(value)) + log_det, (value, log_det)

    x = np.stack([np.full(IMAGE, size) for size in (1e6, -1e6, 0.0)])
    found = jax.jit(jax.vmap(jax.grad(both, has_aux=True)))(x)
    chex.assert_tree_all_finite(found)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_parameters_have_finite_gradients_far_outside(name):
    """What a tail does not use must not spoil what a batch trains."""
    family = FAMILIES[name]
    x = jnp.asarray([1e6, -1e6, 3.0, -3.0, 0.0])

    def loss(params, direction):
        value, log_det = getattr(family, direction)(x, params)
        return jnp.mean(value) / 1e6 + log_det

    gradient = jax.jit(jax.grad(loss), static_argnums=1)
    for scale in (0.0, 1.0, 1e3):
        params = scale * noise(40, 5, family.num_params)
        for direction in ("forward", "inverse"):
            grads = gradient(params, direction)
            chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_parameters_of_zero_are_the_identity(name, x64):
    family = FAMILIES[name]
    x = jnp.linspace(-5.0, 5.0, 31)
    z, log_det = whole(family.forward)(x, np.zeros((31, family.num_params)))
    np.testing.assert_allclose(z, x, atol=1e-12)
    np.testing.assert_allclose(log_det, 0.0, atol=1e-12)


def test_splines_pass_through_their_knots_with_their_slopes(x64):
    """Against the definition: knots, derivatives at them, linear tails."""
    bins, bound, share = 6, 3.0, 1e-3
    params = 2.0 * noise(50, 3 * bins - 1)
    widths, heights = jax.nn.softmax(params[:bins]), jax.nn.softmax(params[bins:12])
    sizes = [share + (1 - share * bins) * part for part in (widths, heights)]
    x, z = (
        np.concatenate([[0.0], np.cumsum(2 * bound * np.asarray(part))]) - bound
        for part in sizes
    )
    raw = np.asarray(params[2 * bins :])
    slopes = share + np.log1p(np.exp(raw + np.log(np.expm1(1 - share))))
    slopes = np.concatenate([[1.0], slopes, [1.0]])

    def value(at):
        return FAMILIES["spline"].forward(at[None], params[None])[0][0]

    # A little inside: the ends themselves belong to the tails.
    at = jnp.asarray(np.clip(x, -bound + 1e-9, bound - 1e-9))
    both = jax.jit(jax.vmap(jax.value_and_grad(value)))
    np.testing.assert_allclose(both(at)[0], z, atol=1e-7)
    np.testing.assert_allclose(both(at)[1], slopes, atol=1e-5)
    tails = jnp.asarray([-7.0, -3.0, 3.0, 4.0, 9.0, 1e3, 1e6])
    np.testing.assert_allclose(both(tails)[0], tails)


def test_splines_agree_with_the_formula_written_out(x64):
    """Durkan et al. (2019), eq. 19, one bin at a time."""
    bins, bound = 6, 3.0
    params = noise(51, 3 * bins - 1)
    at = np.linspace(-2.99, 2.99, 57)
    family = FAMILIES["spline"]
    one = jax.vmap(lambda a: family.forward(a[None], params[None])[0][0])
    actual = jax.jit(one)(at)
    share = 1e-3
    sizes = [
        share + (1 - share * bins) * np.asarray(jax.nn.softmax(part))
        for part in (params[:bins], params[bins : 2 * bins])
    ]
    x, z = (
        np.concatenate([[0.0], np.cumsum(2 * bound * part)]) - bound for part in sizes
    )
    raw = np.asarray(params[2 * bins :])
    inner = share + np.log1p(np.exp(raw + np.log(np.expm1(1 - share))))
    slopes = np.concatenate([[1.0], inner, [1.0]])
    expected = []
    for value in at:
        k = np.searchsorted(x, value) - 1
        s = (z[k + 1] - z[k]) / (x[k + 1] - x[k])
        xi = (value - x[k]) / (x[k + 1] - x[k])
        top = (z[k + 1] - z[k]) * (s * xi**2 + slopes[k] * xi * (1 - xi))
        bottom = s + (slopes[k + 1] + slopes[k] - 2 * s) * xi * (1 - xi)
        expected.append(z[k] + top / bottom)
    np.testing.assert_allclose(actual, expected, atol=1e-12)


@pytest.mark.parametrize("up", [0.01, 0.14, 0.9])
def test_the_root_of_a_spline_does_not_cancel(up):
    """A last slope far above the bin's: 2 c / (-b - r) alone is off by some 1e-6."""
    slope, first, last = 0.031, 0.003, 8.1
    bend = first + last - 2.0 * slope
    a, b, c = slope - first + up * bend, first - up * bend, -slope * up
    exact = (np.sqrt(b**2 - 4.0 * a * c) - b) / (2.0 * a)
    found = transforms.root(*(jnp.asarray(value) for value in (a, b, c)))
    np.testing.assert_allclose(found, exact, rtol=5e-7)


@pytest.mark.parametrize("name", ["coupling-spline", "masked-affine"])
def test_increasing_in_every_number_of_its_own(name, x64):
    """The diagonal of the Jacobian is positive: maps of a number increase."""
    bijection = CASES[name]()
    jacobian = jax.jit(jax.jacobian(bijection.forward))(2.0 * noise(60, DIM))[0]
    assert (jnp.diag(jacobian) > 0).all()
    np.testing.assert_allclose(jacobian, np.tril(jacobian), atol=1e-12)


def test_squeeze_keeps_blocks_together():
    x = jnp.arange(16.0).reshape(4, 4, 1)
    z, _ = images.squeeze().forward(x)
    np.testing.assert_array_equal(z[0, 0], [0.0, 1.0, 4.0, 5.0])
    np.testing.assert_array_equal(z[1, 0], [8.0, 9.0, 12.0, 13.0])


def test_orthogonal_keeps_lengths(x64):
    bijection = CASES["orthogonal"]()
    x = noise(61, DIM)
    z, _ = bijection.forward(x)
    np.testing.assert_allclose(jnp.linalg.norm(z), jnp.linalg.norm(x), rtol=1e-12)
    columns = jax.vmap(lambda x: bijection.forward(x)[0])(jnp.eye(DIM))
    np.testing.assert_allclose(columns @ columns.T, np.eye(DIM), atol=1e-12)


@pytest.mark.parametrize("name", ["log", "logit"])
@pytest.mark.parametrize("outside", [-1.0, 0.0, -1e6])
def test_outside_the_support_the_density_is_zero(name, outside):
    bijection = getattr(elementwise, name)()
    x = jnp.asarray([0.3, outside])

    def log_density(x):
        z, log_det = bijection.forward(x)
        return log_det - 0.5 * jnp.sum(z**2)

    value, grad = jax.value_and_grad(log_density)(x)
    assert value == -jnp.inf
    chex.assert_tree_all_finite(grad)


def test_logit_normal_has_mass_one(x64):
    def density(x):
        z, log_det = elementwise.logit().forward(jnp.asarray([x]))
        return float(jnp.exp(log_det - 0.5 * z[0] ** 2) / np.sqrt(2 * np.pi))

    mass, _ = scipy.integrate.quad(density, 0.0, 1.0)
    np.testing.assert_allclose(mass, 1.0, atol=1e-8)
