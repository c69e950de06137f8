"""Likelihoods with error bars, baselines, figures and reports."""

from vgm.evaluation import baselines as baselines
from vgm.evaluation import estimates as estimates
from vgm.evaluation import figures as figures
from vgm.evaluation import imputation as imputation
from vgm.evaluation import likelihood as likelihood
from vgm.evaluation import report as report
from vgm.evaluation import surgery as surgery
