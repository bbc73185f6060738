"""The experiment layer of every package: sizes and seeds in, trainings, rows and a result file out."""

from priors_shared.experiments.experiment import Experiment, Lab, Planned, Runner, State
from priors_shared.experiments.rows import Scores, all_seeds, compared, first_of, rows_over_seeds
from priors_shared.experiments.small import Measure, SmallClaims

__all__ = [
    "Experiment",
    "Lab",
    "Measure",
    "Planned",
    "Runner",
    "Scores",
    "SmallClaims",
    "State",
    "all_seeds",
    "compared",
    "first_of",
    "rows_over_seeds",
]
