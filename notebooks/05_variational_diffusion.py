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
# # Variational diffusion
#
# A diffusion is a Markov hierarchical VAE under three restrictions:
#
# 1. every latent has the **size of the data**;
# 2. the encoder is **not learned** (but for how fast it adds noise, section 6): each step
#    adds normal noise, $q(z_t \mid z_s) = \mathcal N(\alpha_{t|s} z_s, \sigma_{t|s}^2 I)$;
# 3. the noise is such that the last latent is **almost** $\mathcal N(0, I)$.
#
# What is left to learn is how to denoise. This notebook goes from the restrictions to
# both forms of the bound, to schedules, what the network predicts, and sampling. Times
# run over $0 \le s < t \le 1$: $z_0$ is almost data, $z_1$ almost noise. With $T$ steps there
# are $T + 1$ latents. (DDPM writes $x_0$ for the data, $x_1, \dots, x_T$ for the latents, and
# $\alpha_t$ for the square of what is $\alpha_{t|s}$ here.)

# %%
import dataclasses
import functools
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import vgm
from vgm import configs, experiment
from vgm.bounds import diffusion, trajectories, weightings
from vgm.densities import normal
from vgm.divergences import kl_normal
from vgm.evaluation import estimates, figures
from vgm.experiment import tables
from vgm.models import noise
from vgm.processes import gaussian, schedules, times
from vgm.samplers import diffusion as samplers

NUM_STEPS = 150  # of training, at the end

# %% [markdown]
# ## 1. The encoder: one number says it all
#
# Everything about the noise at a time is in $\gamma_t = -\log \mathrm{SNR}(t)$, $\mathrm{SNR}
# = \alpha^2 / \sigma^2$:
#
# $$q(z_t \mid x) = \mathcal N(\alpha_t x, \sigma_t^2 I), \qquad
#   \alpha_t^2 = \mathrm{sigmoid}(-\gamma_t), \quad
#   \sigma_t^2 = \mathrm{sigmoid}(\gamma_t).$$
#
# A step between two times has what is left over: $\alpha_{t|s} = \alpha_t / \alpha_s$ and
# $\sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2 = \sigma_t^2\,(1 - e^{\gamma_s -
# \gamma_t})$.
#
# A schedule is an increasing $\gamma(t)$. Three between the same ends, and DDPM's, which
# has ends of its own ($-9.2$ and $10.1$):

