"""Experiments: one file per group of tables and figures of the thesis."""

from __future__ import annotations

from functools import partial

from hypernet_maml.experiments import (
    bias,
    classification,
    domains,
    few_shot,
    small_claims,
    tcr_few_shot,
)
from priors_shared.experiments import Runner

EXPERIMENTS: dict[str, Runner] = {
    **{name: Runner(partial(classification.table, name)) for name in classification.TABLES},
    **{name: Runner(partial(few_shot.table, name)) for name in few_shot.TABLES},
    "table-3.8": Runner(domains.table_3_8),
    **{name: Runner(partial(bias.figure, name)) for name in bias.FIGURES},
    "figure-3.5": Runner(few_shot.figure_3_5),
    "figure-3.6": Runner(few_shot.figure_3_6),
    "tcr-few-shot": Runner(tcr_few_shot.experiment),
    "small-claims": Runner(small_claims.experiment),
}
