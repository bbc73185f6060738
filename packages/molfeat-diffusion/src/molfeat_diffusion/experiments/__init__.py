"""Experiments of the thesis: each is called as `experiment(preset=, out=, quick=, runs=)`."""

from __future__ import annotations

from collections.abc import Callable

from molfeat_diffusion.experiments import table_5_1

EXPERIMENTS: dict[str, Callable[..., None]] = {"table-5.1": table_5_1.run_preset}
