"""Learning without gradients: expectation maximisation."""

from vgm.inference import em as em
from vgm.inference import gaussian_mixture as gaussian_mixture
from vgm.inference import probabilistic_pca as probabilistic_pca
