"""Data sets as arrays, and what a model observes of them; imports no other floor."""

from vgm.data import files as files
from vgm.data import observations as observations
from vgm.data.sources import Dataset as Dataset
from vgm.data.sources import Split as Split
from vgm.data.sources import load as load
from vgm.data.sources import num_held_out as num_held_out
