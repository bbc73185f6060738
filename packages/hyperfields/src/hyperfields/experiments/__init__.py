"""Experiments: one file a table or figure of the thesis, named by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

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
    stages,
    table_4_1,
    table_4_3,
)
from hyperfields.experiments.lab import Experiment, Lab

EXPERIMENTS: Mapping[str, Callable[[str], Experiment]] = {
    "figure-4.4": figure_4_4.experiment,
    "figure-4.9": figure_4_9.experiment,
    "att3d": att3d.experiment,
    "stages": stages.experiment,
    "table-4.1": table_4_1.experiment,
    "figure-4.8": figure_4_8.experiment,
    "table-4.3": table_4_3.experiment,
    "figure-4.10": figure_4_10.experiment,
    "figure-4.11": figure_4_11.experiment,
    "amortization": amortization.experiment,
    "figure-b.2": figure_b_2.experiment,
    "figure-4.9-materials": figure_4_9_materials.experiment,
}
"""Each in the sizes of a preset, by name."""


def runners() -> dict[str, Callable[..., None]]:
    """What runs each experiment, by name: `run(preset=, out=, runs=, quick=)`."""

    def run(name: str, preset: str, out: Path, runs: Path, quick: bool) -> None:
        EXPERIMENTS[name](preset).run(Lab(out=out, runs=runs, quick=quick))

    return {name: partial(run, name) for name in EXPERIMENTS}