# %%
t = jnp.linspace(0.0, 1.0, 201)
ends = (-13.3, 5.0)
shown = {
    "linear (VDM)": schedules.linear(*ends),
    "cosine": schedules.cosine(*ends),
    "sigmoid": schedules.sigmoid(*ends),
    "DDPM's betas": schedules.ddpm_linear(),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
for name, schedule in shown.items():
    gamma = jax.vmap(schedule.gamma)(t)
    left.plot(t, gamma, label=name)
    right.plot(t, jax.vmap(gaussian.alpha_sigma)(gamma)[0], label=name)
left.set_title(r"$\gamma(t) = -\log$ SNR")
left.set_ylabel(r"$\gamma$")
right.set_title("what is left of the signal")
right.set_ylabel(r"$\alpha$")
for axis in (left, right):
    axis.set_xlabel("t")
    axis.grid(alpha=0.3)
left.legend(frameon=False)
plt.show()

# %% [markdown]
# ## 2. The posterior that makes a bound
#
# Given $x$, a step back is normal too,
#
# $$q(z_s \mid z_t, x) = \mathcal N\Big(\tfrac{\alpha_{t|s} \sigma_s^2}{\sigma_t^2} z_t +
#   \tfrac{\alpha_s \sigma_{t|s}^2}{\sigma_t^2} x,\; \tfrac{\sigma_s^2
#   \sigma_{t|s}^2}{\sigma_t^2} I\Big),$$
#
# and $p(z_s \mid z_t)$ is the same function with a **prediction** $\hat x(z_t)$ in the place
# of $x$; at the top $p(z_1) = \mathcal N(0, I)$:
#
# $$p(z_s \mid z_t) = q(z_s \mid z_t, x = \hat x(z_t)).$$
#
# Two normals of one variance differ by their means alone, and the divergence is a
# squared error. With $z_t = \alpha_t x + \sigma_t \epsilon$ and the $\hat\epsilon$ that $\hat x$
# means there,
#
# $$\mathrm{KL}\big(q(z_s \mid z_t, x) \,\|\, p(z_s \mid z_t)\big)
#   = \tfrac12 \big(e^{\gamma_t - \gamma_s} - 1\big)\, |\epsilon - \hat\epsilon|^2 .$$

# %%
key = jax.random.key(0)
x, eps = jax.random.normal(key, (2, 3))
gamma_t, increment = jnp.asarray(-2.0), jnp.asarray(0.4)
z_t = gaussian.diffuse(x, eps, gamma_t)
eps_hat = 0.9 * eps  # some prediction
x_hat = gaussian.convert(eps_hat, z_t, gamma_t, source="eps", target="x")
full = kl_normal(
    *gaussian.posterior(z_t, x, gamma_t, increment),
    *gaussian.posterior(z_t, x_hat, gamma_t, increment),
)
short = diffusion.denoising_matching(eps - eps_hat, increment)
print(f"KL of the two posteriors {full:.6f}, squared error {short:.6f}")

# %% [markdown]
# ## 3. Two forms of one bound
#
# The ELBO of the hierarchy can be grouped in two ways. On the grid $t_i = i/T$, $i = 1,
# \dots, T$, write $t = t_i$ and $s = t_{i-1}$. The **denoising form** pairs each latent with
# what it came from, given $x$:
#
# $$\log p(x) \ge \mathbb E \log p(x \mid z_0)
#   - \mathrm{KL}(q(z_1 \mid x) \| p(z_1))
#   - \sum_i \mathbb E\, \mathrm{KL}(q(z_s \mid z_t, x) \| p(z_s \mid z_t)).$$
#
# The **consistency form** compares the two ways to reach the same latent, from below and
# from above, over the *joint* of the chain:
#
# $$\mathbb E \log p(x \mid z_0)
#   - \mathbb E\, \mathrm{KL}(q(z_1 \mid z_{1-1/T}) \| p(z_1))
#   + \sum_i \mathbb E \log \frac{p(z_s \mid z_t)}{q(z_s \mid z_{s-1/T})}.$$
#
# (Below $z_0$ there is $x$: in the first summand $q(z_s \mid z_{s-1/T})$ is $q(z_0 \mid x)$.)
# Same expectation: by Bayes' rule $q(z_t \mid z_s) = q(z_s \mid z_t, x)\, q(z_t \mid x) /
# q(z_s \mid x)$, and over the chain the ratios of the last two cancel but for the ends. The
# summands of the second are log ratios; often a divergence
# $\mathrm{KL}(q(z_s \mid z_{s-1/T}) \| p(z_s \mid z_t))$ is printed in their place. That
# is another number, for $z_s$ given *both* neighbours is not $q(z_s \mid z_{s-1/T})$.
#
# We take normal data, where the best denoiser is linear, and twist it a little. The two
# functions draw as their forms allow: the first takes $z_t$ of each step from $q(z_t \mid x)$
# by itself, the second one path through all steps.

# %%
VARIANCE, NUM_LAYERS = 0.25, 16
schedule = schedules.linear(-6.0, 4.0)
x = jnp.asarray([0.7, -0.4])


def denoise(z, gamma):
    """Almost the best eps of N(0, 0.25 I)."""
    alpha, sigma = gaussian.alpha_sigma(gamma)
    return sigma * z / (alpha**2 * VARIANCE + sigma**2) + 0.1 * jnp.sin(3 * z)


def decode(z_0):
    """Log p(x | z_0): a normal around z_0 / alpha_0."""
    alpha_0, _ = gaussian.alpha_sigma(jnp.asarray(-6.0))
    return normal.log_prob(x, z_0 / alpha_0, jnp.full_like(z_0, -3.0))


chain = diffusion.Chain(schedule, denoise, gaussian.PARAMETERISATIONS["eps"], decode)
settings = {"num_steps": NUM_LAYERS}
keys = jax.random.split(jax.random.key(1), (2, 20_000))
by_denoising = jax.jit(
    jax.vmap(lambda k: diffusion.discrete_terms(k, x, chain, chunk_size=16, **settings))
)(keys[0])
by_consistency = jax.jit(
    jax.vmap(lambda k: trajectories.consistency_terms(k, x, chain, **settings))
)(keys[1])
for name, terms in (("denoising", by_denoising), ("consistency", by_consistency)):
    mean, stderr = estimates.estimate(terms.elbo)
    print(
        f"{name:12} {mean:8.3f} ± {stderr:.3f} nats; "
        f"std of one draw {terms.elbo.std():.2f}"
    )

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
time = (np.arange(NUM_LAYERS) + 1) / NUM_LAYERS
for name, terms in (("denoising", by_denoising), ("consistency", by_consistency)):
    left.plot(time, terms.denoising_matching.mean(0), "o-", ms=4, label=name)
    right.semilogy(time, terms.denoising_matching.var(0), "o-", ms=4, label=name)
left.set_title("term of each step: they group differently")
left.set_ylabel("nats")
right.set_title("variance of each step's term in one draw")
right.set_ylabel("nats²")
for axis in (left, right):
    axis.set_xlabel("t")
    axis.grid(alpha=0.3)
left.legend(frameon=False)
plt.show()
assert abs(by_denoising.elbo.mean() - by_consistency.elbo.mean()) < 0.2
assert (
    by_consistency.denoising_matching.var(0) > by_denoising.denoising_matching.var(0)
)[1:].all()

# %% [markdown]
# (The sums under the two curves on the left differ: the consistency form has more of its
# nats in the prior matching, which is printed below.) Over a whole draw the two are equally
# noisy here. Term by term they are not: the denoising form integrates one step of noise in closed
# form, and its terms are the quieter by the factors below. Training computes *one* term an
# example, so that is the form that models train by.

# %%
ratio = by_consistency.denoising_matching.var(0) / by_denoising.denoising_matching.var(
    0
)
print(
    f"variances of a term, consistency over denoising: {ratio.min():.1f} near the data, ",
    end="",
)
print(f"{ratio.max():.0f} near the noise")
for name, terms in (("denoising", by_denoising), ("consistency", by_consistency)):
    print(f"{name:12} prior matching {terms.prior_matching.mean():.3f} nats")

# %% [markdown]
#
# ## 4. More steps, a better bound, and a limit
#
# As $T$ grows, the sum becomes $\tfrac12 \int_0^1 \gamma'(t)\, \mathbb E|\epsilon -
# \hat\epsilon|^2 dt$. With the best denoiser of $\mathcal N(0, v)$ all is known: per
# dimension $\mathbb E(\epsilon - \hat\epsilon)^2 = v / (v + e^{\gamma})$, and the limit
# depends on the **ends** of the schedule alone. The path between them matters for every
# finite $T$ (stretched to these ends, cosine and sigmoid leap by 3 and by 6 in $\gamma$ in
# the first of 300 steps, and pay for it), and for the variance of the estimate.

# %%
steps = np.asarray([4, 30, 300])
exact = 0.5 * np.log((1 + 0.25 * np.exp(13.3)) / (1 + 0.25 * np.exp(-5.0)))


def bound_of(schedule, num_steps):
    """1/2 sum expm1(gamma_t - gamma_s) v / (v + exp(gamma_t))."""
    t = jnp.arange(1, num_steps + 1) / num_steps
    increments = jax.vmap(schedule.increment, (0, None))(t, jnp.asarray(1 / num_steps))
    error = VARIANCE / (VARIANCE + jnp.exp(jax.vmap(schedule.gamma)(t)))
    return float(0.5 * jnp.sum(jnp.expm1(increments) * error))


figure, axis = plt.subplots(figsize=(6.5, 3.6))
for name in ("linear (VDM)", "cosine", "sigmoid"):
    values = [bound_of(shown[name], n) - exact for n in steps.tolist()]
    axis.loglog(steps, values, "o-", ms=4, label=name)
axis.set_xlabel("T")
axis.set_ylabel("nats a dimension")
axis.set_title(f"lost to finite T (the limit is {exact:.6f})")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()
assert round(bound_of(shown["linear (VDM)"], 1000), 4) == 6.0062

# %% [markdown]
# Training draws one time an example: `continuous_terms` there, or `sampled_terms` of $T$
# steps. Over a batch the times are spread evenly (*low discrepancy*: $(u + i/n) \bmod 1$ with
# one $u$), which takes most of their share of the noise away. DDPM's simple loss is the same
# squared error without the factor $\tfrac12 \gamma'(t)$: with a linear schedule the bound
# times a constant, with any other a weighting, and no bound.


# %%
def best_eps(z, gamma):
    """E[eps | z] of x ~ N(0, VARIANCE I)."""
    alpha, sigma = gaussian.alpha_sigma(gamma)
    return sigma * z / (alpha**2 * VARIANCE + sigma**2)


linear = schedules.linear(*ends)
gaussian_chain = diffusion.Chain(
    linear, best_eps, gaussian.PARAMETERISATIONS["eps"], lambda z: jnp.zeros(())
)
key_x, key_t, key_u, key_eps = jax.random.split(jax.random.key(3), 4)
data = VARIANCE**0.5 * jax.random.normal(key_x, (256, 200, 16))
keys = jax.random.split(key_eps, data.shape[:2])
spread_evenly = jax.vmap(lambda key: times.low_discrepancy_times(key, 200))
drawn = {
    "evenly spread": spread_evenly(jax.random.split(key_t, 256)),
    "independent": jax.random.uniform(key_u, (256, 200)),
}
one_time = jax.vmap(
    jax.vmap(
        lambda key, x, t: diffusion.continuous_terms(key, x, t[None], gaussian_chain)
    )
)
print(f"exact                             {exact:.3f} nats a dimension")
for name, at in drawn.items():
    batches = one_time(keys, data, at).denoising_matching.mean((1, 2)) / 16
    mean, stderr = estimates.estimate(batches)
    print(f"{name:14} times, batch of 200: {mean:.3f} ± {stderr:.3f}, ", end="")
    print(f"one batch ± {batches.std():.3f}")
print("\nsimple loss over the bound's term, at t = 0.1, 0.5, 0.9")
for name in ("linear (VDM)", "DDPM's betas"):
    relative = jax.vmap(
        lambda t, schedule=shown[name]: weightings.relative_weight(
            t, schedule, num_steps=0, weighting="simple"
        )
    )(jnp.asarray([0.1, 0.5, 0.9]))
    print(f"{name:14}", np.asarray(relative))

# %% [markdown]
# ## 5. What the network predicts
#
# $x$, $\epsilon$, $v = \alpha\epsilon - \sigma x$ and the score $-\epsilon/\sigma$ are four
# descriptions of one thing: at fixed $z_t$ an error in one is an error in another, times a
# factor that depends on $\gamma$ alone. The bound counts errors of $\epsilon$. An error of 1
# in $x$ counts $\alpha/\sigma = e^{-\gamma/2}$ times: 770 at $\gamma = -13.3$, so that a
# network that predicts $x$ must be that much more exact on nearly clean data, and 0.08 at
# $\gamma = 5$. $v$ is like $\epsilon$ on clean data and like $x$ on noise.

# %%
gammas = jnp.linspace(-13.3, 5.0, 200)
figure, axis = plt.subplots(figsize=(6.5, 3.6))
for name, kind in gaussian.PARAMETERISATIONS.items():
    slope = jax.vmap(kind.eps_slope)(gammas)
    axis.semilogy(gammas, jnp.abs(slope), label=name)
axis.set_xlabel(r"$\gamma$")
axis.set_ylabel(r"error of $\epsilon$")
axis.set_title("for an error of 1 in the prediction")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## 6. A schedule that learns
#
# In continuous time the interior of the schedule cannot change the bound, but it does
# change the variance of its estimate from one random $t$: where the integrand is flat in
# $t$, any $t$ is as good as another. The monotone network below has its parameters moved
# against that variance, the ends fixed (the training objective `least_variance`).

# %%
interior = noise.schedule("monotone", *ends)
params = interior.init()


def integrand(params, t):
    """1/2 gamma'(t) E|eps - eps_hat|^2 for the best denoiser of N(0, 0.25)."""
    learned = interior.build(params)
    error = VARIANCE / (VARIANCE + jnp.exp(learned.gamma(t)))
    return 0.5 * learned.derivative(t) * error


def spread(inside, t):
    return jnp.var(jax.vmap(lambda t: integrand({**params, "interior": inside}, t))(t))


@jax.jit
def learn(inside):
    middle = (jnp.arange(256) + 0.5) / 256

    def one(inside, _):
        value, slope = jax.value_and_grad(spread)(inside, middle)
        step = jax.tree.map(lambda a, g: a - 0.03 * jnp.sign(g), inside, slope)
        return step, value

    return jax.lax.scan(one, inside, length=200)


inside, variances = learn(params["interior"])
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
for name, values in (("before", params), ("after", {**params, "interior": inside})):
    left.plot(t, jax.vmap(interior.build(values).gamma)(t), label=name)
    right.plot(t, jax.vmap(functools.partial(integrand, values))(t), label=name)
left.set_ylabel(r"$\gamma$")
left.set_title("the schedule")
right.set_ylabel("nats per unit of time")
right.set_title("integrand of the bound: flatter is quieter")
for axis in (left, right):
    axis.set_xlabel("t")
    axis.grid(alpha=0.3)
left.legend(frameon=False)
plt.show()
print(f"variance over t: {variances[0]:.3f} before, {variances[-1]:.3f} after")
assert variances[-1] < 0.5 * variances[0]

# %% [markdown]
# ## 7. Sampling
#
# *Ancestral* sampling draws $z_1 \sim \mathcal N(0, I)$ and goes down by $p(z_s \mid z_t)$:
# the model that the bound is of. DDIM (Song et al. 2021) keeps what the network says of
# $\epsilon$ and adds a share $\eta$ of the noise,
#
# $$z_s = \alpha_s \hat x + \sqrt{\sigma_s^2 - \eta^2 \tilde\sigma^2}\, \hat\epsilon + \eta\,
#   \tilde\sigma\, \xi, \qquad \tilde\sigma^2 = \sigma_s^2\,(1 - e^{\gamma_s - \gamma_t}) :$$
#
# ancestral at $\eta = 1$, deterministic at $\eta = 0$. For $x \sim \mathcal N(0, v)$ and the
# best denoiser every step is linear, and the samples should have the standard deviation
# $\sqrt v = 0.5$. With few steps both are too narrow.

# %%
figure, axis = plt.subplots(figsize=(6.5, 3.6))
counts = [4, 16, 64]
z_1 = jax.random.normal(jax.random.key(4), (20_000, 1))
for eta in (1.0, 0.0):
    stds = []
    for count in counts:
        draw = functools.partial(
            samplers.sample,
            chain=gaussian_chain,
            num_steps=count,
            step=samplers.ddim_step(eta),
        )
        z_0 = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(5), 20_000), z_1)
        stds.append(float(jnp.std(z_0) / gaussian.alpha_sigma(linear.gamma(0.0))[0]))
    axis.semilogx(counts, stds, "o-", ms=4, base=2, label=f"$\\eta$ = {eta:g}")
