"""Log densities and masses of one example, in nats, and their samples."""

from vgm.densities import bernoulli as bernoulli
from vgm.densities import categorical as categorical
from vgm.densities import discretized_logistic as discretized_logistic
from vgm.densities import discretized_logistic_mixture as discretized_logistic_mixture
from vgm.densities import discretized_normal as discretized_normal
from vgm.densities import mixture as mixture
from vgm.densities import multivariate_normal as multivariate_normal
from vgm.densities import normal as normal
