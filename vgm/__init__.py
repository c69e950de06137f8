"""Variational generative models: one lower bound on log p(x), every model.

Floors, lowest first; imports go down only (``tests/test_floors.py``):

    0  types, shapes, numerics,  names of arrays, shapes that agree, arithmetic that
       precision, errors         keeps its digits
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


def observations(run: Any, split: str = "test", *, data_path: Any = None) -> Any:
    """A split of a run's data as its model takes them, drawn as its evaluation did.

    Args:
        run: Folder made by scripts/train.py.
        split: "train", "validation" or "test".
        data_path: Where the data are now, if they moved.

    Returns:
        ``Batch(x, condition, weight)``.

    Raises:
        UserError: If there is no such run or split, or the data are others.
    """
    from vgm.experiment import results

    return results.observations(run, split, data_path=data_path)


def load(run: Any) -> Any:
    """A run's model and parameters, in one line; on any machine.

    Args:
        run: Folder made by scripts/train.py, its run finished or not.

    Returns:
        The model, and its parameters as host arrays: the best on validation where the
        run has a validation split, else the newest (averaged, where it averages).

    Raises:
        UserError: If there is no run or no checkpoint.
    """
    # Floors below stay importable without what a run needs (Orbax, scikit-learn).
    from vgm.experiment import directory

    return directory.load(run)
