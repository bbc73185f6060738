"""The verb `score`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from priors_shared.cli import Count, Threads
from priors_shared.options import say


@dataclass(frozen=True, kw_only=True)
class Score:
    """Rank a repertoire by a model of `fit`: any number of rows, in their order."""

    model: Annotated[Positional[Path], arg(metavar="MODEL")]
    """folder of `fit`"""
    table: Annotated[Positional[Path], arg(metavar="REPERTOIRE")]
    """receptors: AIRR, 10x, VDJdb, IEDB or plain columns"""
    out: Annotated[Path, arg(metavar="FILE.tsv", aliases=["-o"])] = Path("scores.tsv")
    """a line for each receptor; rows that failed are in FILE.failures.tsv too, with the reason"""
    confidence: float = 0.9
    """of the verdicts binder, other, cannot say, unlike both"""
    batch_size: Count = 2000
    """rows at a time; does not change the scores"""
    threads: Threads = None

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {self.confidence}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")

    def run(self) -> None:
        """Write the scores and say how many rows have which verdict."""
        from hypernet_maml.tcr.pretrained import EpitopeModel
        from hypernet_maml.tcr.repertoire import failures_file, score_table
        from priors_shared.devices import set_threads

        set_threads(self.threads)
        model = EpitopeModel.load(self.model)
        counts = score_table(
            model, self.table, self.out, confidence=self.confidence, batch_size=self.batch_size
        )
        listed = ", ".join(f"{n} {verdict}" for verdict, n in sorted(counts.verdicts.items()))
        say(f"rows      {counts.rows}: {listed}")
        say(f"scores    {self.out}")
        say(f"failures  {failures_file(self.out)}")
