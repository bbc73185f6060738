"""Experiments: one file per table or figure of the thesis.

Each has `run(preset, out, quick, runs)`: preset "cpu" or "paper"; results go to `out`; trainings live
in `runs` and are resumed or reused from there; quick evaluates only what is trained already.
"""

from __future__ import annotations

from collections.abc import Callable

from memory_adapt.experiments import delayed_labels, table_2_1

EXPERIMENTS: dict[str, Callable[..., None]] = {
    "table-2.1": table_2_1.run,
    "delayed-labels": delayed_labels.run,
}
