"""The console script `hypernet-maml`. Torch is imported when a command needs it, never for help."""

from __future__ import annotations

from collections.abc import Sequence

from hypernet_maml import __version__
from priors_shared.cli import Program

PROGRAM = Program(
    "hypernet-maml",
    version=__version__,
    about="Convolutions whose weights a small hypernetwork generates, and MAML that adapts their embeddings.",
    verbs={
        "train": "hypernet_maml.cli.train:Train",
        "pretrain": "hypernet_maml.cli.train:Pretrain",
        "metatrain": "hypernet_maml.cli.metatrain:Metatrain",
        "domain": "hypernet_maml.cli.domain:TrainDomains",
        "eval": "hypernet_maml.cli.eval:Eval",
        "adapt": "hypernet_maml.cli.adapt:Adapt",
        "export": "hypernet_maml.cli.export:Export",
        "diagnose": "hypernet_maml.cli.diagnose:Diagnose",
        "tcr": "hypernet_maml.tcr.cli:Tcr",
        "reproduce": "hypernet_maml.cli.reproduce:Reproduce",
        "presets": "hypernet_maml.cli.reproduce:Presets",
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the console script; a user's error is one line on stderr and exit code 2."""
    PROGRAM.run(argv)
