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
# # Gradients, and importance weighting
#
# A bound is trained by its gradient, and the gradient is an estimate. This notebook
# measures estimators where everything is known, on the **linear-Gaussian** model:
#
# 1. five estimators of the gradients of two bounds: of one bound all have the same value
#    and gradients of the same mean, and not the same noise;
# 2. sticking the landing: no noise left at the posterior;
# 3. more samples make the K-sample bound tighter and its plain gradient *worse*;
#    DReG mends that;
# 4. Rényi bounds, from above and from below;
# 5. was K enough? Effective sample size, the Pareto tail, and two-sided intervals by
#    annealed importance sampling.

# %%
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from vgm import oracles
from vgm.bounds import annealed, gradients, importance, pareto, sandwich
from vgm.densities import normal
from vgm.evaluation import estimates
from vgm.oracles import linear_gaussian, quadrature

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## A system: three functions
#
# Every estimator takes `propose(key, params)`, which draws $z \sim q$; `log_joint` and
# `log_posterior`, which is $\log q(z)$. Encoder, decoder and data are inside. Here $q$ is a
# diagonal normal and $p$ linear-Gaussian, so the exact gradient is known too.
#
# With $\log w_k = \log p(x, z_k) - \log q_\phi(z_k)$ and $u_k = w_k / \sum_j w_j$, and for
# the pathwise ones $z_k = z(\varepsilon_k, \phi)$, the gradients for $\phi$ are
#
# $$\begin{aligned}
# \text{pathwise} &: \tfrac1K \textstyle\sum_k \tfrac{d}{d\phi} \log w_k
#   \;\text{ or }\; \sum_k u_k \tfrac{d}{d\phi} \log w_k, \\
# \text{sticking the landing} &: \tfrac1K \textstyle\sum_k
#   \tfrac{\partial \log w_k}{\partial z_k} \tfrac{d z_k}{d\phi}
#   \quad\text{(Roeder et al. 2017)}, \\
# \text{score function} &: \tfrac1K \textstyle\sum_k \big(\log w_k - \tfrac{1}{K-1}
#   \sum_{j \ne k} \log w_j\big)\, \nabla_\phi \log q_\phi(z_k)
#   \quad\text{(Mnih \& Rezende 2016)}, \\
# \text{VIMCO} &: \textstyle\sum_k \big(\hat L - \hat L_{-k}\big) \nabla_\phi \log
#   q_\phi(z_k) + \sum_k u_k \nabla_\phi \log w_k, \\
# \text{DReG} &: \textstyle\sum_k u_k^2\, \tfrac{\partial \log w_k}{\partial z_k}
#   \tfrac{d z_k}{d\phi} \quad\text{(Tucker et al. 2019)},
# \end{aligned}$$
#
# where $\hat L = \log \frac1K \sum_k w_k$ and $\hat L_{-k}$ is the same with $w_k$ replaced
# by the geometric mean of the others.

# %%
model = linear_gaussian.LinearGaussian(
    weights=jnp.asarray([[1.0, 0.4], [-0.6, 0.9], [0.3, -0.8]]),
    bias=jnp.asarray([0.1, 0.0, -0.2]),
    log_std=jnp.asarray(-0.3),
)
x = jnp.asarray([0.8, -0.3, 1.1])
system = gradients.System(
    propose=lambda key, q: normal.sample(key, *q),
    log_joint=lambda q, z: linear_gaussian.log_joint(model, x, z),
    log_posterior=lambda q, z: normal.log_prob(z, *q),
)
q = (jnp.asarray([0.3, -0.1]), jnp.asarray([-0.3, -0.5]))  # mean, log_std

# %%
exact = jax.grad(
    lambda q: linear_gaussian.elbo(
        model, x, linear_gaussian.Normal(q[0], jnp.diag(jnp.exp(q[1])))
    )
)(q)
key = jax.random.key(0)
for bound, estimators, num_samples in (
    ("the ELBO, 2 draws", gradients.ELBO_ESTIMATORS, 2),
    ("the ELBO, 8 draws", gradients.ELBO_ESTIMATORS, 8),
    ("the bound of K = 8", gradients.IWAE_ESTIMATORS, 8),
):
    print(f"{bound:24} {'value':>9}   d/d mean[0]")
    for name, estimator in estimators.items():
        value_and_grad = jax.vmap(
            jax.value_and_grad(
                functools.partial(estimator, system=system, num_samples=num_samples), 1
            ),
            (0, None),
        )
        values, grads = jax.jit(value_and_grad)(jax.random.split(key, 20_000), q)
        mean, stderr = estimates.estimate(grads[0][:, 0])
        print(
            f"{name:24} {values.mean():9.4f}   {mean:+.4f} ± {stderr:.4f}, "
            f"one estimate ± {grads[0][:, 0].std():.4f}"
        )
print(f"{'exact, of the ELBO':24} {'':9}   {exact[0][0]:+.4f}")

