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
# # The variational autoencoder
#
# The derivation of the VAE, equation by equation, each followed by the call that
# computes it; then a VAE trained on handwritten digits, with its latent plane,
# reconstructions and samples.
#
# The model: a latent $z \sim \mathcal N(0, I)$ and a *decoder* network that turns $z$
# into the parameters of $p_\theta(x \mid z)$. The *encoder* network turns $x$ into a
# normal $q_\phi(z \mid x) = \mathcal N(\mu_\phi(x), \mathrm{diag}\,\sigma^2_\phi(x))$.

# %%
import dataclasses
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import vgm
from vgm import configs, data, divergences, experiment, models
from vgm.bounds import importance
from vgm.densities import normal
from vgm.evaluation import estimates, figures

NUM_STEPS = 700


np.set_printoptions(precision=4, suppress=True)

# %% [markdown]
# ## Data
#
# 1,797 digits of 8 × 8 pixels, each pixel one of 17 grey levels. We model the integers
# themselves: $\log p(x)$ is the logarithm of a probability.

# %%
digits = data.load("digits", None, num_validation=303)
x = jnp.asarray(digits.train.x, jnp.int32)
print("train, validation, test:", *(len(split.x) for split in digits[:3]))
print("levels:", digits.levels)

# %% [markdown]
# ## The model
#
# A categorical likelihood: the decoder emits 17 logits a pixel. Parameters are a pytree;
# the model is pure functions around two Flax networks.

# %%
model = models.vae.mlp(
    event_shape=(8, 8, 1),
    latent_dim=2,
    hidden=(128,),
    likelihood="categorical",
    levels=17,
)
params = model.init(jax.random.key(0), x)
for name, leaf in jax.tree.leaves_with_path(params):
    print(f"{jax.tree_util.keystr(name):50} {leaf.shape}")

# %% [markdown]
# Every equation below could be computed with these parameters, and would be true; but a
# decoder that has not been trained yet ignores $z$ (its last kernel starts at zero), and a
# bound whose decoder ignores $z$ shows little. So we train first.
#
# ## Training
#
# One configuration gives one run directory. This is the preset `vae-digits` with two
# latent coordinates, so that the latent plane can be drawn.

# %%
_, preset = configs.PRESETS["vae-digits"]
workspace = tempfile.TemporaryDirectory()
config = dataclasses.replace(
    preset,
    model=dataclasses.replace(preset.model, latent_dim=2),
    train=dataclasses.replace(preset.train, num_steps=NUM_STEPS),
    evaluation=dataclasses.replace(preset.evaluation, num_importance_samples=200),
    run_dir=Path(workspace.name) / "vae-2d",
)
result = experiment.run(config)
for quantity, value, how in experiment.tables.result_table(result)[:-1]:
    print(f"{quantity:26} {value:22} {how}")

# %%
model, params = vgm.load(config.run_dir)
batch = x[:5]
key_z, key_kl, key_terms, key_weights, key_samples = jax.random.split(
    jax.random.key(1), 5
)

# %% [markdown]
# ## 1. The encoder, amortised
#
# Instead of one $q$ for every observation, one network for all:
# $\mu_\phi(x), \log\sigma_\phi(x)$.

# %%
encoding = model.encode(params, batch)
print("mean", encoding.mean.shape, " log_std", encoding.log_std.shape)

# %% [markdown]
# ## 2. Reparameterisation
#
# $z = \mu_\phi(x) + \sigma_\phi(x)\,\varepsilon$ with $\varepsilon \sim \mathcal N(0,
# I)$: the randomness moves out of the network, and gradients flow through $z$ to $\phi$.

# %%
z = model.propose(key_z, params, encoding)
eps = (z - encoding.mean) / jnp.exp(encoding.log_std)
np.testing.assert_allclose(eps, jax.random.normal(key_z, z.shape), rtol=1e-4, atol=1e-5)

# %% [markdown]
# ## 3. The prior matching term
#
# $$\mathrm{KL}(q_\phi(z\mid x)\,\|\,\mathcal N(0,I)) = \tfrac12 \sum_i \left(\mu_i^2 +
# \sigma_i^2 - 1 - 2\log\sigma_i\right).$$
#
# It factorises over the coordinates; the logarithm is summed over them too.

# %%
prior_matching = jax.vmap(divergences.kl_standard_normal)(*encoding)
by_sampling = jax.vmap(
    lambda mean, log_std: divergences.kl_monte_carlo(
        key_kl,
        lambda k: normal.sample(k, mean, log_std),
        lambda z: normal.log_prob(z, mean, log_std),
        lambda z: normal.log_prob(z, jnp.zeros(2), jnp.zeros(2)),
        num_samples=20_000,
    )
)(*encoding)
print("closed form:", np.asarray(prior_matching).round(3))
print("by sampling:", np.asarray(by_sampling).round(3))

