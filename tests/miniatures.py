"""Two miniature models, a flow and a diffusion, written against the protocol.

They hold no network: their parameters are chosen so that the evidence is known exactly.
They show that the protocol carries every rung of the ladder.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vgm.bounds import elbo
from vgm.densities import normal
from vgm.divergences import kl_normal


@dataclasses.dataclass(frozen=True)
class AffineFlow:
    """One affine layer, z = (x - shift) exp(-log_scale): p(x) is exactly normal."""

    dim: int

    def init(self, key, x, condition=None):
        del key, condition
        return {"shift": x.mean(0), "log_scale": jnp.log(x.std(0))}

    def _log_prob(self, params, x):
        z = (x - params["shift"][None]) * jnp.exp(-params["log_scale"])[None]
        zeros = jnp.zeros(self.dim)
        log_prior = jax.vmap(lambda z: normal.log_prob(z, zeros, zeros))(z)
        return log_prior, -jnp.sum(params["log_scale"])

    def elbo_terms(self, key, params, x, condition=None, *, train=False):
        del key, condition, train
        log_prior, log_det = self._log_prob(params, x)
        return elbo.single_latent_terms(jnp.full(len(x), log_det), -log_prior)

    def log_weight(self, key, params, x, condition=None):
        del key, condition
        log_prior, log_det = self._log_prob(params, x)
        return log_prior + log_det

    def sample(self, key, params, num_samples, condition=None):
        del condition
        z = jax.random.normal(key, (num_samples, self.dim))
        return params["shift"][None] + jnp.exp(params["log_scale"])[None] * z

    def log_evidence(self, params, x):
        """Exact log p(x) of one example."""
        return normal.log_prob(x, params["shift"], params["log_scale"])


@dataclasses.dataclass(frozen=True)
class GaussianDiffusion:
    """T steps of variational diffusion with a linear denoiser, x_hat = c_t z_t.

    q(z_t | x) = N(alpha_t x, sigma_t^2 I) on a grid of gammas; p(x | z_0) =
    N(z_0 / alpha_0, exp(gamma_0) I); p(z_s | z_t) = q(z_s | z_t, x = x_hat). Everything
    is linear and normal, so p(x) follows by one recursion.
    """

    dim: int
    num_steps: int
    gamma_min: float = -4.0
    gamma_max: float = 3.0

    def init(self, key, x, condition=None):
        """The best denoiser of normal data with the variance of x."""
        del key, condition
        variance = x.var()
        _, alpha, sigma = self._grid()
        return {"c": alpha * variance / (alpha**2 * variance + sigma**2)}

    def _grid(self):
        gamma = jnp.linspace(self.gamma_min, self.gamma_max, self.num_steps + 1)
        return gamma, jnp.sqrt(jax.nn.sigmoid(-gamma)), jnp.sqrt(jax.nn.sigmoid(gamma))

    def _posterior(self, z_t, x, i):
        """Mean and log std of q(z_s | z_t, x), s = i - 1, t = i (Kingma 2021)."""
        gamma, alpha, sigma = self._grid()
        ratio = alpha[i] / alpha[i - 1]
        shrink = -jnp.expm1(gamma[i - 1] - gamma[i])  # 1 - SNR_t / SNR_s
        mean = ratio * (sigma[i - 1] / sigma[i]) ** 2 * z_t + alpha[i - 1] * shrink * x
        log_std = jnp.log(sigma[i - 1]) + 0.5 * jnp.log(shrink)
        return mean, jnp.full_like(z_t, log_std)

    def _decoder(self, z_0):
        gamma, alpha, _ = self._grid()
        return z_0 / alpha[0], jnp.full_like(z_0, 0.5 * gamma[0])

    def _marginal(self, x, i):
        _, alpha, sigma = self._grid()
        return alpha[i] * x, jnp.full_like(x, jnp.log(sigma[i]))

    def elbo_terms(self, key, params, x, condition=None, *, train=False):
        del condition, train
        keys = jax.random.split(key, len(x))
        return jax.vmap(lambda k, x: self._terms(k, params, x))(keys, x)

    def _terms(self, key, params, x):
        key_0, key_steps = jax.random.split(key)
        zeros = jnp.zeros_like(x)
        z_0 = normal.sample(key_0, *self._marginal(x, 0))

        def one_step(key, i):
            z_t = normal.sample(key, *self._marginal(x, i))
            x_hat = params["c"][i] * z_t
            return kl_normal(
                *self._posterior(z_t, x, i), *self._posterior(z_t, x_hat, i)
            )

        steps = jnp.arange(1, self.num_steps + 1)
        return elbo.ElboTerms(
            normal.log_prob(x, *self._decoder(z_0)),
            kl_normal(*self._marginal(x, self.num_steps), zeros, zeros),
            jax.vmap(one_step)(jax.random.split(key_steps, self.num_steps), steps),
        )

    def log_weight(self, key, params, x, condition=None):
        del condition
        keys = jax.random.split(key, len(x))
        return jax.vmap(lambda k, x: self._log_weight(k, params, x))(keys, x)

    def _log_weight(self, key, params, x):
        """The whole trajectory's ratio, z_T drawn first, then down to z_0."""
        key_top, key_steps = jax.random.split(key)
        zeros = jnp.zeros_like(x)
        top = self._marginal(x, self.num_steps)
        z = normal.sample(key_top, *top)
        start = normal.log_prob(z, zeros, zeros) - normal.log_prob(z, *top)

        def one_step(carry, inputs):
            z_t, log_w = carry
            key, i = inputs
            q = self._posterior(z_t, x, i)
            p = self._posterior(z_t, params["c"][i] * z_t, i)
            z_s = normal.sample(key, *q)
            log_w += normal.log_prob(z_s, *p) - normal.log_prob(z_s, *q)
            return (z_s, log_w), None

        steps = jnp.arange(self.num_steps, 0, -1)
        keys = jax.random.split(key_steps, self.num_steps)
        (z_0, log_w), _ = jax.lax.scan(one_step, (z, start), (keys, steps))
        return log_w + normal.log_prob(x, *self._decoder(z_0))

    def sample(self, key, params, num_samples, condition=None):
        del condition
        key_top, key_x, key_steps = jax.random.split(key, 3)
        z = jax.random.normal(key_top, (num_samples, self.dim))
        keys = jax.random.split(key_steps, self.num_steps)

        def one_step(z, inputs):
            key, i = inputs
            return normal.sample(key, *self._posterior(z, params["c"][i] * z, i)), None

        steps = jnp.arange(self.num_steps, 0, -1)
        z, _ = jax.lax.scan(one_step, z, (keys, steps))
        return normal.sample(key_x, *self._decoder(z))

    def log_evidence(self, params, x):
        """Exact log p(x) of one example: the variance carried down the linear chain."""
        gamma, alpha, _ = self._grid()
        one = jnp.ones(())

        def one_step(variance, i):
            slope, log_std = self._posterior(one, params["c"][i] * one, i)
            return slope**2 * variance + jnp.exp(2 * log_std), None

        steps = jnp.arange(self.num_steps, 0, -1)
        variance, _ = jax.lax.scan(one_step, one, steps)
        variance = variance / alpha[0] ** 2 + jnp.exp(gamma[0])
        return normal.log_prob(
            x, jnp.zeros_like(x), jnp.full_like(x, 0.5 * jnp.log(variance))
        )