# %% [markdown]
# The values agree to the last digit, because the draws are the same and only the
# gradient differs. The score function and VIMCO need no reparameterisation (discrete
# latents have none). What they pay for it depends: each subtracts what the *other* draws
# say, which with eight of them takes most of the noise away; with two, the score function
# is a third noisier than the path.
#
# ## Sticking the landing
#
# At the posterior $\log w$ is constant: nothing is left to learn, yet the pathwise
# gradient still jumps about, by the score of $q$, whose mean is 0. Leaving the score
# out (Roeder et al. 2017) leaves no noise at all. The posterior here is not diagonal,
# so take a model of one latent.

# %%
narrow = model._replace(weights=model.weights[:, :1])
posterior = linear_gaussian.posterior(narrow, x)
at_posterior = (posterior.mean, jnp.log(jnp.diagonal(posterior.cholesky)))
narrow_system = system._replace(
    log_joint=lambda q, z: linear_gaussian.log_joint(narrow, x, z)
)
for name in ("pathwise", "sticking-the-landing"):
    estimator = gradients.ELBO_ESTIMATORS[name]
    grad = jax.vmap(
        jax.grad(functools.partial(estimator, system=narrow_system, num_samples=1), 1),
        (0, None),
    )(jax.random.split(key, 1000), at_posterior)
    print(f"{name:24} largest |gradient| of 1000: {jnp.abs(grad[0]).max():.1e}")

# %% [markdown]
# ## More samples, less signal
#
# With $K$ samples the bound rises to $\log p(x)$, and so the gradient for $q$ shrinks,
# as $1/K$, while its noise shrinks as $1/\sqrt K$ only: the signal-to-noise ratio
# *falls* with slope $-1/2$ (Rainforth et al. 2018). Doubly reparameterised, the noise
# shrinks faster and the slope is $+1/2$ (Tucker et al. 2019). Both are slopes for large
# $K$; a ratio of `pathwise` below has an error of 0.003.

# %%
SIZES = (4, 16, 64)


def signal_to_noise(estimator, num_samples, num_draws):
    """|mean| / std of the gradient for the mean of q, averaged over coordinates."""
    grad = jax.grad(
        lambda mean, key: estimator(key, (mean, q[1]), system, num_samples=num_samples)
    )
    keys = jax.random.split(key, num_draws)
    draws = jax.lax.map(functools.partial(grad, q[0]), keys, batch_size=20_000)
    return float(jnp.mean(jnp.abs(draws.mean(0)) / draws.std(0)))


figure, axis = plt.subplots(figsize=(5.2, 3.4))
for name, num_draws, colour in (
    ("pathwise", 100_000, "tab:red"),
    ("dreg", 10_000, "tab:blue"),
):
    estimator = gradients.IWAE_ESTIMATORS[name]
    ratios = [signal_to_noise(estimator, k, num_draws) for k in SIZES]
    slope = np.polyfit(np.log(SIZES), np.log(ratios), 1)[0]
    axis.loglog(SIZES, ratios, "o-", color=colour, label=f"{name}: slope {slope:+.2f}")
axis.set_xticks(SIZES, labels=SIZES)
axis.minorticks_off()
axis.set_xlabel("samples K")
axis.set_ylabel("signal to noise, gradient for q")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Rényi bounds
#
# $\mathcal L_\alpha = \frac{1}{1-\alpha} \log \mathbb E_q w^{1-\alpha}$ joins the known
# bounds in one family that never rises with $\alpha$: the ELBO at 1, the evidence at 0,
# upper bounds below 0. Few samples pull an estimate towards the ELBO, the only member
# without bias, from either side: just below $\alpha = 0$ an estimate from few is no upper
# bound.
#
# With normals all of it is known: $\mathcal L_\alpha = \log p(x) - D_\alpha(q \,\|\,
# p(z \mid x))$, Rényi's divergence, whose integral of $q^\alpha p^{1-\alpha}$ is one of a
# normal of precision $\alpha P_q + (1 - \alpha) P_p$ (`linear_gaussian.renyi`). Where that is
# no precision any more, here from $\alpha = 1.88$ on, $\mathcal L_\alpha$ is $-\infty$ while
# an estimate is finite as ever.

# %%
evidence = linear_gaussian.log_evidence(model, x)
alphas = jnp.linspace(-2.0, 1.8, 39)
as_normal = linear_gaussian.Normal(q[0], jnp.diag(jnp.exp(q[1])))
exact_bounds = jax.vmap(functools.partial(linear_gaussian.renyi, model, x, as_normal))(
    alphas
)


def log_weight(key):
    """One log importance weight."""
    z = system.propose(key, q)
    return system.log_joint(q, z) - system.log_posterior(q, z)


figure, axis = plt.subplots(figsize=(5.2, 3.4))
for num_samples, colour in ((4, "tab:orange"), (64, "tab:green"), (1024, "tab:blue")):
    keys = jax.random.split(key, 200 * num_samples)
    log_w = jax.jit(jax.vmap(log_weight))(keys).reshape(200, num_samples)
    bounds = jax.jit(jax.vmap(jax.vmap(importance.renyi, (None, 0)), (0, None)))(
        log_w, alphas
    )
    axis.plot(alphas, bounds.mean(0), color=colour, label=f"K = {num_samples}")
