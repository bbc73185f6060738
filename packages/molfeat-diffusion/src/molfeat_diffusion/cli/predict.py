"""The verbs `predict` and `screen`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from molfeat_diffusion.cli.options import Cache, IdColumn, Molecules, Quiet, SmilesColumn
from priors_shared.cli import Threads
from priors_shared.options import described, say
from priors_shared.ranges import require

if TYPE_CHECKING:
    from molfeat_diffusion.prediction.predictor import Predictor


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Scores of every molecule of a file; a row that fails has none, and is listed."""

    model: Annotated[Positional[Path], arg(metavar="DIR")]
    """predictor, as `fit` wrote it"""
    source: Molecules
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
    """.csv or .parquet; failed rows are listed in FILE.failures.csv"""
    smiles_column: SmilesColumn = None
    id_column: IdColumn = None
    checkpoint: Annotated[
        str | None, described("DIR", "(default: shipped weights, by its record)")
    ] = None
    """the diffusion model of its midi features, where it was fitted on one of your own"""
    language: Annotated[
        str | None, described("DIR", "(default: shipped weights, by its record)")
    ] = None
    """the language model of its smiles features, where it was fitted on one of your own"""
    cache: Cache = None
    threads: Threads = None
    quiet: Quiet = False

    def load(self) -> Predictor:
        """The predictor, on the models that its features need."""
        from molfeat_diffusion.prediction.predictor import Predictor
        from priors_shared.devices import set_threads

        set_threads(self.threads)
        cache = None if self.cache is None else str(self.cache)
        return Predictor.load(
            self.model, checkpoint=self.checkpoint, language=self.language, cache=cache
        )

    @property
    def reading(self) -> dict[str, Any]:
        """How the file is read, and whether progress shows."""
        names = ("smiles_column", "id_column", "quiet")
        return {name: getattr(self, name) for name in names}

    def run(self) -> None:
        """Predict, and say how many rows have a score."""
        from molfeat_diffusion.prediction.library import predict_file

        rows, failed = predict_file(self.load(), self.source, self.out, **self.reading)
        say(f"scores    {self.out}: {rows - failed} of {rows} rows")
        say(f"failures  {self.out}.failures.csv")


@dataclass(frozen=True, kw_only=True)
class Screen(Predict):
    """Pick molecules from a library by a predictor's scores."""

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.csv")]
    """picks; beside it FILE.png with their pictures, FILE.csv.json with their diversity, and failed rows"""
    top: int = 50
    """picks"""
    diverse: bool = False
    """of ten times as many best molecules, those that differ most (MaxMin); else the best"""

    def __post_init__(self) -> None:
        require(self, 1, "top")

    def run(self) -> None:
        """Pick, and say how good and how diverse the picks are."""
        from molfeat_diffusion.prediction.library import screen_file

        found = screen_file(
            self.load(),
            self.source,
            self.out,
            top=self.top,
            diverse=self.diverse,
            **self.reading,
        )
        for name in ("picks", "best"):
            of = found[name]
            say(
                f"{name:<9} {of['molecules']:.0f} molecules, {of['scaffolds']:.0f} scaffolds, mean Tanimoto "
                f"distance {of['mean_tanimoto_distance']:.3f}, mean score {found['mean_score'][name]:.3f}"
            )
        say(f"written   {self.out}, {self.out.with_suffix('.png')}, {self.out}.json")
        say(f"failures  {self.out}.failures.csv: {found['failed']} of {found['rows']} rows failed")
