"""Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights.

Planned: nothing is here yet but the version.
"""

__version__ = "0.1.0"
