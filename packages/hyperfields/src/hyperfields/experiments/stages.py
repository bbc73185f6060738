"""Both stages of Algorithm 3: distilled from NeRFs of score distillation in place of exact renders."""

from __future__ import annotations

from hyperfields.experiments.held_out import HeldOut, held_out_experiment


def experiment(preset: str = "cpu") -> HeldOut:
    """In a preset's sizes."""
    claim = (
        "distilled from NeRFs of score distillation, held-out combinations come out as asked for"
    )
    return held_out_experiment(preset, "stages", claim, ("dynamic", "taught"))