axis.axhline(VARIANCE**0.5, color="black", lw=0.8, ls=":", label="data")
axis.set_xticks(counts, labels=counts)
axis.set_xlabel("steps T")
axis.set_ylabel("standard deviation of samples")
axis.legend(frameon=False)
axis.grid(alpha=0.3)
plt.show()
assert abs(stds[-1] - VARIANCE**0.5) < 0.03

# %% [markdown]
# ## 8. Digits
#
# The whole machine on real data, for a few seconds only (`scripts/train.py vdm-digits` takes
# minutes, and gets to 1.8 bits/dim): the samples below have strokes, not yet the shapes of
# digits. The network predicts a mass over the 17 levels of each pixel; its mean is $\hat x$.
# (`log_weight` is the log ratio of a whole trajectory at the stated $T$, so that the bound can
# be tightened by several trajectories, as with any other model here; left out for its time.)

# %%
_, preset = configs.PRESETS["vdm-digits"]
workspace = tempfile.TemporaryDirectory()
config = dataclasses.replace(
    preset,
    model=dataclasses.replace(preset.model, hidden=(64, 64), dropout=0.1),
    diffusion=dataclasses.replace(preset.diffusion, num_steps=100),
    train=dataclasses.replace(preset.train, num_steps=NUM_STEPS, eval_every=150),
    evaluation=dataclasses.replace(
        preset.evaluation, evidence=False, num_elbo_samples=1
    ),
    run_dir=Path(workspace.name) / "vdm",
)
result = experiment.run(config)
for quantity, value, how in tables.result_table(result)[:-1]:
    print(f"{quantity:26} {value:22} {how}")

