"""The verb `prepare`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from molfeat_diffusion.cli.options import Quiet
from molfeat_diffusion.config import VocabularyName
from priors_shared.cli import DataRoot
from priors_shared.errors import UserError
from priors_shared.options import described, say
from priors_shared.ranges import require


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Molecules with their structures, made once, to train on."""

    sources: Annotated[Positional[tuple[str, ...]], arg(metavar="SOURCE [SOURCE ...]")]
    """molecules as for train --data: qm9, .npz, .sdf, .smi or .csv"""
    out: Annotated[Path, arg(aliases=["-o"], metavar="FILE.npz")]
    """the molecules with their structures, for train --data; FILE.json says what was left out and why"""
    vocabulary: VocabularyName = "geom_no_h"
    """elements and charges: qm9, qm9_no_h, geom or geom_no_h"""
    exclude: Annotated[tuple[str, ...], arg(metavar="[FILE ...]")] = ()
    """files of molecules that must not be among them, however charged or of whatever stereochemistry"""
    kekulize: bool = False
    """aromatic bonds as single and double ones, for models trained so"""
    max_atoms: int = 100
    """larger molecules are left out (atoms as the vocabulary counts them)"""
    max_molecules: Annotated[int | None, described("INT", "(default: all)")] = None
    """as many, drawn by the seed before conformers are made"""
    seed: int = 0
    """of that and of conformers"""
    jobs: int = 1
    """processes"""
    data_root: DataRoot = None
    quiet: Quiet = False

    def __post_init__(self) -> None:
        require(self, 1, "max_atoms", "max_molecules", "jobs")
        require(self, 0, "seed")

    def run(self) -> None:
        """Read, exclude, embed; write the molecules and the account of what was left out."""
        if self.out.suffix != ".npz" or not self.out.parent.is_dir():
            raise UserError(f"{self.out}: give a .npz file in a folder that exists")

        from molfeat_diffusion.data.exclusion import connectivities
        from molfeat_diffusion.data.molecules import VOCABULARIES
        from molfeat_diffusion.data.sets import load_molecules
        from priors_shared.datasets.base import resolve_data_root
        from priors_shared.files import write_atomically

        shared: dict[str, Any] = {"data_root": resolve_data_root(self.data_root), "jobs": self.jobs}
        exclude = connectivities(
            self.exclude,
            # A larger one cannot be among them.
            max_heavy_atoms=self.max_atoms,
            **shared,
            quiet=self.quiet,
        )
        molecules, left_out = load_molecules(
            self.sources,
            VOCABULARIES[self.vocabulary],
            max_atoms=self.max_atoms,
            max_molecules=self.max_molecules,
            seed=self.seed,
            exclude=exclude,
            kekulize=self.kekulize,
            **shared,
            quiet=self.quiet,
        )
        molecules.save(self.out)
        record = {
            "molecules": len(molecules),
            "left_out": dict(left_out.most_common()),
            "excluded_connectivities": len(exclude),
            "config": asdict(self) | {"out": self.out.name},
        }
        path = self.out.with_suffix(".json")
        write_atomically(path, json.dumps(record, indent=2) + "\n")
        say(f"molecules  {self.out}: {len(molecules)}")
        say(f"left out   {path}: {sum(left_out.values())}")
