"""Convolutions whose weights a small hypernetwork generates, and MAML that adapts their embeddings.

Planned: nothing is here yet but the version.
"""

__version__ = "0.1.0"
