"""Fixed encoders: the noising chain of a diffusion and its schedules."""

from vgm.processes import gaussian as gaussian
from vgm.processes import interiors as interiors
from vgm.processes import schedules as schedules
from vgm.processes import times as times
