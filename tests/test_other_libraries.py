"""The same numbers as numpyro and torch.distributions, where they are installed.

Both are an extra: pip install -e ".[references]". Every function here has a reference
in SciPy, too, in the tests that always run.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vgm import divergences
from vgm.densities import bernoulli, categorical, multivariate_normal, normal

SHAPE = (4, 3)


def arrays(key):
    names = ("x", "mean", "log_std", "p_mean", "p_log_std")
    draws = jax.random.normal(key, (len(names), *SHAPE))
    found = dict(zip(names, draws, strict=True))
    found["levels"] = jax.random.randint(key, SHAPE, 0, 5)
    found["logits"], found["p_logits"] = jax.random.normal(key, (2, *SHAPE, 5))
    a = 0.5 * jax.random.normal(key, (3, 3))
    found["cholesky"] = jnp.tril(a, -1) + jnp.eye(3)
    return found


def ours(a):
    bits = (a["x"] > 0).astype(float)
    full = lambda x, mean: multivariate_normal.log_prob(x, mean, a["cholesky"])  # noqa: E731
    return {
        "normal": jax.vmap(normal.log_prob)(a["x"], a["mean"], a["log_std"]),
        "bernoulli": jax.vmap(bernoulli.log_prob)(bits, a["mean"]),
        "categorical": jax.vmap(categorical.log_prob)(a["levels"], a["logits"]),
        "multivariate": jax.vmap(full)(a["x"], a["mean"]),
        "entropy": jax.vmap(normal.entropy)(a["log_std"]),
        "kl normal": jax.vmap(divergences.kl_normal)(
            a["mean"], a["log_std"], a["p_mean"], a["p_log_std"]
        ),
        "kl bernoulli": jax.vmap(divergences.kl_bernoulli)(a["mean"], a["p_mean"]),
        "kl categorical": jax.vmap(divergences.kl_categorical)(
            a["logits"], a["p_logits"]
        ),
    }


def with_torch(a):
    torch = pytest.importorskip("torch", reason="torch is an extra reference")
    dist = importlib.import_module("torch.distributions")
    a = {name: torch.from_numpy(np.array(value)) for name, value in a.items()}

    def normal_of(mean, log_std):
        return dist.Independent(dist.Normal(mean, log_std.exp()), 1)

    q, p = normal_of(a["mean"], a["log_std"]), normal_of(a["p_mean"], a["p_log_std"])
    bits, p_bits = (
        dist.Independent(dist.Bernoulli(logits=a[n]), 1) for n in ("mean", "p_mean")
    )
    levels, p_levels = (
        dist.Independent(dist.Categorical(logits=a[n]), 1)
        for n in ("logits", "p_logits")
    )
    full = dist.MultivariateNormal(a["mean"], scale_tril=a["cholesky"])
    return {
        "normal": q.log_prob(a["x"]),
        "bernoulli": bits.log_prob((a["x"] > 0).to(a["x"].dtype)),
        "categorical": levels.log_prob(a["levels"]),
        "multivariate": full.log_prob(a["x"]),
        "entropy": q.entropy(),
        "kl normal": dist.kl_divergence(q, p),
        "kl bernoulli": dist.kl_divergence(bits, p_bits),
        "kl categorical": dist.kl_divergence(levels, p_levels),
    }


def with_numpyro(a):
    pytest.importorskip("numpyro", reason="numpyro is an extra reference")
    dist = importlib.import_module("numpyro.distributions")

    def normal_of(mean, log_std):
        return dist.Normal(mean, jnp.exp(log_std)).to_event(1)

    q, p = normal_of(a["mean"], a["log_std"]), normal_of(a["p_mean"], a["p_log_std"])
    full = dist.MultivariateNormal(a["mean"], scale_tril=a["cholesky"])
    bits = dist.BernoulliLogits(a["mean"]).to_event(1)
    return {
        "normal": q.log_prob(a["x"]),
        "bernoulli": bits.log_prob((a["x"] > 0).astype(float)),
        "categorical": dist.CategoricalLogits(a["logits"])
        .to_event(1)
        .log_prob(a["levels"]),
        "multivariate": full.log_prob(a["x"]),
        "entropy": q.base_dist.entropy().sum(-1),
        "kl normal": dist.kl_divergence(q, p),
    }


@pytest.mark.parametrize("theirs", [with_torch, with_numpyro])
def test_other_libraries_agree(x64, key, theirs):
    a = arrays(key)
    expected, actual = theirs(a), ours(a)
    for name, value in expected.items():
        np.testing.assert_allclose(actual[name], value, rtol=1e-10, err_msg=name)
