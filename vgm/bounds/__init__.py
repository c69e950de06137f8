"""Lower bounds on log p(x), from arrays or callables; greater is better."""

from vgm.bounds import annealed as annealed
from vgm.bounds import diffusion as diffusion
from vgm.bounds import elbo as elbo
from vgm.bounds import flow as flow
from vgm.bounds import gradients as gradients
from vgm.bounds import hierarchical as hierarchical
from vgm.bounds import importance as importance
from vgm.bounds import pareto as pareto
from vgm.bounds import probability_flow as probability_flow
from vgm.bounds import sandwich as sandwich
from vgm.bounds import trajectories as trajectories
from vgm.bounds import weightings as weightings
from vgm.bounds.elbo import ElboTerms as ElboTerms
