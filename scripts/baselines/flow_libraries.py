"""Training steps of the same flows by zuko, nflows, flowjax and the library.

Neural spline couplings and masked autoregressive flows of ``DIM`` numbers: the same
widths, depths, bins, batch and optimiser, a reversal or permutation between layers.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from baselines import depths

from vgm.models import flow_parts, flows
from vgm.models.flow import Flow
from vgm.training import objective
from vgm.types import Batch

DIM, BATCH, STEPS = 32, 256, 20
COUPLINGS, COUPLING_WIDTH = 8, 128
MAF_LAYERS, MAF_WIDTHS = 5, {"masked, 64 wide": 64, "masked, 256 wide": 256}
BINS, BOUND, RATE = 8, 5.0, 1e-3

Run = Callable[[], None]


def batches() -> np.ndarray:
    """The same numbers for every side."""
    return np.random.default_rng(0).normal(size=(STEPS, BATCH, DIM)).astype(np.float32)


def sides() -> dict[str, dict[str, Run]]:
    """``STEPS`` steps a call, by flow and library; libraries where installed."""
    groups: dict[str, dict[str, Run]] = {
        "spline coupling": {"vgm": with_vgm(spline_coupling(COUPLINGS))},
        **{name: {"vgm": with_vgm(maf(width))} for name, width in MAF_WIDTHS.items()},
    }
    for name, build in (
        ("zuko", with_zuko),
        ("nflows", with_nflows),
        ("flowjax", with_flowjax),
    ):
        try:
            for group, run in build().items():
                groups[group][name] = run
        except ImportError:
            print(f"{name} is not installed: left out")
    return groups


def compilation() -> dict[str, Run]:
    """Compiling a gradient step of 32 and of 4 coupling layers, nothing cached."""
    x = jnp.asarray(batches()[0])
    return depths.compilation(spline_coupling, x, deep=32, shallow=4)


def spline_coupling(num_layers: int) -> Flow:
    step = flow_parts.Step((COUPLING_WIDTH,) * 2, num_bins=BINS, tail_bound=BOUND)
    return flows.flow(
        flow_parts.vectors(
            (DIM,), (flow_parts.coupling((DIM,), step, "spline"),), num_layers
        ),
        event_shape=(DIM,),
    )


def maf(width: int) -> Flow:
    step = flow_parts.Step((width,) * 2)
    return flows.flow(
        flow_parts.vectors(
            (DIM,), (flow_parts.autoregressive(step, "affine"),), MAF_LAYERS
        ),
        event_shape=(DIM,),
    )


def with_vgm(model: Flow) -> Run:
    data = jnp.asarray(batches())
    optimizer = optax.adam(RATE)
    params = model.init(jax.random.key(0), data[0])
    value_and_grad = objective.negative_elbo(model)

    def step(state, x):
        params, opt_state = state
        batch = Batch(x, None, jnp.ones(BATCH))
        _, grads = value_and_grad(jax.random.key(0), params, batch)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    # As the library's loop does: many steps a dispatch, the state donated.
    steps = jax.jit(lambda state: jax.lax.scan(step, state, data)[0], donate_argnums=0)
    state = [(params, optimizer.init(params))]

    def run() -> None:
        state[0] = jax.block_until_ready(steps(state[0]))

    return run


def with_torch(log_prob, parameters) -> Run:
    import torch

    data = torch.from_numpy(batches())
    optimizer = torch.optim.Adam(parameters, lr=RATE)

    def run() -> None:
        for x in data:
            optimizer.zero_grad()
            (-log_prob(x).mean()).backward()
            optimizer.step()

    return run


def with_zuko() -> dict[str, Run]:
    import zuko

    couplings = zuko.flows.NSF(
        DIM,
        transforms=COUPLINGS,
        bins=BINS,
        passes=2,
        hidden_features=(COUPLING_WIDTH,) * 2,
    )
    built = {"spline coupling": couplings}
    for name, width in MAF_WIDTHS.items():
        built[name] = zuko.flows.MAF(
            DIM, transforms=MAF_LAYERS, hidden_features=(width,) * 2
        )
    return {
        group: with_torch(lambda x, f=flow: f().log_prob(x), flow.parameters())
        for group, flow in built.items()
    }


def with_nflows() -> dict[str, Run]:
    import torch
    from nflows import distributions, flows, transforms
    from nflows.nn.nets import MLP

    half = torch.arange(DIM) >= DIM // 2
    coupling = transforms.PiecewiseRationalQuadraticCouplingTransform

    class Network(MLP):
        def forward(self, inputs, context=None):
            return super().forward(inputs)

    def network(num_inputs, num_outputs):
        return Network([num_inputs], [num_outputs], [COUPLING_WIDTH] * 2)

    def flow(parts):
        base = distributions.StandardNormal([DIM])
        return flows.Flow(transforms.CompositeTransform(parts), base)

    couplings = []
    for _ in range(COUPLINGS):
        couplings += [
            coupling(half, network, num_bins=BINS, tails="linear", tail_bound=BOUND),
            transforms.ReversePermutation(DIM),
        ]
    groups = {"spline coupling": couplings}
    masked = functools.partial(
        transforms.MaskedAffineAutoregressiveTransform,
        DIM,
        num_blocks=1,
        use_residual_blocks=False,
    )
    for name, width in MAF_WIDTHS.items():
        groups[name] = [
            part
            for _ in range(MAF_LAYERS)
            for part in (
                masked(hidden_features=width),
                transforms.ReversePermutation(DIM),
            )
        ]
    return {
        group: with_torch(built.log_prob, built.parameters())
        for group, built in ((group, flow(parts)) for group, parts in groups.items())
    }


def with_flowjax() -> dict[str, Run]:
    import equinox as eqx
    from flowjax.bijections import Affine, RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow

    key, base = jax.random.key(0), Normal(jnp.zeros(DIM))
    built = {
        "spline coupling": coupling_flow(
            key,
            base_dist=base,
            transformer=RationalQuadraticSpline(knots=BINS, interval=BOUND),
            flow_layers=COUPLINGS,
            nn_width=COUPLING_WIDTH,
            nn_depth=2,
        ),
    }
    for name, width in MAF_WIDTHS.items():
        built[name] = masked_autoregressive_flow(
            key,
            base_dist=base,
            transformer=Affine(),
            flow_layers=MAF_LAYERS,
            nn_width=width,
            nn_depth=2,
        )
    return {group: _with_equinox(eqx, flow) for group, flow in built.items()}


def _with_equinox(eqx, flow) -> Run:
    from paramax import NonTrainable, unwrap

    data = jnp.asarray(batches())
    optimizer = optax.adam(RATE)
    params, static = eqx.partition(
        flow,
        eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, NonTrainable),
    )

    @jax.jit
    def step(params, opt_state, x):
        def loss(params):
            return -unwrap(eqx.combine(params, static)).log_prob(x).mean()

        grads = jax.grad(loss)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state

    state = [params, optimizer.init(params)]

    def run() -> None:
        for x in data:
            state[:] = step(*state, x)
        jax.block_until_ready(state)

    return run
