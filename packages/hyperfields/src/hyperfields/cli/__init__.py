"""The console script `hyperfields`. Torch is imported when a verb needs it, never for help."""

from __future__ import annotations

from collections.abc import Sequence

from hyperfields import __version__
from priors_shared.cli import Program

PROGRAM = Program(
    "hyperfields",
    version=__version__,
    about="Text to 3D in one forward pass, from a hypernetwork that writes a NeRF's weights.",
    verbs={
        "generate": "hyperfields.cli.generate:Generate",
        "train": "hyperfields.cli.train:Train",
        "teach": "hyperfields.cli.teach:Teach",
        "distill": "hyperfields.cli.train:Distill",
        "finetune": "hyperfields.cli.teach:Finetune",
        "train-guidance": "hyperfields.cli.train:TrainGuidance",
        "train-segmentation": "hyperfields.cli.train:TrainSegmentation",
        "export": "hyperfields.cli.export:Export",
        "eval": "hyperfields.cli.eval:Eval",
        "segment": "hyperfields.cli.segment:Segment",
        "view": "hyperfields.cli.view:View",
        "study": "hyperfields.cli.study:Study",
        "ranks": "hyperfields.cli.study:Ranks",
        "reproduce": "hyperfields.cli.reproduce:Reproduce",
        "presets": "hyperfields.cli.reproduce:Presets",
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    PROGRAM.run(argv)
