"""Experiments: one file per group of tables and figures of the thesis.

Each has `run(preset, out, quick, runs)`: preset "cpu" or "paper"; results go to `out`; trainings live
in `runs` and are resumed or reused from there; quick evaluates only what is trained already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hyperfields.experiments import (
    amortization,
    figure_4_8,
    figure_4_9_materials,
    figure_4_10,
    figure_4_11,
    figure_b_2,
    held_out,
    table_4_1,
    table_4_3,
)

EXPERIMENTS: dict[str, Callable[..., None]] = {
    **{name: partial(held_out.run, name) for name in held_out.FIGURES},
    "table-4.1": table_4_1.run,
    "figure-4.8": figure_4_8.run,
    "table-4.3": table_4_3.run,
    "figure-4.10": figure_4_10.run,
    "figure-4.11": figure_4_11.run,
    "amortization": amortization.run,
    "figure-b.2": figure_b_2.run_held_out,
    "figure-4.9-materials": figure_4_9_materials.run_four,
}
