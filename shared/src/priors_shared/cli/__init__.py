"""Console scripts of one grammar: `PROGRAM VERB [PRESET] --option value`. Importing this is cheap: no torch."""

from priors_shared.cli.options import Checkpoint, Count, DataRoot, Device, OutFile, Seed, Threads
from priors_shared.cli.program import Program, command_line
from priors_shared.cli.verbs import Presets, Reproduce, TrainVerb

__all__ = [
    "Checkpoint",
    "Count",
    "DataRoot",
    "Device",
    "OutFile",
    "Presets",
    "Program",
    "Reproduce",
    "Seed",
    "Threads",
    "TrainVerb",
    "command_line",
]
