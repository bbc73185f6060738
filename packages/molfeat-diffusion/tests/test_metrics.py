"""Metrics of samples against molecules counted by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rdkit import Chem

from molfeat_diffusion.evaluation import bond_orders, sampling_metrics, stable_atoms, valid_smiles

Conformer = Callable[[str], Chem.Mol]


def test_good_molecules_are_good(conformer: Conformer) -> None:
    """Aromatic nitrogen with a hydrogen, sulfur, oxygen and fused rings among them."""
    molecules = [conformer(s) for s in ("c1cc[nH]c1", "c1ccsc1", "c1ccoc1", "c1ccc2ccccc2c1")]
    molecules.append(conformer("C[N+](C)(C)C"))
    found = sampling_metrics(molecules, hydrogens=True, reference=molecules[:2])
    assert found["valid"] == found["unique"] == found["connected"] == 1
    assert found["atom_stable"] == found["molecule_stable"] == 1
    assert found["novel"] == pytest.approx(3 / 5)


def test_the_published_count_takes_an_aromatic_bond_for_one(conformer: Conformer) -> None:
    benzene = conformer("c1ccccc1")
    assert sorted(bond_orders(benzene, "midi")) == [1.0] * 12
    assert sorted(bond_orders(benzene, "fixed")) == [1.0] * 9 + [2.0] * 3
    # Carbon of 1 + 1 + 1: its table allows 3, ours does not need to.
    assert all(stable_atoms(benzene, hydrogens=True, variant="midi"))
    radical = Chem.AddHs(Chem.MolFromSmiles("[CH3]"))
    assert stable_atoms(radical, hydrogens=True, variant="midi")[0]
    assert not stable_atoms(radical, hydrogens=True, variant="fixed")[0]


def test_bad_molecules_are_counted(conformer: Conformer) -> None:
    crowded = Chem.RWMol(conformer("C"))
    crowded.AddAtom(Chem.Atom("F"))
    crowded.AddBond(0, 5, Chem.BondType.SINGLE)
    crowded.GetConformer().SetAtomPosition(5, (1.0, 1.0, 1.0))
    pair = conformer("CC.O")
    found = sampling_metrics([crowded.GetMol(), pair, conformer("CC")], hydrogens=True)
    assert found["valid"] == pytest.approx(2 / 3)
    assert found["connected"] == pytest.approx(2 / 3)
    assert found["molecule_stable"] == pytest.approx(2 / 3)
    assert found["atom_stable"] == pytest.approx((5 + 11 + 8) / (6 + 11 + 8))
    assert valid_smiles(pair, "fixed") == "CC.O"
    assert valid_smiles(pair, "midi") == "CC"


def test_without_hydrogens_an_atom_is_stable_up_to_its_valence() -> None:
    bare = Chem.MolFromSmiles("CC=O")
    assert stable_atoms(bare, hydrogens=False) == [True] * 3
    assert stable_atoms(bare, hydrogens=True) == [False, False, True]


def test_distances_are_zero_to_oneself_and_grow_with_the_bonds(conformer: Conformer) -> None:
    molecules = [conformer(s) for s in ("CCO", "CC=O")]
    same = sampling_metrics(molecules, hydrogens=True, reference=molecules)
    assert same["w1_valency"] == same["w1_bond_length"] == same["w1_bond_angle"] == 0
    longer = [Chem.Mol(mol) for mol in molecules]
    for mol in longer:
        for i, position in enumerate(mol.GetConformer().GetPositions()):
            mol.GetConformer().SetAtomPosition(i, (1.1 * position).tolist())
    stretched = sampling_metrics(longer, hydrogens=True, reference=molecules)
    assert 0.09 < stretched["w1_bond_length"] < 0.16  # a tenth of 1.1 to 1.5 angstrom
    assert stretched["w1_bond_angle"] == pytest.approx(0, abs=1e-3)


def test_the_molecules_are_left_as_they_were(conformer: Conformer) -> None:
    molecules = [conformer("c1ccccc1O"), conformer("CC.O")]
    before = [mol.ToBinary() for mol in molecules]
    for variant in ("fixed", "midi"):
        sampling_metrics(molecules, hydrogens=True, reference=molecules, variant=variant)
    assert [mol.ToBinary() for mol in molecules] == before
