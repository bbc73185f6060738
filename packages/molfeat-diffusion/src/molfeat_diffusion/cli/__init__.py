"""The console script `molfeat-diffusion`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

from collections.abc import Sequence

from molfeat_diffusion import __version__
from priors_shared.cli import Program

PROGRAM = Program(
    "molfeat-diffusion",
    version=__version__,
    about="Geometry-aware molecular features from a diffusion model of molecules.",
    verbs={
        "featurize": "molfeat_diffusion.cli.featurize:Featurize",
        "prepare": "molfeat_diffusion.cli.prepare:Prepare",
        "fit": "molfeat_diffusion.cli.fit:Fit",
        "predict": "molfeat_diffusion.cli.predict:Predict",
        "screen": "molfeat_diffusion.cli.predict:Screen",
        "train": "molfeat_diffusion.cli.train:Train",
        "sample": "molfeat_diffusion.cli.sample:Sample",
        "eval": "molfeat_diffusion.cli.eval:Eval",
        "export": "molfeat_diffusion.cli.export:Export",
        "import-midi": "molfeat_diffusion.cli.export:ImportMidi",
        "reproduce": "molfeat_diffusion.cli.reproduce:Reproduce",
        "presets": "molfeat_diffusion.cli.reproduce:Presets",
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    PROGRAM.run(argv)