# %%
model, params = vgm.load(config.run_dir)
samples = jax.jit(model.sample, static_argnums=2)(jax.random.key(2), params, 30)
z, x_hat = jax.jit(model.trajectory, static_argnums=2)(jax.random.key(2), params, 5)
some = jnp.asarray([0, 19, 39, 59, 79, 99])
panels = {
    "samples": (np.asarray(samples), 6, 16.0),
    "z at t = 0.99, 0.8, .. 0": (np.asarray(0.5 + 0.5 * z[:, some]), 6, 1.0),
    r"$\hat x$ there": (np.asarray(0.5 + 0.5 * x_hat[:, some]), 6, 1.0),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 4.2))
for axis, (title, (images, columns, top)) in zip(axes, panels.items(), strict=True):
    grid = figures.image_grid(images.reshape(-1, 8, 8, 1), columns=columns, top=top)
    axis.imshow(grid)
    axis.set_title(title, fontsize=11)
    axis.set_axis_off()
plt.show()

# %% [markdown]
# Where the nats go: the term of each step, summed over pixels.

# %%
terms = np.asarray(result["denoising_matching_by_step"])
figure, axis = plt.subplots(figsize=(7, 3))
axis.plot((np.arange(len(terms)) + 1) / len(terms), terms)
axis.set_xlabel("t")
axis.set_ylabel("nats a step")
axis.set_title(f"denoising matching, {terms.sum():.1f} nats in all")
axis.grid(alpha=0.3)
plt.show()
