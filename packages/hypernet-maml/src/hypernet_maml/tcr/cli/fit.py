"""The verb `fit`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from priors_shared.options import described, note, say


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Make a model of an epitope from a table of its binders, in seconds."""

    table: Annotated[Positional[Path], arg(metavar="LABELLED")]
    """binders, and non-binders where it has a column label (1 or 0): AIRR, 10x, VDJdb, IEDB or plain columns"""
    out: Annotated[Path, arg(metavar="DIR", aliases=["-o"])]
    """folder for the model"""
    epitope: Annotated[str | None, described("SEQUENCE", "(default: the table's only one)")] = None
    """whose binders, where the table has a column epitope"""
    weights: Annotated[str, arg(metavar="CHECKPOINT")]
    """hypernetwork: run folder of `tcr train`, checkpoint folder, or Hugging Face Hub id"""

    def run(self) -> None:
        """Write the model; say what was used and what was not."""
        from hypernet_maml.tcr.pretrained import TcrHypernetwork
        from hypernet_maml.tcr.repertoire import read_labelled, write_failures
        from priors_shared.files import fresh_folder

        hypernetwork = TcrHypernetwork.from_pretrained(self.weights)
        labelled = read_labelled(self.table, self.epitope)
        model = hypernetwork.fit(labelled.binders, labelled.non_binders, epitope=labelled.epitope)
        with fresh_folder(self.out):
            model.save(self.out)
            write_failures(self.out / "failures.tsv", labelled.failures)
        for row, reason in labelled.failures[:5]:
            note(f"row {row} is not used: {reason}")
        used = f"{len(labelled.binders)} of {labelled.epitope or 'the epitope'}"
        say(f"binders   {used}, {len(labelled.non_binders)} others")
        say(f"not used  {len(labelled.failures)} rows ({self.out / 'failures.tsv'})")
        say(f"model     {self.out}")
