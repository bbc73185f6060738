"""Experiments: one file per group of tables and figures of the thesis.

Each has `run(preset, out, quick, runs)`: preset "cpu" or "paper"; results go to `out`; trainings live
in `runs` and are resumed or reused from there; quick evaluates only what is trained already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hyperfields.experiments import (
    amortization,
    held_out,
    materials,
    ood,
    packing,
    quality,
    retrieval,
    segmentation,
)

EXPERIMENTS: dict[str, Callable[..., None]] = {
    **{name: partial(held_out.run, name) for name in held_out.FIGURES},
    "table-4.1": retrieval.run,
    "figure-4.8": ood.run,
    "table-4.3": quality.run,
    "figure-4.10": packing.run,
    "figure-4.11": segmentation.run,
    "amortization": amortization.run,
    "figure-b.2": materials.run_held_out,
    "figure-4.9-materials": materials.run_four,
}