# %% [markdown]
# ## 4. The reconstruction term
#
# $\mathbb E_{q}\log p_\theta(x\mid z)$, estimated with one draw of $z$, and with the mean
# of a thousand. One draw is enough for a gradient; it is unbiased.

# %%
one_draw = model.log_likelihood(params, batch, z)
many = jax.vmap(lambda key: model.propose(key, params, encoding))(
    jax.random.split(key_z, 1000)
)
draws = jax.vmap(lambda z: model.log_likelihood(params, batch, z))(many)
reconstruction, stderr = np.transpose([estimates.estimate(d) for d in draws.T])
print("one draw:", np.asarray(one_draw).round(2), "nats")
print("mean    :", np.asarray(reconstruction).round(2))
print("     ±   ", np.asarray(stderr).round(2))

# %% [markdown]
# ## 5. The bound
#
# $$\log p_\theta(x) \ge \mathcal L = \mathbb E_{q}\log p_\theta(x\mid z) -
# \mathrm{KL}(q_\phi(z\mid x)\,\|\,p(z)).$$
#
# `elbo_terms` is one draw of it, with a $z$ of its own; the second term is exact.

# %%
terms = model.elbo_terms(key_terms, params, batch)
print("reconstruction ", np.asarray(terms.reconstruction).round(2), "one draw")
print("prior matching ", np.asarray(terms.prior_matching).round(2), "exact")
print("ELBO           ", np.asarray(terms.elbo).round(2), "one draw")
bound = reconstruction - prior_matching
print("ELBO           ", np.asarray(bound).round(2), "mean of 1,000 draws")
np.testing.assert_allclose(terms.prior_matching, prior_matching, rtol=1e-5)

# %% [markdown]
# ## 6. The evidence, by importance weighting
#
# `log_weight` is one draw of $\log p(x,z) - \log q(z\mid x)$; its exponential has the
# mean $p(x)$, whatever the model. In expectation more draws give a tighter bound, between
# the ELBO at $K = 1$ and the evidence; a single estimate may lie anywhere.

# %%
keys = jax.random.split(key_weights, 10_000)
log_w = jax.vmap(model.log_weight, (0, None, None))(keys, params, batch)
print("ELBO     ", np.asarray(bound).round(2))
for count in (10, 100, 10_000):
    tighter = jax.vmap(importance.iwae, in_axes=1)(log_w[:count])
    print(f"K = {count:6,}", np.asarray(tighter).round(2))

# %% [markdown]
# ## The latent plane
#
# Left: the posterior means of the training digits, coloured by class (the model never
# saw the labels). Right: what the decoder makes of a grid over the plane.

# %%
means = model.encode(params, x).mean
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5))
points = left.scatter(
    *means.T, c=digits.train.labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=8
)
figure.colorbar(points, ax=left, ticks=range(10), label="class", shrink=0.8)
left.set_xlabel("$z_1$")
left.set_ylabel("$z_2$")
left.set_title("posterior means of the training digits")
left.set_aspect("equal")

steps = jnp.linspace(-2.2, 2.2, 12)
plane = jnp.stack(jnp.meshgrid(steps, -steps), axis=-1).reshape(-1, 2)
decoded = jax.vmap(model.likelihood.mean)(model.decode(params, plane))
right.imshow(figures.image_grid(np.asarray(decoded), columns=12, top=16.0))
right.set_title("E[x | z] over the plane, from -2.2 to 2.2")
right.set_axis_off()
plt.show()

# %% [markdown]
# ## Reconstructions and samples

# %%
test = jnp.asarray(digits.test.x[:30], jnp.int32)
panels = {
    "test digits": test,
    "E[x | z], z ~ q(z | x)": model.reconstruct(key_z, params, test),
    "samples x ~ p(x | z), z ~ p(z)": model.sample(key_samples, params, 30),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 5))
for axis, (title, images) in zip(axes, panels.items(), strict=True):
    axis.imshow(figures.image_grid(np.asarray(images), columns=5, top=16.0))
    axis.set_title(title, fontsize=11)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# ## The gap, example by example
#
# The distance between the ELBO and the importance-weighted evidence is what the encoder
# costs: $\mathrm{KL}(q \,\|\, p(z\mid x))$, estimated from below. Single values below 0 are
# noise: an example's ELBO is the mean of 8 draws, its evidence one draw of
# $\mathcal L_{200}$. The mean is the statement.

# %%
with np.load(config.run_dir / "likelihoods.npz") as by_example:
    gap = by_example["log_evidence"] - by_example["elbo"]
mean, stderr = estimates.estimate(gap)
figure, axis = plt.subplots(figsize=(6, 3))
axis.hist(gap, bins=30)
axis.set_xlabel("log evidence - ELBO, nats")
axis.set_ylabel("test digits")
axis.set_title(f"mean {mean:.2f} ± {stderr:.2f} nats")
plt.show()
