"""Variational generative models: one lower bound on log p(x), every model.

Floors, lowest first; imports go down only (``tests/test_floors.py``):

    0  types, numerics, errors   names of arrays; arithmetic that keeps its digits
    1  densities                 log p(x), samples, entropies, one module a family
    2  divergences               KL in closed form and by sampling
    3  processes, bijections     the fixed encoders: noising chains, invertible maps
    4  bounds, samplers,         bounds on log p(x), drawing samples, learning without
       inference, oracles        gradients, exact answers to check them by
    5  models                    networks, and where a network meets a bound
    6  training                  objective, step, loop, sharding, checkpoints
    7  evaluation                likelihoods with error bars, figures, reports
    8  configs, experiment       one typed configuration -> one run directory
    9  cli                       what the scripts share

``data`` stands beside them and imports ``errors`` alone. Floors 0 to 4 import neither
Flax nor Optax.
"""

from typing import Any


def load(run: Any) -> Any:
    """A finished run's model and parameters, in one line.

    Args:
        run: Folder made by scripts/train.py.

    Returns:
        The model, and its parameters as host arrays.

    Raises:
        UserError: If there is no run or no checkpoint.
    """
    # Floors below stay importable without what a run needs (Orbax, scikit-learn).
    from vgm.experiment import directory

    return directory.load(run)
