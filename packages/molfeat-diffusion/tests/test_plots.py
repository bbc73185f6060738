"""Pictures of molecules, invalid ones too."""

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rdkit import Chem
from rdkit.Chem import rdDepictor

from molfeat_diffusion import plots
from molfeat_diffusion.plots import save_molecules


def tangle() -> Chem.Mol:
    """A molecule as a poor model draws it, at which RDKit's drawing gives up."""
    rng = random.Random(4)
    mol = Chem.RWMol()
    for _ in range(8):
        mol.AddAtom(Chem.Atom(rng.choice((6, 6, 7, 8))))
    pairs = [(i, j) for i in range(8) for j in range(i)]
    kinds = [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE]
    for i, j in rng.sample(pairs, 20):
        mol.AddBond(i, j, rng.choice([*kinds, Chem.BondType.AROMATIC]))
    return mol.GetMol()


def test_a_molecule_that_cannot_be_drawn_costs_its_own_place_alone(tmp_path: Path) -> None:
    flat = tangle()
    flat.UpdatePropertyCache(strict=False)
    Chem.FastFindRings(flat)
    rdDepictor.Compute2DCoords(flat)
    with pytest.raises(RuntimeError, match="zero length"):
        plots._drawn_grid([flat], [""], columns=1, size=(220, 190), prepare=False)
    ethanol, acid = (Chem.MolFromSmiles(smiles) for smiles in ("CCO", "CC(=O)O"))
    save_molecules(tmp_path / "with.png", [ethanol, tangle(), acid], columns=3)
    save_molecules(tmp_path / "without.png", [ethanol, acid], columns=2)
    drawn, plain = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("with", "without"))
    assert drawn.shape[:2] == (190, 660)
    np.testing.assert_array_equal(drawn[:, :220], plain[:, :220])
    np.testing.assert_array_equal(drawn[:, 440:], plain[:, 220:])
    assert (drawn[:, 220:440] < 128).any()  # its place says why it is empty
