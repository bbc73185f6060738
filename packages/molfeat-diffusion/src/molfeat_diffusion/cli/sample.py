"""The verb `sample`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from molfeat_diffusion.cli.draw import Draw, write_metrics
from priors_shared.errors import UserError
from priors_shared.options import described, say

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Sample(Draw):
    """Draw molecules from a diffusion model, and measure how good they are."""

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.sdf")] = Path("molecules.sdf")
    """the molecules, valid or not; metrics go to FILE.json"""
    atoms: Annotated[int | None, described("INT", "(default: as the training data)")] = None
    """atoms of every molecule"""
    reference: Annotated[Path | None, described("FILE.sdf", "")] = None
    """training molecules: also measure novelty and distances of distributions"""

    def run(self) -> None:
        """Draw, and write molecules and metrics."""
        if not self.out.parent.is_dir():
            raise UserError(f"{self.out}: the folder {self.out.parent} does not exist")
        from molfeat_diffusion.sampling import read_reference, write_sdf

        model, record = self.load()
        reference = None if self.reference is None else read_reference(self.reference)
        molecules, result = self.drawn(model, record["digest"], reference, self.atoms)
        write_sdf(self.out, molecules)
        result["checkpoint"] = self.checkpoint
        write_metrics(self.out.with_name(f"{self.out.name}.json"), result)
        say(f"molecules       {self.out}")
