"""ATT3D's way, where the prompt writes the hash grid (the thesis compares images, Fig. 4.7)."""

from __future__ import annotations

from hyperfields.experiments.held_out import HeldOut, held_out_experiment


def experiment(preset: str = "cpu") -> HeldOut:
    """In a preset's sizes."""
    claim = "dynamic weights beat a hypernetwork that writes the hash grid, as ATT3D does"
    return held_out_experiment(preset, "att3d", claim, ("dynamic", "grid"))
