"""Settings: those that are refused, and what a tempered bound's do to a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small import Noise, changed

from vgm.bounds.elbo import single_latent_terms
from vgm.experiment import stepping
from vgm.training import objective
from vgm.training.step import init_state
from vgm.types import Batch


class Terms(Noise):
    """Of an example (a, b): reconstruction -a, divergence b."""

    def elbo_terms(self, key, params, x, condition=None, *, train=False):
        return single_latent_terms(-params * x[:, 0], params * x[:, 1])


@pytest.mark.parametrize(
    ("settings", "expected"), [({"kl_weight": 0.5}, 7.25), ({"free_nats": 10.0}, 14.0)]
)
def test_a_tempered_loss_is_of_weighted_means(key, settings, expected):
    """Reconstruction -4, divergence 6.5: of means without weights -3 and 5."""
    x, weight = jnp.asarray([[1.0, 2.0], [5.0, 8.0]]), jnp.asarray([1.0, 3.0])
    settings = {name: jnp.asarray(value) for name, value in settings.items()}
    value_and_grad = jax.jit(objective.negative_elbo(Terms(), **settings))
    (loss, _), _ = value_and_grad(key, jnp.ones(()), Batch(x, None, weight))
    np.testing.assert_allclose(loss, expected)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("objective.kl_warmup_steps", 4, [3.0, 4.0]),
        ("objective.free_nats", 10.0, [11.0, 11.0]),
    ],
)
def test_flags_of_a_tempered_bound_are_its_settings(key, flag, value, expected):
    """From the second step on: a weight of 1 / 2, then of 3 / 4."""
    neither = {"objective.kl_warmup_steps": 0, "objective.free_nats": 0.0}
    config = changed("vae-digits", neither | {flag: value})
    optimizer = optax.sgd(0.0)
    step = jax.jit(stepping.make_step(config, Terms(), optimizer))
    state = init_state(jnp.ones(()), optimizer)
    state = state._replace(step=state.step + 1)
    batch, losses = Batch(jnp.asarray([[1.0, 4.0]]), None, jnp.ones(1)), []
    for _ in expected:
        state, metrics = step(key, state, batch)
        losses.append(float(metrics.loss))
    np.testing.assert_allclose(losses, expected)
