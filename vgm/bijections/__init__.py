"""Invertible maps: the fixed encoders of normalising flows."""

from vgm.bijections import autoregressive as autoregressive
from vgm.bijections import continuous as continuous
from vgm.bijections import coupling as coupling
from vgm.bijections import elementwise as elementwise
from vgm.bijections import images as images
from vgm.bijections import linear as linear
from vgm.bijections import transforms as transforms
from vgm.bijections.bijection import IDENTITY as IDENTITY
from vgm.bijections.bijection import Bijection as Bijection
from vgm.bijections.bijection import compose as compose
from vgm.bijections.bijection import invert as invert
from vgm.bijections.bijection import scan as scan
