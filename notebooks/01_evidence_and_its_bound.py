# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # The evidence and its bound
#
# A latent variable model explains an observation $x$ by something unseen, $z$:
#
# $$\log p(x) = \log \int p(x, z)\, dz .$$
#
# The integral is the *evidence*, and for most models nobody can compute it. This
# notebook takes a model where we can, the **linear-Gaussian** one, and checks every
# statement that variational inference makes about it:
#
# 1. Jensen's inequality gives a lower bound, the ELBO;
# 2. the gap is a Kullback-Leibler divergence;
# 3. the bound has four forms, equal in expectation and different in variance;
# 4. importance weighting closes the gap;
# 5. expectation maximisation climbs the bound.
#
# All quantities are in nats, for one example.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from vgm.bounds import elbo, importance
from vgm.densities import multivariate_normal
from vgm.divergences import kl_multivariate_normal
from vgm.evaluation import estimates
from vgm.inference import em, gaussian_mixture, probabilistic_pca
from vgm.oracles import linear_gaussian

jax.config.update("jax_enable_x64", True)  # identities to the last digit

# %% [markdown]
# ## A model with known evidence
#
# $z \sim \mathcal N(0, I)$ and $x \mid z \sim \mathcal N(Wz + m, s^2 I)$, so that
# $p(x) = \mathcal N(m, WW^\top + s^2 I)$. The posterior is normal too: $\log p(x, z)$ is
# quadratic in $z$, with the precision and mean
#
# $$P = I + W^\top W / s^2, \qquad \mathbb E[z \mid x] = P^{-1} W^\top (x - m) / s^2 .$$

# %%
key_w, key_m, key_x, key_q, key_draws = jax.random.split(jax.random.key(0), 5)
model = linear_gaussian.LinearGaussian(
    # Two similar columns: the data cannot tell the two latents well apart.
    weights=jax.random.normal(key_w, (5, 1)) + 0.5 * jax.random.normal(key_q, (5, 2)),
    bias=jax.random.normal(key_m, (5,)),
    log_std=jnp.asarray(-0.5),
)
x = 1.5 * jax.random.normal(key_x, (5,))
evidence = linear_gaussian.log_evidence(model, x)
print(f"log p(x) = {evidence:.6f} nats")

# %% [markdown]
# ## Jensen: a bound from any $q$
#
# For any density $q(z)$, because the logarithm is concave,
#
# $$\log p(x) = \log \mathbb E_{q}\!\left[\frac{p(x,z)}{q(z)}\right]
#   \;\ge\; \mathbb E_{q}\!\left[\log \frac{p(x,z)}{q(z)}\right] = \mathcal L(q).$$
#
# Three choices of $q$: the exact posterior, the best $q$ with independent coordinates
# (mean field: the posterior's mean, and variances $1 / P_{ii}$), and one that is simply
# wrong.

# %%
posterior = linear_gaussian.posterior(model, x)
proposals = {
    "posterior": posterior,
    "mean field": linear_gaussian.mean_field_posterior(model, x),
    "wrong": linear_gaussian.Normal(posterior.mean + 0.3, 0.6 * jnp.eye(2)),
}
print(f"{'q':12} {'L(q)':>12} {'gap':>12} {'KL(q || p(z|x))':>18}")
for name, q in proposals.items():
    bound = linear_gaussian.elbo(model, x, q)
    kl = kl_multivariate_normal(*q, *posterior)
    print(f"{name:12} {bound:12.6f} {evidence - bound:12.6f} {kl:18.6f}")
    np.testing.assert_allclose(evidence - bound, kl, atol=1e-10)

# %% [markdown]
# ## The gap is a divergence
#
# The last two columns agree to ten digits. They must: $p(x) = p(x, z) / p(z \mid x)$ for
# *every* $z$, so that, on average over $z \sim q$,
#
# $$\log p(x) = \mathbb E_q \log \frac{p(x, z)}{q(z)} + \mathbb E_q \log \frac{q(z)}{p(z
# \mid x)} = \mathcal L(q) + \mathrm{KL}(q \,\|\, p(z \mid x)) .$$
#
# So the bound is tight exactly at the posterior, and pushing $\mathcal L$ up in $q$ is the
# same as pulling $q$ to the posterior. Below, $q$ moves along one direction away from the
# posterior's mean.

# %%
shifts = jnp.linspace(-1.5, 1.5, 121)


def bound_at(shift):
    """The bound of the posterior, its mean moved by ``shift``."""
    return linear_gaussian.elbo(
        model, x, posterior._replace(mean=posterior.mean + shift)
    )


