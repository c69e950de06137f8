"""Lower bounds on log p(x), from arrays or callables; greater is better."""

from vgm.bounds import elbo as elbo
from vgm.bounds import importance as importance
from vgm.bounds.elbo import ElboTerms as ElboTerms
