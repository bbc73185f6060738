"""Geometry-aware molecular features from a diffusion model of molecules.

Planned: nothing is here yet but the version.
"""

__version__ = "0.1.0"