figure, axis = plt.subplots(figsize=(6, 3.4))
axis.axhline(evidence, color="black", lw=1, label=r"$\log p(x)$")
axis.plot(shifts, jax.vmap(bound_at)(shifts), label=r"$\mathcal{L}(q)$")
axis.fill_between(
    shifts, jax.vmap(bound_at)(shifts), evidence, alpha=0.15, label="KL(q || p(z|x))"
)
axis.set_xlabel("shift of the mean of q")
axis.set_ylabel("nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Four forms of the bound
#
# $$\mathcal L(q) = \underbrace{\mathbb E_q \log\tfrac{p(x,z)}{q(z)}}_{\text{log ratio}}
# = \underbrace{\mathbb E_q \log p(x,z) + H[q]}_{\text{entropy}}
# = \underbrace{\mathbb E_q \log p(x\mid z) - \mathrm{KL}(q\,\|\,p(z))}_{\text{the VAE's}}
# = \underbrace{\log p(x) - \mathrm{KL}(q\,\|\,p(z\mid x))}_{\text{exact}} .$$
#
# The first three are estimated by drawing $z \sim q$. Their expectations agree; their
# variances do not. At the posterior the log ratio is *constant*, $\log p(x)$ for every
# draw, and near it almost so. (All three see the same draws: where one mean lies below
# the exact value, the others may too.)


# %%
def spread(q, num_draws=4000):
    """One-sample estimates of each form."""
    propose = functools.partial(
        multivariate_normal.sample, mean=q.mean, cholesky=q.cholesky
    )
    log_joint = functools.partial(linear_gaussian.log_joint, model, x)
    log_likelihood = functools.partial(linear_gaussian.log_likelihood, model, x)
    log_q = functools.partial(
        multivariate_normal.log_prob, mean=q.mean, cholesky=q.cholesky
    )
    entropy = multivariate_normal.entropy(q.cholesky)
    kl = kl_multivariate_normal(*q, jnp.zeros(2), jnp.eye(2))
    forms = {
        "log ratio": lambda k: elbo.from_log_ratio(
            k, propose, log_joint, log_q, num_samples=1
        ),
        "entropy": lambda k: elbo.from_entropy(
            k, propose, log_joint, entropy, num_samples=1
        ),
        "VAE's": lambda k: elbo.from_kl(k, propose, log_likelihood, kl, num_samples=1),
    }
    keys = jax.random.split(key_draws, num_draws)
    return {name: jax.vmap(form)(keys) for name, form in forms.items()}


for name, q in proposals.items():
    print(f"{name}: exact L(q) = {linear_gaussian.elbo(model, x, q):.4f}")
    for form, draws in spread(q).items():
        mean, stderr = estimates.estimate(draws)
        print(f"    {form:10} {mean:9.4f} ± {stderr:.4f}, one draw ± {draws.std():.4f}")

# %% [markdown]
# ## Importance weighting
#
# With weights $w_k = p(x, z_k) / q(z_k)$ the average $\frac1K \sum_k w_k$ is an unbiased
# estimate of $p(x)$, so its logarithm is again a lower bound, and a better one:
#
# $$\mathcal L \le \mathcal L_K = \mathbb E \log \tfrac1K \textstyle\sum_k w_k \le
# \mathcal L_{K+1} \le \log p(x).$$
#
# With the prior as $q$ the weights are $p(x \mid z_k)$: *naive Monte Carlo*, which draws
# most $z$ where $x$ is improbable. The *effective sample size* $(\sum_k w_k)^2 / \sum_k
# w_k^2$ says how many of the weights count.


# %%
def log_weight(q, key):
    """One log importance weight."""
    z = multivariate_normal.sample(key, *q)
    return linear_gaussian.log_joint(model, x, z) - multivariate_normal.log_prob(z, *q)


counts = [2**n for n in range(0, 9)]
prior = linear_gaussian.Normal(jnp.zeros(2), jnp.eye(2))
figure, axis = plt.subplots(figsize=(6, 3.4))
for name, q in {**proposals, "prior": prior}.items():
    log_w = jax.vmap(functools.partial(log_weight, q))(
        jax.random.split(key_draws, 2**18)
    )
    means = [
        jax.vmap(importance.iwae)(log_w.reshape(-1, count)).mean() for count in counts
    ]
    if name != "posterior":  # whose gap is 0: see below
        axis.loglog(counts, evidence - jnp.asarray(means), "o-", ms=3, label=name)
    size = importance.effective_sample_size(log_w[:512])
    print(f"{name:12} effective sample size of 512 weights: {size:6.1f}")
axis.set_xlabel("K")
axis.set_ylabel(r"$\log p(x) - \mathcal{L}_K$, nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# A better ELBO is not a better proposal: the mean field is narrower than the posterior
# along its long axis, so that its weights have an infinite variance; the wrong $q$ is broad,
# and with more samples it overtakes.
#
# At the exact posterior every weight *is* $p(x)$: the bound does not depend on $K$ nor
# on the draws. That is the sharpest test of an estimator there is, and the one the
# library's own tests use.

# %%
for count in (1, 5, 50):
    log_w = jax.vmap(functools.partial(log_weight, posterior))(
        jax.random.split(key_draws, count)
    )
    print(f"K = {count:3}: {importance.iwae(log_w) - evidence:+.1e} nats from log p(x)")

# %% [markdown]
# ## Climbing the bound: expectation maximisation
#
# So far the parameters stood still. EM climbs $\mathcal L(q, \theta)$ one coordinate at
# a time:
#
# $$\text{E: } q \leftarrow \arg\max_q \mathcal L(q, \theta) = p_\theta(z \mid x), \qquad
# \text{M: } \theta \leftarrow \arg\max_\theta \mathcal L(q, \theta) = \arg\max_\theta \mathbb
# E_q \log p_\theta(x, z) .$$
#
# After an E-step $\mathcal L = \log p_\theta(x)$, and an M-step cannot lower it: the
# evidence never falls.
#
# With $q$ held to independent coordinates (*variational* EM) the bound still never
# falls; until the end it lies below the evidence, which itself may fall.

# %%
keys = jax.random.split(jax.random.key(1), 3)
xs = (
    jax.random.normal(keys[0], (500, 2)) @ model.weights.T
    + model.bias
    + jnp.exp(model.log_std) * jax.random.normal(keys[1], (500, 5))
)
data = probabilistic_pca.moments(xs)
start = linear_gaussian.LinearGaussian(
    weights=jax.random.normal(keys[2], (5, 2)), bias=data.mean, log_std=jnp.asarray(1.0)
)
fits = {
    name: em.fit(
        functools.partial(e_step, data=data),
        probabilistic_pca.m_step,
        start,
        tolerance=1e-9,
        max_steps=300,
    )
    for name, e_step in {
        "exact posterior": probabilistic_pca.e_step,
        "independent coordinates": probabilistic_pca.mean_field_e_step,
    }.items()
}
best = probabilistic_pca.maximum_likelihood(data, latent_dim=2)
maximum = probabilistic_pca.mean_log_evidence(best, data)
for name, fit in fits.items():
    bounds = fit.bounds[: fit.num_steps]
    reached = probabilistic_pca.mean_log_evidence(fit.params, data)
    print(
        f"{name:24} {len(bounds):4d} steps, smallest rise {jnp.diff(bounds).min():+.1e}, "
        f"evidence {maximum - reached:.1e} below the maximum"
    )

# %%
figure, axis = plt.subplots(figsize=(6, 3.2))
for (name, fit), colour in zip(fits.items(), ("tab:blue", "tab:orange"), strict=True):
    axis.plot(np.arange(1, 301), fit.bounds, color=colour, label=name)
axis.axhline(maximum, color="black", lw=0.8, ls=":", label="maximum likelihood")
axis.set_xscale("log")
axis.set_ylim(maximum - 3.0, maximum + 0.15)
axis.set_xlabel("E-step")
axis.set_ylabel("bound, nats / example")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# Both reach the maximum, which here has a closed form (Tipping & Bishop 1999): weights
# are free up to a rotation, and the restricted EM ends at the rotation whose posterior
# *has* independent coordinates.
#
# A mixture of normals is the other classic, with a latent that is the number of a
# component. Its E-step is a table of *responsibilities* $p(z = m \mid x_n)$; its M-step
# takes each component's weight, mean and covariance from the examples, weighted by them.

# %%
clusters = jnp.concatenate(
    [
        jax.random.normal(k, (200, 2)) * scale + jnp.asarray(centre)
        for k, scale, centre in zip(
            jax.random.split(jax.random.key(2), 3),
            (0.5, 0.8, 0.3),
            ((-2.0, 0.0), (1.5, 1.5), (1.0, -2.0)),
            strict=True,
        )
    ]
)
fit = em.fit(
    functools.partial(gaussian_mixture.e_step, x=clusters),
    gaussian_mixture.m_step,
    gaussian_mixture.init(jax.random.key(3), clusters, num_components=3),
    tolerance=1e-8,
    max_steps=200,
)
side = jnp.linspace(-4.0, 4.0, 81)
points = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
density = jax.vmap(functools.partial(gaussian_mixture.log_prob, fit.params))(points)

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
left.plot(np.arange(1, fit.num_steps + 1), fit.bounds[: fit.num_steps])
left.set_xlabel("E-step")
left.set_ylabel("evidence, nats / example")
right.scatter(*clusters.T, s=3, color="0.6")
right.contour(
    side,
    side,
    density.reshape(81, 81),
    levels=range(-8, 0),
    cmap="Blues",
    linewidths=0.9,
)
right.plot(*fit.params.mean.T, "k+", ms=10)
right.set_aspect("equal")
right.set_xlabel("$x_1$")
right.set_ylabel("$x_2$")
right.set_title("log p(x) from -8 to -1, and the means", fontsize=10)
plt.show()

# %% [markdown]
# Next: a $q$ that a network computes from $x$, in `02_vae.ipynb`.
