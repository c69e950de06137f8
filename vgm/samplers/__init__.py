"""Drawing samples from a trained chain."""

from vgm.samplers import diffusion as diffusion