axis.plot(alphas, exact_bounds, color="black", lw=0.9, label="exact")
axis.axhline(evidence, color="black", lw=0.8, ls=":", label="log p(x)")
axis.axvline(1.0, color="0.8", lw=0.8)
axis.set_ylim(evidence - 3.0, evidence + 0.6)
axis.set_xlabel(r"$\alpha$")
axis.set_ylabel("nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Is an estimator what it says?
#
# `oracles.certify` holds weights against an exact evidence: unbiased within standard
# errors, a bound that rises with $K$, and by how much it falls short. The second
# estimator has noise of mean zero *inside* its logarithm, $\log w + \epsilon$. With one
# draw its mean is still the ELBO; but $\mathbb E\, e^{\log w + \epsilon} > p(x)$, so that
# with many draws it exceeds the evidence: $\mathcal L_K$ is no bound any more.

# %%
print(oracles.certify(key, log_weight, evidence))
print()
print(
    oracles.certify(
        key,
        lambda key: (
            log_weight(key) + 0.5 * jax.random.normal(jax.random.fold_in(key, 1))
        ),
        evidence,
    )
)

# %% [markdown]
# ## The tail of the weights
#
# A proposal narrower than its target has weights with a heavy tail. Its index $k$ tells
# how heavy: for target $\mathcal N(0,1)$ and proposal $\mathcal N(0, s^2)$, $s < 1$, it is
# $1 - s^2$. From 1/2 on the variance of the weights is infinite, and above 0.7 no estimate
# is to be trusted (Vehtari et al. 2024). The weights of a wider proposal are bounded by
# $s$, their value at $z = 0$; how they thin out towards it makes $k = -2$.

# %%
for std in (1.2, 0.9, 0.7, 0.5, 0.3):
    z = std * jax.random.normal(key, (20_000,))
    log_w = jnp.log(std) - 0.5 * z**2 * (1.0 - std**-2)
    print(
        f"s = {std}: k = {pareto.tail_index(log_w):+.2f} (exact "
        f"{1 - std**2 if std < 1 else -2:+.2f}), effective samples {importance.effective_sample_size(log_w):7.0f}"
        f" of 20000, log mean w = {importance.iwae(log_w):+.3f} (exact 0)"
    )

# %% [markdown]
# ## From both sides
#
# Annealed importance sampling (Neal 2001) goes from the prior to the posterior in $T$ small
# steps, along
#
# $$\log f_b(z) = (1 - b) \log p(z) + b \log p(x, z), \qquad 0 = b_0 < \dots < b_T = 1 :$$
#
# $z_0 \sim p(z)$, and $z_t$ from $z_{t-1}$ by a transition that leaves $f_{b_t}$ as it is,
# here Hamiltonian Monte Carlo of four leapfrog steps. Its weight
#
# $$\log w = \sum_t (b_t - b_{t-1}) \log p(x \mid z_{t-1})$$
#
# has $\mathbb E\, w = p(x)$ whatever $T$: run forward it bounds $\log p(x)$ from below.
# Where $x$ is simulated, the $z$ that made it is an exact posterior sample; run backward
# from that, $\mathbb E\, w^{-1} = 1 / p(x)$ bounds it from above (Grosse et al. 2015). The
# step sizes are tuned on other draws first, and then stay. The decoder below is nonlinear;
# with two latents a grid still knows the answer. `interval` has a confidence of 95%, and
# calls the draws enough if it is no wider than 0.1 nat.

# %%
decoder = jnp.asarray([[1.5, -1.0], [0.5, 2.0], [-1.0, 0.3]])
key_z, key_x, key_tune, key_run = jax.random.split(jax.random.key(4), 4)
z_true = jax.random.normal(key_z, (2,))
x = 2.0 * jnp.tanh(decoder @ z_true) + 0.3 * jax.random.normal(key_x, (3,))


def log_joint(z):
    """log p(x, z) of the nonlinear model."""
    mean = 2.0 * jnp.tanh(decoder @ z)
    return normal.log_prob(
        x, mean, jnp.full(3, jnp.log(0.3))
    ) + normal.standard_log_prob(z)


def sample_prior(key):
    """z ~ N(0, I)."""
    return jax.random.normal(key, (2,))


exact = quadrature.log_evidence(log_joint, quadrature.grid(2))
print(f"exact log p(x) = {exact:.4f} nats")
for num_steps in (3, 300):
    path = annealed.Path(
        normal.standard_log_prob,
        log_joint,
        annealed.sigmoid_schedule(num_steps),
        jnp.full(num_steps, 0.2),
        num_leapfrog=4,
    )
    path = annealed.tune(key_tune, path, sample_prior)
    keys = jax.random.split(key_run, (2, 1000))
    up = jax.jit(jax.vmap(lambda k, p=path: annealed.forward(k, p, sample_prior)[0]))
    down = jax.jit(jax.vmap(lambda k, p=path: annealed.backward(k, p, z_true)))
    found = sandwich.interval(up(keys[0]), down(keys[1]))
    verdict = "enough" if found.enough else "not enough"
    print(
        f"T = {num_steps:3d}: [{found.lower:.4f}, {found.upper:.4f}]  "
        f"1000 chains: {verdict}"
    )
