"""The console script `memory-adapt`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

from collections.abc import Sequence

from memory_adapt import __version__
from priors_shared.cli import Program

PROGRAM = Program(
    "memory-adapt",
    version=__version__,
    about="Learners that adapt online, without gradients, to a stream whose labels arrive late.",
    verbs={
        "train": "memory_adapt.cli.train:Train",
        "eval": "memory_adapt.cli.eval:Eval",
        "adapt": "memory_adapt.cli.adapt:Adapt",
        "predict": "memory_adapt.cli.predict:Predict",
        "export": "memory_adapt.cli.export:Export",
        "presets": "memory_adapt.cli.train:Presets",
        "cost": "memory_adapt.cli.cost:Cost",
        "reproduce": "memory_adapt.cli.reproduce:Reproduce",
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    PROGRAM.run(argv)
