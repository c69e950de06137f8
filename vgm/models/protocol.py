"""What every model offers; nothing else in the library knows which model it holds.

Arrays carry a leading batch axis here: networks run on batches, the mathematics inside
runs on examples under ``vmap``. All values are in nats, one an example.
"""

import abc
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Array, Float

from vgm.bounds.elbo import ElboTerms
from vgm.types import Condition, Params, PRNGKey

Encoding = Any
"""Whatever q(z | x) needs beyond the parameters; a pytree with a leading batch axis."""

Latents = Any
"""All latents of a batch; a pytree with a leading batch axis."""


@runtime_checkable
class GenerativeModel(Protocol):
    """A model with a lower bound on log p(x) and unbiased weights for p(x)."""

    @abc.abstractmethod
    def init(self, key: PRNGKey, x: Any, condition: Condition = None) -> Params:
        """Parameters for a batch like x: shapes and data-dependent starting values."""
        ...

    @abc.abstractmethod
    def elbo_terms(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        condition: Condition = None,
        *,
        train: bool = False,
    ) -> ElboTerms:
        """One draw of the bound's terms, one value an example."""
        ...

    @abc.abstractmethod
    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """One draw of log w with E[exp(log w)] = p(x), always."""
        ...

    @abc.abstractmethod
    def sample(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """Draws x ~ p(x)."""
        ...


@runtime_checkable
class LatentVariableModel(GenerativeModel, Protocol):
    """A model whose q(z | x), p(x, z) and draws are separate functions."""

    def log_weight(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x, z) - log q(z | x) at one z ~ q(z | x)."""
        encoding = self.encode(params, x, condition)
        return self.log_weight_given(key, params, x, encoding, condition)

    @abc.abstractmethod
    def encode(self, params: Params, x: Any, condition: Condition = None) -> Encoding:
        """The parameters of q(z | x): computed once an x, never once a sample."""
        ...

    @abc.abstractmethod
    def propose(self, key: PRNGKey, params: Params, encoding: Encoding) -> Latents:
        """Draw z ~ q(z | x), reparameterised."""
        ...

    @abc.abstractmethod
    def log_joint(
        self, params: Params, x: Any, latents: Latents, condition: Condition = None
    ) -> Float[Array, " batch"]:
        """log p(x, z)."""
        ...

    @abc.abstractmethod
    def log_posterior(
        self, params: Params, encoding: Encoding, latents: Latents
    ) -> Float[Array, " batch"]:
        """log q(z | x)."""
        ...

    def propose_and_log_prob(
        self, key: PRNGKey, params: Params, encoding: Encoding
    ) -> tuple[Latents, Float[Array, " batch"]]:
        """Draw z ~ q(z | x), as ``propose`` of the same key, with log q(z | x).

        A draw may know its own density: of a flow it is the other way round, and of a
        narrow normal it has lost its digits. A model that inherits has the plain two.
        """
        latents = self.propose(key, params, encoding)
        return latents, self.log_posterior(params, encoding, latents)

    def log_weight_given(
        self,
        key: PRNGKey,
        params: Params,
        x: Any,
        encoding: Encoding,
        condition: Condition = None,
    ) -> Float[Array, " batch"]:
        """log p(x, z) - log q(z | x) at one z ~ q(z | x), x encoded before.

        One draw of the weight (Burda et al. 2016, eq. 8) in as few passes as the model
        can. A model that inherits from this class has the plain two.
        """
        latents, log_q = self.propose_and_log_prob(key, params, encoding)
        return self.log_joint(params, x, latents, condition) - log_q


def lacking(model: Any) -> list[str]:
    """What a model would need to be a ``LatentVariableModel``.

    >>> lacking(None)[:3]
    ['init', 'elbo_terms', 'log_weight']

    Args:
        model: Any model.

    Returns:
        Names of the methods that it has not.
    """
    methods = {**vars(GenerativeModel), **vars(LatentVariableModel)}
    names = [name for name in methods if not name.startswith("_")]
    return [name for name in names if not hasattr(model, name)]


@runtime_checkable
class Reconstructing(Protocol):
    """A model that can show the mean of p(x | z)."""

    def mean(
        self, params: Params, latents: Latents, condition: Condition = None
    ) -> Any:
        """E[x | z], on the scale of x."""
        ...

    def reconstruct(
        self, key: PRNGKey, params: Params, x: Any, condition: Condition = None
    ) -> Any:
        """The mean of p(x | z) at z ~ q(z | x), on the scale of x."""
        ...

    def sample_mean(
        self,
        key: PRNGKey,
        params: Params,
        num_samples: int,
        condition: Condition = None,
    ) -> Any:
        """The mean of p(x | z) at the latents that ``sample`` draws from this key."""
        ...
