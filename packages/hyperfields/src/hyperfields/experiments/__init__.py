"""Experiments: one file a table or figure of the thesis, named by it."""

from __future__ import annotations

from hyperfields.experiments import (
    amortization,
    att3d,
    figure_4_4,
    figure_4_8,
    figure_4_9,
    figure_4_9_materials,
    figure_4_10,
    figure_4_11,
    figure_b_2,
    small_claims,
    stages,
    table_4_1,
    table_4_3,
)
from priors_shared.experiments import Runner

EXPERIMENTS: dict[str, Runner] = {
    "figure-4.4": Runner(figure_4_4.experiment),
    "figure-4.9": Runner(figure_4_9.experiment),
    "att3d": Runner(att3d.experiment),
    "stages": Runner(stages.experiment),
    "table-4.1": Runner(table_4_1.experiment),
    "figure-4.8": Runner(figure_4_8.experiment),
    "table-4.3": Runner(table_4_3.experiment),
    "figure-4.10": Runner(figure_4_10.experiment),
    "figure-4.11": Runner(figure_4_11.experiment),
    "amortization": Runner(amortization.experiment),
    "figure-b.2": Runner(figure_b_2.experiment),
    "figure-4.9-materials": Runner(figure_4_9_materials.experiment),
    "small-claims": Runner(small_claims.experiment),
}
