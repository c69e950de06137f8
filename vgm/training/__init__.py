"""Objective, step, loop, placement on devices, checkpoints."""

from vgm.training import checkpoints as checkpoints
from vgm.training import loop as loop
from vgm.training import objective as objective
from vgm.training import optimizers as optimizers
from vgm.training import sharding as sharding
from vgm.training import step as step
from vgm.training.step import TrainState as TrainState
