"""The verbs of `hypernet-maml tcr`. Torch is imported when a verb needs it, never for help."""

from __future__ import annotations

from dataclasses import dataclass

from hypernet_maml import __version__
from priors_shared.cli import Program

PROGRAM = Program(
    "hypernet-maml tcr",
    version=__version__,
    about="T-cell receptors: a model of an epitope from a few of its binders, and a ranking of thousands by it.",
    verbs={
        "fit": "hypernet_maml.tcr.cli.fit:Fit",
        "score": "hypernet_maml.tcr.cli.score:Score",
        "eval": "hypernet_maml.tcr.cli.eval:Eval",
        "train": "hypernet_maml.tcr.cli.train:Train",
        "presets": "hypernet_maml.tcr.cli.train:Presets",
    },
)


@dataclass(frozen=True)
class Tcr:
    """T-cell receptors: fit, score, eval, train, presets."""

    args: tuple[str, ...]

    @classmethod
    def parse(cls, usage: str, args: list[str]) -> Tcr:
        """Parsed by the verb that they begin with."""
        return cls(tuple(args))

    def run(self) -> None:
        """Run that verb."""
        PROGRAM.dispatch(list(self.args))
