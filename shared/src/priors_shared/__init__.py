"""What the packages share: datasets, episodes, devices, run folders, checkpoints, reports."""

__version__ = "0.1.0"
