"""Fig. 4.9: without dynamic conditioning scenes are worse (4.4.6). The thesis shows it on four scenes in materials."""

from __future__ import annotations

from hyperfields.experiments.held_out import HeldOut, held_out_experiment


def experiment(preset: str = "cpu") -> HeldOut:
    """In a preset's sizes."""
    claim = "dynamic conditioning beats static"
    return held_out_experiment(preset, "figure-4.9", claim, ("dynamic", "static"))
