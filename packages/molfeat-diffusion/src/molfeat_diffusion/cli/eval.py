"""The verb `eval`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from molfeat_diffusion.cli.draw import Draw, write_metrics
from priors_shared.cli import DataRoot
from priors_shared.errors import UserError
from priors_shared.options import say

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, kw_only=True)
class Eval(Draw):
    """Measure how good a diffusion model's molecules are, and draw some of them."""

    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.json")] = Path("sampling.json")
    """metrics; FILE.png shows some of the molecules"""
    data: Annotated[tuple[str, ...], arg(metavar="[SOURCE ...]")] = ()
    """training molecules (as train --data): also measure novelty and distances of distributions"""
    data_root: DataRoot = None

    def run(self) -> None:
        """Draw, and write metrics and a picture."""
        if self.out.suffix != ".json" or not self.out.parent.is_dir():
            raise UserError(f"{self.out}: give a .json file in a folder that exists")
        from molfeat_diffusion.data.sets import load_mols
        from molfeat_diffusion.plots import save_molecules
        from priors_shared.datasets.base import resolve_data_root

        model, record = self.load()
        reference = None
        if self.data:
            root = resolve_data_root(self.data_root)
            reference = load_mols(self.data, model.vocabulary, root, quiet=self.quiet)
        molecules, result = self.drawn(model, record["digest"], reference, None)
        trained = record.get("trained", {})
        result |= {
            "checkpoint": Path(self.checkpoint).name,
            "trained_steps": trained.get("step", trained.get("steps", trained.get("updates"))),
            "reference": [Path(source).name for source in self.data],
        }
        write_metrics(self.out, result)
        picture = self.out.with_suffix(".png")
        save_molecules(picture, molecules[:24])
        say(f"picture         {picture}")
