"""Molecules out of a model, into an SDF file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rdkit import Chem, rdBase

from molfeat_diffusion.data.molecules import has_structure, mols_from_dense
from molfeat_diffusion.data.sources import read_sdf
from molfeat_diffusion.models.diffusion import MiDi
from priors_shared.console import Progress
from priors_shared.episodes import generator_for
from priors_shared.errors import UserError


def sample_molecules(
    model: MiDi,
    count: int,
    *,
    steps: int | None = None,
    temperature: float = 1.0,
    atoms: int | None = None,
    batch: int = 50,
    seed: int = 0,
    quiet: bool = False,
) -> list[Chem.Mol]:
    """Molecules, not sanitized; their sizes are the training data's, or all `atoms`.

    Raises:
        UserError: the model knows no marginals or, without `atoms`, no sizes.
    """
    generator = generator_for(seed, 0)
    sizes = model.draw_sizes(count, generator) if atoms is None else torch.full((count,), atoms)
    each = model.check_sampling(steps)
    # Molecules of much the same size together: little is padded.
    sizes, order = sizes.sort()
    found: list[Chem.Mol] = []
    total = each * len(range(0, count, batch))
    with Progress(total, "sample", quiet=quiet) as progress:
        for number, some in enumerate(sizes.split(batch)):
            dense = model.sample(
                some,
                generator_for(seed, 1, number),
                steps=steps,
                temperature=temperature,
                each=progress.advance,
            )
            found += mols_from_dense(dense, model.vocabulary)
    return [found[i] for i in order.argsort().tolist()]


def write_sdf(path: Path, molecules: Sequence[Chem.Mol]) -> None:
    """Write molecules as they are, atomically: aromatic bonds as such, invalid ones included."""
    pending = path.with_name(f"{path.name}.next")
    with rdBase.BlockLogs(), Chem.SDWriter(str(pending)) as writer:
        writer.SetKekulize(False)
        for index, mol in enumerate(molecules):
            named = Chem.Mol(mol)
            named.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(named)
            named.SetProp("_Name", f"sample-{index}")
            writer.write(named)
    pending.replace(path)


def read_reference(path: Path) -> list[Chem.Mol]:
    """The readable molecules with a structure of an .sdf file.

    Raises:
        UserError: no such file, or no such molecule in it.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    found = [mol for mol in read_sdf(path) if mol is not None and has_structure(mol)]
    if not found:
        raise UserError(f"{path}: no molecule with a 3D structure in it")
    return found
