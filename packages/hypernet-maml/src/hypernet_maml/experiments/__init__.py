"""Experiments: one file per group of tables of the thesis.

Each has `run(preset, out, quick, runs)`: preset "cpu" or "paper"; results go to `out`; trainings live
in `runs` and are resumed or reused from there; quick evaluates only what is trained already.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from hypernet_maml.experiments import classification

EXPERIMENTS: dict[str, Callable[..., None]] = {
    name: partial(classification.run, name) for name in classification.TABLES
}
