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
# 1. six gradients of two bounds, those of one bound all of one value;
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
from vgm.oracles import linear_gaussian, quadrature

jax.config.update("jax_enable_x64", True)

# %% [markdown]
# ## A system: three functions
#
# Every estimator takes `propose(key, params)`, which draws $z \sim q$; `log_joint` and
# `log_posterior`. Encoder, decoder and data are inside. Here $q$ is a diagonal normal
# and $p$ linear-Gaussian, so the exact gradient is known too.

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
for bound, estimators in (
    ("the ELBO", gradients.ELBO_ESTIMATORS),
    ("the bound of K = 8", gradients.IWAE_ESTIMATORS),
):
    print(f"{bound:24} {'value':>9}   {'d/d mean[0]':>20}")
    for name, estimator in estimators.items():
        value_and_grad = jax.vmap(
            jax.value_and_grad(
                functools.partial(estimator, system=system, num_samples=8), 1
            ),
            (0, None),
        )
        values, grads = jax.jit(value_and_grad)(jax.random.split(key, 20_000), q)
        draws = np.asarray(grads[0][:, 0])
        print(
            f"{name:24} {values.mean():9.4f}   "
            f"{draws.mean():+.4f} ± {draws.std():.4f} a draw"
        )
print(f"{'exact, of the ELBO':24} {'':9}   {exact[0][0]:+.4f}")

# %% [markdown]
# The values agree to the last digit, because the draws are the same and only the
# gradient differs. The score function needs no reparameterisation (discrete latents
# have none) and pays for it in variance.
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
# shrinks faster and the slope is $+1/2$ (Tucker et al. 2019). Both are slopes for large $K$;
# the ratios below have errors of 0.01 themselves, as much as a third of pathwise's last.

# %%
SIZES = (4, 16, 64)
NUM_DRAWS = 10_000


def signal_to_noise(estimator, num_samples):
    """|mean| / std of the gradient for the mean of q, averaged over coordinates."""
    grad = jax.grad(
        lambda mean, key: estimator(key, (mean, q[1]), system, num_samples=num_samples)
    )
    draws = jax.jit(jax.vmap(grad, (None, 0)))(q[0], jax.random.split(key, NUM_DRAWS))
    return float(jnp.mean(jnp.abs(draws.mean(0)) / draws.std(0)))


figure, axis = plt.subplots(figsize=(5.2, 3.4))
for name, colour in (("pathwise", "tab:red"), ("dreg", "tab:blue")):
    ratios = [signal_to_noise(gradients.IWAE_ESTIMATORS[name], k) for k in SIZES]
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
# normal of precision $\alpha P_q + (1 - \alpha) P_p$. Where that is no precision any more,
# here from $\alpha = 1.88$ on, $\mathcal L_\alpha$ is $-\infty$ while an estimate is finite
# as ever.

# %%
evidence = linear_gaussian.log_evidence(model, x)
alphas = jnp.linspace(-2.0, 1.8, 40)  # not 1 itself
posterior = linear_gaussian.posterior(model, x)
p_q, p_p = jnp.diag(jnp.exp(-2 * q[1])), linear_gaussian.posterior_precision(model)


@jax.vmap
def exact_bound(alpha):
    """log p(x) - D_alpha(q || p(z | x)) of two normals."""
    mixed = alpha * p_q + (1 - alpha) * p_p
    log_det_q, log_det_p, log_det = (
        jnp.linalg.slogdet(p)[1] for p in (p_q, p_p, mixed)
    )
    log_integral = 0.5 * (alpha * log_det_q + (1 - alpha) * log_det_p - log_det)
    shift = q[0] - posterior.mean
    exponent = shift @ p_q @ jnp.linalg.solve(mixed, p_p @ shift)
    return evidence + log_integral / (1 - alpha) - 0.5 * alpha * exponent


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
axis.plot(alphas, exact_bound(alphas), color="black", lw=0.9, label="exact")
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
# estimator has noise of mean zero *inside* its logarithm, the commonest mistake:
# $\mathbb E\, e^{\log w + \epsilon} > p(x)$, so it is no bound at all.

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
# $1 - s^2$. From 1/2 on the weights have no variance, and above 0.7 no estimate is to be
# trusted (Vehtari et al. 2024). The weights of a wider proposal are bounded; there are none
# near their largest, $s$, but where $z$ is near 0, which makes $k = -2$.

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
# Where $x$ is simulated, the $z$ that made it is an exact posterior sample. Annealed
# importance sampling run forward from the prior bounds $\log p(x)$ from below, and run
# backward from that $z$ from above (Grosse et al. 2015). The decoder below is nonlinear;
# with two latents a grid still knows the answer.

# %%
decoder = jnp.asarray([[1.5, -1.0], [0.5, 2.0], [-1.0, 0.3]])
key_z, key_x, key_tune, key_run = jax.random.split(jax.random.key(4), 4)
z_true = jax.random.normal(key_z, (2,))
x = 2.0 * jnp.tanh(decoder @ z_true) + 0.3 * jax.random.normal(key_x, (3,))


def log_prior(z):
    """log N(z; 0, I)."""
    return normal.log_prob(z, jnp.zeros(2), jnp.zeros(2))


def log_joint(z):
    """log p(x, z) of the nonlinear model."""
    mean = 2.0 * jnp.tanh(decoder @ z)
    return normal.log_prob(x, mean, jnp.full(3, jnp.log(0.3))) + log_prior(z)


def sample_prior(key):
    """z ~ N(0, I)."""
    return jax.random.normal(key, (2,))


exact = quadrature.log_evidence(log_joint, quadrature.grid(2))
print(f"exact log p(x) = {exact:.4f} nats")
for num_steps in (3, 300):
    path = annealed.Path(
        log_prior,
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
