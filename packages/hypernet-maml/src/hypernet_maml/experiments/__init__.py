"""Experiments: one file per group of tables and figures of the thesis.

Each is called as `experiment(preset=, out=, quick=, runs=)`: preset "cpu" or "paper"; results go to `out`;
trainings live in `runs` and are resumed or used again from there; quick evaluates only what is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypernet_maml.experiments import classification, domains, few_shot

EXPERIMENTS: dict[str, Callable[..., None]] = {
    **{name: partial(classification.table, name) for name in classification.TABLES},
    **{name: partial(few_shot.table, name) for name in few_shot.TABLES},
    "table-3.8": domains.table_3_8,
    **{name: partial(classification.figure, name) for name in classification.FIGURES},
    "figure-3.5": few_shot.figure_3_5,
    "figure-3.6": few_shot.figure_3_6,
}
