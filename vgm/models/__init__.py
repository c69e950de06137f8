"""Networks, and where a network meets a bound."""

from vgm.models import amortised as amortised
from vgm.models import autoregressive as autoregressive
from vgm.models import convolutions as convolutions
from vgm.models import denoisers as denoisers
from vgm.models import diffusion as diffusion
from vgm.models import flow as flow
from vgm.models import flows as flows
from vgm.models import heads as heads
from vgm.models import hierarchical_vae as hierarchical_vae
from vgm.models import ladder as ladder
from vgm.models import layers as layers
from vgm.models import learned as learned
from vgm.models import likelihoods as likelihoods
from vgm.models import made as made
from vgm.models import markov as markov
from vgm.models import networks as networks
from vgm.models import noise as noise
from vgm.models import posteriors as posteriors
from vgm.models import priors as priors
from vgm.models import steps as steps
from vgm.models import target as target
from vgm.models import unets as unets
from vgm.models import vae as vae
from vgm.models.protocol import GenerativeModel as GenerativeModel
from vgm.models.protocol import LatentVariableModel as LatentVariableModel
from vgm.models.protocol import Reconstructing as Reconstructing
