"""Fig. 4.4: combinations never trained on come out as well as trained ones (4.4.1)."""

from __future__ import annotations

from hyperfields.experiments.held_out import HeldOut, held_out_experiment


def experiment(preset: str = "cpu") -> HeldOut:
    """In a preset's sizes."""
    claim = "held-out combinations come out as well as trained ones"
    return held_out_experiment(preset, "figure-4.4", claim, ("dynamic",))
